"""Convolutions in one, two and three dimensions, with stride, padding, dilation and groups.

With patches of the input as the columns of U_j and N = (examples) x (positions) of them:

    G_j = b_j U_j^T,     moved:  by patches,  c_j b_j (U_j^T V_j),  V_j the patches of the new input
                                 by weights,  a convolution with W + e_j, the groups of examples
                                              folded into groups of channels

Early layers have many positions and small weights: by weights. Late ones have few positions and
large weights: by patches.
"""

# Autograd functions have a context that torch gives no type to.
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flatminima.engine.batched.forms import Dense, Rows
from flatminima.engine.batched.layer import Layer, Moved, Pass, Tap, as_given, computed_in
from flatminima.engine.batched.layout import Layout

__all__ = ["Convolution", "Stencil", "convolution"]


@dataclass(frozen=True, kw_only=True)
class Stencil:
    """How a convolution reads its input: one number per dimension, and the groups of channels."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    channel_groups: int

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, folds: int = 1) -> Tensor:
        """The convolution, with `folds` times as many groups of channels."""
        dims = len(self.stride)
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, False, [0] * dims,
            self.channel_groups * folds,
        )  # fmt: skip

    def backward(
        self, d: Tensor, x: Tensor, weight: Tensor, folds: int, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of input and weight."""
        dx, dw, _ = torch.ops.aten.convolution_backward(
            d, x, weight, None, self.stride, self.padding, self.dilation, False,
            [0] * len(self.stride), self.channel_groups * folds, [*wanted, False],
        )  # fmt: skip
        return dx, dw

    def patches(self, x: Tensor, kernel: Sequence[int]) -> Tensor:
        """Every patch of the input as a row: (examples, positions, channels * kernel)."""
        if all(n == 1 for n in kernel) and not any(self.padding):
            steps = (slice(None), slice(None), *[slice(None, None, n) for n in self.stride])
            return x[steps].flatten(2).mT
        if len(kernel) == 2:  # one kernel there and one back, where the general form needs many
            options = (tuple(kernel), self.dilation, self.padding, self.stride)
            return functional.unfold(x, *options).mT
        x = functional.pad(x, [side for n in reversed(self.padding) for side in (n, n)])
        for axis, (n, stride, dilation) in enumerate(
            zip(kernel, self.stride, self.dilation, strict=True), start=2
        ):
            x = x.unfold(axis, dilation * (n - 1) + 1, stride)[..., ::dilation]
        dims = len(kernel)
        return x.movedim(1, dims + 1).flatten(dims + 1).flatten(1, dims)


class Convolution(Layer):
    """y = W * x + beta."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stencil: Stencil) -> None:
        self.params = (weight, bias)
        self.kernel = weight.shape[2:]
        self.stencil = stencil

    def plain(self, x: Tensor, *params: Tensor | None) -> Tensor:
        """W * x + beta."""
        weight, bias = params
        assert weight is not None
        return self.stencil.convolved(x, weight, bias)

    def taps(self, x: Tensor, b: Tensor, layout: Layout) -> tuple[Tap | None, ...]:
        """G_j = b_j U_j^T, from patches or from folded channels; and the sums of b_j."""
        weight, _ = self.params
        assert weight is not None
        x, groups = x.to(b.dtype), layout.groups

        def dense() -> Tensor:
            shape = torch.Size((groups * weight.shape[0], *weight.shape[1:]))
            like = b.new_empty(()).expand(shape)
            _, each = self.stencil.backward(
                _folded(b, groups), _folded(x, groups), like, groups, (False, True)
            )
            assert each is not None
            return each.view(groups, *weight.shape)

        def rows() -> Rows:
            left = b.flatten(2).mT.unflatten(0, (groups, -1)).flatten(1, 2)
            return Rows(left, self._patches(x, groups), weight.shape[0])

        places = range(3, b.dim() + 1)  # of the grouped b, (groups, rows, channels, places)
        shift = Tap(dense=lambda: layout.grouped(b).sum([1, *places]))
        n = len(x) // groups * prod(b.shape[2:])
        size = (n, weight.shape[0], weight[0].numel())
        separable = self.stencil.channel_groups == 1
        return Tap(dense=dense, rows=rows if separable else None, size=size), shift

    def moved(self, x: Tensor, layout: Layout, *params: Moved | None) -> Tensor:
        """(W + e_j) * x + beta + e'_j."""
        weight, bias = params
        assert weight is not None
        fixed = bias.value if bias is not None and bias.stays else None
        y = self._weighted(x, weight, fixed, layout.groups)
        if bias is None or bias.stays:
            return y
        each = bias.each()
        each = each.reshape(len(each), 1, -1, *[1] * len(self.kernel)).to(y.dtype)
        return layout.flat(layout.grouped(y) + each)

    def _weighted(self, x: Tensor, weight: Moved, bias: Tensor | None, groups: int) -> Tensor:
        """(W + e_j) * x + beta."""
        shift = None if bias is None else bias.view(-1, *[1] * len(self.kernel))
        if weight.apart:
            y = self.stencil.convolved(_folded(x, groups), weight.value.flatten(0, 1), None, groups)
            y = _unfolded(y, groups)
            return y if shift is None else y + shift.to(y.dtype)
        if isinstance(weight.by, Dense):
            x = x.to(computed_in(x))
            y = _PerGroup.apply(x, weight.value, weight.by, self.stencil)
            return y if shift is None else y + shift.to(y.dtype)
        y = self.stencil.convolved(x, weight.value, bias)
        patches = self._patches(x, groups)
        for rows in weight.rows:
            e = rows.applied(patches).to(y.dtype)
            y = y + e.unflatten(1, (-1, prod(y.shape[2:]))).flatten(0, 1).mT.view_as(y)
        return y

    def _patches(self, x: Tensor, groups: int) -> Tensor:
        patches = self.stencil.patches(x, self.kernel)
        return patches.unflatten(0, (groups, -1)).flatten(1, 2)


class _PerGroup(torch.autograd.Function):
    """(W + e_j) * x for the groups folded into channels; the gradient of W is the ordinary one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, e: Dense, stencil: Stencil) -> Tensor:  # noqa: ANN401
        each = e.added_to(weight).to(x.dtype).flatten(0, 1)
        groups = len(e.each)
        ctx.save_for_backward(x, weight, each)
        ctx.stencil, ctx.groups = stencil, groups
        with as_given(x):
            return _unfolded(stencil.convolved(_folded(x, groups), each, None, groups), groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, each = ctx.saved_tensors
        groups, (d,) = ctx.groups, grads
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx, _ = ctx.stencil.backward(
                _folded(d, groups), _folded(x, groups), each, groups, (True, False)
            )
            dx = None if dx is None else _unfolded(dx, groups)
        if ctx.needs_input_grad[1]:
            _, dw = ctx.stencil.backward(d, x, weight.to(x.dtype), 1, (False, True))
            dw = None if dw is None else dw.to(weight.dtype)
        return dx, dw, None, None


def _folded(x: Tensor, groups: int) -> Tensor:
    """(groups * rows, channels, ...) as (rows, groups * channels, ...)."""
    return x.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)


def _unfolded(x: Tensor, groups: int) -> Tensor:
    """The inverse of `_folded`."""
    return x.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)


def convolution(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv1d`, `conv2d` and `conv3d`."""
    dims = weight.dim() - 2
    if input.dim() != dims + 2:
        run.refuse(f"convolve inputs with examples along axis 0, got shape {tuple(input.shape)}")
    dilations = _each(dilation, dims)
    if isinstance(padding, str):
        input, padding = _padded(input, padding, weight.shape[2:], dilations)
    stencil = Stencil(
        stride=_each(stride, dims),
        padding=_each(padding, dims),
        dilation=dilations,
        channel_groups=groups,
    )
    return run.through(Convolution(weight, bias, stencil), input)


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _padded(
    x: Tensor, padding: str, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, int | Sequence[int]]:
    """The input and the numbers that stand for "valid" or "same"."""
    if padding == "valid":
        return x, 0
    totals = [step * (n - 1) for n, step in zip(kernel, dilation, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, [total // 2 for total in totals]
    sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return functional.pad(x, sides), 0
