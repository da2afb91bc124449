"""Handwritten digits of 8 by 8 pixels that come inside scikit-learn: real, and no download."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch

from flatminima.data.images import Images
from flatminima.data.parts import Part

__all__ = ["Digits", "digits"]

PEAK = 16


@dataclass(frozen=True, kw_only=True)
class Digits(Images):
    """Settings of the digits: 1797 images, (1, 8, 8), cut into three parts.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, the test set.
    """

    classes: ClassVar[int] = 10
    train: int = 1000
    """Examples to fit."""
    validation: int = 297
    """Examples to choose by."""
    test: int = 500
    """Examples to report on."""

    def published(self, root: str | None, *, download: bool) -> tuple[Part, None, int]:
        """All images; `root` and `download` are not used: they are part of scikit-learn."""
        del root, download
        return digits(), None, self.classes


@cache
def digits() -> Part:
    """All 1797 images with their true labels."""
    from sklearn.datasets import load_digits  # imported late: it takes a second

    pixels, target = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.as_tensor(target).to(torch.int64)
    return Part(images=images, labels=labels, clean_labels=labels, peak=PEAK)
