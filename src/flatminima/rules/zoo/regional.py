"""What to do with what was seen, by region: how the slope changed in each coordinate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import cast

from flatminima import perturb
from flatminima.regions import Region
from flatminima.regions.legacy import check_published
from flatminima.rules import combine
from flatminima.rules.checks import check_finite
from flatminima.rules.rule import Conversation, Length, Look, Probe, Schedule, Talk, member
from flatminima.rules.schedule import Linear

__all__ = [
    "forget_sam",
    "hybrid",
    "legacy_ckpt14",
    "legacy_hybrid",
    "same",
    "saner",
]


@member
def hybrid(regions: Collection[Region], rho: Length = 0.1) -> Probe:
    """The perturbed gradient in some regions, the current one elsewhere.

        d = p on the regions, g elsewhere

    Args:
        regions: Any of the 16 subsets of `Region`: none is plain descent, all four are SAM.
        rho: The radius. The default is the smallest in the source's tables of hybrids.

    Returns:
        The rule.

    Raises:
        TypeError: If `regions` holds something other than a `Region`.

    Source: lhchau/geometry-sam (2024), experiment 1.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> hybrid({Region.STEEPER})
        hybrid(regions={STEEPER}, rho=0.1) = Probe(normalized, regionwise(chosen={STEEPER}),
        rho=0.1)
    """
    return Probe(perturb.normalized, partial(combine.regionwise, chosen=_regions(regions)), rho)


@member
def same(factor: Mapping[Region, float | Schedule], rho: Length = 0.1) -> Probe | Conversation:
    """SAM with one factor per region: below 1 it damps the region, above 1 it amplifies it.

        d = factor[region] p

    Args:
        factor: The factor of each region, a number or a schedule of the step; 1 where a region is
            not named.
        rho: The radius. The default is one of those in the source's tables, 0.05 to 0.8.

    Returns:
        The rule.

    Raises:
        TypeError: If a key is something other than a `Region`.

    Source: lhchau/geometry-sam (2024), "SAME".
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> same({Region.GENTLER: 0.5})
        same(factor={GENTLER: 0.5}, rho=0.1) = Probe(normalized, rescaled_by_region(factor={GENTLER:
        0.5}), rho=0.1)
    """
    _regions(factor)
    if not isinstance(factor, Mapping):
        raise TypeError(f"factor must be a factor for each region, got {factor!r}")
    check_finite(**{name.name: value for name, value in factor.items() if not callable(value)})
    if not any(callable(value) for value in factor.values()):
        numbers = cast("Mapping[Region, float]", factor)
        return Probe(
            perturb.normalized, partial(combine.rescaled_by_region, factor=dict(numbers)), rho
        )

    def talk(look: Look) -> Talk:
        now = {
            name: value(look.step) if callable(value) else value for name, value in factor.items()
        }
        return (yield from same(now, rho)(look))

    return Conversation(talk, rho)


@member
def saner(rho: Length = 0.1, strength: float = 0.5, warmup: int = 0) -> Conversation:
    """SAME for noisy labels: damp the coordinates that got gentler, more and more.

        d = (1 - alpha) p where 0 <= p/g <= 1,  p elsewhere;
        alpha from 0 to `strength` over `warmup` steps

    Args:
        rho: The radius. Default from the authors' README.
        strength: The alpha of the paper, which is 1 minus the factor. Default from the authors'
            README.
        warmup: Over how many steps alpha grows; the authors take 50 epochs.

    Returns:
        The rule.

    Raises:
        ValueError: If `strength` is not within [0, 1].

    Source: Luong et al. 2026, arXiv:2411.17132, as in the README of lhchau/saner.
    Differs: the authors' code multiplies by a number that it anneals from 1 and calls alpha as
        well; the two agree at 0.5 only. Its region leaves out p = 0 and p = g.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> saner(warmup=1000)
        saner(rho=0.1, strength=0.5, warmup=1000)
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be within [0, 1], got {strength}")
    factor = {Region.GENTLER: Linear(start=1.0, end=1.0 - strength, steps=warmup)}

    def talk(look: Look) -> Talk:
        return (yield from same(factor, rho)(look))

    return Conversation(talk, rho)


@member
def forget_sam(rho: Length = 0.1, strength: float = 0.5) -> Probe:
    """SAM whose reversed coordinates are rescaled to a share of the others' length.

        d = l + strength ||l|| / ||h|| h,   h = p where it is reversed, l = p elsewhere

    Args:
        rho: The radius. The default is that of `hybrid`.
        strength: The length of the reversed part, over that of the rest. Default from the source.

    Returns:
        The rule.

    Raises:
        ValueError: If `strength` is not a finite number.

    Source: lhchau/sam-hessian (2024), class FORGETSAM.
    Differs: the edges are those of `Region`; where nothing is reversed the source divides by 0.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> forget_sam()
        forget_sam(rho=0.1, strength=0.5) = Probe(normalized, forgetful(strength=0.5), rho=0.1)
    """
    check_finite(strength=strength)
    return Probe(perturb.normalized, partial(combine.forgetful, strength=strength), rho)


@member
def legacy_hybrid(regions: Collection[Region], rho: Length = 0.1) -> Probe:
    """`hybrid` with the published masks and their edges, to compare with published figures only.

        d = p on the published mask, g elsewhere;   r = p / (g + 1e-8)

    Args:
        regions: A set for which a class was published: all but {1, 4} and {2, 4}.
        rho: The radius. The default is that of `hybrid`.

    Returns:
        The rule.

    Raises:
        TypeError: If `regions` holds something other than a `Region`.
        ValueError: If no class was published for this set.

    Source: lhchau/sam-hessian, commit 0c4c993.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> legacy_hybrid({Region.STEEPER}).rho
        0.1
    """
    published = _regions(regions)
    check_published(published)
    return Probe(perturb.normalized, partial(combine.legacy_regionwise, chosen=published), rho)


@member
def legacy_ckpt14(rho: Length = 0.1) -> Probe:
    """What the published class SAMCKPT14 does: the perturbed gradient in regions 2 and 3.

        d = p on GENTLER and REVERSED_STEEPER, g elsewhere

    Args:
        rho: The radius. The default is that of `hybrid`.

    Returns:
        The rule. The class is named after regions 1 and 4; for those, use
        `hybrid({Region.STEEPER, Region.REVERSED_GENTLER})`.

    Source: lhchau/sam-hessian, commit 0c4c993, in which a mask is negated once too often.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> legacy_ckpt14().rho
        0.1
    """
    return legacy_hybrid({Region.GENTLER, Region.REVERSED_STEEPER}, rho)


def _regions(names: Collection[Region]) -> frozenset[Region]:
    for name in names:
        if not isinstance(name, Region):
            raise TypeError(
                f"regions must be members of Region, got {name!r}; for example Region.STEEPER"
            )
    return frozenset(names)
