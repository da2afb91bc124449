"""Gradients from loops that hand over no loss function: by closure, or by making calls again.

A hook on a module that returns its loss keeps the arguments of every call whose loss is
backpropagated, with the random state and the autocast state that it began with, and the factor
that reached the loss: 1 for a plain `loss.backward()`, 1/4 in an accumulation over four. So the
calls can be made again elsewhere, and their gradients add up to what `.grad` would hold there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flatminima.engine.noise import Noise
from flatminima.engine.parameters import Parameters

__all__ = ["Closure", "Recorded", "Recorder", "Replay", "loss_in"]


@dataclass(frozen=True)
class Closure:
    """A closure of torch's contract as a source of gradients: it does the two passes by itself.

    Args:
        closure: Sets the gradients to zero, runs forward and backward, and returns the loss.
        marked: A parameter that had a gradient before, to find out whether the closure zeroes.
    """

    closure: Callable[[], Tensor | float]
    marked: Tensor | None = None
    passes: int = 0

    def run(
        self, batch: tuple[Any, ...], parameters: Parameters, *, here: bool
    ) -> tuple[Tensor, None]:
        """Call the closure, which leaves its gradients in `.grad`."""
        if batch:
            raise RuntimeError(
                "rule must ask about the batch at hand only, got another one; "
                "a closure shows no batch: use SharpnessAware.backward"
            )
        marker = None if self.marked is None else _marked(self.marked)
        loss: object = self.closure()
        if not isinstance(loss, Tensor | float | int):
            raise TypeError(f"closure must return the loss, got {type(loss).__name__}")
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise TypeError(f"closure must return one number, got shape {tuple(loss.shape)}")
        if marker is not None and self.marked is not None and _is_kept(marker, self.marked.grad):
            raise RuntimeError(
                "closure must set the gradients to zero first, got one that adds to those that "
                "were there: call optimizer.zero_grad() in it; to accumulate, go through all "
                "micro-batches within the closure"
            )
        if all(param.grad is None for param in parameters.tensors):
            raise RuntimeError(
                "closure must run the backward pass, got no gradient from it; "
                "call loss.backward() in it"
            )
        return torch.as_tensor(loss).detach().reshape(()), None


@dataclass
class Recorded:
    """One call of a loss, and what reached it from behind."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    noise: Noise
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    loss: Tensor | None = None
    factor: Tensor | None = None

    def again(self, inputs: list[Tensor] | None, *, same_noise: bool) -> Tensor:
        """Forward and backward once more; adds to `.grad`, returns the loss times its factor."""
        with ExitStack() as stack:
            if same_noise:
                stack.enter_context(self.noise.again())
            for device, enabled, dtype in self.autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
            loss = loss_in(self.function(*self.args, **self.kwargs))
        if loss is None or self.factor is None:
            raise RuntimeError("replay must return its loss again, got none at the second call")
        loss.backward(self.factor, inputs=inputs)
        return loss.detach() * self.factor


@dataclass
class Recorder:
    """Keeps the calls whose loss is backpropagated.

    Args:
        devices: Of the parameters, whose random state is kept.
        calls: What was backpropagated since the last `clear`, in order.

    Example:
        >>> recorder, weight = Recorder(), torch.ones(1, requires_grad=True)
        >>> loss = recorder.recording(lambda x: (weight * x).sum())(torch.ones(1))
        >>> (loss / 4).backward()
        >>> [call.factor for call in recorder.calls]
        [tensor(0.2500)]
    """

    devices: Iterable[torch.device] = ()
    calls: list[Recorded] = field(default_factory=list[Recorded])
    _begun: list[Recorded] = field(default_factory=list[Recorded])
    _paused: bool = False

    def attach(self, module: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        """Record the calls of a module; a copy of the module is not recorded."""
        before, after = _Hook(self._before), _Hook(self._after)
        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]

    def recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each call of which is recorded."""

        def recorded(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the loss takes
            self._before(function, args, kwargs)
            output = function(*args, **kwargs)
            self._after(function, args, kwargs, output)
            return output

        return recorded

    @property
    def is_paused(self) -> bool:
        """Whether calls are made again now, and not recorded."""
        return self._paused

    @contextmanager
    def paused(self) -> Generator[None]:
        """Record nothing inside."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def clear(self) -> None:
        """Forget all calls."""
        self.calls.clear()
        self._begun.clear()

    def _before(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:  # noqa: ANN401
        if not self._paused and torch.is_grad_enabled():
            noise = Noise.now(self.devices)
            self._begun.append(Recorded(function, args, kwargs, noise, _autocast()))

    def _after(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:  # noqa: ANN401
        loss, call = loss_in(output), None
        while self._begun and (call is None or call.function is not function):
            call = self._begun.pop()  # calls within this one that raised are dropped
        if call is not None and loss is not None and loss.requires_grad:
            call.loss = loss.detach()
            loss.register_hook(partial(self._arrived, call))  # dies with the loss

    def _arrived(self, call: Recorded, factor: Tensor) -> None:
        if call.factor is None:
            self.calls.append(call)
            call.factor = factor.detach().clone()
        else:
            call.factor = call.factor + factor.detach()


@dataclass
class Replay:
    """Recorded calls as a source of gradients; at the weights themselves they are there already.

    Args:
        recorder: Who recorded; it does not record the calls made again.
        calls: What was recorded.
        grads: What the loop left in `.grad`; taken out of it at the first question.
        same_noise: Whether each call draws the same noise again.
    """

    recorder: Recorder
    calls: list[Recorded]
    grads: list[Tensor | None]
    same_noise: bool
    passes: int = 1

    def run(
        self, batch: tuple[Any, ...], parameters: Parameters, *, here: bool
    ) -> tuple[Tensor, None]:
        """The gradients that are there, or those of all calls made again."""
        if batch:
            raise RuntimeError(
                "rule must ask about the batch at hand only, got another one; "
                "replay shows no batch: use SharpnessAware.backward"
            )
        grads, self.grads = self.grads, []
        if here and grads:
            parameters.put(grads)
            losses = [
                call.loss * call.factor
                for call in self.calls
                if call.loss is not None and call.factor is not None
            ]
        else:
            inputs = parameters.inputs
            with self.recorder.paused():
                losses = [call.again(inputs, same_noise=self.same_noise) for call in self.calls]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0], None


def loss_in(output: Any) -> Tensor | None:  # noqa: ANN401 - whatever a module returns
    """The loss in what a module returns: itself, its `loss`, or the first of several."""
    if isinstance(output, Mapping):
        output = output.get("loss")
    elif isinstance(output, tuple | list):
        output = output[0] if output else None
    elif not isinstance(output, Tensor):
        output = getattr(output, "loss", None)
    return output if isinstance(output, Tensor) and output.dim() == 0 else None


@dataclass
class _Hook:
    """A hook that a copy of the module does not take along."""

    function: Callable[..., None]

    def __call__(self, *args: Any) -> None:  # noqa: ANN401 - as torch calls hooks
        self.function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (_nothing,)


def _nothing(*args: Any) -> None:  # noqa: ANN401 - as torch calls hooks
    """Do nothing."""


def _autocast() -> tuple[tuple[str, bool, torch.dtype], ...]:
    """The autocast state of the kinds of device there are."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return tuple(
        (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds
    )


def _marked(param: Tensor) -> Tensor:
    """Put a gradient that no loss has, and return it."""
    param.grad = torch.full_like(param, torch.finfo(param.dtype).max / 4, requires_grad=False)
    return param.grad


def _is_kept(marker: Tensor, grad: Tensor | None) -> bool:
    """Whether the mark is still in the gradient; asks the device only if the object is the same."""
    return grad is marker and bool((marker > torch.finfo(marker.dtype).max / 8).all())
