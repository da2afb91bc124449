"""Where to look: the displacements of the weights at which a rule asks for a second gradient.

Each function takes the weights `w`, an ascent direction `g` and a radius `rho`, and returns the
displacement. A radius is a number, a 0-d tensor, or a tuple with one of them per parameter;
parameters whose radius is the number 0 are neither moved nor counted in the norm. All of them keep
two promises: a direction that is 0 gives the displacement 0, and so does one that is not finite,
decided on the device without asking the host.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from flatminima.vector import Scale, Vector

__all__ = ["Radius", "Scaling", "adaptive", "normalized", "projected", "random", "unnormalized"]

Radius = float | Tensor | tuple[float | Tensor, ...]
Scaling = Literal["element", "filter", "layer"]


def normalized(w: Vector, g: Vector, rho: Radius, *, p: float = 2.0) -> Vector:
    """The displacement that is worst within a ball, to first order (SAM).

        e = rho sign(g) |g|^(q-1) / (||g||_q^q)^(1/p),  1/p + 1/q = 1;   p = 2:  e = rho g / ||g||_2

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`.
        rho: The radius: the p-norm of the displacement, over all parameters together.
        p: The order of the norm, 1 <= p <= inf. 1 moves the coordinates of largest |g| only, inf
            all alike.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite. With a radius per parameter
        each part has the length that its own radius would give it within the norm of all that move.

    Source: Foret et al. 2021, arXiv:2010.01412, equation 2.
    Cost: one pass over the parameters for p = 2, three otherwise; no gradient.

    Example:
        >>> w, g = Vector([torch.zeros(2)]), Vector([torch.tensor([3.0, 4.0])])
        >>> normalized(w, g, 0.5).parts[0], normalized(w, g, 0.5, p=float("inf")).parts[0]
        (tensor([0.3000, 0.4000]), tensor([0.5000, 0.5000]))
    """
    check_order(p)
    g = moved(g, rho)
    if p == 2.0:
        return g * _radius(rho, g.norm())
    if p == math.inf:
        return g.map(torch.sign) * _radius(rho, g.norm(), unit=True)
    if p == 1.0:
        largest = g.norm(math.inf)
        peaks = g.map(lambda part: torch.where(part.abs() == largest, part.sign(), 0.0))
        return peaks * _radius(rho, peaks.norm(1.0), unless=largest)
    q = p / (p - 1.0)
    slope = g / _nonzero(g.norm(q))  # scaled first, so that powers neither overflow nor vanish
    return slope.map(lambda part: part.sign() * part.abs().pow(q - 1.0)) * _radius(
        rho, g.norm(q), unit=True
    )


def unnormalized(w: Vector, g: Vector, rho: Radius) -> Vector:
    """The displacement that is proportional to the gradient (USAM).

        e = rho g

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`.
        rho: The step uphill, in units of a learning rate: the displacement follows the scale of the
            loss.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite.

    Source: Andriushchenko & Flammarion 2022, arXiv:2206.06232, and the option `sam_no_grad_norm` of
        tml-epfl/understanding-sam.
    Cost: one pass over the parameters; no gradient.

    Example:
        >>> unnormalized(Vector([torch.zeros(1)]), Vector([torch.tensor([4.0])]), 0.5).parts[0]
        tensor([2.])
    """
    g = moved(g, rho)
    return g * _radius(rho, g.norm(), unit=True)


def adaptive(
    w: Vector,
    g: Vector,
    rho: Radius = 0.5,
    *,
    eta: float = 0.01,
    scale: Scaling = "element",
    p: float = 2.0,
) -> Vector:
    """The displacement that is worst within a ball scaled by the weights (ASAM).

        e = rho t^2 g / || t g ||_2;   p = inf:  e = rho t sign(g)

    with t = |w| + eta for each element, or the norm of each filter or layer plus eta. Products are
    coordinate by coordinate; the norm is over all parameters together.

    Args:
        w: The weights.
        g: The gradient at `w`, shaped like `w`.
        rho: The radius, a multiple of the weights' own size (no unit). Default from the authors'
            code, for CIFAR-10; it uses 1.0 for CIFAR-100.
        eta: Added to the size of every weight, so that a weight of 0 can move. Default from the
            authors' optimizer; their CIFAR example passes 0.
        scale: What a weight is measured by: `element`, its own size; `filter`, the norm of its
            output row (the first axis; a vector is one filter per entry); `layer`, the norm of its
            whole tensor.
        p: The order of the norm, 2 or inf.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite.

    Source: Kwon et al. 2021, arXiv:2102.11600, and the authors' code, SamsungLabs/ASAM.
    Differs: the authors' code scales parameters whose name contains "weight" and treats the others
        as plain SAM does; here every parameter is scaled. Give biases and norms a group of their
        own to leave them out.
    Cost: four passes over the parameters; no gradient.

    Example:
        >>> w, g = Vector([torch.tensor([2.0, 1.0])]), Vector([torch.tensor([1.0, 1.0])])
        >>> adaptive(w, g, rho=1.0, eta=0.0).parts[0]
        tensor([1.7889, 0.4472])
    """
    check_scale(eta, scale, p)
    g = moved(g, rho)
    w = w.only(g.present)  # what does not move needs no memory either
    if p == math.inf:
        sign = g.map(lambda part, weight: size(weight, scale, eta) * part.sign(), w)
        return sign * _radius(rho, g.norm(), unit=True)
    slope = g.map(lambda part, weight: size(weight, scale, eta) * part, w)
    return slope.map(lambda part, weight: size(weight, scale, eta) * part, w) * _radius(
        rho, slope.norm()
    )


def random(w: Vector, g: Vector, rho: Radius, *, generator: torch.Generator) -> Vector:
    """A displacement of fixed length in a random direction: the control for the ascent.

        e = rho z / ||z||_2,   z ~ N(0, I)

    Args:
        w: The weights, whose shapes count.
        g: The gradient at `w`; it decides only which parameters move (those that have one).
        rho: The radius: the length of the displacement.
        generator: Where the draw comes from; on the CPU.

    Returns:
        The displacement, shaped like `w`.

    Source: Andriushchenko & Flammarion 2022, arXiv:2206.06232, figure 1 (random perturbation).
    Cost: one draw per parameter, made on the CPU so that every device sees the same; no gradient.

    Example:
        >>> w, g = Vector([torch.zeros(3)]), Vector([torch.ones(3)])
        >>> random(w, g, 0.5, generator=torch.Generator()).norm()
        tensor(0.5000)
    """
    z = moved(g, rho).randn_like(generator)
    return z * _radius(rho, z.norm())


def projected(e: Vector, rho: Radius) -> Vector:
    """The point of the ball of radius `rho` that is nearest to `e`.

        e min(1, rho / ||e||_2)

    Args:
        e: A displacement.
        rho: The radius of the ball, in the norm of all parameters together; of a tuple the largest
            counts.

    Returns:
        `e` where it is inside, else its multiple on the sphere.

    Cost: one pass over the parameters.

    Example:
        >>> projected(Vector([torch.tensor([3.0, 4.0])]), 1.0).norm()
        tensor(1.)
    """
    radius = max(rho, key=float) if isinstance(rho, tuple) else rho
    return e * torch.where(e.norm() > radius, radius / e.norm(), 1.0)


# ------------------------------------------------------------------------------------------ checks


def check_order(p: float) -> None:
    """Refuse an order that belongs to no norm.

    Args:
        p: The order.

    Raises:
        ValueError: If it is below 1 or not a number.
    """
    if not p >= 1:
        raise ValueError(f"p must be >= 1, got {p}; below 1 there is no norm")


def check_scale(eta: float, scale: Scaling, p: float) -> None:
    """Refuse settings of an adaptive displacement that have no meaning.

    Args:
        eta: Added to the size of a weight.
        scale: What a weight is measured by.
        p: The order of the norm.

    Raises:
        ValueError: If `eta` is negative, `scale` is unknown or `p` is neither 2 nor inf.
    """
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
    if scale not in ("element", "filter", "layer"):
        raise ValueError(f"scale must be 'element', 'filter' or 'layer', got {scale!r}")
    if p not in (2, math.inf):
        raise ValueError(f"p must be 2 or inf, got {p}")


# -------------------------------------------------------------------------------------------- parts


def moved(g: Vector, rho: Radius) -> Vector:
    """`g` without the parameters whose radius is the number 0."""
    if isinstance(rho, tuple):
        return g.only([not _is_zero(radius) for radius in rho])
    return g


def size(weight: Tensor, scale: Scaling, eta: float) -> Tensor:
    """The size t of the weights that adaptive rules measure by, shaped to multiply `weight`.

    Args:
        weight: A parameter.
        scale: What a weight is measured by, as in `adaptive`.
        eta: Added to the size.

    Returns:
        The size: one per element, per filter or for the whole tensor, with axes that broadcast.

    Example:
        >>> size(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "filter", 0.1)
        tensor([[5.1000],
                [0.1000]])
    """
    if scale == "element":
        return weight.abs() + eta
    if scale == "layer":
        return torch.linalg.vector_norm(weight) + eta
    axes = tuple(range(1, weight.dim()))
    return (
        torch.linalg.vector_norm(weight, dim=axes, keepdim=True) if axes else weight.abs()
    ) + eta


def _nonzero(norm: Tensor) -> Tensor:
    return torch.where(norm == 0, 1.0, norm)


def _radius(
    rho: Radius, norm: Tensor, *, unit: bool = False, unless: Tensor | None = None
) -> Scale:
    """What to multiply a direction of length `norm` by, so that it is `rho` long.

        rho / norm;   rho if the direction is of unit length already

    Args:
        rho: The radius.
        norm: The length of the direction.
        unit: Whether the direction is of unit length, in the norm of its rule.
        unless: What is to be finite and not 0, or the result is 0; by default the norm itself.

    Returns:
        One factor, or with one radius per parameter a tuple, in which parameters that do not move
        keep the number 0.
    """
    checked = norm if unless is None else unless
    usable = checked.isfinite() & (checked > 0)
    length = torch.ones_like(norm) if unit else norm
    if not isinstance(rho, tuple):
        return torch.where(usable, rho / length, 0.0)
    share = {
        radius: torch.where(usable, radius / length, 0.0)
        for radius in set(rho)
        if not _is_zero(radius)
    }
    return tuple(0.0 if _is_zero(radius) else share[radius] for radius in rho)


def _is_zero(radius: float | Tensor) -> bool:
    return not isinstance(radius, Tensor) and radius == 0.0
