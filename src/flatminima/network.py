"""A model and its loss on batches, evaluated at any weights and left bit for bit as it was.

The weights are exchanged, never written: `functional_call` puts others in the parameters' places
for the time of a pass, and copies of the buffers in the buffers' places. Mode and random state are
put back on the way out, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flatminima.norms import (
    POLICIES,
    BatchNormPolicy,
    Statistics,
    averaged,
    batch_norms_of,
    norms_of,
    recorded,
    set_norms,
)
from flatminima.vector import Vector

__all__ = ["Batch", "Bound", "Choice", "Network", "chosen", "names"]

Batch: TypeAlias = Sequence[Any]
Choice: TypeAlias = Iterable[str] | Callable[[str, nn.Parameter], bool] | None


def chosen(model: nn.Module, choice: Choice) -> dict[str, nn.Parameter]:
    """The parameters that are the weights of an objective.

    Args:
        model: The model.
        choice: Their names; or what says of a name and a parameter whether it is one of them; by
            default all that are trainable.

    Returns:
        The parameters by name, in the model's order, tied ones once.

    Raises:
        ValueError: If there is no such name, or no parameter is chosen.
    """
    named = dict(model.named_parameters())
    if choice is None:
        kept = [name for name, param in named.items() if param.requires_grad]
    elif callable(choice):
        kept = [name for name, param in named.items() if choice(name, param)]
    else:
        asked = [choice] if isinstance(choice, str) else list(choice)
        unknown = sorted(set(asked) - set(named))
        if unknown:
            raise ValueError(
                f"parameters must be names of the model's parameters, got {unknown}; "
                f"the first of its {len(named)} are {list(named)[:3]}"
            )
        kept = [name for name in named if name in set(asked)]
    if not kept:
        raise ValueError(
            "model must have a trainable parameter, got none; set requires_grad on some, "
            "or choose others with parameters="
        )
    return {name: named[name] for name in kept}


class Network:
    """A model with the loss of each of its batches as a function of some of its weights.

    Args:
        model: The model.
        loss_fn: The mean loss of a batch.
        names: The parameters that are the weights.
        batches: The data.
        shares: The share of each batch in the data.
        batch_norm: Whose statistics norms use; see `flatminima.norms`.
        dropout: Whether dropout is on, with the same masks at every evaluation.
        summed: Adds a tensor up over the processes that share the data.

    Raises:
        ValueError: If there is no such policy for norms.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        *,
        names: Sequence[str],
        batches: Sequence[Batch],
        shares: Sequence[float],
        batch_norm: BatchNormPolicy,
        dropout: bool,
        summed: Callable[[Tensor], Tensor],
    ) -> None:
        if batch_norm not in POLICIES:
            raise ValueError(f"batch_norm must be one of {', '.join(POLICIES)}, got {batch_norm!r}")
        self.model = model
        self.names = [f"model.{name}" for name in names]
        self.batches = batches
        self.shares = shares
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.summed = summed
        self._closure = Bound(model, loss_fn)
        self._frozen: list[Statistics] | None = None
        self._statistics: Sequence[Statistics] = ()  # per batch, where not the model's own

    def loss(self, w: Vector, batch: Batch, statistics: Statistics) -> Tensor:
        """The loss on a batch, with these weights and these statistics for norms."""
        tensors = {f"model.{name}": b.clone() for name, b in self.model.named_buffers()}
        tensors |= {f"model.{name}": value for name, value in statistics.items()}
        pairs = zip(self.names, w.parts, strict=True)
        tensors |= {name: part for name, part in pairs if part is not None}
        return functional_call(self._closure, tensors, tuple(batch))

    def statistics(self, index: int) -> Statistics:
        """The statistics that norms use on a batch, where the model's own are not the ones."""
        return self._statistics[index] if self._statistics else {}

    def piece(self, index: int) -> Callable[[Vector], Tensor]:
        """The loss on one batch as a function of the weights."""

        def loss(w: Vector) -> Tensor:
            torch.manual_seed(index)  # whatever is drawn is drawn alike at every evaluation
            return self.loss(w, self.batches[index], self.statistics(index))

        return loss

    @property
    def further_passes(self) -> float:
        """The forward passes over the data that an evaluation takes besides its own."""
        return float(self.batch_norm == "recompute" and bool(batch_norms_of(self.model)))

    @contextmanager
    def untouched(self, w: Vector) -> Generator[None, None, None]:
        """Set mode and statistics for evaluations at `w`; put everything back on the way out."""
        modes = [(module, module.training) for module in self.model.modules()]
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        devices = sorted(
            {part.device.index for part in self.model.parameters() if part.device.type == "cuda"}
        )
        with torch.random.fork_rng(devices=devices):
            try:
                self.model.train(self.dropout)
                self._statistics = self._for(w)
                with set_norms(norms_of(self.model), on_batch=self.batch_norm == "batch"):
                    yield
            finally:
                self._statistics = ()
                for module, training in modes:
                    module.training = training
                with torch.no_grad():
                    for buffer, saved in buffers:  # functional_call exchanges those it knows
                        if not torch.equal(buffer, saved):
                            buffer.copy_(saved)

    def _for(self, w: Vector) -> Sequence[Statistics]:
        """The statistics that norms use at `w`, for each batch; none where they have their own."""
        norms = batch_norms_of(self.model)
        if not norms or self.batch_norm in ("eval", "batch"):
            return ()
        if self.batch_norm == "recompute":
            mean = averaged(norms, self._recorded(w, norms), self.shares, self.summed)
            return [mean] * len(self.batches)
        if self._frozen is None:
            named = dict(self.model.named_parameters())
            own = Vector(named[name.removeprefix("model.")].detach() for name in self.names)
            self._frozen = list(self._recorded(own, norms))
        return self._frozen

    @torch.no_grad()
    def _recorded(self, w: Vector, norms: Mapping[str, nn.Module]) -> Iterator[Statistics]:
        with set_norms(norms.values(), on_batch=True):
            for index, batch in enumerate(self.batches):
                with recorded(norms) as statistics:
                    torch.manual_seed(index)
                    self.loss(w, batch, {})
                yield statistics


class Bound(nn.Module):
    """A loss function as a module, so that the weights of the model inside can be replaced.

    Args:
        model: The model that the loss calls.
        loss_fn: The loss of a batch.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> loss = Bound(model, lambda x: model(x).sum())
        >>> ones = {"model.weight": torch.ones(1, 1)}
        >>> functional_call(loss, ones, torch.ones(2, 1))
        tensor(2.)
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, *batch: Any) -> Tensor:  # noqa: ANN401 - a batch is whatever the loss takes
        """The loss."""
        return self.loss_fn(*batch)


def names(model: nn.Module, params: Sequence[Tensor]) -> list[str]:
    """What parameters of the model are called in a `Bound`.

    Args:
        model: The model.
        params: Some of its parameters.

    Returns:
        Their names, in order.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> names(model, [model.bias])
        ['model.bias']
    """
    known = {id(param): f"model.{name}" for name, param in model.named_parameters()}
    return [known[id(param)] for param in params]
