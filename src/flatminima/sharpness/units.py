"""In what unit a displacement of each weight is measured: the c of adaptive sharpness.

A displacement e = c u is adaptive when c follows the size of the weights. Everything here works in
u, so the ball is a plain one, no weight is ever divided by, and a weight of 0 stays where it is
(unless `eta` lets it move).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from flatminima import perturb
from flatminima.vector import Vector

__all__ = ["Unit", "units"]

Unit: TypeAlias = Literal["one", "element", "filter", "layer"]


def units(w: Vector, scale: Unit = "one", *, eta: float = 0.0) -> Vector:
    """The unit c of every weight.

        one: 1    element: |w| + eta    filter: ||w_filter|| + eta    layer: ||w_layer|| + eta

    Args:
        w: The weights.
        scale: What a weight is measured by. A filter is a slice along the first axis; in a vector
            (a bias) every entry is one.
        eta: Added to the size of a weight, so that a weight of 0 can move; not to `one`.

    Returns:
        The units, shaped like `w`.

    Raises:
        ValueError: If `scale` is unknown or `eta` negative.

    Source: Kwon et al. 2021, arXiv:2102.11600; Andriushchenko et al. 2023, arXiv:2302.07011.

    Example:
        >>> w = Vector([torch.tensor([[3.0, -4.0], [0.0, 0.0]])])
        >>> units(w, "element").parts[0]
        tensor([[3., 4.],
                [0., 0.]])
        >>> units(w, "filter").parts[0]
        tensor([[5., 5.],
                [0., 0.]])
    """
    if scale == "one":
        return w.map(torch.ones_like)
    if scale not in ("element", "filter", "layer"):
        raise ValueError(f"scale must be 'one', 'element', 'filter' or 'layer', got {scale!r}")
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
    return w.map(lambda part: perturb.size(part, scale, eta).expand_as(part))
