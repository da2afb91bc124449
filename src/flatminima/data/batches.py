"""The batches of an epoch: from memory where the images lie, or from files by worker processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flatminima.data.augment import Augment, by_policy
from flatminima.data.parts import Part
from flatminima.data.photos import Photos

__all__ = ["batches"]

Batch = tuple[Tensor, Tensor, torch.Generator]


def batches(
    part: Part,
    order: Sequence[Tensor],
    augment: Augment | None,
    seed: Callable[[int], int],
    workers: int = 0,
) -> Iterator[Batch]:
    """Inputs and labels, batch by batch.

    Each batch has random numbers of its own, so that it is the same whatever came before it and
    however many workers there are.

    Args:
        part: The examples.
        order: The positions in each batch.
        augment: How the images are changed; None leaves them alone.
        seed: Gives the seed of a batch by its place in `order`.
        workers: Processes that decode files; 0 does it here.

    Yields:
        Inputs, labels, and the batch's random numbers as far as they are not used.
    """
    images = part.images
    read: Iterator[Tensor] | None = None
    if isinstance(images, Photos):
        # Its own generator: else it would draw a number of everybody's at the start of an epoch.
        loader: Any = DataLoader(
            _Reader(images, order, augment, seed),
            batch_size=None,
            num_workers=workers,
            generator=torch.Generator(),
        )
        read = iter(loader)
    for place, index in enumerate(order):
        generator = torch.Generator().manual_seed(seed(place))
        index = index.to(part.labels.device)
        if isinstance(images, Photos):
            assert read is not None  # made above
            pixels = next(read).to(part.labels.device)
        else:
            pixels = images.index_select(0, index)  # copies whole images, as indexing does not
            pixels = pixels if augment is None else augment.pixels(pixels, generator)
        x = part.numbers(pixels)
        if augment is not None:
            x = augment.numbers(x, generator)
        yield x, part.labels[index], generator


@dataclass
class _Reader(Dataset[Tensor]):
    """Batches of decoded images, for the workers of a `DataLoader`."""

    images: Photos
    order: Sequence[Tensor]
    augment: Augment | None
    seed: Callable[[int], int]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Tensor:
        """One batch: uint8, (n, 3, height, width)."""
        files = self.images.take(self.order[place])
        if self.augment is None:
            return files[slice(None)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed(place))
            return torch.stack([_piece(files, n, self.augment) for n in range(len(files))])


def _piece(files: Photos, position: int, augment: Augment) -> Tensor:
    """A random piece of an image, resized, perhaps mirrored, changed by the policy."""
    from torchvision.transforms import v2

    image = v2.RandomResizedCrop(files.size, scale=augment.scale, antialias=True)(
        files.decoded(position)
    )
    if augment.flip and torch.rand(()) < 0.5:
        image = image.flip(2)
    if augment.policy is None:
        return image
    return by_policy(image[None], augment.policy, torch.default_generator)[0]
