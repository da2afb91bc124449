"""What to do with what was seen: directions made of the two gradients, `g` and `p`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from flatminima import regions
from flatminima.perturb import centred
from flatminima.regions import Region
from flatminima.vector import Vector

__all__ = [
    "centralized",
    "clipped",
    "forgetful",
    "lerp",
    "perturbed_direction",
    "perturbed_magnitude",
    "regionwise",
    "renormalized",
    "rescaled_by_region",
    "slerp",
    "surrogate_gap",
]


def lerp(g: Vector, p: Vector, *, a: float) -> Vector:
    """The point of the line from `g` to `p`.

        d = (1 - a) g + a p

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        a: How far along: 0 is plain descent, 1 is SAM, more extrapolates.

    Returns:
        The direction.

    Example:
        >>> lerp(Vector([torch.tensor([0.0])]), Vector([torch.tensor([2.0])]), a=1.5).parts[0]
        tensor([3.])
    """
    return (1.0 - a) * g + a * p


def slerp(g: Vector, p: Vector, *, a: float) -> Vector:
    """The direction of the arc from that of `g` to that of `p`, as long as `p` (XSAM).

        d = ||p|| ( sin((1 - a) t) g / ||g|| + sin(a t) p / ||p|| ) / sin t,
        t = the angle between g and p

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        a: How far along: 0 is the direction of `g`, 1 is SAM, more extrapolates.

    Returns:
        The direction; `p` itself where no arc leads from one to the other: where they are parallel,
        opposite, or one of them is 0.

    Source: Chen & Zhou, ICLR 2026, "Revisiting Sharpness-Aware Minimization: A More Faithful and
        Effective Implementation", whose displacement has the direction of `g`.

    Example:
        >>> g, p = Vector([torch.tensor([2.0, 0.0])]), Vector([torch.tensor([0.0, 1.0])])
        >>> slerp(g, p, a=0.5).parts[0]
        tensor([0.7071, 0.7071])
    """
    sideways = p - p.onto(g)
    there, here, away = p.norm(), g.norm(), sideways.norm()
    straight = (away == 0) | (here == 0)
    angle = torch.atan2(away, torch.where(here == 0, 0.0, g.dot(p) / here))
    angle = torch.where(straight, angle, a * angle)  # for the sines of small angles are no quotient
    along = torch.where(here == 0, 0.0, there * angle.cos() / here)
    return along * g + torch.where(away == 0, 0.0, there * angle.sin() / away) * sideways


def surrogate_gap(g: Vector, p: Vector, *, alpha: float) -> Vector:
    """Descend the perturbed loss, and climb what of the current gradient does not change it (GSAM).

        d = p - alpha (g - <g, p> / ||p||^2 p)

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        alpha: The weight of the part of `g` that is orthogonal to `p`.

    Returns:
        The direction.

    Source: Zhuang et al. 2022, arXiv:2203.08065, and the authors' code, juntang-zhuang/GSAM,
        `gradient_decompose`.

    Example:
        >>> g, p = Vector([torch.tensor([1.0, 1.0])]), Vector([torch.tensor([2.0, 0.0])])
        >>> surrogate_gap(g, p, alpha=0.5).parts[0]
        tensor([ 2.0000, -0.5000])
    """
    return p - alpha * (g - g.onto(p))


def renormalized(g: Vector, p: Vector) -> Vector:
    """The perturbed gradient at the length of the current one (StableSAM).

        d = p ||g|| / ||p||

    Args:
        g: The current gradient.
        p: The perturbed gradient.

    Returns:
        The direction; 0 if `p` is 0.

    Example:
        >>> g, p = Vector([torch.tensor([1.0, 0.0])]), Vector([torch.tensor([3.0, 4.0])])
        >>> renormalized(g, p).parts[0]
        tensor([0.6000, 0.8000])
    """
    norm = p.norm()
    return p * torch.where(norm == 0, 0.0, g.norm() / norm)


def centralized(g: Vector, p: Vector) -> Vector:
    """The perturbed gradient less its mean over all axes but the first (GCSAM).

        d = p - mean p,   by output row

    Args:
        g: The current gradient, which does not matter here.
        p: The perturbed gradient.

    Returns:
        The direction; vectors are not centralised.

    Example:
        >>> centralized(Vector([None]), Vector([torch.tensor([[1.0, 3.0]])])).parts[0]
        tensor([[-1.,  1.]])
    """
    return p.map(centred)


def perturbed_magnitude(g: Vector, p: Vector) -> Vector:
    """The size of the perturbed gradient with the sign of the current one, by coordinate.

        d = |p| sign(g)

    Args:
        g: The current gradient.
        p: The perturbed gradient.

    Returns:
        The direction; 0 where `g` is 0.

    Example:
        >>> g, p = Vector([torch.tensor([-1.0])]), Vector([torch.tensor([3.0])])
        >>> perturbed_magnitude(g, p).parts[0]
        tensor([-3.])
    """
    return g.map(lambda current, seen: seen.abs() * current.sign(), p)


def perturbed_direction(g: Vector, p: Vector) -> Vector:
    """The sign of the perturbed gradient with the size of the current one, by coordinate.

        d = sign(p) |g|

    Args:
        g: The current gradient.
        p: The perturbed gradient.

    Returns:
        The direction; 0 where `p` is 0.

    Example:
        >>> g, p = Vector([torch.tensor([-1.0])]), Vector([torch.tensor([3.0])])
        >>> perturbed_direction(g, p).parts[0]
        tensor([1.])
    """
    return g.map(lambda current, seen: current.abs() * seen.sign(), p)


def clipped(g: Vector, p: Vector, *, times: float) -> Vector:
    """The perturbed gradient, each coordinate limited to a multiple of the current one's size.

        d = sign(p) min(|p|, times |g|)

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        times: The largest growth of a coordinate that is let through.

    Returns:
        The direction.

    Example:
        >>> g, p = Vector([torch.tensor([2.0, 2.0])]), Vector([torch.tensor([-9.0, 1.0])])
        >>> clipped(g, p, times=3.0).parts[0]
        tensor([-6.,  1.])
    """
    return g.map(lambda current, seen: seen.clamp(-times * current.abs(), times * current.abs()), p)


def regionwise(g: Vector, p: Vector, *, chosen: Collection[Region]) -> Vector:
    """The perturbed gradient in the chosen regions, the current one elsewhere.

        d = p on the chosen regions, g elsewhere

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        chosen: The regions that take `p`.

    Returns:
        The direction.

    Example:
        >>> g, p = Vector([torch.tensor([1.0, 1.0])]), Vector([torch.tensor([2.0, -2.0])])
        >>> regionwise(g, p, chosen={Region.STEEPER}).parts[0]
        tensor([2., 1.])
    """
    return regions.where(g, p, chosen, p, g)


def rescaled_by_region(g: Vector, p: Vector, *, factor: Mapping[Region, float]) -> Vector:
    """The perturbed gradient, times a factor by region; 1 where a region is not named.

        d = factor[region] p

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        factor: The factor of each region.

    Returns:
        The direction.

    Example:
        >>> g, p = Vector([torch.tensor([1.0, 1.0])]), Vector([torch.tensor([2.0, 0.5])])
        >>> rescaled_by_region(g, p, factor={Region.GENTLER: 0.5}).parts[0]
        tensor([2.0000, 0.2500])
    """
    return p * regions.factors(g, p, factor)


def forgetful(g: Vector, p: Vector, *, strength: float) -> Vector:
    """The perturbed gradient, its reversed part rescaled to a share of the rest's length.

        d = l + strength ||l|| / ||h|| h,   h = p where it is reversed, l = p elsewhere

    Args:
        g: The current gradient.
        p: The perturbed gradient.
        strength: The length of the reversed part, over that of the rest.

    Returns:
        The direction; `p` if nothing is reversed.

    Example:
        >>> g, p = Vector([torch.tensor([1.0, 1.0])]), Vector([torch.tensor([4.0, -1.0])])
        >>> forgetful(g, p, strength=0.5).parts[0]
        tensor([ 4., -2.])
    """
    reverse = {Region.REVERSED_STEEPER, Region.REVERSED_GENTLER}
    h = regions.where(g, p, reverse, p, p.zeros_like())
    rest = p - h
    norm = h.norm()
    return rest + h * torch.where(norm == 0, 0.0, strength * rest.norm() / norm)


def legacy_regionwise(g: Vector, p: Vector, *, chosen: Collection[Region]) -> Vector:
    """`regionwise` with the published masks, boundary cases included (`regions.legacy_mask`)."""
    return g.map(lambda a, b: torch.where(regions.legacy_mask(a, b, chosen), b, a), p)
