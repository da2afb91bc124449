"""A number from random samples, with its standard error and the interval that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Estimate", "estimated", "stream"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over random samples.

    Example:
        >>> guess = Estimate(value=2.0, standard_error=0.1, samples=64)
        >>> low, high = guess.interval()
        >>> round(low, 3), round(high, 3)
        (1.8, 2.2)
    """

    value: float
    standard_error: float
    samples: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval that covers the true value with a given chance, by Student's t.

        Args:
            level: The chance, above 0 and below 1.

        Returns:
            The lower and the upper end.

        Raises:
            ValueError: If `level` is out of its range.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        reach = _student(level, self.samples - 1) * self.standard_error
        return self.value - reach, self.value + reach


def estimated(terms: Tensor) -> Estimate:
    """The mean of independent samples with its standard error.

    Args:
        terms: The samples (n,), two or more.

    Returns:
        The estimate.
    """
    terms = terms.double()
    error = float(terms.std()) / math.sqrt(len(terms))
    return Estimate(value=float(terms.mean()), standard_error=error, samples=len(terms))


def stream(seed: int) -> torch.Generator:
    """A generator for probes, of another stream than the one `torch.manual_seed(seed)` starts.

    Data or weights drawn after `torch.manual_seed(0)` would else contain the very probes of seed 0,
    and no estimate over them would be one over random vectors.

    Args:
        seed: Decides the stream.

    Returns:
        The generator, on the CPU.
    """
    return torch.Generator().manual_seed((seed + 0x5EED_9806_E5) % 2**63)


def _student(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, by its expansion in 1 / freedom."""
    if freedom == 1:
        return math.tan(math.pi * level / 2)
    if freedom == 2:
        return level * math.sqrt(2 / (1 - level**2))
    x = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
