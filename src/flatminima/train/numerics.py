"""How the numbers are computed: precision, memory layout, compilation.

None of this changes what is computed, all of it how it is rounded; so it belongs to a run.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["Numerics"]

Precision = Literal["full", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Settings of how the numbers of a training are computed."""

    precision: Precision = "full"
    """What autocast computes matrix products and convolutions in; `full` is no autocast.
    With `float16` losses are scaled, and steps that overflow are left out."""
    channels_last: bool = False
    """Whether the channels of a pixel lie side by side in memory, as GPUs like it."""
    compile: bool = False
    """Whether `torch.compile` compiles the network."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {', '.join(get_args(Precision))}, "
                f"got {self.precision!r}."
            )

    def laid_out(self, thing: Any) -> Any:  # noqa: ANN401 - a network or a tensor, and the same back
        """A network, or a batch of images, in the memory layout."""
        if not self.channels_last or (isinstance(thing, Tensor) and thing.ndim != 4):
            return thing
        return thing.to(memory_format=torch.channels_last)

    def compiled(self, model: nn.Module) -> Any:  # noqa: ANN401 - torch.compile promises no type
        """What is called for the network: itself, or compiled."""
        return torch.compile(model) if self.compile else model

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Around the forward pass."""
        if self.precision == "full":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.precision))

    def scaler(self, device: torch.device) -> torch.amp.GradScaler | None:
        """What scales the loss, for `float16`."""
        return torch.amp.GradScaler(device.type) if self.precision == "float16" else None

    def outputs(self, outputs: Tensor) -> Tensor:
        """Outputs of the network in the precision of the loss."""
        return outputs if self.precision == "full" else outputs.float()
