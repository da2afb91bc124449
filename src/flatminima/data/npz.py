"""Any `.npz` file of images and labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flatminima.data.files import check_sha256, found, root_folder
from flatminima.data.images import Images
from flatminima.data.parts import Part

__all__ = ["Npz"]

PEAK = 255


@dataclass(frozen=True, kw_only=True)
class Npz(Images):
    """Settings of a file with `train_images` and `train_labels`, and the same with `test_`.

    Images are uint8, (n, height, width) or (n, height, width, channels). A file that has only
    `images` and `labels` is cut into all three parts.
    """

    path: str
    """The file, below the root or by itself."""
    classes: int
    """How many classes there are."""
    sha256: str | None = None
    """The checksum that the file must have; with it a run's key says which file it was."""

    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part | None, int]:
        """All images with their labels; nothing is downloaded. See `Images`."""
        del download
        above = "" if Path(self.path).is_absolute() else root_folder(root, self.path)
        path = found([Path(above, self.path)], download=False)
        check_sha256(path, self.sha256)
        with np.load(path, allow_pickle=False) as stored:
            names = set(stored.files)
            if {"train_images", "train_labels", "test_images", "test_labels"} <= names:
                learn, held_out = (self._part(stored, f"{part}_") for part in ("train", "test"))
            elif {"images", "labels"} <= names:
                learn, held_out = self._part(stored, ""), None
            else:
                raise ValueError(
                    f"{path.name} must hold images and labels, got {', '.join(sorted(names))}."
                )
        return learn, held_out, self.classes

    def _part(self, stored: np.lib.npyio.NpzFile, which: str) -> Part:
        """The images and labels whose names begin in some way."""
        images, labels = stored[f"{which}images"], stored[f"{which}labels"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise ValueError(
                f"{which}images must be uint8 of shape (n, height, width) or (n, height, width, "
                f"channels), got {images.dtype} of shape {images.shape}."
            )
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(
                f"{which}labels must be from 0 to {self.classes - 1}, got {labels.min()} to "
                f"{labels.max()}."
            )
        pixels = torch.as_tensor(images if images.ndim == 4 else images[..., None])
        given = torch.as_tensor(labels.astype(np.int64))
        return Part(
            images=pixels.permute(0, 3, 1, 2).contiguous(),
            labels=given,
            clean_labels=given,
            peak=PEAK,
        )
