"""Average-case sharpness: the mean rise of the loss under Gaussian noise on the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from flatminima.objective import Objective
from flatminima.sharpness.estimate import stream
from flatminima.sharpness.units import Unit, units
from flatminima.vector import Vector

__all__ = ["AverageCase", "average_case"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AverageCase:
    """The mean rise of the loss under noise, and how far chance moves it."""

    value: float  # the mean rise
    standard_error: float  # of that mean; nan for one sample
    loss: float  # at the weights
    rises: tuple[float, ...]  # one for each sample

    def __repr__(self) -> str:
        count = len(self.rises)
        return f"AverageCase({self.value:.5g} +- {self.standard_error:.1g}; {count} samples)"


def average_case(
    objective: Objective,
    w: Vector,
    rho: float,
    scale: Unit = "one",
    samples: int = 64,
    seed: int = 0,
    *,
    eta: float = 0.0,
) -> AverageCase:
    """The average-case (adaptive) sharpness: how much the loss rises under noise, on average.

        E f(w + rho c z) - f(w),   z ~ N(0, I);   about rho^2 tr(C H C) / 2 at a critical point

    Args:
        objective: The function f.
        w: The weights.
        rho: The standard deviation of the noise on each weight, in units of c.
        scale: The unit c of each weight: `one`, or its `element`, `filter` or `layer` size.
        samples: How many draws.
        seed: Of the draws, which do not depend on the device.
        eta: Added to the size of a weight.

    Returns:
        The mean and its standard error.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Andriushchenko et al. 2023, arXiv:2302.07011.
    Cost: `samples + 1` evaluations of the loss; no gradient.

    Example:
        >>> f = Objective(lambda w: 0.5 * w.dot(w))
        >>> found = average_case(f, Vector([torch.zeros(1000)]), rho=0.1)
        >>> abs(found.value - 5.0) < 4 * found.standard_error  # 0.1^2 1000 / 2
        True
    """
    if not (rho > 0 and math.isfinite(rho)):
        raise ValueError(f"rho must be > 0 and finite, got {rho}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    c = units(w, scale, eta=eta)
    generator = stream(seed)
    loss = float(objective.value(w))
    rises = [
        float(objective.value(w + rho * c * w.randn_like(generator))) - loss for _ in range(samples)
    ]
    sample = torch.tensor(rises, dtype=torch.float64)
    return AverageCase(
        value=float(sample.mean()),
        standard_error=float(sample.std() / math.sqrt(samples)) if samples > 1 else math.nan,
        loss=loss,
        rises=tuple(rises),
    )
