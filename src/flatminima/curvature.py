"""Products of a vector with the curvature of one batch's loss, in several ways.

Each function takes the loss as a function of the weights and returns v -> A v. Where `keep` is
true the graph is built once for all products; otherwise it is built for one product and let go of.

| function | A | how |
|---|---|---|
| `double_backward` | Hessian | the gradient's graph, differentiated along v |
| `forward_over_reverse` | Hessian | the gradient's derivative along v in forward mode |
| `finite_differences` | Hessian, nearly | two gradients on either side of w |
| `gauss_newton` | J' (d^2 loss / dz^2) J | J of the outputs z, the loss differentiated exactly |
| `empirical_fisher` | mean of g_i g_i' | J, and the slope of each example's loss at its outputs |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flatminima.outputs import Split, split
from flatminima.vector import Vector

__all__ = [
    "Loss",
    "Product",
    "compiled",
    "double_backward",
    "empirical_fisher",
    "finite_differences",
    "forward_over_reverse",
    "gauss_newton",
    "leaf",
    "scalar",
    "slope",
]

Loss: TypeAlias = Callable[[Vector], Tensor]
Product: TypeAlias = Callable[[Vector], Vector]


def double_backward(loss: Loss, w: Vector, *, keep: bool) -> Product:
    """Products with the Hessian, by differentiating the gradient along v once more."""
    point = leaf(w)
    gradient = slope(loss(point), point, create_graph=True)
    return lambda v: _pulled(gradient.parts, v.parts, point, keep=keep)


def forward_over_reverse(loss: Loss, w: Vector, *, keep: bool = False) -> Product:
    """Products with the Hessian, by the gradient's derivative along v in forward mode."""
    del keep

    def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
        def of(tensors: tuple[Tensor, ...]) -> Tensor:
            return scalar(loss(placed(tensors, w)))

        return torch.func.grad(of)(tensors)

    def product(v: Vector) -> Vector:
        along = tuple(_filled(v, w))
        tensors = torch.func.jvp(gradient, tuple(w.detach().tensors), along)[1]
        return placed(tensors, w)

    return product


def compiled(function: Callable[..., Tensor]) -> Callable[..., Vector]:
    """Products with the Hessian of a loss of w and data, by `torch.compile`: (w, *data, v) -> H v.

    Derivatives in forward mode over those in reverse are one program without a graph to keep, which
    the compiler can fuse; it is built once for each shape of the data. The compiler of torch 2.11
    cannot differentiate forward over reverse, and raises an error of its own.

    Args:
        function: The loss, of the weights and data.

    Returns:
        (w, *data, v) -> H v.
    """

    def product(tensors: tuple[Tensor, ...], along: Sequence[Tensor], *data: object) -> Any:  # noqa: ANN401 - the compiler's
        def loss(w: Vector) -> Tensor:
            return function(w, *data)

        return forward_over_reverse(loss, Vector(tensors))(Vector(along)).parts

    program = torch.compile(product)

    def outer(w: Vector, *data_and_v: Any) -> Vector:  # noqa: ANN401 - the data are the user's
        *data, v = data_and_v
        return placed(program(tuple(w.tensors), tuple(_filled(v, w)), *data), w)

    return outer


def finite_differences(loss: Loss, w: Vector, *, keep: bool = False) -> Product:
    """Products with the Hessian up to an error, from gradients alone.

        H v ~ ||v|| (grad f(w + h u) - grad f(w - h u)) / (2 h),   u = v / ||v||

    with h = eps^(1/3) (1 + ||w||). For losses without second derivatives. The error is about
    h^2 / 6 times the third derivative along u, and eps ||grad f|| / h of rounding.

    Args:
        loss: The loss as a function of the weights.
        w: The weights.
        keep: Without effect: there is no graph to keep.

    Returns:
        v -> H v.
    """
    del keep
    epsilon = max(torch.finfo(part.dtype).eps for part in w.tensors)
    step = epsilon ** (1 / 3) * (1.0 + float(w.norm()))

    def gradient(point: Vector) -> Vector:
        point = leaf(point)
        return slope(loss(point), point, create_graph=False)

    def product(v: Vector) -> Vector:
        size = float(v.norm())
        if size == 0:
            return w.zeros_like()
        e = (step / size) * v
        return (size / (2 * step)) * (gradient(w + e) - gradient(w - e))

    return product


def gauss_newton(loss: Loss, w: Vector, *, keep: bool) -> Product:
    """Products with J' (d^2 loss / dz^2) J."""

    def bend(half: Split) -> Callable[[Tensor], Tensor]:
        (towards,) = torch.autograd.grad(half.loss, half.copy, create_graph=True)
        if not towards.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like
        return lambda t: torch.autograd.grad(towards, half.copy, t, retain_graph=keep)[0]

    return _sandwich(loss, w, bend, keep=keep)


def empirical_fisher(loss: Loss, w: Vector, *, keep: bool, count: float | None = None) -> Product:
    """Products with the mean of g_i g_i' over the examples, given what the batch's mean divides by.

    The slope of example i at its outputs is `count` times that of the mean, so that the mean over
    examples of r_i r_i' is `count` times the sum over rows of the mean's own.

    Args:
        loss: The mean loss as a function of the weights.
        w: The weights.
        keep: Whether the graph is kept for many products.
        count: What the mean divides by; by default the rows of the outputs.

    Returns:
        v -> F v.
    """

    def bend(half: Split) -> Callable[[Tensor], Tensor]:
        (towards,) = torch.autograd.grad(half.loss, half.copy)
        rows = towards.flatten(1) if towards.dim() > 1 else towards[:, None]
        examples = float(len(rows)) if count is None else count

        def outer(t: Tensor) -> Tensor:
            along = (rows * t.reshape(rows.shape)).sum(1, keepdim=True)
            return (examples * along * rows).reshape(t.shape)

        return outer

    return _sandwich(loss, w, bend, keep=keep)


def _sandwich(
    loss: Loss, w: Vector, bend: Callable[[Split], Callable[[Tensor], Tensor]], *, keep: bool
) -> Product:
    """V -> J' B J v, where B acts on the outputs; J v is the derivative of u -> J' u."""
    point = leaf(w)
    half = split(lambda: scalar(loss(point)))
    beside = torch.autograd.grad(half.loss, point.tensors, retain_graph=True, allow_unused=True)
    if any(part is not None for part in beside):
        raise ValueError(
            "the loss must depend on the weights through the network's outputs alone, got a term "
            "beside them; leave it out, or mark the outputs with sharpness.outputs"
        )
    z = half.outputs
    if not z.requires_grad:
        return lambda v: w.zeros_like()
    dual = torch.zeros_like(z, requires_grad=True)
    back = torch.autograd.grad(z, point.tensors, dual, create_graph=True, materialize_grads=True)
    inner = bend(half)

    def product(v: Vector) -> Vector:
        rows = [pair for pair in zip(back, _filled(v, w), strict=True) if pair[0].requires_grad]
        linear, along = zip(*rows, strict=True)
        (forward,) = torch.autograd.grad(linear, dual, along, retain_graph=True)
        tensors = torch.autograd.grad(
            z, point.tensors, inner(forward), retain_graph=keep, materialize_grads=True
        )
        return placed(tensors, point)

    return product


def leaf(w: Vector) -> Vector:
    """The same weights, as leaves of a new graph."""
    return Vector(None if part is None else part.detach().requires_grad_() for part in w.parts)


def slope(loss: Tensor, point: Vector, *, create_graph: bool) -> Vector:
    """The gradient of a loss that was computed at a leaf; zeros where it does not depend on it."""
    slopes = torch.autograd.grad(
        scalar(loss), point.tensors, create_graph=create_graph, materialize_grads=True
    )
    return placed(slopes, point)


def placed(tensors: Sequence[Tensor], like: Vector) -> Vector:
    """The tensors as the parts of a vector that has `None` where `like` has."""
    rest = iter(tensors)
    return Vector(None if part is None else next(rest) for part in like.parts)


def scalar(loss: object) -> Tensor:
    """The loss, if it is one number.

    Args:
        loss: What an objective returned.

    Returns:
        The same.

    Raises:
        TypeError: If it is anything but a 0-d tensor.
    """
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            f"the objective must return a 0-d tensor, got {got}; take the mean over the examples"
        )
    return loss


def _pulled(
    slopes: Sequence[Tensor | None], along: Sequence[Tensor | None], point: Vector, *, keep: bool
) -> Vector:
    """The gradient of <slopes, along>, with respect to the point."""
    rows = zip(slopes, along, strict=True)
    pairs = [(a, b) for a, b in rows if a is not None and a.requires_grad and b is not None]
    if not pairs:  # the gradient does not depend on the weights: a linear loss
        return point.zeros_like()
    outputs, directions = zip(*pairs, strict=True)
    products = torch.autograd.grad(
        outputs, point.tensors, directions, retain_graph=keep, materialize_grads=True
    )
    return placed(products, point)


def _filled(v: Vector, like: Vector) -> list[Tensor]:
    """The parts of `v` where `like` has one, with zeros for those that are absent."""
    pairs = zip(v.parts, like.parts, strict=True)
    return [torch.zeros_like(b) if a is None else a for a, b in pairs if b is not None]
