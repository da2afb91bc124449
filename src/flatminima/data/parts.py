"""Images and labels in memory, in three parts: training, validation and test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from flatminima.data.noise import symmetric
from flatminima.data.split import stratified

__all__ = ["Part", "Parts"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Images with the labels to learn from and the labels that are true."""

    images: Tensor
    """The images as they were stored: uint8, (n, channels, height, width)."""
    labels: Tensor
    """The labels as given, some of them flipped: int64, (n,)."""
    clean_labels: Tensor
    """The true labels: int64, (n,)."""
    peak: int
    """The pixel value that becomes 1.0."""

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
        """The images as floating point numbers in [0, 1], made on the device they lie on."""
        return self.images[index].to(torch.get_default_dtype()) / self.peak

    def take(self, index: Tensor | slice) -> Self:
        """The examples at some positions."""
        return self._map(lambda values: values[index])

    def split(self, counts: Sequence[int], seed: int) -> tuple[Self, ...]:
        """Disjoint parts with the classes in equal proportions; see `stratified`."""
        return tuple(self.take(index) for index in stratified(self.clean_labels, counts, seed))

    def noisy(self, rate: float, classes: int, seed: int) -> Self:
        """The examples with a share of their labels flipped; see `symmetric`."""
        return replace(self, labels=symmetric(self.clean_labels, classes, rate, seed))

    def to(self, device: torch.device | str) -> Self:
        """The same examples on a device."""
        return self._map(lambda values: values.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The part with every tensor changed in the same way."""
        return replace(
            self,
            images=change(self.images),
            labels=change(self.labels),
            clean_labels=change(self.clean_labels),
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
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )

    @classmethod
    def of(
        cls, train: Part, validation: Part, test: Part, *, classes: int, noise: float, seed: int
    ) -> Self:
        """Clean parts put together, with label noise in all but the test part."""
        return cls(
            # Two seeds, so that the two parts do not have their labels flipped at the same places.
            train=train.noisy(noise, classes, 2 * seed),
            validation=validation.noisy(noise, classes, 2 * seed + 1),
            test=test,
            classes=classes,
        )
