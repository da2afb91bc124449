"""What the studies train on: small sets of images, held whole in memory as tensors."""

from flatminima.data.digits import Digits
from flatminima.data.mnist import Mnist
from flatminima.data.parts import Part, Parts

__all__ = ["Digits", "Mnist", "Part", "Parts"]
