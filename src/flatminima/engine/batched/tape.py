"""The two passes, as modes in which torch tells us of every function that the model calls.

`First` computes every layer as it is and keeps its input and, by the edge of autograd's graph that
is there at that moment, a handle on the gradient of its output: an activation that later works in
place changes the tensor but not the edge. Parameters enter detached, so a parameter that is found
in the graph has been used where nobody looked.

`Second` computes every layer with each group's own displacement.
"""

# Autograd functions have a context that torch gives no type to.
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from flatminima.engine.batched.derived import Key, Program
from flatminima.engine.batched.kinds import ALWAYS, HARMLESS, KINDS
from flatminima.engine.batched.layer import Layer, Moved
from flatminima.engine.batched.layout import Layout
from flatminima.vector import has_value

__all__ = ["First", "Known", "NotCovered", "Record", "Second", "Sight", "Subject", "Tape"]


class NotCovered(RuntimeError):
    """The batched form cannot be proved exact for this step."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What was seen of one call: what it does, and where its result keeps the examples."""

    what: str
    shape: torch.Size
    layout: Layout | None  # None: the result does not depend on the batch
    kept: float = 0.0  # bytes for each group between the passes

    def resized(self, groups: int, m: int) -> Sight:
        """The same of another number of groups, or of groups of another size."""
        if self.layout is None:
            return self
        axis, few = self.layout.axis, self.layout.examples
        shape = list(self.shape)
        shape[axis] = shape[axis] // few * groups * m
        layout = replace(self.layout, examples=groups * m, groups=groups)
        return replace(self, shape=torch.Size(shape), layout=layout)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The parameters that the groups move, and what their modules are."""

    params: Mapping[int, Tensor]  # by the index of the parameter
    names: Mapping[int, str]
    cumulative: frozenset[int] = frozenset()


class Tape(TorchFunctionMode):
    """What all passes share: which tensors depend on parameters, and who answers for a call."""

    is_rehearsal = False

    def __init__(self, subject: Subject, groups: int) -> None:
        super().__init__()
        self.subject = subject
        self.groups = groups
        self.cumulative = subject.cumulative
        self.keys: dict[int, Key] = {id(param): key for key, param in subject.params.items()}
        self.running: dict[int, Any] = {}
        self.program = Program()
        self.count = 0
        self._alive: list[Tensor] = []  # ids are only good as long as their tensors live

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        always = ALWAYS.get(func)
        if always is not None:
            return always(self, func, *args, **kwargs)
        if not self._concerns(args) and not (kwargs and self._concerns(kwargs.values())):
            return func(*args, **kwargs)
        if func in HARMLESS:
            return func(*args, **kwargs)
        kind = KINDS.get(func)
        if kind is not None:
            return kind(self, func, *args, **kwargs)
        return self.other(func, args, kwargs)

    def moves(self, *tensors: object) -> bool:
        """Whether one of them depends on a parameter and on no example."""
        return any(id(tensor) in self.keys for tensor in tensors)

    def call(self, function: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401
        """A function of torch, seen as if the model had called it."""
        return self.__torch_function__(function, (), args)

    @abstractmethod
    def through(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output in this pass."""

    @abstractmethod
    def layout(self, x: Tensor) -> Layout:
        """Where `x` keeps its examples."""

    @abstractmethod
    def other(self, function: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """A call that no layer answers for."""

    def derived(self, function: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """The result of a call on parameters alone, kept in the program."""
        result = function(*args, **kwargs)
        number = self.program.add(function, args, kwargs, self.keys)
        for place, tensor in enumerate(tree_leaves(result)):
            if isinstance(tensor, Tensor):
                self.keys[id(tensor)] = (number, place)
                self._alive.append(tensor)
        return result

    def refuse(self, reason: str) -> NoReturn:
        """Give up the batched form."""
        raise NotCovered(f"the step must {reason}")

    def named(self, *values: Any) -> str:  # noqa: ANN401 - any arguments
        """The parameters among some arguments, by their names in the model."""
        keys = [self.keys[id(leaf)] for leaf in tree_leaves(values) if id(leaf) in self.keys]
        indices = sorted(self.program.reached(keys))
        return " and ".join(repr(self.subject.names[index]) for index in indices)

    def _concerns(self, values: Any) -> bool:  # noqa: ANN401 - any arguments
        for value in values:
            if isinstance(value, Tensor):
                if id(value) in self.keys:
                    return True
            elif isinstance(value, list | tuple) and self._concerns(value):
                return True
        return False


class Performed(Tape):
    """A pass that follows what a rehearsal saw, call by call."""

    def __init__(self, subject: Subject, groups: int, sights: Sequence[Sight]) -> None:
        super().__init__(subject, groups)
        self.sights = sights

    def seen(self, what: str, shape: torch.Size) -> Sight:
        """What the rehearsal saw at this place."""
        sight = self.sights[self.count] if self.count < len(self.sights) else None
        self.count += 1
        if sight is None or sight.what != what or sight.shape != shape:
            self.refuse(f"take the same branches in every pass, got {what} of shape {tuple(shape)}")
        return sight

    def layout(self, x: Tensor) -> Layout:
        layout = self.seen("layout", x.shape).layout
        assert layout is not None
        return layout

    def other(self, function: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        self.seen(resolve_name(function) or repr(function), torch.Size())
        return self.derived(function, args, kwargs)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One call of one layer in the first pass."""

    layer: Layer
    keys: tuple[Key | None, ...]
    x: Tensor
    version: int | None  # None: the input is not needed
    edge: GradientEdge
    shape: torch.Size
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Known:
    """The output of a layer whose input depends on no parameter: it will be the same again."""

    x: Tensor
    y: Tensor
    versions: tuple[int, int]

    def of(self, x: Tensor) -> Tensor | None:
        """The output, if `x` is the very input, and neither has been written to."""
        if not has_value(x):  # while a step is traced, where the compiler finds it as well
            return None
        here, there = (
            (part.data_ptr(), part.dtype, part.shape, part.stride()) for part in (x, self.x)
        )
        if here != there or (self.x._version, self.y._version) != self.versions:
            return None
        return self.y


class First(Performed):
    """Keeps the input and the output's edge of every layer."""

    def __init__(self, subject: Subject, groups: int, sights: Sequence[Sight]) -> None:
        super().__init__(subject, groups, sights)
        self.records: list[Record] = []
        self.known: dict[int, Known] = {}  # by the number of the call
        self._anchor = torch.zeros((), requires_grad=True)

    def through(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer as it is, and a record of it."""
        if self.sights[self.count : self.count + 1] and self.sights[self.count].layout is None:
            y = self.derived(layer.plain, (x, *layer.params), {})
            self.seen(described(layer), y.shape)
            return y
        keys = tuple(self.keys.get(id(param)) for param in layer.params)
        fixed = [
            param.detach() if key is not None and param is not None else param
            for param, key in zip(layer.params, keys, strict=True)
        ]
        y = layer.plain(x, *fixed)
        if y._is_view() and y._base is not None and not _is_all(y):
            y = y.clone()
        layout = self.seen(described(layer), y.shape).layout
        assert layout is not None
        if not torch.is_grad_enabled():
            self.refuse(f"use parameters with gradients on, got {self.named(layer.params)} without")
        if torch._C._autograd._top_saved_tensors_default_hooks(True):  # pyright: ignore
            self.refuse("keep what autograd saves, got saved-tensor hooks (checkpoint, offloading)")
        if not y.requires_grad:
            y = _Anchored.apply(y, self._anchor)
        base = _base(y)
        kept = layer.keeps([key is not None for key in keys])
        record = Record(
            layer=layer,
            keys=keys,
            x=x.detach() if kept else x.new_empty(()),
            version=x._version if kept else None,
            edge=get_gradient_edge(base),
            shape=y.shape,
            layout=layout,
        )
        if kept and not x.requires_grad:
            self.known[self.count - 1] = Known(
                x=record.x, y=y.detach(), versions=(x._version, y._version)
            )
        self.records.append(record)
        return y


class Second(Performed):
    """Moves every layer's parameters by each group's own displacement."""

    def __init__(
        self,
        subject: Subject,
        groups: int,
        sights: Sequence[Sight],
        moved: Mapping[Key, Moved],
        known: Mapping[int, Known],
    ) -> None:
        super().__init__(subject, groups, sights)
        self.displaced = moved
        self.known = known

    def through(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer with its parameters moved."""
        sight = self.sights[self.count] if self.count < len(self.sights) else None
        if sight is None or sight.layout is None:
            y = self.derived(layer.plain, (x, *layer.params), {})
            self.seen(described(layer), y.shape)
            return y
        params = [self._moved(param) for param in layer.params]
        if all(param is None or param.stays for param in params):
            y = layer.plain(x, *layer.params)
        else:
            known = self.known.get(self.count)
            layer.known = None if known is None else known.of(x)
            y = layer.moved(x, sight.layout, *params)
        self.seen(described(layer), y.shape)
        return y

    def _moved(self, param: Tensor | None) -> Moved | None:
        if param is None:
            return None
        key = self.keys.get(id(param))
        return Moved(value=param) if key is None else self.displaced.get(key, Moved(value=param))


def described(layer: Layer) -> str:
    """A layer's kind, to recognise it in the next pass."""
    return type(layer).__name__


def _base(y: Tensor) -> Tensor:
    """What `y` is a view of, if it is one.

    An activation that works in place on a view hangs itself on the base, past the view's own edge.

    Returns:
        The base, or `y`.
    """
    return y if y._base is None else y._base


def _is_all(y: Tensor) -> bool:
    """Whether a view is its base in another shape."""
    base = _base(y)
    return y.is_contiguous() and base.is_contiguous() and y.numel() == base.numel()


class _Anchored(torch.autograd.Function):
    """The same tensor, with an edge of its own where nothing before it wants a gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, anchor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:  # noqa: ANN401
        return None, None
