"""Directions in which to look at a loss.

Along a plain random direction two networks cannot be compared: a ReLU network that has one layer
doubled and the next one halved computes the same function and looks flatter. A filter-normalised
direction is as large in every filter as the weights are, so both show the same curve. Another
direction worth a look is an eigenvector of the Hessian, which is a `Vector` already.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flatminima.vector import Vector

__all__ = ["between", "filter_normalized", "random"]


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
    one_dimensional: Literal["still", "scaled"] = "still",
) -> Vector:
    """A random direction as large in every filter as the weights are.

        d_ij <- d_ij / ||d_ij|| ||w_ij||

    for filter j of parameter i: the slices along the first axis. These are the filters of a
    convolution (grouped too), the rows that feed one unit of a linear layer, the rows of an
    embedding.

    Args:
        w: The weights.
        generator: A generator on the CPU: the draw is the same on every device, and for networks of
            the same shapes.
        one_dimensional: Biases and the scales of normalisation layers: `still` leaves them where
            they are, `scaled` gives each such parameter a direction of its own norm.

    Returns:
        The direction, shaped like `w`; 0 in a filter that is 0.

    Source: Li et al. 2018, arXiv:1712.09913, section 4; its code, too, leaves one-dimensional
    parameters still.
    Differs: the filters of a transposed convolution lie along its second axis; they are taken along
    the first here.
    Cost: two passes over the parameters.

    Example:
        >>> w = Vector([torch.tensor([[3.0, 4.0], [0.0, 0.1]]), torch.tensor([1.0])])
        >>> d = filter_normalized(w, torch.Generator().manual_seed(0))
        >>> d.parts[0].norm(dim=1), d.parts[1]
        (tensor([5.0000, 0.1000]), tensor([0.]))
    """

    def scaled(d: Tensor, param: Tensor) -> Tensor:
        if param.dim() > 1:
            return _resized(d, param, dim=tuple(range(1, param.dim())))
        return torch.zeros_like(d) if one_dimensional == "still" else _resized(d, param, dim=None)

    return random(w, generator).map(scaled, w)


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


def _resized(d: Tensor, param: Tensor, dim: tuple[int, ...] | None) -> Tensor:
    """`d` with the norms of `param` along `dim`, taken in float32 at least."""
    dtype = torch.float64 if param.dtype == torch.float64 else torch.float32
    have = torch.linalg.vector_norm(d, dim=dim, keepdim=dim is not None, dtype=dtype)
    want = torch.linalg.vector_norm(param, dim=dim, keepdim=dim is not None, dtype=dtype)
    return (d * torch.where(have == 0, 0, want / have)).to(d.dtype)
