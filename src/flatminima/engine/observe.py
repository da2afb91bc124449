"""Observers see what the rule saw, and change nothing.

An observer is a function of a `Step`. Hand it over with `SharpnessAware(..., observe=[...])`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, TypeAlias

from torch import Tensor

from flatminima.regions import shares
from flatminima.rules.rule import Here
from flatminima.vector import Vector

__all__ = ["Observer", "Recorder", "RegionShares", "Seen", "Step"]


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


@dataclass
class Recorder:
    """Record a function of the two gradients of a step, every few steps.

    Everything in `regions` is such a function: `norms`, `ratio_bins`, `shares_by_part`; and with a
    memory of earlier steps `FrozenOverlap(chosen)` and `Persistence(chosen)`.

    Args:
        function: Takes `g` and `p`; returns a dataclass, or anything else, which is then recorded
            under the name `value`.
        every: Look at every k-th step; `Persistence` must see each.
        until: Look no more from this step on; `None` looks to the end.
        rows: What was recorded: one dictionary per look, with `step` and the fields of the result.
            Steps that did not look uphill, or whose gradients are not finite, leave no row.

    Raises:
        ValueError: If `every` is not a positive whole number.

    Cost: that of the function, and a synchronisation with the device; both only at a look.

    Example:
        >>> from flatminima import Region, regions
        >>> overlaps = Recorder(regions.FrozenOverlap({Region.STEEPER}), every=10)
        >>> overlaps.rows
        []
    """

    function: Callable[[Vector, Vector], Any]
    every: int = 1
    until: int | None = field(default=None, kw_only=True)
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]], kw_only=True)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(
                f"every must be a positive whole number, got {self.every}; 1 is every step"
            )

    def __call__(self, step: Step) -> None:
        """Add a row, if this step is one to look at."""
        over = self.until is not None and step.step >= self.until
        if over or step.step % self.every or step.g is None or step.p is None:
            return
        if not (step.g.norm().isfinite() and step.p.norm().isfinite()):
            return
        seen = self.function(step.g, step.p)
        if is_dataclass(seen) and not isinstance(seen, type):
            self.rows.append({"step": step.step} | asdict(seen))
        else:
            self.rows.append({"step": step.step, "value": seen})


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
