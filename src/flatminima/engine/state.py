"""What rules remember, as plain dictionaries that a weights-only load understands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from flatminima.vector import Vector

__all__ = ["packed", "tensors", "unpacked"]

Memory = Any  # tensors, vectors, numbers, batches, in dictionaries, lists and tuples


def packed(value: Memory) -> Memory:
    """The same with each vector as a dictionary of its tensors.

    Args:
        value: What a rule remembers.

    Returns:
        Tensors, numbers, and containers of them.

    Example:
        >>> packed({"mean": Vector([None])})
        {'mean': {'vector': [None]}}
    """
    if isinstance(value, Vector):
        return {"vector": list(value.parts)}
    return {key: packed(item) for key, item in value.items()} if isinstance(value, dict) else value


def unpacked(value: Memory, like: Sequence[Tensor]) -> Memory:
    """The inverse of `packed`, with each vector's tensors on the devices of the parameters.

    Args:
        value: What `packed` returned.
        like: The parameters.

    Returns:
        What the rule remembers.

    Example:
        >>> unpacked({"mean": {"vector": [None]}}, [Tensor()])["mean"].parts
        (None,)
    """
    if not isinstance(value, dict):
        return value
    if set(value) == {"vector"}:
        pairs = zip(value["vector"], like, strict=True)
        return Vector(None if part is None else part.to(param.device) for part, param in pairs)
    return {key: unpacked(item, like) for key, item in value.items()}


def tensors(value: Memory) -> Iterator[Tensor]:
    """Every tensor in it.

    Example:
        >>> len(list(tensors({"mean": Vector([None]), "batch": (Tensor(),)})))
        1
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Vector):
        yield from value.tensors
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)
