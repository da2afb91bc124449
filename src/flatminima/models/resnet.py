"""Residual networks for images of CIFAR's size, with batch or group normalisation, of any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from flatminima.models.architecture import initialised

__all__ = ["CifarResNet", "ResNet", "resnet18", "resnet34"]

Norm = Literal["group", "batch"]
Kind = Literal["basic", "bottleneck"]
DEPTHS: dict[int, tuple[Kind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    32: ("basic", (5, 5, 5)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
EXPANSION = 4  # a bottleneck ends with four times its width


@dataclass(frozen=True, kw_only=True)
class CifarResNet:
    """Settings of a residual network for small images.

    Example:
        >>> from flatminima.models.architecture import parameters
        >>> parameters(CifarResNet(depth=18).build((3, 32, 32), 10))
        11173962
    """

    depth: int = 18
    """18, 32 and 34 have basic blocks, 50, 101 and 152 bottlenecks; 32 has three stages and is
    meant for a width of 16."""
    width: int = 64
    """Channels of the first stage."""
    norm: Norm = "batch"
    """What follows each convolution: BatchNorm, or GroupNorm with `width // 2` groups."""

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            raise ValueError(
                f"depth must be one of {', '.join(map(str, DEPTHS))}, got {self.depth}."
            )
        _norm(self.norm, self.width)

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        kind, blocks = DEPTHS[self.depth]
        net = ResNet(
            blocks,
            width=self.width,
            classes=classes,
            channels=shape[0],
            norm=self.norm,
            kind=kind,
        )
        return initialised(net)


class ResNet(nn.Module):
    """A residual network: a 3x3 stem, three or four stages, global average pooling.

    Args:
        blocks: Blocks in each of the stages, whose widths double and whose sizes halve.
        width: Channels of the first stage.
        classes: Number of classes.
        channels: Channels of the images.
        norm: `batch` normalisation, or `group` normalisation with `width // 2` groups.
        kind: `basic` blocks, or `bottleneck` blocks whose stride is in the 3x3 convolution.

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
        kind: Kind = "basic",
    ) -> None:
        super().__init__()
        layer = _norm(norm, width)
        block, widens = (_Block, 1) if kind == "basic" else (_Bottleneck, EXPANSION)
        widths = [width * 2**stage for stage in range(len(blocks))]
        self.stem = nn.Sequential(_conv(channels, width, 1), layer(width), nn.ReLU())
        stages: list[nn.Module] = []
        before = width
        for stage, (count, here) in enumerate(zip(blocks, widths, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            for stride in strides:
                stages.append(block(before, here, stride, layer))
                before = here * widens
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
        self.shortcut = _shortcut(before, here, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.two(functional.relu(self.one(x))) + self.shortcut(x))


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, the last of which widens; and a shortcut."""

    def __init__(
        self, before: int, here: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        after = here * EXPANSION
        self.one = nn.Sequential(nn.Conv2d(before, here, 1, bias=False), norm(here))
        self.two = nn.Sequential(_conv(here, here, stride), norm(here))
        self.three = nn.Sequential(nn.Conv2d(here, after, 1, bias=False), norm(after))
        self.shortcut = _shortcut(before, after, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.three(functional.relu(self.two(functional.relu(self.one(x)))))
        return functional.relu(inner + self.shortcut(x))


def _shortcut(before: int, after: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """The input itself, or a 1x1 convolution of it where its shape changes."""
    if stride == 1 and before == after:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after))


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
