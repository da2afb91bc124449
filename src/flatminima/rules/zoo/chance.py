"""Where to look, by chance: gradients at random points near the weights."""

from __future__ import annotations

from flatminima import perturb
from flatminima.rules import combine
from flatminima.rules.checks import check_finite, check_whole
from flatminima.rules.rule import HERE, Conversation, Length, Look, Talk, member

__all__ = [
    "lpf_sgd",
    "random_perturbation",
    "rwp",
]


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
def lpf_sgd(rho: Length = 0.01, samples: int = 1) -> Conversation:
    """Low-pass filtered descent: the mean gradient over noisy copies of the weights.

        d = mean of grad f(w + rho t z_i),   t = the norm of each filter,   z_i ~ N(0, I)

    Args:
        rho: The noise's standard deviation, as a share of the filter's norm. Default from Li et
            al. 2022, who use the same noise.
        samples: How many copies see the whole batch. With `m` each group of `m` examples has a copy
            of its own instead, as in the paper, which splits the batch, at the cost of one
            gradient.

    Returns:
        The rule. The loss it reports is the one at the first copy.

    Raises:
        ValueError: If `samples` is not a positive whole number.

    Source: Bisla et al., AISTATS 2022, "Low-Pass Filtering SGD for Recovering Flat Optima in the
        Deep Learning Optimization Landscape".
    Cost: 1 gradient per sample, 2 buffers.

    Example:
        >>> lpf_sgd(samples=4)
        lpf_sgd(rho=0.01, samples=4)
    """
    check_whole(samples=samples)

    def talk(look: Look) -> Talk:
        if not look.moves:
            return (yield HERE)
        total = yield perturb.noise(look.w, look.w, look.rho, generator=look.generator)
        for _ in range(samples - 1):
            total = total + (
                yield perturb.noise(look.w, look.w, look.rho, generator=look.generator)
            )
        return total / samples if samples > 1 else total

    return Conversation(talk, rho)


@member
def rwp(rho: Length = 0.01, alpha: float = 0.5) -> Conversation:
    """Mixed random weight perturbation: the gradient at noisy weights, and the plain one.

        d = (1 - alpha) g + alpha grad f(w + rho t z),   t = the norm of each filter,  z ~ N(0, I)

    Args:
        rho: The noise's standard deviation, as a share of the filter's norm. Default from the
            authors' experiments.
        alpha: The weight of the noisy gradient. Default from the authors' experiments.

    Returns:
        The rule.

    Raises:
        ValueError: If `alpha` is not a finite number.

    Source: Li et al. 2022, "Efficient Generalization Improvement Guided by Random Weight
        Perturbation".
    Differs: the authors take the two gradients on different halves of the batch, in parallel; here
        both see all of it.
    Cost: 2 gradients, 2 buffers.

    Example:
        >>> rwp(alpha=0.7)
        rwp(rho=0.01, alpha=0.7)
    """
    check_finite(alpha=alpha)

    def talk(look: Look) -> Talk:
        g = yield HERE
        if not look.moves:
            return g
        p = yield perturb.noise(look.w, g, look.rho, generator=look.generator)
        return combine.lerp(g, p, a=alpha)

    return Conversation(talk, rho)
