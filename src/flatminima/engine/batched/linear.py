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

from flatminima.engine.batched.forms import Dense, Rows
from flatminima.engine.batched.layer import Layer, Moved, Pass, Tap, computed_in
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
        return Tap(dense=rows.dense, rows=lambda: rows, size=size), Tap(dense=lambda: left.sum(1))

    def moved(self, x: Tensor, layout: Layout, *params: Moved | None) -> Tensor:
        """X_j (W + e_j)^T + beta + e'_j."""
        weight, bias = params
        assert weight is not None
        inputs = layout.grouped(x)
        y = _weighted(inputs.flatten(1, -2), weight, bias)
        return layout.flat(y.unflatten(1, inputs.shape[1:-1]))


def _weighted(x: Tensor, weight: Moved, bias: Moved | None) -> Tensor:
    """X_j (W + e_j)^T + beta + e'_j, (groups, N, p)."""
    fixed = bias.value if bias is not None and bias.stays else None
    if weight.apart:
        y = torch.bmm(x, weight.value.mT)
    elif isinstance(weight.by, Dense):
        y = _PerGroup.apply(x.to(computed_in(x)), weight.value, weight.by)
    elif weight.by is not None and not any(rows.is_one_hot for rows in weight.rows):
        pairs = [part for rows in weight.rows for part in (rows.left, rows.right)]
        y = _LowRank.apply(x.to(computed_in(x)), weight.value, *pairs)
    else:
        y = functional.linear(x, weight.value)
        for rows in weight.rows:
            y = y + rows.applied(x).to(y.dtype)
    if fixed is not None:
        return y + fixed.to(y.dtype)
    return y if bias is None else y + bias.each()[:, None].to(y.dtype)


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
        with torch.autocast(x.device.type, enabled=False):
            return torch.bmm(x, each.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, each = ctx.saved_tensors
        (d,) = grads
        dx = torch.bmm(d, each) if ctx.needs_input_grad[0] else None
        return dx, _summed(ctx, d, x), None


class _LowRank(torch.autograd.Function):
    """X_j W^T + (X_j R_j^T) L_j, for e_j = L_j^T R_j that is never formed.

    Autograd would keep the scores X_j R_j^T, which the backward pass does not need.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:  # noqa: ANN401
        left, right, cast = left.to(x.dtype), right.to(x.dtype), weight.to(x.dtype)
        ctx.save_for_backward(x, cast, left, right)
        ctx.dtype = weight.dtype
        with torch.autocast(x.device.type, enabled=False):
            return _plus_product(torch.matmul(x, cast.mT), x, right, left)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, left, right = ctx.saved_tensors
        (d,) = grads
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _plus_product(torch.matmul(d, weight), d, left, right)
        return dx, _summed(ctx, d, x), None, None


def _plus_product(y: Tensor, x: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """y_j + (x_j inner_j^T) outer_j, written into y."""
    if inner.shape[1] == 1:
        return y.addcmul_((x * inner).sum(-1, keepdim=True), outer)
    return y.baddbmm_(torch.bmm(x, inner.mT), outer)


def _summed(ctx: Any, d: Tensor, x: Tensor) -> Tensor | None:  # noqa: ANN401
    """The gradient of a weight that all groups share, if it is wanted."""
    if not ctx.needs_input_grad[1]:
        return None
    return (d.flatten(0, 1).mT @ x.flatten(0, 1)).to(ctx.dtype)


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
