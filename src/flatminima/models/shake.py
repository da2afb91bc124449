"""Branches mixed at random, with other proportions backward than forward.

    Shake        forward  a b1 + (1 - a) b2,      a ~ U(0, 1) for each image
                 backward a' and 1 - a',          a' ~ U(0, 1)
    ShakeDrop    forward  (b + a - b a) branch,   b ~ Bernoulli(keep),  a ~ U(-1, 1)
                 backward (b + a' - b a'),        a' ~ U(0, 1)

The backward proportions of such a layer are not those of the forward pass, so what comes out is no
gradient of anything. Where a gradient is needed, as in the ascent of SAM, `true_gradient` makes
both passes use the forward ones.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Shake", "ShakeDrop", "true_gradient"]


class _Mixed(torch.autograd.Function):
    """A tensor times one factor forward and another one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, backward: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(backward)
        return x * factor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return grads[0] * ctx.saved_tensors[0], None, None


class Shake(nn.Module):
    """Two branches as one: mixed at random in training, their mean in evaluation.

    Source: Gastaldi 2017, arXiv:1705.07485, the variant Shake-Shake-Image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.true_gradient = False

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Two tensors (B, channels, H, W) to one."""
        if not self.training:
            return (one + two) / 2
        share, back = one.new_empty(2, len(one), 1, 1, 1).uniform_()
        back = share if self.true_gradient else back
        return _Mixed.apply(one, share, back) + _Mixed.apply(two, 1 - share, 1 - back)


class ShakeDrop(nn.Module):
    """A branch that is kept, or else scaled at random; in evaluation scaled by its mean.

    Args:
        keep: The probability to keep the branch, drawn once for the batch.

    Source: Yamada et al. 2019, arXiv:1802.02375, with a and a' drawn for each image.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep
        self.true_gradient = False

    def forward(self, branch: Tensor) -> Tensor:
        """A tensor (B, channels, H, W) to one of the same shape."""
        if not self.training:
            return self.keep * branch
        kept = (branch.new_empty(()).uniform_() < self.keep).to(branch)
        ahead, back = branch.new_empty(2, len(branch), 1, 1, 1).uniform_()
        ahead = 2 * ahead - 1
        forward = kept + (1 - kept) * ahead
        backward = forward if self.true_gradient else kept + (1 - kept) * back
        return _Mixed.apply(branch, forward, backward)

    def extra_repr(self) -> str:
        """The probability."""
        return f"keep={self.keep:g}"


def true_gradient(model: nn.Module, on: bool) -> None:
    """Let the random layers of a network give true gradients from now on, or their own again."""
    for module in model.modules():
        if isinstance(module, Shake | ShakeDrop):
            module.true_gradient = on
