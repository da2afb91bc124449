"""One step of m-SAM as pairs of passes: over the whole batch, or over pieces of it.

A piece has groups of one size. There is one for all whole groups, or several where memory is short,
and one for the examples that are left over.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from flatminima.engine.batched.coverage import eager, rehearsed
from flatminima.engine.batched.geometry import Geometry
from flatminima.engine.batched.pair import Pair
from flatminima.engine.batched.tape import Sight, Subject
from flatminima.engine.groups import examples, groups
from flatminima.engine.noise import Noise
from flatminima.engine.passes import Body, Call, Passes, poisoned
from flatminima.rules.rule import HERE, Look
from flatminima.vector import Vector

__all__ = ["Facts", "Step", "cut"]

Batch: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Facts:
    """What a model says of itself.

    Args:
        modules: All modules; none where the model is not known.
        names: The name of each parameter, by its index.
        cumulative: Ids of running statistics that weigh all batches alike (`momentum=None`).
    """

    modules: list[nn.Module]
    names: dict[int, str]
    cumulative: frozenset[int]

    @staticmethod
    def of(model: nn.Module | None, params: tuple[Tensor, ...]) -> Facts:
        """The facts about a model, or about parameters alone."""
        modules = [] if model is None else list(model.modules())
        named = (
            {} if model is None else {id(param): name for name, param in model.named_parameters()}
        )
        return Facts(
            modules=modules,
            names={
                index: named.get(id(param), f"parameter {index} of shape {tuple(param.shape)}")
                for index, param in enumerate(params)
            },
            cumulative=frozenset(
                id(getattr(module, name))
                for module in modules
                for name in ("running_mean", "running_var")
                if getattr(module, "momentum", 0) is None and hasattr(module, name)
            ),
        )


class Step:
    """One step: what the passes over its pieces have in common."""

    def __init__(
        self, body: Body, facts: Facts, m: int, geometry: Geometry, call: Call, look: Look
    ) -> None:
        self.body = body
        self.facts = facts
        self.m = m
        self.geometry = geometry
        self.call = call
        params = body.parameters.tensors
        rho = look.rho if isinstance(look.rho, tuple) else (look.rho,) * len(params)
        self.radii: dict[int, float | Tensor] = {
            index: radius
            for index, radius in enumerate(rho)
            if params[index].requires_grad and (isinstance(radius, Tensor) or radius != 0)
        }
        self.subject = Subject(
            params={index: params[index] for index in self.radii},
            names=facts.names,
            cumulative=facts.cumulative,
        )

    def rehearsed(self, batch: Batch) -> list[Sight]:
        """What every call does with the examples, found out without a trace."""
        m = self.m
        count = examples(batch) // m
        whole = next(cut(batch, m, count))[0]
        parts = [group for group, _ in groups(whole, m)]

        def loss_of(group: int | None) -> Tensor:
            return self.call.loss_fn(*(whole if group is None else parts[group]))

        with eager(), self.without_trace():
            return rehearsed(self.subject, loss_of, count, m)

    def direction(
        self, batch: Batch, sights: list[Sight], count: int, *, proved: bool
    ) -> tuple[Tensor, Vector, Tensor]:
        """The loss, the direction and the norms of one piece."""
        body, call = self.body, self.call
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
        with eager():
            with body.buffers.watched():
                ascent = pair.up(lambda: call.loss_fn(*batch), scale, proved=proved)
            loss, norms, ways = ascent.loss, ascent.norms, [ascent]
            # The graph of the second pass alone keeps a layer's taps, until it has used them.
            del ascent
            moved = replace(
                call, loss_fn=lambda *batch: pair.down(lambda: call.loss_fn(*batch), ways.pop())
            )
            again = noise.again() if body.same_noise else noise.afresh(body.generator)
            passes = Passes(body, moved, batch, record=False)
            with body.buffers.held(), again, passes:
                gradient = passes.answer(HERE)
                direction = passes.delivered(gradient)
        return loss, poisoned(direction, norms.amax() < math.inf), norms

    def without_trace(self) -> ExitStack:
        """Buffers and random state as they were, also for a pass that would move them."""
        body, stack = self.body, ExitStack()
        stack.enter_context(body.buffers.held())
        stack.enter_context(Noise.now({param.device for param in body.parameters.tensors}).again())
        return stack

    def undo(self) -> Callable[[], None]:
        """What puts buffers and random state back, if a first pass breaks off."""
        put_back = self.body.buffers.saved()
        noise = Noise.now({param.device for param in self.body.parameters.tensors})

        def back() -> None:
            put_back()
            noise.restore()

        return back

    def key(self, batch: Batch) -> str:
        """What a plan is good for: a batch's shapes, m, the device, what moves and what trains."""
        leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
        shapes = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves]
        modes = bytes(module.training for module in self.facts.modules)
        rest = zlib.crc32(repr((modes, sorted(self.radii))).encode())
        return f"{shapes} m={self.m} on {self.body.parameters.tensors[0].device.type} {rest:08x}"


def cut(batch: Batch, m: int, at_once: int | None) -> Iterator[tuple[Batch, tuple[int, int]]]:
    """A batch in pieces of whole groups, and a last one of what is left over.

    Args:
        batch: What the loss takes.
        m: Examples in each group.
        at_once: How many groups there may be in a piece; `None` for all.

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
