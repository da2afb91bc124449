"""A mean and its 95 % interval by Student's t."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "band", "by_seed", "decimals", "t_quantile"]

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with the interval that holds the true one with 95 % confidence."""

    mean: float
    """The mean."""
    half: float | None
    """Half the width; None for a single value, which has no interval."""
    n: int
    """How many values the mean is of."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval | None":
        """The interval of the mean of independent values, or None if there are none.

            mean +- t_{n-1} s / sqrt(n)

        Args:
            values: The values; s is their standard deviation with n - 1 below.

        Returns:
            The interval, without a width if there is a single value.

        Example:
            >>> str(Interval.of([1.0, 2.0, 3.0]))
            '2.0 [-0.5, 4.5]'
        """
        if not len(values):
            return None
        mean, half = band(np.asarray(values, dtype=float)[:, None])
        width = None if len(values) == 1 else float(half[0])
        return cls(mean=float(mean[0]), half=width, n=len(values))

    @property
    def low(self) -> float:
        """The lower end; the mean itself if there is no interval."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """The upper end; the mean itself if there is no interval."""
        return self.mean + (self.half or 0.0)

    @property
    def decided(self) -> bool:
        """Whether there is an interval and it leaves out 0."""
        return self.half is not None and (self.low > 0 or self.high < 0)

    def apart(self, other: "Interval") -> bool:
        """Whether both have an interval and the two do not touch."""
        if self.half is None or other.half is None:
            return False
        return self.low > other.high or self.high < other.low

    def __str__(self) -> str:
        digits = decimals(self.half)
        mean = f"{self.mean:.{digits}f}"
        if self.half is None:
            return mean
        return f"{mean} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def times(self, factor: float) -> "Interval":
        """The interval in another unit, such as percent."""
        half = None if self.half is None else abs(factor) * self.half
        return Interval(mean=factor * self.mean, half=half, n=self.n)


def decimals(half: float | None) -> int:
    """How many decimals a number deserves whose interval has this half-width."""
    if not half or not math.isfinite(half) or half < 1e-6:  # no spread but that of rounding
        return 1
    return min(4, max(1, math.ceil(-math.log10(half))))


def by_seed(pairs: Sequence[tuple[int, float | None]]) -> Mapping[int, float]:
    """One value per seed, the mean where a seed has several; absent values are left out."""
    values: dict[int, list[float]] = {}
    for seed, value in pairs:
        if value is not None:
            values.setdefault(seed, []).append(value)
    return {seed: sum(group) / len(group) for seed, group in values.items()}


def band(
    values: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The mean and half the width of its 95 % interval, for every column.

    Args:
        values: One row per run; nan where a run has no value there.

    Returns:
        The means, and the half-widths: nan where fewer than two runs have a value.
    """
    n = np.sum(~np.isnan(values), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(values, axis=0) / n
        spread = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / (n - 1))
        quantiles = np.array([t_quantile(int(count) - 1) for count in n.flat])
        return mean, np.where(n > 1, quantiles.reshape(n.shape) * spread / np.sqrt(n), np.nan)


@functools.cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The value that Student's t exceeds in size with probability `1 - level`.

    Found by halving on the finite sum for P(|T| < t).

    Args:
        freedom: The degrees of freedom; below 1 there is no such value.
        level: The probability inside.

    Returns:
        The quantile, or nan if `freedom` is below 1.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.

    Example:
        >>> round(t_quantile(4), 3)
        2.776
    """
    if freedom < 1:
        return math.nan
    low, high = 0.0, math.pi / 2  # angles: t = sqrt(freedom) tan(angle)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _inside(angle: float, freedom: int) -> float:
    """The probability that |T| is below `sqrt(freedom) tan(angle)`."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    area = math.sin(angle) * total
    return 2 / math.pi * (angle + area) if odd else area
