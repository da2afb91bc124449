"""The largest eigenvalues of an operator, each with a residual that was measured.

Thick-restart Lanczos with full reorthogonalisation, in three stages:

1. *Search*: extend a Krylov basis from a random vector until the residuals of the k largest Ritz
   pairs are small. The algebraically largest: a Hessian has negative outliers away from minima.
2. *Doubt*: one random vector sees one direction of an eigenspace, so a repeated eigenvalue counts
   once. Keep the pairs found, begin again from a fresh vector in their complement, and go on until
   the chance that it overlooked another eigenvalue among the k largest is small. If one turns up,
   converge and doubt again.
3. *Measure*: multiply every eigenvector once more. Values and residuals are those of the vectors
   returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from flatminima.sharpness.krylov import Krylov, Ritz, flat
from flatminima.sharpness.operators import Operator
from flatminima.vector import Vector

__all__ = ["Eigenpairs", "Progress", "Ratio", "top_eigenpairs"]

Progress: TypeAlias = Callable[[int, Tensor, Tensor], None]


class Ratio(NamedTuple):
    """A ratio of two eigenvalues and how far from the true one it can be."""

    value: float
    bound: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Eigenpairs:
    """The k largest eigenvalues with their vectors and errors.

    Within the residual of each value there is an eigenvalue of the operator.

    Example:
        >>> from flatminima.sharpness import FromFunction
        >>> double = FromFunction(lambda v: 2.0 * v, like=Vector([torch.zeros(3)]))
        >>> pairs = top_eigenpairs(double, k=2)
        >>> pairs.values
        tensor([2., 2.], dtype=torch.float64)
        >>> pairs.converged, pairs.ratio(1, 2).value
        (True, 1.0)
    """

    values: Tensor  # (k,) float64, descending
    vectors: list[Vector]  # k of them, of norm 1
    residuals: Tensor  # (k,) float64, ||A v - value v||, measured
    errors: Tensor  # (k,) float64, min(residual, residual^2 / gap to the next value), an estimate
    missed: float  # bound on the chance that one was overlooked because its value is repeated
    products: int  # with the operator, k of them for the residuals
    converged: bool  # every residual is within the tolerance, and `missed` is within the risk

    def ratio(self, i: int, j: int) -> Ratio:
        """The i-th largest eigenvalue over the j-th, counted from 1 as in lambda_1 / lambda_5.

        Args:
            i: Which one is divided, 1 to k.
            j: Which one divides, 1 to k.

        Returns:
            The ratio and the largest error that the two residuals allow; infinite if the divisor
            may be 0.

        Raises:
            ValueError: If there is no such eigenvalue.
        """
        for name, index in (("i", i), ("j", j)):
            if not 1 <= index <= len(self.values):
                raise ValueError(
                    f"{name} must be between 1 and k = {len(self.values)}, got {index}"
                )
        (a, b), (r, s) = (pair[[i - 1, j - 1]].tolist() for pair in (self.values, self.residuals))
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


def top_eigenpairs(
    operator: Operator,
    k: int = 5,
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    risk: float = 0.01,
    window: int | None = None,
    max_products: int = 300,
    progress: Progress | None = None,
) -> Eigenpairs:
    """The k algebraically largest eigenvalues and their eigenvectors, with measured residuals.

        A v_i = lambda_i v_i,   lambda_1 >= lambda_2 >= ... >= lambda_k

    Args:
        operator: A symmetric operator; a `Hessian`, say.
        k: How many, at most the operator's size.
        seed: Of the random start vectors. The same seed gives the same result.
        tolerance: The residuals stop the search at this multiple of |lambda_1|. The error of a
            value is about residual^2 / gap, so 1e-3 gives six digits of a well separated one.
        risk: The largest chance to overlook one of the k because its eigenvalue is repeated; 1 does
            without that check. Where the chance is not brought down to it, `converged` is false.
        window: The basis vectors kept in memory; by default 4 k + 20. Fewer need more products.
        max_products: When to give up; the pairs found so far are returned, and `converged` is
            false.
        progress: Called with (products so far, the k values, their residuals) as they improve.

    Returns:
        The eigenpairs.

    Raises:
        ValueError: If an argument is out of its range.
        RuntimeError: If a product is not finite.

    Source: Wu and Simon 2000 (thick restart); Kuczynski and Wozniakowski 1992, "Estimating the
    largest eigenvalue by the power and Lanczos algorithms with a random start": the chance that j
    steps miss an eigenvalue by the fraction x of the spectrum's width is at most 1.648 sqrt(P)
    exp(-sqrt(x) (2 j - 1)).
    Cost: products are everything, most often 30 to 60 for k = 5 on a network; `window` vectors of
    memory.

    Example:
        >>> from flatminima.sharpness import FromFunction
        >>> curvature = Vector([torch.tensor([3.0, 1.0]), torch.tensor([-7.0])])
        >>> pairs = top_eigenpairs(FromFunction(lambda v: curvature * v, like=curvature), k=2)
        >>> pairs.values.round(decimals=5)
        tensor([3., 1.], dtype=torch.float64)
    """
    window = 4 * k + 20 if window is None else window
    _check(operator.size, k, tolerance, risk, window, max_products)
    before = operator.products
    with operator:
        basis = Krylov(operator, window, torch.Generator().manual_seed(seed))
        search = _Search(basis, k, tolerance, risk, before + max_products - k, progress)
        missed = search.run()
        return _measured(search, missed, before)


@dataclass
class _Search:
    """The first two stages: extend the basis until the k pairs are there, then doubt them."""

    basis: Krylov
    k: int
    tolerance: float
    risk: float
    limit: int  # the operator's count of products at which to give up
    progress: Progress | None
    lowest: float = math.inf  # the lowest Ritz value so far

    def run(self) -> float:
        """Search and doubt; returns a bound on the chance that one of the k was missed."""
        # Residuals can be small by accident while the part of the start vector along a large
        # eigenvector is still tiny: in any case take as many steps as reach half the width.
        least = self.products + _steps(0.5, self.basis.operator.size, self.risk)
        if not self._converge(lambda _: self.products >= least):
            return 1.0
        while self.risk < 1.0:
            known = self.basis.ritz().values[: self.k]
            if self.basis.is_whole or known[0] - known[-1] <= self.slack(known):
                return 0.0  # equal within the tolerance: one more copy would change nothing
            chance = self._doubt(known)
            if chance is not None:
                return chance
        return 1.0

    def _doubt(self, known: Tensor) -> float | None:
        """Search the complement of the pairs: the chance of missing one, `None` if one came."""
        self.basis.compress(self.k, fresh=True)
        start, limit = self.products, known + self.slack(known)

        def is_news(ritz: Ritz) -> bool:
            return bool((ritz.values[: self.k] > limit).any())

        def chance(ritz: Ritz) -> float:
            return self._chance(ritz, known, self.products - start)

        done = self._converge(lambda ritz: is_news(ritz) or chance(ritz) <= self.risk)
        ritz = self.basis.ritz()
        if done and is_news(ritz):
            return None
        return chance(ritz) if done or not is_news(ritz) else 1.0

    @property
    def products(self) -> int:
        return self.basis.operator.products

    @property
    def floor(self) -> float:
        """What is smaller is rounding."""
        return 8 * self.basis.precision * self.basis.scale

    def aim(self, values: Tensor) -> float:
        """The residual at which a pair is converged."""
        top = abs(float(values[0]))
        return self.tolerance * top if top > self.floor else self.floor

    def slack(self, values: Tensor) -> float:
        """The difference below which two values are the same."""
        return max(self.aim(values), self.floor)

    def _converge(self, enough: Callable[[Ritz], bool]) -> bool:
        """Extend until the k residuals are small and `enough` agrees; false if products ran out."""
        basis, k = self.basis, self.k
        while self.products < self.limit and not basis.is_whole:
            if basis.applied == basis.window:
                basis.compress((k + basis.window) // 2)
            basis.extend()
            if basis.applied < k:
                continue
            ritz = basis.ritz()
            values, residuals = ritz.values[:k], ritz.residuals[:k]
            self.lowest = min(self.lowest, float(ritz.values[-1]))
            if self.progress is not None:
                self.progress(self.products, values, residuals)
            # Half, because to doubt the pairs is to forget what is left of their residuals.
            small = float(residuals.max()) <= max(0.5 * self.aim(values), self.floor)
            if small and enough(ritz):
                return True
        return basis.is_whole

    def _chance(self, ritz: Ritz, known: Tensor, steps: int) -> float:
        """A bound on the chance that so many steps from a fresh vector overlooked one of the k."""
        if self.basis.is_whole:
            return 0.0
        # What can be missing is a further copy of a value above the k-th: at least the least one.
        target = float(known[known > known[-1] + self.slack(known)].min())
        rest = float(ritz.values[self.k]) if len(ritz.values) > self.k else self.lowest
        fraction = (target - rest) / (target - self.lowest)
        return _chance(min(max(fraction, 0.0), 1.0), self.basis.operator.size - self.k, steps)


def _chance(fraction: float, size: int, steps: int) -> float:
    """A bound on the chance that Lanczos is off by a `fraction` of the spectrum's width."""
    return min(1.0, 1.648 * math.sqrt(size) * math.exp(-math.sqrt(fraction) * (2 * steps - 1)))


def _steps(fraction: float, size: int, chance: float) -> int:
    """The number of steps for which `_chance` is as small as `chance`."""
    return math.ceil((math.log(1.648 * math.sqrt(size) / chance) / math.sqrt(fraction) + 1) / 2)


def _measured(search: _Search, missed: float, before: int) -> Eigenpairs:
    """The third stage: values and residuals of the very vectors that are returned."""
    basis, k, like = search.basis, search.k, search.basis.operator.like
    ritz = basis.ritz()
    rows = []
    for vector in basis.vectors(ritz.weights[:, :k]):
        value, residual = _rayleigh(
            flat(vector, like).double(), flat(basis.operator(vector), like).double()
        )
        rows.append((value, residual, vector))
    rows.sort(key=lambda row: row[0], reverse=True)
    values = torch.tensor([row[0] for row in rows], dtype=torch.float64, device="cpu")
    residuals = torch.tensor([row[1] for row in rows], dtype=torch.float64, device="cpu")
    small = bool((residuals <= search.aim(values)).all())
    return Eigenpairs(
        values=values,
        vectors=[row[2] for row in rows],
        residuals=residuals,
        errors=_errors(values, residuals, ritz.values[k : k + 1]),
        missed=missed,
        products=search.products - before,
        converged=small and missed <= search.risk,
    )


def _rayleigh(row: Tensor, product: Tensor) -> tuple[float, float]:
    """The Rayleigh quotient of a vector and the residual, for the vector scaled to norm 1."""
    value = torch.dot(row, product) / torch.dot(row, row)
    return float(value), float((product - value * row).norm() / row.norm())


def _errors(values: Tensor, residuals: Tensor, following: Tensor) -> Tensor:
    """residual^2 / gap where that is smaller; the gap is to the nearest other value seen."""
    others = torch.cat([values, following])
    distances = (values[:, None] - others[None, :]).abs()
    distances[range(len(values)), range(len(values))] = math.inf
    gaps = distances.min(dim=1).values - residuals
    return torch.where(gaps > residuals, residuals.square() / gaps, residuals)


def _check(
    size: int, k: int, tolerance: float, risk: float, window: int, max_products: int
) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k > size:
        raise ValueError(f"k must be at most the operator's size {size}, got {k}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}")
    if not 0 < risk <= 1:
        raise ValueError(f"risk must be > 0 and at most 1, got {risk}; 1 does without the check")
    if window < min(k + 2, size):
        raise ValueError(f"window must be at least k + 2 = {k + 2}, got {window}")
    if max_products < 2 * k:
        raise ValueError(
            f"max_products must be at least 2 k = {2 * k}, got {max_products}; "
            "k of them measure the residuals"
        )
