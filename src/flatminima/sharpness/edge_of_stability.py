"""How sharp a minimum may be before an optimizer with a given learning rate leaves it.

On a quadratic the largest eigenvalue decides: above the line the steps grow, below they shrink.
Full-batch training of a network rises to about its optimizer's line and stays there (the edge of
stability). Draw the line beside the eigenvalue it belongs to:

    gradient descent, momentum   lambda_max(H)
    Adam                         lambda_max(P^-1 H), by `Preconditioned`
    SAM                          lambda_max(H); its line moves with the norm of the gradient
"""

from __future__ import annotations

import math

__all__ = ["adam", "gradient_descent", "momentum", "sam"]


def gradient_descent(lr: float) -> float:
    """The line of gradient descent.

        2 / lr

    Args:
        lr: The learning rate.

    Returns:
        The largest eigenvalue at which the steps do not grow.

    Raises:
        ValueError: If `lr` is not positive.

    Source: Cohen et al. 2021, arXiv:2103.00065.

    Example:
        >>> gradient_descent(0.1)
        20.0
    """
    return 2.0 / _positive(lr)


def momentum(lr: float, beta: float = 0.9, *, nesterov: bool = False) -> float:
    """The line of gradient descent with momentum, as `torch.optim.SGD` has it.

        (2 + 2 beta) / lr;   Nesterov: (2 + 2 beta) / ((1 + 2 beta) lr)

    Args:
        lr: The learning rate.
        beta: The momentum, without dampening.
        nesterov: Whether it is Nesterov's.

    Returns:
        The largest eigenvalue at which the steps do not grow.

    Raises:
        ValueError: If `lr` is not positive or `beta` not in [0, 1).

    Source: Cohen et al. 2021, arXiv:2103.00065.

    Example:
        >>> round(momentum(0.1), 3), round(momentum(0.1, nesterov=True), 3)
        (38.0, 13.571)
    """
    plain = (2.0 + 2.0 * _fraction("beta", beta)) / _positive(lr)
    return plain / (1.0 + 2.0 * beta) if nesterov else plain


def adam(lr: float, beta1: float = 0.9) -> float:
    """The line of Adam, for the eigenvalue of P^-1 H while P changes slowly.

        (2 + 2 beta1) / ((1 - beta1) lr)

    Args:
        lr: The learning rate.
        beta1: How the gradients are averaged.

    Returns:
        The largest eigenvalue of the preconditioned Hessian at which the steps do not grow.

    Raises:
        ValueError: If `lr` is not positive or `beta1` not in [0, 1).

    Source: Cohen et al. 2022, arXiv:2207.14484.

    Example:
        >>> round(adam(1.0), 6)
        38.0
    """
    return (2.0 + 2.0 * _fraction("beta1", beta1)) / ((1.0 - beta1) * _positive(lr))


def sam(lr: float, rho: float, gradient_norm: float) -> float:
    """The line of SAM on gradient descent, which falls with the norm of the gradient.

        ||g|| / (2 rho) (sqrt(1 + 8 rho / (lr ||g||)) - 1);   2 / lr at rho = 0

    Args:
        lr: The learning rate.
        rho: The radius.
        gradient_norm: The norm of the gradient at the weights.

    Returns:
        The largest eigenvalue at which the steps do not grow; 0 where the gradient is 0, since SAM
        leaves any minimum.

    Raises:
        ValueError: If `lr` is not positive, or `rho` or `gradient_norm` is negative.

    Source: Long and Bartlett 2023, "Sharpness-aware minimization and the edge of stability".

    Example:
        >>> round(sam(0.1, 0.05, 1.0), 4), sam(0.1, 0.0, 1.0)
        (12.3607, 20.0)
    """
    _positive(lr)
    for name, value in (("rho", rho), ("gradient_norm", gradient_norm)):
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    if rho == 0:
        return gradient_descent(lr)
    if gradient_norm == 0:
        return 0.0
    # (sqrt(1 + x) - 1) without the difference, which is all rounding for a small x
    x = 8.0 * rho / (lr * gradient_norm)
    return 4.0 / (lr * (math.sqrt(1.0 + x) + 1.0))


def _positive(lr: float) -> float:
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    return lr


def _fraction(name: str, beta: float) -> float:
    if not 0 <= beta < 1:
        raise ValueError(f"{name} must be in [0, 1), got {beta}")
    return beta
