"""Labels made wrong on purpose, so that memorisation can be measured."""

import torch
from torch import Tensor

__all__ = ["symmetric"]


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
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}.")
    if classes < 2:
        raise ValueError(f"classes must be at least 2 to flip labels, got {classes}.")
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]
    shift = torch.randint(1, classes, (len(flipped),), generator=generator)
    noisy = labels.clone()
    noisy[flipped] = (labels[flipped] + shift) % classes
    return noisy
