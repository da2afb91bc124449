"""How long products with an operator will take, from one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from flatminima.sharpness.operators import Operator

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What some products with an operator are expected to take.

    Example:
        >>> print(Forecast(product=0.5, low=20.0, high=60.0))
        about 20 to 60 s: 0.5 s for each of 40 to 120 products
    """

    product: float  # seconds
    low: float  # seconds
    high: float  # seconds

    def __str__(self) -> str:
        few, many = (round(seconds / self.product) for seconds in (self.low, self.high))
        return (
            f"about {self.low:.2g} to {self.high:.3g} s: {self.product:.2g} s for each of "
            f"{few} to {many} products"
        )


def forecast(
    operator: Operator,
    products: tuple[int, int] = (40, 120),
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Forecast:
    """The time that products will take, before a long run begins.

    Within `with operator:` around both, what the products share is built once and not timed.

    Args:
        operator: The operator.
        products: The fewest and the most that are expected; by default what the five largest
            eigenvalues of a network most often need.
        clock: What tells the time, in seconds.

    Returns:
        The forecast.

    Cost: two products, the first to warm up.

    Example:
        >>> from flatminima.sharpness import FromFunction
        >>> from flatminima.vector import Vector
        >>> double = FromFunction(lambda v: 2.0 * v, like=Vector([torch.zeros(3)]))
        >>> ticks = iter([0.0, 0.5])
        >>> forecast(double, clock=lambda: next(ticks)).high
        60.0
    """
    v = operator.like.map(torch.ones_like)
    with operator:
        operator(v)
        start = clock()
        float(operator(v).norm())  # a device is waited for
        seconds = clock() - start
    low, high = products
    return Forecast(product=seconds, low=low * seconds, high=high * seconds)
