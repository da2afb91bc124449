"""SVHN: colour images of house numbers, 32 by 32 pixels."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch

from flatminima.data.files import fetched, found, root_folder
from flatminima.data.images import Images
from flatminima.data.parts import Part

__all__ = ["Svhn", "svhn"]

PEAK = 255
FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


@dataclass(frozen=True, kw_only=True)
class Svhn(Images):
    """Settings of SVHN: 73 257 images to learn from and 26 032 to test on, (3, 32, 32).

    Source: Netzer et al. 2011, Reading Digits in Natural Images; two files in `SVHN` below the
    root, read by torchvision.
    """

    classes: ClassVar[int] = 10
    train: int = 65_931
    """Examples to fit."""
    validation: int = 7_326
    """Examples to choose by, from the same 73 257."""
    test: int = 26_032
    """Examples to report on, from the published test set."""

    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part, int]:
        """All images with true labels; see `Images`."""
        from torchvision.datasets import SVHN

        above = root_folder(root, "SVHN")
        if download:
            for part in FILES:
                fetched(
                    lambda part=part: SVHN(Path(above, "SVHN"), part, download=True), "SVHN", above
                )
        return svhn(above, "train"), svhn(above, "test"), self.classes


@cache
def svhn(root: str, part: str) -> Part:
    """The published training or test images with their true labels.

    Args:
        root: The folder that holds `SVHN`.
        part: `train` or `test`.

    Returns:
        73 257 or 26 032 examples.

    Raises:
        ValueError: If a file is missing or is not the published one.
    """
    from torchvision.datasets import SVHN

    path = found([Path(root, "SVHN", FILES[part])])
    try:
        known = SVHN(path.parent, part)
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(
            f"data root must hold SVHN as published, got {str(path)!r}, which is not ({error}): "
            "remove it and pass --download to fetch it again."
        ) from error
    labels = torch.as_tensor(known.labels).to(torch.int64)
    return Part(images=torch.as_tensor(known.data), labels=labels, clean_labels=labels, peak=PEAK)
