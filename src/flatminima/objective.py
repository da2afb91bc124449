"""A loss as a function of the weights: the one thing that everything which measures is handed.

A network on batches is an objective; so are a quadratic in a test and a surface in the plane. An
objective has no side effect: a model that it was made of is left as it was, mode, buffers, random
state, `.grad` and all, also when the loss raises.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatminima import curvature
from flatminima.curvature import Loss, Product, leaf, placed, scalar, slope
from flatminima.network import Batch, Choice, Network, chosen
from flatminima.norms import BatchNormPolicy
from flatminima.vector import Vector

__all__ = ["BatchNormPolicy", "Kind", "Objective", "Setting"]

Kind = Literal[
    "double_backward",
    "forward_over_reverse",
    "compiled",
    "finite_differences",
    "gauss_newton",
    "empirical_fisher",
]
Progress: TypeAlias = Callable[[int, int], object]
Guard: TypeAlias = Callable[[Vector], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a number was measured on: part of every result, and enough to measure it again."""

    parameters: tuple[str, ...]
    """The names of the parameters that are the weights."""
    examples: float
    """What the mean divides by: the sum of `batches`, over all processes."""
    batches: tuple[float, ...]
    """What each batch's own mean divides by, here."""
    batch_norm: BatchNormPolicy
    """Whose statistics batch normalisation uses."""
    dropout: bool
    """Whether dropout is on, with the same masks at every evaluation."""
    processes: int
    """How many processes share the data."""


@dataclass(frozen=True)
class _Piece:
    """One summand: the mean loss of some examples, and their share in the whole."""

    loss: Loss
    share: float = 1.0
    count: float | None = None


class Objective:
    """A scalar function of the weights with its gradient and its Hessian's products.

        f(w),   grad f(w),   H(w) v = d/dt grad f(w + t v) at t = 0

    Args:
        function: Takes a `Vector` and returns a 0-d tensor that torch can differentiate.

    Attributes:
        examples: What the mean divides by, where it is one over data.
        batches: The data, where it was made of a model.
        setting: What it is the loss of, where it was made of a model; results carry it.
        passes: How many passes over the data were made; a backward pass counts as one.
        progress: Called with (batches done, batches in all) during every evaluation.

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
        self._pieces: Sequence[_Piece] = [_Piece(function)]
        self._guard: Guard = lambda _: nullcontext()
        self._compilable: Callable[..., Tensor] = function
        self._compiled: Callable[..., Vector] | None = None
        self._data: Callable[[int], tuple[Any, ...]] = lambda _: ()
        self._further_passes = 0.0
        self._group: distributed.ProcessGroup | None = None
        self._again: Callable[[Iterable[Batch]], Objective] | None = None
        self.examples: float | None = None
        self.batches: Sequence[Batch] = ()
        self.setting: Setting | None = None
        self.passes: float = 0.0
        self.progress: Progress | None = None

    @staticmethod
    def of_model(
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        batches: Iterable[Batch],
        *,
        count: Callable[..., float] | None = None,
        parameters: Choice = None,
        batch_norm: BatchNormPolicy = "eval",
        dropout: bool = False,
        process_group: distributed.ProcessGroup | None = None,
        progress: Progress | None = None,
    ) -> tuple[Objective, Vector]:
        """The mean loss over all examples as a function of a model's trainable parameters.

            f(w) = sum_b n_b loss_b(w) / sum_b n_b

        Args:
            model: The module that `loss_fn` calls.
            loss_fn: `loss_fn(*batch)` returns the mean loss over the batch's examples, as in
                training.
            batches: Tuples for `loss_fn`, of any sizes. Read once and kept, a shuffling loader too,
                and walked in that order at every evaluation.
            count: `count(*batch)` returns n_b, what the batch's mean divides by; by default the
                length of the batch's first tensor. Give it where the mean is over tokens or over
                targets that are not ignored; a batch that counts 0 is left out.
            parameters: Which are the weights: their names, or what says so of (name, parameter);
                by default all that are trainable.
            batch_norm: `eval` uses the running statistics, `batch` those of each batch,
                `frozen_batch` those of each batch at the model's own weights, `recompute` those of
                all the data, estimated anew at every point. No buffer moves.
            dropout: Whether dropout is on, with the same masks at every evaluation.
            process_group: The processes that share the data, `torch.distributed.group.WORLD` say:
                each hands its own batches, as many as it likes, and gets the result over all.
            progress: Called with (batches done, batches in all) during every evaluation.

        Returns:
            The objective, and the weights as they are now (not copied).

        Raises:
            ValueError: If there are no batches, nothing to take a mean over, no parameter that is
                trainable, or no parameter of a given name.

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
        named = chosen(model, parameters)
        batches = list(batches)
        if not batches and process_group is None:
            raise ValueError("batches must hold at least one batch, got none")
        counts = [float(_size(batch) if count is None else count(*batch)) for batch in batches]
        summed = partial(_summed, group=process_group)
        total = float(summed(torch.tensor(sum(counts), dtype=torch.float64)))
        if not total > 0:
            raise ValueError(f"count must be above 0 for some batch, got {total:g} in all")
        kept = [index for index, n in enumerate(counts) if n]
        batches, counts = [batches[i] for i in kept], [counts[i] for i in kept]
        network = Network(
            model,
            loss_fn,
            names=tuple(named),
            batches=batches,
            shares=[n / total for n in counts],
            batch_norm=batch_norm,
            dropout=dropout,
            summed=summed,
        )
        objective = Objective(network.piece(0))
        objective._pieces = [
            _Piece(network.piece(index), n / total, n) for index, n in enumerate(counts)
        ]
        objective._guard = network.untouched
        objective._compilable = network.loss
        objective._data = lambda index: (batches[index], network.statistics(index))
        objective._further_passes = network.further_passes
        objective._group = process_group
        objective._again = lambda others: Objective.of_model(
            model,
            loss_fn,
            others,
            count=count,
            parameters=tuple(named),
            batch_norm=batch_norm,
            dropout=dropout,
        )[0]
        objective.examples, objective.batches, objective.progress = total, batches, progress
        objective.setting = Setting(
            parameters=tuple(named),
            examples=total,
            batches=tuple(counts),
            batch_norm=batch_norm,
            dropout=dropout,
            processes=1 if process_group is None else process_group.size(),
        )
        return objective, Vector(param.detach() for param in named.values())

    def on(self, batches: Iterable[Batch]) -> Objective:
        """The same loss of the same model on other data: on a part of its own, say.

        Args:
            batches: Tuples for the loss, as in `of_model`.

        Returns:
            The objective; it counts its passes by itself, and is this process's alone.

        Raises:
            TypeError: If this objective was not made of a model.

        Cost: nothing until it is evaluated.

        Example:
            >>> model, x = nn.Linear(1, 1), torch.tensor([[1.0], [2.0], [3.0]])
            >>> f, w = Objective.of_model(model, lambda x: model(x).square().mean(), [(x,)])
            >>> f.on([(x[:2],)]).examples, f.examples
            (2.0, 3.0)
        """
        if self._again is None:
            raise TypeError(
                "objective must be of a model on batches, got one of a function; "
                "make it with Objective.of_model"
            )
        return self._again(batches)

    # ----------------------------------------------------------------------- value and gradient

    @torch.no_grad()
    def value(self, w: Vector) -> Tensor:
        """The loss at `w`: a 0-d tensor, summed in float64 over the batches."""
        total = _zero(w)
        with self._guard(w):
            for piece in self._watched():
                total += piece.share * scalar(piece.loss(w)).double()
        self._count(1.0)
        return _summed(total, self._group).to(w.tensors[0].dtype)

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
        total = _zero(w)

        def gradient(piece: _Piece) -> Vector:
            point = leaf(w)
            loss = scalar(piece.loss(point))
            total.add_(piece.share * loss.detach().double())
            return slope(loss, point, create_graph=False)

        with self._guard(w), torch.enable_grad():
            mean = self._mean(gradient, w)
        self._count(2.0)
        return _summed(total, self._group).to(w.tensors[0].dtype), mean

    @contextmanager
    def differentiable(self) -> Generator[Callable[[Vector], Tensor], None, None]:
        """The loss as a function that torch can follow, of this process's batches alone.

        Yields:
            A function that takes `w` and returns the loss there, with its graph where torch keeps
            one.

        Example:
            >>> f, w = Objective(lambda w: w.dot(w)), Vector([torch.ones(1, requires_grad=True)])
            >>> with f.differentiable() as loss:
            ...     loss(w).requires_grad
            True
        """

        def loss(w: Vector) -> Tensor:
            with self._guard(w):
                terms = [piece.share * scalar(piece.loss(w)) for piece in self._watched()]
            self._count(1.0)
            return torch.stack(terms).sum()

        yield loss

    # -------------------------------------------------------------------------------- curvature

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
    def linearized(
        self, w: Vector, kind: Kind = "double_backward", *, graphs: int = 1
    ) -> Generator[Product, None, None]:
        """Keep what products with the curvature at `w` have in common.

        The graph of every batch is built once and kept where there are at most `graphs` of them;
        more would fill the memory, and each product builds them one by one.

        Args:
            w: The point.
            kind: Which curvature, and how: the Hessian by `double_backward` (always right),
                `forward_over_reverse` (less memory; some operations lack it), `compiled` (the same
                by `torch.compile`: half a minute or more to build, then the fastest) or
                `finite_differences` (where second derivatives do not exist, with their error); or
                another matrix, `gauss_newton` or `empirical_fisher`.
            graphs: For how many batches the graph is kept.

        Yields:
            A function that takes `v` and returns the curvature times `v`.

        Raises:
            ValueError: If there is no such kind.

        Example:
            >>> f, w = Objective(lambda w: w.dot(w)), Vector([torch.tensor([1.0])])
            >>> with f.linearized(w) as product:
            ...     product(w).parts[0]
            tensor([2.])
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        keep = len(self._pieces) <= graphs and kind not in ("compiled", "finite_differences")
        with ExitStack() as stack:
            stack.enter_context(self._guard(w))
            if kind != "finite_differences":
                # Fused attention has no second derivative; the choice is made in the forward pass.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.enable_grad())
            kept = self._pieces if keep else ()
            made = {piece: self._linear(kind, piece, w, keep=True) for piece in kept}

            def product(v: Vector) -> Vector:
                self._count(4.0)
                with torch.enable_grad():
                    return self._mean(lambda piece: linear(piece)(v), w)

            def linear(piece: _Piece) -> Product:
                return made[piece] if keep else self._linear(kind, piece, w, keep=False)

            yield product

    def _linear(self, kind: Kind, piece: _Piece, w: Vector, *, keep: bool) -> Product:
        if kind == "empirical_fisher":
            return curvature.empirical_fisher(piece.loss, w, keep=keep, count=piece.count)
        if kind != "compiled":
            return getattr(curvature, kind)(piece.loss, w, keep=keep)
        if self._compiled is None:
            self._compiled = curvature.compiled(self._compilable)
        data = self._data(self._pieces.index(piece))
        return partial(self._compiled, w, *data)

    # ------------------------------------------------------------------------- over the batches

    def _mean(self, of: Callable[[_Piece], Vector], w: Vector) -> Vector:
        """The mean over the examples of all processes, summed in float64."""
        if len(self._pieces) == 1 and self._group is None:
            (piece,) = self._watched()
            return of(piece)
        total = [torch.zeros_like(part, dtype=torch.float64) for part in w.tensors]
        for piece in self._watched():
            for target, part in zip(total, of(piece).tensors, strict=True):
                target.add_(part, alpha=piece.share)
        if self._group is not None:  # one exchange for all parts
            flat = _summed(torch.cat([part.reshape(-1) for part in total]), self._group)
            rows = flat.split([part.numel() for part in total])
            total = [row.view(part.shape) for row, part in zip(rows, total, strict=True)]
        rows = zip(total, w.tensors, strict=True)
        return placed([part.to(like.dtype) for part, like in rows], w)

    def _watched(self) -> Generator[_Piece, None, None]:
        for index, piece in enumerate(self._pieces):
            yield piece
            if self.progress is not None:
                self.progress(index + 1, len(self._pieces))

    def _count(self, passes: float) -> None:
        self.passes += passes + self._further_passes


def _summed(value: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    """The sum over the processes, the same bits in each."""
    if group is not None:
        distributed.all_reduce(value, group=group)
    return value


def _zero(w: Vector) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=w.tensors[0].device)


def _size(batch: Batch) -> int:
    first = next((item for item in batch if isinstance(item, Tensor)), None)
    if first is None or first.dim() == 0:
        raise ValueError(
            f"batches must hold tensors with examples along the first axis, got {batch!r}; "
            "or give count="
        )
    return first.shape[0]
