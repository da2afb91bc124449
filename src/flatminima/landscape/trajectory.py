"""The path that training took: recorded, its principal directions, and its shadow on a plane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from flatminima.engine.observe import Step
from flatminima.vector import Vector

__all__ = ["Path2D", "Principal", "Trajectory", "principal", "projected"]


@dataclass
class Trajectory(Sequence[Vector]):
    """The weights every few steps: an observer of training, and a sequence of snapshots.

    Args:
        every: Keep the weights at every k-th step.
        folder: Keep each snapshot in a file there instead of in memory; one is loaded when asked
            for.

    The observer sees the weights before the step is taken; `record` takes those after the last one.

    Raises:
        ValueError: If `every` is not a positive whole number.

    Cost: a copy of the weights for each snapshot, on the host.

    Example:
        >>> path = Trajectory(every=10)
        >>> path.record(0, Vector([torch.zeros(2)]))
        >>> len(path), path[0].parts[0]
        (1, tensor([0., 0.]))
    """

    every: int = 1
    folder: Path | str | None = field(default=None, kw_only=True)
    steps: list[int] = field(default_factory=list[int], init=False)
    _kept: list[Vector | Path] = field(default_factory=list["Vector | Path"], init=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(
                f"every must be a positive whole number, got {self.every}; 1 is every step"
            )

    def __call__(self, step: Step) -> None:
        """Keep the weights, if this step is one to look at."""
        if step.step % self.every == 0:
            self.record(step.step, step.w)

    def record(self, step: int, w: Vector) -> None:
        """Keep weights by hand: in a loop without an observer, or after the last step.

        Args:
            step: The number of the step.
            w: The weights; they are copied.
        """
        copy = Vector(None if part is None else part.detach().cpu().clone() for part in w.parts)
        self.steps.append(step)
        if self.folder is None:
            self._kept.append(copy)
            return
        file = Path(self.folder) / f"{step:09d}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(list(copy.parts), file)
        self._kept.append(file)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Vector:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept = self._kept[index]
        return kept if isinstance(kept, Vector) else Vector(torch.load(kept, weights_only=True))

    def __iter__(self) -> Iterator[Vector]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Principal:
    """The directions in which a trajectory is longest."""

    directions: list[Vector]  # k of them, of norm 1, orthogonal
    explained: Tensor  # (k,) float64, the share of the squared distances to the origin along each
    singular_values: Tensor  # (T,) float64, descending


def principal(
    snapshots: Sequence[Vector], k: int = 2, *, origin: Vector | None = None
) -> Principal:
    """The principal directions of a trajectory, seen from its end.

        rows w_t - w_T,   directions: the top right singular vectors,   explained: s_i^2 / sum s^2

    They are taken from the T x T matrix of inner products in float64, two snapshots at a time.

    Args:
        snapshots: The weights along the way.
        k: How many directions.
        origin: What is subtracted; by default the last snapshot.

    Returns:
        The directions with the share that each explains.

    Raises:
        ValueError: If the trajectory does not span k directions.

    Source: Li et al. 2018, arXiv:1712.09913, section 7.
    Cost: T^2 / 2 inner products, and as many reads where snapshots are in files; two vectors of
    memory and k more.

    Example:
        >>> path = [Vector([torch.tensor([x, 0.0])]) for x in (4.0, 2.0, 0.0)]
        >>> found = principal(path, k=1)
        >>> found.directions[0].parts[0].abs(), found.explained
        (tensor([1., 0.]), tensor([1.], dtype=torch.float64))
    """
    end = snapshots[len(snapshots) - 1] if origin is None else origin
    gram = torch.zeros(len(snapshots), len(snapshots), dtype=torch.float64, device="cpu")
    for i in range(len(snapshots)):
        row = snapshots[i]
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = _dot(row, end, snapshots[j], end)
    values, weights = torch.linalg.eigh(gram)
    values, weights = values.flip(0).clamp(min=0.0), weights.flip(1)
    rank = int((values > 1e-12 * values[0]).sum()) if values[0] > 0 else 0
    if not 1 <= k <= rank:
        raise ValueError(
            f"k must be between 1 and the {rank} directions that the trajectory spans, got {k}"
        )
    directions = [end.zeros_like() for _ in range(k)]
    for t, snapshot in enumerate(snapshots):
        away = snapshot - end
        for i in range(k):
            factor = float(weights[t, i] / values[i].sqrt())
            directions[i] = directions[i] + factor * away
    return Principal(
        directions=[d / d.norm() for d in directions],
        explained=values[:k] / values.sum(),
        singular_values=values.sqrt(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Path2D:
    """A trajectory on a plane."""

    one: Tensor  # (T,) float64, multiples of the first direction
    two: Tensor  # (T,) float64, multiples of the second
    off: Tensor  # (T,) float64, the distance of the weights from the plane
    inside: float  # the share of the squared distances to `w` that lies in the plane


def projected(snapshots: Sequence[Vector], w: Vector, one: Vector, two: Vector) -> Path2D:
    """The points of a plane that are nearest to a trajectory.

        (a_t, b_t) = argmin || w_t - w - a d_1 - b d_2 ||

    Least squares, so that directions need be neither orthogonal nor of norm 1: the coordinates are
    those of a slice along the same directions.

    Args:
        snapshots: The weights along the way.
        w: The point of the plane at (0, 0).
        one: The direction d_1.
        two: The direction d_2.

    Returns:
        The coordinates, and how far from the plane each point is.

    Raises:
        ValueError: If the directions are parallel, or one of them is 0.

    Cost: a few inner products per snapshot.

    Example:
        >>> w, one, two = (Vector([torch.tensor(x)]) for x in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]))
        >>> path = projected([Vector([torch.tensor([3.0, 2.0])])], w, one, two)
        >>> path.one.round(decimals=6), path.two.round(decimals=6)
        (tensor([1.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    zero = w.zeros_like()
    axes = (one, two)
    gram = torch.tensor([[_dot(a, zero, b, zero) for b in axes] for a in axes], dtype=torch.float64)
    sines = 1 - gram[0, 1] ** 2 / (gram[0, 0] * gram[1, 1])
    if not sines > 1e-12:
        raise ValueError(
            f"one and two must span a plane, got directions of cosine "
            f"{float(gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt()):.6g}; choose another pair"
        )
    sides = torch.tensor(
        [[*(_dot(at, w, a, zero) for a in axes), _dot(at, w, at, w)] for at in snapshots],
        dtype=torch.float64,
    ).reshape(-1, 3)
    places = torch.linalg.solve(gram, sides[:, :2].T)
    squares = (sides[:, 2] - (places * sides[:, :2].T).sum(0)).clamp(min=0.0)
    whole = float(sides[:, 2].sum())
    inside = 1.0 - float(squares.sum()) / whole if whole else 1.0
    return Path2D(one=places[0], two=places[1], off=squares.sqrt(), inside=inside)


def _dot(one: Vector, start: Vector, two: Vector, begin: Vector) -> float:
    """The inner product of one - start and two - begin, in float64."""
    rows = zip(one.parts, start.parts, two.parts, begin.parts, strict=True)
    return sum(
        float(((a.double() - s.double()) * (b.double() - t.double())).sum())
        for a, s, b, t in ((_there(a), _there(s), _there(b), _there(t)) for a, s, b, t in rows)
    )


def _there(part: Tensor | None) -> Tensor:
    return torch.zeros((), dtype=torch.float64) if part is None else part.detach().cpu()
