"""What a rule keeps from step to step, never spoilt by a gradient that is not finite.

A vector in the memory is replaced, and not written to: the engine takes a step that raised back by
keeping the old one.
"""

from __future__ import annotations

from typing import Any

import torch

from flatminima.vector import Part, Vector

__all__ = ["averaged", "remember"]


def remember(memory: dict[str, Any], name: str, new: Vector) -> None:
    """Keep `new` under `name`; what was there before stays if `new` is not finite.

    Args:
        memory: The rule's memory.
        name: Where to keep it.
        new: The vector. Where there is none before it and it is not finite, zeros are kept.

    Decided on the device, without asking the host.

    Example:
        >>> memory = {}
        >>> remember(memory, "g", Vector([torch.tensor([1.0])]))
        >>> remember(memory, "g", Vector([torch.tensor([torch.inf])]))
        >>> memory["g"].parts
        (tensor([1.]),)
    """
    _ = new.parts  # multiplied out now, so that a resumed run rounds alike
    finite = new.norm().isfinite()
    if finite.device.type == "cpu" and not torch.compiler.is_compiling() and bool(finite):
        memory[name] = new  # a look that costs nothing, and mostly nothing else to do
        return
    before = memory.get(name, Vector([None] * len(new)))
    memory[name] = new.map(lambda now, old: torch.where(finite.to(now.device), now, old), before)


def averaged(memory: dict[str, Any], name: str, new: Vector, decay: float) -> Vector:
    """The running mean of what was seen, with `new` in it, kept under `name`.

        m <- decay m + (1 - decay) new;   where there is no m yet, m = new

    Args:
        memory: The rule's memory.
        name: Where the mean is kept.
        new: What is seen now; the mean stays as it is for parameters that it leaves out.
        decay: The weight of the past.

    Returns:
        The mean, not finite if `new` is not; what is kept is then the one before.

    Cost: two passes over the coordinates.

    Example:
        >>> memory = {}
        >>> for number in (1.0, 2.0):
        ...     mean = averaged(memory, "m", Vector([torch.tensor([number])]), 0.9)
        >>> mean.parts
        (tensor([1.1000]),)
    """
    before = memory.get(name, Vector([None] * len(new)))
    rows = zip(before.parts, new.parts, strict=True)
    mean = Vector(_mixed(old, now, 1.0 - decay) for old, now in rows)
    remember(memory, name, mean)
    return mean


def _mixed(old: Part, now: Part, share: float) -> Part:
    if old is None or now is None:
        return now if old is None else old
    return torch.lerp(old, now, share)
