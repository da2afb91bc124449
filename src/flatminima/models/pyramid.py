"""Pyramidal residual networks: every block is a little wider than the one before."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from flatminima.models.architecture import initialised
from flatminima.models.shake import ShakeDrop

__all__ = ["PyramidNet"]

STEM = 16
EXPANSION = 4  # a bottleneck ends with four times its width
LAST_KEEP = 0.5


@dataclass(frozen=True, kw_only=True)
class PyramidNet:
    """Settings of a pyramidal network, with or without ShakeDrop.

    Block k of n has round(16 + alpha k / n) channels. With ShakeDrop it is kept with probability
    1 - k / (2 n).

    Source: Han et al. 2017, arXiv:1610.02915: depth 110 at alpha 270 has 28.3 million parameters,
    depth 272 with bottlenecks at alpha 200 has 26.0 million. ShakeDrop: Yamada et al. 2019,
    arXiv:1802.02375.
    """

    depth: int = 272
    """6 n + 2 layers, or 9 n + 2 with bottlenecks: n blocks in each of three stages."""
    alpha: int = 200
    """By how many channels the last block is wider than the stem."""
    bottleneck: bool = True
    """Whether a block is a 3x3 convolution between two of 1x1; else two of 3x3."""
    shakedrop: bool = False
    """Whether branches are dropped at random."""

    def __post_init__(self) -> None:
        layers = self._layers
        if self.depth < layers + 2 or (self.depth - 2) % layers:
            raise ValueError(
                f"depth must be {layers} n + 2 with bottleneck={self.bottleneck}, got {self.depth}."
            )
        if self.alpha < 1:
            raise ValueError(f"alpha must be at least 1 channel, got {self.alpha}.")

    @property
    def _layers(self) -> int:
        """Convolutions in one block of each of the three stages."""
        return 9 if self.bottleneck else 6

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        blocks = (self.depth - 2) // self._layers
        stem = nn.Conv2d(shape[0], STEM, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(STEM)]
        before = STEM
        for number in range(1, 3 * blocks + 1):
            here = round(STEM + self.alpha * number / (3 * blocks))
            stride = 2 if number in (blocks + 1, 2 * blocks + 1) else 1
            keep = 1 - number / (3 * blocks) * (1 - LAST_KEEP)
            drop = ShakeDrop(keep) if self.shakedrop else nn.Identity()
            branch = (_bottleneck if self.bottleneck else _basic)(before, here, stride)
            after = here * EXPANSION if self.bottleneck else here
            layers.append(_Block(nn.Sequential(*branch, drop), after - before, stride))
            before = after
        layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return initialised(nn.Sequential(*layers, nn.Linear(before, classes)))


class _Block(nn.Module):
    """A branch, and its input with channels of zeros added."""

    def __init__(self, branch: nn.Sequential, more: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        self.more = more
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        inner = self.branch(x)
        if self.stride > 1:
            x = functional.avg_pool2d(x, self.stride, ceil_mode=True)
        return inner + functional.pad(x, (0, 0, 0, 0, 0, self.more))


def _basic(before: int, here: int, stride: int) -> list[nn.Module]:
    return [
        nn.BatchNorm2d(before),
        nn.Conv2d(before, here, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(here),
        nn.ReLU(),
        nn.Conv2d(here, here, 3, padding=1, bias=False),
        nn.BatchNorm2d(here),
    ]


def _bottleneck(before: int, here: int, stride: int) -> list[nn.Module]:
    after = here * EXPANSION
    return [
        nn.BatchNorm2d(before),
        nn.Conv2d(before, here, 1, bias=False),
        nn.BatchNorm2d(here),
        nn.ReLU(),
        nn.Conv2d(here, here, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(here),
        nn.ReLU(),
        nn.Conv2d(here, after, 1, bias=False),
        nn.BatchNorm2d(after),
    ]
