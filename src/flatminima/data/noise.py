"""Labels made wrong on purpose, so that memorisation can be measured.

    symmetric     to any other class, all equally likely
    asymmetric    to the class that it is mistaken for; labels of classes without one stay
    pairwise      to the next class
    instance      more likely the more the image looks like the other class to a random linear map

In every kind a label that is flipped is wrong, and only such labels count as flipped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Kind", "asymmetric", "from_file", "instance", "pairwise", "symmetric"]

Kind = Literal["symmetric", "asymmetric", "pairwise", "instance"]
SPREAD = 0.1  # standard deviation of the rates of single images


def symmetric(labels: Tensor, classes: int, rate: float, seed: int) -> Tensor:
    """The labels with an exact share of them flipped to another class.

    Which labels are flipped is drawn without repetition; a flipped label is equally likely to
    become any of the other classes and never stays what it was.

    Args:
        labels: The true labels, (n,).
        classes: How many classes there are.
        rate: The share to flip, in [0, 1]; `rate * n` is rounded to a whole number of labels.
        seed: Decides which labels are flipped and to what.

    Returns:
        The noisy labels, (n,); the argument is left as it was.

    Raises:
        ValueError: If `rate` is not in [0, 1] or there are fewer than two classes to flip between.

    Source: the symmetric noise of Andriushchenko and Flammarion 2022, arXiv:2206.06232.

    Example:
        >>> labels = torch.zeros(10, dtype=torch.long)
        >>> int((symmetric(labels, classes=3, rate=0.4, seed=0) != labels).sum())
        4
    """
    _check(rate, classes)
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]
    shift = torch.randint(1, classes, (len(flipped),), generator=generator)
    noisy = labels.clone()
    noisy[flipped] = (labels[flipped] + shift) % classes
    return noisy


def asymmetric(labels: Tensor, becomes: Mapping[int, int], rate: float, seed: int) -> Tensor:
    """The labels with an exact share of those that can be mistaken flipped to what they become.

    Args:
        labels: The true labels, (n,).
        becomes: For each class that is mistaken, the class that it is mistaken for.
        rate: The share of the labels of those classes to flip, in [0, 1]. The share of all labels
            is lower where some classes have no other: about half of it on CIFAR-10.
        seed: Decides which labels are flipped.

    Returns:
        The noisy labels, (n,); the argument is left as it was.

    Raises:
        ValueError: If `rate` is not in [0, 1] or a class becomes itself.

    Source: Patrini et al. 2017, arXiv:1609.03683, for the classes of CIFAR-10.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> asymmetric(labels, {1: 0}, rate=1.0, seed=0).tolist()
        [0, 0, 0, 0]
    """
    _check(rate, 2)
    if any(before == after for before, after in becomes.items()):
        raise ValueError(f"becomes must name another class for each, got {dict(becomes)}.")
    after = labels.clone()
    for before, other in becomes.items():
        after[labels == before] = other
    able = torch.nonzero(after != labels).flatten()
    generator = torch.Generator().manual_seed(seed)
    flipped = able[torch.randperm(len(able), generator=generator)[: round(rate * len(able))]]
    noisy = labels.clone()
    noisy[flipped] = after[flipped]
    return noisy


def pairwise(labels: Tensor, classes: int, rate: float, seed: int) -> Tensor:
    """The labels with an exact share of them flipped to the next class; see `asymmetric`."""
    _check(rate, classes)
    return asymmetric(labels, {k: (k + 1) % classes for k in range(classes)}, rate, seed)


def instance(images: Tensor, labels: Tensor, classes: int, rate: float, seed: int) -> Tensor:
    """The labels flipped by chances that depend on the image.

        q_i ~ N(rate, 0.1^2), cut to [0, 1]        P(flip i) = q_i
        P(i becomes k | flip) = softmax over k != y_i of (x_i W_{y_i})_k,     W ~ N(0, 1)

    Args:
        images: The images, (n, ...); each is standardised.
        labels: The true labels, (n,).
        classes: How many classes there are.
        rate: The mean chance to be flipped, in [0, 1].
        seed: Decides the chances, which labels are flipped, and to what.

    Returns:
        The noisy labels, (n,); the argument is left as it was.

    Raises:
        ValueError: If `rate` is not in [0, 1] or there are fewer than two classes to flip between.

    Source: Xia et al. 2020, arXiv:2006.07836 (the chances are cut where they redraw them).
    """
    _check(rate, classes)
    generator = torch.Generator().manual_seed(seed)
    chance = (rate + SPREAD * torch.randn(len(labels), generator=generator)).clamp(0, 1)
    flip = torch.rand(len(labels), generator=generator) < (chance if rate else 0 * chance)
    noisy = labels.clone()
    for label in range(classes):
        direction = torch.randn(images[0].numel(), classes, generator=generator)
        mine = torch.nonzero(flip & (labels == label)).flatten()
        if not len(mine):
            continue
        x = images[mine].flatten(1).to(direction)
        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).clamp(min=1e-12)
        scores = x @ direction / x.shape[1] ** 0.5
        scores[:, label] = -torch.inf
        noisy[mine] = torch.multinomial(scores.softmax(1), 1, generator=generator).flatten()
    return noisy


def from_file(path: str, count: int, classes: int) -> Tensor:
    """The labels in a file.

    Args:
        path: A `.npy` file of whole numbers, or an `.npz` file that calls them `labels`, in the
            order of the published training images.
        count: How many there must be.
        classes: How many classes there are.

    Returns:
        The labels, (count,).

    Raises:
        ValueError: If the file is missing, or holds something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"noise_file must be a file that exists, got {path!r}.")
    stored = np.load(path, allow_pickle=False)
    labels = np.asarray(stored["labels"] if isinstance(stored, np.lib.npyio.NpzFile) else stored)
    whole = np.issubdtype(labels.dtype, np.integer) and labels.shape == (count,)
    if not whole or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"noise_file must hold {count} whole numbers from 0 to {classes - 1}, got "
            f"{labels.dtype} of shape {labels.shape} in {path!r}."
        )
    return torch.as_tensor(labels.astype(np.int64))


def _check(rate: float, classes: int) -> None:
    """Raise a ValueError unless labels can be flipped at that rate."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}.")
    if classes < 2:
        raise ValueError(f"classes must be at least 2 to flip labels, got {classes}.")
