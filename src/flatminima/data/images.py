"""What the settings of every data set share: sizes of the parts, label noise, seeds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, get_args

from flatminima.data.checks import check_counts, check_noise
from flatminima.data.noise import Kind, asymmetric, from_file, instance, pairwise, symmetric
from flatminima.data.parts import Part, Parts

__all__ = ["Images"]


@dataclass(frozen=True, kw_only=True)
class Images(ABC):
    """Settings of a set of images with labels, cut into three parts."""

    becomes: ClassVar[Mapping[int, int] | None] = None
    """What classes are mistaken for in asymmetric noise; None is the next class for each."""

    train: int
    """Examples to fit."""
    validation: int
    """Examples to choose by, from the same images."""
    test: int
    """Examples to report on."""
    noise: float = 0.0
    """Share of training and validation labels that are flipped to another class."""
    seed: int = 0
    """Decides which labels are flipped."""
    split_seed: int = 0
    """Decides which image is in which part."""
    noise_kind: Kind = field(default="symmetric", metadata={"later": True})
    """How labels are flipped: `symmetric`, `asymmetric`, `pairwise` or `instance`."""
    noise_file: str | None = field(default=None, metadata={"later": True})
    """A file of noisy labels for all training images, `.npy` or `.npz`; then `noise` is 0."""

    def __post_init__(self) -> None:
        check_counts(train=self.train, validation=self.validation, test=self.test)
        check_noise(self.noise)
        if self.noise_kind not in get_args(Kind):
            raise ValueError(
                f"noise_kind must be one of {', '.join(get_args(Kind))}, got {self.noise_kind!r}."
            )
        if self.noise_file is not None and self.noise:
            raise ValueError(f"noise must be 0 with a noise_file, got {self.noise}.")

    @abstractmethod
    def published(self, root: str | None, *, download: bool) -> tuple[Part, Part | None, int]:
        """All images to learn from and to test on with true labels, and how many classes.

        Args:
            root: The folder of all data; None takes it from the environment variable
                FLATMINIMA_DATA.
            download: Whether to fetch files that are missing.

        Returns:
            The two parts, the second None where all three are cut from the first; the classes.
        """

    def load(self, root: str | None = None, *, download: bool = False) -> Parts:
        """The three parts.

        Args:
            root: The folder of all data; None takes it from the environment variable
                FLATMINIMA_DATA.
            download: Whether to fetch files that are missing.

        Returns:
            The parts, on the CPU.
        """
        learn, held_out, classes = self.published(root, download=download)
        if self.noise_file is not None:
            labels = from_file(self.noise_file, len(learn), classes)
            learn = replace(learn, labels=labels)
        if held_out is None:
            counts = (self.train, self.validation, self.test)
            train, validation, test = learn.split(counts, self.split_seed)
            test = replace(test, labels=test.clean_labels)
        else:
            train, validation = learn.split((self.train, self.validation), self.split_seed)
            (test,) = held_out.split((self.test,), self.split_seed)
        return Parts(
            # Two seeds, so that the two parts do not have their labels flipped at the same places.
            train=self._noisy(train, classes, 2 * self.seed),
            validation=self._noisy(validation, classes, 2 * self.seed + 1),
            test=test,
            classes=classes,
        )

    def _noisy(self, part: Part, classes: int, seed: int) -> Part:
        """The part with labels flipped as the settings ask."""
        if self.noise_file is not None:
            return part
        clean, rate = part.clean_labels, self.noise
        if self.noise_kind == "symmetric":
            labels = symmetric(clean, classes, rate, seed)
        elif self.noise_kind == "instance":
            labels = instance(part.images[slice(None)], clean, classes, rate, seed)
        elif self.noise_kind == "asymmetric" and self.becomes is not None:
            labels = asymmetric(clean, self.becomes, rate, seed)
        else:
            labels = pairwise(clean, classes, rate, seed)
        return replace(part, labels=labels)
