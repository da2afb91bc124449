"""Eigenpairs with errors that were measured on the very vectors that are returned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from flatminima.sharpness.krylov import flat
from flatminima.sharpness.operators import Operator
from flatminima.vector import Vector

__all__ = ["Eigenpairs", "Ratio", "Which", "aim", "ends", "order", "rayleigh", "squared_errors"]

Which: TypeAlias = Literal["largest", "smallest", "both", "magnitude"]


class Ratio(NamedTuple):
    """A ratio of two eigenvalues and how far from the true one it can be."""

    value: float
    bound: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Eigenpairs:
    """Some eigenvalues at the ends of a spectrum with their vectors and errors.

    Within the residual of each value there is an eigenvalue of the operator.

    Example:
        >>> from flatminima.sharpness import FromFunction, top_eigenpairs
        >>> double = FromFunction(lambda v: 2.0 * v, like=Vector([torch.zeros(3)]))
        >>> pairs = top_eigenpairs(double, k=2)
        >>> pairs.values
        tensor([2., 2.], dtype=torch.float64)
        >>> pairs.converged, pairs.ratio(1, 2).value
        (True, 1.0)
    """

    values: Tensor  # (k,) float64, the outermost first; descending for `both`, which has 2 k
    vectors: list[Vector]  # one for each, of norm 1
    residuals: Tensor  # (k,) float64, ||A v - value v||, measured
    errors: Tensor  # (k,) float64, min(residual, residual^2 / gap to the next value), an estimate
    slack: float  # values nearer than this count as one: between two, one may have been passed over
    missed: float  # bound on the chance that one was overlooked; 1 where that was not looked into
    products: int  # with the operator, one for each pair for the residuals
    converged: bool  # every residual is within the tolerance, and `missed` is within the risk
    which: Which
    seed: int

    def ratio(self, i: int, j: int) -> Ratio:
        """The i-th eigenvalue over the j-th, counted from 1 as in lambda_1 / lambda_5.

        Args:
            i: Which one is divided, 1 to k.
            j: Which one divides, 1 to k.

        Returns:
            The ratio and the largest error that residuals and slack allow, whichever is larger for
            each value; infinite if the divisor may be 0.

        Raises:
            ValueError: If there is no such eigenvalue.
        """
        for name, index in (("i", i), ("j", j)):
            if not 1 <= index <= len(self.values):
                raise ValueError(
                    f"{name} must be between 1 and k = {len(self.values)}, got {index}"
                )
        off = self.residuals.clamp(min=self.slack)
        (a, b), (r, s) = (pair[[i - 1, j - 1]].tolist() for pair in (self.values, off))
        value = a / b if b else math.nan
        if abs(b) <= s:
            return Ratio(value, math.inf)
        ends = [x / y for x in (a - r, a + r) for y in (b - s, b + s)]
        return Ratio(value, 0.0 if i == j else max(abs(end - value) for end in ends))

    def __repr__(self) -> str:
        rows = zip(self.values.tolist(), self.residuals.tolist(), strict=True)
        pairs = ", ".join(f"{value:.5g} +- {residual:.1g}" for value, residual in rows)
        state = "converged" if self.converged else "NOT converged"
        return f"Eigenpairs({pairs}; {state} after {self.products} products)"


def ends(values: Tensor, k: int, which: Which) -> tuple[int, int]:
    """How many of the wanted values are at the upper end and how many at the lower.

    Args:
        values: All that are known, descending.
        k: How many are wanted; at each end, for `both`.
        which: Which are wanted.

    Returns:
        The two numbers.
    """
    if which == "magnitude":
        high = int((values[values.abs().argsort(descending=True)[:k]] >= 0).sum())
        return high, k - high
    return (0 if which == "smallest" else k), (0 if which == "largest" else k)


def order(values: Tensor, which: Which) -> Tensor:
    """The places of the values in the order in which a result has them."""
    return {
        "largest": -values,
        "smallest": values,
        "both": -values,
        "magnitude": -values.abs(),
    }[which].argsort()


def aim(values: Tensor, which: Which, tolerance: float, floor: float) -> float:
    """The residual at which a pair is converged.

    Args:
        values: The values that are wanted.
        which: Which ones they are.
        tolerance: A multiple of the outermost value's size.
        floor: What is smaller is rounding.

    Returns:
        The residual.
    """
    outer = values.abs().max() if which == "both" else values[order(values, which)[0]].abs()
    return tolerance * float(outer) if outer > floor else floor


def rayleigh(operator: Operator, vectors: Sequence[Vector]) -> tuple[Tensor, Tensor]:
    """The value and the residual of each vector, for the vector scaled to norm 1.

        value = v' A v / v' v,   residual = || A v - value v || / || v ||

    Args:
        operator: The operator A.
        vectors: The vectors.

    Returns:
        The values and the residuals, float64.

    Cost: one product each.
    """
    rows: list[tuple[float, float]] = []
    for v in vectors:
        row, product = (flat(u, operator.like).double() for u in (v, operator(v)))
        value = torch.dot(row, product) / torch.dot(row, row)
        rows.append((float(value), float((product - value * row).norm() / row.norm())))
    values, residuals = torch.tensor(rows, dtype=torch.float64, device="cpu").T
    return values, residuals


def squared_errors(values: Tensor, residuals: Tensor, others: Tensor) -> Tensor:
    """residual^2 / gap where that is smaller; the gap is to the nearest other value seen."""
    seen = torch.cat([values, others])
    distances = (values[:, None] - seen[None, :]).abs()
    distances[range(len(values)), range(len(values))] = math.inf
    gaps = distances.min(dim=1).values - residuals
    return torch.where(gaps > residuals, residuals.square() / gaps, residuals)
