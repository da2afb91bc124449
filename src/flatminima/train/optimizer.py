"""The optimizers of the studies, and how their learning rate changes through a run."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

__all__ = ["SGD", "AdamW", "Schedule", "schedule"]

Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Settings of `torch.optim.SGD`."""

    lr: float = 0.1
    """The learning rate at the start."""
    momentum: float = 0.9
    """How much of the last step is kept."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weights."""

    def __post_init__(self) -> None:
        _check_positive_lr(self.lr)

    def build(self, params: Iterable[Parameter]) -> Optimizer:
        """The optimizer of some parameters."""
        return torch.optim.SGD(
            params, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
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


def schedule(name: Schedule, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate through a run, stepped after every step of the optimizer.

        cosine: lr (1 + cos(pi t / steps)) / 2        constant: lr

    Args:
        name: `cosine` or `constant`.
        optimizer: What the learning rate is set on.
        steps: How many steps the run has.

    Returns:
        The scheduler.

    Raises:
        ValueError: If there is no schedule of that name.
    """
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if name == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    raise ValueError(f"schedule must be one of {', '.join(get_args(Schedule))}, got {name!r}.")


def _check_positive_lr(lr: float) -> None:
    """Raise a ValueError unless the learning rate is above 0."""
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}.")
