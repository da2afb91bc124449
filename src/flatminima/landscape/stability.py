"""Closed forms on a parabola: how sharp a valley may be, how far SAM may look, before it leaves.

On `a w^2 / 2` with step eta, SAM's step is `w <- w - eta a (w + rho sign w)`. Up to the edge it
does not come to rest: it jumps to and fro across the bottom, further with a larger radius.
Where the valley ends in a ridge, it leaves once the place where it looks is beyond the ridge. The
edges of gradient descent, momentum, Adam and SAM are in `flatminima.sharpness.edge_of_stability`.
"""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["bounce", "escape_radius", "usam_edge"]


def usam_edge(lr: float, rho: float) -> float:
    """The curvature above which SAM without the normalisation diverges on a parabola.

        (sqrt(1 + 8 rho / eta) - 1) / (2 rho)

    Its step is `w <- (1 - eta a (1 + rho a)) w`, which shrinks up to eta a (1 + rho a) = 2.

    Args:
        lr: The step eta.
        rho: The step uphill, in units of a learning rate.

    Returns:
        The curvature, below 2 / eta.

    Raises:
        ValueError: If `lr` is not positive, or `rho` is negative.

    Source: derived above.

    Example:
        >>> a = usam_edge(0.1, rho=0.05)
        >>> round(0.1 * a * (1 + 0.05 * a), 9)
        2.0
    """
    _check_lr(lr)
    _check_rho(rho)
    return 4 / (lr * (math.sqrt(1 + 8 * rho / lr) + 1))


def bounce(curvature: float, lr: float, rho: float) -> float:
    """How far from the bottom of a parabola SAM goes on jumping to and fro.

        eta a rho / (2 - eta a)

    The fixed point of |w| <- |w - eta a (w + rho sign w)| with a change of sign.

    Args:
        curvature: The curvature a.
        lr: The step eta.
        rho: The radius.

    Returns:
        The distance; inf where `curvature` is 2 / lr or more, and SAM diverges.

    Raises:
        ValueError: If `curvature` or `lr` is not positive, or `rho` is negative.

    Source: Bartlett, Long & Bousquet 2022, arXiv:2210.01513, who show that SAM on a quadratic ends
    in this cycle, along the direction of largest curvature.

    Example:
        >>> bounce(10.0, lr=0.1, rho=0.5)
        0.5
    """
    share = _share(curvature, lr)
    _check_rho(rho)
    return math.inf if share >= 2 else share * rho / (2 - share)


def escape_radius(
    curvature: float, lr: float, ridge: float, *, start: Literal["settled", "bottom"] = "settled"
) -> float:
    """The radius above which SAM leaves a valley: it looks beyond the ridge.

        settled:  ridge (1 - eta a / 2);      from the bottom:  ridge / (1 + eta a)

    SAM settles at the distance b = eta a rho / (2 - eta a) from the bottom and looks rho further,
    to b + rho = 2 rho / (2 - eta a). Once that is beyond the ridge, the slope that it sees is the
    other valley's, and leads out. Coming from the very bottom, its first jump goes to eta a rho,
    which is further than b where eta a < 1. Leaving is not arriving: it may rest on the ridge.

    Args:
        curvature: The curvature a of the valley.
        lr: The step eta.
        ridge: How far from the bottom the valley ends.
        start: Whether SAM has settled there, or starts at the bottom.

    Returns:
        The radius; 0 where `curvature` is 2 / lr or more, and it does not stay in any case.

    Raises:
        ValueError: If `curvature`, `lr` or `ridge` is not positive.

    Source: derived above, from the cycle of Bartlett, Long & Bousquet 2022, arXiv:2210.01513.

    Example:
        >>> escape_radius(400.0, lr=0.002, ridge=0.18)
        0.108
    """
    share = _share(curvature, lr)
    if not ridge > 0:
        raise ValueError(f"ridge must be a positive distance, got {ridge}")
    settled = ridge * max(0.0, 1 - share / 2)
    return settled if start == "settled" else min(settled, ridge / (1 + share))


def _share(curvature: float, lr: float) -> float:
    """The product of curvature and step, of which all of this is made."""
    _check_lr(lr)
    if not curvature > 0:
        raise ValueError(f"curvature must be positive, got {curvature}")
    return curvature * lr


def _check_lr(lr: float) -> None:
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")


def _check_rho(rho: float) -> None:
    if not rho >= 0:
        raise ValueError(f"rho must be >= 0, got {rho}")
