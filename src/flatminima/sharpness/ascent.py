"""The highest point of a loss within a ball around the weights, by monotone ascent with momentum.

With e = c u the ball is a plain one, ||u||_p <= rho, and the slope in u is g = c grad f. From u:

    x     = P(u + a rho g / ||g||_2)      rho sign(g) for p = inf; P projects onto the ball
    u'    = P(x + k / (k + 3) d)          d is the last step, k the steps since the last fall

A rise is taken. A fall forgets the momentum first (k = 0), and if there was none halves a. The
first a is so far that x lies on the boundary: for a convex loss that is the power method, which
always rises; a shrinks where the loss bends down.

It stops on the gap, max over the ball of <g, v - u> = rho ||g||_q - <g, u> with 1/p + 1/q = 1: what
the slope at u still promises, and 0 where u is stationary; or where that is less than the loss can
resolve.

Source: the method is ours. Restarting the momentum at a fall: O'Donoghue and Candes 2015, "Adaptive
restart for accelerated gradient schemes".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from flatminima import perturb
from flatminima.objective import Objective
from flatminima.vector import Vector

__all__ = ["Ascent", "Hill", "ascend"]

FAR = 1e6
"""A first step, in radii, that ends on the boundary wherever it begins."""
SHORT = 1e-9
"""A step, in radii, that is too short for the loss to tell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hill:
    """A loss around the weights, as a function of u in a plain ball.

    Example:
        >>> f = Objective(lambda w: w.dot(w))
        >>> w = Vector([torch.zeros(1)])
        >>> hill = Hill(objective=f, w=w, c=Vector([torch.ones(1)]), rho=0.5, p=2)
        >>> top = ascend(hill, Vector([torch.tensor([0.1])]), steps=10, tolerance=1e-6)
        >>> round(top.rise, 6), top.converged
        (0.25, True)
    """

    objective: Objective
    w: Vector
    c: Vector  # the unit of each weight
    rho: float
    p: float  # 2 or inf
    loss: float = field(init=False)  # at the weights
    resolution: float = field(init=False)  # the smallest change of the loss that shows

    def __post_init__(self) -> None:
        value = self.objective.value(self.w)
        object.__setattr__(self, "loss", float(value))
        object.__setattr__(self, "resolution", torch.finfo(value.dtype).eps * abs(self.loss))

    def at(self, u: Vector) -> tuple[float, Vector]:
        """The rise of the loss at w + c u, and the slope in u."""
        value, gradient = self.objective.value_and_gradient(self.w + self.c * u)
        return float(value) - self.loss, self.c * gradient

    def inside(self, u: Vector) -> Vector:
        """The nearest point of the ball."""
        if self.p == 2:
            return perturb.projected(u, self.rho)
        return u.map(lambda part: part.clamp(-self.rho, self.rho))

    def uphill(self, slope: Vector) -> Vector:
        """The point of the ball that is furthest along a slope; 0 where the slope is 0."""
        return perturb.normalized(self.w, slope, self.rho, p=self.p)

    def gap(self, u: Vector, slope: Vector) -> float:
        """What a slope at `u` promises at most within the ball, in units of the loss."""
        return max(float(slope.dot(self.uphill(slope) - u)), 0.0)

    def anywhere(self, generator: torch.Generator) -> Vector:
        """A random point: on the sphere for p = 2, in the cube for p = inf."""
        z = self.w.randn_like(generator)
        if self.p == 2:
            return z * (self.rho / z.norm())
        return z.map(lambda part: torch.erf(part / math.sqrt(2.0))) * self.rho


@dataclass(frozen=True, kw_only=True, eq=False)
class Ascent:
    """Where one start led."""

    rise: float  # f(w + c u) - f(w)
    u: Vector
    gap: float  # in units of the loss
    gradients: int  # evaluations
    converged: bool  # it has risen, and the gap is within the tolerance

    @property
    def height(self) -> float:
        """The rise, by which ascents compare: one that is not a number is not to be missed."""
        return math.inf if math.isnan(self.rise) else self.rise


def ascend(hill: Hill, start: Vector, *, steps: int, tolerance: float) -> Ascent:
    """Climb from one point of the ball.

    Args:
        hill: The loss and the ball.
        start: A point of the ball.
        steps: The most evaluations of the gradient.
        tolerance: It ends when the gap is within this multiple of the rise.

    Returns:
        The highest point on the way. Where the loss is not finite the climb ends there.

    Cost: `steps` gradients at most.
    """
    u, last = start, None
    rise, slope = hill.at(u)
    gap = hill.gap(u, slope)
    reach, since, gradients = FAR, 0, 1
    while gap > _enough(hill, rise, tolerance) and gradients < steps and reach > SHORT:
        x = hill.inside(u + reach * hill.uphill(slope))
        new = hill.inside(x + since / (since + 3) * last) if last is not None else x
        higher, its_slope = hill.at(new)
        gradients += 1
        if higher > rise or not math.isfinite(higher):
            last, since = new - u, since + 1
            u, rise, slope = new, higher, its_slope
            gap = hill.gap(u, slope)
        elif last is not None:
            last, since = None, 0
        else:
            reach = min(reach, 2.0) / 2.0
    converged = 0 < rise < math.inf and gap <= _enough(hill, rise, tolerance)
    return Ascent(rise=rise, u=u, gap=gap, gradients=gradients, converged=converged)


def _enough(hill: Hill, rise: float, tolerance: float) -> float:
    """The gap at which to stop; infinite where the loss is not a number to climb on."""
    return max(tolerance * abs(rise), hill.resolution) if math.isfinite(rise) else math.inf
