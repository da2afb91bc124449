"""CIFAR-10 and CIFAR-100: colour images of 32 by 32 pixels.

Two forms are read. The published one, as torchvision keeps it: `cifar-10-batches-py` or
`cifar-100-python` below the root. And a smaller one: a folder `cifar-10` or `cifar-100` with six
files of 10 000 images as `packed` describes them, and `labels.bin`, one byte per image in the
order of the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from flatminima.data.files import check_listed, fetched, found, root_folder
from flatminima.data.images import Images
from flatminima.data.packed import unpacked
from flatminima.data.parts import Part, Statistics

__all__ = ["Cifar10", "Cifar100", "cifar"]

PEAK = 255
Labels = Literal["fine", "coarse"]
COARSE = (  # of each fine label
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Where the images of a set are, in its two forms."""

    reader: str
    """The class of torchvision."""
    published: str
    """The folder that it reads."""
    packed: str
    """The folder of the smaller form."""
    files: tuple[str, ...]
    """The files in that one: five of training images, then one of test images."""


FORMS = {
    10: _Form(
        reader="CIFAR10",
        published="cifar-10-batches-py",
        packed="cifar-10",
        files=(*(f"data_batch_{part}.xz" for part in range(1, 6)), "test_batch.xz"),
    ),
    100: _Form(
        reader="CIFAR100",
        published="cifar-100-python",
        packed="cifar-100",
        files=(*(f"train_{part}.xz" for part in range(1, 6)), "test.xz"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cifar10(Images):
    """Settings of CIFAR-10: 50 000 images to learn from and 10 000 to test on, (3, 32, 32).

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    classes: ClassVar[int] = 10
    # truck to automobile, bird to airplane, cat to dog and back, deer to horse
    becomes: ClassVar[Mapping[int, int] | None] = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
    train: int = 45_000
    """Examples to fit."""
    validation: int = 5_000
    """Examples to choose by, from the same 50 000."""
    test: int = 10_000
    """Examples to report on, from the published test set."""
    standardized: bool = True
    """Whether each channel has mean 0 and deviation 1 over the training images; else [0, 1]."""

    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part, int]:
        """All images with true labels; see `Images`."""
        of_channels = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        learn, held_out = _published(10, root, download=download)
        statistics = of_channels if self.standardized else None
        return _part(*learn, statistics), _part(*held_out, statistics), self.classes


@dataclass(frozen=True, kw_only=True)
class Cifar100(Images):
    """Settings of CIFAR-100: 50 000 images to learn from and 10 000 to test on, (3, 32, 32).

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    train: int = 45_000
    """Examples to fit."""
    validation: int = 5_000
    """Examples to choose by, from the same 50 000."""
    test: int = 10_000
    """Examples to report on, from the published test set."""
    labels: Labels = "fine"
    """The 100 `fine` classes, or the 20 `coarse` ones."""
    standardized: bool = True
    """Whether each channel has mean 0 and deviation 1 over the training images; else [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels not in get_args(Labels):
            raise ValueError(f"labels must be fine or coarse, got {self.labels!r}.")

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return 100 if self.labels == "fine" else 20

    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part, int]:
        """All images with true labels; see `Images`."""
        of_channels = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
        statistics = of_channels if self.standardized else None
        learn, held_out = (
            _part(images, self._labels(fine), statistics)
            for images, fine in _published(100, root, download=download)
        )
        return learn, held_out, self.classes

    def _labels(self, fine: Tensor) -> Tensor:
        return fine if self.labels == "fine" else torch.tensor(COARSE)[fine]


def _part(images: Tensor, labels: Tensor, statistics: Statistics | None) -> Part:
    return Part(images=images, labels=labels, clean_labels=labels, peak=PEAK, statistics=statistics)


def _published(
    classes: int, root: str | None, *, download: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The training and the test images with their labels."""
    import torchvision.datasets

    form = FORMS[classes]
    above = root_folder(root, form.reader)
    if download and not Path(above, form.packed).exists():
        reader = getattr(torchvision.datasets, form.reader)
        fetched(lambda: reader(above, download=True), form.reader, above)
    return cifar(above, classes, "train"), cifar(above, classes, "test")


@cache
def cifar(root: str, classes: int, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """The published training or test images with their (fine) labels.

    Args:
        root: The folder of all data.
        classes: 10 or 100.
        part: `train` or `test`.

    Returns:
        The images, uint8, (n, 3, 32, 32), and their labels.
    """
    form = FORMS[classes]
    folder = found([Path(root, form.published), Path(root, form.packed)])
    if folder.name == form.packed:
        return _from_packed(folder, form, slice(0, 5) if part == "train" else slice(5, 6))
    return _from_published(Path(root), form, train=part == "train")


def _from_published(root: Path, form: _Form, *, train: bool) -> tuple[Tensor, Tensor]:
    """By torchvision, which checks the files."""
    import torchvision.datasets

    try:
        known = getattr(torchvision.datasets, form.reader)(root, train=train, download=False)
    except (RuntimeError, OSError, EOFError) as error:
        raise ValueError(
            f"data root must hold all of {form.published}, got {str(root)!r}, where it is not "
            f"({error}): pass --download to fetch it again."
        ) from error
    images = torch.as_tensor(known.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(known.targets)


def _from_packed(folder: Path, form: _Form, which: slice) -> tuple[Tensor, Tensor]:
    """From the smaller form; `SHA256SUMS` in the root is honoured."""
    paths = [found([folder / name]) for name in form.files[which]]
    labels = found([folder / "labels.bin"])
    for path in [*paths, labels]:
        check_listed(path, folder.parent)
    images = [unpacked(path.read_bytes()) for path in paths]
    of_files = np.frombuffer(labels.read_bytes(), np.uint8).reshape(len(form.files), -1)[which]
    return (
        torch.as_tensor(np.concatenate(images)),
        torch.as_tensor(of_files.reshape(-1).astype(np.int64)),
    )
