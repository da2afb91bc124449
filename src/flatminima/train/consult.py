"""The verb `flatminima doctor`: two steps on the user's own model and batch, and a report."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima.engine.backward import SharpnessAware
from flatminima.engine.doctor import Findings, doctor
from flatminima.models.mlp import mlp
from flatminima.train.member import Member

__all__ = ["Doctor", "named"]


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Try two steps on your own model and batch, and say what they do to it."""

    model: str | None = None
    """Where a function without arguments makes the model, as package.module:function; without it,
    a small network."""
    batch: str | None = None
    """Where a function without arguments makes a batch, a tuple; without it, random images of
    digits for the small network."""
    loss: str | None = None
    """Where a function of the model and the batch returns the mean loss; without it, the
    cross-entropy of model(x) and y."""
    rule: str = "sam"
    """A member of the family."""
    rho: float = 0.05
    """Its radius."""
    m: int | None = None
    """Examples per perturbation; without it, the whole batch."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    """Cast the model, and what is real in the batch, to this precision."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How displaced weights of bfloat16 are rounded."""

    def __call__(self) -> None:
        """Print the report."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its doubts are in the report
            print(self.findings())

    def findings(self) -> Findings:
        """What the doctor finds.

        Returns:
            The findings; print them.

        Raises:
            ValueError: If a name leads nowhere, or a model comes without a batch.
        """
        if (self.model is None) != (self.batch is None):
            raise ValueError(
                f"batch must come with model, got model={self.model} and batch={self.batch}."
            )
        torch.manual_seed(0)
        model: nn.Module = _small() if self.model is None else named(self.model)()
        batch: Any = _digits() if self.batch is None else named(self.batch)()
        loss = _cross_entropy if self.loss is None else named(self.loss)
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must make a torch.nn.Module, got {type(model).__name__}.")
        if not isinstance(batch, tuple | list):
            raise ValueError(f"batch must make a tuple, got {type(batch).__name__}.")
        batch = tuple(batch)
        if self.dtype is not None:
            dtype: torch.dtype = getattr(torch, self.dtype)
            model = model.to(dtype)
            batch = tuple(_cast(item, dtype) for item in batch)
        rule = Member(name=self.rule, rho=self.rho).build()
        sharp = SharpnessAware(model, rule, m=self.m, rounding=self.rounding)
        return doctor(model, sharp, lambda *batch: loss(model, *batch), batch)


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
