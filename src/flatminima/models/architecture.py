"""What the settings of every network can do, and how the larger ones begin."""

from collections.abc import Sequence
from typing import Protocol

from torch import nn

__all__ = ["Architecture", "initialised", "parameters"]


class Architecture(Protocol):
    """Settings of a network: any frozen dataclass that can build it."""

    def build(self, shape: Sequence[int], classes: int, /) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        ...


def initialised(model: nn.Module) -> nn.Module:
    """The network with every convolution drawn from N(0, 2 / fan-out), as He et al. 2015 have it.

    Normalisations begin at weight 1 and bias 0, biases of linear layers at 0.

    Args:
        model: The network, changed in place.

    Returns:
        The same.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def parameters(model: nn.Module) -> int:
    """How many trainable numbers a network has."""
    return sum(param.numel() for param in model.parameters() if param.requires_grad)
