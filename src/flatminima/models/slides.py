"""The two networks of the seminar slides on SAM: fully connected on MNIST, convolutional on CIFAR.

The slides name the kinds and give no sizes; these are usual ones.
"""

from flatminima.models.mlp import MLP
from flatminima.models.small_conv import SmallConv

__all__ = ["CIFAR_NET", "MNIST_NET"]

MNIST_NET = MLP(hidden=(512, 512))
CIFAR_NET = SmallConv(width=64)
