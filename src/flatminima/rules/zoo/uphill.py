"""Where to look, from one gradient: the direction, the metric and the radius of the ascent."""

from __future__ import annotations

import math
from functools import partial

from flatminima import perturb
from flatminima.perturb import Scaling
from flatminima.rules import combine
from flatminima.rules.checks import check_whole
from flatminima.rules.rule import HERE, Conversation, Length, Look, Probe, Schedule, Talk, member
from flatminima.vector import Vector

__all__ = [
    "asam",
    "awp",
    "gcsam",
    "le_sam",
    "multi_step",
    "sam",
    "ssam",
    "usam",
    "zsharp",
]


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
def awp(rho: Length = 0.01) -> Probe:
    """Adversarial weight perturbation: every tensor moves in proportion to its own size.

        e_l = rho ||w_l|| g_l / ||g_l||,   d = grad f(w + e)

    Args:
        rho: The radius, a multiple of each tensor's norm (no unit). The default was not tuned.

    Returns:
        The rule. To leave biases and norms out, give them a group with `rho=0`.

    Source: Wu et al., NeurIPS 2020, "Adversarial Weight Perturbation Helps Robust Generalization".
    Differs: there the loss is that of adversarial examples; here it is the one that is handed over.
    Cost: 2 gradients, 1 buffer.

    Example:
        >>> awp(rho=0.02)
        awp(rho=0.02) = Probe(layerwise, rho=0.02)
    """
    return Probe(perturb.layerwise, rho=rho)


@member
def le_sam(rho: Length = 0.5, budget: float | Schedule = 0.05) -> Conversation:
    """Loss-equated SAM: what is fixed is by how much the loss grows, not how far the weights move.

        e = rho_t g / ||g||,   rho_t = min(budget / ||g||, rho),   d = grad f(w + e)

    Args:
        rho: The largest radius. The default was not tuned.
        budget: By how much the loss is to grow, to first order: a number or a schedule of the step;
            the paper lets it fall to 0 along a cosine (`schedule.Cosine`). It follows the scale of
            the loss. The default was not tuned.

    Returns:
        The rule.

    Raises:
        ValueError: If `budget` is a number that is not positive and finite.

    Source: Wang et al., ICML 2026, "Fix the Loss, Not the Radius: Rethinking the Adversarial
        Perturbation of SAM".
    Differs: a small number is added to ||g|| there; the largest radius makes that unnecessary.
    Cost: 2 gradients, 1 buffer.

    Example:
        >>> le_sam(budget=0.1)
        le_sam(rho=0.5, budget=0.1)
    """
    if not callable(budget) and not 0 < budget < math.inf:
        raise ValueError(f"budget must be positive and finite, got {budget}; or give a schedule")

    def talk(look: Look) -> Talk:
        now = budget(look.step) if callable(budget) else budget
        return (yield from Probe(partial(perturb.within_budget, budget=now), rho=rho)(look))

    return Conversation(talk)


@member
def gcsam(rho: Length = 0.05) -> Probe:
    """SAM with centralised gradients: means are taken off before the ascent, and off the answer.

        e = rho h / ||h||,   h = g less its mean by output row;   d = p less its mean by output row

    Args:
        rho: The radius, of what is left after the mean is taken off. The default is SAM's.

    Returns:
        The rule.

    Source: "GCSAM: Gradient Centralized Sharpness Aware Minimization", 2025; class SAMGC of
        lhchau/sam-hessian.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> gcsam(rho=0.1)
        gcsam(rho=0.1) = Probe(centralized, centralized, rho=0.1)
    """
    return Probe(perturb.centralized, combine.centralized, rho)


@member
def ssam(rho: Length = 0.1, share: float = 0.5) -> Probe:
    """Sparse SAM: only the coordinates with the largest gradients are perturbed.

        e = rho h / ||h||,   h = g where |g| is among the largest `share`, 0 elsewhere;
        d = grad f(w + e)

    Args:
        rho: The radius. Default from the authors' experiments on CIFAR, which use 0.1 and 0.2.
        share: Which share of the coordinates moves. The default is the most that the authors let
            move.

    Returns:
        The rule.

    Raises:
        ValueError: If `share` is not within (0, 1].

    Source: Mi et al., NeurIPS 2022, "Make Sharpness-Aware Minimization Stronger: A Sparsified
        Perturbation Approach".
    Differs: the authors choose the mask by the Fisher information or by dynamic growing and
        dropping, and keep it for a while; here it is by |g|, at every step. No time is saved.
    Cost: 2 gradients, 1 buffer, and two more while the mask is made.

    Example:
        >>> ssam(share=0.1)
        ssam(rho=0.1, share=0.1) = Probe(topmost(share=0.1), rho=0.1)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be within (0, 1], got {share}")
    return Probe(partial(perturb.topmost, share=share), rho=rho)


@member
def zsharp(rho: Length = 0.05, quantile: float = 0.95) -> Probe:
    """SAM along the coordinates whose gradient stands out in its tensor, by z-score.

        e = rho h / ||h||,   h = g where |g - mean g| is at or above its quantile, 0 elsewhere;
        d = grad f(w + e)

    Args:
        rho: The radius. Default from the paper.
        quantile: Of |z| in each tensor; what is below stays. Default from the paper.

    Returns:
        The rule.

    Raises:
        ValueError: If `quantile` is not within [0, 1).

    Source: Yun 2025, "Sharpness-Aware Minimization with Z-Score Gradient Filtering for Neural
        Networks".
    Differs: the authors' code gives each layer the radius `rho`; here it is the radius of all
        parameters together.
    Cost: 2 gradients, 1 buffer, and one more while the mask is made.

    Example:
        >>> zsharp(quantile=0.9)
        zsharp(rho=0.05, quantile=0.9) = Probe(outlying(quantile=0.9), rho=0.05)
    """
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile must be within [0, 1), got {quantile}")
    return Probe(partial(perturb.outlying, quantile=quantile), rho=rho)
