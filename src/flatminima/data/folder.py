"""Any folder of images with a folder for each class, such as ImageNet."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from flatminima.data.files import found, root_folder
from flatminima.data.images import Images
from flatminima.data.parts import Part
from flatminima.data.photos import Photos

__all__ = ["ImageFolder", "files_by_class"]

PEAK = 255
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Images):
    """Settings of a folder with `train/CLASS/FILE`, and `val/CLASS/FILE` to test on.

    The defaults are those of ImageNet. Images are decoded when they are needed; classes are
    numbered in the order of their names. Without `val` the test images are some of `train`.
    """

    path: str = "imagenet"
    """The folder, below the root or by itself."""
    classes: int = 1000
    """How many classes there are."""
    train: int = 1_231_167
    """Examples to fit."""
    validation: int = 50_000
    """Examples to choose by, from the same folder."""
    test: int = 50_000
    """Examples to report on."""
    size: int = 224
    """Height and width of what is seen."""
    resize: int = 256
    """The short side before the middle is cut out, in evaluation."""
    standardized: bool = True
    """Whether channels are standardised as is usual for ImageNet; else [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.size <= self.resize:
            raise ValueError(f"size must be from 1 to resize {self.resize}, got {self.size}.")

    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part | None, int]:
        """All images with their labels; nothing is downloaded. See `Images`."""
        del download
        above = "" if Path(self.path).is_absolute() else root_folder(root, self.path)
        folder = Path(above, self.path)
        learn = self._part(found([folder / "train"], download=False))
        held_out = self._part(folder / "val") if (folder / "val").is_dir() else None
        return learn, held_out, self.classes

    def _part(self, folder: Path) -> Part:
        """The files below a folder."""
        groups = files_by_class(folder)
        if len(groups) != self.classes:
            raise ValueError(
                f"classes must be the number of folders in {str(folder)!r}, {len(groups)}, "
                f"got {self.classes}."
            )
        paths = [path for group in groups for path in group]
        labels = torch.cat([torch.full((len(group),), k) for k, group in enumerate(groups)])
        usual = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return Part(
            images=Photos(paths=paths, size=self.size, resize=self.resize),
            labels=labels,
            clean_labels=labels,
            peak=PEAK,
            statistics=usual if self.standardized else None,
        )


@cache
def files_by_class(folder: Path) -> tuple[tuple[Path, ...], ...]:
    """The images in each folder of a folder, in the order of the names.

    Args:
        folder: The folder that holds one for each class.

    Returns:
        The files of each class.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return tuple(
        tuple(sorted(path for path in group.rglob("*") if path.suffix.lower() in ENDINGS))
        for group in classes
    )
