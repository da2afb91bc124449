"""The passes of one conversation: each question of a rule is a forward and a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from flatminima.engine.buffers import Buffers
from flatminima.engine.noise import Noise
from flatminima.engine.observe import Seen
from flatminima.engine.parameters import Parameters
from flatminima.engine.weights import Weights
from flatminima.rules.rule import Ask, Here
from flatminima.vector import Vector, has_value

__all__ = ["Body", "Call", "LossFn", "Passes", "Scaler", "Source", "check_loss", "poisoned"]

LossFn = Callable[..., Tensor]


class Scaler(Protocol):
    """What is used of `torch.amp.GradScaler`: its public `scale`."""

    def scale(self, outputs: Tensor, /) -> Tensor:
        """The outputs times the loss scale."""
        ...


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a step acts on: parameters, their weights, and what must not move more than once."""

    parameters: Parameters
    weights: Weights
    buffers: Buffers
    generator: torch.Generator
    same_noise: bool


class Source(Protocol):
    """Where a loss and its gradient come from: a loss function, a closure, calls made again."""

    @property
    def passes(self) -> int:
        """How many passes over the batch there were before the first question."""
        ...

    def run(
        self, batch: tuple[Any, ...], parameters: Parameters, *, here: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Forward and backward, into empty `.grad`; returns the loss, detached, and its scale."""
        ...


@dataclass(frozen=True, kw_only=True)
class Call:
    """How the user called: the loss, and what to do with it."""

    loss_fn: LossFn
    scaler: Scaler | None = None
    backward_fn: Callable[[Tensor], object] | None = None
    passes: int = 0

    def run(
        self, batch: tuple[Any, ...], parameters: Parameters, *, here: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Forward and backward, wherever the weights are."""
        displaced = None if here else getattr(self.loss_fn, "displaced", None)
        loss = (displaced or self.loss_fn)(*batch)
        check_loss(loss)
        clean, scale = loss.detach(), None
        if self.scaler is not None:
            scale = self.scaler.scale(torch.ones((), device=loss.device))
            loss = self.scaler.scale(loss)
        if self.backward_fn is None:
            loss.backward(inputs=parameters.inputs)
        else:
            self.backward_fn(loss)
        return clean, scale


class Passes(ExitStack):
    """Answers the questions of one conversation about one batch.

    The first pass is an ordinary one. The further ones draw the same noise (or noise of their own),
    and what they do to buffers and to the random state is undone when the context ends.
    """

    def __init__(self, body: Body, call: Source, batch: tuple[Any, ...], *, record: bool) -> None:
        super().__init__()
        self.body = body
        self.call = call
        self.batch = batch
        self.record = record
        self.seen: list[Seen] = []
        self._count = call.passes
        self._noise = Noise.now({param.device for param in body.parameters.tensors})
        self._losses: dict[int, Tensor] = {}
        self._scale: Tensor | None = None
        self._last: tuple[Vector, Vector] | None = None  # the last gradient, unscaled and as it was
        self._finite: Tensor | None = None  # whether those before it are

    @property
    def loss(self) -> Tensor:
        """The loss at the weights on the batch itself, or else the nearest to it that was seen."""
        return self._losses[min(self._losses)]

    def answer(self, question: object) -> Vector:
        """The gradient where the rule wants to look.

        Args:
            question: `HERE`, a displacement, or one of them on another batch.

        Returns:
            The gradient there, unscaled; `None` for parameters that have none.

        Raises:
            TypeError: If the rule asks something else, or the loss cannot be differentiated.
        """
        at, batch = (
            (question.at, question.batch) if isinstance(question, Ask) else (question, self.batch)
        )
        params = self.body.parameters.tensors
        if not isinstance(at, Vector | Here):
            raise TypeError(f"rule must yield HERE, a Vector or Ask, got {at!r}")
        if isinstance(at, Vector) and not at.fits(params):
            raise TypeError(
                f"rule must yield a Vector of {len(params)} parts, got Vector of {_shapes(at)}; "
                f"the parameters are {_shapes(params)}"
            )
        self._fold()
        distance = 2 * (batch is not self.batch) + isinstance(at, Vector)
        recorded = at if self.record else None
        where: list[Vector | Here] = [at]
        del at, question
        with (
            self._circumstances(here=distance == 0),
            self.body.weights.displaced(where),
            torch.enable_grad(),
        ):
            loss = self._run(batch, here=distance == 0)
        self._losses.setdefault(distance, loss)
        gradient = self._collected()
        if recorded is not None:
            self.seen.append(Seen(at=recorded, gradient=gradient))
        return gradient

    def checked(self, direction: object) -> Vector:
        """The direction, if it is one.

        Args:
            direction: What the rule returned.

        Returns:
            The same.

        Raises:
            TypeError: If it is something else, or the rule never asked for a gradient.
        """
        params = self.body.parameters.tensors
        if not self._losses:
            raise TypeError("rule must look at least once, got a rule that asks nothing")
        if not isinstance(direction, Vector):
            raise TypeError(f"rule must return a Vector of {len(params)} parts, got {direction!r}")
        if self._last is None or direction is not self._last[0]:
            _ = direction.parts  # multiplied out now, so that nobody who looks changes a rounding
        if not direction.fits(params):
            raise TypeError(
                f"rule must return a Vector of {len(params)} parts, "
                f"got Vector of {_shapes(direction)}; the parameters are {_shapes(params)}"
            )
        return direction

    def delivered(self, direction: Vector) -> Vector:
        """The direction as it goes into `.grad`.

        Args:
            direction: What the rule returned.

        Returns:
            The direction times the loss scale, and non-finite if a gradient that was seen is not
            finite, even where the rule made something finite of it.
        """
        gradient, raw = self._last if self._last is not None else (None, direction)
        if direction is not gradient:
            self._fold()
            raw = direction if self._scale is None else direction * self._scale
        return raw if self._finite is None else poisoned(raw, self._finite)

    def _fold(self) -> None:
        """Note whether the last gradient is finite, and let go of it."""
        if self._last is not None:
            finite = self._last[0].norm().isfinite()
            self._finite = finite if self._finite is None else self._finite & finite
            self._last = None

    def _circumstances(self, *, here: bool) -> AbstractContextManager[None]:
        if here and self.call.passes and not self._losses:
            return nullcontext()  # its gradient is there already
        self._count += 1
        if self._count == 1:
            return self.body.buffers.watched()
        if self._count == 2:
            self.enter_context(self.body.buffers.held())
        if self.body.same_noise:
            return self._noise.again()
        return self._noise.afresh(self.body.generator)

    def _run(self, batch: tuple[Any, ...], *, here: bool) -> Tensor:
        """Forward and backward; returns the loss, detached."""
        self.body.parameters.clear()
        loss, self._scale = self.call.run(batch, self.body.parameters, here=here)
        return loss

    def _collected(self) -> Vector:
        gradient = Vector(map(_dense, self.body.parameters.grads))
        self.body.parameters.clear()
        raw = gradient
        if self._scale is not None:
            gradient = raw * (1.0 / self._scale)
        self._last = (gradient, raw)
        return gradient


def check_loss(loss: object) -> None:
    """Refuse what is not the mean loss of a batch.

    Args:
        loss: What `loss_fn` returned.

    Raises:
        TypeError: If it is no 0-d tensor with a graph.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a 0-d tensor, got {type(loss).__name__}")
    if loss.dim() != 0:
        raise TypeError(
            f"loss_fn must return a 0-d tensor, got shape {tuple(loss.shape)}; "
            "take the mean over the examples"
        )
    if not loss.requires_grad:
        raise TypeError(
            "loss_fn must return a tensor that depends on the parameters, got one without a graph; "
            "is the model frozen, or the loss detached?"
        )


def _shapes(tensors: Iterable[Tensor | None]) -> str:
    """A list of tensors in a few words."""
    shapes = [
        "None"
        if tensor is None
        else f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        for tensor in tensors
    ]
    rest = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    return f"{', '.join(shapes[:4])}{rest}"


def _dense(grad: Tensor | None) -> Tensor | None:
    if grad is not None and grad.layout != torch.strided:
        raise TypeError(
            f"gradients must be dense, got {grad.layout} for a parameter of shape "
            f"{tuple(grad.shape)}; make the embedding with sparse=False"
        )
    return grad


def poisoned(direction: Vector, finite: Tensor) -> Vector:
    """A direction, made non-finite where a gradient was; off the CPU the host does not know.

    Args:
        direction: The direction.
        finite: Whether every gradient that was seen is finite, a 0-d tensor.

    Returns:
        The direction, with one part replaced if `finite` is false.
    """
    if has_value(finite) and finite.device.type == "cpu" and bool(finite):
        return direction
    parts = list(direction.parts)
    for index, part in enumerate(parts):
        if part is not None:
            parts[index] = torch.where(finite.to(part.device), part, torch.nan)
            break  # one part is enough for whoever checks, and costs one pass over it
    return Vector(parts)
