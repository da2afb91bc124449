"""Do coordinates stay where the slope grew, more than chance would have it?

Question: Under SAM, what share of the coordinates is in each region early and late, and are overlap
    and persistence of the steeper ones, and their share among the largest slopes, above chance?
Source: lhchau/geometry-sam (2024), experiments 2 and 3 and projects 1 and 2: ResNet-18 on
    CIFAR-100, one run, without chance levels. Regions: steeper, gentler, reversed and steeper,
    reversed and gentler.
Expected: the steeper region holds most; overlap and persistence are near what independent sets of
    the same sizes have.
Claim: The coordinates whose slope grew are the same ones through training, and have large slopes.
Time: quick took 2 minutes on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flatminima.engine.observe import Observer, Recorder, Step
from flatminima.regions import FrozenOverlap, Persistence, Region, large_share, mask, ratio_bins
from flatminima.report.areas import shares as shares_plate
from flatminima.report.doubts import Doubt, always
from flatminima.report.interval import Interval
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.render import Cell, Table, runs_csv, signed, spread
from flatminima.report.verdict import Published, claimed, tally, verdict
from flatminima.study.perform import loaded, summary
from flatminima.study.place import Place
from flatminima.study.run import TrainingExperiment
from flatminima.study.sources import digits, geometry, mnist
from flatminima.study.study import Method, Stages
from flatminima.train import Member, Training, train
from flatminima.vector import Vector

__all__ = ["METHODS", "PRESETS", "Watched", "count", "reading", "runs"]

METHODS = (Method(name="sam", label="SAM", baseline=True),)
STEEPER = {Region.STEEPER}
FOLLOWED = 6  # consecutive steps: the first and five more


@dataclass(frozen=True, kw_only=True)
class Watched(TrainingExperiment):
    """A training whose gradients are watched."""

    def perform(self, place: Place, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Train, freeze the steeper set after the first epoch, and follow it from there."""
        parts = loaded(self.training.data, place.data_root).to(place.device)
        epoch = self.training.steps_per_epoch(len(parts.train))

        def large(g: Vector, p: Vector) -> Any:  # noqa: ANN401 - a dataclass
            return large_share(g, mask(g, p, STEEPER))

        overlaps = Recorder(FrozenOverlap(STEEPER), every=epoch)
        persisted = Recorder(Persistence(STEEPER), until=epoch + FOLLOWED)
        slopes, bins = Recorder(large, every=epoch), Recorder(ratio_bins, every=epoch)
        trained = train(
            self.training,
            parts,
            device=place.device,
            log=log,
            observe=[since(epoch, overlaps), since(epoch, persisted), slopes, bins],
        )
        return summary(trained) | {
            "overlaps": overlaps.rows[1:],
            "persisted": persisted.rows,
            "large": slopes.rows,
            "bins": bins.rows,
        }


def since(start: int, recorder: Recorder) -> Observer:
    """A recorder that looks from a step on."""

    def look(step: Step) -> None:
        if step.step >= start:
            recorder(step)

    return look


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One size of the study."""

    training: Training
    """What is trained."""
    seeds: int
    """How many runs."""


def plan(training: Training, *, seeds: int) -> Plan:
    """One size of the study, at the radius of the source."""
    return Plan(training=replace(training, rule=Member(name="sam", rho=0.1)), seeds=seeds)


PRESETS = {
    "quick": plan(digits(), seeds=4),
    "cpu": plan(mnist(), seeds=5),
    "paper": plan(geometry(), seeds=3),
}
DIFFERENCES = {
    "quick": ("A small network on 500 digits.",),
    "cpu": ("A small network on 10 000 images of MNIST.",),
    "paper": ("Cutout always, where the source has it half of the time.",),
}


def runs(plan: Plan) -> Stages:
    """A training for each seed."""
    yield [
        Watched(
            method="sam",
            label="SAM",
            training=replace(plan.training, seed=seed, data=replace(plan.training.data, seed=seed)),
        )
        for seed in range(plan.seeds)
    ]


def count(plan: Plan) -> int:
    """How many runs there are."""
    return plan.seeds


PUBLISHED = {  # in percent of all coordinates as printed, and on which side of chance that is
    "steeper, first epochs": ("60", 1),
    "gentler, first epochs": ("40", 1),
    "reversed and steeper, first epochs": ("3", -1),
    "reversed and gentler, first epochs": ("3", -1),
    "steeper, last quarter": ("60", 1),
    "gentler, last quarter": ("20", -1),
    "reversed and steeper, last quarter": ("10", -1),
    "reversed and gentler, last quarter": ("6", -1),
    "in the steeper set after an epoch and at the end": ("36", 1),
    "in the steeper set for six steps": ("0.9", 1),
    "of the steeper set among the largest slopes": ("70", 1),
}
CHANCE = (
    "Independent sets of the whole network: shares that differ by layer, and dead units, whose "
    "slopes are 0 throughout, lift overlap and persistence above it by themselves."
)
BINS = (5.0, 7.5, 13.0, 27.0, 8.0, 2.7, None)  # published at the end, read off a figure
NAMES = {
    "steeper": "steeper",
    "gentler": "gentler",
    "reversed_steeper": "reversed and steeper",
    "reversed_gentler": "reversed and gentler",
}
Pairs = Sequence[tuple[float, float | None]]


def reading(study: Study) -> Reading:
    """Every share beside its chance level and the published one."""
    found = [_statistics(run.regions, run.result or {}) for run in study.select()]
    names = list(found[0]) if found else []
    lines, words = [], []
    for name in names:
        pairs = [statistics[name] for statistics in found]
        ours = Interval.of([100 * value for value, _ in pairs])
        levels = [100 * chance for _, chance in pairs if chance is not None]
        above = Interval.of([100 * (v - c) for v, c in pairs if c is not None])
        printed, side = PUBLISHED.get(name, _bin(name))
        word = verdict(claimed(side and Published(sign=side), None), above)
        words.append(word)
        cells = [printed, spread(ours), str(len(pairs)), spread(Interval.of(levels)), signed(above)]
        lines.append([Cell(text) for text in (name, *cells, word if side else "–")])
    header = (
        *("Coordinates", "Published (%)", "Ours (%)", "n", "By chance (%)"),
        *("Ours minus chance (points)", "Verdict"),
    )
    plate = shares_plate(study)
    return Reading(
        answer=_answer(found, tally(words)),
        table=Table(header=header, rows=lines),
        note="Means over seeds ± half of the 95 % interval. Chance for regions: 25 % of the slopes "
        "that are not 0; for sets: independent ones of the same sizes; for slopes: a random set of "
        "the same size. The verdict is on which side of chance the published figure lies.",
        plates=[plate] if plate else [],
        doubts=[
            *always(study),
            Doubt("Chance", CHANCE),
        ],
        setting=f"preset {study.word('preset')}, {len(found)} seeds",
        heading="Published, ours and chance",
        verdict=tally(words),
        files={"runs": runs_csv(study)},
    )


def _answer(found: Sequence[Mapping[str, tuple[float, float | None]]], words: str) -> str:
    """Whether the steeper set is the same later on."""
    name = "in the steeper set after an epoch and at the end"
    pairs = [(v, c) for v, c in (statistics[name] for statistics in found) if c is not None]
    above = Interval.of([100 * (value - chance) for value, chance in pairs])
    if above is None:
        return "No answer yet: no run has finished."
    mean = 100 * sum(value for value, _ in pairs) / len(pairs)
    return (
        f"{mean:.1f} % of the coordinates are steeper both after an epoch and at the end, "
        f"{above} points more than by chance, {above.n} seeds; of the comparisons with the source "
        f"{words}."
    )


def _bin(name: str) -> tuple[str, int | None]:
    """The published share of a bin of the ratio."""
    if not name.startswith("ratio"):
        return "–", None
    value = dict(zip(_bin_names(), BINS, strict=True))[name]
    return ("–" if value is None else f"{value:g}"), None


def _bin_names() -> list[str]:
    """The bins of the ratio of slopes within the steeper region, at the end."""
    edges = ("1", "1.2", "1.5", "2", "4", "8", "16", "∞")
    return [f"ratio {low} to {high}, end" for low, high in zip(edges, edges[1:], strict=False)]


def _statistics(
    rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]
) -> dict[str, tuple[float, float | None]]:
    """Every share of one run as a fraction, with its chance level."""
    quarter = max(1, len(rows) // 4)
    found: dict[str, tuple[float, float | None]] = {}
    for when, part in (("first epochs", rows[:2]), ("last quarter", rows[-quarter:])):
        zero = sum(row["both_zero"] for row in part) / len(part)
        for name, said in NAMES.items():
            share = sum(row[name] for row in part) / len(part)
            found[f"{said}, {when}"] = (
                share - (zero if name == "gentler" else 0.0),
                (1 - zero) / 4,
            )
    overlap, kept, large = (result[name][-1] for name in ("overlaps", "persisted", "large"))
    found["in the steeper set after an epoch and at the end"] = overlap["both"], overlap["chance"]
    found["in the steeper set for six steps"] = kept["left"], kept["chance"]
    found["of the steeper set among the largest slopes"] = large["share"], large["chance"]
    shares = result["bins"][-1]["disjoint"]
    return found | {name: (share, None) for name, share in zip(_bin_names(), shares, strict=True)}
