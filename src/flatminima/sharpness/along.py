"""Sharpness along training, for a share of the training's time that was agreed on beforehand.

A look costs what some hundred steps cost, and how much depends on the spectrum, which changes. So
the interval is not fixed: the first look is on credit, and each later one waits until the training
has gone on long enough to pay for all looks so far and for one more like the dearest of the last
few. A look begins from the eigenvectors of the one before, which saves products.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from flatminima import perturb
from flatminima.engine.observe import Step
from flatminima.objective import Objective
from flatminima.regions import shares
from flatminima.sharpness.lanczos import Eigenpairs, top_eigenpairs
from flatminima.sharpness.operators import Hessian
from flatminima.vector import Vector

__all__ = ["AlongTraining"]

Row = dict[str, Any]
RECENT = 3  # looks that the next one is expected to be no dearer than


@dataclass
class AlongTraining:
    """Record the curvature and the regions of an objective while a model is trained.

        lambda_1,   lambda_1 / lambda_k,   f(w + rho g / ||g||) - f(w),   the shares of the regions

    An observer: `SharpnessAware(..., observe=[along])`. In a loop of another kind call
    `along.look(step, w)` after each step; it looks when a look is due.

    Args:
        objective: What is measured: fixed data, usually a part of the training set.
        every: Look at most at every k-th step.
        budget: The share of the training's own time that the looks may take, 0.05 for 5 %. The
            first look is on credit; from the time when it is paid for, the share stays within.
        rho: The radius of the one step.
        k: Which eigenvalue divides the first in the ratio.
        seed: Of the eigenvalue iteration. Each look adds 1, lest all have the same blind spot.
        max_products: When a look gives up on the eigenvalues; it then says `converged` false.
        log: Called with each row as soon as it is known.
        clock: What tells the time, in seconds.

    Raises:
        ValueError: If `every`, `budget` or `k` is out of its range.

    Cost: `share` says it: the time of all looks over the time of everything else.

    Example:
        >>> import torch
        >>> f = Objective(lambda w: w.dot(w * w))
        >>> along = AlongTraining(f, k=2)
        >>> along.look(0, Vector([torch.tensor([1.0, 2.0])]))
        >>> round(along.rows[0]["lambda_1"], 3), round(along.rows[0]["ratio"], 3)
        (12.0, 2.0)
    """

    objective: Objective
    every: int = 1
    budget: float = 0.05
    rho: float = field(default=0.05, kw_only=True)
    k: int = field(default=5, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    max_products: int = field(default=100, kw_only=True)
    log: Callable[[Row], None] = field(default=lambda row: None, kw_only=True)
    clock: Callable[[], float] = field(default=time.perf_counter, kw_only=True)
    rows: list[Row] = field(default_factory=list[Row], init=False)
    spent: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(
                f"every must be a positive whole number, got {self.every}; 1 is every step"
            )
        if not 0 < self.budget < math.inf:
            raise ValueError(
                f"budget must be > 0 and finite, got {self.budget}; 0.05 is 5 % of the training"
            )
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        self._begun: float | None = None
        self._costs: list[float] = []
        self._before: Eigenpairs | None = None

    def __call__(self, step: Step) -> None:
        """Look, if a look is due."""
        self.look(step.step, step.w)

    def look(self, step: int, w: Vector) -> None:
        """Look at weights, if a look is due.

        Args:
            step: The number of the step.
            w: The weights, in the order of the objective's.
        """
        before = self.clock()
        if self._begun is None:
            self._begun = before
        if step % self.every or not self._affordable(before):
            return
        row = self._row(w)
        cost = self.clock() - before
        self.spent += cost
        self._costs.append(cost)
        self.rows.append({"step": step, **row, "seconds": cost, "share": self.share})
        self.log(self.rows[-1])

    @property
    def share(self) -> float:
        """The time of all looks over that of the training itself; infinite after a first one."""
        trained = self._trained(self.clock())
        return self.spent / trained if trained else (math.inf if self.spent else 0.0)

    def _trained(self, now: float) -> float:
        """The time since the first call, without the looks."""
        return 0.0 if self._begun is None else now - self._begun - self.spent

    def _affordable(self, now: float) -> bool:
        """Whether the budget pays for the looks so far and for another one."""
        if not self._costs:
            return True
        expected = max(self._costs[-RECENT:])
        return self.spent + expected <= self.budget * self._trained(now)

    def _row(self, w: Vector) -> Row:
        """Everything that one look finds."""
        f = self.objective
        g = f.gradient(w)
        e = perturb.normalized(w, g, self.rho)
        loss, p = float(f.value(w)), f.gradient(w + e)
        pairs = self._pairs(w)
        k = min(self.k, len(pairs.values))
        ratio = pairs.ratio(1, k)
        row: Row = {
            "loss": loss,
            "one_step": float(f.value(w + e)) - loss,
            "gradient_norm": float(g.norm()),
            "lambda_1": float(pairs.values[0]),
            "lambda_1_residual": float(pairs.residuals[0]),
            "ratio": ratio.value,
            "ratio_bound": ratio.bound,
            "products": pairs.products,
            "converged": pairs.converged,
        }
        finite = g.norm().isfinite() and p.norm().isfinite()
        return row | (asdict(shares(g, p)) if finite else {})

    def _pairs(self, w: Vector) -> Eigenpairs:
        """The largest eigenpairs."""
        hessian = Hessian(self.objective, w)
        self._before = top_eigenpairs(
            hessian,
            k=min(self.k, hessian.size),
            seed=self.seed + len(self.rows),
            max_products=self.max_products,
            start=self._before,
        )
        return self._before
