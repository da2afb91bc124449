"""The rise of the loss of every group of m examples, a step of length rho up its own gradient.

    f_j(w + e_j) - f_j(w),   e_j = rho g_j / ||g_j||_2

`loop` takes one group after the other. `batched` takes many groups in one pair of passes by m-SAM's
engine, which returns their mean; so the data go in `CHUNKS` pieces, whose differences say how far
chance moves the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from flatminima import perturb
from flatminima.engine.batched.coverage import eager, rehearsed
from flatminima.engine.batched.geometry import Geometry
from flatminima.engine.batched.pair import Pair
from flatminima.engine.batched.tape import NotCovered, Sight, Subject
from flatminima.engine.groups import examples, groups, picked
from flatminima.objective import Objective
from flatminima.vector import Vector

__all__ = ["Engine", "Rise", "Run", "one_step", "runs"]

Batch: TypeAlias = tuple[Any, ...]
Engine: TypeAlias = Literal["auto", "loop", "batched"]

CHUNKS = 32
TRIED = 4  # groups of a rehearsal


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive groups that lie in one batch, or one group that does not."""

    pieces: list[Batch]
    groups: int

    def split(self, m: int) -> Iterator[list[Batch]]:
        """The pieces of one group after the other."""
        if self.groups == 1:
            yield self.pieces
        else:
            yield from ([piece] for piece, _ in groups(self.pieces[0], m))


@dataclass(frozen=True, kw_only=True)
class Rise:
    """The rise of one group's loss, or the mean rise of several."""

    rise: float
    weight: float  # what the group's mean divides by
    doubtful: int  # groups for which the figure means little
    engine: str
    passes: float  # over these examples


def runs(batches: Sequence[Batch], m: int) -> Iterator[Run]:
    """Cut data in order into groups of m examples, wherever one batch ends and the next begins.

    Args:
        batches: The data.
        m: Examples per group.

    Yields:
        Runs of groups; the last group may be smaller.

    Example:
        >>> cut = runs([(torch.arange(5),), (torch.arange(5, 7),)], m=2)
        >>> [([piece[0].tolist() for piece in run.pieces], run.groups) for run in cut]
        [([[0, 1, 2, 3]], 2), ([[4], [5]], 1), ([[6]], 1)]
    """
    begun: list[Batch] = []
    missing = 0
    for batch in batches:
        total, start = examples(batch), 0
        if begun:
            start = min(missing, total)
            begun, missing = [*begun, picked(batch, slice(0, start))], missing - start
            if missing:
                continue
            yield Run(pieces=begun, groups=1)
            begun = []
        whole = (total - start) // m
        stop = start + whole * m
        if whole:
            yield Run(pieces=[picked(batch, slice(start, stop))], groups=whole)
        if stop < total:
            begun, missing = [picked(batch, slice(stop, total))], m - (total - stop)
    if begun:
        yield Run(pieces=begun, groups=1)


def one_step(
    objective: Objective, w: Vector, rho: float, m: int, run: Run, *, engine: Engine, per_row: int
) -> list[Rise]:
    """The rises of a run of groups.

    Args:
        objective: The loss of a model on batches.
        w: The weights.
        rho: The length of the step.
        m: Examples per group.
        run: Whole groups of one batch, or one group.
        engine: `loop`, `batched`, or `auto` for batched where it is proved exact.
        per_row: How many groups the batched engine takes at once.

    Returns:
        One rise per group, or by the batched engine one for every `per_row` of them.

    Raises:
        RuntimeError: If `engine="batched"` was asked for and cannot be proved exact.
    """
    if engine != "loop" and run.groups > 1:
        try:
            return list(_Batched(objective, w, rho, m).rises(run, per_row))
        except NotCovered as reason:
            if engine == "batched":
                raise RuntimeError(
                    f"engine='batched' must be able to prove that it is exact, got this: {reason}; "
                    "leave engine out for the exact loop"
                ) from None
    return [_alone(objective.on(pieces), w, rho) for pieces in run.split(m)]


def _alone(group: Objective, w: Vector, rho: float) -> Rise:
    loss, g = group.value_and_gradient(w)
    rise = float(group.value(w + perturb.normalized(w, g, rho))) - float(loss)
    return Rise(
        rise=rise,
        weight=group.examples or 0,
        doubtful=int(_without_slope(rho * g.norm(), rise)),
        engine="loop",
        passes=group.passes,
    )


def _without_slope(promise: Tensor, rise: float) -> Tensor:
    """Whether the slope is no part of the rise, so that rounding may have chosen the direction."""
    return ~(promise > torch.finfo(promise.dtype).eps ** 0.5 * abs(rise))


class _Batched:
    """Pairs of passes over pieces of a batch, at weights that need not be the model's own."""

    def __init__(self, objective: Objective, w: Vector, rho: float, m: int) -> None:
        self.objective, self.rho, self.m = objective, rho, m
        self.point = Vector(
            None if part is None else part.detach().clone().requires_grad_() for part in w.parts
        )
        params = {index: p for index, p in enumerate(self.point.parts) if p is not None}
        names = {
            index: f"parameter {index} of shape {tuple(params[index].shape)}" for index in params
        }
        self.subject = Subject(params=params, names=names)

    def rises(self, run: Run, per_row: int) -> Iterator[Rise]:
        batch = run.pieces[0]
        sights = self._rehearsed(picked(batch, slice(0, self.m * min(run.groups, TRIED))))
        for piece, size in groups(batch, self.m * per_row):
            yield self._row(piece, size // self.m, sights)

    def _rehearsed(self, batch: Batch) -> list[Sight]:
        parts = [piece for piece, _ in groups(batch, self.m)]

        def loss_of(group: int | None) -> Tensor:
            return self._loss(self.objective.on([batch if group is None else parts[group]]))

        with eager(), torch.no_grad():
            return rehearsed(self.subject, loss_of, len(parts), self.m)

    def _loss(self, piece: Objective) -> Tensor:
        with piece.differentiable() as loss:
            return loss(self.point)

    def _row(self, batch: Batch, count: int, sights: list[Sight]) -> Rise:
        piece = self.objective.on([batch])
        pair = Pair(
            subject=self.subject,
            geometry=Geometry(),
            radii=dict.fromkeys(self.subject.params, self.rho),
            groups=count,
            sights=[sight.resized(count, self.m) for sight in sights],
        )
        with eager():
            ascent = pair.up(lambda: self._loss(piece))
            with torch.no_grad():
                there = pair.down(lambda: self._loss(piece), ascent)
        rise = float(there) - float(ascent.loss)
        return Rise(
            rise=rise,
            weight=piece.examples or 0,
            doubtful=int(_without_slope(self.rho * ascent.norms, rise).sum()),
            engine="batched",
            passes=3.0,
        )
