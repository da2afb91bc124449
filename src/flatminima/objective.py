"""A loss as a function of the weights: the one thing that everything which measures is handed.

A network on batches is an objective; so are a quadratic in a test and a surface in the plane. An
objective has no side effect: a model that it was made of is left as it was, mode, buffers, random
state, `.grad` and all, also when the loss raises.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatminima.vector import Vector

__all__ = ["BatchNormPolicy", "Objective"]

BatchNormPolicy = Literal["eval", "batch"]
Batch = Sequence[Any]


class Piece(Protocol):
    """One summand of an objective: a scalar function of the weights, without side effects."""

    def __call__(self, w: Vector, /) -> Tensor: ...


class Objective:
    """A scalar function of the weights with its gradient and its Hessian's products.

        f(w),   grad f(w),   H(w) v = d/dt grad f(w + t v) at t = 0

    Args:
        function: Takes a `Vector` and returns a 0-d tensor that torch can differentiate.

    Raises:
        TypeError: On use, if `function` returns something other than a 0-d tensor.

    Cost: `value` one forward pass over the data, `gradient` a forward and a backward, `hvp` about 5
    gradients alone and about 3 within `linearized` on a single batch.

    Example:
        >>> f = Objective(lambda w: 0.5 * w.dot(w))
        >>> w = Vector([torch.tensor([1.0, 2.0])])
        >>> f.value(w), f.gradient(w).parts[0], f.hvp(w, w).parts[0]
        (tensor(2.5000), tensor([1., 2.]), tensor([1., 2.]))
    """

    def __init__(self, function: Callable[[Vector], Tensor]) -> None:
        self._pieces: list[tuple[float, Piece]] = [(1.0, function)]
        self._guard: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.examples: int | None = None
        self.batches: Sequence[Batch] = ()  # none where it was not made of a model
        self.passes: float = 0.0
        self._again: Callable[[Sequence[Batch]], Objective] | None = None

    @staticmethod
    def of_model(
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        batches: Sequence[Batch],
        *,
        count: Callable[..., int] | None = None,
        batch_norm: BatchNormPolicy = "eval",
    ) -> tuple[Objective, Vector]:
        """The mean loss over all examples as a function of a model's trainable parameters.

            f(w) = sum_b n_b loss_b(w) / sum_b n_b

        Args:
            model: The module that `loss_fn` calls.
            loss_fn: `loss_fn(*batch)` returns the mean loss over the batch's examples, as in
                training.
            batches: Tuples for `loss_fn`; of any sizes; kept, and walked in order at every
                evaluation.
            count: `count(*batch)` returns n_b, what the batch's mean divides by; by default the
                length of the batch's first tensor. Give it where the mean is over tokens or over
                targets that are not ignored.
            batch_norm: `eval` evaluates the model in eval mode (running statistics, no dropout);
                `batch` in training mode (statistics of each batch, dropout with the same masks at
                every evaluation).

        Returns:
            The objective, and the weights as they are now (not copied).

        Raises:
            ValueError: If there are no batches, or no parameter is trainable.

        Cost: nothing until it is evaluated.

        Example:
            >>> model = nn.Linear(1, 1, bias=False)
            >>> x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, 1)
            >>> def loss_fn(x, y):
            ...     return nn.functional.mse_loss(model(x), y)
            >>> f, w = Objective.of_model(model, loss_fn, [(x[:2], y[:2]), (x[2:], y[2:])])
            >>> bool(torch.isclose(f.value(w), loss_fn(x, y).detach()))
            True
        """
        named = {name: param for name, param in model.named_parameters() if param.requires_grad}
        if not named:
            raise ValueError(
                "model must have a trainable parameter, got none; set requires_grad on some"
            )
        if not batches:
            raise ValueError("batches must hold at least one batch, got none")
        sizes = [_size(batch) if count is None else count(*batch) for batch in batches]
        network = _Network(model, loss_fn, tuple(named), batch_norm)
        objective = Objective(network.piece(batches[0]))
        objective.examples = sum(sizes)
        objective._pieces = [
            (size / objective.examples, network.piece(batch))
            for size, batch in zip(sizes, batches, strict=True)
        ]
        objective._guard = network.untouched
        objective.batches = batches
        objective._again = lambda others: Objective.of_model(
            model, loss_fn, others, count=count, batch_norm=batch_norm
        )[0]
        return objective, Vector(param.detach() for param in named.values())

    def on(self, batches: Sequence[Batch]) -> Objective:
        """The same loss of the same model on other data: on a part of its own, say.

        Args:
            batches: Tuples for the loss, as in `of_model`.

        Returns:
            The objective; it counts its passes by itself.

        Raises:
            TypeError: If this objective was not made of a model.

        Cost: nothing until it is evaluated.

        Example:
            >>> model, x = nn.Linear(1, 1), torch.tensor([[1.0], [2.0], [3.0]])
            >>> f, w = Objective.of_model(model, lambda x: model(x).square().mean(), [(x,)])
            >>> f.on([(x[:2],)]).examples, f.examples
            (2, 3)
        """
        if self._again is None:
            raise TypeError(
                "objective must be of a model on batches, got one of a function; "
                "make it with Objective.of_model"
            )
        return self._again(batches)

    @contextmanager
    def differentiable(self) -> Generator[Callable[[Vector], Tensor], None, None]:
        """The loss as a function that torch can follow, while the model is guarded.

        Yields:
            A function that takes `w` and returns the loss there, with its graph where torch keeps
            one.

        Example:
            >>> f, w = Objective(lambda w: w.dot(w)), Vector([torch.ones(1, requires_grad=True)])
            >>> with f.differentiable() as loss:
            ...     loss(w).requires_grad
            True
        """
        with self._guard():

            def loss(w: Vector) -> Tensor:
                self.passes += 1.0
                terms = [weight * _scalar(piece(w)) for weight, piece in self._pieces]
                return torch.stack(terms).sum()

            yield loss

    @torch.no_grad()
    def value(self, w: Vector) -> Tensor:
        """The loss at `w`: a 0-d tensor, summed in float64 over the batches."""
        with self._guard():
            terms = [weight * _scalar(piece(w)).double() for weight, piece in self._pieces]
        self.passes += 1.0
        return torch.stack(terms).sum().to(_dtype(w))

    def gradient(self, w: Vector) -> Vector:
        """The gradient at `w`.

        Args:
            w: The point.

        Returns:
            The gradient; a parameter on which the loss does not depend has a part of zeros.
        """
        return self.value_and_gradient(w)[1]

    def value_and_gradient(self, w: Vector) -> tuple[Tensor, Vector]:
        """The loss and its gradient at `w`, for the price of the gradient.

        Args:
            w: The point.

        Returns:
            What `value` and `gradient` return.

        Example:
            >>> f = Objective(lambda w: w.dot(w))
            >>> value, g = f.value_and_gradient(Vector([torch.tensor([3.0])]))
            >>> value, g.parts[0]
            (tensor(9.), tensor([6.]))
        """
        total, terms = w.zeros_like(), list[Tensor]()
        with self._guard(), torch.enable_grad():
            for weight, piece in self._pieces:
                point = _leaf(w)
                loss = _scalar(piece(point))
                terms.append(weight * loss.detach().double())
                total = total + weight * _slope(loss, point, create_graph=False)
        self.passes += 2.0
        return torch.stack(terms).sum().to(_dtype(w)), total

    def hvp(self, w: Vector, v: Vector) -> Vector:
        """The Hessian at `w` times `v`, by differentiating the gradient along `v` once more.

        Args:
            w: The point.
            v: The vector; for many of them at one point use `linearized`.

        Returns:
            The product.
        """
        with self.linearized(w) as product:
            return product(v)

    @contextmanager
    def linearized(self, w: Vector) -> Generator[Callable[[Vector], Vector], None, None]:
        """Keep what products with the Hessian at `w` have in common.

        With one batch the graph of the gradient is built once and kept; with several it would fill
        the memory, and each product builds it batch by batch.

        Args:
            w: The point.

        Yields:
            A function that takes `v` and returns the Hessian times `v`.

        Example:
            >>> f, w = Objective(lambda w: w.dot(w)), Vector([torch.tensor([1.0])])
            >>> with f.linearized(w) as product:
            ...     product(w).parts[0]
            tensor([2.])
        """
        with ExitStack() as stack:
            stack.enter_context(self._guard())
            # Fused attention has no second derivative; the choice is made in the forward pass.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.enable_grad())
            kept = (
                [self._linear(*piece, w) for piece in self._pieces]
                if len(self._pieces) == 1
                else None
            )

            def product(v: Vector) -> Vector:
                self.passes += 4.0
                total = w.zeros_like()
                # A forward pass anew needs the guard anew: the same dropout masks in every product.
                with self._guard() if kept is None else nullcontext(), torch.enable_grad():
                    for index, piece in enumerate(self._pieces):
                        linear = self._linear(*piece, w) if kept is None else kept[index]
                        weight, point, slope = linear
                        total = total + weight * _product(slope, point, v, keep=kept is not None)
                return total

            yield product

    def _linear(self, weight: float, piece: Piece, w: Vector) -> tuple[float, Vector, Vector]:
        point = _leaf(w)
        return weight, point, _slope(_scalar(piece(point)), point, create_graph=True)


@dataclass(frozen=True)
class _Network:
    """A model and its loss, evaluated at any weights and left as it was."""

    model: nn.Module
    loss_fn: Callable[..., Tensor]
    names: tuple[str, ...]
    batch_norm: BatchNormPolicy

    def piece(self, batch: Batch) -> Piece:
        """The loss on one batch as a function of the weights."""
        closure = _Closure(self.model, self.loss_fn)
        names = [f"model.{name}" for name in self.names]

        def loss(w: Vector) -> Tensor:
            tensors = {
                name: part for name, part in zip(names, w.parts, strict=True) if part is not None
            }
            return functional_call(closure, tensors, tuple(batch))

        return loss

    @contextmanager
    def untouched(self) -> Generator[None, None, None]:
        """Put mode, buffers and random state back on the way out."""
        modes = [(module, module.training) for module in self.model.modules()]
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        devices = sorted(
            {part.device.index for part in self.model.parameters() if part.device.type == "cuda"}
        )
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)  # dropout, where it is on: the same masks at every evaluation
            self.model.train(self.batch_norm == "batch")
            try:
                yield
            finally:
                for module, training in modes:
                    module.training = training
                with torch.no_grad():
                    for buffer, saved in buffers:
                        buffer.copy_(saved)


class _Closure(nn.Module):
    """The loss as a module, in which `functional_call` can exchange the model's parameters."""

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, *batch: Any) -> Tensor:  # noqa: ANN401 - a batch is whatever the loss takes
        return self.loss_fn(*batch)


def _size(batch: Batch) -> int:
    first = next((item for item in batch if isinstance(item, Tensor)), None)
    if first is None or first.dim() == 0:
        raise ValueError(
            f"batches must hold tensors with examples along the first axis, got {batch!r}; "
            "or give count="
        )
    return first.shape[0]


def _scalar(loss: object) -> Tensor:
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            f"the objective must return a 0-d tensor, got {got}; take the mean over the examples"
        )
    return loss


def _dtype(w: Vector) -> torch.dtype:
    return w.tensors[0].dtype


def _leaf(w: Vector) -> Vector:
    return Vector(None if part is None else part.detach().requires_grad_() for part in w.parts)


def _slope(loss: Tensor, point: Vector, *, create_graph: bool) -> Vector:
    slopes = torch.autograd.grad(
        loss, point.tensors, create_graph=create_graph, materialize_grads=True
    )
    return _placed(slopes, point)


def _product(slope: Vector, point: Vector, v: Vector, *, keep: bool) -> Vector:
    rows = zip(slope.parts, v.parts, strict=True)
    pairs = [(a, b) for a, b in rows if a is not None and a.requires_grad and b is not None]
    if not pairs:  # the gradient does not depend on the weights: a linear loss
        return point.zeros_like()
    outputs, along = zip(*pairs, strict=True)
    products = torch.autograd.grad(
        outputs, point.tensors, along, retain_graph=keep, materialize_grads=True
    )
    return _placed(products, point)


def _placed(tensors: Sequence[Tensor], like: Vector) -> Vector:
    """The tensors as the parts of a vector that has `None` where `like` has."""
    rest = iter(tensors)
    return Vector(None if part is None else next(rest) for part in like.parts)
