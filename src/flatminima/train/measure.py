"""What is measured of a trained network: curvature, and the loss around its weights."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from flatminima import landscape, sharpness
from flatminima.data import Part
from flatminima.landscape.directions import filter_normalized
from flatminima.objective import Objective
from flatminima.sharpness.estimate import stream
from flatminima.vector import Vector

__all__ = ["Measure", "measured"]

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Settings of what is measured of a network, on training examples and their given labels."""

    examples: int = 1000
    """How many training examples the loss is the mean of: the first ones."""
    eigenvalues: int = 5
    """How many of the largest eigenvalues of the Hessian."""
    reach: float = 1.0
    """How far the slices go to either side; 1 is as long as the filters' own weights."""
    points: int = 41
    """Points of the one-dimensional slice."""
    surface_points: int | None = None
    """Points along each side of the two-dimensional slice; None leaves it out."""
    seed: int = 0
    """Decides the directions and the start of the eigenvalue iteration; not the run's seed."""

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1, got {self.examples}.")
        if self.eigenvalues < 1:
            raise ValueError(f"eigenvalues must be at least 1, got {self.eigenvalues}.")
        if not self.reach > 0:
            raise ValueError(f"reach must be > 0, got {self.reach}.")
        if min(self.points, self.surface_points or 2) < 2:
            raise ValueError(
                "points and surface_points must be at least 2, "
                f"got {self.points} and {self.surface_points}."
            )


def measured(model: nn.Module, part: Part, measure: Measure) -> Result:
    """Measure a network.

    Every network is measured along directions drawn from the same seed, so that the methods of a
    study can be compared.

    Args:
        model: The network, left as it is.
        part: The training part, on the network's device.
        measure: The settings.

    Returns:
        `gradient_norm`, `hessian`, `slice_1d` and, if asked for, `slice_2d`: plain numbers and
        lists.
    """
    part = part.take(slice(measure.examples))

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y)

    objective, w = Objective.of_model(model, loss_fn, [(part.inputs(), part.labels)])
    generator = stream(measure.seed)
    one, two = (filter_normalized(w, generator) for _ in range(2))
    result = {
        "gradient_norm": float(objective.gradient(w).norm()),
        "hessian": _hessian(objective, w, measure),
        "slice_1d": _slice_1d(objective, w, one, measure),
    }
    if measure.surface_points:
        result["slice_2d"] = _slice_2d(
            objective, w, one, two, reach=measure.reach, points=measure.surface_points
        )
    return result


def _hessian(objective: Objective, w: Vector, measure: Measure) -> Result:
    """The largest eigenvalues with their residuals."""
    pairs = sharpness.top_eigenpairs(
        sharpness.Hessian(objective, w), k=measure.eigenvalues, seed=measure.seed
    )
    return {
        "values": pairs.values.tolist(),
        "residuals": pairs.residuals.tolist(),
        "products": pairs.products,
        "converged": bool(pairs.converged),
    }


def _slice_1d(objective: Objective, w: Vector, direction: Vector, measure: Measure) -> Result:
    """The loss along a line through the weights."""
    line = landscape.slice_1d(objective, w, direction, measure.reach, measure.points)
    return {"reach": line.reach.tolist(), "loss": line.loss.tolist()}


def _slice_2d(
    objective: Objective, w: Vector, one: Vector, two: Vector, *, reach: float, points: int
) -> Result:
    """The loss on a plane through the weights."""
    plane = landscape.slice_2d(objective, w, one, two, reach, points)
    loss = plane.loss.T  # the report, as plotly does, has a row for each place along `two`
    return {"one": plane.one.tolist(), "two": plane.two.tolist(), "loss": loss.tolist()}
