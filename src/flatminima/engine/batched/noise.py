"""Noise stands still in a rehearsal, so that the values of two runs can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flatminima.engine.batched.layer import Pass

__all__ = ["KINDS"]


def dropout(run: Pass, function: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """Dropout of any kind: nothing is dropped in a rehearsal."""
    return input if run.is_rehearsal else function(input, *args, **kwargs)


def drawn(run: Pass, function: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """A new random tensor: ones in a rehearsal."""
    result = function(*args, **kwargs)
    return torch.ones_like(result) if run.is_rehearsal else result


def filled(run: Pass, function: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """A tensor filled with random numbers: with ones in a rehearsal."""
    return input.fill_(1) if run.is_rehearsal else function(input, *args, **kwargs)


def attention(run: Pass, function: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """Scaled dot-product attention, which may drop some of its weights."""
    if run.is_rehearsal:
        kwargs = {**kwargs, "dropout_p": 0.0}
        args = args[:4]
    return function(*args, **kwargs)


def shuffled(run: Pass, function: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """A random order, which is there to mix examples."""
    run.refuse("keep examples apart, got torch.randperm within the loss")


KINDS: dict[Any, Any] = {
    **{
        getattr(functional, name): dropout
        for name in (
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "alpha_dropout",
            "feature_alpha_dropout",
        )
    },
    **dict.fromkeys(
        (torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.bernoulli), drawn
    ),
    **dict.fromkeys((Tensor.bernoulli_, Tensor.normal_, Tensor.uniform_), filled),
    functional.scaled_dot_product_attention: attention,
    torch.randperm: shuffled,
}
