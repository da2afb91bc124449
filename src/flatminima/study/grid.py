"""The usual study: a grid of radii for every arm, then the final runs at the best of each.

A study of trainings is a list of arms. Everything else follows from it:

    METHODS = (Method(name="sgd", label="SGD", baseline=True), Method(name="sam", label="SAM"))

    def plan(training, *, radii, seeds):
        sam = replace(training, rule=Member(name="sam", rho=0.05))
        arms = [Arm(method="sgd", training=training),
                Arm(method="sam", training=sam, radii=radii)]
        return Plan(arms=arms, seeds=seeds)

    PRESETS = {"quick": plan(..., radii=(0.1, 0.2), seeds=5), "paper": plan(...)}

    def runs(plan):
        yield from stages(plan, METHODS)

Arms that are compared under several conditions name theirs as their `case`. A seed decides label
noise, initial weights and order; the split into parts is the same for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flatminima.study.run import Outcome, Run, Stage, chosen_rho
from flatminima.study.study import Method, Stages
from flatminima.train import Measure, Training

__all__ = ["Arm", "Plan", "count", "final_runs", "grid_runs", "stages"]

GRID = 1000  # the first seed of the grid, so that its seeds are none of the final runs'


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One method under one condition."""

    method: str
    """The name of the method."""
    training: Training
    """What it trains; its seed is replaced, and its radius if there is a grid."""
    radii: tuple[float, ...] = ()
    """The radii that it is tried at; with fewer than two that of the training's rule is final."""
    case: str = ""
    """The condition, where the study has several."""
    measure: Measure | None = None
    """What is measured of the final networks."""
    first: Measure | None = None
    """What is measured of that of the first seed, if something else."""
    rounds: int = 1
    """How often a run is trained; see `Run.rounds`."""

    def __post_init__(self) -> None:
        if self.radii and self.training.rule is None:
            raise ValueError(f"radii must be none without a rule, got {self.radii}.")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One size of a study."""

    arms: Sequence[Arm]
    """What is compared."""
    seeds: int = 5
    """Final runs of each arm."""
    grid_seeds: int = 2
    """Runs of each radius of a grid."""


def stages(plan: Plan, methods: Sequence[Method]) -> Stages:
    """Yield the grids of all arms, if there are any, then the final runs.

    Args:
        plan: The size of the study.
        methods: What it compares; they give the runs their labels.

    Yields:
        The runs of a stage; sent back are their outcomes.
    """
    grid = grid_runs(plan, methods)
    outcomes = (yield grid) if grid else None
    yield final_runs(plan, methods, outcomes or [])


def count(plan: Plan) -> int:
    """How many runs there are in both stages."""
    grid = sum(len(arm.radii) for arm in plan.arms if len(arm.radii) > 1)
    return grid * plan.grid_seeds + plan.seeds * len(plan.arms)


def grid_runs(plan: Plan, methods: Sequence[Method]) -> list[Run]:
    """Every radius of every arm that has several."""
    return [
        _run(arm, methods, rho, GRID + seed, "grid")
        for arm in plan.arms
        if len(arm.radii) > 1
        for rho in arm.radii
        for seed in range(plan.grid_seeds)
    ]


def final_runs(plan: Plan, methods: Sequence[Method], grid: Sequence[Outcome]) -> list[Run]:
    """Every arm at the best radius of its grid, seed by seed."""
    radii = [_radius(arm, grid) for arm in plan.arms]
    return [
        _run(arm, methods, rho, seed, "final")
        for seed in range(plan.seeds)
        for arm, rho in zip(plan.arms, radii, strict=True)
    ]


def _radius(arm: Arm, grid: Sequence[Outcome]) -> float | None:
    """The radius of an arm's final runs; before the grid has ended the first."""
    if len(arm.radii) > 1 and grid:
        return chosen_rho(grid, arm.method, arm.case)
    if arm.radii:
        return arm.radii[0]
    return arm.training.rule.rho if arm.training.rule else None


def _run(arm: Arm, methods: Sequence[Method], rho: float | None, seed: int, stage: Stage) -> Run:
    """One run of an arm."""
    rule = arm.training.rule
    measure = arm.first if seed == 0 and arm.first else arm.measure
    return Run(
        method=arm.method,
        label=next(method.label for method in methods if method.name == arm.method),
        stage=stage,
        case=arm.case,
        training=replace(
            arm.training,
            data=replace(arm.training.data, seed=seed),
            rule=rule if rule is None or rho is None else replace(rule, rho=rho),
            seed=seed,
        ),
        measure=measure if stage == "final" else None,
        rounds=arm.rounds,
    )
