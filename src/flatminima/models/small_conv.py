"""A small convolutional network with GroupNorm or BatchNorm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

__all__ = ["Norm", "SmallConv", "small_conv"]

Norm = Literal["group", "batch"]
GROUPS = 4


@dataclass(frozen=True, kw_only=True)
class SmallConv:
    """Settings of `small_conv`."""

    width: int = 16
    """Channels of the first block; the second has twice as many. A multiple of 4."""
    norm: Norm = "group"
    """What follows each convolution: GroupNorm (no state, no mixing of examples) or BatchNorm."""

    def __post_init__(self) -> None:
        if self.width < GROUPS or self.width % GROUPS:
            raise ValueError(f"width must be a positive multiple of {GROUPS}, got {self.width}.")
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {self.norm!r}.")

    def build(self, shape: Sequence[int], classes: int) -> nn.Sequential:
        """The network for images of a shape, (channels, height, width)."""
        return small_conv(shape[0], classes, width=self.width, norm=self.norm)


def small_conv(
    channels: int, classes: int, *, width: int = 16, norm: Norm = "group"
) -> nn.Sequential:
    """Two blocks of convolution, normalisation, ReLU and halving, then one linear layer.

    Args:
        channels: The channels of the images; height and width are at least 4 and otherwise free.
        classes: The number of outputs.
        width: The channels of the first block; the second has twice as many.
        norm: The normalisation: `group` (4 groups) or `batch`.

    Returns:
        The network, initialised as torch does by default.

    Example:
        >>> net = small_conv(1, 10, width=16, norm="group")
        >>> sum(param.numel() for param in net.parameters())
        9978
    """
    return nn.Sequential(
        *_block(channels, width, norm),
        nn.MaxPool2d(2),
        *_block(width, 2 * width, norm),
        nn.AdaptiveMaxPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * width * 4 * 4, classes),
    )


def _block(before: int, after: int, norm: Norm) -> list[nn.Module]:
    """A convolution that keeps height and width, normalised and rectified."""
    normalisation = nn.GroupNorm(GROUPS, after) if norm == "group" else nn.BatchNorm2d(after)
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), normalisation, nn.ReLU()]
