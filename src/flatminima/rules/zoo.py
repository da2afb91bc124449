"""The named members of the family: where to look, and what to make of what was seen.

A member is a function of its hyper-parameters that returns a rule. A new one needs a paper, a
formula, a law in `tests/test_laws.py` and a line in `tests/family.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import cast

from flatminima import perturb
from flatminima.perturb import Scaling
from flatminima.regions import Region, check_published
from flatminima.rules import combine
from flatminima.rules.checks import check_finite, check_whole
from flatminima.rules.rule import (
    HERE,
    Ask,
    Conversation,
    Length,
    Look,
    Probe,
    Schedule,
    Talk,
    member,
)
from flatminima.rules.schedule import Linear
from flatminima.vector import Vector

__all__ = [
    "asam",
    "clipped",
    "gradient_norm_penalty",
    "gsam",
    "hybrid",
    "legacy_ckpt14",
    "legacy_hybrid",
    "multi_step",
    "perturbed_direction",
    "perturbed_magnitude",
    "previous_batch",
    "random_perturbation",
    "sam",
    "same",
    "saner",
    "usam",
    "wsam",
]

# ------------------------------------------------------------------------------------ where to look


@member
def sam(rho: Length = 0.05, p: float = 2) -> Probe:
    """Sharpness-aware minimization: descend along the gradient at the worst point of a ball.

        e = rho sign(g) |g|^(q-1) / (||g||_q^q)^(1/p),   1/p + 1/q = 1,   d = grad f(w + e);
        p = 2:  e = rho g / ||g||

    Args:
        rho: The radius. Default from the paper, which uses it where it does not tune (section
            3.1).
        p: The order of the norm of the ball, 1 <= p <= inf.

    Returns:
        The rule.

    Raises:
        ValueError: If `rho` is negative or `p` is below 1.

    Source: Foret et al. 2021, arXiv:2010.01412, equations 2 and 3.
    Cost: 2 gradients, 1 buffer.

    Example:
        >>> sam(rho=0.1)
        sam(rho=0.1, p=2) = Probe(normalized(p=2.0), rho=0.1)
    """
    perturb.check_order(p)
    return Probe(partial(perturb.normalized, p=float(p)), rho=rho)


@member
def usam(rho: Length = 0.05) -> Probe:
    """SAM without the normalisation: the displacement shrinks with the gradient.

        e = rho g,   d = grad f(w + e)

    Args:
        rho: The step uphill, in units of a learning rate: it follows the scale of the loss. The
            default is SAM's and was not tuned.

    Returns:
        The rule.

    Source: Andriushchenko & Flammarion 2022, arXiv:2206.06232, and the option `sam_no_grad_norm` of
        tml-epfl/understanding-sam.
    Differs: the authors' code projects the displacement on the ball of radius `rho`; here it is not
        cut.
    Cost: 2 gradients, 1 buffer.

    Example:
        >>> usam(rho=0.1)
        usam(rho=0.1) = Probe(unnormalized, rho=0.1)
    """
    return Probe(perturb.unnormalized, rho=rho)


@member
def asam(rho: Length = 0.5, eta: float = 0.01, scale: Scaling = "element", p: float = 2) -> Probe:
    """Adaptive SAM: the ball is scaled by the weights, so that rescaling a layer changes nothing.

        e = rho t^2 g / || t g ||,   t = |w| + eta,   d = grad f(w + e)

    Args:
        rho: The radius, a multiple of the weights' own size (no unit). Default from the authors'
            code, for CIFAR-10; it uses 1.0 for CIFAR-100.
        eta: Added to the size of a weight. Default from the authors' optimizer; their CIFAR
            example passes 0.
        scale: What a weight is measured by: `element`, `filter` (the norm of its output row) or
            `layer`.
        p: The order of the norm, 2 or inf.

    Returns:
        The rule. To leave biases and norms out, give them a group with `rho=0`.

    Raises:
        ValueError: If `eta` is negative, `scale` is unknown or `p` is neither 2 nor inf.

    Source: Kwon et al. 2021, arXiv:2102.11600, and the authors' code, SamsungLabs/ASAM.
    Differs: the authors' code scales only parameters whose name contains "weight".
    Cost: 2 gradients, 1 buffer.

    Example:
        >>> asam(rho=1.0)
        asam(rho=1.0, eta=0.01, scale='element', p=2) = Probe(adaptive(eta=0.01, scale='element',
        p=2.0), rho=1.0)
    """
    perturb.check_scale(eta, scale, p)
    return Probe(partial(perturb.adaptive, eta=eta, scale=scale, p=float(p)), rho=rho)


@member
def multi_step(rho: Length = 0.05, steps: int = 3, size: float = 0.5) -> Conversation:
    """SAM with several ascent steps, each projected back on the ball.

        e <- project(e + size rho q / ||q||),   q = grad f(w + e);   d = the gradient at the last e

    Args:
        rho: The radius of the ball.
        steps: How many steps uphill; 1 with `size` 1 is SAM.
        size: The length of one step, as a share of the radius. The default was not tuned.

    Returns:
        The rule.

    Raises:
        ValueError: If `steps` or `size` is not positive.

    Source: Andriushchenko & Flammarion 2022, arXiv:2206.06232, the options `sam_iters` and
        `sam_step_size_mult` of tml-epfl/understanding-sam.
    Cost: 1 + steps gradients, 2 buffers.

    Example:
        >>> multi_step(rho=0.1, steps=2)
        multi_step(rho=0.1, steps=2, size=0.5)
    """
    check_whole(steps=steps)
    if not size > 0:
        raise ValueError(f"size must be positive, got {size}")

    def talk(look: Look) -> Talk:
        q = yield HERE
        e = Vector([None] * len(q))
        for _ in range(steps if look.moves else 0):
            e = e + perturb.normalized(look.w, look.ascent(q), look.rho) * size
            e = perturb.projected(e, look.rho)
            del q  # not kept alive during the next pass
            q = yield e
        return q

    return Conversation(talk, rho)


@member
def random_perturbation(rho: Length = 0.05) -> Conversation:
    """The gradient at a random point of the sphere: what SAM has to beat.

        d = grad f(w + rho z / ||z||),   z ~ N(0, I)

    Args:
        rho: The radius. The default is SAM's.

    Returns:
        The rule. The loss it reports is the one at the perturbed weights, the only one it sees.

    Source: Andriushchenko & Flammarion 2022, arXiv:2206.06232, figure 1.
    Cost: 1 gradient, 2 buffers.

    Example:
        >>> random_perturbation(rho=0.1)
        random_perturbation(rho=0.1)
    """

    def talk(look: Look) -> Talk:
        if not look.moves:
            return (yield HERE)
        return (yield perturb.random(look.w, look.w, look.rho, generator=look.generator))

    return Conversation(talk, rho)


@member
def previous_batch(rho: Length = 0.05) -> Conversation:
    """SAM whose ascent is computed on the batch before: the two passes see independent examples.

        e = rho h / ||h||,   h = grad f_before(w),   d = grad f(w + e)

    Args:
        rho: The radius. The default is SAM's.

    Returns:
        The rule. At the first step the batch itself stands in for the one before.

    Raises:
        RuntimeError: At the first step, in a loop that does not show the rule its batches.

    Source: Andriushchenko & Flammarion 2022, arXiv:2206.06232, the option `sam_use_prev_batch` of
        tml-epfl/understanding-sam.
    Differs: the authors' first step uses a batch of zeros.
    Cost: 2 gradients, 1 buffer, and the batch is kept until the next step.

    Example:
        >>> previous_batch(rho=0.1)
        previous_batch(rho=0.1)
    """

    def talk(look: Look) -> Talk:
        memory = look.remembered("previous_batch")
        if look.batch is None:
            raise RuntimeError(
                "previous_batch must see the batches, got none; "
                "hand them to SharpnessAware.backward(loss_fn, *batch)"
            )
        before, memory["batch"] = memory.get("batch", look.batch), look.batch
        if not look.moves:
            return (yield HERE)
        h = yield Ask(HERE, before)
        displacement = [perturb.normalized(look.w, look.ascent(h), look.rho)]
        del h  # neither is kept alive during the second pass
        return (yield displacement.pop())

    return Conversation(talk, rho)


# -------------------------------------------------------------------- what to do with what was seen


@member
def gsam(rho: Length = 0.05, alpha: float = 0.4) -> Probe:
    """Surrogate-gap guided SAM: close the gap to the perturbed loss without raising that loss.

        d = p - alpha (g - <g, p> / ||p||^2 p)

    Args:
        rho: The radius; the paper ties it to the learning rate (`schedule.Proportional`). The
            default is SAM's.
        alpha: The weight of the part of `g` that is orthogonal to `p`. Default from the package
            pytorch_optimizer; the authors use 0.6 for ViT-B/32 in big_vision, and 0.2 in their
            CIFAR-10 example.

    Returns:
        The rule.

    Source: Zhuang et al. 2022, arXiv:2203.08065, and the authors' code, juntang-zhuang/GSAM,
        `gradient_decompose`.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> gsam(rho=0.1)
        gsam(rho=0.1, alpha=0.4) = Probe(normalized, surrogate_gap(alpha=0.4), rho=0.1)
    """
    check_finite(alpha=alpha)
    return Probe(perturb.normalized, partial(combine.surrogate_gap, alpha=alpha), rho)


@member
def gradient_norm_penalty(rho: Length = 0.05, alpha: float = 0.8) -> Probe:
    """Penalise the norm of the gradient, by a finite difference along it.

        d = (1 - alpha) g + alpha p   ~   grad ( f + alpha rho ||grad f|| )

    Args:
        rho: The step of the finite difference. The default is SAM's; the authors' recipe for
            ResNets on CIFAR-10 has 0.1.
        alpha: The penalty's weight over `rho`: 0 is plain descent, 1 is SAM. Default from the
            same recipe.

    Returns:
        The rule.

    Source: Zhao et al. 2022, arXiv:2202.03599, as in the README of zhaoyang-0204/gnp, section 1.2.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> gradient_norm_penalty(rho=0.1)
        gradient_norm_penalty(rho=0.1, alpha=0.8) = Probe(normalized, lerp(a=0.8), rho=0.1)
    """
    check_finite(alpha=alpha)
    return Probe(perturb.normalized, partial(combine.lerp, a=alpha), rho)


@member
def wsam(rho: Length = 0.05, gamma: float = 0.9) -> Probe:
    """Weighted SAM, coupled form: sharpness as a term of its own, with a weight of its own.

        d = (1 - a) g + a p,   a = gamma / (1 - gamma)

    Args:
        rho: The radius. The default is SAM's.
        gamma: The weight of sharpness: 0 is plain descent, 1/2 is SAM, more extrapolates. Default
            from the authors' code; their experiments use 0.8 to 0.95.

    Returns:
        The rule.

    Raises:
        ValueError: If `gamma` is not within [0, 1).

    Source: Yue et al. 2023, arXiv:2305.15817, the option `decouple=False` of the authors' optimizer
        (`WeightedSAM` in atorch).
    Differs: the authors' decoupled form hands the sharpness term past the optimizer; here all of it
        goes through.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> wsam(rho=0.1, gamma=0.5)
        wsam(rho=0.1, gamma=0.5) = Probe(normalized, lerp(a=1.0), rho=0.1)
    """
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be within [0, 1), got {gamma}")
    return Probe(perturb.normalized, partial(combine.lerp, a=gamma / (1 - gamma)), rho)


@member
def perturbed_magnitude(rho: Length = 0.1) -> Probe:
    """The size of the perturbed gradient with the sign of the current one.

        d = |p| sign(g)

    Args:
        rho: The radius. The default is the smallest in the tables of lhchau/empirical-sam.

    Returns:
        The rule.

    Source: lhchau/sam-hessian (2024); its class of this formula is called SAMDIRECTION.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> perturbed_magnitude()
        perturbed_magnitude(rho=0.1) = Probe(normalized, perturbed_magnitude, rho=0.1)
    """
    return Probe(perturb.normalized, combine.perturbed_magnitude, rho)


@member
def perturbed_direction(rho: Length = 0.1) -> Probe:
    """The sign of the perturbed gradient with the size of the current one.

        d = sign(p) |g|

    Args:
        rho: The radius. The default is the smallest in the tables of lhchau/empirical-sam.

    Returns:
        The rule.

    Source: lhchau/sam-hessian (2024); its class of this formula is called SAMMAGNITUDE.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> perturbed_direction()
        perturbed_direction(rho=0.1) = Probe(normalized, perturbed_direction, rho=0.1)
    """
    return Probe(perturb.normalized, combine.perturbed_direction, rho)


@member
def clipped(rho: Length = 0.1, times: float = 10.0) -> Probe:
    """SAM with each coordinate limited to a multiple of the current gradient's.

        d = sign(p) min(|p|, times |g|)

    Args:
        rho: The radius. The default is that of `hybrid`, and was not tuned.
        times: The largest growth of a coordinate that is let through. Default from the source.

    Returns:
        The rule.

    Raises:
        ValueError: If `times` is negative.

    Source: lhchau/sam-hessian (2024), class CLIPSAM.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> clipped(times=2.0)
        clipped(rho=0.1, times=2.0) = Probe(normalized, clipped(times=2.0), rho=0.1)
    """
    if not times >= 0:
        raise ValueError(f"times must be >= 0, got {times}")
    return Probe(perturb.normalized, partial(combine.clipped, times=times), rho)


# ---------------------------------------------------------------------------------------- by region


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
