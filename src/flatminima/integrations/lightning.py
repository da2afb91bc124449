"""Lightning's automatic optimization: the training step is what is replayed.

Lightning calls `optimizer.step(closure)`, and its closures keep the contract as long as nothing is
accumulated: return a `SharpnessAwareOptimizer` from `configure_optimizers`. With
`accumulate_grad_batches` most of them never reach the optimizer; `replayed` records the training
steps instead, and keeps them from logging twice.
"""

# The recorder is the optimizer's own.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from flatminima.engine.optimizer import SharpnessAwareOptimizer
from flatminima.rules.rule import Rule

__all__ = ["replayed"]


def replayed(
    module: nn.Module,
    base: Optimizer,
    rule: Rule,
    **keywords: Any,  # noqa: ANN401 - as SharpnessAwareOptimizer's
) -> SharpnessAwareOptimizer:
    """An optimizer to return from `configure_optimizers`, right also where Lightning accumulates.

    Args:
        module: The `LightningModule` itself.
        base: The optimizer that takes the steps.
        rule: What to do.
        **keywords: As for `SharpnessAwareOptimizer`.

    Returns:
        The optimizer. Accumulated training steps have one displacement, from the whole gradient;
        each is made once more per further gradient, without logging.

    Raises:
        TypeError: If the module has no training step.

    Example:
        >>> class Module(nn.Linear):
        ...     def training_step(self, batch, batch_idx):
        ...         return self(batch).square().mean()
        >>> import torch
        >>> module, base = Module(2, 1), torch.optim.SGD
        >>> from flatminima.rules.zoo import sam
        >>> optimizer = replayed(module, base(module.parameters(), lr=0.1), sam())
        >>> module.training_step(torch.ones(1, 2), 0).backward()
        >>> _ = optimizer.step()
    """
    original: Any = getattr(module, "training_step", None)
    if not callable(original):
        raise TypeError(f"module must have a training_step, got {type(module).__name__}")
    original = getattr(original, "unrecorded", original)  # a second fit
    step = _TrainingStep(module, original)
    optimizer = SharpnessAwareOptimizer(base, rule, replay=step, **keywords)

    @functools.wraps(original)
    def recorded(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Lightning calls it
        return step(*args, **kwargs)

    recorded.__dict__["unrecorded"] = original
    step.is_replay = lambda: optimizer._recorder.is_paused
    module.__dict__["training_step"] = recorded
    return optimizer


class _TrainingStep(nn.Module):
    """The training step as a module that returns its loss; it has the module's buffers."""

    def __init__(self, module: nn.Module, original: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.original = original
        self.is_replay: Callable[[], bool] = lambda: False

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Lightning calls it
        """The training step; a replay of it does not log."""
        if not self.is_replay():
            return self.original(*args, **kwargs)
        own = self.module.__dict__
        before = own.get("log")
        own["log"] = _nothing
        try:
            return self.original(*args, **kwargs)
        finally:
            del own["log"]
            if before is not None:
                own["log"] = before


def _nothing(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as Lightning's log
    """Log nothing."""
