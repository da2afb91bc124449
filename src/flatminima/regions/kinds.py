"""How the slope changed uphill, coordinate by coordinate, in sign and in size.

With r = p / g, the perturbed gradient over the current one, every finite coordinate is in exactly
one of four regions. Two bits decide, and nothing is divided:

    reversed = the signs of g and p are opposite        steeper = |p| > |g|

so that r = 1, r = 0 and r = -1 have a place, and neither an epsilon nor an underflowing product
moves a coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import IntEnum
from functools import cache

import torch
from torch import Tensor

from flatminima.vector import Vector

__all__ = ["Region", "both", "factors", "mask", "region", "rows", "where"]


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


def mask(g: Vector | Tensor, p: Vector | Tensor, chosen: Collection[Region]) -> Vector:
    """Where the coordinates lie whose region is chosen.

    Args:
        g: The current gradient.
        p: The perturbed gradient, shaped like it. Parameters without a gradient in either are left
            out; without one in just one of the two they count as zero there.
        chosen: The regions.

    Returns:
        One bool tensor per parameter: the form in which `overlap` and `Persistence` take a set.

    Example:
        >>> mask(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.5]), {Region.STEEPER}).parts[0]
        tensor([ True, False])
    """

    def chosen_here(g: Tensor, p: Tensor) -> Tensor:
        yes, no = (torch.full((), value, device=g.device) for value in (True, False))
        return _by_region(g, p, *(yes if name in chosen else no for name in Region))

    g, p = both(g, p)
    return g.map(chosen_here, p)


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

    @cache
    def values(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        numbers = (factor.get(name, 1.0) for name in Region)
        return [torch.full((), number, dtype=dtype, device=device) for number in numbers]

    def look_up(g: Tensor, p: Tensor) -> Tensor:
        return _by_region(g, p, *values(g.dtype, g.device))

    return g.map(look_up, p)


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


def both(g: Vector | Tensor, p: Vector | Tensor) -> tuple[Vector, Vector]:
    """Both as vectors, zeros where only one of them has a part, and nothing where neither has."""
    one = Vector([g]) if isinstance(g, Tensor) else g
    two = Vector([p]) if isinstance(p, Tensor) else p
    return one.map(lambda a, b: a, two), one.map(lambda a, b: b, two)


def rows(
    g: Vector | Tensor, p: Vector | Tensor, row: Callable[[Tensor, Tensor], Tensor]
) -> list[list[float]]:
    """A row of numbers for every parameter that has a gradient, brought to the host at once.

    Args:
        g: The current gradient.
        p: The perturbed gradient, shaped like it.
        row: Takes the two gradients of a parameter, returns a few numbers in one dimension.

    Returns:
        A list of numbers per parameter.

    Raises:
        ValueError: If there is no coordinate, or a gradient is not finite.
    """
    g, p = both(g, p)
    if not any(part.numel() for part in g.tensors):
        raise ValueError("g must have a coordinate, got none; no parameter has a gradient")

    def with_faults(g: Tensor, p: Tensor) -> Tensor:
        numbers = row(g, p)
        return torch.cat([numbers, (~(g.isfinite() & p.isfinite())).sum().to(numbers).reshape(1)])

    found = [with_faults(*pair) for pair in zip(g.tensors, p.tensors, strict=True)]
    told: list[list[float]] = torch.stack([one.to(found[0].device) for one in found]).tolist()
    if invalid := int(sum(one[-1] for one in told)):
        raise ValueError(
            f"gradients must be finite, got {invalid} coordinates that are not; "
            "a step with such a gradient has no regions"
        )
    return [one[:-1] for one in told]
