"""Parameters that are multiplied or added coordinate by coordinate: y = x * gamma + beta.

    g_gamma = sum of b * x over the group,  g_beta = sum of b,   moved:  x (gamma + e) + beta + e'

The affine part of every normalisation is one of these, with x the normalised input; so are
positional tables, layer scales, class tokens and biases that stand alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flatminima.engine.batched.layer import Layer, Moved, Pass, Tap
from flatminima.engine.batched.layout import Layout

__all__ = [
    "Affine",
    "add",
    "add_in_place",
    "expand",
    "in_place",
    "multiply",
    "subtract",
    "subtract_reversed",
]


class Affine(Layer):
    """y = x * gamma + beta.

    Args:
        scale: gamma, or `None` for 1.
        shift: beta, or `None` for 0.
        shape: The shape of `y`, to which all of them are broadcast.
        channels: Whether the parameters run along axis 1, as in convolutional nets, and not along
            the last axes.
    """

    def __init__(
        self,
        scale: Tensor | None,
        shift: Tensor | None,
        *,
        shape: torch.Size,
        channels: bool = False,
    ) -> None:
        self.params = (scale, shift)
        self.shape = shape
        self.channels = channels

    def plain(self, x: Tensor, *params: Tensor | None) -> Tensor:
        """X * gamma + beta."""
        scale, shift = (
            None if part is None else part.reshape(self._view(part.shape)) for part in params
        )
        return _affine(x, scale, shift)

    def taps(self, x: Tensor, b: Tensor, layout: Layout) -> tuple[Tap | None, ...]:
        """The sums of b * x and of b over each group."""
        scale, shift = self.params
        return (
            None if scale is None else Tap(dense=lambda: self._sums(b * x, scale.shape, layout)),
            None if shift is None else Tap(dense=lambda: self._sums(b, shift.shape, layout)),
        )

    def moved(self, x: Tensor, layout: Layout, *params: Moved | None) -> Tensor:
        """X * (gamma + e_j) + beta + e'_j."""
        scale, shift = (self._beside(part, layout) for part in params)
        return layout.flat(_affine(layout.grouped(x.expand(self.shape)), scale, shift))

    def keeps(self, moves: Sequence[bool]) -> bool:
        """Only a scale needs the input."""
        return moves[0]

    def fits(self, layout: Layout) -> bool:
        """Whether no parameter has a length along the axis of the examples."""
        views = [self._view(part.shape) for part in self.params if part is not None]
        return all(view[layout.axis] == 1 for view in views)

    def _view(self, shape: torch.Size) -> list[int]:
        """A parameter's shape with an axis for each of y's."""
        if not self.channels:
            return [1] * (len(self.shape) - len(shape)) + list(shape)
        return [1, *shape, *[1] * (len(self.shape) - 2)]

    def _rest(self, shape: torch.Size, layout: Layout) -> list[int]:
        """The same without the axis of the examples, as `Layout.grouped` has the other axes."""
        view = self._view(shape)
        return view[: layout.axis] + view[layout.axis + 1 :]

    def _sums(self, product: Tensor, shape: torch.Size, layout: Layout) -> Tensor:
        """Sums over each group, and over every axis along which the parameter is constant."""
        axes = [axis + 2 for axis, n in enumerate(self._rest(shape, layout)) if n == 1]
        each = layout.grouped(product).sum([1, *axes], dtype=product.dtype)
        return each.reshape(-1, *shape)

    def _beside(self, param: Moved | None, layout: Layout) -> Tensor | None:
        """A parameter shaped to meet a grouped tensor, (groups, 1, ...)."""
        if param is None:
            return None
        if param.stays:
            return param.value.reshape(self._rest(param.value.shape, layout))
        each = param.each()
        return each.reshape(len(each), 1, *self._rest(each.shape[1:], layout))


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is None:
        return x if shift is None else x + shift
    if shift is None:
        return x * scale
    if scale.requires_grad:  # going backward, addcmul would make x times 1 first
        return (x * scale).add_(shift)
    return torch.addcmul(shift, x, scale)


# ------------------------------------------------------------------------------ functions of torch


def add(run: Pass, function: Any, x: Any, other: Any, *, alpha: float = 1) -> Tensor:  # noqa: ANN401
    """`torch.add`, either way round."""
    if alpha != 1:
        run.refuse(f"add parameters as they are, got alpha={alpha}")
    return _one_moves(run, x, other, scaled=False)


def subtract(run: Pass, function: Any, x: Any, other: Any, *, alpha: float = 1) -> Tensor:  # noqa: ANN401
    """`torch.sub`: a difference is a sum, up to signs."""
    if alpha != 1:
        run.refuse(f"subtract parameters as they are, got alpha={alpha}")
    if run.moves(other):
        return -_one_moves(run, -x, other, scaled=False)
    return _one_moves(run, x, -other, scaled=False)


def subtract_reversed(run: Pass, function: Any, x: Any, other: Any) -> Tensor:  # noqa: ANN401
    """`Tensor.__rsub__`: other - x."""
    return subtract(run, function, other, x)


def multiply(run: Pass, function: Any, x: Any, other: Any) -> Tensor:  # noqa: ANN401
    """`torch.mul`, either way round."""
    return _one_moves(run, x, other, scaled=True)


def in_place(out_of_place: Any) -> Any:  # noqa: ANN401 - functions of torch
    """The same written into its first argument."""

    def written(run: Pass, function: Any, x: Tensor, other: Any, **options: Any) -> Tensor:  # noqa: ANN401
        if run.moves(x):
            run.refuse(f"leave parameters as they are, got {function.__name__} on one")
        # A copy: what autograd keeps for the product must not be overwritten by its result.
        return x.copy_(out_of_place(run, function, x.clone(), other, **options))

    return written


def add_in_place(run: Pass, function: Any, x: Any, other: Any, **options: Any) -> Tensor:  # noqa: ANN401
    """`Tensor.add_`; what counts batches counts every group as one, as the loop has it."""
    if run.moves(x, other):
        return in_place(add)(run, function, x, other, **options)
    if x.dim() == 0 and x.dtype == torch.int64 and not isinstance(other, Tensor):
        return function(x, other * run.groups, **options)
    return function(x, other, **options)


def expand(run: Pass, function: Any, x: Tensor, *sizes: Any) -> Tensor:  # noqa: ANN401
    """`Tensor.expand` of a parameter along the examples: 0 + theta."""
    shape = function(x, *sizes).shape
    return run.through(Affine(None, x, shape=shape), x.new_zeros(()).expand(shape))


def _one_moves(run: Pass, x: Any, other: Any, *, scaled: bool) -> Tensor:  # noqa: ANN401
    param, x = (other, x) if run.moves(other) else (x, other)
    if not isinstance(x, Tensor):  # a number and a parameter: no example in sight
        x = torch.as_tensor(x, dtype=param.dtype, device=param.device)
    shape = torch.broadcast_shapes(x.shape, param.shape)
    pair = (param, None) if scaled else (None, param)
    return run.through(Affine(*pair, shape=shape), x)
