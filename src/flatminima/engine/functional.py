"""A loss function of a batch as one of the weights too: what `torch.func.functional_call` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Bound", "names"]


class Bound(nn.Module):
    """A loss function as a module, so that the weights of the model inside can be replaced.

    Args:
        model: The model that the loss calls.
        loss_fn: The loss of a batch.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> loss = Bound(model, lambda x: model(x).sum())
        >>> ones = {"model.weight": torch.ones(1, 1)}
        >>> torch.func.functional_call(loss, ones, torch.ones(2, 1))
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
