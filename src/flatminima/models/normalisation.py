"""What follows a convolution: batch normalisation, group normalisation, or nothing."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from torch import nn

__all__ = ["Norm", "check_norm", "normalisation"]

Norm = Literal["batch", "group", "none"]


def check_norm(norm: str, width: int) -> None:
    """Raise a ValueError unless there is such a normalisation for that width."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}.")
    if norm == "group" and width % 2:
        raise ValueError(f"width must be even with group normalisation, got {width}.")


def normalisation(norm: Norm, groups: int) -> Callable[[int], nn.Module]:
    """What makes a normalisation of some channels.

    Args:
        norm: `batch`, `group` (no state, no mixing of examples) or `none`.
        groups: How many groups `group` makes of them.

    Returns:
        A function of the number of channels.
    """
    if norm == "none":
        return lambda _: nn.Identity()
    return nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, groups)
