"""Worst-case sharpness: the largest rise of the loss within a ball around the weights.

The ball may be scaled by the weights (adaptive sharpness). The rise is found by ascent from several
starts, since there are local maxima: each start gives a lower bound, and the best of them counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flatminima.objective import Objective
from flatminima.sharpness.ascent import Ascent, Hill, ascend
from flatminima.sharpness.estimate import stream
from flatminima.sharpness.units import Unit, units
from flatminima.vector import Vector

__all__ = ["WorstCase", "ascents", "check_search", "worst_case"]


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstCase:
    """The largest rise of the loss that was found within a ball, and how well it was looked for.

    Where the starts disagree much there are several local maxima, and more starts may find a higher
    one.
    """

    value: float  # the largest rise; a lower bound of the maximum
    loss: float  # at the weights
    displacement: Vector  # e, where it was found
    rises: tuple[float, ...]  # one for each start, the first one from the weights themselves
    winner: int  # which start it was, from 0
    gap: float  # what the slope there still promises within the ball, in units of the loss
    gradients: int  # evaluations of the gradient, over all starts
    converged: bool  # whether the winner's gap is within the tolerance

    @property
    def spread(self) -> float:
        """The best start's rise less the worst one's; 0 says that all starts agree."""
        return max(self.rises) - min(self.rises)

    def __repr__(self) -> str:
        state = "converged" if self.converged else "NOT converged"
        return (
            f"WorstCase({self.value:.5g} by start {self.winner} of {len(self.rises)}, "
            f"spread {self.spread:.1g}; {state}, gap {self.gap:.1g}, {self.gradients} gradients)"
        )


def worst_case(
    objective: Objective,
    w: Vector,
    rho: float,
    p: float = 2,
    scale: Unit = "one",
    restarts: int = 4,
    seed: int = 0,
    *,
    eta: float = 0.0,
    steps: int = 100,
    tolerance: float = 1e-6,
) -> WorstCase:
    """The worst-case (adaptive) sharpness: how much the loss can rise within a ball.

        max f(w + e) - f(w)   over   || e / c ||_p <= rho

    Args:
        objective: The function f, with whatever normalisation of logits its loss has.
        w: The weights.
        rho: The radius, in units of c.
        p: The order of the ball's norm, 2 or inf.
        scale: The unit c of each weight: `one`, or its `element`, `filter` or `layer` size. With
            `element`, rescaling ReLU layers that cancel changes nothing. A weight of 0 has the unit
            eta, and stays where it is if that is 0.
        restarts: How many starts. The first is at the weights, the others at random points of the
            ball, in opposite pairs: both ends of the sharpest direction are local maxima.
        seed: Of the random starts.
        eta: Added to the size of a weight.
        steps: The most gradients for each start. Published figures take 20 steps of another method
            (APGD) from one start.
        tolerance: A start ends when its gap is within this multiple of its rise.

    Returns:
        The largest rise, with the displacement that causes it and how the starts compare.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Andriushchenko et al. 2023, arXiv:2302.07011. With `one` and p = 2 it is what SAM
    minimises beside the loss: Foret et al. 2021, arXiv:2010.01412.
    Differs: their code ascends by APGD from one start and divides by c.
    Cost: at most `restarts * steps` gradients, and one evaluation of the loss.

    Example:
        >>> import torch
        >>> f = Objective(lambda w: 0.5 * w.dot(Vector([torch.tensor([3.0, 1.0])]) * w))
        >>> found = worst_case(f, Vector([torch.zeros(2)]), rho=0.1)
        >>> round(found.value, 6), found.converged  # 0.1^2 3 / 2, though the slope at w is 0
        (0.015, True)
    """
    check_search(rho, restarts, steps, tolerance)
    if p not in (2, math.inf):
        raise ValueError(f"p must be 2 or inf, got {p}")
    hill = Hill(objective=objective, w=w, c=units(w, scale, eta=eta), rho=rho, p=p)
    found = ascents(hill, restarts, seed, steps=steps, tolerance=tolerance)
    winner = max(range(restarts), key=lambda index: found[index].height)
    best = found[winner]
    return WorstCase(
        value=best.rise,
        loss=hill.loss,
        displacement=hill.c * best.u,
        rises=tuple(ascent.rise for ascent in found),
        winner=winner,
        gap=best.gap,
        gradients=sum(ascent.gradients for ascent in found),
        converged=best.converged,
    )


def ascents(hill: Hill, restarts: int, seed: int, *, steps: int, tolerance: float) -> list[Ascent]:
    """One ascent from the weights, and further ones from random points in opposite pairs.

    Args:
        hill: The loss and the ball.
        restarts: How many starts.
        seed: Of the random points.
        steps: The most gradients for each start.
        tolerance: Of the gap, relative to the rise.

    Returns:
        One ascent per start.
    """
    generator = stream(seed)
    starts = [hill.w.zeros_like()]
    while len(starts) < restarts:
        z = hill.anywhere(generator)
        starts += [z, -z]
    return [ascend(hill, u, steps=steps, tolerance=tolerance) for u in starts[:restarts]]


def check_search(rho: float, restarts: int, steps: int, tolerance: float) -> None:
    """Refuse settings with which there is nothing to search, or no search.

    Args:
        rho: The radius.
        restarts: The number of starts.
        steps: The gradients for each.
        tolerance: Of the gap.

    Raises:
        ValueError: If one of them is out of its range.
    """
    if not (rho > 0 and math.isfinite(rho)):
        raise ValueError(f"rho must be > 0 and finite, got {rho}")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}; the first is at w")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be >= 0, got {tolerance}")
