"""The search for the outermost eigenpairs: extend a basis until they are there, then doubt them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from flatminima.sharpness.eigenpairs import Which, aim, ends
from flatminima.sharpness.krylov import Krylov, Ritz
from flatminima.vector import Vector

__all__ = ["Progress", "Search"]

Progress: TypeAlias = Callable[[int, Tensor, Tensor], None]


@dataclass
class Search:
    """The first two stages of `lanczos`: extend the basis until the pairs are there, then doubt."""

    basis: Krylov
    k: int
    which: Which
    tolerance: float
    risk: float
    limit: int  # the operator's count of products at which to give up
    progress: Progress | None
    warm: bool  # begun from given vectors, which may lack any direction
    span: list[float] = field(default_factory=lambda: [math.inf, -math.inf])  # of all Ritz values

    def run(self) -> float:
        """Search and doubt; returns a bound on the chance that a wanted one was missed."""
        # Residuals can be small by accident while the part of the start vector along a large
        # eigenvector is still tiny: in any case take as many steps as reach half the width.
        size, block = self.basis.operator.size, self.basis.block
        least = self.products + (0 if self.warm else block * _steps(0.5, size, self.risk))
        if not self._converge(lambda _: self.products >= least):
            return 1.0
        while self.risk < 1.0:
            known = self.wanted(self.basis.ritz())[0]
            if self.basis.is_whole or not self.warm and self._equal(known):
                return 0.0  # equal within the tolerance: one more copy would change nothing
            chance = self._doubt(known)
            if chance is not None:
                return chance
        return 1.0

    def wanted(self, ritz: Ritz) -> tuple[Tensor, Tensor]:
        """The values and residuals that are wanted, descending."""
        high, low = self._ends(ritz)
        places = [*range(high), *range(len(ritz.values) - low, len(ritz.values))]
        return ritz.values[places], ritz.residuals[places]

    def found(self) -> tuple[list[Vector], Tensor]:
        """The vectors that are wanted, and the other values that were seen."""
        ritz = self.basis.ritz()
        (high, low), m = self._ends(ritz), len(ritz.values)
        weights = torch.cat([ritz.weights[:, :high], ritz.weights[:, m - low :]], dim=1)
        return self.basis.vectors(weights), ritz.values[high : m - low]

    def _ends(self, ritz: Ritz) -> tuple[int, int]:
        return ends(ritz.values, self.k, self.which)

    def _outward(self, known: Tensor) -> list[Tensor]:
        """Wanted values by how far out they are, descending: one row for each order among them."""
        if self.which == "magnitude":
            return [known.abs().sort(descending=True).values]
        upper, lower = known[: self.k], -known.flip(0)[: self.k]
        return {"largest": [upper], "smallest": [lower]}.get(self.which, [upper, lower])

    def _equal(self, known: Tensor) -> bool:
        return all(row[0] - row[-1] <= self.slack(known) for row in self._outward(known))

    def _doubt(self, known: Tensor) -> float | None:
        """Search the complement of the pairs: the chance of missing one, `None` if one came."""
        high, low = self._ends(self.basis.ritz())
        self.basis.compress(high, low, fresh=True)
        start, slack, rows = self.products, self.slack(known), self._outward(known)

        def is_news(ritz: Ritz) -> bool:
            pairs = zip(self._outward(self.wanted(ritz)[0]), rows, strict=True)
            return any(bool((new > old + slack).any()) for new, old in pairs)

        def chance(ritz: Ritz) -> float:
            steps = self.products - start
            one, two = ritz.values, -ritz.values.flip(0)
            upper, lower = known[:high], -known.flip(0)[:low]
            return min(
                1.0,
                (high and self._chance(one, upper, float(rows[0][-1]), self.span[0], steps))
                + (low and self._chance(two, lower, float(rows[-1][-1]), -self.span[1], steps)),
            )

        done = self._converge(lambda ritz: is_news(ritz) or chance(ritz) <= self.risk)
        ritz = self.basis.ritz()
        if done and is_news(ritz):
            return None
        return chance(ritz) if done or not is_news(ritz) else 1.0

    @property
    def products(self) -> int:
        """The operator's count."""
        return self.basis.operator.products

    @property
    def floor(self) -> float:
        """What is smaller is rounding."""
        return 8 * self.basis.precision * self.basis.scale

    def aim(self, values: Tensor) -> float:
        """The residual at which a pair is converged."""
        return aim(values, self.which, self.tolerance, self.floor)

    def slack(self, values: Tensor) -> float:
        """The difference below which two values are the same."""
        return max(self.aim(values), self.floor)

    def _converge(self, enough: Callable[[Ritz], bool]) -> bool:
        """Extend until the residuals are small and `enough` agrees; false if products ran out."""
        basis = self.basis
        pairs = 2 * self.k if self.which == "both" else self.k
        # To doubt the pairs is to forget what is left of their residuals, so these are half of the
        # aim by then; undoubted they are measured next, and rounding alone comes between.
        share = 0.5 if self.risk < 1.0 else 0.95
        while self.products < self.limit and not basis.is_whole:
            if basis.applied == basis.window:
                self._restart(pairs)
            basis.extend()
            if basis.applied < pairs:
                continue
            ritz = basis.ritz()
            low, high = float(ritz.values[-1]), float(ritz.values[0])
            self.span = [min(self.span[0], low), max(self.span[1], high)]
            values, residuals = self.wanted(ritz)
            if self.progress is not None:
                self.progress(self.products, values, residuals)
            small = float(residuals.max()) <= max(share * self.aim(values), self.floor)
            if small and enough(ritz):
                return True
        return basis.is_whole

    def _restart(self, pairs: int) -> None:
        """Keep the wanted Ritz vectors and half of the others that there is room for."""
        high, low = self._ends(self.basis.ritz())
        further = (self.basis.window - pairs) // 2
        above = further * high // (high + low)
        self.basis.compress(high + above, low + further - above)

    def _chance(self, seen: Tensor, known: Tensor, last: float, lowest: float, steps: int) -> float:
        """A bound on the chance that so many steps from fresh rows overlooked one at one end."""
        if self.basis.is_whole:
            return 0.0
        # What can be missing is a further copy of a value above the last: at least the least one.
        # A warm start can lack any value; where all are equal, one above them.
        limit = last + self.slack(known)
        above = known[known > limit]
        if not len(above) and not self.warm:
            return 0.0
        target = float(above.min()) if len(above) else limit
        rest = float(seen[len(known)]) if len(seen) > len(known) else lowest
        fraction = min(max((target - rest) / (target - lowest), 0.0), 1.0)
        block = self.basis.block
        return _chance(fraction, self.basis.operator.size - self.k, steps // block) ** block


def _chance(fraction: float, size: int, steps: int) -> float:
    """A bound on the chance that Lanczos is off by a `fraction` of the spectrum's width."""
    return min(1.0, 1.648 * math.sqrt(size) * math.exp(-math.sqrt(fraction) * (2 * steps - 1)))


def _steps(fraction: float, size: int, chance: float) -> int:
    """The number of steps for which `_chance` is as small as `chance`."""
    return math.ceil((math.log(1.648 * math.sqrt(size) / chance) / math.sqrt(fraction) + 1) / 2)
