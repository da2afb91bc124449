"""Which statistics batch normalisation uses while a loss is measured, without moving its buffers.

A network with batch normalisation is a different function of its weights for every answer:

- `eval`: the running statistics, as in use; comparable between runs.
- `batch`: those of the batch at the weights in question, as a training step sees them. The examples
  of a batch are coupled, and curvature includes that.
- `frozen_batch`: those of each batch at the model's own weights, held while the weights move. What
  is left of `batch` without the way the statistics follow the weights.
- `recompute`: those of all the data, estimated anew at every point and held while differentiating
  there: the running statistics that a network with those weights would end up with.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

__all__ = [
    "BatchNormPolicy",
    "Statistics",
    "averaged",
    "batch_norms_of",
    "norms_of",
    "recorded",
    "set_norms",
]

BatchNormPolicy = Literal["eval", "batch", "frozen_batch", "recompute"]
POLICIES = get_args(BatchNormPolicy)
Statistics: TypeAlias = dict[str, Tensor]
"""Values for the buffers `<module>.running_mean` and `<module>.running_var`."""


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The modules that keep running statistics.

    Args:
        model: The model.

    Returns:
        Batch normalisation of every kind, and any other module with a `running_mean`.
    """
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
    ]


def batch_norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of torch's batch normalisation that keep running statistics, by name."""
    norms = set(norms_of(model))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module in norms
    }


@contextmanager
def set_norms(norms: Iterable[nn.Module], *, on_batch: bool) -> Generator[None, None, None]:
    """Let norms use the statistics of the batch, or the running ones; the mode is not restored.

    Args:
        norms: The modules.
        on_batch: Whether they use the batch's; then torch's own leave their buffers alone.
    """
    tracking: list[_BatchNorm] = []
    for module in norms:
        module.training = on_batch
        if on_batch and isinstance(module, _BatchNorm) and module.track_running_stats:
            module.track_running_stats = False
            tracking.append(module)
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


@contextmanager
def recorded(norms: Mapping[str, nn.Module]) -> Generator[Statistics, None, None]:
    """Collect the means and variances of what enters each norm in the one pass made inside.

    Args:
        norms: The modules by name; they use the batch's statistics.

    Yields:
        The statistics, filled during the pass; variances divide by the number of values.

    Raises:
        ValueError: During the pass, if one of the norms is applied twice.
    """
    found: Statistics = {}

    def look(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if f"{name}.running_mean" in found:
            raise ValueError(
                "batch_norm must be 'eval' or 'batch' where a norm is applied twice in one pass, "
                f"got another policy for {name!r}"
            )
        x: Tensor = inputs[0].detach()
        dims = [0, *range(2, x.dim())]
        found[f"{name}.running_mean"] = x.mean(dims)
        found[f"{name}.running_var"] = x.var(dims, correction=0)

    def hook(name: str) -> Any:  # noqa: ANN401 - a handle
        return norms[name].register_forward_pre_hook(lambda *call: look(name, *call))

    handles = [hook(name) for name in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def averaged(
    norms: Mapping[str, nn.Module],
    rows: Iterable[Statistics],
    shares: Sequence[float],
    summed: Callable[[Tensor], Tensor],
) -> Statistics:
    """The means of statistics over all batches, as running statistics estimate them.

    Args:
        norms: The modules by name.
        rows: The statistics of each batch.
        shares: The share of each batch in the data.
        summed: Adds a tensor up over the processes that share the data.

    Returns:
        The means, accumulated in float64.
    """
    own = {
        f"{name}.{kind}": getattr(module, kind)
        for name, module in norms.items()
        for kind in ("running_mean", "running_var")
    }
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in own.items()}
    for share, row in zip(shares, rows, strict=True):
        for name, value in row.items():
            total[name].add_(value, alpha=share)
    return {name: summed(value).to(own[name].dtype) for name, value in total.items()}
