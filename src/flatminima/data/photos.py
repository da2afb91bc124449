"""Image files that are decoded when they are asked for: for sets too large to hold in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

__all__ = ["Photos"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """Files of images, all seen at one size: the short side resized, the middle cut out."""

    paths: Sequence[Path]
    """The files."""
    size: int
    """Height and width of what is seen."""
    resize: int
    """The short side before the middle is cut out."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape they would have as one tensor: (n, 3, height, width)."""
        return (len(self), 3, self.size, self.size)

    def take(self, index: Tensor | slice) -> Self:
        """The files at some positions."""
        positions = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        return replace(self, paths=[self.paths[position] for position in positions])

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The images at some positions, the middle of each: uint8, (n, 3, height, width)."""
        files = self.take(index)
        return torch.stack([files.middle(position) for position in range(len(files))])

    def middle(self, position: int) -> Tensor:
        """The middle of one image: uint8, (3, height, width)."""
        from torchvision.transforms.v2 import functional as transforms

        image = transforms.resize(self.decoded(position), [self.resize], antialias=True)
        return transforms.center_crop(image, [self.size, self.size])

    def decoded(self, position: int) -> Tensor:
        """One image as it is stored: uint8, (3, height, width).

        Args:
            position: Which one.

        Returns:
            Its pixels.

        Raises:
            ValueError: If the file is no image.
        """
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        path = self.paths[position]
        try:
            with Image.open(path) as image:
                return pil_to_tensor(image.convert("RGB"))
        except OSError as error:
            raise ValueError(
                f"data root must hold readable images, got {str(path)!r}, which is not ({error})."
            ) from error
