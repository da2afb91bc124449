"""The published counts, reproduced, faults included: for comparison with published figures only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.regions.kinds import Region, both
from flatminima.vector import Vector

__all__ = ["LegacyShares", "check_published", "legacy_mask", "legacy_masks", "legacy_shares"]


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
    g, p = both(g, p)
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
