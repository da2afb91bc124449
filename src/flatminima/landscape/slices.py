"""The loss along a line and on a plane through a point.

Every loss is evaluated where its coordinates say, with what the objective returns there: nothing is
clipped, filled in or interpolated, and nan stays nan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from flatminima.landscape.cells import Progress, Share, evaluated
from flatminima.objective import Objective
from flatminima.vector import Vector

__all__ = ["Progress", "Reach", "Slice1D", "Slice2D", "merged", "slice_1d", "slice_2d"]

Reach: TypeAlias = float | Sequence[float] | Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice1D:
    """The loss along a line."""

    reach: Tensor  # (n,) float64, multiples of the direction
    loss: Tensor  # (n,) float64; nan where it is not done or no number
    done: Tensor  # (n,) bool

    @property
    def diverged(self) -> int:
        """How many of the losses that were computed are not finite."""
        return int((self.done & ~self.loss.isfinite()).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice2D:
    """The loss on a plane."""

    one: Tensor  # (n,) float64, multiples of the first direction
    two: Tensor  # (m,) float64, multiples of the second
    loss: Tensor  # (n, m) float64, loss[i, j] at one[i] and two[j]; nan if not done or no number
    done: Tensor  # (n, m) bool
    cosine: float  # of the directions: 0 where a picture shows right angles rightly

    @property
    def diverged(self) -> int:
        """How many of the losses that were computed are not finite."""
        return int((self.done & ~self.loss.isfinite()).sum())


Slice = TypeVar("Slice", Slice1D, Slice2D)


def slice_1d(
    objective: Objective,
    w: Vector,
    direction: Vector,
    reach: Reach,
    points: int = 51,
    *,
    progress: Progress | None = None,
    file: Path | str | None = None,
    share: Share = (0, 1),
) -> Slice1D:
    """The loss along a line through `w`.

        loss_i = f(w + reach_i d)

    Args:
        objective: The function f.
        w: The point at 0.
        direction: The direction d; as long as it is, it is the unit of `reach`.
        reach: How far to go: a number r for -r to r, a pair (low, high), or the multiples
            themselves, as a tensor or as a sequence of another length than 2.
        points: How many, evenly spaced; an odd number has 0 among them where the reach is
            symmetric.
        progress: Called with (points done, points in all) after each.
        file: Where to keep the losses, as npz. The same call with the same file goes on where it
            was stopped, by a kill too, and comes to the same bytes; it takes one evaluation to see
            that the file is about this slice.
        share: (i, n) evaluates every n-th point from the i-th, with a file of its own, so that n
            processes share the work; put them together with `merged`.

    Returns:
        The multiples and the losses, one where the objective was not finite included.

    Raises:
        ValueError: If `reach` or `points` describe no line, `share` no share, or the file is about
            another slice.

    Cost: one forward pass over the data per point.

    Example:
        >>> f, w = Objective(lambda w: w.dot(w)), Vector([torch.tensor([0.0])])
        >>> slice_1d(f, w, Vector([torch.tensor([1.0])]), reach=2.0, points=5).loss
        tensor([4., 1., 0., 1., 4.], dtype=torch.float64)
    """
    axis = _axis(reach, points)
    steps = axis.tolist()
    cells = evaluated(
        lambda cell: objective.value(w + steps[cell[0]] * direction),
        (len(axis),),
        share=share,
        file=file,
        about=_about(objective, w, direction, axis) if file is not None else None,
        progress=progress,
    )
    return Slice1D(reach=axis, loss=cells.loss, done=cells.done)


def slice_2d(
    objective: Objective,
    w: Vector,
    one: Vector,
    two: Vector,
    reach: Reach | tuple[Reach, Reach],
    points: int | tuple[int, int] = 25,
    *,
    progress: Progress | None = None,
    file: Path | str | None = None,
    share: Share = (0, 1),
) -> Slice2D:
    """The loss on the plane through `w` that two directions span.

        loss_ij = f(w + a_i d_1 + b_j d_2)

    Args:
        objective: The function f.
        w: The point at (0, 0).
        one: The direction d_1.
        two: The direction d_2; the two are used as they are, also where they are not orthogonal.
        reach: As for `slice_1d`, for both axes; or a pair of these, one for each.
        points: How many on each axis, or a pair.
        progress: As for `slice_1d`.
        file: As for `slice_1d`.
        share: As for `slice_1d`.

    Returns:
        The multiples along each axis, the losses, and the cosine of the directions.

    Raises:
        ValueError: If `reach` or `points` describe no plane, `share` no share, or the file is about
            another slice.

    Cost: one forward pass over the data per point: 625 of them by default.

    Example:
        >>> f = Objective(lambda w: w.parts[0].square().sum())
        >>> w, one, two = (Vector([torch.tensor(x)]) for x in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
        >>> slice_2d(f, w, one, two, reach=([0.0, 1.0, 2.0], (0.0, 1.0)), points=2).loss
        tensor([[0., 1.],
                [1., 2.],
                [4., 5.]], dtype=torch.float64)
    """
    reach_one, reach_two = _pair(reach)
    points_one, points_two = points if isinstance(points, tuple) else (points, points)
    rows, columns = _axis(reach_one, points_one), _axis(reach_two, points_two)
    a, b = rows.tolist(), columns.tolist()
    cells = evaluated(
        lambda cell: objective.value(w + a[cell[0]] * one + b[cell[1]] * two),
        (len(rows), len(columns)),
        share=share,
        file=file,
        about=_about(objective, w, one, rows, two, columns) if file is not None else None,
        progress=progress,
    )
    cosine = float(one.dot(two) / (one.norm() * two.norm()))
    return Slice2D(one=rows, two=columns, loss=cells.loss, done=cells.done, cosine=cosine)


def merged(slices: Sequence[Slice]) -> Slice:
    """One slice of the shares that several processes computed.

    Args:
        slices: The shares, of the same slice.

    Returns:
        The slice; nan where none of them has the loss.

    Raises:
        ValueError: If they are not shares of one slice.

    Example:
        >>> f, w = Objective(lambda w: w.dot(w)), Vector([torch.tensor([1.0])])
        >>> halves = [slice_1d(f, w, w, reach=1.0, points=3, share=(i, 2)) for i in range(2)]
        >>> halves[0].loss, merged(halves).loss
        (tensor([0., nan, 4.], dtype=torch.float64), tensor([0., 1., 4.], dtype=torch.float64))
    """
    if not slices:
        raise ValueError("slices must hold at least one share, got none")
    first = slices[0]
    if not all(_same_axes(first, other) for other in slices):
        raise ValueError("slices must be shares of one slice, got different points")
    loss, done = first.loss.clone(), first.done.clone()
    for other in slices[1:]:
        loss = torch.where(other.done, other.loss, loss)
        done = done | other.done
    return replace(first, loss=loss, done=done)


def _same_axes(one: Slice1D | Slice2D, two: Slice1D | Slice2D) -> bool:
    if isinstance(one, Slice2D) and isinstance(two, Slice2D):
        return torch.equal(one.one, two.one) and torch.equal(one.two, two.two)
    if isinstance(one, Slice1D) and isinstance(two, Slice1D):
        return torch.equal(one.reach, two.reach)
    return False


def _about(objective: Objective, w: Vector, *rest: Vector | Tensor) -> dict[str, Tensor | Vector]:
    """What determines a slice; the loss at `w` stands for the data."""
    return {"loss": objective.value(w), "w": w} | {str(i): part for i, part in enumerate(rest)}


def _pair(reach: Reach | tuple[Reach, Reach]) -> tuple[Reach, Reach]:
    """One reach per axis; a pair of numbers is one reach, (low, high), for both."""
    if isinstance(reach, tuple) and len(reach) == 2:
        one, two = reach
        if not (isinstance(one, int | float) and isinstance(two, int | float)):
            return one, two
    return cast(Reach, reach), cast(Reach, reach)


def _axis(reach: Reach, points: int) -> Tensor:
    """The multiples along an axis, (n,) in float64."""
    ends = (-reach, reach) if isinstance(reach, int | float) else reach
    axis = torch.as_tensor(ends, dtype=torch.float64, device="cpu").detach()
    if axis.dim() != 1 or len(axis) == 0 or not bool(axis.isfinite().all()):
        raise ValueError(f"reach must be finite numbers in one row, got {reach}")
    if isinstance(reach, Tensor) or len(axis) != 2:
        return axis
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    if not axis[0] < axis[1]:
        raise ValueError(f"reach must be > 0, or (low, high) with low < high, got {reach}")
    # lerp hits both ends exactly, and 0 in the middle: linspace may miss it by a rounding.
    shares = torch.arange(points, dtype=torch.float64, device="cpu") / (points - 1)
    return torch.lerp(axis[0], axis[1], shares)
