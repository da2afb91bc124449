"""Observers see what the rule saw, and change nothing.

An observer is a function of a `Step`. Hand it over with `SharpnessAware(..., observe=[...])`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from flatminima.regions import shares
from flatminima.rules.rule import Here
from flatminima.vector import Vector

__all__ = ["Observer", "RegionShares", "Seen", "Step"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One answer of the loss: where the rule looked, and the gradient there."""

    at: Vector | Here
    gradient: Vector


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happened in one step. The vectors are live: copy what must be kept.

    `g` and `p` are the first and the last gradient that was seen, `e` the last displacement; they
    are `None` where the step did not look uphill (`p`, `e`) or never at the weights themselves
    (`g`).
    """

    step: int
    loss: Tensor
    w: Vector
    d: Vector
    seen: tuple[Seen, ...]

    @property
    def g(self) -> Vector | None:
        """The gradient at the weights."""
        return next((seen.gradient for seen in self.seen if isinstance(seen.at, Here)), None)

    @property
    def p(self) -> Vector | None:
        """The gradient at the last displacement."""
        return next(
            (seen.gradient for seen in reversed(self.seen) if isinstance(seen.at, Vector)), None
        )

    @property
    def e(self) -> Vector | None:
        """The last displacement."""
        return next((seen.at for seen in reversed(self.seen) if isinstance(seen.at, Vector)), None)


Observer: TypeAlias = Callable[[Step], None]


@dataclass(kw_only=True)
class RegionShares:
    """Record the share of the coordinates in each region, every few steps.

    Args:
        every: Look at every k-th step. A look costs eight passes over the parameters and a
            synchronisation.
        rows: What was recorded: one dictionary per look, with `step` and the fields of
            `regions.Shares`. Steps that did not look uphill, or whose gradients are not finite,
            leave no row.

    Raises:
        ValueError: If `every` is not a positive whole number.

    Example:
        >>> recorder = RegionShares(every=10)
        >>> recorder.rows
        []
    """

    every: int = 1
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(
                f"every must be a positive whole number, got {self.every}; 1 is every step"
            )

    def __call__(self, step: Step) -> None:
        """Add a row, if this step is one to look at."""
        if step.step % self.every or step.g is None or step.p is None:
            return
        if not (step.g.norm().isfinite() and step.p.norm().isfinite()):
            return
        self.rows.append({"step": step.step, **asdict(shares(step.g, step.p))})
