"""What owns the passes itself is refused: DeepSpeed's engine, and pipelines.

A step here is two passes with the weights elsewhere in between. DeepSpeed's engine owns backward,
reduction and step together (through Accelerate its `backward` makes the step already), and a
pipeline's schedule owns the passes of all its micro-batches: nothing can come between, and trying
would lose gradients without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

__all__ = ["check_owners"]

OWNERS = {
    "deepspeed.runtime": "DeepSpeed",
    "accelerate.utils.deepspeed": "DeepSpeed",
    "torch.distributed.pipelining": "a pipeline",
}


def check_owners(name: str, things: Iterable[Any]) -> None:
    """Refuse what belongs to a library that owns the passes.

    Args:
        name: What it was handed over as.
        things: Models with their modules, optimizers, functions, parameters.

    Raises:
        TypeError: If DeepSpeed or a pipeline has a hand in it.
    """
    for thing in things:
        owner = _owner(thing)
        if owner is not None:
            raise TypeError(
                f"{name} must leave each pass to the loop, got {type(thing).__name__} of {owner}, "
                "which owns backward and step together, so that no second pass can come between; "
                "use DistributedDataParallel or torch's fully_shard"
            )


def _owner(thing: Any) -> str | None:  # noqa: ANN401 - anything that somebody may hand over
    if hasattr(thing, "ds_id"):  # a parameter that ZeRO has cut
        return "DeepSpeed"
    bound = getattr(thing, "__self__", None)
    if getattr(bound, "deepspeed_engine_wrapped", None) is not None:  # accelerator.backward
        return "DeepSpeed"
    return _maker(type(thing)) or _maker(type(bound))


@cache
def _maker(kind: type) -> str | None:
    """Who made a class, or one that it is made from."""
    places = [f"{base.__module__}." for base in kind.__mro__]
    return next(
        (
            owner
            for place in places
            for prefix, owner in OWNERS.items()
            if place.startswith(f"{prefix}.")
        ),
        None,
    )
