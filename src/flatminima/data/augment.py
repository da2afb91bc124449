"""Images changed at random in training: whole batches at once, where they lie."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = ["Augment", "cropped", "cut_out", "flipped", "mixed"]

Policy = Literal["autoaugment_cifar10", "autoaugment_svhn", "autoaugment_imagenet", "randaugment"]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Settings of how training images are changed; the defaults are usual for CIFAR."""

    crop: int = 4
    """Black pixels added on every side before a random piece of the old size is cut out."""
    flip: bool = True
    """Whether half of the images are mirrored."""
    policy: Policy | None = None
    """AutoAugment's for some data set, or RandAugment, as torchvision has them."""
    cutout: int = 0
    """Side of a square, somewhere, that is made grey (0 if standardised); 0 for none."""
    scale: tuple[float, float] = (0.08, 1.0)
    """For image files, which are not padded: the share of the area that is cut out at random."""

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0:
            raise ValueError(
                f"crop and cutout must be >= 0 pixels, got {self.crop} and {self.cutout}."
            )
        if self.policy is not None and self.policy not in get_args(Policy):
            raise ValueError(
                f"policy must be one of {', '.join(get_args(Policy))}, got {self.policy!r}."
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares in (0, 1], got {self.scale}.")

    def pixels(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Stored images, cropped, mirrored, and changed by the policy.

        Args:
            images: uint8, (n, channels, height, width), on any device.
            generator: Random numbers of the CPU.

        Returns:
            The same shape.
        """
        if self.crop:
            images = cropped(images, self.crop, generator)
        if self.flip:
            images = flipped(images, generator)
        return images if self.policy is None else by_policy(images, self.policy, generator)

    def numbers(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs of a network with a square cut out of each.

        Args:
            x: Numbers, (n, channels, height, width).
            generator: Random numbers of the CPU.

        Returns:
            The same shape.
        """
        return cut_out(x, self.cutout, generator) if self.cutout else x


def cropped(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """A random piece of each image after black was added on every side.

    Args:
        images: (n, channels, height, width).
        padding: Pixels added on every side; pieces begin anywhere, all equally likely.
        generator: Random numbers of the CPU.

    Returns:
        The pieces, as large as the images were.
    """
    count, channels, height, width = images.shape
    wide = torch.nn.functional.pad(images, (padding,) * 4)
    begins = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    top, left = begins.to(images.device)[:, :, None]
    rows = (top + torch.arange(height, device=images.device)) * wide.shape[3] + left
    planes = torch.arange(count * channels, device=images.device) * wide[0, 0].numel()
    place = planes.view(count, channels, 1) + rows[:, None]
    lines = wide.flatten().unfold(0, width, 1)  # every run of pixels as long as a line: a view
    return lines.index_select(0, place.flatten()).view(images.shape)


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images, each mirrored left to right with probability 1/2.

    Args:
        images: (n, channels, height, width).
        generator: Random numbers of the CPU.

    Returns:
        The same shape.
    """
    mirror = torch.rand(len(images), generator=generator) < 0.5
    place = torch.arange(len(images)) + len(images) * mirror
    both = torch.cat((images, images.flip(3)))  # faster than to write into some of them
    return both.index_select(0, place.to(images.device))


def cut_out(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The images with a square of zeros around a random pixel; it may reach over the border.

    Args:
        x: (n, channels, height, width).
        side: Its height and width.
        generator: Random numbers of the CPU.

    Returns:
        The same shape.

    Source: DeVries and Taylor 2017, arXiv:1708.04552.
    """
    count, _, height, width = x.shape
    centre = torch.rand(2, count, generator=generator).to(x.device)
    top, left = (
        (at * size).long() - side // 2 for at, size in zip(centre, (height, width), strict=True)
    )
    rows, columns = (
        (torch.arange(size, device=x.device) - at[:, None]).div(side, rounding_mode="floor") == 0
        for at, size in ((top, height), (left, width))
    )
    square = rows.to(x.dtype)[:, None, :, None] * columns.to(x.dtype)[:, None, None, :]
    return x * (1 - square)  # faster than to fill by a mask that is spread over the channels


def by_policy(images: Tensor, policy: Policy, generator: torch.Generator) -> Tensor:
    """The images changed one by one as AutoAugment or RandAugment draws it.

    Args:
        images: uint8, (n, 3, height, width).
        policy: The policy.
        generator: Random numbers of the CPU; torch's own state is left as it was.

    Returns:
        The same shape.
    """
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([_policy(policy)(image) for image in images])


def mixed(
    x: Tensor, target: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup: every example with another one of the batch.

        x = a x_i + (1 - a) x_j,    y = a y_i + (1 - a) y_j,    a ~ Beta(alpha, alpha)

    Args:
        x: Inputs, (n, ...).
        target: Probabilities of the classes, (n, classes).
        alpha: How even the mixture is; one share is drawn for the batch.
        generator: Random numbers of the CPU.

    Returns:
        Inputs and probabilities.

    Source: Zhang et al. 2018, arXiv:1710.09412.
    """
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = torch.randperm(len(x), generator=generator).to(x.device)
    return (
        share * x + (1 - share) * x[other],
        share * target + (1 - share) * target[other],
    )


@cache
def _policy(policy: Policy) -> Callable[[Tensor], Tensor]:
    """The transformation of one image."""
    from torchvision.transforms import v2

    if policy == "randaugment":
        return v2.RandAugment()
    return v2.AutoAugment(v2.AutoAugmentPolicy(policy.removeprefix("autoaugment_")))
