"""Groups of `m` examples, each with a perturbation of its own (m-SAM): how a batch is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["examples", "groups", "leaves", "picked"]


def examples(batch: tuple[Any, ...]) -> int:
    """The number of examples of a batch: the length of the first tensor in it that has one.

    Args:
        batch: What `loss_fn` takes.

    Returns:
        The number of examples.

    Raises:
        ValueError: If no tensor of the batch has a first axis.

    Example:
        >>> import torch
        >>> examples(({"x": torch.zeros(3, 2)}, torch.zeros(3)))
        3
    """
    for item in leaves(batch):
        if isinstance(item, Tensor) and item.dim() > 0:
            return item.shape[0]
    raise ValueError(
        "batch must hold a tensor with examples along its first axis, got none; leave m out"
    )


def groups(batch: tuple[Any, ...], m: int) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Cut a batch into consecutive groups of `m` examples; the last one may be smaller.

    Tensors as long as the batch are cut, also inside lists, tuples and dictionaries; anything else
    is handed to every group as it is.

    Args:
        batch: What `loss_fn` takes.
        m: Examples per group.

    Yields:
        A group, and the number of its examples.

    Example:
        >>> import torch
        >>> [(group[0].tolist(), size) for group, size in groups((torch.arange(3),), 2)]
        [([0, 1], 2), ([2], 1)]
    """
    total = examples(batch)
    if 0 < total <= m:
        yield batch, total
        return
    for start in range(0, total, m):
        stop = min(start + m, total)
        yield picked(batch, slice(start, stop)), stop - start


def picked(batch: tuple[Any, ...], rows: slice | Tensor) -> tuple[Any, ...]:
    """Some examples of a batch, cut as `groups` cuts.

    Args:
        batch: What `loss_fn` takes.
        rows: Their numbers, or a slice, whose part shares the batch's memory.

    Returns:
        The smaller batch.

    Example:
        >>> import torch
        >>> picked((torch.arange(3), "as it is"), torch.tensor([0, 2]))
        (tensor([0, 2]), 'as it is')
    """
    total = examples(batch)
    return tuple(_cut(item, rows, total) for item in batch)


def _cut(item: Any, rows: slice | Tensor, total: int) -> Any:  # noqa: ANN401 - a batch is whatever the loss takes
    if isinstance(item, Tensor):
        rows = rows.to(item.device) if isinstance(rows, Tensor) else rows
        return item[rows] if item.dim() > 0 and item.shape[0] == total else item
    if isinstance(item, Mapping):
        parts = {name: _cut(value, rows, total) for name, value in item.items()}
        kind: Any = type(item)  # a tokenizer's batch is no dict
        return parts if isinstance(item, dict) else kind(parts)
    if isinstance(item, list | tuple):
        parts = [_cut(value, rows, total) for value in item]
        make = getattr(item, "_make", type(item))  # a named tuple's, where it is one
        return make(parts)
    return item


def leaves(item: Any) -> Iterator[Any]:  # noqa: ANN401 - a batch is whatever the loss takes
    """What a batch holds, without the lists, tuples and dictionaries around it.

    Args:
        item: A batch, or something in it.

    Yields:
        Its tensors, and whatever else there is.

    Example:
        >>> list(leaves(({"x": 1}, [2, 3])))
        [1, 2, 3]
    """
    if isinstance(item, Mapping):
        item = list(item.values())
    if isinstance(item, list | tuple):
        for value in item:
            yield from leaves(value)
    else:
        yield item
