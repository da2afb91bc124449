"""How much the slope changed: the ratio of the two gradients, in bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor

from flatminima.regions.kinds import rows
from flatminima.vector import Vector

__all__ = ["PUBLISHED_EDGES", "RatioBins", "ratio_bins"]

PUBLISHED_EDGES = (1.0, 1.2, 1.5, 2.0, 4.0, 8.0, 16.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class RatioBins:
    """The share of all coordinates in each bin of the ratio.

    Two forms, because published figures mix them: `disjoint[i]` has edges[i] < r <= edges[i + 1],
    `cumulative[i]` has edges[0] < r <= edges[i + 1]. `outside` is the share in no bin, those with
    g = p = 0 among them, which have no ratio.
    """

    edges: tuple[float, ...]  # (n + 1,)
    disjoint: tuple[float, ...]  # (n,)
    outside: float
    of: Literal["ratio", "size"]
    coordinates: int

    @property
    def cumulative(self) -> tuple[float, ...]:
        """The share from the first edge to the end of each bin."""
        return tuple(accumulate(self.disjoint))


def ratio_bins(
    g: Vector | Tensor,
    p: Vector | Tensor,
    edges: Sequence[float] = PUBLISHED_EDGES,
    *,
    of: Literal["ratio", "size"] = "ratio",
) -> RatioBins:
    """The histogram of r = p / g, as shares of all coordinates.

        bin i:  edges[i] < r <= edges[i + 1]

    Nothing is divided: r > t where p sign(g) > t |g|, and where g = 0 != p the ratio is infinite.

    Args:
        g: The current gradient.
        p: The perturbed gradient, shaped like it.
        edges: Where bins begin and end, in ascending order; they may be negative or infinite. The
            default divides `STEEPER` as the published figures do.
        of: `ratio` takes r with its sign, `size` takes |r|.

    Returns:
        The share of each bin, disjoint and cumulative, and the share outside of all.

    Raises:
        ValueError: If there are fewer than two edges or they do not ascend.

    Source: lhchau/geometry-sam (2024), project 2: its text reads as cumulative, its figure shows
        disjoint bins.
    Cost: two passes over the coordinates for each edge, and one synchronisation with the device.

    Example:
        >>> bins = ratio_bins(torch.ones(4), torch.tensor([1.1, 3.0, 100.0, -1.0]), (1, 2, 4, 8))
        >>> bins.disjoint, bins.cumulative, bins.outside
        ((0.25, 0.25, 0.0), (0.25, 0.5, 0.5), 0.5)
    """
    edges = tuple(float(edge) for edge in edges)
    if len(edges) < 2 or not all(low < high for low, high in pairwise(edges)):
        raise ValueError(
            f"edges must be at least two numbers in ascending order, got {edges}; "
            "for example (1, 2, 4, inf)"
        )

    def row(g: Tensor, p: Tensor) -> Tensor:
        g, p = g.double().flatten(), p.double().flatten()
        there = (g != 0) | (p != 0)
        aligned = p.abs() if of == "size" else torch.where(g == 0, p.abs(), p * g.sign())
        size, aligned = g.abs()[there], aligned[there]
        above = [_above(size, aligned, edge) for edge in edges]
        return torch.stack([*above, torch.full_like(above[0], g.numel())])

    *above, total = (sum(column) for column in zip(*rows(g, p, row), strict=True))
    disjoint = tuple((low - high) / total for low, high in pairwise(above))
    return RatioBins(
        edges=edges,
        disjoint=disjoint,
        outside=1.0 - sum(disjoint),
        of=of,
        coordinates=int(total),
    )


def _above(size: Tensor, aligned: Tensor, edge: float) -> Tensor:
    """How many coordinates, of which g or p is not 0, have a ratio above an edge."""
    if edge == math.inf:  # the last bin holds the infinite ratios
        return torch.zeros((), dtype=torch.int64, device=size.device)
    if edge == -math.inf:
        return torch.full((), size.numel(), dtype=torch.int64, device=size.device)
    return torch.count_nonzero(aligned > edge * size)
