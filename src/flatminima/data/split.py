"""Cutting examples into parts that hold the classes in equal proportions."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["stratified"]


def stratified(labels: Tensor, counts: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Disjoint sets of examples, each with the classes in the proportions of the whole.

    Every class is shuffled and spread evenly over [0, 1]; the parts are consecutive pieces of
    all examples in that order. So the counts are exact, and a part holds of each class what its
    proportion asks for, up to one example at either end.

    Args:
        labels: The class of each example, (n,).
        counts: How many examples each part holds; together at most n.
        seed: Decides which examples go where.

    Returns:
        For each part the positions of its examples, ascending.

    Raises:
        ValueError: If a count is negative or the counts exceed the number of examples.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> [labels[part].tolist() for part in stratified(labels, (4, 2), seed=0)]
        [[0, 0, 1, 1], [0, 1]]
    """
    if min(counts, default=0) < 0:
        raise ValueError(f"counts must be >= 0, got {list(counts)}.")
    if sum(counts) > len(labels):
        raise ValueError(
            f"counts must add up to at most the number of examples {len(labels)}, "
            f"got {' + '.join(map(str, counts))} = {sum(counts)}."
        )
    generator = torch.Generator().manual_seed(seed)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        of_class = torch.nonzero(labels == label).flatten()
        shuffled = of_class[torch.randperm(len(of_class), generator=generator)]
        ranks = torch.arange(len(of_class), dtype=torch.float64)
        place[shuffled] = (ranks + 0.5) / len(of_class)
    order = torch.argsort(place, stable=True)[: sum(counts)]
    return tuple(part.sort().values for part in order.split(list(counts)))
