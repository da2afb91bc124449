"""Directions in which to look at a loss.

Along a plain random direction two networks cannot be compared: a ReLU network that has one layer
doubled and the next one halved computes the same function and looks flatter. A filter-normalised
direction is as large in every filter as the weights are, so both show the same curve. The other
directions worth a look are vectors already: the eigenvectors of the Hessian
(`sharpness.top_eigenpairs(...).vectors`), the principal directions of a trajectory
(`principal(...).directions`), and the way from one solution to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from flatminima.landscape.filters import Filters
from flatminima.vector import Vector

__all__ = ["as_large_as", "between", "filter_normalized", "orthogonal", "random"]

OneDimensional = Literal["still", "scaled"]


def random(w: Vector, generator: torch.Generator) -> Vector:
    """A direction of independent standard normal coordinates, of norm about sqrt(P).

    Args:
        w: The weights; only their shapes matter.
        generator: A generator on the CPU: the draw is the same on every device.

    Returns:
        The direction, shaped like `w`.

    Example:
        >>> random(Vector([torch.zeros(2)]), torch.Generator().manual_seed(0)).parts[0]
        tensor([ 1.5410, -0.2934])
    """
    return w.randn_like(generator)


def filter_normalized(
    w: Vector,
    generator: torch.Generator,
    *,
    filters: Sequence[Filters] | None = None,
    one_dimensional: OneDimensional = "still",
) -> Vector:
    """A random direction as large in every filter as the weights are.

        d_ij <- d_ij / ||d_ij|| ||w_ij||     for filter j of parameter i

    Args:
        w: The weights.
        generator: A generator on the CPU: the draw is the same on every device, and for networks of
            the same shapes.
        filters: How the filters lie in each parameter, from `filters_of(model)`; by default along
            the first axis, which is right for all layers but transposed convolutions.
        one_dimensional: Biases and the scales of normalisation layers: `still` leaves them where
            they are, `scaled` gives each such parameter a direction of its own norm.

    Returns:
        The direction, shaped like `w`; 0 in a filter that is 0.

    Source: Li et al. 2018, arXiv:1712.09913, section 4; its code, too, leaves one-dimensional
    parameters still.
    Cost: two passes over the parameters.

    Example:
        >>> w = Vector([torch.tensor([[3.0, 4.0], [0.0, 0.1]]), torch.tensor([1.0])])
        >>> d = filter_normalized(w, torch.Generator().manual_seed(0))
        >>> d.parts[0].norm(dim=1), d.parts[1]
        (tensor([5.0000, 0.1000]), tensor([0.]))
    """
    return as_large_as(w, random(w, generator), filters=filters, one_dimensional=one_dimensional)


def as_large_as(
    w: Vector,
    direction: Vector,
    *,
    filters: Sequence[Filters] | None = None,
    one_dimensional: OneDimensional = "still",
) -> Vector:
    """Any direction, made as large in every filter as the weights are.

    Args:
        w: The weights.
        direction: The direction, shaped like `w`.
        filters: As for `filter_normalized`.
        one_dimensional: As for `filter_normalized`.

    Returns:
        The direction; 0 in a filter where it or the weights are 0.

    Raises:
        ValueError: If there are not as many filters as parameters, or `one_dimensional` is another
            word.

    Example:
        >>> w = Vector([torch.tensor([[3.0, 4.0]])])
        >>> as_large_as(w, Vector([torch.tensor([[0.0, 0.1]])])).parts[0]
        tensor([[0., 5.]])
    """
    filters = [Filters()] * len(w) if filters is None else filters
    if len(filters) != len(w):
        raise ValueError(
            f"filters must have one entry per parameter, {len(w)}, got {len(filters)}; "
            "take filters_of the model that the weights are of"
        )
    if one_dimensional not in ("still", "scaled"):
        raise ValueError(f'one_dimensional must be "still" or "scaled", got {one_dimensional!r}')
    here = iter(kind for kind, part in zip(filters, w.parts, strict=True) if part is not None)

    def resized(d: Tensor, param: Tensor) -> Tensor:
        kind = next(here)
        if param.dim() <= 1:
            if one_dimensional == "still":
                return torch.zeros_like(d)
            whole = resized_by(Filters(), d.reshape(1, -1), param.reshape(1, -1))
            return whole.reshape(d.shape)
        return resized_by(kind, d, param)

    return direction.map(resized, w)


def resized_by(kind: Filters, d: Tensor, param: Tensor) -> Tensor:
    """A direction with the norms of a parameter, filter by filter."""
    have, want = kind.norms(d), kind.norms(param)
    return kind.spread(d, torch.where(have == 0, 0, want / have))


def orthogonal(direction: Vector, *others: Vector) -> Vector:
    """What is left of a direction without its parts along others.

    To make it orthogonal and to make it as large as the weights do not commute: do this first, then
    `as_large_as`, and read off the cosine that a slice reports how much of a right angle is left.

    Args:
        direction: The direction.
        *others: What it shall be orthogonal to, themselves orthogonal to one another.

    Returns:
        The direction, in its own length along what is left.

    Example:
        >>> one, two = Vector([torch.tensor([1.0, 1.0])]), Vector([torch.tensor([2.0, 0.0])])
        >>> orthogonal(one, two).parts[0]
        tensor([0., 1.])
    """
    for _ in range(2):  # the second time takes away what rounding left
        for other in others:
            direction = direction - direction.onto(other)
    return direction


def between(w: Vector, other: Vector) -> Vector:
    """The direction from `w` to `other`: a step of 1 along it arrives there.

    Args:
        w: The start.
        other: The end, shaped like `w`.

    Returns:
        Their difference.

    Example:
        >>> between(Vector([torch.tensor([1.0])]), Vector([torch.tensor([4.0])])).parts[0]
        tensor([3.])
    """
    return other - w
