"""The optimizers of the studies."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from flatminima.train.later import later

__all__ = ["SGD", "Adam", "AdamW"]


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Settings of `torch.optim.SGD`."""

    lr: float = 0.1
    """The learning rate at the start."""
    momentum: float = 0.9
    """How much of the last step is kept."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weights."""
    nesterov: bool = later(False)
    """Whether the momentum looks one step ahead."""

    def __post_init__(self) -> None:
        _check_positive_lr(self.lr)

    def build(self, params: Iterable[Parameter]) -> Optimizer:
        """The optimizer of some parameters."""
        return torch.optim.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Settings of `torch.optim.Adam`, whose weight decay is part of the gradient."""

    lr: float = 1e-3
    """The learning rate at the start."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How much of the mean gradient and of its square is kept."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weights."""

    def __post_init__(self) -> None:
        _check_positive_lr(self.lr)

    def build(self, params: Iterable[Parameter]) -> Optimizer:
        """The optimizer of some parameters."""
        return torch.optim.Adam(
            params, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay
        )


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Settings of `torch.optim.AdamW`, whose weight decay is apart from the gradient."""

    lr: float = 1e-3
    """The learning rate at the start."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How much of the mean gradient and of its square is kept."""
    weight_decay: float = 0.0
    """Subtracted from the weights, times the learning rate."""

    def __post_init__(self) -> None:
        _check_positive_lr(self.lr)

    def build(self, params: Iterable[Parameter]) -> Optimizer:
        """The optimizer of some parameters."""
        return torch.optim.AdamW(
            params, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay
        )


def _check_positive_lr(lr: float) -> None:
    """Raise a ValueError unless the learning rate is above 0."""
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}.")
