"""A step as a pure function of weights, buffers, radii and a batch, for whoever traces it.

    (loss, d, buffers) = F(w, buffers, rho, batch)

Nothing is moved and nothing remembered: displaced weights are other tensors, and buffers are what
the first pass leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from flatminima.engine.batched.geometry import Geometry
from flatminima.engine.batched.pair import Pair
from flatminima.engine.batched.tape import Sight, Subject
from flatminima.engine.buffers import SMALL
from flatminima.engine.passes import check_loss, poisoned
from flatminima.engine.pieces import cut
from flatminima.network import Bound
from flatminima.rules.rule import HERE, Look, Probe
from flatminima.vector import Vector

__all__ = ["Groups", "Losses", "conversed"]

Batch = tuple[Any, ...]


@dataclass(kw_only=True)
class Losses:
    """The loss at any weights; what the first pass does to buffers is kept.

    Args:
        module: The loss, with the model inside.
        names: What the parameters are called there.
        wanted: Which of them want a gradient.
        buffers: The buffers by name: as they were, and after the first pass as it left them.
        moved: The names of those that the first pass may have moved, in order.
    """

    module: Bound
    names: Sequence[str]
    wanted: Sequence[bool]
    buffers: dict[str, Tensor]
    moved: dict[str, None] = field(default_factory=dict[str, None])

    def leaves(self, at: Sequence[Tensor]) -> list[Tensor]:
        """Weights that want gradients as the parameters do."""
        pairs = zip(at, self.wanted, strict=True)
        return [part.detach().requires_grad_(wanted) for part, wanted in pairs]

    def value(self, leaves: Sequence[Tensor], batch: Batch, *, first: bool) -> Tensor:
        """The loss, with its graph."""
        copies = {name: buffer.clone() for name, buffer in self.buffers.items()}
        state = {**dict(zip(self.names, leaves, strict=True)), **copies}
        loss = functional_call(self.module, state, batch)
        check_loss(loss)
        for name, copy in copies.items() if first else ():
            # Kernels move running statistics without a trace, so small ones go by suspicion.
            if copy.numel() <= SMALL or state[name] is not copy or copy._version:
                self.moved[name] = None
                self.buffers[name] = state[name]
        return loss

    def gradient(self, loss: Tensor, leaves: Sequence[Tensor]) -> Vector:
        """The gradient of a loss, `None` for who wants none or is not in it."""
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(loss, inputs, allow_unused=True))
        return Vector(next(found) if leaf.requires_grad else None for leaf in leaves)


def conversed(
    rule: Probe, look: Look, w: Sequence[Tensor], losses: Losses
) -> tuple[Tensor, Vector]:
    """The loss and the direction of a batch that has one perturbation.

    Args:
        rule: The rule.
        look: What it knows, the radius of every parameter in `own`.
        w: The weights.
        losses: The loss.

    Returns:
        The loss, detached; and the direction, non-finite if a gradient that was seen is not finite.
    """
    talk = replace(rule, rho=0.0)(look)
    question: Any = next(talk)
    finite = torch.ones((), dtype=torch.bool, device=w[0].device)
    first: Tensor | None = None
    while True:
        at = [part.clone() for part in w]
        if question is not HERE:
            question.add_to(at)
        leaves = losses.leaves(at)
        with torch.enable_grad():
            loss = losses.value(leaves, look.batch or (), first=first is None)
            gradient = losses.gradient(loss, leaves)
        first = loss.detach() if first is None else first
        try:
            question = talk.send(gradient)
        except StopIteration as end:
            if end.value is not gradient:
                finite = finite & gradient.norm().isfinite()
            return first, poisoned(end.value, finite)
        finite = finite & gradient.norm().isfinite()


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A batch whose groups have their own perturbations, in pairs of passes.

    Args:
        m: Examples in a group.
        geometry: How a gradient becomes a displacement.
        names: The name of each parameter, by its index.
        sights: What the rehearsal saw of every call.
    """

    m: int
    geometry: Geometry
    names: dict[int, str]
    sights: Sequence[Sight]

    def conversed(
        self, look: Look, w: Sequence[Tensor], losses: Losses
    ) -> tuple[Tensor, Vector, Tensor]:
        """The loss, the direction, and the norm of every group's gradient."""
        leaves = losses.leaves(w)
        radii: dict[int, float | Tensor] = {
            index: rho
            for index, rho in enumerate(look.own)
            if isinstance(rho, Tensor) and leaves[index].requires_grad
        }
        subject = Subject(params={index: leaves[index] for index in radii}, names=self.names)
        loss, direction, count, norms = torch.zeros(()), Vector(()), 0, list[Tensor]()
        for piece, (groups, few) in cut(look.batch or (), self.m, None):
            pair = Pair(
                subject=subject,
                geometry=self.geometry,
                radii=radii,
                groups=groups,
                sights=[sight.resized(groups, few) for sight in self.sights],
            )
            ascent = pair.up(lambda batch=piece: losses.value(leaves, batch, first=True))
            with torch.enable_grad():
                there = pair.down(
                    lambda batch=piece: losses.value(leaves, batch, first=False), ascent
                )
                one = losses.gradient(there, leaves)
            one = poisoned(one, ascent.norms.amax() < torch.inf)
            count += groups * few
            share = groups * few / count
            loss = ascent.loss if share == 1.0 else loss + share * (ascent.loss - loss)
            direction = one if share == 1.0 else direction * (1.0 - share) + one * share
            norms.append(ascent.norms)
        return loss, direction, torch.cat(norms)
