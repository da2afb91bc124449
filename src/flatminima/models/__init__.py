"""What the studies train: networks for images, each with its settings beside it."""

from flatminima.models.architecture import Architecture, parameters
from flatminima.models.library import Timm, Torchvision
from flatminima.models.mlp import MLP, mlp
from flatminima.models.patches import Mixer, ViT
from flatminima.models.pyramid import PyramidNet
from flatminima.models.resnet import CifarResNet
from flatminima.models.shake_shake import ShakeShake
from flatminima.models.slides import CIFAR_NET, MNIST_NET
from flatminima.models.small_conv import SmallConv, small_conv
from flatminima.models.wide_resnet import WideResNet

__all__ = [
    "CIFAR_NET",
    "MLP",
    "MNIST_NET",
    "Architecture",
    "CifarResNet",
    "Mixer",
    "PyramidNet",
    "ShakeShake",
    "SmallConv",
    "Timm",
    "Torchvision",
    "ViT",
    "WideResNet",
    "mlp",
    "parameters",
    "small_conv",
]
