"""m-SAM: which engine carries out a rule on groups of m examples, and in which pieces.

    loop      one group after the other, each with its own passes: any rule, any model
    vmap      all groups at once, each with a copy of the weights (`engine.mapped`): any rule
    batched   all groups in one pair of passes (`engine.batched`): where that can be proved exact

The result is the same, to rounding. `auto` proves what it can, at the first batch of each shape,
times the loop and the batched form there on the user's own model, and keeps the faster one.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed, nn

from flatminima.engine.batched.geometry import Geometry
from flatminima.engine.batched.tape import NotCovered, Sight
from flatminima.engine.groups import examples, groups
from flatminima.engine.mapped import mapped
from flatminima.engine.passes import Body, Call
from flatminima.engine.pieces import Facts, Step, cut
from flatminima.rules.rule import Look, Probe, Rule, spelled
from flatminima.vector import Vector

__all__ = ["Engine", "Grouped"]

Engine: TypeAlias = Literal["auto", "loop", "vmap", "batched"]
Batch: TypeAlias = tuple[Any, ...]
Answer: TypeAlias = tuple[Tensor, Vector]  # the loss, detached, and the direction
Loop: TypeAlias = Callable[[Batch], Answer]

TRIED = 4  # groups of the loop that are timed at first; the others are taken to be like them
TRIALS = (2, 1.5), (5, 1.1)
"""Rounds of a trial with few groups, and with the whole batch, at most; and how many times slower
the slower engine must be for the trial to end before."""


@dataclass
class _Plan:
    """How batches of one shape are carried out."""

    engine: str
    sights: list[Sight] = field(default_factory=list[Sight])
    proved: bool = False  # whether a first pass has shown that no parameter is used out of sight
    _sized: dict[tuple[int, int], list[Sight]] = field(default_factory=dict)

    def sized(self, groups: int, m: int) -> list[Sight]:
        """The sights of a piece."""
        if (groups, m) not in self._sized:
            self._sized[groups, m] = [sight.resized(groups, m) for sight in self.sights]
        return self._sized[groups, m]


@dataclass(kw_only=True)
class Grouped:
    """Carries out a rule on a batch in groups of `m` examples.

    Args:
        body: What a step acts on.
        model: The model, where it is known: it gives parameters their names.
        rule: The rule.
        m: Examples per group.
        engine: `loop`, `vmap`, `batched`, or `auto` for the faster one of those that are exact.
        memory_limit: Bytes that the batched engine may keep between its passes; it then takes
            fewer groups at a time.
        observed: Whether somebody wants to see every group's gradients, which only the loop has.

    Raises:
        ValueError: If `engine` is unknown, or `batched` with a rule that has no batched form.
    """

    body: Body
    model: nn.Module | None
    rule: Rule
    m: int | None
    engine: Engine = "auto"
    memory_limit: float | None = None
    observed: bool = False
    group_norms: Tensor | None = None
    verdicts: dict[str, str] = field(default_factory=dict[str, str])
    _plans: dict[str, _Plan] = field(default_factory=dict[str, _Plan])
    _facts: Facts = field(init=False)
    _geometry: Geometry | str = field(init=False)  # of the rule, or what it would have to do
    _warned: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ("auto", "loop", "vmap", "batched"):
            raise ValueError(
                f"engine must be 'auto', 'loop', 'vmap' or 'batched', got {self.engine!r}"
            )
        if self.memory_limit is not None and not self.memory_limit > 0:
            raise ValueError(f"memory_limit must be positive, got {self.memory_limit}")
        self._facts = Facts.of(self.model, self.body.parameters.tensors)
        geometry = self._geometry = Geometry.of(self.rule)
        if self.engine == "vmap" and self.observed:
            raise ValueError(
                "engine='vmap' must have no observers, got some; leave engine out for the loop"
            )
        if self.engine != "batched":
            return
        if isinstance(geometry, str):
            raise ValueError(
                f"rule must {geometry} for engine='batched', got {spelled(self.rule)}; "
                "leave engine out for the exact loop"
            )
        if self.observed:
            raise ValueError(
                "engine='batched' must have no observers, got some; only the loop has the gradient "
                "of every group to show them"
            )

    def mean(self, call: Call, batch: Batch, look: Look, loop: Loop) -> Answer:
        """The loss and the direction, averaged over the groups by their sizes.

        Args:
            call: The loss, and what to do with it.
            batch: What the loss takes.
            look: What the rule knows at the start of this step.
            loop: The exact loop over the groups of a batch.

        Returns:
            The loss at the weights, detached, and the direction as it goes into `.grad`.

        Raises:
            RuntimeError: If `engine="batched"` was asked for and cannot be proved exact.
            ValueError: If it was asked for with a decay of the weights in the ascent, or with a
                loss that is another one where the weights are displaced.
        """
        self.group_norms = None
        if self.engine == "vmap" and self.m is not None:
            options = (batch, look, self.m, self.memory_limit)
            return mapped(self.body, self.model, self.rule, call, *options)
        step = self._step(call, batch, look)
        if step is None:
            return loop(batch)
        try:
            plan = self._plan(step, batch, loop)
            if plan.engine == "loop":
                return loop(batch)
            return self._pieces(step, plan, batch)
        except NotCovered as error:
            reason = str(error)
        # Not above: while the error lives, so does a checkpoint that it broke off, with its hooks.
        return self._instead(reason, step.key(batch), batch, loop)

    def _step(self, call: Call, batch: Batch, look: Look) -> Step | None:
        """The step as one pair of passes; `None` if it is one for the loop."""
        geometry, m = self._geometry, self.m
        if self.engine == "batched" and look.weight_decay:
            raise ValueError(
                f"ascent_weight_decay must be 0 with engine='batched', got {look.weight_decay}"
            )
        takes_part = hasattr(call.loss_fn, "displaced")
        if self.engine == "batched" and takes_part:
            raise ValueError(
                f"engine must be 'loop' or 'auto' with {call.loss_fn!r}, got 'batched', which "
                "differentiates one loss in both passes"
            )
        if self.engine == "loop" or self.observed or m is None or look.weight_decay or takes_part:
            return None
        if isinstance(geometry, str) or examples(batch) < 2 * m or not isinstance(self.rule, Probe):
            return None
        look = look.within(self.rule.rho)
        if not look.moves:
            return None
        return Step(self.body, self._facts, m, geometry, call, look)

    def _plan(self, step: Step, batch: Batch, loop: Loop) -> _Plan:
        key = step.key(batch)
        if key not in self._plans:
            verdict = self.verdicts.get(key) if self.engine == "auto" else "batched"
            plan = _Plan("loop") if verdict == "loop" else _Plan("batched", step.rehearsed(batch))
            if verdict is None:
                verdict = self.verdicts[key] = self._faster(step, plan, batch, loop)
            self._plans[key] = _Plan("loop") if verdict == "loop" else plan
        return self._plans[key]

    def _pieces(self, step: Step, plan: _Plan, batch: Batch) -> Answer:
        """The batch in as few pieces as there may be, each of groups of one size."""
        loss, direction, count, norms = torch.zeros(()), Vector(()), 0, list[Tensor]()
        undo = step.undo()
        for piece, sizes in cut(batch, step.m, self._at_once(plan)):
            sights = plan.sized(*sizes)
            try:
                one_loss, one, norm = step.direction(piece, sights, sizes[0], proved=plan.proved)
            except NotCovered:  # the loop that will be instead must find what this step found
                undo()
                raise
            plan.proved = True
            size = sizes[0] * sizes[1]
            count += size
            share = size / count
            loss = one_loss if count == size else loss + share * (one_loss - loss)
            direction = one if count == size else direction * (1.0 - share) + one * share
            norms.append(norm)
        self.group_norms = torch.cat(norms)
        return loss, direction

    def _at_once(self, plan: _Plan) -> int | None:
        """How many groups fit into the memory limit; `None` for all."""
        if self.memory_limit is None:
            return None
        needed = sum(sight.kept for sight in plan.sights)  # bytes for each group
        return max(1, int(self.memory_limit / max(needed, 1)))

    def _faster(self, step: Step, plan: _Plan, batch: Batch, loop: Loop) -> str:
        """Time both engines, and leave no trace of it."""
        if distributed.is_available() and distributed.is_initialized():
            return "batched"  # ranks must not disagree, and one reduction a step beats one a group
        few, size = next(groups(batch, step.m * TRIED))
        engines = (lambda: self._pieces(step, plan, batch)), lambda: loop(few)
        share = examples(batch) / size
        (rounds, clear), (more, near) = TRIALS
        ratios = [share * _ratio(step, *engines) for _ in range(rounds)]
        if min(ratios) > clear or max(ratios) < 1 / clear:
            return "batched" if ratios[0] > 1 else "loop"
        engines = engines[0], lambda: loop(batch)
        ratios = [_ratio(step, *engines) for _ in range(rounds)]
        while len(ratios) < more and 1 / near < statistics.median(ratios) < near:
            ratios.append(_ratio(step, *engines))
        return "batched" if statistics.median(ratios) > 1 else "loop"

    def _instead(self, reason: str, key: str, batch: Batch, loop: Loop) -> Answer:
        """The exact loop, where the batched engine cannot be proved exact."""
        if self.engine == "batched":
            raise RuntimeError(
                f"engine='batched' must be able to prove that it is exact, got this: {reason}; "
                "leave engine out for the exact loop, or give the parameters a group with rho=0"
            )
        if not self._warned:
            warnings.warn(
                f"m-SAM goes group by group: for one pair of passes {reason}", stacklevel=5
            )
            self._warned = True
        self._plans[key] = _Plan("loop")
        return loop(batch)


def _ratio(step: Step, one: Callable[[], object], other: Callable[[], object]) -> float:
    """How many times as long the other takes, each right after one of its own, as in training."""
    one_s, other_s = (min(_timed(step, run) for _ in range(2)) for run in (one, other))
    return other_s / one_s


def _timed(step: Step, carry_out: Callable[[], object]) -> float:
    """Seconds for one trial that leaves no trace."""
    cuda = step.body.parameters.tensors[0].device.type == "cuda"
    with step.without_trace():
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        carry_out()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start
