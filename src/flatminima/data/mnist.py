"""MNIST: handwritten digits of 28 by 28 pixels, read from files that the user has or downloads."""

import gzip
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from flatminima.data.checks import check_counts, check_noise
from flatminima.data.parts import Part, Parts

__all__ = ["ROOT_VARIABLE", "Mnist", "mnist"]

PEAK = 255
ROOT_VARIABLE = "FLATMINIMA_DATA"
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """Settings of MNIST: 60 000 images to learn from and 10 000 to test on, (1, 28, 28)."""

    classes: ClassVar[int] = 10
    train: int = 50_000
    """Examples to fit."""
    validation: int = 10_000
    """Examples to choose by, from the same 60 000."""
    test: int = 10_000
    """Examples to report on, from the published test set."""
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
            root: The folder that holds `MNIST/raw`; None takes it from the environment variable
                FLATMINIMA_DATA.
            download: Whether to fetch the files if they are missing.

        Returns:
            The parts, on the CPU.

        Raises:
            ValueError: If no root is given, or a file is missing or unreadable.

        Source: LeCun et al. 1998; files and reader as in torchvision.
        """
        folder = root or os.environ.get(ROOT_VARIABLE)
        if not folder:
            raise ValueError(
                f"data root must be given, got none: pass --data-root PATH or set {ROOT_VARIABLE}; "
                "--download fetches MNIST into it."
            )
        if download:
            _fetch(Path(folder))
        learn = mnist(folder, "train")
        train, validation = learn.split((self.train, self.validation), self.split_seed)
        (test,) = mnist(folder, "test").split((self.test,), self.split_seed)
        return Parts.of(
            train, validation, test, classes=self.classes, noise=self.noise, seed=self.seed
        )


@cache
def mnist(root: str, part: str) -> Part:
    """The published training or test images with their true labels.

    Args:
        root: The folder that holds `MNIST/raw`, with the four files as published (`.gz`) or
            unpacked.
        part: `train` or `test`.

    Returns:
        60 000 or 10 000 examples.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images_file, labels_file = (Path(root, "MNIST", "raw", name) for name in FILES[part])
    images = _read(images_file, read_image_file).unsqueeze(1)
    labels = _read(labels_file, read_label_file)
    return Part(images=images, labels=labels, clean_labels=labels, peak=PEAK)


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """The tensor in an IDX file, packed or not."""
    packed = path.with_name(path.name + ".gz")
    try:
        if path.is_file():
            return reader(str(path))
        if packed.is_file():
            return _unpacked(packed, reader)
    except (OSError, EOFError, ValueError, RuntimeError, AssertionError, TypeError) as error:
        found = path if path.is_file() else packed
        raise ValueError(
            f"data root must hold readable files, got {str(found)!r}, which is not ({error}): "
            "remove it and pass --download to fetch it again."
        ) from error
    raise ValueError(
        f"data root must hold the file {path.name} (or {packed.name}), got none in "
        f"{str(path.parent)!r}: pass --download to fetch it, or --data-root PATH."
    )


def _unpacked(packed: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """The tensor in a packed IDX file; torchvision's reader wants it unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, packed.stem)
        path.write_bytes(gzip.decompress(packed.read_bytes()))
        return reader(str(path))


def _fetch(root: Path) -> None:
    """Download the four files into `root/MNIST/raw`, unless they are there."""
    from torchvision.datasets import MNIST

    try:
        MNIST(root, download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"data root must be a folder that MNIST can be downloaded into, got {str(root)!r}: "
            f"{error}"
        ) from error
