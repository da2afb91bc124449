"""Groups of `m` examples, each with a perturbation of its own (m-SAM): how a batch is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["examples", "groups", "part"]


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
    for item in _leaves(batch):
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
    for start in range(0, total, m):
        stop = min(start + m, total)
        yield part(batch, start, stop), stop - start


def part(batch: tuple[Any, ...], start: int, stop: int) -> tuple[Any, ...]:
    """The examples `start` to `stop` of a batch, cut as by `groups`.

    Args:
        batch: What `loss_fn` takes.
        start: The first example.
        stop: The one after the last.

    Returns:
        The part, which shares the batch's memory.

    Example:
        >>> import torch
        >>> part((torch.arange(5), "label"), 1, 3)
        (tensor([1, 2]), 'label')
    """
    total = examples(batch)
    return tuple(_cut(item, start, stop, total) for item in batch)


def _cut(item: Any, start: int, stop: int, total: int) -> Any:  # noqa: ANN401 - a batch is whatever the loss takes
    if isinstance(item, Tensor):
        return item[start:stop] if item.dim() > 0 and item.shape[0] == total else item
    if isinstance(item, Mapping):
        parts = {name: _cut(value, start, stop, total) for name, value in item.items()}
        kind: Any = type(item)  # a tokenizer's batch is no dict
        return parts if isinstance(item, dict) else kind(parts)
    if isinstance(item, list | tuple):
        parts = [_cut(value, start, stop, total) for value in item]
        make = getattr(item, "_make", type(item))  # a named tuple's, where it is one
        return make(parts)
    return item


def _leaves(item: Any) -> Iterator[Any]:  # noqa: ANN401 - a batch is whatever the loss takes
    if isinstance(item, Mapping):
        item = list(item.values())
    if isinstance(item, list | tuple):
        for value in item:
            yield from _leaves(value)
    else:
        yield item
