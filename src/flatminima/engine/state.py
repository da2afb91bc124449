"""What rules remember, as plain dictionaries that a weights-only load understands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flatminima.vector import Vector

__all__ = ["check_state", "copied", "packed", "tensors", "unpacked"]

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
    return _each(packed, value)


def unpacked(value: Memory, like: Sequence[Tensor]) -> Memory:
    """The inverse of `packed`, with each vector's tensors on the devices of the parameters.

    Args:
        value: What `packed` returned.
        like: The parameters.

    Returns:
        What the rule remembers.

    Raises:
        ValueError: If a vector is not shaped like the parameters.

    Example:
        >>> unpacked({"mean": {"vector": [None]}}, [Tensor()])["mean"].parts
        (None,)
    """
    if isinstance(value, dict) and set(value) == {"vector"}:
        vector = Vector(value["vector"])
        vector = Vector(
            None if part is None else part.to(param.device)
            for part, param in zip(vector.parts, like, strict=False)
        )
        if len(value["vector"]) != len(like) or not vector.fits(like):
            raise ValueError(f"state must be of a model with the same parameters, got {vector}")
        return vector
    return _each(lambda item: unpacked(item, like), value)


def copied(value: Memory) -> Memory:
    """The same in containers of its own; tensors and vectors are not copied, since none changes.

    Args:
        value: What a rule remembers.

    Returns:
        The same.
    """
    return _each(copied, value)


def check_state(state: object, fields: Sequence[str], version: int) -> None:
    """Refuse what is not a state, before anything of it is taken over.

    Args:
        state: The candidate.
        fields: What it must hold.
        version: The latest version that is understood.

    Raises:
        ValueError: If it is not one.
    """
    if not isinstance(state, dict) or any(name not in state for name in fields):
        missing = [name for name in fields if not isinstance(state, dict) or name not in state]
        raise ValueError(
            "state must be one that SharpnessAware.state_dict returned, "
            f"got one without {', '.join(missing)}"
        )
    if state["version"] > version:
        raise ValueError(
            f"state must be of version {version} or earlier, got {state['version']}; "
            "update flatminima"
        )
    random, like = state["generator"], torch.Generator().get_state()
    if not isinstance(state["step"], int) or state["step"] < 0:
        raise ValueError(f"state must hold a step >= 0, got {state['step']!r}")
    if not isinstance(random, Tensor) or (random.shape, random.dtype) != (like.shape, like.dtype):
        raise ValueError(f"state must hold a generator's state, got {random!r}")


def _each(change: Callable[[Memory], Memory], value: Memory) -> Memory:
    """`change` applied inside dictionaries, lists and tuples; anything else as it is."""
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        parts = [change(item) for item in value]
        make = getattr(value, "_make", type(value))  # a named tuple's, where it is one
        return make(parts)
    return value


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
