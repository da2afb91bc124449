"""What to do with what was seen: one direction from two gradients or more."""

from __future__ import annotations

import math
from functools import partial

import torch

from flatminima import perturb
from flatminima.rules import combine
from flatminima.rules.checks import check_finite
from flatminima.rules.rule import HERE, Conversation, Length, Look, Probe, Talk, member

__all__ = [
    "clipped",
    "cr_sam",
    "gradient_norm_penalty",
    "gsam",
    "perturbed_direction",
    "perturbed_magnitude",
    "sagm",
    "second_order_sam",
    "stable_sam",
    "wsam",
    "xsam",
]


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
def stable_sam(rho: Length = 0.05) -> Probe:
    """SAM whose direction has the length of the current gradient.

        d = p ||g|| / ||p||

    Args:
        rho: The radius. The default is SAM's.

    Returns:
        The rule.

    Source: Tan et al., JMLR 2025, "Stabilizing Sharpness-Aware Minimization Through A Simple
        Renormalization Strategy".
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> stable_sam(rho=0.1)
        stable_sam(rho=0.1) = Probe(normalized, renormalized, rho=0.1)
    """
    return Probe(perturb.normalized, combine.renormalized, rho)


@member
def sagm(rho: Length = 0.05, alpha: float = 0.001) -> Probe:
    """Sharpness-aware gradient matching: align the current gradient with the perturbed one.

        e = (rho / ||g|| - alpha) g,   d = (g + p) / 2

    Args:
        rho: The radius. Default from the authors' code, Wang-pengfei/SAGM.
        alpha: How far the ascent starts downhill, in units of a learning rate. Default from the
            authors' code.

    Returns:
        The rule.

    Raises:
        ValueError: If `alpha` is not a finite number.

    Source: Wang et al., CVPR 2023, "Sharpness-Aware Gradient Matching for Domain Generalization".
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> sagm(rho=0.1)
        sagm(rho=0.1, alpha=0.001) = Probe(shortened(alpha=0.001), lerp(a=0.5), rho=0.1)
    """
    check_finite(alpha=alpha)
    return Probe(partial(perturb.shortened, alpha=alpha), partial(combine.lerp, a=0.5), rho)


@member
def cr_sam(rho: Length = 0.05, gamma: float = 0.1, beta: float = 0.1) -> Conversation:
    """Curvature-regularised SAM: look on both sides, and descend along the change of slope as well.

        d = p + gamma (p + q - 2 g) + beta (p - q),   p = grad f(w + e),   q = grad f(w - e)

    Args:
        rho: The radius. The default is SAM's.
        gamma: The weight of the second difference. Default from the authors' code.
        beta: The weight of the difference of the two sides. Default from the authors' code; the
            class GEOSAM of lhchau/sam-hessian has 0.01.

    Returns:
        The rule.

    Raises:
        ValueError: If `gamma` or `beta` is not a finite number.

    Source: Wu et al., AAAI 2024, "CR-SAM: Curvature Regularized Sharpness-Aware Minimization", as
        in the authors' code, which does not normalise the curvature term; class GEOSAM.
    Cost: 3 gradients, 3 buffers.

    Example:
        >>> cr_sam(beta=0.01)
        cr_sam(rho=0.05, gamma=0.1, beta=0.01)
    """
    check_finite(gamma=gamma, beta=beta)

    def talk(look: Look) -> Talk:
        g = yield HERE
        if not look.moves:
            return g
        e = perturb.normalized(look.w, look.ascent(g), look.rho)
        p = yield e
        q = yield -e
        return p + gamma * (p + q - 2.0 * g) + beta * (p - q)

    return Conversation(talk, rho)


@member
def second_order_sam(rho: Length = 0.05, step: float = 0.1) -> Conversation:
    """SAM with the term that SAM drops: the whole gradient of w -> f(w + e(w)).

        d = p + H v,   H v = (grad f(w + n) - grad f(w - n)) ||v|| / (2 ||n||),
        v = rho (p - u <u, p>) / ||g||,   u = g / ||g||,   n = step ||e|| v / ||v||

    Args:
        rho: The radius. The default is SAM's.
        step: How far to look to either side for the product with the Hessian H, as a share of the
            displacement. The error falls with its square, until rounding takes over. The default
            was not tuned.

    Returns:
        The rule.

    Raises:
        ValueError: If `step` is not positive and finite.

    Source: Foret et al. 2021, arXiv:2010.01412, the gradient of equation 2 before its second term
        is dropped; the product by central differences is ours, since a rule is sent gradients
        without their graph.
    Cost: 4 gradients, 4 buffers.

    Example:
        >>> second_order_sam(rho=0.1)
        second_order_sam(rho=0.1, step=0.1)
    """
    if not 0.0 < step < math.inf:
        raise ValueError(f"step must be positive and finite, got {step}")

    def talk(look: Look) -> Talk:
        g = yield HERE
        if not look.moves:
            return g
        e = perturb.normalized(look.w, look.ascent(g), look.rho)
        p = yield e
        v = perturb.turned(look.ascent(g), p, look.rho)
        n = perturb.normalized(look.w, v, step * e.norm())
        del g, e  # not kept alive during the next passes
        change = (yield n) - (yield -n) + 2.0 * look.weight_decay * n
        return p + change * torch.where(n.norm() == 0, 0.0, v.norm() / (2.0 * n.norm()))

    return Conversation(talk, rho)


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


@member
def xsam(rho: Length = 0.15, alpha: float = 1.5) -> Probe:
    """XSAM at a fixed angle: go on along the arc from the gradient to the perturbed one.

        d = ||p|| ( sin((1 - alpha) t) g / ||g|| + sin(alpha t) p / ||p|| ) / sin t,
        t = the angle between g and p

    Args:
        rho: The radius. Default from the authors' experiments.
        alpha: How far along the arc: 0 is plain descent at the length of p, 1 is SAM, more
            extrapolates. The default was not tuned.

    Returns:
        The rule.

    Raises:
        ValueError: If `alpha` is not a finite number.

    Source: Chen & Zhou, ICLR 2026, "Revisiting Sharpness-Aware Minimization: A More Faithful and
        Effective Implementation".
    Differs: the authors choose alpha anew now and then, by the loss at points further out; here it
        is fixed.
    Cost: 2 gradients, 3 buffers.

    Example:
        >>> xsam(alpha=1.2)
        xsam(rho=0.15, alpha=1.2) = Probe(normalized, slerp(a=1.2), rho=0.15)
    """
    check_finite(alpha=alpha)
    return Probe(perturb.normalized, partial(combine.slerp, a=alpha), rho)
