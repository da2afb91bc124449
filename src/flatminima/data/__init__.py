"""What the studies train on: images with labels, some of them wrong on purpose.

Small sets are held whole in memory as bytes; large ones stay files.
"""

from flatminima.data.augment import Augment
from flatminima.data.batches import batches
from flatminima.data.cifar import Cifar10, Cifar100
from flatminima.data.digits import Digits
from flatminima.data.folder import ImageFolder
from flatminima.data.images import Images
from flatminima.data.mnist import FashionMnist, Mnist
from flatminima.data.npz import Npz
from flatminima.data.parts import Part, Parts
from flatminima.data.photos import Photos
from flatminima.data.svhn import Svhn

__all__ = [
    "Augment",
    "Cifar10",
    "Cifar100",
    "Data",
    "Digits",
    "FashionMnist",
    "ImageFolder",
    "Images",
    "Mnist",
    "Npz",
    "Part",
    "Parts",
    "Photos",
    "Svhn",
    "batches",
]

Data = Cifar10 | Cifar100 | Digits | FashionMnist | ImageFolder | Mnist | Npz | Svhn
