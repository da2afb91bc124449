"""What the loss looks like around a point, and on surfaces that can be seen whole."""

from flatminima.landscape import stability, surfaces
from flatminima.landscape.basin import Basins, Minima, Share, basins, minima, wilson
from flatminima.landscape.descent import Descents, descents, tilts
from flatminima.landscape.directions import between, filter_normalized, random
from flatminima.landscape.slices import Slice1D, Slice2D, slice_1d, slice_2d

__all__ = [
    "Basins",
    "Descents",
    "Minima",
    "Share",
    "Slice1D",
    "Slice2D",
    "basins",
    "between",
    "descents",
    "filter_normalized",
    "minima",
    "random",
    "slice_1d",
    "slice_2d",
    "stability",
    "surfaces",
    "tilts",
    "wilson",
]
