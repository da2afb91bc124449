"""Which minimum each start ends in, and how sharp that minimum is.

    minima(surface)          every minimum in the box: Newton's method from a grid, and known ones
    basins(ended, minima)    the number of the minimum that each start ended in, with the shares

A start has ended in a minimum if it is within a stated distance of it. What is at none of them, on
a ridge say, is counted as that, and what diverged as that: neither is put to the nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from flatminima.landscape.descent import Descents
from flatminima.landscape.surfaces import Surface

__all__ = ["Basins", "Minima", "Share", "basins", "minima", "wilson"]

NOWHERE, DIVERGED = -1, -2
KNOWN = 1e-6  # of the box: a minimum that is found so close to a known one is that one
LEVEL = 1e-6  # of the largest slope or curvature: less than that is level ground


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of n, as a share, with its 95 % interval."""

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.count / self.n

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Minima:
    """The minima of a surface within its box, the lowest first."""

    points: Tensor  # (k, 2)
    values: Tensor  # (k,), the heights
    sharpness: Tensor  # (k,), the Hessian's largest eigenvalue; inf at a cusp or on an edge

    def __len__(self) -> int:
        return len(self.points)

    @property
    def flattest(self) -> int:
        """The number of the flattest of the minima."""
        return int(self.sharpness.argmin())

    @property
    def sharpest(self) -> int:
        """The number of the sharpest of the minima."""
        return int(self.sharpness.argmax())


@dataclass(frozen=True, kw_only=True, eq=False)
class Basins:
    """Where starts ended."""

    index: Tensor  # (n,) int64, the number of the minimum; -1 at none of them, -2 diverged
    shares: tuple[Share, ...]  # (k,), of each minimum
    nowhere: Share
    diverged: Share


def wilson(count: int, n: int, level: float = 0.95) -> Share:
    """A share with the interval that holds the true one, by Wilson's score.

        (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n),   p = count / n

    Unlike p -+ z sqrt(p (1 - p)/n), it is right for shares near 0 and 1. It takes the n to be drawn
    independently; starts on a grid are more even than that, so that it is rather too wide.

    Args:
        count: How many.
        n: Of how many.
        level: The probability that the interval holds the true share.

    Returns:
        The share and its interval.

    Raises:
        ValueError: Unless 0 <= count <= n and n > 0.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.

    Example:
        >>> print(wilson(10, 100))
        10.0 % [5.5, 17.4]
    """
    if not (n > 0 and 0 <= count <= n):
        raise ValueError(f"count must be between 0 and n, and n positive, got {count} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = count / n
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1.0, 1.0))
    return Share(count=count, n=n, low=0.0 if count == 0 else low, high=1.0 if count == n else high)


def minima(surface: Surface, side: int = 50, steps: int = 40) -> Minima:
    """Every minimum of a surface within its box that Newton's method finds from a grid.

        w <- w - s |H|^-1 g,   |H| = the Hessian with the absolute values of its eigenvalues,

    with s halved until the height falls. A minimum is where the slope is 0, the last step is of no
    length and both eigenvalues are positive. Minima that the surface knows are among them, whether
    found or not: a cusp, or one on the edge, has no such point.

    Args:
        surface: The surface.
        side: How many starts along each axis.
        steps: How many steps.

    Returns:
        The minima, the lowest first.

    Cost: side^2 starts, each with `steps` Hessians: about a second by default.

    Example:
        >>> from flatminima.landscape.surfaces import himmelblau
        >>> found = minima(himmelblau, side=8)
        >>> len(found), found.sharpness.round()
        (4, tensor([ 82.,  81., 105., 134.], dtype=torch.float64))
    """
    points = surface.grid(side).double().reshape(-1, 2)
    width = _width(surface)
    steepest = surface.gradients(points).norm(dim=-1).nan_to_num().max()
    for _ in range(steps):
        points = points + _newton(surface, points, 0.05 * width)
    still = _newton(surface, points, 0.05 * width).norm(dim=-1) <= KNOWN * width
    level = surface.gradients(points).norm(dim=-1) <= LEVEL * steepest
    points = points[still & level & _within(surface, points)]
    curvatures = torch.linalg.eigvalsh(surface.hessians(points))
    if len(points):
        bent = curvatures[:, 0] > LEVEL * curvatures[:, 1].max()
        points, curvatures = points[bent], curvatures[bent]
    known = torch.tensor([minimum.at for minimum in surface.minima], dtype=points.dtype)
    sharp = [_sharpness(surface, minimum.at, minimum.kind) for minimum in surface.minima]
    points = torch.cat((known.reshape(-1, 2), points))  # the known first: of equals the first stays
    sharpness = torch.cat((torch.tensor(sharp, dtype=points.dtype), curvatures[:, 1]))
    keep = _apart(points, KNOWN * width * 100)
    points, sharpness = points[keep], sharpness[keep]
    values = surface.values(points)
    order = values.argsort(stable=True)
    return Minima(points=points[order], values=values[order], sharpness=sharpness[order])


def basins(ended: Descents, found: Minima, within: float | None = None) -> Basins:
    """Which minimum each descent ended in.

    Args:
        ended: The descents.
        found: The minima.
        within: A descent has ended in the nearest minimum if it is no further from it than this;
            `None` is half of the smallest distance between two minima, so that no point is in two.

    Returns:
        The number of the minimum of each, and the share of each minimum with its interval.

    Raises:
        ValueError: If there are no minima, or `within` is not positive.

    Example:
        >>> from functools import partial
        >>> from flatminima.landscape import descents, surfaces
        >>> valleys = surfaces.two_valleys()
        >>> sgd = partial(torch.optim.SGD, lr=0.002)
        >>> ended = descents(valleys, valleys.grid(10).reshape(-1, 2), sgd, steps=300)
        >>> for share in basins(ended, minima(valleys, side=8), within=0.3).shares:
        ...     print(share)
        6.0 % [2.8, 12.5]
        94.0 % [87.5, 97.2]
    """
    if not len(found):
        raise ValueError("found must hold at least one minimum, got none")
    if within is None:
        apart = torch.pdist(found.points)
        within = float(apart.min()) / 2 if len(found) > 1 else math.inf
    if not within > 0:
        raise ValueError(f"within must be positive, got {within}")
    away = torch.cdist(ended.ends.to(found.points), found.points)
    near, index = away.min(dim=-1)
    index = torch.where(near <= within, index, NOWHERE)
    index = torch.where(ended.diverged > 0, DIVERGED, index)
    n = len(index)

    def share(number: int) -> Share:
        return wilson(int((index == number).sum()), n)

    return Basins(
        index=index,
        shares=tuple(share(number) for number in range(len(found))),
        nowhere=share(NOWHERE),
        diverged=share(DIVERGED),
    )


def _newton(surface: Surface, points: Tensor, longest: float) -> Tensor:
    """One step of Newton's method from each point, downhill and no longer than `longest`."""
    slope, bend = surface.gradients(points), surface.hessians(points)
    usable = (slope.isfinite().all(-1) & bend.isfinite().all(-1).all(-1))[:, None]
    slope = torch.where(usable, slope, 0.0)
    curvatures, axes = torch.linalg.eigh(
        torch.where(usable[..., None], bend, torch.eye(2).to(bend))
    )
    along = (axes.mT @ slope[..., None])[..., 0] / curvatures.abs().clamp_min(1e-300)
    step = -(axes @ along[..., None])[..., 0]
    length = step.norm(dim=-1, keepdim=True)
    step = torch.where(length > longest, step / length * longest, step)
    height = surface.values(points)

    def higher() -> Tensor:
        # Not "not lower": at the bottom the height no longer changes, while the step still refines.
        return ~(surface.values(points + step) <= height)[:, None]

    for _ in range(30):
        if not bool((up := higher()).any()):
            break
        step = torch.where(up, step / 2, step)
    return torch.where(usable & ~higher(), step, 0.0)


def _within(surface: Surface, points: Tensor) -> Tensor:
    low, high = torch.tensor(surface.box, dtype=points.dtype).unbind(dim=1)
    return ((points >= low) & (points <= high)).all(dim=-1)


def _width(surface: Surface) -> float:
    """The diagonal of the box."""
    return math.hypot(*(high - low for low, high in surface.box))


def _sharpness(surface: Surface, at: tuple[float, float], kind: str) -> float:
    if kind != "smooth":
        return math.inf
    bend = surface.hessians(torch.tensor([at], dtype=torch.float64))
    return float(torch.linalg.eigvalsh(bend)[0, -1])


def _apart(points: Tensor, least: float) -> list[int]:
    """The numbers of points that are further than `least` from every one before them."""
    kept: list[int] = []
    left = torch.ones(len(points), dtype=torch.bool)
    for number in range(len(points)):
        if left[number]:
            kept.append(number)
            left &= (points - points[number]).norm(dim=-1) > least
    return kept
