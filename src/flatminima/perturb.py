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

__all__ = [
    "Radius",
    "Scaling",
    "adaptive",
    "centralized",
    "fisher",
    "layerwise",
    "noise",
    "normalized",
    "outlying",
    "projected",
    "random",
    "shortened",
    "topmost",
    "turned",
    "unnormalized",
    "within_budget",
]

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


def shortened(w: Vector, g: Vector, rho: Radius, *, alpha: float) -> Vector:
    """SAM's displacement, less a step downhill (SAGM).

        e = (rho / ||g|| - alpha) g

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`.
        rho: The radius.
        alpha: The step downhill, in units of a learning rate.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite.

    Source: Wang et al., CVPR 2023 (sharpness-aware gradient matching).
    Cost: two passes over the parameters; no gradient.

    Example:
        >>> w, g = Vector([torch.zeros(2)]), Vector([torch.tensor([3.0, 4.0])])
        >>> shortened(w, g, 0.5, alpha=0.01).parts[0]
        tensor([0.2700, 0.3600])
    """
    g = moved(g, rho)
    return normalized(w, g, rho) - unnormalized(w, g, alpha)


def layerwise(w: Vector, g: Vector, rho: Radius) -> Vector:
    """A displacement of each tensor in proportion to that tensor's own size (AWP).

        e_l = rho ||w_l|| g_l / ||g_l||,   l = one tensor after the other

    Args:
        w: The weights.
        g: The gradient at `w`.
        rho: The radius, a multiple of each tensor's norm (no unit).

    Returns:
        The displacement, shaped like `w`; 0 where `g_l` is 0, and everywhere if `g` is not finite.

    Source: Wu et al., NeurIPS 2020 (adversarial weight perturbation).
    Cost: three passes over the parameters; no gradient.

    Example:
        >>> w, g = Vector([torch.tensor([3.0, 4.0])]), Vector([torch.tensor([0.0, 9.0])])
        >>> layerwise(w, g, 0.1).parts[0]
        tensor([0.0000, 0.5000])
    """
    g = moved(g, rho)
    finite = g.norm().isfinite()
    radii = rho if isinstance(rho, tuple) else (rho,) * len(g)
    rows = zip(w.parts, g.parts, radii, strict=True)
    return g * tuple(
        0.0 if part is None or weight is None else _share(weight, part, radius, finite)
        for weight, part, radius in rows
    )


def topmost(w: Vector, g: Vector, rho: Radius, *, share: float) -> Vector:
    """SAM's displacement on the coordinates of largest gradient only (sparse SAM).

        e = rho h / ||h||,   h = g where |g| is among the largest `share` of all, 0 elsewhere

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`.
        rho: The radius: the length of the displacement.
        share: Which share of the coordinates moves, 0 < share <= 1, all parameters together; ties
            at the edge move as well.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite.

    Source: Mi et al., NeurIPS 2022 (sparse SAM); the mask is made anew at every step.
    Cost: a selection over all coordinates, of any number; no gradient.

    Example:
        >>> w, g = Vector([torch.zeros(4)]), Vector([torch.tensor([3.0, 0.1, -4.0, 0.2])])
        >>> topmost(w, g, 0.5, share=0.5).parts[0]
        tensor([ 0.3000,  0.0000, -0.4000,  0.0000])
    """
    g = moved(g, rho)
    if not g.tensors:
        return g
    first = g.tensors[0]
    rows = torch.cat([part.abs().flatten().to(first) for part in g.tensors])
    edge = rows.kthvalue(len(rows) - math.ceil(share * len(rows)) + 1).values
    h = g.map(lambda part: torch.where(part.abs() >= edge.to(part), part, 0.0))
    return h * _radius(rho, h.norm(), unless=g.norm())


def outlying(w: Vector, g: Vector, rho: Radius, *, quantile: float) -> Vector:
    """SAM's displacement on the coordinates whose gradient stands out in its tensor (ZSharp).

        e = rho h / ||h||,   h = g where |z| is at or above its quantile, 0 elsewhere,
        z = (g - mean g) / std g  within each tensor;   h = g if that leaves nothing

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`.
        rho: The radius: the length of the displacement, over all parameters together.
        quantile: Which share of each tensor stays, 0 <= quantile < 1. Since dividing by a tensor's
            deviation changes no order within it, no deviation is taken, and a tensor of one
            coordinate always moves.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite.

    Source: Yun 2025, "Sharpness-Aware Minimization with Z-Score Gradient Filtering for Neural
        Networks".
    Cost: a selection over each tensor, of any size; no gradient.

    Example:
        >>> w, g = Vector([torch.zeros(4)]), Vector([torch.tensor([0.1, 0.2, 9.0, 0.0])])
        >>> outlying(w, g, 0.5, quantile=0.9).parts[0]
        tensor([0.0000, 0.0000, 0.5000, 0.0000])
    """
    g = moved(g, rho)
    h = g.map(lambda part: _standing_out(part, quantile))
    nothing = h.norm() == 0
    h = g.map(lambda whole, kept: torch.where(nothing.to(whole.device), whole, kept), h)
    return h * _radius(rho, h.norm(), unless=g.norm())


def centralized(w: Vector, g: Vector, rho: Radius) -> Vector:
    """SAM's displacement along the centralised gradient (GCSAM).

        e = rho h / ||h||,   h = g less its mean over all axes but the first

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`; vectors and numbers in it are not centralised.
        rho: The radius: the length of the displacement, after the mean is taken off.

    Returns:
        The displacement, shaped like `w`; 0 if `h` is 0 or not finite.

    Source: "GCSAM: Gradient Centralized Sharpness Aware Minimization", 2025; class SAMGC of
        lhchau/sam-hessian.
    Cost: two passes over the parameters; no gradient.

    Example:
        >>> w, g = Vector([torch.zeros(1, 2)]), Vector([torch.tensor([[1.0, 3.0]])])
        >>> centralized(w, g, 1.0).parts[0]
        tensor([[-0.7071,  0.7071]])
    """
    return normalized(w, g.map(centred), rho)


def within_budget(w: Vector, g: Vector, rho: Radius, *, budget: float) -> Vector:
    """SAM's displacement, as long as the loss is to grow by, to first order (LE-SAM).

        e = min(budget / ||g||, rho) g / ||g||,   so that  <g, e> = budget  while  ||e|| < rho

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`.
        rho: The largest radius.
        budget: By how much the loss is to grow; it follows the scale of the loss.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite.

    Source: Wang et al., ICML 2026, "Fix the Loss, Not the Radius: Rethinking the Adversarial
        Perturbation of SAM".
    Differs: a small number is added to ||g|| there; the largest radius makes that unnecessary.
    Cost: one pass over the parameters; no gradient.

    Example:
        >>> w, g = Vector([torch.zeros(2)]), Vector([torch.tensor([3.0, 4.0])])
        >>> within_budget(w, g, 1.0, budget=0.5).norm()
        tensor(0.1000)
    """
    g = moved(g, rho)
    limit = budget / g.norm()
    if not isinstance(rho, tuple):
        return normalized(w, g, _least(limit, rho))
    least = {radius: _least(limit, radius) for radius in set(rho) if not _is_zero(radius)}
    return normalized(w, g, tuple(least.get(radius, 0.0) for radius in rho))


def fisher(w: Vector, g: Vector, rho: Radius, *, squares: Vector, eta: float) -> Vector:
    """The displacement that is worst within a ball of the diagonal Fisher metric (Fisher-SAM).

        e = rho h / sqrt(<g, h>),   h = g / (1 + eta s)

    Args:
        w: The weights, which do not matter here.
        g: The gradient at `w`.
        rho: The radius, in the metric 1 + eta s.
        squares: s, an estimate of the mean squared gradient, shaped like `g`.
        eta: How far the metric is the Fisher's; 0 is SAM.

    Returns:
        The displacement, shaped like `w`; 0 if `g` is 0 or not finite.

    Source: Kim et al. 2022, arXiv:2206.04920; the form 1 + eta s is that of
        johnjaejunlee95/torch-unified-SAM-optimization.
    Cost: three passes over the parameters; no gradient.

    Example:
        >>> g = Vector([torch.tensor([3.0, 4.0])])
        >>> fisher(g, g, 0.5, squares=g, eta=0.0).parts[0]
        tensor([0.3000, 0.4000])
    """
    g = moved(g, rho)
    h = g.map(lambda part, square: part / (1.0 + eta * square), squares.only(g.present))
    return h * _radius(rho, g.dot(h).sqrt())


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


def noise(w: Vector, g: Vector, rho: Radius, *, generator: torch.Generator) -> Vector:
    """Gaussian noise in proportion to the norm of each filter.

        e = rho t z,   t = the norm of each weight's output row,   z ~ N(0, I)

    Args:
        w: The weights.
        g: Which parameters move: those that have a gradient; 0 everywhere or not finite: none.
        rho: The noise's standard deviation, as a share of the filter's norm (no unit).
        generator: Where the draw comes from; on the CPU.

    Returns:
        The displacement, shaped like `w`.

    Source: Li et al. 2022, "Efficient Generalization Improvement Guided by Random Weight
        Perturbation"; Bisla et al., AISTATS 2022.
    Cost: one draw per parameter, made on the CPU so that every device sees the same; no gradient.

    Example:
        >>> w = Vector([torch.zeros(2, 3)])
        >>> noise(w, w, 0.01, generator=torch.Generator()).norm()
        tensor(0.)
    """
    g = moved(g, rho)
    z = g.randn_like(generator)  # nobody else's, so that it may become the displacement in place
    return z.map(
        lambda part, weight: part.mul_(size(weight, "filter", 0.0)), w.only(g.present)
    ) * _radius(rho, g.norm(), unit=True)


def turned(g: Vector, p: Vector, rho: Radius) -> Vector:
    """How a change of `g` turns SAM's displacement, seen from `p`: the transposed derivative.

        v = (de / dg)^T p = rho (p - u <u, p>) / ||g||,   e = rho g / ||g||,   u = g / ||g||

    Args:
        g: The gradient that the displacement is along.
        p: What the derivative is multiplied by: the gradient at the displaced weights.
        rho: The radius.

    Returns:
        The product, shaped like `g`; 0 if `g` is 0 or not finite.

    Cost: four passes over the parameters; no gradient.

    Example:
        >>> g, p = Vector([torch.tensor([2.0, 0.0])]), Vector([torch.tensor([1.0, 1.0])])
        >>> turned(g, p, 0.5).parts[0]
        tensor([0.0000, 0.2500])
    """
    g = moved(g, rho)
    u = g * _radius(1.0, g.norm())
    bent = moved(p, rho).only(g.present) * rho
    return (bent - u * u.dot(bent)) * _radius(1.0, g.norm())


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


def centred(part: Tensor) -> Tensor:
    """A gradient less its mean over all axes but the first; a vector stays as it is.

    Args:
        part: The gradient of one parameter.

    Returns:
        The centralised gradient.

    Example:
        >>> centred(torch.tensor([[1.0, 3.0]]))
        tensor([[-1.,  1.]])
    """
    axes = tuple(range(1, part.dim()))
    return part - part.mean(dim=axes, keepdim=True) if axes else part


def _standing_out(part: Tensor, quantile: float) -> Tensor:
    """The coordinates that are furthest from the mean, and 0 elsewhere."""
    away = (part - part.mean()).abs()
    # not torch.quantile, which takes 16 million numbers at most
    edge = away.flatten().kthvalue(math.ceil(quantile * (part.numel() - 1)) + 1).values
    return torch.where(away >= edge, part, 0.0)


def _share(weight: Tensor, part: Tensor, rho: float | Tensor, finite: Tensor) -> float | Tensor:
    """What to multiply one tensor's gradient by, so that it is `rho` times the weight's norm."""
    if _is_zero(rho):
        return 0.0
    wide = torch.float64 if part.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(part, dtype=wide)
    own = torch.linalg.vector_norm(weight, dtype=wide)
    return torch.where(finite.to(norm.device) & (norm > 0), rho * own / norm, 0.0)


def _least(limit: Tensor, rho: float | Tensor) -> Tensor:
    return torch.minimum(limit, torch.as_tensor(rho, dtype=limit.dtype, device=limit.device))


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
