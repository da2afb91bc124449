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
from flatminima.vector import has_value

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
        left = _by_group(layout.ordered(b), layout.groups)
        right = _by_group(layout.ordered(x), layout.groups).to(b.dtype)
        rows = Rows(left, right, left.shape[2], mark=(mark := object()))
        size = (left.shape[1], left.shape[2], right.shape[2])
        alone = left.shape[1] == 1  # then the sum over the rows is the row
        sums = Tap(dense=lambda: left[:, 0] if alone else left.sum(1), mark=mark)
        return Tap(dense=rows.dense, rows=lambda: rows, size=size), sums

    def moved(self, x: Tensor, layout: Layout, *params: Moved | None) -> Tensor:
        """X_j (W + e_j)^T + beta + e'_j."""
        weight, bias = params
        assert weight is not None
        inputs = layout.ordered(x)
        known = None
        if self.known is not None:  # one row of it is one row of the input
            known = layout.ordered(self.known).flatten(0, -2)
        y = _weighted(inputs.flatten(0, -2), layout.groups, weight, bias, known)
        return layout.restored(y if self.dims == 2 else y.unflatten(0, inputs.shape[:-1]))


def _by_group(x: Tensor, groups: int) -> Tensor:
    """Rows, group after group, as (groups, N, the last axis)."""
    return x.reshape(groups, -1, x.shape[-1])


def _weighted(
    x: Tensor, groups: int, weight: Moved, bias: Moved | None, known: Tensor | None
) -> Tensor:
    """X_j (W + e_j)^T + beta + e'_j, (groups * N, p); `known` is X W^T + beta."""
    if isinstance(weight.by, tuple) and not any(rows.is_one_hot for rows in weight.rows):
        (rows,) = weight.rows
        x = x.to(computed_in(x))
        # Flattened, since a traced result has an axis of groups; any other is flat already.
        if bias is not None and bias.apart:
            y = _LowRank.apply(x, weight.value, None, rows, None, None).flatten(0, -2)
            return _plus_each(y, groups, bias.value)
        shift, e = (None, None) if bias is None else (bias.value, bias.by)
        return _LowRank.apply(x, weight.value, shift, rows, known, e).flatten(0, -2)
    if weight.apart:
        y = torch.bmm(_by_group(x, groups), weight.value.mT).flatten(0, 1)
    elif isinstance(weight.by, Dense):
        y = _PerGroup.apply(x.to(computed_in(x)), weight.value, weight.by)
    else:
        y = functional.linear(x, weight.value)
        for rows in weight.rows:
            y = y + rows.applied(_by_group(x, groups)).flatten(0, 1).to(y.dtype)
    if bias is None:
        return y
    return y + bias.value.to(y.dtype) if bias.stays else _plus_each(y, groups, bias.each())


def _plus_each(y: Tensor, groups: int, each: Tensor) -> Tensor:
    """Every group's own bias, (groups, p), added to its rows."""
    return (_by_group(y, groups) + each[:, None].to(y.dtype)).flatten(0, 1)


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
        groups, p, _ = each.shape
        y = x.new_empty(x.shape[0], p)  # no view: what follows may work in place
        with as_given(x):
            torch.bmm(_by_group(x, groups), each.mT, out=_by_group(y, groups))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, each = ctx.saved_tensors
        (d,) = grads
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.bmm(_by_group(d, each.shape[0]), each).flatten(0, 1)
        return dx, _summed(ctx, d, x, ctx.dtype), None


class _LowRank(torch.autograd.Function):
    """X_j W^T + beta + e'_j + c_j (X_j R_j^T) L_j, for e_j = c_j L_j^T R_j that is never formed.

    Autograd would keep the scores X_j R_j^T, which the backward pass does not need.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Rows,
        known: Tensor | None,
        e: Dense | None,
    ) -> Tensor:
        left, right, cast = rows.left.to(x.dtype), rows.right.to(x.dtype), weight.to(x.dtype)
        c = None if rows.c is None else rows.c.to(x.dtype)[:, None, None]
        ctx.save_for_backward(x, cast, left, right, c)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        groups, carried = len(left), e is not None and rows.carries(e)
        shift = None if bias is None else bias.to(x.dtype)
        with as_given(x):
            if not has_value(x):  # a compiler has sums done by whatever comes next
                y = _plus_product(x @ cast.mT, x, right, left, c, plus_one=carried)
                y = y if shift is None else y + shift
            elif known is not None:
                y = torch.empty_like(known)  # no view: what follows may work in place
                _plus_product(known, x, right, left, c, out=y, plus_one=carried)
            else:
                y = x @ cast.mT if shift is None else torch.addmm(shift, x, cast.mT)
                _plus_product(y, x, right, left, c, out=y, plus_one=carried)
            if e is not None and not carried:
                e.added_in_place(_by_group(y, groups))
            return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, left, right, c = ctx.saved_tensors
        d = grads[0].flatten(0, -2)
        dx = shift = None
        if ctx.needs_input_grad[0]:
            dx = d @ weight
            out = dx if has_value(dx) else None
            dx = _plus_product(dx, d, left, right, c, out=out).flatten(0, -2)
        if ctx.needs_input_grad[2]:
            shift = d.sum(0).to(ctx.dtypes[1])
        return dx, _summed(ctx, d, x, ctx.dtypes[0]), shift, None, None, None


def _plus_product(
    y: Tensor,
    x: Tensor,
    inner: Tensor,
    outer: Tensor,
    c: Tensor | None,
    *,
    out: Tensor | None = None,
    plus_one: bool = False,
) -> Tensor:
    """y_j + c_j (x_j inner_j^T) outer_j, or with 1 added to the product in the parentheses."""
    groups, n, _ = inner.shape
    there = _by_group(y, groups)
    found = scores(_by_group(x, groups), inner, c, plus_one=plus_one)
    if out is None:  # three axes: a compiler makes addmm, with a copy, of a product plus a matrix
        return there + (found * outer if n == 1 else torch.bmm(found, outer))
    add = torch.addcmul if n == 1 else torch.baddbmm
    add(there, found, outer, out=there if out is y else _by_group(out, groups))
    return out


def _summed(ctx: Any, d: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor | None:  # noqa: ANN401
    """The gradient of a weight that all groups share, if it is wanted."""
    return (d.mT @ x).to(dtype) if ctx.needs_input_grad[1] else None


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
