"""What the tape asks of a layer: its output, its parameters' taps, and its output when moved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from flatminima.engine.batched.forms import Dense, Form, Rows
from flatminima.engine.batched.layout import Layout

__all__ = ["Layer", "Moved", "Pass", "Tap", "as_given", "computed_in"]


@dataclass(frozen=True, kw_only=True)
class Tap:
    """The gradients of all groups for one use of one parameter, before their form is chosen.

    Args:
        dense: Forms them, (groups, *shape).
        rows: The outer products that they are sums of; `None` where they are not.
        size: (n, p, d): how many outer products there would be in a group, and their lengths.
        mark: That of the outer products whose left factors are added up here.
    """

    dense: Callable[[], Tensor]
    rows: Callable[[], Rows] | None = None
    size: tuple[int, int, int] = (0, 0, 0)
    mark: object | None = None


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A parameter in the second pass.

    Args:
        value: The parameter itself; for one that is a function of parameters, its value in each
            group, (groups, *shape).
        by: How far each group moves it; `None` where it stays.
        apart: Whether `value` has one entry per group.
    """

    value: Tensor
    by: Form | None = None
    apart: bool = False

    @property
    def stays(self) -> bool:
        """Whether it is the same in every group."""
        return self.by is None and not self.apart

    @property
    def rows(self) -> tuple[Rows, ...]:
        """The outer products it moves by."""
        return self.by if isinstance(self.by, tuple) else ()

    def each(self) -> Tensor:
        """Theta + e_j, (groups, *shape); its gradient is summed over the groups by autograd."""
        if self.apart:
            return self.value
        assert isinstance(self.by, Dense)
        return self.by.added_to(self.value)


class Layer(ABC):
    """One call of one layer, y = L(x) theta: linear in its parameters, whatever it is in `x`."""

    params: tuple[Tensor | None, ...]
    known: Tensor | None = None  # L(x) theta, where the first pass has computed it for this very x

    @abstractmethod
    def plain(self, x: Tensor, *params: Tensor | None) -> Tensor:
        """L(x) theta."""

    def keeps(self, moves: Sequence[bool]) -> bool:
        """Whether its taps need its input, when these of its parameters move."""
        return any(moves)

    def fits(self, layout: Layout) -> bool:
        """Whether its parameters do not run along the axis of the examples."""
        return layout.is_plain

    @abstractmethod
    def taps(self, x: Tensor, b: Tensor, layout: Layout) -> tuple[Tap | None, ...]:
        """L(A_j)^T b_j for each parameter, from the layer's input and its output's gradient."""

    @abstractmethod
    def moved(self, x: Tensor, layout: Layout, *params: Moved | None) -> Tensor:
        """L(x) (theta + e_j), differentiable in `x` and in theta."""


class Pass(Protocol):
    """What a layer's file asks of the pass that is under way."""

    is_rehearsal: bool
    groups: int
    cumulative: frozenset[int]  # ids of running statistics that weigh all batches alike
    running: dict[int, Any]  # what the calls so far do to running statistics, by their ids

    def moves(self, *tensors: object) -> bool:
        """Whether one of them is a parameter that the groups move, or a function of such ones."""
        ...

    def through(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output in this pass."""
        ...

    def layout(self, x: Tensor) -> Layout:
        """Where `x` keeps its examples."""
        ...

    def call(self, function: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401
        """A function of torch, seen by this pass as if the model had called it."""
        ...

    def refuse(self, reason: str) -> NoReturn:
        """Give up the batched form, for a reason that completes "the step must ..."."""
        ...


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype that a matrix product of `x` has here, with autocast in mind."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


def as_given(x: Tensor) -> AbstractContextManager[object]:
    """A context in which products have the dtype of their factors, entered only if need be."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
