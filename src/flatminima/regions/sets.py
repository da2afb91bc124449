"""Whether two sets of coordinates have more in common than chance would give them.

Sets of the sizes that regions have meet often: two independent ones that each hold 60 % of the
coordinates share 36 % of them. So every overlap stands beside its chance level, and as a phi
coefficient: 0 by chance, 1 for the same set.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.regions.kinds import Region, mask
from flatminima.vector import Vector

__all__ = ["FrozenOverlap", "Overlap", "Persistence", "Persisted", "Union", "overlap", "union"]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two sets of coordinates have in common; all shares are of all coordinates."""

    first: float  # a, the share of the first set
    second: float  # b
    both: float  # o, the share in both
    chance: float  # a b: independent sets of these sizes
    chance_by_part: float  # the same, parameter by parameter: sets that differ between layers only
    jaccard: float  # o / (a + b - o); nan if both sets are empty
    jaccard_chance: float  # a b / (a + b - a b)
    coordinates: int

    @property
    def lift(self) -> float:
        """The share in both over its chance level: 1 is chance; nan if that is 0."""
        return _ratio(self.both, self.chance)

    @property
    def phi(self) -> float:
        """The correlation of the two sets: 0 is chance; nan if one is empty or everything."""
        return _phi(self.first, self.second, self.both)


def overlap(one: Vector, two: Vector) -> Overlap:
    """What two sets have in common, beside what independent sets of their sizes would.

        o = |A and B| / N,   chance a b,   phi = (o - a b) / sqrt(a (1 - a) b (1 - b))

    Shares that differ between layers can lift the overlap by themselves; `chance_by_part`,
    sum_l N_l a_l b_l / N, has that in it.

    Args:
        one: A set: one bool tensor per parameter, as `mask` makes it.
        two: Another set of the same shapes.

    Returns:
        The overlap with its chance levels.

    Raises:
        ValueError: If there is no coordinate.

    Source: lhchau/geometry-sam (2024), experiment 2, which gives the overlap without chance.
    Cost: three passes over the coordinates and one synchronisation with the device.

    Example:
        >>> a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True])
        >>> seen = overlap(Vector([a]), Vector([b]))
        >>> seen.both, seen.chance, round(seen.phi, 3)
        (0.25, 0.375, -0.577)
    """
    counts = _counts(one, two)
    total, first, second, common = (sum(column) for column in zip(*counts, strict=True))
    a, b, o = first / total, second / total, common / total
    chance = a * b
    return Overlap(
        first=a,
        second=b,
        both=o,
        chance=chance,
        chance_by_part=sum(x * y / n for n, x, y, _ in counts if n) / total,
        jaccard=_ratio(o, a + b - o),
        jaccard_chance=_ratio(chance, a + b - chance),
        coordinates=total,
    )


class FrozenOverlap:
    """The overlap of a region now with the same region at the first step it was shown.

    Args:
        chosen: The regions whose coordinates form the set.

    Each call takes the two gradients of a step: the first freezes the set, and every one returns
    an `Overlap`, the first therefore that of the set with itself. For an observer of training, hand
    it to `observe.Recorder`.

    Cost: an overlap, and a bool per coordinate of memory.

    Example:
        >>> seen = FrozenOverlap({Region.STEEPER})
        >>> g = torch.ones(4)
        >>> seen(g, 2 * g).both, seen(g, torch.tensor([2.0, 0.5, 0.5, 0.5])).both
        (1.0, 0.25)
    """

    def __init__(self, chosen: Collection[Region]) -> None:
        self.chosen = frozenset(chosen)
        self.frozen: Vector | None = None

    def __call__(self, g: Vector | Tensor, p: Vector | Tensor) -> Overlap:
        """The overlap of the frozen set with that of this step."""
        now = mask(g, p, self.chosen)
        if self.frozen is None:
            self.frozen = now
        return overlap(self.frozen, now)


@dataclass(frozen=True, kw_only=True)
class Persisted:
    """What is left of a set after a number of consecutive steps."""

    steps: int  # how many were intersected, 1 for the first
    left: float  # the share of the coordinates that were in the set at every one of them
    chance: float  # the product of the sizes: independent sets
    phi: float  # of what was left before with this step's set; nan at the first step
    coordinates: int

    @property
    def lift(self) -> float:
        """What is left over its chance level: 1 is chance; nan if that is 0."""
        return _ratio(self.left, self.chance)


class Persistence:
    """How long coordinates stay in a region: the intersection over consecutive steps.

        |A_s and A_{s+1} and ... and A_{s+k}| / N     against     a_s a_{s+1} ... a_{s+k}

    Args:
        chosen: The regions whose coordinates form the sets.

    Each call takes the two gradients of a step and returns what is left by then. Show it every
    step, for between steps that are skipped nothing persists: `observe.Recorder(..., every=1)`.

    Source: lhchau/geometry-sam (2024), experiment 3, which gives no chance level.
    Cost: an overlap, and a bool per coordinate of memory.

    Example:
        >>> stay = Persistence({Region.STEEPER})
        >>> g = torch.ones(4)
        >>> first = stay(g, torch.tensor([2.0, 2.0, 0.5, 0.5]))
        >>> second = stay(g, torch.tensor([2.0, 0.5, 2.0, 0.5]))
        >>> first.left, second.left, second.chance, second.phi
        (0.5, 0.25, 0.25, 0.0)
    """

    def __init__(self, chosen: Collection[Region]) -> None:
        self.chosen = frozenset(chosen)
        self.left: Vector | None = None
        self.chance = 1.0
        self.steps = 0

    def __call__(self, g: Vector | Tensor, p: Vector | Tensor) -> Persisted:
        """What is left after this step."""
        now = mask(g, p, self.chosen)
        before = now if self.left is None else self.left
        seen = overlap(before, now)
        phi = math.nan if self.left is None else seen.phi
        self.left = before.map(torch.logical_and, now)
        self.chance *= seen.second
        self.steps += 1
        return Persisted(
            steps=self.steps,
            left=seen.both,
            chance=self.chance,
            phi=phi,
            coordinates=seen.coordinates,
        )


@dataclass(frozen=True, kw_only=True)
class Union:
    """The coordinates that are in a region at one radius at least, and at all of them."""

    shares: tuple[float, ...]  # (n,) at each radius
    union: float
    union_chance: float  # 1 - prod (1 - a_i)
    intersection: float
    intersection_chance: float  # prod a_i
    phi: tuple[tuple[float, ...], ...]  # (n, n) between each two radii
    coordinates: int


def union(
    g: Vector | Tensor,
    perturbed: Sequence[Vector | Tensor],
    chosen: Collection[Region] = frozenset({Region.STEEPER}),
) -> Union:
    """The union of a region over several radii, beside the union of independent sets.

        |A_1 or ... or A_n| / N     against     1 - (1 - a_1) ... (1 - a_n)

    Args:
        g: The current gradient.
        perturbed: The perturbed gradient at each radius, shaped like `g`.
        chosen: The regions whose coordinates form the sets.

    Returns:
        The shares, the union and the intersection with their chance levels, and how much alike the
        sets are, two by two.

    Raises:
        ValueError: If there is no perturbed gradient.

    Source: lhchau/geometry-sam (2024), project 3, with radii 0.01, 0.05 and 0.1; it was published
        without results.
    Cost: 1 + n gradients to have them; n^2 overlaps of the sets.

    Example:
        >>> g = torch.ones(4)
        >>> two = union(g, [torch.tensor([2.0, 2.0, 0, 0]), torch.tensor([2.0, 0, 2.0, 0])])
        >>> two.union, two.union_chance, two.intersection, two.phi[0][1]
        (0.75, 0.75, 0.25, 0.0)
    """
    if not perturbed:
        raise ValueError("perturbed must hold a gradient for at least one radius, got none")
    sets = [mask(g, p, chosen) for p in perturbed]
    pairs = [[overlap(one, two) for two in sets] for one in sets]
    shares = tuple(row[0].first for row in pairs)
    together, common = sets[0], sets[0]
    for one in sets[1:]:
        together, common = together.map(torch.logical_or, one), common.map(torch.logical_and, one)
    return Union(
        shares=shares,
        union=overlap(together, together).first,
        union_chance=1.0 - math.prod(1.0 - a for a in shares),
        intersection=overlap(common, common).first,
        intersection_chance=math.prod(shares),
        phi=tuple(tuple(pair.phi for pair in row) for row in pairs),
        coordinates=pairs[0][0].coordinates,
    )


def _counts(one: Vector, two: Vector) -> list[list[int]]:
    """For every parameter: its size, the two sets, and what they have in common."""
    pairs = [
        (a, b) for a, b in zip(one.parts, two.parts, strict=True) if a is not None and b is not None
    ]
    if not any(a.numel() for a, _ in pairs):
        raise ValueError("sets must have a coordinate, got none; no parameter has a gradient")
    there = [torch.stack([a.sum(), b.sum(), (a & b).sum()]) for a, b in pairs]
    told: list[list[int]] = torch.stack([row.to(there[0].device) for row in there]).tolist()
    return [[a.numel(), *row] for (a, _), row in zip(pairs, told, strict=True)]


def _phi(a: float, b: float, o: float) -> float:
    """The correlation of two sets with these shares and this share in common."""
    return _ratio(o - a * b, math.sqrt(a * (1 - a) * b * (1 - b)))


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
