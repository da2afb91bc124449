"""The verb `flatminima doctor`: two steps on the user's own model and batch, and a report."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima.engine.backward import Rounding, SharpnessAware
from flatminima.engine.doctor import Findings, doctor
from flatminima.models.mlp import mlp
from flatminima.train.member import Member

__all__ = ["consulted", "named"]


def consulted(
    *,
    model: str | None = None,
    batch: str | None = None,
    loss: str | None = None,
    member: Member,
    m: int | None = None,
    dtype: str | None = None,
    rounding: Rounding = "nearest",
) -> Findings:
    """What two steps on a batch do to a model.

    Args:
        model: Where a function without arguments makes the model, as `package.module:function`;
            None takes a small network.
        batch: Where a function without arguments makes a batch, a tuple; None takes random images
            of digits for the small network.
        loss: Where a function of the model and the batch returns the mean loss; None takes the
            cross-entropy of `model(x)` and `y`.
        member: The rule.
        m: Examples per perturbation; None takes the whole batch.
        dtype: The precision, by torch's name, that the model and what is real in the batch are
            cast to; None leaves them.
        rounding: How displaced weights of bfloat16 are rounded.

    Returns:
        The findings; print them.

    Raises:
        ValueError: If a name leads nowhere, or a model comes without a batch.
    """
    if (model is None) != (batch is None):
        raise ValueError(f"batch must come with model, got model={model} and batch={batch}.")
    torch.manual_seed(0)
    network: nn.Module = _small() if model is None else named(model)()
    examples: Any = _digits() if batch is None else named(batch)()
    mean_loss = _cross_entropy if loss is None else named(loss)
    if not isinstance(network, nn.Module):
        raise ValueError(f"model must make a torch.nn.Module, got {type(network).__name__}.")
    if not isinstance(examples, tuple | list):
        raise ValueError(f"batch must make a tuple, got {type(examples).__name__}.")
    examples = tuple(examples)
    if dtype is not None:
        precision: torch.dtype = getattr(torch, dtype)
        network = network.to(precision)
        examples = tuple(_cast(item, precision) for item in examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its doubts are in the findings
        sharp = SharpnessAware(network, member.build(), m=m, rounding=rounding)
        return doctor(network, sharp, lambda *batch: mean_loss(network, *batch), examples)


def named(place: str) -> Callable[..., Any]:
    """The function at a place such as `package.module:function`, also beside the caller.

    Args:
        place: The module as Python imports it, a colon, and the function's name in it.

    Returns:
        The function.

    Raises:
        ValueError: If there is none.

    Example:
        >>> named("math:sqrt")(4.0)
        2.0
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise ValueError(f"place must be package.module:function, got {place!r}.")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"place must lead to a module, got {place!r}: {error}.") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found):
        raise ValueError(f"place must lead to a function, got {place!r}, which has no {name!r}.")
    return found


def _small() -> nn.Module:
    return mlp(64, (64,), 10)


def _digits() -> tuple[Tensor, Tensor]:
    return torch.rand(32, 1, 8, 8), torch.randint(10, (32,))


def _cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), y)


def _cast(item: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - whatever a batch holds
    return item.to(dtype) if isinstance(item, Tensor) and item.is_floating_point() else item
