"""Wide residual networks, with batch or group normalisation or without any."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from flatminima.models.architecture import initialised
from flatminima.models.normalisation import Norm, check_norm, normalisation

__all__ = ["WideResNet"]

STEM = 16


@dataclass(frozen=True, kw_only=True)
class WideResNet:
    """Settings of a wide residual network, WRN-depth-width.

    Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146.

    Example:
        >>> from flatminima.models.architecture import parameters
        >>> parameters(WideResNet(depth=16, width=4).build((3, 32, 32), 10))
        2748890
    """

    depth: int = 28
    """6 n + 4 layers: n blocks in each of three stages."""
    width: int = 10
    """The stages have 16, 32 and 64 channels times this."""
    norm: Norm = "batch"
    """What precedes each ReLU. Without any, convolutions have a bias and the last one of each
    block begins at 0, so that every block begins as the identity."""

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4, such as 16, 28 or 40, got {self.depth}.")
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}.")
        check_norm(self.norm, STEM)

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        layer = normalisation(self.norm, STEM // 2)
        bias = self.norm == "none"
        layers: list[nn.Module] = [nn.Conv2d(shape[0], STEM, 3, padding=1, bias=bias)]
        before = STEM
        for stage in range(3):
            after = STEM * self.width * 2**stage
            for block in range((self.depth - 4) // 6):
                stride = 2 if stage and not block else 1
                layers.append(_Block(before, after, stride, layer, bias=bias))
                before = after
        layers += [layer(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        net = initialised(nn.Sequential(*layers, nn.Linear(before, classes)))
        if bias:
            for block in net.modules():
                if isinstance(block, _Block):
                    nn.init.zeros_(block.conv2.weight)
        return net


class _Block(nn.Module):
    """Twice normalisation, ReLU and convolution; the shortcut leaves after the first ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=bias)
        self.norm2 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=bias)
        changes = stride != 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        rectified = functional.relu(self.norm1(x))
        inner = self.conv2(functional.relu(self.norm2(self.conv1(rectified))))
        return inner + (x if self.shortcut is None else self.shortcut(rectified))
