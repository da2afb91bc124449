"""How large the two gradients are in each region, and whether a region holds the largest slopes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.regions.kinds import Region, region, rows
from flatminima.vector import Vector

__all__ = ["LargeShare", "Norms", "large_share", "norms"]


@dataclass(frozen=True, kw_only=True)
class Norms:
    """The 2-norms of both gradients on each region; their squares sum to those of the whole."""

    g: Mapping[Region, float]
    p: Mapping[Region, float]

    @property
    def whole(self) -> tuple[float, float]:
        """The norms of g and of p over all coordinates."""
        return math.hypot(*self.g.values()), math.hypot(*self.p.values())


def norms(g: Vector | Tensor, p: Vector | Tensor) -> Norms:
    """The norms of both gradients on each region.

        ||g on A||,  ||p on A||     for each of the four regions A

    Args:
        g: The current gradient.
        p: The perturbed gradient, shaped like it.

    Returns:
        The norms by region, accumulated in float32 at least.

    Source: lhchau/sam-hessian, class "SAMEXPLORE".
    Cost: twelve passes over the coordinates and one synchronisation with the device.

    Example:
        >>> seen = norms(torch.tensor([3.0, 1.0]), torch.tensor([4.0, -1.0]))
        >>> seen.g[Region.STEEPER], seen.p[Region.STEEPER], seen.g[Region.REVERSED_GENTLER]
        (3.0, 4.0, 1.0)
    """

    def row(g: Tensor, p: Tensor) -> Tensor:
        here = region(g, p)
        return torch.stack([_norm(part, here == name) for part in (g, p) for name in Region])

    squares = [math.hypot(*column) for column in zip(*rows(g, p, row), strict=True)]
    return Norms(
        g=dict(zip(Region, squares[:4], strict=True)), p=dict(zip(Region, squares[4:], strict=True))
    )


def _norm(part: Tensor, here: Tensor) -> Tensor:
    dtype = torch.float64 if part.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(torch.where(here, part, 0), dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class LargeShare:
    """How many of a set's coordinates are among the largest of a gradient."""

    share: float  # |A and top k| / k, with k = |A|; nan if the set is empty
    chance: float  # k / N: a random set of that size
    phi: float  # (share - chance) / (1 - chance): 0 is chance, 1 if the set is the top k
    threshold: float  # the k-th largest |gradient|
    coordinates: int


def large_share(gradient: Vector | Tensor, chosen: Vector) -> LargeShare:
    """The share of a set that is among the largest slopes, as many as the set has coordinates.

        |A and top_k(|gradient|)| / k,   k = |A|;   chance k / N

    The literature calls it the "flat percentage"; large slopes are what it counts. Where several
    coordinates are as large as the k-th, each counts with the chance to be drawn among them.

    Args:
        gradient: The gradient whose largest coordinates are meant: g or p, of a batch or of a data
            set. Published figures do not say which.
        chosen: The set A, as `mask` makes it.

    Returns:
        The share beside its chance level.

    Raises:
        ValueError: If there is no coordinate, or one is not finite.

    Source: lhchau/geometry-sam (2024), project 1, which gives no chance level.
    Cost: a copy of the gradient, and the selection of its k-th largest coordinate.

    Example:
        >>> every_other = Vector([torch.arange(4) % 2 == 0])
        >>> seen = large_share(torch.tensor([4.0, 3.0, 2.0, 1.0]), every_other)
        >>> seen.share, seen.chance, seen.threshold
        (0.5, 0.5, 3.0)
    """
    vector = Vector([gradient]) if isinstance(gradient, Tensor) else gradient
    pairs = zip(vector.parts, chosen.parts, strict=True)
    there = [(a.abs().flatten(), b.flatten()) for a, b in pairs if a is not None and b is not None]
    if not any(size.numel() for size, _ in there):
        raise ValueError("gradient must have a coordinate in the set's parameters, got none")
    sizes, inside = (torch.cat(parts) for parts in zip(*there, strict=True))
    if not bool(sizes.isfinite().all()):
        raise ValueError("gradient must be finite, got coordinates that are not")
    total, k = sizes.numel(), int(inside.sum())
    if k == 0:
        return LargeShare(
            share=math.nan, chance=0.0, phi=math.nan, threshold=math.nan, coordinates=total
        )
    threshold = sizes.kthvalue(total - k + 1).values
    above, level = sizes > threshold, sizes == threshold
    drawn = (k - int(above.sum())) / int(level.sum())
    share = (int((above & inside).sum()) + drawn * int((level & inside).sum())) / k
    chance = k / total
    return LargeShare(
        share=share,
        chance=chance,
        phi=(share - chance) / (1 - chance) if k < total else math.nan,
        threshold=float(threshold),
        coordinates=total,
    )
