"""The pair of passes over one batch: up from every group's gradient, and down from where it leads.

    b     = d(sum_j L_j) / d(output) of every layer         backward of the first pass, no weights
    g_j   = sum over calls of L(A_j)^T b_j,   n_j = ||g_j||,   e_j = c_j g_j
    loss  = mean_j L_j(w + e_j)                              forward of the second pass

The backward of the second pass is left to the caller, as the only one that reaches parameters: once
a step, with whatever hangs on it (hooks, a loss scale, a reduction over ranks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from flatminima.engine.batched.cost import prefers_rows
from flatminima.engine.batched.derived import Key
from flatminima.engine.batched.forms import Dense, Form, joined
from flatminima.engine.batched.geometry import Geometry
from flatminima.engine.batched.layer import Moved, Tap
from flatminima.engine.batched.tape import First, Known, NotCovered, Second, Sight, Subject

__all__ = ["Ascent", "Pair"]


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """What the first pass found."""

    loss: Tensor  # 0-d, detached
    norms: Tensor  # (groups,): the norm of each group's gradient, as the geometry measures it
    moved: dict[Key, Moved]
    known: dict[int, Known]  # outputs that need not be computed again


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two passes over a batch of groups of one size.

    Args:
        subject: The parameters that move.
        geometry: How a gradient becomes a displacement.
        radii: The radius of each parameter that moves, by its index.
        groups: How many groups the batch has.
        sights: What the rehearsal saw.
    """

    subject: Subject
    geometry: Geometry
    radii: dict[int, float | Tensor]
    groups: int
    sights: Sequence[Sight]

    def up(
        self, loss_fn: Callable[[], Tensor], scale: Tensor | None = None, *, proved: bool = False
    ) -> Ascent:
        """The first pass: the loss, the norms and the displacements of all groups.

        Args:
            loss_fn: The mean loss over the batch.
            scale: What to scale the loss by before going backward, against underflow.
            proved: Whether it is known already that no parameter is used out of sight.

        Returns:
            What was found; nothing has been written anywhere.

        Raises:
            NotCovered: If the calls are not those of the rehearsal, or the graph holds a parameter
                that no call was seen to use.
        """
        with First(self.subject, self.groups, self.sights) as tape, torch.enable_grad():
            loss = loss_fn()
        if tape.count != len(self.sights):
            tape.refuse(f"take the same branches in every pass, got {tape.count} calls of layers")
        if not proved:
            self._prove(loss)
        for statistic in tape.running.values():
            statistic.settle()
        unit = torch.ones_like(loss) if scale is None else scale.detach().to(loss)
        with torch.no_grad():
            gradients = self._gradients(tape, _backward(tape, loss, unit * self.groups))
            by, norms = self._displacements(gradients, unit)
        with torch.enable_grad():  # functions of parameters have a graph of their own
            moved = self._moved(tape, by)
        return Ascent(loss=loss.detach(), norms=norms, moved=moved, known=tape.known)

    def down(self, loss_fn: Callable[[], Tensor], ascent: Ascent) -> Tensor:
        """The forward of the second pass.

        Args:
            loss_fn: The mean loss over the batch.
            ascent: What the first pass found.

        Returns:
            The mean over the groups of their losses at their own w + e_j, with its graph.
        """
        with Second(self.subject, self.groups, self.sights, ascent.moved, ascent.known):
            return loss_fn()

    def _gradients(self, tape: First, bs: Sequence[Tensor | None]) -> dict[int, Form]:
        """The gradients of all groups, times the unit, by parameter."""
        taps = _taps(tape, bs)
        derived: dict[Key, Tensor] = {
            key: _dense(uses) for key, uses in taps.items() if not isinstance(key, int)
        }
        pulled = tape.program.pulled_back(derived, self.subject.params) if derived else {}
        reached = tape.program.reached(_used(tape))
        gradients: dict[int, Form] = {}
        for key, uses in taps.items():
            if isinstance(key, int):
                gradients[key] = Dense(_dense(uses)) if key in reached else self._form(uses)
        for index, each in pulled.items():
            there = gradients.get(index)
            gradients[index] = Dense(each + there.each if isinstance(there, Dense) else each)
        return gradients

    def _form(self, uses: list[Tap]) -> Form:
        rows = [use.rows for use in uses if use.rows is not None]
        n = sum(use.size[0] for use in uses)
        p, d = uses[0].size[1:]
        if len(rows) == len(uses) and self.geometry.keeps_rows(n) and prefers_rows(n, p, d):
            return joined([make() for make in rows])
        return Dense(_dense(uses), mark=uses[0].mark if len(uses) == 1 else None)

    def _displacements(
        self, gradients: dict[int, Form], unit: Tensor
    ) -> tuple[dict[int, Form], Tensor]:
        if not gradients:
            return {}, torch.zeros(self.groups, device=unit.device)
        return self.geometry.displacements(gradients, self.subject.params, self.radii, unit)

    def _moved(self, tape: First, by: dict[int, Form]) -> dict[Key, Moved]:
        """Every parameter, and every function of parameters that a layer uses, as they will be."""
        params = self.subject.params
        moved: dict[Key, Moved] = {
            index: Moved(value=params[index], by=form) for index, form in by.items()
        }
        wanted = sorted(key for key in _used(tape) if not isinstance(key, int))
        if not wanted:
            return moved
        each = {
            index: moved[index].each()
            if index in moved
            else params[index].expand(self.groups, *params[index].shape)
            for index in tape.program.reached(wanted)
        }
        for key, value in tape.program.spread(wanted, each).items():
            moved[key] = Moved(value=value, apart=True)
        return moved

    def _prove(self, loss: Tensor) -> None:
        """Every parameter in the graph was used where nobody looked: seen ones enter detached."""
        indices = {id(param): index for index, param in self.subject.params.items()}
        for param in _leaves(loss):
            if id(param) in indices:
                name = self.subject.names[indices[id(param)]]
                raise NotCovered(
                    f"parameters must be used by functions of torch, got {name!r} in a custom "
                    "autograd function or a compiled one"
                )


class _Node(Protocol):
    next_functions: tuple[tuple[Any, int], ...]


def _leaves(loss: Tensor) -> list[Tensor]:
    """The leaves of a graph."""
    found: list[Tensor] = []
    nodes, known = [cast("_Node | None", loss.grad_fn)], set[int]()
    keep: list[object] = []  # ids of nodes are only good as long as the nodes live
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in known:
            continue
        known.add(id(node))
        keep.append(node)
        if hasattr(node, "variable"):
            found.append(node.variable)  # pyright: ignore
        nodes.extend(after for after, _ in node.next_functions)
    return found


def _backward(tape: First, loss: Tensor, weight: Tensor) -> Sequence[Tensor | None]:
    """The b of every call, in order: gradients of the sum of the groups' losses, not the mean."""
    if not tape.records or not loss.requires_grad:
        return [None] * len(tape.records)
    edges = [record.edge for record in tape.records]
    bs = torch.autograd.grad(loss, edges, weight, allow_unused=True)
    return [
        None if b is None else b.reshape(record.shape)
        for b, record in zip(bs, tape.records, strict=True)
    ]


def _taps(tape: First, bs: Sequence[Tensor | None]) -> dict[Key, list[Tap]]:
    """The uses of every parameter."""
    taps: dict[Key, list[Tap]] = {}
    for record, b in zip(tape.records, bs, strict=True):
        if b is None:
            continue
        if record.version is not None and record.x._version != record.version:  # pyright: ignore
            tape.refuse("leave the inputs of layers as they are, got one that was written to")
        for key, tap in zip(
            record.keys, record.layer.taps(record.x, b, record.layout), strict=True
        ):
            if key is not None and tap is not None:
                taps.setdefault(key, []).append(tap)
    return taps


def _dense(uses: list[Tap]) -> Tensor:
    each = uses[0].dense()
    for use in uses[1:]:
        each = each + use.dense()
    return each


def _used(tape: First) -> set[Key]:
    """What the layers used, functions of parameters among them."""
    return {
        key for record in tape.records for key in record.keys if not isinstance(key, int | None)
    }
