"""Fully connected layers: Y_j = X_j W^T + 1 beta^T, with N rows in a group.

    G_j = b_j^T A_j,      moved:  X_j (W + e_j)^T  =  X_j W^T + c_j (X_j A_j^T) b_j

The right-hand form never has G_j: with one row per group it costs two dot products.
"""

# Autograd functions have a context that torch gives no type to.
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flatminima.engine.batched.forms import Dense, Rows, scores
from flatminima.engine.batched.layer import Layer, Moved, Pass, Tap, as_given, computed_in
from flatminima.engine.batched.layout import Layout

__all__ = ["Linear", "linear", "matmul"]


class Linear(Layer):
    """y = x W^T + beta, over the last of the `dims` axes of x."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dims: int) -> None:
        self.params = (weight, bias)
        self.dims = dims

    def plain(self, x: Tensor, *params: Tensor | None) -> Tensor:
        """X W^T + beta."""
        weight, bias = params
        assert weight is not None
        return functional.linear(x, weight, bias)

    def fits(self, layout: Layout) -> bool:
        """Any axis but the last may count the examples."""
        return layout.axis < self.dims - 1

    def taps(self, x: Tensor, b: Tensor, layout: Layout) -> tuple[Tap | None, ...]:
        """G_j = b_j^T A_j, and the sums of b_j."""
        left = layout.grouped(b).flatten(1, -2)
        right = layout.grouped(x).flatten(1, -2).to(b.dtype)
        rows = Rows(left, right, left.shape[2])
        size = (left.shape[1], left.shape[2], right.shape[2])
        alone = left.shape[1] == 1  # then the sum over the rows is the row
        sums = Tap(dense=lambda: left[:, 0] if alone else left.sum(1))
        return Tap(dense=rows.dense, rows=lambda: rows, size=size), sums

    def moved(self, x: Tensor, layout: Layout, *params: Moved | None) -> Tensor:
        """X_j (W + e_j)^T + beta + e'_j."""
        weight, bias = params
        assert weight is not None
        inputs = layout.grouped(x)
        known = None
        if self.known is not None:  # one row of it is one row of the input
            known = layout.grouped(self.known).flatten(1, -2)
        y = _weighted(inputs.flatten(1, -2), weight, bias, known)
        return layout.flat(y.view(*inputs.shape[:-1], -1))


def _weighted(x: Tensor, weight: Moved, bias: Moved | None, known: Tensor | None) -> Tensor:
    """X_j (W + e_j)^T + beta + e'_j, (groups, N, p); `known` is X W^T + beta."""
    shift = None if bias is None else bias.value
    if isinstance(weight.by, tuple) and not any(rows.is_one_hot for rows in weight.rows):
        (rows,) = weight.rows
        if bias is not None and bias.apart:
            shift = known = None
        e = None if bias is None or bias.apart else bias.by
        x = x.to(computed_in(x))
        y = _LowRank.apply(x, weight.value, shift, rows.left, rows.right, rows.c, known, e)
    else:
        if weight.apart:
            y = torch.bmm(x, weight.value.mT)
        elif isinstance(weight.by, Dense):
            y = _PerGroup.apply(x.to(computed_in(x)), weight.value, weight.by)
        else:
            y = functional.linear(x, weight.value)
            for rows in weight.rows:
                y = y + rows.applied(x).to(y.dtype)
        if bias is not None and not bias.apart:
            each = bias.value if bias.stays else bias.each()[:, None]
            return y + each.to(y.dtype)
    if bias is not None and bias.apart:
        return y + bias.value[:, None].to(y.dtype)
    return y


class _PerGroup(torch.autograd.Function):
    """X_j (W + e_j)^T.

    Autograd would form the gradient of W in every group and add them up; their sum is one product
    of the stacked rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, e: Dense) -> Tensor:  # noqa: ANN401
        each = e.added_to(weight).to(x.dtype)
        ctx.save_for_backward(x, each)
        ctx.dtype = weight.dtype
        with as_given(x):
            return torch.bmm(x, each.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, each = ctx.saved_tensors
        (d,) = grads
        dx = torch.bmm(d, each) if ctx.needs_input_grad[0] else None
        return dx, _summed(ctx, d, x, ctx.dtype), None


class _LowRank(torch.autograd.Function):
    """X_j W^T + beta + c_j (X_j R_j^T) L_j, for e_j = c_j L_j^T R_j that is never formed.

    Autograd would keep the scores X_j R_j^T, which the backward pass does not need.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        c: Tensor | None,
        known: Tensor | None,
        e: Dense | None,
    ) -> Tensor:
        left, right, cast = left.to(x.dtype), right.to(x.dtype), weight.to(x.dtype)
        c = None if c is None else c.to(x.dtype)[:, None, None]
        ctx.save_for_backward(x, cast, left, right, c)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        with as_given(x):
            y = x.new_empty(*x.shape[:2], len(weight))  # no view: what follows may work in place
            if known is None:
                _product(x.flatten(0, 1), cast.mT, bias, y.flatten(0, 1))
            _plus_product(y if known is None else known, x, right, left, c, y)
            return y if e is None else e.added_in_place(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, left, right, c = ctx.saved_tensors
        (d,) = grads
        dx = shift = None
        if ctx.needs_input_grad[0]:
            dx = (d.flatten(0, 1) @ weight).view_as(x)
            _plus_product(dx, d, left, right, c, dx)
        if ctx.needs_input_grad[2]:
            shift = d.flatten(0, 1).sum(0).to(ctx.dtypes[1])
        return dx, _summed(ctx, d, x, ctx.dtypes[0]), shift, None, None, None, None, None


def _product(x: Tensor, w: Tensor, shift: Tensor | None, out: Tensor) -> None:
    """X W + shift."""
    if shift is None:
        torch.mm(x, w, out=out)
    else:
        torch.addmm(shift.to(x.dtype), x, w, out=out)


def _plus_product(
    y: Tensor, x: Tensor, inner: Tensor, outer: Tensor, c: Tensor | None, out: Tensor
) -> None:
    """y_j + c_j (x_j inner_j^T) outer_j."""
    add = torch.addcmul if inner.shape[1] == 1 else torch.baddbmm
    add(y, scores(x, inner, c), outer, out=out)


def _summed(ctx: Any, d: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor | None:  # noqa: ANN401
    """The gradient of a weight that all groups share, if it is wanted."""
    if not ctx.needs_input_grad[1]:
        return None
    return (d.flatten(0, 1).mT @ x.flatten(0, 1)).to(dtype)


def linear(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.linear`."""
    return run.through(Linear(weight, bias, input.dim()), input)


def matmul(run: Pass, function: Any, x: Tensor, other: Tensor) -> Tensor:  # noqa: ANN401
    """`x @ W` for a matrix W of parameters: a linear layer with its transpose."""
    if run.moves(x) and not run.moves(other):
        if x.dim() != 2 or other.dim() < 2:
            run.refuse(f"multiply by matrices, got shapes {tuple(x.shape)}, {tuple(other.shape)}")
        return linear(run, function, other.mT, x).mT
    if other.dim() != 2 or x.dim() < 2:
        run.refuse(f"multiply by matrices, got shapes {tuple(x.shape)} and {tuple(other.shape)}")
    return linear(run, function, x, run.call(Tensor.t, other))
