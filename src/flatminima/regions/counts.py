"""The share of the coordinates in each region, of all parameters together or of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.regions.kinds import Region, both, region, rows
from flatminima.vector import Vector

__all__ = ["Shares", "shares", "shares_by_part"]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The share of the coordinates in each region; the four sum to 1.

    `both_zero` is the share with g = p = 0 (dead units, mostly), which sits inside `gentler`.
    """

    steeper: float
    gentler: float
    reversed_steeper: float
    reversed_gentler: float
    both_zero: float
    coordinates: int

    def __getitem__(self, which: Region) -> float:
        return getattr(self, which.name.lower())


def shares(g: Vector | Tensor, p: Vector | Tensor) -> Shares:
    """The share of the coordinates in each region.

    Args:
        g: The current gradient.
        p: The perturbed gradient, shaped like it. Parameters without a gradient in either are left
            out; without one in just one of the two they count as zero there.

    Returns:
        The four shares, which sum to 1, the share where both are zero, and the number of
        coordinates.

    Raises:
        ValueError: If there is no coordinate, or a gradient is not finite.

    Source: lhchau/geometry-sam (2024).
    Cost: eight passes over the coordinates and one synchronisation with the device.

    Example:
        >>> seen = shares(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([2.0, 3.0, -0.5, 0.0]))
        >>> seen.steeper, seen[Region.REVERSED_GENTLER], seen.both_zero
        (0.5, 0.25, 0.25)
    """
    return _shares([sum(column) for column in zip(*rows(g, p, _row), strict=True)])


def shares_by_part(g: Vector, p: Vector) -> list[Shares | None]:
    """The shares of each parameter by itself, for they differ between layers.

    Args:
        g: The current gradient.
        p: The perturbed gradient, shaped like it.

    Returns:
        The shares of every parameter in turn; `None` for one without a gradient.

    Cost: as `shares`.

    Example:
        >>> g = Vector([torch.ones(2), None, torch.ones(1)])
        >>> [part and part.steeper for part in shares_by_part(g, g + g.only([True, True, False]))]
        [1.0, None, 0.0]
    """
    present = [part is not None and part.numel() > 0 for part in both(g, p)[0].parts]
    counted = iter(row for row in rows(g, p, _row) if sum(row[:4]))
    return [_shares(next(counted)) if there else None for there in present]


def _shares(counts: Sequence[float]) -> Shares:
    """Shares of five counts: the four regions, and the coordinates with g = p = 0."""
    total = int(sum(counts[:4]))
    names = ("steeper", "gentler", "reversed_steeper", "reversed_gentler", "both_zero")
    parts = dict(zip(names, (count / total for count in counts), strict=True))
    return Shares(**parts, coordinates=total)


def _row(g: Tensor, p: Tensor) -> Tensor:
    """How many coordinates are in regions 1 to 4, and how many are zero in both gradients."""
    counts = torch.bincount(region(g, p).reshape(-1).int(), minlength=5)[1:]
    return torch.cat([counts, ((g == 0) & (p == 0)).sum().reshape(1)])
