"""m-SAM: which engine carries out a rule on groups of m examples, and in which pieces.

    loop      one group after the other, each with its own passes: any rule, any model
    batched   all groups in one pair of passes (`engine.batched`): where that can be proved exact

The result is the same, to rounding. `auto` proves what it can, at the first batch of each shape,
times both engines there on the user's own model, and keeps the faster one.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.utils._pytree import tree_leaves

from flatminima.engine.batched.coverage import eager, rehearsed
from flatminima.engine.batched.geometry import Geometry
from flatminima.engine.batched.pair import Pair
from flatminima.engine.batched.tape import NotCovered, Sight, Subject
from flatminima.engine.buffers import SMALL
from flatminima.engine.groups import examples, groups
from flatminima.engine.noise import Noise
from flatminima.engine.passes import Body, Call, Passes, _poisoned  # pyright: ignore[reportPrivateUsage]
from flatminima.rules.rule import HERE, Look, Probe, Rule, spelled
from flatminima.vector import Vector

__all__ = ["Engine", "Grouped"]

Engine: TypeAlias = Literal["auto", "loop", "batched"]
Batch: TypeAlias = tuple[Any, ...]
Answer: TypeAlias = tuple[Tensor, Vector]  # the loss, detached, and the direction
Loop: TypeAlias = Callable[[Batch], Answer]

TRIED = 4  # groups of the loop that are timed; the others are taken to be like them


@dataclass(frozen=True)
class _Plan:
    """How batches of one shape are carried out."""

    engine: Literal["loop", "batched"]
    sights: list[Sight] = field(default_factory=list[Sight])


@dataclass(kw_only=True)
class Grouped:
    """Carries out a rule on a batch in groups of `m` examples.

    Args:
        body: What a step acts on.
        model: The model, where it is known: it gives parameters their names.
        rule: The rule.
        m: Examples per group.
        engine: `loop`, `batched`, or `auto` for the faster one of those that are exact.
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
    _warned: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ("auto", "loop", "batched"):
            raise ValueError(f"engine must be 'auto', 'loop' or 'batched', got {self.engine!r}")
        if self.memory_limit is not None and not self.memory_limit > 0:
            raise ValueError(f"memory_limit must be positive, got {self.memory_limit}")
        geometry = Geometry.of(self.rule)
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
            ValueError: If it was asked for with a decay of the weights in the ascent.
        """
        self.group_norms = None
        step = self._step(call, batch, look)
        if step is None:
            return loop(batch)
        try:
            plan = self._plan(step, batch, loop)
            if plan.engine == "loop":
                return loop(batch)
            return self._pieces(step, plan, batch)
        except NotCovered as reason:
            return self._instead(str(reason), _key(batch, self), batch, loop)

    def _step(self, call: Call, batch: Batch, look: Look) -> _Step | None:
        """The step as one pair of passes; `None` if it is one for the loop."""
        geometry, m = Geometry.of(self.rule), self.m
        if self.engine == "batched" and look.weight_decay:
            raise ValueError(
                f"ascent_weight_decay must be 0 with engine='batched', got {look.weight_decay}"
            )
        if self.engine == "loop" or self.observed or m is None or look.weight_decay:
            return None
        if isinstance(geometry, str) or examples(batch) < 2 * m or not isinstance(self.rule, Probe):
            return None
        look = look.within(self.rule.rho)
        return _Step(self, m, geometry, call, look) if look.moves else None

    def _plan(self, step: _Step, batch: Batch, loop: Loop) -> _Plan:
        key = _key(batch, self)
        if key not in self._plans:
            sights = step.rehearsed(batch)
            plan = _Plan("batched", sights)
            verdict = self.verdicts.get(key)
            if verdict is None and self.engine == "auto":
                verdict = self._faster(step, plan, batch, loop)
            if verdict is not None:
                self.verdicts[key] = verdict
            self._plans[key] = _Plan("loop") if verdict == "loop" else plan
        return self._plans[key]

    def _pieces(self, step: _Step, plan: _Plan, batch: Batch) -> Answer:
        """The batch in as few pieces as there may be, each of groups of one size."""
        loss, direction, count, norms = torch.zeros(()), Vector(()), 0, list[Tensor]()
        undo = _Undo.now(self)
        for piece, sizes in _cut(batch, step.m, self._at_once(plan)):
            sights = [sight.resized(*sizes) for sight in plan.sights]
            try:
                ascent_loss, one, norm = step.direction(piece, sights, sizes[0])
            except NotCovered:  # the loop that will be instead must find what this step found
                undo.back()
                raise
            size = sizes[0] * sizes[1]
            count += size
            share = size / count
            loss = ascent_loss if count == size else loss + share * (ascent_loss - loss)
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

    def _faster(self, step: _Step, plan: _Plan, batch: Batch, loop: Loop) -> str:
        """Time both engines, and leave no trace of it."""
        if distributed.is_available() and distributed.is_initialized():
            return "batched"  # ranks must not disagree, and one reduction a step beats one a group
        few = min(TRIED, -(-examples(batch) // step.m))
        first, count = next(groups(batch, step.m * few))
        scale = examples(batch) / count
        quick = min(_timed(step, lambda: self._pieces(step, plan, batch)) for _ in range(3))
        slow = min(_timed(step, lambda: loop(first)) for _ in range(3)) * scale
        return "loop" if slow < quick else "batched"

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


class _Step:
    """One step: what the passes over its pieces have in common."""

    def __init__(
        self, grouped: Grouped, m: int, geometry: Geometry, call: Call, look: Look
    ) -> None:
        self.grouped = grouped
        self.m = m
        self.geometry = geometry
        self.call = call
        params = grouped.body.parameters.tensors
        rho = look.rho if isinstance(look.rho, tuple) else (look.rho,) * len(params)
        self.radii: dict[int, float | Tensor] = {
            index: radius
            for index, radius in enumerate(rho)
            if params[index].requires_grad and (isinstance(radius, Tensor) or radius != 0)
        }
        self.subject = Subject(
            params={index: params[index] for index in self.radii},
            names=_names(grouped.model, params),
            cumulative=_cumulative(grouped.model),
        )
        self.proved = False

    def rehearsed(self, batch: Batch) -> list[Sight]:
        """What every call does with the examples, found out without a trace."""
        m = self.m
        count = examples(batch) // m
        whole = next(_cut(batch, m, count))[0]
        cut = [group for group, _ in groups(whole, m)]

        def loss_of(group: int | None) -> Tensor:
            return self.call.loss_fn(*(whole if group is None else cut[group]))

        with eager(), self.without_trace():
            return rehearsed(self.subject, loss_of, count, m)

    def direction(
        self, batch: Batch, sights: list[Sight], count: int
    ) -> tuple[Tensor, Vector, Tensor]:
        """The loss, the direction and the norms of one piece."""
        body, call = self.grouped.body, self.call
        pair = Pair(
            subject=self.subject,
            geometry=self.geometry,
            radii=self.radii,
            groups=count,
            sights=sights,
        )
        noise = Noise.now({param.device for param in body.parameters.tensors})
        unit = torch.ones((), device=body.parameters.tensors[0].device)
        scale = None if call.scaler is None else call.scaler.scale(unit)
        with eager(), body.buffers.watched():
            ascent = pair.up(lambda: call.loss_fn(*batch), scale, proved=self.proved)
        self.proved = True
        moved = replace(
            call, loss_fn=lambda *batch: pair.down(lambda: call.loss_fn(*batch), ascent)
        )
        again = noise.again() if body.same_noise else noise.afresh(body.generator)
        with (
            eager(),
            body.buffers.held(),
            again,
            Passes(body, moved, batch, record=False) as passes,
        ):
            gradient = passes.answer(HERE)
            direction = passes.delivered(gradient)
        return ascent.loss, _poisoned(direction, ascent.norms.isfinite().all()), ascent.norms

    def without_trace(self) -> ExitStack:
        """Buffers and random state as they were, also for a pass that would move them."""
        body, stack = self.grouped.body, ExitStack()
        stack.enter_context(body.buffers.held())
        stack.enter_context(Noise.now({p.device for p in body.parameters.tensors}).again())
        return stack


@dataclass(frozen=True)
class _Undo:
    """Buffers and random state, to go back to if a first pass breaks off."""

    buffers: list[tuple[Tensor, Tensor]]
    noise: Noise

    @staticmethod
    def now(grouped: Grouped) -> _Undo:
        buffers = [] if grouped.model is None else list(grouped.model.buffers())
        small = [(buffer, buffer.clone()) for buffer in buffers if buffer.numel() <= SMALL]
        devices = {param.device for param in grouped.body.parameters.tensors}
        return _Undo(small, Noise.now(devices))

    @torch.no_grad()
    def back(self) -> None:
        for buffer, before in self.buffers:
            buffer.copy_(before)
        self.noise._set()  # pyright: ignore[reportPrivateUsage]


def _cut(batch: Batch, m: int, at_once: int | None) -> Iterator[tuple[Batch, tuple[int, int]]]:
    """A batch in pieces of whole groups, and a last one of what is left over.

    Yields:
        A piece, the number of its groups and the examples in each.
    """
    total = examples(batch)
    whole = total // m
    size = m * min(whole, at_once or whole)
    for piece, count in groups(batch, size):
        if count % m == 0:
            yield piece, (count // m, m)
        elif count < m:
            yield piece, (1, count)
        else:
            for part, few in groups(piece, count - count % m):
                yield part, (max(1, few // m), min(few, m))


def _key(batch: Batch, grouped: Grouped) -> str:
    """What a plan is good for: a batch's shapes, m, the device, and which modules train."""
    leaves = tree_leaves(batch)
    shapes = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves if isinstance(leaf, Tensor)]
    modules = [] if grouped.model is None else list(grouped.model.modules())
    modes = "".join("t" if module.training else "e" for module in modules)
    params = grouped.body.parameters.tensors
    frozen = "".join("t" if param.requires_grad else "f" for param in params)
    return f"{shapes} m={grouped.m} on {params[0].device.type} {hash((modes, frozen)):x}"


def _names(model: nn.Module | None, params: tuple[Tensor, ...]) -> dict[int, str]:
    named = {} if model is None else {id(param): name for name, param in model.named_parameters()}
    return {
        index: named.get(id(param), f"parameter {index} of shape {tuple(param.shape)}")
        for index, param in enumerate(params)
    }


def _cumulative(model: nn.Module | None) -> frozenset[int]:
    """Running means that weigh all batches alike, which `momentum=None` asks for."""
    modules = [] if model is None else list(model.modules())
    return frozenset(
        id(module.running_mean)
        for module in modules
        if getattr(module, "momentum", 0) is None and hasattr(module, "running_mean")
    )


def _timed(step: _Step, carry_out: Callable[[], object]) -> float:
    """Seconds for one trial that leaves no trace."""
    cuda = step.grouped.body.parameters.tensors[0].device.type == "cuda"
    with step.without_trace():
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        carry_out()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start
