"""m-sharpness: the rise of the loss when every group of m examples moves uphill for itself.

    mean over groups j of   max over ||e_j||_2 <= rho of   f_j(w + e_j) - f_j(w)

The maximum is estimated in two ways, and both are reported: by SAM's one step along the gradient,
and by ascent from several starts. One step is exact for a linear model at m = 1, and means nothing
at a minimum, where there is no gradient to follow: such groups are counted as `stationary`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.engine.groups import examples
from flatminima.objective import Objective
from flatminima.sharpness.ascent import Hill
from flatminima.sharpness.estimate import stream
from flatminima.sharpness.one_step import CHUNKS, Batch, Engine, Rise, one_step, runs
from flatminima.sharpness.units import units
from flatminima.sharpness.worst_case import ascents, check_search
from flatminima.vector import Vector

__all__ = ["MSharpness", "MeanRise", "m_sharpness"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanRise:
    """A mean over groups, weighted by their sizes, and how far chance moves it."""

    value: float
    standard_error: float  # from the differences between the rows; nan for one row
    rises: Tensor  # (rows,) float64: of one group each, or the mean of several in one pass
    weights: Tensor  # (rows,) float64, summing to 1

    def __repr__(self) -> str:
        return f"{self.value:.5g} +- {self.standard_error:.1g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class MSharpness:
    """The m-sharpness by one step and by ascent, with what to doubt about each."""

    m: int
    groups: int
    one_step: MeanRise
    restarts: MeanRise | None  # `None` where no ascent was asked for
    stationary: int  # groups whose gradient is too small to point anywhere: distrust `one_step`
    unconverged: int  # groups in which the best ascent has not converged
    engine: str  # what carried out the one step: batched, loop, or both on different groups
    passes: float  # over the data, each a forward or a backward

    def __repr__(self) -> str:
        parts = [f"m={self.m}", f"{self.groups} groups", f"one step {self.one_step!r}"]
        if self.stationary:
            parts[-1] += f" (WORTHLESS in {self.stationary}, which have no slope)"
        if self.restarts is not None:
            parts.append(f"restarts {self.restarts!r}")
        if self.unconverged:
            parts[-1] += f" (NOT converged in {self.unconverged})"
        return f"MSharpness({', '.join(parts)})"


def m_sharpness(
    objective: Objective,
    w: Vector,
    rho: float,
    m: int,
    *,
    restarts: int = 4,
    steps: int = 100,
    tolerance: float = 1e-6,
    sample: int | None = None,
    seed: int = 0,
    engine: Engine = "auto",
) -> MSharpness:
    """The m-sharpness of a model on its data, cut in order into groups of m examples.

        sum_j n_j / n   max over ||e_j||_2 <= rho of   f_j(w + e_j) - f_j(w)

    How the data are cut into batches does not matter; a smaller last group counts by its size.

    Args:
        objective: The loss of a model on batches (`Objective.of_model`).
        w: The weights.
        rho: The radius.
        m: Examples per group, 1 to n. m = n is the sharpness of the whole loss; over nested groups
            the true value falls as m grows.
        restarts: Starts of each group's ascent, as in `worst_case`; 0 leaves the ascents out.
        steps: The most gradients for each start.
        tolerance: Of each ascent's gap, relative to its rise.
        sample: On how many groups the ascents are made, drawn at random; by default on all.
        seed: Of the starts and of the sample.
        engine: How the one step is carried out: `loop`, group by group; `batched`, many groups in
            one pair of passes; `auto`, batched where that is proved exact.

    Returns:
        Both estimates.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Foret et al. 2021, arXiv:2010.01412, section 4.1, which does not say how the maximum was
    found.
    Cost: 3 passes over the data for the one step, in small pieces by the loop; up to
    `2 * restarts * steps` passes for the ascents.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x, y = torch.eye(2).repeat(3, 1), torch.zeros(6, 1)
        >>> def loss_fn(x, y):
        ...     return 0.5 * (model(x) - y).square().mean()
        >>> f, w = Objective.of_model(model, loss_fn, [(x, y)])
        >>> found = m_sharpness(f, w, rho=0.1, m=1)
        >>> found.groups, abs(found.one_step.value - found.restarts.value) < 1e-6
        (6, True)
    """
    check_search(rho, max(restarts, 1), steps, tolerance)
    objective = objective.on(objective.batches)  # whose passes are counted apart
    batches = [tuple(batch) for batch in objective.batches]
    n = _check(batches, m, restarts, sample, engine)
    total, cut = objective.examples or 0, list(runs(batches, m))
    per_row = max(1, n // m // CHUNKS)
    rows = [
        row
        for run in cut
        for row in one_step(objective, w, rho, m, run, engine=engine, per_row=per_row)
    ]
    chosen = _chosen([pieces for run in cut for pieces in run.split(m)], sample, seed)
    climbed = [
        _climbed(objective.on(pieces), w, rho, restarts, seed + index, steps, tolerance)
        for index, pieces in enumerate(chosen if restarts else [])
    ]
    return MSharpness(
        m=m,
        groups=math.ceil(n / m),
        one_step=_mean(rows),
        restarts=_mean(climbed) if restarts else None,
        stationary=sum(row.doubtful for row in rows),
        unconverged=sum(row.doubtful for row in climbed),
        engine=" and ".join(sorted({row.engine for row in rows})),
        passes=sum(row.passes * row.weight / total for row in [*rows, *climbed]),
    )


def _chosen(everyone: list[list[Batch]], sample: int | None, seed: int) -> list[list[Batch]]:
    """The groups on which the ascents are made."""
    if sample is None or sample >= len(everyone):
        return everyone
    order = torch.randperm(len(everyone), generator=stream(seed))
    return [everyone[index] for index in sorted(order[:sample].tolist())]


def _climbed(
    group: Objective, w: Vector, rho: float, restarts: int, seed: int, steps: int, tolerance: float
) -> Rise:
    """The best of several ascents for one group."""
    hill = Hill(objective=group, w=w, c=units(w), rho=rho, p=2)
    found = ascents(hill, restarts, seed, steps=steps, tolerance=tolerance)
    best = max(found, key=lambda ascent: ascent.height)
    return Rise(
        rise=best.rise,
        weight=group.examples or 0,
        doubtful=int(not best.converged),
        engine="loop",
        passes=group.passes,
    )


def _mean(rows: list[Rise]) -> MeanRise:
    """The mean, weighted by size, and its standard error as of a sample of rows."""
    rises = torch.tensor([row.rise for row in rows], dtype=torch.float64)
    weights = torch.tensor([row.weight for row in rows], dtype=torch.float64)
    weights = weights / weights.sum()
    value = torch.dot(weights, rises)
    count = len(rows)
    variance = torch.dot(weights.square(), (rises - value).square()) * count / max(count - 1, 1)
    return MeanRise(
        value=float(value),
        standard_error=float(variance.sqrt()) if count > 1 else math.nan,
        rises=rises,
        weights=weights,
    )


def _check(
    batches: Sequence[Batch], m: int, restarts: int, sample: int | None, engine: Engine
) -> int:
    """Refuse what has no meaning; the number of examples."""
    n = sum(examples(batch) for batch in batches)
    if not 1 <= m <= n:
        raise ValueError(f"m must be between 1 and the {n} examples, got {m}")
    if restarts < 0:
        raise ValueError(f"restarts must be at least 0, got {restarts}")
    if sample is not None and sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}; restarts=0 makes no ascents")
    if engine not in ("auto", "loop", "batched"):
        raise ValueError(f"engine must be 'auto', 'loop' or 'batched', got {engine!r}")
    return n
