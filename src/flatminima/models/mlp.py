"""A network of fully connected layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

__all__ = ["MLP", "mlp"]


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Settings of `mlp`."""

    hidden: tuple[int, ...] = (128, 128)
    """The width of each hidden layer; none makes the network linear."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}.")

    def build(self, shape: Sequence[int], classes: int) -> nn.Sequential:
        """The network for images of a shape, (channels, height, width)."""
        return mlp(math.prod(shape), self.hidden, classes)


def mlp(inputs: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """A fully connected network with ReLU between its layers.

    Args:
        inputs: The number of input values; images are flattened.
        hidden: The width of each hidden layer.
        classes: The number of outputs.

    Returns:
        The network, initialised as torch does by default.

    Example:
        >>> sum(param.numel() for param in mlp(64, (128, 128), 10).parameters())
        26122
    """
    widths = (inputs, *hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
