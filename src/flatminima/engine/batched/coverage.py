"""The proof that the batched form is exact for a model and a batch: a rehearsal, once.

The loss is run twice without gradients, for the first group alone and for the whole batch, and the
two are compared call by call. The axis whose length grew counts the examples. The rows of the first
group must be the same in both: else examples of different groups have met. A result that is the
same in both does not depend on the batch, and may be a function of parameters. At last the loss of
the batch must be the mean of the losses of the groups.

Whatever uses a parameter and is neither a layer nor independent of the batch is named and refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._pytree import tree_leaves

from flatminima.engine.batched.cost import prefers_rows
from flatminima.engine.batched.layer import Layer
from flatminima.engine.batched.layout import Layout
from flatminima.engine.batched.tape import NotCovered, Sight, Subject, Tape, described

__all__ = ["eager", "rehearsed"]

CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""How far values may differ, relative to the largest, that were computed in other batches."""
COARSE = 5e-2  # for half precision


def rehearsed(
    subject: Subject, loss_of: Callable[[int | None], Tensor], groups: int, m: int
) -> list[Sight]:
    """What every call of the loss does with the examples.

    Args:
        subject: The parameters that move.
        loss_of: The loss of one group by its number, or of the whole batch for `None`.
        groups: How many groups there are.
        m: Examples in each.

    Returns:
        One entry per call, for the passes to follow.

    Raises:
        NotCovered: If a parameter is used in a way that is not understood, or examples of
            different groups meet.
    """
    fixed: dict[int, bool] = {}
    with torch.no_grad():
        while True:
            alone = Rehearsal(subject, fixed, None, m)
            losses = [_run(alone, loss_of, 0)]
            together = Rehearsal(subject, fixed, alone.seen, m, groups)
            try:
                whole = _run(together, loss_of, None)
            except _Mistaken:
                continue
            break
        for j in range(1, groups):
            losses.append(_run(Rehearsal(subject, fixed, None, m), loss_of, j))
        mean = torch.stack(losses).mean()
        if len(together.sights) != len(alone.seen) or not _close(mean, whole):
            raise NotCovered(
                "the loss must be the mean over the examples, got "
                f"{float(whole):.6g} for the batch and {float(mean):.6g} as the mean of its groups"
            )
    return together.sights


def eager() -> ExitStack:
    """A context in which compiled modules run as they were written, so that they can be seen."""
    stack = ExitStack()
    if "torch._dynamo" in sys.modules:  # else nothing has been compiled, and it is slow to import
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack


@dataclass(frozen=True)
class _Call:
    what: str
    results: list[Any]
    inputs: list[Any]


class _Mistaken(Exception):
    """A call was taken for one that depends on examples, or for one that doesn't: run again."""


class Rehearsal(Tape):
    """A run without gradients, on one group or, beside what was seen there, on all of them.

    What depends on no example is a function of parameters and kept as such. A group alone cannot
    tell, so it goes by a guess: `fixed` says, by the number of the call, where that was wrong.
    """

    is_rehearsal = True

    def __init__(
        self,
        subject: Subject,
        fixed: dict[int, bool],
        before: Sequence[_Call] | None,
        m: int,
        groups: int = 1,
    ) -> None:
        super().__init__(subject, groups)
        self.fixed = fixed
        self.before = before
        self.m = m
        self.seen: list[_Call] = []
        self.sights: list[Sight] = []

    def through(self, layer: Layer, x: Tensor) -> Tensor:
        place, self.count = self.count, self.count + 1
        guess = self.fixed.get(place, self.moves(x))
        y = layer.plain(x, *layer.params)
        sight = self._sight(described(layer), [y], [x], self.named(layer.params))
        if sight is not None and (sight.layout is None) is not guess:
            self.fixed[place] = not guess
            raise _Mistaken
        if guess:
            return self._remembered(layer.plain, (x, *layer.params), {}, y)
        if sight is not None and not (sight.layout and layer.fits(sight.layout)):
            self._refuse_call(described(layer), layer.params, "with examples along another axis")
        if self.moves(x):
            self._refuse_call(described(layer), (x,), "as the input of a layer")
        if sight is not None and sight.layout is not None:
            kept = _kept(layer, x, y, sight.layout) / self.groups
            self.sights[-1] = replace(sight, kept=kept)
        return y

    def layout(self, x: Tensor) -> Layout:
        self.count += 1
        sight = self._sight("layout", [x], [], "")
        if sight is None:
            return Layout(axis=0, outer=1, examples=self.m, groups=1)
        if sight.layout is None:
            self.refuse("have examples where it takes their statistics, got a constant")
        return sight.layout

    def other(self, function: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        self.count += 1
        name = resolve_name(function) or repr(function)
        result = function(*args, **kwargs)
        leaves = tree_leaves(result)
        if any(not isinstance(leaf, Tensor) for leaf in leaves) or _writes(name):
            self._refuse_call(name, (args, kwargs), "")
        sight = self._sight(name, leaves, [], self.named(args, kwargs), whole=True)
        if sight is not None and sight.layout is not None:
            self._refuse_call(name, (args, kwargs), "together with examples")
        return self._remembered(function, args, kwargs, result)

    def _sight(
        self,
        what: str,
        results: list[Tensor],
        inputs: list[Tensor],
        names: str,
        *,
        whole: bool = False,
    ) -> Sight | None:
        """Compare a call with the same one for a group alone, if there was one."""
        if self.before is None:  # copies: what follows may work in place
            copies = [[tensor.clone() for tensor in tensors] for tensors in (results, inputs)]
            self.seen.append(_Call(what, *copies))
            return None
        place = len(self.sights)
        alone = self.before[place] if place < len(self.before) else None
        if alone is None or alone.what != what:
            self.refuse(f"call the same layers for every group, got {what} where there was none")
        layout = self._compared(
            alone, _Call(what, results, inputs), f"{what} of {names}" if names else what
        )
        shape = torch.Size() if whole else results[0].shape
        self.sights.append(Sight(what=what, shape=shape, layout=layout))
        return self.sights[-1]

    def _compared(self, alone: _Call, together: _Call, name: str) -> Layout | None:
        small, large = alone.results[0], together.results[0]
        if small.shape == large.shape:
            if not all(map(_close, alone.results, together.results)):
                self.refuse(
                    f"keep examples of different groups apart, got {name}, which mixes them"
                )
            return None
        pairs = zip(small.shape, large.shape, strict=False)
        axes = [axis for axis, (few, many) in enumerate(pairs) if few != many]
        examples = self.m * self.groups
        if small.dim() != large.dim() or len(axes) != 1 or large.shape[axes[0]] % examples:
            self.refuse(
                f"have one axis of examples in every result, got {name} with shape "
                f"{tuple(small.shape)} for a group and {tuple(large.shape)} for the batch"
            )
        return self._ordered(alone, together, axes[0], large.shape[axes[0]] // examples, name)

    def _ordered(self, alone: _Call, together: _Call, axis: int, rows: int, name: str) -> Layout:
        """The order of the rows along an axis that counts `rows` for each example."""
        fitting: list[Layout] = []
        for outer in {1, rows}:
            layout = Layout(
                axis=axis, outer=outer, examples=self.m * self.groups, groups=self.groups
            )
            part = Layout(axis=axis, outer=outer, examples=self.m, groups=1)
            pairs = zip(
                [*alone.results, *alone.inputs], [*together.results, *together.inputs], strict=True
            )
            if all(_agree(small, large, part, layout) for small, large in pairs):
                fitting.append(layout)
        if len(fitting) == 1:
            return fitting[0]
        reason = "which mixes them" if not fitting else "whose rows are all alike"
        self.refuse(f"keep examples of different groups apart, got {name}, {reason}")

    def _remembered(self, function: Any, args: Any, kwargs: Any, result: Any) -> Any:  # noqa: ANN401
        """Keep a function of parameters, without running it once more."""
        return self.derived(_Answer(function, result), args, kwargs)

    def _refuse_call(self, name: str, values: Any, how: str) -> NoReturn:  # noqa: ANN401
        tail = f" {how}" if how else ""
        named = self.named(values)
        self.refuse(f"use parameters in layers that are understood, got {named} in {name}{tail}")


@dataclass(frozen=True)
class _Answer:
    """A function whose result is known."""

    function: Any
    result: Any

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        return self.result


def _kept(layer: Layer, x: Tensor, y: Tensor, layout: Layout) -> float:
    """The bytes of a layer's taps, and of the gradients that are formed from them."""
    taps = layer.taps(x, y, layout)  # y stands in for its gradient; nothing is computed yet
    size = 0
    for tap, param in zip(taps, layer.params, strict=True):
        if tap is not None and param is not None:
            n, p, d = tap.size
            dense = tap.rows is None or not prefers_rows(n, p, d)
            size += layout.groups * (2 * param.numel() if dense else n * (p + d))
    return y.element_size() * (x.numel() + y.numel() + size)


def _run(tape: Tape, loss_of: Callable[[int | None], Tensor], group: int | None) -> Tensor:
    with tape:
        return loss_of(group).detach()


def _agree(small: Tensor, large: Tensor, part: Layout, layout: Layout) -> bool:
    """Whether the first group of a batch is what it is alone."""
    if large.dim() <= layout.axis or large.shape[layout.axis] % layout.examples:
        return True  # an input that is broadcast
    if large.shape == small.shape:
        return True
    return _close(part.grouped(small)[0], layout.grouped(large)[0])


def _close(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if not one.is_floating_point():
        return bool(torch.equal(one, two))
    largest = one.detach().abs().nan_to_num().amax() if one.numel() else one.detach().sum()
    tolerance = CLOSE.get(one.dtype, COARSE) * float(largest)
    return bool(torch.allclose(one, two, rtol=0.0, atol=tolerance, equal_nan=True))


def _writes(name: str) -> bool:
    """Whether a function changes its first argument."""
    last = name.rsplit(".", 1)[-1]
    return last in ("__setitem__", "set_", "data") or (
        last.endswith("_") and not last.endswith("__")
    )
