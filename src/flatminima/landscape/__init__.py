"""What the loss looks like around a point: directions, slices along them, and the way there."""

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
    "Filters",
    "Interpolation",
    "Path2D",
    "Principal",
    "Slice1D",
    "Slice2D",
    "Trajectory",
    "as_large_as",
    "between",
    "filter_normalized",
    "filters_of",
    "interpolation",
    "load",
    "merged",
    "orthogonal",
    "principal",
    "projected",
    "random",
    "save",
    "slice_1d",
    "slice_2d",
]
