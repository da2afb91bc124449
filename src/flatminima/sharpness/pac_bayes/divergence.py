"""Divergences between two coins and between two Gaussians, and the inverse of the first."""

from __future__ import annotations

import math

__all__ = ["binary_kl", "gaussian_kl", "kl_inverse"]


def binary_kl(q: float, truth: float) -> float:
    """The divergence between coins that show heads with probability `q` and `truth`, in nats.

        kl(q || t) = q ln(q / t) + (1 - q) ln((1 - q) / (1 - t))

    Args:
        q: The empirical one, in [0, 1].
        truth: The true one, in [0, 1].

    Returns:
        The divergence; infinite if `truth` excludes what `q` does not.

    Raises:
        ValueError: If one of them is not a probability.

    Example:
        >>> binary_kl(0.5, 0.5), binary_kl(0.5, 1.0)
        (0.0, inf)
    """
    for name, value in (("q", q), ("truth", truth)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    return _part(q, truth) + _part(1.0 - q, 1.0 - truth)


def kl_inverse(q: float, bound: float) -> float:
    """The largest probability that is within a divergence of `q`: the tightest upper bound.

        sup { t : kl(q || t) <= bound }

    Args:
        q: The empirical loss, in [0, 1].
        bound: The divergence, in nats, >= 0.

    Returns:
        The probability, rounded up; never more than 1.

    Raises:
        ValueError: If `q` is not a probability or `bound` is negative.

    Source: Langford and Seeger 2001; Dziugaite and Roy 2017, arXiv:1703.11008, who bound it by
    Newton's method. Here it is bisection, to the last bit.

    Example:
        >>> round(kl_inverse(0.028, 5144 / 55000), 4)
        0.1605
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must be in [0, 1], got {q}")
    if not bound >= 0:
        raise ValueError(f"bound must be >= 0, got {bound}")
    low, high = q, 1.0
    if bound == 0:
        return q
    while low < (middle := 0.5 * (low + high)) < high:
        if binary_kl(q, middle) <= bound:
            low = middle
        else:
            high = middle
    return high


def gaussian_kl(k: int, distance: float, variance: float, prior_variance: float) -> float:
    """The divergence of one Gaussian from another, both with the same variance in all directions.

        KL(N(a, s I) || N(b, t I)) = 1/2 [ (k s + ||a - b||^2) / t - k + k ln(t / s) ]

    Args:
        k: The number of coordinates.
        distance: ||a - b||, the distance of the means.
        variance: s, of the first (the posterior).
        prior_variance: t, of the second (the prior).

    Returns:
        The divergence, in nats.

    Raises:
        ValueError: If a variance is not positive.

    Example:
        >>> gaussian_kl(3, 0.0, 0.5, 0.5), gaussian_kl(1, 2.0, 1.0, 1.0)
        (0.0, 2.0)
    """
    for name, value in (("variance", variance), ("prior_variance", prior_variance)):
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")
    share = variance / prior_variance
    return 0.5 * (k * (share - 1.0 - math.log(share)) + distance**2 / prior_variance)


def _part(q: float, truth: float) -> float:
    if q == 0:
        return 0.0
    return q * math.log(q / truth) if truth > 0 else math.inf
