"""The mean of the weights over a training: exponential (EMA), or equal from some time on (SWA)."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from flatminima.data import Part

__all__ = ["Average", "settled"]


@dataclass(frozen=True, kw_only=True)
class Average:
    """Settings of averaged weights.

    EMA: mean <- decay mean + (1 - decay) w. SWA: the equal mean of all that were seen.

    Source: Izmailov et al. 2018, arXiv:1803.05407; computed by `torch.optim.swa_utils`.
    """

    decay: float | None = 0.999
    """How much of the mean is kept in a step (EMA); None weighs all alike (SWA)."""
    start: float = 0.0
    """The share of the run after which weights are seen."""
    every: int = 1
    """They are seen at every so many steps."""

    def __post_init__(self) -> None:
        if self.decay is not None and not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1) or None, got {self.decay}.")
        if not 0 <= self.start < 1:
            raise ValueError(f"start must be in [0, 1), got {self.start}.")
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}.")

    def build(self, net: nn.Module) -> AveragedModel:
        """The mean of a network's weights, of none so far."""
        rule = None if self.decay is None else get_ema_multi_avg_fn(self.decay)
        return AveragedModel(net, multi_avg_fn=rule)

    def due(self, step: int, steps: int) -> bool:
        """Whether the weights after a step are seen."""
        return step > self.start * steps and step % self.every == 0


def settled(mean: AveragedModel, part: Part, batch_size: int) -> nn.Module:
    """The averaged network, with the statistics of its batch normalisation computed anew.

    Args:
        mean: The mean; its buffers are changed.
        part: The training examples, on its device.
        batch_size: How many go through at once.

    Returns:
        The network.
    """
    if any(isinstance(module, _BatchNorm) for module in mean.modules()):
        positions = torch.arange(len(part), device=part.labels.device)
        device = part.labels.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            update_bn((part.inputs(index) for index in positions.split(batch_size)), mean)
    return mean.module
