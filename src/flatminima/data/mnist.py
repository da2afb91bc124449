"""MNIST and Fashion-MNIST: grey images of 28 by 28 pixels, read from files that the user has."""

import gzip
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from flatminima.data.files import fetched, found, root_folder
from flatminima.data.images import Images
from flatminima.data.parts import Part

__all__ = ["FashionMnist", "Mnist", "idx_images"]

PEAK = 255
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True, kw_only=True)
class Mnist(Images):
    """Settings of MNIST: 60 000 images to learn from and 10 000 to test on, (1, 28, 28).

    Source: LeCun et al. 1998; files and reader as in torchvision, in `MNIST/raw` below the root.
    """

    classes: ClassVar[int] = 10
    train: int = 50_000
    """Examples to fit."""
    validation: int = 10_000
    """Examples to choose by, from the same 60 000."""
    test: int = 10_000
    """Examples to report on, from the published test set."""

    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part, int]:
        """All images with true labels; see `Images`."""
        return *_published("MNIST", root, download=download), self.classes


@dataclass(frozen=True, kw_only=True)
class FashionMnist(Images):
    """Settings of Fashion-MNIST: pieces of clothing in the form of MNIST.

    Source: Xiao et al. 2017, arXiv:1708.07747; in `FashionMNIST/raw` below the root.
    """

    classes: ClassVar[int] = 10
    train: int = 50_000
    """Examples to fit."""
    validation: int = 10_000
    """Examples to choose by, from the same 60 000."""
    test: int = 10_000
    """Examples to report on, from the published test set."""

    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part, int]:
        """All images with true labels; see `Images`."""
        return *_published("FashionMNIST", root, download=download), self.classes


def _published(folder: str, root: str | None, *, download: bool) -> tuple[Part, Part]:
    """The training and the test images of a folder, fetched by the class of the same name."""
    import torchvision.datasets

    above = root_folder(root, folder)
    if download:
        fetched(lambda: getattr(torchvision.datasets, folder)(above, download=True), folder, above)
    return idx_images(above, folder, "train"), idx_images(above, folder, "test")


@cache
def idx_images(root: str, folder: str, part: str) -> Part:
    """The published training or test images with their true labels.

    Args:
        root: The folder of all data.
        folder: The one in it that holds `raw`, with the four files as published (`.gz`) or
            unpacked.
        part: `train` or `test`.

    Returns:
        60 000 or 10 000 examples.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images_file, labels_file = (Path(root, folder, "raw", name) for name in FILES[part])
    images = _read(images_file, read_image_file).unsqueeze(1)
    labels = _read(labels_file, read_label_file)
    return Part(images=images, labels=labels, clean_labels=labels, peak=PEAK)


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """The tensor in an IDX file, packed or not."""
    there = found([path, path.with_name(path.name + ".gz")])
    try:
        return reader(str(path)) if there == path else _unpacked(there, reader)
    except (OSError, EOFError, ValueError, RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"data root must hold readable files, got {str(there)!r}, which is not ({error}): "
            "remove it and pass --download to fetch it again."
        ) from error


def _unpacked(packed: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """The tensor in a packed IDX file; torchvision's reader wants it unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, packed.stem)
        path.write_bytes(gzip.decompress(packed.read_bytes()))
        return reader(str(path))
