"""Where to look, from this gradient and earlier ones."""

from __future__ import annotations

import torch

from flatminima import perturb
from flatminima.rules.checks import check_decay, check_finite
from flatminima.rules.recall import averaged
from flatminima.rules.rule import HERE, Ask, Conversation, Length, Look, Talk, member

__all__ = [
    "fisher_sam",
    "friendly_sam",
    "previous_batch",
    "vasso",
]


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


@member
def vasso(rho: Length = 0.1, theta: float = 0.9) -> Conversation:
    """Variance-suppressed SAM: climb along a running mean of the gradients.

        e = rho h / ||h||,   h <- (1 - theta) h + theta g,   d = grad f(w + e)

    Args:
        rho: The radius. Default from the authors' experiments, which use 0.1 and 0.2.
        theta: The weight of the newest gradient; 1 is SAM. Default from the authors' code,
            BingcongLi/VaSSO.

    Returns:
        The rule. At the first step h is g.

    Raises:
        ValueError: If `theta` is not within (0, 1].

    Source: Li & Giannakis, NeurIPS 2023, "Enhancing Sharpness-Aware Optimization Through Variance
        Suppression", and the authors' code.
    Cost: 2 gradients, 3 buffers, one of them what was kept before, until the step is done.

    Example:
        >>> vasso(theta=0.4)
        vasso(rho=0.1, theta=0.4)
    """
    if not 0 < theta <= 1:
        raise ValueError(f"theta must be within (0, 1], got {theta}")

    def talk(look: Look) -> Talk:
        g = yield HERE
        h = averaged(look.remembered("vasso"), "h", g, 1.0 - theta).only(g.present)
        if not look.moves:
            return g
        displacement = [perturb.normalized(look.w, look.ascent(h), look.rho)]
        del g, h  # neither is kept alive during the second pass
        return (yield displacement.pop())

    return Conversation(talk, rho)


@member
def friendly_sam(rho: Length = 0.05, sigma: float = 1.0, decay: float = 0.9) -> Conversation:
    """Friendly SAM: climb along what is particular to the batch, and not along the full gradient.

        e = rho h / ||h||,   h = g - sigma m,   then  m <- decay m + (1 - decay) g;
        d = grad f(w + e)

    Args:
        rho: The radius. Default from the authors' code, nblt/F-SAM; their recipe for CIFAR-100 has
            0.2.
        sigma: How much of the running mean m, the estimate of the full gradient, is taken off.
            Default from the authors' code.
        decay: Of the running mean. Default from the authors' code; their recipes have 0.6 and 0.95.

    Returns:
        The rule. At the first step h and m are g.

    Raises:
        ValueError: If `decay` is not within [0, 1), or `sigma` is not a finite number.

    Source: Li et al., CVPR 2024, "Friendly Sharpness-Aware Minimization", and the authors' code.
    Cost: 2 gradients, 3 buffers, one of them what was kept before, until the step is done.

    Example:
        >>> friendly_sam(rho=0.2)
        friendly_sam(rho=0.2, sigma=1.0, decay=0.9)
    """
    check_finite(sigma=sigma)
    check_decay(decay)

    def talk(look: Look) -> Talk:
        memory = look.remembered("friendly_sam")
        g = yield HERE
        h = g - sigma * memory["m"].only(g.present) if "m" in memory else g  # the mean of before
        averaged(memory, "m", g, decay)
        if not look.moves:
            return g
        displacement = [perturb.normalized(look.w, look.ascent(h), look.rho)]
        del g, h  # neither is kept alive during the second pass
        return (yield displacement.pop())

    return Conversation(talk, rho)


@member
def fisher_sam(rho: Length = 0.1, eta: float = 1.0, decay: float = 0.9) -> Conversation:
    """Fisher-SAM: the ball is an ellipsoid of the diagonal Fisher metric.

        e = rho h / sqrt(<g, h>),   h = g / (1 + eta s),   s <- decay s + (1 - decay) g^2;
        d = grad f(w + e)

    Args:
        rho: The radius, in the metric 1 + eta s. Default from the port
            johnjaejunlee95/torch-unified-SAM-optimization, which calls it gamma.
        eta: How far the metric is the Fisher's; 0 is SAM. Default from the same port.
        decay: Of the running mean of squared gradients; 0 takes those of this step alone, as the
            port does. The default was not tuned.

    Returns:
        The rule.

    Raises:
        ValueError: If `eta` is negative, or `decay` is not within [0, 1).

    Source: Kim et al. 2022, arXiv:2206.04920; the form 1 + eta s is the port's.
    Cost: 2 gradients, 3 buffers, one of them what was kept before, until the step is done.

    Example:
        >>> fisher_sam(decay=0.0)
        fisher_sam(rho=0.1, eta=1.0, decay=0.0)
    """
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
    check_decay(decay)

    def talk(look: Look) -> Talk:
        g = yield HERE
        square = averaged(look.remembered("fisher_sam"), "s", g.map(torch.square), decay)
        if not look.moves:
            return g
        at = look.ascent(g)
        displacement = [perturb.fisher(look.w, at, look.rho, squares=square, eta=eta)]
        del g, at, square  # none is kept alive during the second pass
        return (yield displacement.pop())

    return Conversation(talk, rho)
