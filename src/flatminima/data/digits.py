"""Handwritten digits of 8 by 8 pixels that come inside scikit-learn: real, and no download."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch

from flatminima.data.checks import check_counts, check_noise
from flatminima.data.parts import Part, Parts

__all__ = ["Digits", "digits"]

PEAK = 16


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Settings of the digits: 1797 images, (1, 8, 8), cut into three parts."""

    classes: ClassVar[int] = 10
    train: int = 1000
    """Examples to fit."""
    validation: int = 297
    """Examples to choose by."""
    test: int = 500
    """Examples to report on."""
    noise: float = 0.0
    """Share of training and validation labels that are flipped to another class."""
    seed: int = 0
    """Decides which labels are flipped."""
    split_seed: int = 0
    """Decides which image is in which part."""

    def __post_init__(self) -> None:
        check_counts(train=self.train, validation=self.validation, test=self.test)
        check_noise(self.noise)

    def load(self, root: str | None = None, *, download: bool = False) -> Parts:
        """The three parts.

        Args:
            root: Not used: the images are part of scikit-learn.
            download: Not used.

        Returns:
            The parts, on the CPU.

        Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, the test set.
        """
        del root, download
        parts = digits().split((self.train, self.validation, self.test), self.split_seed)
        return Parts.of(*parts, classes=self.classes, noise=self.noise, seed=self.seed)


@cache
def digits() -> Part:
    """All 1797 images with their true labels."""
    from sklearn.datasets import load_digits  # imported late: it takes a second

    pixels, target = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.as_tensor(target).to(torch.int64)
    return Part(images=images, labels=labels, clean_labels=labels, peak=PEAK)
