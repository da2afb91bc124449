"""How the slope changed uphill, coordinate by coordinate, in sign and in size.

With r = p / g, the perturbed gradient over the current one, every finite coordinate is in exactly
one of four regions. Two bits decide, and nothing is divided:

    reversed = the signs of g and p are opposite        steeper = |p| > |g|

so that r = 1, r = 0 and r = -1 have a place, and neither an epsilon nor an underflowing product
moves a coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from flatminima.vector import Vector

__all__ = ["LegacyShares", "Region", "Shares", "legacy_shares", "region", "shares"]


class Region(IntEnum):
    """What became of the slope in one coordinate; r is the perturbed gradient over the current one.

    The number is the one under which the earlier literature knows the region ("checkpoint 1" to
    "checkpoint 4").

    Example:
        >>> Region.STEEPER
        <Region.STEEPER: 1>
    """

    STEEPER = 1  # r > 1
    GENTLER = 2  # 0 <= r <= 1
    REVERSED_STEEPER = 3  # r < -1
    REVERSED_GENTLER = 4  # -1 <= r < 0


def region(g: Tensor, p: Tensor) -> Tensor:
    """The region of every coordinate.

        1 if |p| > |g|, 2 if not;  2 more if the signs are opposite

    Args:
        g: The current gradient, of any shape.
        p: The perturbed gradient, of the same shape and the same loss scale.

    Returns:
        The `Region` numbers, uint8, of the same shape. A coordinate where g = p = 0 is `GENTLER`;
        one that is not finite is classified by the same comparisons and means nothing.

    Source: lhchau/geometry-sam (2024), with the edges decided: g = 0 != p is `STEEPER`, p = -g is
        `REVERSED_GENTLER`.
    Cost: five passes over the coordinates.

    Example:
        >>> g, p = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([2.0, 0.5, -2.0, -0.5])
        >>> region(g, p)
        tensor([1, 2, 3, 4], dtype=torch.uint8)
    """
    reverse = (g.sign() * p.sign()) < 0
    return (2 - (p.abs() > g.abs()).to(torch.uint8)) + 2 * reverse.to(torch.uint8)


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
    counts = _counts(*_pair(g, p))
    total = sum(counts[1:5])
    steeper, gentler, reversed_steeper, reversed_gentler, both_zero = (
        count / total for count in counts[1:]
    )
    return Shares(
        steeper=steeper,
        gentler=gentler,
        reversed_steeper=reversed_steeper,
        reversed_gentler=reversed_gentler,
        both_zero=both_zero,
        coordinates=total,
    )


def where(
    g: Vector, p: Vector, chosen: Collection[Region], inside: Vector, outside: Vector
) -> Vector:
    """`inside` on the coordinates whose region is chosen, `outside` on the others.

    It selects and does not blend, so that a value that is not taken, infinite say, leaves no trace.

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        chosen: The regions that take `inside`.
        inside: What they take, shaped like `g`.
        outside: What the others take, shaped like `g`.

    Returns:
        The selection, shaped like `g`.

    Example:
        >>> g, p = Vector([torch.tensor([1.0, 1.0])]), Vector([torch.tensor([2.0, 0.5])])
        >>> where(g, p, {Region.STEEPER}, p, g).parts[0]
        tensor([2., 1.])
    """

    def select(g: Tensor, p: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
        return _by_region(g, p, *(inside if name in chosen else outside for name in Region))

    return g.map(select, p, inside, outside)


def factors(g: Vector, p: Vector, factor: Mapping[Region, float]) -> Vector:
    """One factor per coordinate, by its region; 1 where the region is not named.

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        factor: The factor of each region.

    Returns:
        The factors, shaped like `g`.

    Example:
        >>> g, p = Vector([torch.tensor([1.0, 1.0])]), Vector([torch.tensor([2.0, 0.5])])
        >>> factors(g, p, {Region.GENTLER: 0.1}).parts[0]
        tensor([1.0000, 0.1000])
    """

    def look_up(g: Tensor, p: Tensor) -> Tensor:
        values = [
            torch.full((), factor.get(name, 1.0), dtype=g.dtype, device=g.device) for name in Region
        ]
        return _by_region(g, p, *values)

    return g.map(look_up, p)


# ----------------------------------------------------------------- the published counts, reproduced


@dataclass(frozen=True, kw_only=True)
class LegacyShares:
    """The four classes as published, and the share that belongs to none of them.

    The five sum to 1.
    """

    checkpoint1: float
    checkpoint2: float
    checkpoint3: float
    checkpoint4: float
    unclassified: float


def legacy_shares(g: Vector | Tensor, p: Vector | Tensor) -> LegacyShares:
    """The shares as the published code counts them, faults included.

        r = p / (g + 1e-8);  r > 1,  0 < r < 1,  r < 0 and |r| > 1,  r < 0 and |r| < 1

    They are for comparison with published figures; use `shares` for anything else. The epsilon sits
    on the signed denominator: between -1e-8 and 0 the sign of r flips, and r in {-1, 0, 1} or NaN
    belongs to no class.

    Args:
        g: The current gradient.
        p: The perturbed gradient, shaped like it.

    Returns:
        The shares of the four classes and of the rest.

    Source: lhchau/sam-hessian, commit 0c4c993.
    Cost: ten passes over the coordinates and one synchronisation with the device.

    Example:
        >>> legacy_shares(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0]))
        LegacyShares(checkpoint1=0.5, checkpoint2=0.0, checkpoint3=0.0, checkpoint4=0.0,
        unclassified=0.5)
    """
    g, p = _pair(g, p)
    masks = [legacy_masks(a, b) for a, b in zip(g.tensors, p.tensors, strict=True)]
    counts = (
        torch.stack([torch.stack([mask.sum() for mask in row]) for row in masks]).sum(0).tolist()
    )
    total = sum(part.numel() for part in g.tensors)
    one, two, three, four = (count / total for count in counts)
    return LegacyShares(
        checkpoint1=one,
        checkpoint2=two,
        checkpoint3=three,
        checkpoint4=four,
        unclassified=(total - sum(counts)) / total,
    )


def legacy_mask(g: Tensor, p: Tensor, chosen: Collection[Region]) -> Tensor:
    """Where the published hybrid of these regions takes `p`, boundary cases included.

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        chosen: The regions that take the perturbed gradient.

    Returns:
        The mask.

    Raises:
        ValueError: If no class was published for this set of regions.

    Source: lhchau/sam-hessian, commit 0c4c993; the set {2, 3} is what its class "SAMCKPT14"
        computes.

    Example:
        >>> legacy_mask(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.5]), {Region.STEEPER})
        tensor([ True, False])
    """
    check_published(chosen)
    return _PUBLISHED[_digits(chosen)](p / (g + 1e-8))


def check_published(chosen: Collection[Region]) -> None:
    """Refuse a set of regions for which no class was published.

    Args:
        chosen: The set.

    Raises:
        ValueError: If there is none.
    """
    if _digits(chosen) not in _PUBLISHED:
        known = ", ".join(digits or "none" for digits in _PUBLISHED)
        raise ValueError(
            f"chosen must be a published set of regions ({known}), got {_digits(chosen)}; "
            "use hybrid instead"
        )


def _digits(chosen: Collection[Region]) -> str:
    return "".join(str(int(name)) for name in sorted(chosen))


_PUBLISHED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "": lambda r: torch.zeros_like(r, dtype=torch.bool),
    "1": lambda r: r > 1,
    "2": lambda r: (r > 0) & (r < 1),
    "3": lambda r: (r < 0) & (r.abs() > 1),
    "4": lambda r: (r < 0) & (r.abs() < 1),
    "12": lambda r: r > 0,
    "13": lambda r: ~(r.abs() < 1),
    "23": lambda r: ~((r > 1) | ((r > -1) & (r < 0))),
    "34": lambda r: ~(r > 0),
    "123": lambda r: ~((r > -1) & (r < 0)),
    "124": lambda r: ~(r < -1),
    "134": lambda r: ~((r > 0) & (r < 1)),
    "234": lambda r: ~(r > 1),
    "1234": lambda r: torch.ones_like(r, dtype=torch.bool),
}


def legacy_masks(g: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four published masks, checkpoint 1 to 4, with their strict inequalities."""
    r = p / (g + 1e-8)
    return r > 1, (r > 0) & (r < 1), (r < 0) & (r.abs() > 1), (r < 0) & (r.abs() < 1)


# -------------------------------------------------------------------------------------------- parts


def _by_region(
    g: Tensor,
    p: Tensor,
    steeper: Tensor,
    gentler: Tensor,
    reversed_steeper: Tensor,
    reversed_gentler: Tensor,
) -> Tensor:
    """One of four values in each coordinate; selected on the device, without a table."""
    is_steeper = p.abs() > g.abs()
    along = torch.where(is_steeper, steeper, gentler)
    against = torch.where(is_steeper, reversed_steeper, reversed_gentler)
    return torch.where((g.sign() * p.sign()) < 0, against, along)


def _pair(g: Vector | Tensor, p: Vector | Tensor) -> tuple[Vector, Vector]:
    """Both as vectors, zeros where only one of them has a part, and nothing where neither has."""
    one = Vector([g]) if isinstance(g, Tensor) else g
    two = Vector([p]) if isinstance(p, Tensor) else p
    return one.map(lambda a, b: a, two), one.map(lambda a, b: b, two)


def _counts(g: Vector, p: Vector) -> list[int]:
    """How many coordinates are in each region, and how many are zero in both gradients.

    Args:
        g: The current gradient.
        p: The perturbed gradient, with the same parts.

    Returns:
        Six counts: an unused 0, regions 1 to 4, and the coordinates with g = p = 0.

    Raises:
        ValueError: If there is no coordinate, or a gradient is not finite.
    """
    if not any(part.numel() for part in g.tensors):
        raise ValueError("g must have a coordinate, got none; no parameter has a gradient")
    rows = [_row(a, b) for a, b in zip(g.tensors, p.tensors, strict=True)]
    *counts, invalid = torch.stack([row.to(rows[0].device) for row in rows]).sum(0).tolist()
    if invalid:
        raise ValueError(
            f"gradients must be finite, got {invalid} coordinates that are not; "
            "a step with such a gradient has no regions"
        )
    return counts


def _row(g: Tensor, p: Tensor) -> Tensor:
    counts = torch.bincount(region(g, p).reshape(-1).int(), minlength=5)
    both_zero = ((g == 0) & (p == 0)).sum()
    invalid = (~(g.isfinite() & p.isfinite())).sum()
    return torch.cat([counts, both_zero.reshape(1), invalid.reshape(1)])
