"""Made cheaper: what an earlier step saw stands in for a gradient of this one."""

from __future__ import annotations

from functools import partial

import torch

from flatminima import perturb
from flatminima.rules.checks import check_finite, check_whole
from flatminima.rules.recall import remember
from flatminima.rules.rule import HERE, Conversation, Length, Look, Talk, member

__all__ = [
    "async_sam",
    "looksam",
    "momentum_sam",
    "s2_sam",
]


@member
def looksam(rho: Length = 0.1, every: int = 5, alpha: float = 0.7) -> Conversation:
    """LookSAM: SAM at every k-th step, and its remembered sideways component between.

        h = (p - <p, g> / ||g||^2 g) / || the same ||,   d = p      at every k-th step;
                                                         d = g + alpha ||g|| h   at the others

    Args:
        rho: The radius. Default as documented in the port rollovd/LookSAM.
        every: k; 1 is SAM. Default from the experiments in the repository of MSAM.
        alpha: The weight of the remembered component. Default as documented in the port
            rollovd/LookSAM; the repository of MSAM uses 0.2.

    Returns:
        The rule. Projections and norms are over all parameters together.

    Raises:
        ValueError: If `every` is not a positive whole number, or `alpha` is not a finite number.

    Source: Liu et al. 2022, arXiv:2203.02714.
    Cost: 1 + 1/k gradients, 3 buffers.

    Example:
        >>> looksam(rho=0.05)
        looksam(rho=0.05, every=5, alpha=0.7)
    """
    check_whole(every=every)
    check_finite(alpha=alpha)

    def talk(look: Look) -> Talk:
        memory = look.remembered("looksam")
        g = yield HERE
        if not look.moves:
            return g
        if look.step % every and "h" in memory:
            return g + memory["h"].only(g.present) * (alpha * g.norm())
        p = yield perturb.normalized(look.w, look.ascent(g), look.rho)
        sideways = p - p.onto(g)
        norm = sideways.norm()
        remember(memory, "h", sideways / torch.where(norm == 0, 1.0, norm))
        return p

    return Conversation(talk, rho)


@member
def momentum_sam(rho: Length = 0.3, adaptive: bool = False, momentum: float = 0.9) -> Conversation:
    """Momentum-SAM: the displacement is along the past directions, so that one gradient is enough.

        e = -rho v / ||v||,   d = grad f(w + e),   v <- momentum v + d

    Args:
        rho: The radius. Default from the authors' code, MarlonBecker/MSAM; their experiments with
            SGD use 3.
        adaptive: Whether the ball is scaled by the weights, as in `asam`.
        momentum: Of the buffer v, which is the rule's own; give it the optimizer's. Default from
            the authors' code.

    Returns:
        The rule. At the first step there is no displacement. The loss it reports is the one at the
        perturbed weights, the only one it sees.

    Raises:
        ValueError: If `momentum` is not within [0, 1).

    Source: Becker et al. 2024, "Momentum-SAM: Sharpness Aware Minimization without Computational
        Overhead", and the authors' code.
    Differs: the authors' v is the optimizer's buffer, with its weight decay in it, and their
        weights stay perturbed between steps; here they do not.
    Cost: 1 gradient, 2 buffers.

    Example:
        >>> momentum_sam(rho=3.0)
        momentum_sam(rho=3.0, adaptive=False, momentum=0.9)
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be within [0, 1), got {momentum}")
    displaced = perturb.adaptive if adaptive else perturb.normalized

    def talk(look: Look) -> Talk:
        memory = look.remembered("momentum_sam")
        if "v" not in memory or not look.moves:
            p = yield HERE
        else:
            p = yield -displaced(look.w, memory["v"], look.rho)
        remember(memory, "v", p + momentum * memory["v"] if "v" in memory else p)
        return p

    return Conversation(talk, rho)


@member
def s2_sam(rho: Length = 0.05, adaptive: bool = False) -> Conversation:
    """Single-step SAM: climb along the perturbed gradient of the step before.

        e = rho p_before / ||p_before||,   d = grad f(w + e)

    Args:
        rho: The radius. The default is SAM's.
        adaptive: Whether the ball is scaled by the weights: e = rho w^2 p_before / ||w p_before||.

    Returns:
        The rule. At the first step there is no displacement. The loss it reports is the one at the
        perturbed weights, the only one it sees.

    Source: Ji et al., NeurIPS 2024, "A Single-Step, Sharpness-Aware Minimization is All You Need to
        Achieve Efficient and Accurate Sparse Training".
    Differs: the adaptive branch of the authors' code squares the previous gradient where the
        weights belong.
    Cost: 1 gradient, 2 buffers.

    Example:
        >>> s2_sam(rho=0.1)
        s2_sam(rho=0.1, adaptive=False)
    """
    displaced = partial(perturb.adaptive, eta=0.0) if adaptive else perturb.normalized

    def talk(look: Look) -> Talk:
        memory = look.remembered("s2_sam")
        if "p" not in memory or not look.moves:
            p = yield HERE
        else:
            p = yield displaced(look.w, memory["p"], look.rho)
        remember(memory, "p", p)
        return p

    return Conversation(talk, rho)


@member
def async_sam(rho: Length = 0.05) -> Conversation:
    """SAM along the gradient of the step before, so that both gradients could run side by side.

        e = rho g_before / ||g_before||,   d = grad f(w + e),   g = grad f(w) for the next step

    Args:
        rho: The radius. The default is SAM's.

    Returns:
        The rule. At the first step the gradient itself stands in for the one before.

    Source: Jo et al. 2025, "Asynchronous Sharpness-Aware Minimization For Fast and Accurate Deep
        Learning".
    Differs: the authors compute g elsewhere at the same time; here one follows the other.
    Cost: 2 gradients, 3 buffers.

    Example:
        >>> async_sam(rho=0.1)
        async_sam(rho=0.1)
    """

    def talk(look: Look) -> Talk:
        memory = look.remembered("async_sam")
        g = yield HERE
        before = memory.get("g", g).only(g.present)
        remember(memory, "g", g)
        if not look.moves:
            return g
        displacement = [perturb.normalized(look.w, look.ascent(before), look.rho)]
        del g, before  # neither is kept alive during the second pass
        return (yield displacement.pop())

    return Conversation(talk, rho)
