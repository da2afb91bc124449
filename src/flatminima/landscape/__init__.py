"""What the loss looks like around a point, on the way there, and on surfaces seen whole."""

from flatminima.landscape import stability, surfaces
from flatminima.landscape.basin import Basins, Minima, Share, basins, minima, wilson
from flatminima.landscape.descent import Descents, descents, tilts
from flatminima.landscape.directions import (
    as_large_as,
    between,
    filter_normalized,
    orthogonal,
    random,
)
from flatminima.landscape.export import load, save
from flatminima.landscape.filters import Filters, filters_of
from flatminima.landscape.interpolation import Interpolation, interpolation
from flatminima.landscape.slices import Slice1D, Slice2D, merged, slice_1d, slice_2d
from flatminima.landscape.trajectory import Path2D, Principal, Trajectory, principal, projected

__all__ = [
    "Basins",
    "Descents",
    "Filters",
    "Interpolation",
    "Minima",
    "Path2D",
    "Principal",
    "Share",
    "Slice1D",
    "Slice2D",
    "Trajectory",
    "as_large_as",
    "basins",
    "between",
    "descents",
    "filter_normalized",
    "filters_of",
    "interpolation",
    "load",
    "merged",
    "minima",
    "orthogonal",
    "principal",
    "projected",
    "random",
    "save",
    "slice_1d",
    "slice_2d",
    "stability",
    "surfaces",
    "tilts",
    "wilson",
]
