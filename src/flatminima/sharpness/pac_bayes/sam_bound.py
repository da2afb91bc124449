"""The PAC-Bayes bound of the SAM paper, step by step, in both of its forms.

    1  `mcallester`     E_Q L_D <= E_Q L_S + root(KL(Q || P), n, delta)
    2  `gaussian_kl`    of a posterior N(w, sigma^2 I) from a prior N(0, t I)
    3  `noisy_bound`    the best t of a grid, by a union bound
    4  `noise_for`      the sigma whose noise stays in the ball of radius rho
    5  `sam_bound`      so the mean over the noise is below the maximum over the ball

Source: Foret et al. 2021, arXiv:2010.01412, theorem 2 and its proof in the appendix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Form", "SamBound", "mcallester", "noise_for", "noisy_bound", "sam_bound"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of the bound, term by term.

    value = worst + slack + sqrt((norm + constant + confidence + grid) / (n - 1))
    """

    name: str
    worst: float  # the largest loss within the ball, times the form's factor
    slack: float  # 1 / sqrt(n), the chance that the noise leaves the ball; or 0
    norm: float  # k ln(1 + ||w||^2 / rho^2 (1 + sqrt(ln n / k))^2), or a quarter of it
    constant: float  # 1/4, or 0
    confidence: float  # from ln(n / delta)
    grid: float  # from ln(6 n + 3 k), the price of choosing the prior's variance
    n: int

    @property
    def excess(self) -> float:
        """Everything but the loss: how far the bound lies above it."""
        inside = self.norm + self.constant + self.confidence + self.grid
        return self.slack + math.sqrt(inside / (self.n - 1))

    @property
    def value(self) -> float:
        """The bound."""
        return self.worst + self.excess

    @property
    def vacuous(self) -> bool:
        """Whether it says nothing, since a loss in [0, 1] is never larger."""
        return self.value >= 1

    def __repr__(self) -> str:
        return f"{self.name} {self.value:.4g}" + (" (vacuous)" if self.vacuous else "")


@dataclass(frozen=True, kw_only=True)
class SamBound:
    """Both forms, and what they take for granted."""

    printed: Form  # the theorem as it is printed, its last term spelled out
    tight: Form  # before the last relaxation: never larger
    delta: float

    assumes = (
        "that noise on the weights does not lower the loss on new data, which cannot be checked"
    )

    @property
    def vacuous(self) -> bool:
        """Whether even the tighter form says nothing."""
        return self.tight.vacuous

    def __repr__(self) -> str:
        return (
            f"SamBound({self.printed!r}, {self.tight!r}; "
            f"with probability {1 - self.delta:g}, assuming {self.assumes})"
        )


def sam_bound(
    *, worst_loss: float, norm: float, k: int, n: int, rho: float, delta: float = 0.05
) -> SamBound:
    """The bound on the loss on new data from which SAM was derived.

        printed   M + sqrt([k ln(1 + N) + 4 ln(n/delta) + 8 ln(6n + 3k)] / (n - 1))
        tight     (1 - 1/sqrt n) M + 1/sqrt n
                  + sqrt([k ln(1 + N) / 4 + 1/4 + ln(n/delta) + 2 ln(6n + 3k)] / (n - 1))

    with M the largest loss within the ball and N = ||w||^2 / rho^2 (1 + sqrt(ln n / k))^2.

    Args:
        worst_loss: M, the largest mean loss on the n examples within the distance rho of the
            weights. The loss must lie in [0, 1]. An ascent finds a lower bound of it only
            (`worst_case`), and the bound holds for the true one.
        norm: ||w||_2.
        k: The number of trainable parameters.
        n: The number of examples, drawn independently.
        rho: The radius, chosen before the data were seen.
        delta: The chance that the bound does not hold.

    Returns:
        Both forms with all their terms. The word *vacuous* is printed where one exceeds 1.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Foret et al. 2021, arXiv:2010.01412, theorem 2; the tighter form from its proof.

    Example:
        >>> sam_bound(worst_loss=0.0, norm=2000**0.5, k=36_500_000, n=50_000, rho=0.05).printed
        as printed 99.62 (vacuous)
    """
    if not 0 <= worst_loss <= 1:
        raise ValueError(
            f"worst_loss must be in [0, 1], got {worst_loss}; take the error, or a loss clipped at "
            "1"
        )
    _check(norm, k, n, delta)
    if not rho > 0:
        raise ValueError(f"rho must be > 0, got {rho}")
    size = _complexity(norm, noise_for(rho, k, n), k)
    confidence, grid = math.log(n / delta), math.log(6.0 * n + 3.0 * k)
    root = 1.0 / math.sqrt(n)
    printed = Form(
        name="as printed",
        worst=worst_loss,
        slack=0.0,
        norm=size,
        constant=0.0,
        confidence=4.0 * confidence,
        grid=8.0 * grid,
        n=n,
    )
    tight = Form(
        name="before relaxation",
        worst=(1.0 - root) * worst_loss,
        slack=root,
        norm=0.25 * size,
        constant=0.25,
        confidence=confidence,
        grid=2.0 * grid,
        n=n,
    )
    return SamBound(printed=printed, tight=tight, delta=delta)


def mcallester(loss: float, kl: float, n: int, delta: float = 0.05) -> float:
    """The bound on the mean loss of a distribution of weights, for a prior fixed beforehand.

        loss + sqrt((KL + ln(n / delta)) / (2 (n - 1)))

    Args:
        loss: The mean over the posterior of the mean loss on the n examples, in [0, 1].
        kl: The divergence of the posterior from the prior, in nats.
        n: The number of examples.
        delta: The chance that the bound does not hold.

    Returns:
        The bound.

    Source: McAllester 1999, as Foret et al. 2021 use it.

    Example:
        >>> round(mcallester(0.1, 100.0, 10_000), 4)
        0.1749
    """
    _check(0.0, 1, n, delta)
    return loss + math.sqrt((kl + math.log(n / delta)) / (2.0 * (n - 1)))


def noisy_bound(
    loss: float, norm: float, sigma: float, k: int, n: int, delta: float = 0.05
) -> float:
    """The bound on the mean loss under noise on the weights, with the best prior of a grid.

        loss + sqrt([k ln(1 + ||w||^2 / (k sigma^2)) / 4 + 1/4 + ln(n/delta) + 2 ln(6n + 3k)]
                    / (n - 1))

    Args:
        loss: The mean of the loss on the n examples under the noise, in [0, 1].
        norm: ||w||_2.
        sigma: The standard deviation of the noise on each weight.
        k: The number of parameters.
        n: The number of examples.
        delta: The chance that the bound does not hold.

    Returns:
        The bound.

    Source: the proof of theorem 2 in Foret et al. 2021.

    Example:
        >>> round(noisy_bound(0.1, 1.0, 0.1, 100, 100_000), 4)
        0.1242
    """
    _check(norm, k, n, delta)
    inside = 0.25 * _complexity(norm, sigma, k) + 0.25
    inside += math.log(n / delta) + 2.0 * math.log(6.0 * n + 3.0 * k)
    return loss + math.sqrt(inside / (n - 1))


def noise_for(rho: float, k: int, n: int) -> float:
    """The largest noise that stays within the ball, but for a chance of at most 1 / sqrt(n).

        sigma = rho / (sqrt k + sqrt ln n),   since P(||z|| > sqrt k + sqrt ln n) <= 1 / sqrt n

    Args:
        rho: The radius of the ball.
        k: The number of coordinates.
        n: The number of examples.

    Returns:
        The standard deviation of the noise on each weight.

    Source: Laurent and Massart 2000, as Foret et al. 2021 use it.

    Example:
        >>> round(noise_for(0.05, 10_000, 50_000), 6)
        0.000484
    """
    return rho / (math.sqrt(k) + math.sqrt(math.log(n)))


def _complexity(norm: float, sigma: float, k: int) -> float:
    """The term k ln(1 + ||w||^2 / (k sigma^2))."""
    return k * math.log1p(norm**2 / (k * sigma**2))


def _check(norm: float, k: int, n: int, delta: float) -> None:
    if not norm >= 0:
        raise ValueError(f"norm must be >= 0, got {norm}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}; it counts the trainable parameters")
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}; it counts the examples")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be > 0 and < 1, got {delta}")
