"""Images and labels in three parts: training, validation and test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from flatminima.data.photos import Photos
from flatminima.data.split import stratified

__all__ = ["Part", "Parts"]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Images with the labels to learn from and the labels that are true."""

    images: Tensor | Photos
    """The images as they were stored: uint8, (n, channels, height, width); or files of them."""
    labels: Tensor
    """The labels as given, some of them flipped: int64, (n,)."""
    clean_labels: Tensor
    """The true labels: int64, (n,)."""
    peak: int
    """The pixel value that becomes 1.0."""
    statistics: Statistics | None = None
    """Mean and standard deviation per channel, for standardised inputs; None leaves [0, 1]."""

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.clean_labels):
            raise ValueError(
                "images and labels must be equally many, got "
                f"{len(self.images)}, {len(self.labels)} and {len(self.clean_labels)}."
            )

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image: (channels, height, width)."""
        return tuple(self.images.shape[1:])

    @property
    def flipped(self) -> Tensor:
        """Where the given label is not the true one: bool, (n,)."""
        return self.labels != self.clean_labels

    def inputs(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images as floating point numbers, made on the device they lie on."""
        return self.numbers(self.images[index].to(self.labels.device))

    def numbers(self, pixels: Tensor) -> Tensor:
        """Stored pixels as numbers in [0, 1], or standardised per channel."""
        x = pixels.to(torch.get_default_dtype()) / self.peak
        if self.statistics is None:
            return x
        mean, deviation = (x.new_tensor(values).view(-1, 1, 1) for values in self.statistics)
        return (x - mean) / deviation

    def take(self, index: Tensor | slice) -> Self:
        """The examples at some positions."""
        images = self.images
        return replace(
            self,
            images=images.take(index) if isinstance(images, Photos) else images[index],
            labels=self.labels[index],
            clean_labels=self.clean_labels[index],
        )

    def split(self, counts: Sequence[int], seed: int) -> tuple[Self, ...]:
        """Disjoint parts with the classes in equal proportions; see `stratified`."""
        return tuple(self.take(index) for index in stratified(self.clean_labels, counts, seed))

    def to(self, device: torch.device | str) -> Self:
        """The same examples on a device; files stay where they are."""
        images = self.images
        return replace(
            self,
            images=images if isinstance(images, Photos) else images.to(device),
            labels=self.labels.to(device),
            clean_labels=self.clean_labels.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The three parts of a data set; no image is in two of them."""

    train: Part
    """What the weights are fitted to."""
    validation: Part
    """What radii and epochs are chosen by; as noisy as the training part."""
    test: Part
    """What is reported; its labels are always clean."""
    classes: int
    """How many classes there are."""

    def to(self, device: torch.device | str) -> Self:
        """The same data on a device."""
        return self.map(lambda part: part.to(device))

    def map(self, change: Callable[[Part], Part]) -> Self:
        """The data with every part changed in the same way."""
        return replace(
            self,
            train=change(self.train),
            validation=change(self.validation),
            test=change(self.test),
        )
