"""Shake-Shake: residual networks of two branches that are mixed at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima.models.architecture import initialised
from flatminima.models.shake import Shake

__all__ = ["ShakeShake"]

STEM = 16


@dataclass(frozen=True, kw_only=True)
class ShakeShake:
    """Settings of a Shake-Shake network, depth 2x(width)d.

    Source: Gastaldi 2017, arXiv:1705.07485; 26 2x96d has 26.2 million parameters.

    Example:
        >>> from flatminima.models.architecture import parameters
        >>> round(parameters(ShakeShake().build((3, 32, 32), 10)) / 1e6, 1)
        26.2
    """

    depth: int = 26
    """6 n + 2 layers: n blocks in each of three stages."""
    width: int = 96
    """Channels of each branch in the first stage; they double twice. Even."""

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2, such as 26, got {self.depth}.")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be even and at least 2, got {self.width}.")

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        stem = nn.Conv2d(shape[0], STEM, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(STEM)]
        before = STEM
        for stage in range(3):
            after = self.width * 2**stage
            for block in range((self.depth - 2) // 6):
                layers.append(_Block(before, after, 2 if stage and not block else 1))
                before = after
        layers += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
        return initialised(nn.Sequential(*layers))


class _Block(nn.Module):
    """Two branches of twice ReLU, convolution and normalisation, and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = (_branch(before, after, stride) for _ in range(2))
        self.shake = Shake()
        self.shortcut = nn.Identity() if before == after else _Shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shake(self.one(x), self.two(x)) + self.shortcut(x)


def _branch(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
    )


class _Shortcut(nn.Module):
    """Two 1x1 convolutions side by side, the second of the image moved down and right."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.here = nn.Conv2d(before, after // 2, 1, bias=False)
        self.moved = nn.Conv2d(before, after // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        step = slice(None, None, self.stride)
        moved = functional.pad(x, (1, -1, 1, -1))
        both = (self.here(x[:, :, step, step]), self.moved(moved[:, :, step, step]))
        return self.norm(torch.cat(both, 1))
