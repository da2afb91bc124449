"""What the loss looks like around a point: directions, and slices along them."""

from flatminima.landscape.directions import between, filter_normalized, random
from flatminima.landscape.slices import Slice1D, Slice2D, slice_1d, slice_2d

__all__ = [
    "Slice1D",
    "Slice2D",
    "between",
    "filter_normalized",
    "random",
    "slice_1d",
    "slice_2d",
]
