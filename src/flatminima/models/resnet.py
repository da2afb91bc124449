"""Residual networks for images of CIFAR's size, with batch or group normalisation, of any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ResNet", "resnet18", "resnet34"]

Norm = Literal["group", "batch"]


class ResNet(nn.Module):
    """A residual network with basic blocks: a 3x3 stem, four stages, global average pooling.

    Args:
        blocks: Blocks in each of the four stages, whose widths double and whose sizes halve.
        width: Channels of the first stage.
        classes: Number of classes.
        channels: Channels of the images.
        norm: `batch` normalisation, or `group` normalisation with `width // 2` groups.

    Raises:
        ValueError: If `width` is odd with group normalisation, or `norm` is unknown.

    Source: He et al. 2016, arXiv:1512.03385, with the stem that is usual for 32x32 images.

    Example:
        >>> import torch
        >>> ResNet((2, 2, 2, 2), width=8)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        width: int = 64,
        classes: int = 10,
        channels: int = 3,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        layer = _norm(norm, width)
        widths = [width * 2**stage for stage in range(len(blocks))]
        self.stem = nn.Sequential(_conv(channels, width, 1), layer(width), nn.ReLU())
        stages: list[nn.Module] = []
        before = width
        for stage, (count, here) in enumerate(zip(blocks, widths, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            for stride in strides:
                stages.append(_Block(before, here, stride, layer))
                before = here
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def resnet18(*, width: int = 64, classes: int = 10, norm: Norm = "group") -> ResNet:
    """ResNet-18 for 32x32 images; 11.2 million parameters at width 64."""
    return ResNet((2, 2, 2, 2), width=width, classes=classes, norm=norm)


def resnet34(*, width: int = 64, classes: int = 10, norm: Norm = "group") -> ResNet:
    """ResNet-34 for 32x32 images; 21.3 million parameters at width 64."""
    return ResNet((3, 4, 6, 3), width=width, classes=classes, norm=norm)


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(
        self, before: int, here: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.one = nn.Sequential(_conv(before, here, stride), norm(here))
        self.two = nn.Sequential(_conv(here, here, 1), norm(here))
        changes = stride != 1 or before != here
        self.shortcut = (
            nn.Sequential(nn.Conv2d(before, here, 1, stride, bias=False), norm(here))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.two(functional.relu(self.one(x))) + self.shortcut(x))


def _conv(before: int, here: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, here, 3, stride, padding=1, bias=False)


def _norm(norm: Norm, width: int) -> Callable[[int], nn.Module]:
    if norm == "batch":
        return nn.BatchNorm2d
    if norm != "group":
        raise ValueError(f"norm must be 'group' or 'batch', got {norm!r}")
    if width % 2:
        raise ValueError(f"width must be even with group normalisation, got {width}")
    return partial(nn.GroupNorm, width // 2)
