"""Where a tensor keeps its examples, and the same tensor with its groups in front."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Layout"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The axis that counts examples, and how: as (outer, examples, inner), flattened.

    Args:
        axis: The axis.
        outer: What varies slower than the examples along it: 1 for (batch * time), the time for
            (time * batch).
        examples: Examples in the batch.
        groups: Groups of examples, all of the same size.

    Example:
        >>> import torch
        >>> layout = Layout(axis=1, outer=1, examples=4, groups=2)
        >>> layout.grouped(torch.zeros(5, 4, 3)).shape
        torch.Size([2, 2, 5, 3])
    """

    axis: int
    outer: int
    examples: int
    groups: int

    @property
    def is_plain(self) -> bool:
        """Whether the examples come first, so that grouping copies nothing."""
        return self.axis == 0 and self.outer == 1

    def ordered(self, x: Tensor) -> Tensor:
        """The tensor with the rows of its examples in front, group after group."""
        if self.is_plain:
            return x
        x = x.movedim(self.axis, 0)
        if self.outer > 1:
            x = x.unflatten(0, (self.outer, self.examples, -1)).transpose(0, 1).flatten(0, 2)
        return x

    def restored(self, x: Tensor) -> Tensor:
        """The inverse of `ordered`."""
        if self.is_plain:
            return x
        if self.outer > 1:
            x = x.unflatten(0, (self.examples, self.outer, -1)).transpose(0, 1).flatten(0, 2)
        return x.movedim(0, self.axis)

    def grouped(self, x: Tensor) -> Tensor:
        """The tensor as (groups, rows of a group, the other axes)."""
        x = self.ordered(x)
        return x.reshape(self.groups, -1, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """The inverse of `grouped`."""
        return self.restored(x.flatten(0, 1))
