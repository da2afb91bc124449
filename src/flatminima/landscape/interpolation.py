"""The loss on the way from one solution to another, and how high the pass between them is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flatminima.landscape.cells import Progress
from flatminima.landscape.directions import between
from flatminima.landscape.slices import Slice1D, slice_1d
from flatminima.objective import Objective
from flatminima.vector import Vector

__all__ = ["Interpolation", "interpolation"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Interpolation:
    """The loss on a straight line from one solution, at 0, to another, at 1."""

    line: Slice1D
    distance: float  # || other - w ||, the length that 1 stands for

    @property
    def barrier(self) -> float:
        """How far the loss rises over the chord between the two ends; nan if it is no number.

        max over t in [0, 1] of f(t) - ((1 - t) f(0) + t f(1))
        """
        at, loss = self._inside()
        return float((loss - torch.lerp(loss[0], loss[-1], at)).max())

    def _inside(self) -> tuple[Tensor, Tensor]:
        kept = (self.line.reach >= 0) & (self.line.reach <= 1)
        return self.line.reach[kept], self.line.loss[kept]


def interpolation(
    objective: Objective,
    w: Vector,
    other: Vector,
    *,
    points: int = 41,
    beyond: float = 0.5,
    progress: Progress | None = None,
    file: Path | str | None = None,
) -> Interpolation:
    """The loss on the straight line between two solutions and a little beyond them.

        loss(t) = f((1 - t) w + t w'),   -beyond <= t <= 1 + beyond

    A minimum that is wide in the direction of another one, and sharp on its far side, shows here
    and in no symmetric slice.

    Args:
        objective: The function f. With running statistics of batch norm, all points use those of
            the model that the objective was made of; batch statistics treat both ends alike.
        w: The solution at 0: one of plain training, say.
        other: The solution at 1: one of SAM.
        points: How many from 0 to 1, both among them, evenly spaced.
        beyond: How far to go on at both ends.
        progress: As for `slice_1d`.
        file: As for `slice_1d`.

    Returns:
        The losses, the distance of the two, and the barrier between them.

    Raises:
        ValueError: If `points` is below 2 or `beyond` is negative.

    Source: Goodfellow et al. 2015, arXiv:1412.6544 (the line); Entezari et al. 2022,
    arXiv:2110.06296 (the barrier over the chord).
    Cost: one forward pass over the data per point: 81 by default.

    Example:
        >>> f = Objective(lambda w: (w.parts[0].square() - 1).square().sum())
        >>> ends = [Vector([torch.tensor([x])]) for x in (-1.0, 1.0)]
        >>> found = interpolation(f, *ends, points=3)
        >>> found.line.reach, found.barrier
        (tensor([-0.5000,  0.0000,  0.5000,  1.0000,  1.5000], dtype=torch.float64), 1.0)
    """
    if points < 2 or not beyond >= 0:
        raise ValueError(
            f"points must be at least 2 and beyond >= 0, got {points} and {beyond}; "
            "the line has both ends on it"
        )
    further = int(beyond * (points - 1) + 1e-9)
    places = torch.arange(-further, points + further, dtype=torch.float64, device="cpu")
    line = slice_1d(
        objective, w, between(w, other), places / (points - 1), progress=progress, file=file
    )
    return Interpolation(line=line, distance=float(between(w, other).norm()))
