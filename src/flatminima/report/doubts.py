"""What a reader should doubt: said of every study, whether it flatters or not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flatminima.report.areas import CHANCE
from flatminima.report.records import Study
from flatminima.report.setting import flat, mixed
from flatminima.report.table import Radius, Row, grid, rows

__all__ = ["FEW", "Doubt", "always", "doubts", "edges"]

FEW = 3  # seeds; with fewer, an interval by Student's t is mostly the t
LOOSE = 0.01  # of the eigenvalue; a residual above it says that Lanczos has not converged
CLASSES = ("classes", "num_classes", "n_classes")


class Doubt(NamedTuple):
    """A reason for doubt."""

    subject: str
    """What it is about, in a word or two."""
    text: str
    """The doubt."""


def doubts(study: Study) -> list[Doubt]:
    """Every reason for doubt that the records show, the gravest first."""
    body = rows(study)
    every = (
        *_endings(study),
        *_mixtures(study),
        *_seeds(body),
        *edges(study),
        *_eigenvalues(body),
        *_differences(study),
        *_comparisons(body),
        *_chance(study),
        *_code(study),
        *_pictures(study),
    )
    return list(every)


def always(study: Study) -> list[Doubt]:
    """The reasons for doubt that hold whatever kind of study it is."""
    return [*_endings(study), *_differences(study), *_code(study)]


def _endings(study: Study) -> Iterator[Doubt]:
    """Runs that did not end well."""
    counts = Counter(run.status for run in study.runs if run.status != "done")
    if counts:
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        text = (
            f"{said} of {len(study.runs)}. They are listed below and are in no mean; a mean over "
            "the rest flatters a method whose hard seeds are missing."
        )
        yield Doubt("Missing runs", text)
    if study.waiting:
        yield Doubt("Not finished", f"{study.waiting} runs of the study have not begun.")
    if study.strangers:
        text = f"{study.strangers} runs in the folder belong to no part of this study: left out."
        yield Doubt("Other runs", text)


def _mixtures(study: Study) -> Iterator[Doubt]:
    """Final runs of one method that do not share their settings."""
    for method in study.methods:
        for name, values in mixed(study, method.name).items():
            text = f"The final runs of {method.label} differ in {name}: {', '.join(values)}."
            yield Doubt("Mixed settings", text)


def _seeds(body: Sequence[Row]) -> Iterator[Doubt]:
    """Too few seeds, or not as many for every method."""
    counts = {row.n for row in body}
    if counts and min(counts) < FEW:
        few = [row.method.label for row in body if row.n < FEW]
        text = (
            f"Fewer than {FEW} seeds for {', '.join(few)}: an interval says little, "
            "and one seed has none."
        )
        yield Doubt("Few seeds", text)
    if len(counts) > 1:
        said = ", ".join(f"{row.method.label} {row.n}" for row in body)
        yield Doubt(
            "Unequal seeds", f"{said}. Differences use common seeds only; the means do not."
        )


def edges(study: Study) -> Iterator[Doubt]:
    """A chosen radius at the end of its grid."""
    entries = grid(study)
    for case, method in ((case, method) for case in study.cases for method in study.methods):
        tried = [entry for entry in entries if entry.method is method and entry.case == case]
        for entry in (entry for entry in tried if entry.chosen and len(tried) > 1):
            yield from _edge(entry, tried)
            yield from _second(entry, tried)


def _edge(entry: Radius, tried: Sequence[Radius]) -> Iterator[Doubt]:
    """One chosen radius, if it is the smallest or the largest tried."""
    for end, word in ((tried[0], "smallest"), (tried[-1], "largest")):
        if entry is end:
            text = (
                f"The radius of {_who(entry)}, {entry.rho:g}, is the {word} of its grid: "
                "the best one may lie outside."
            )
            yield Doubt("Radius at the edge", text)


def _who(entry: Radius) -> str:
    """A method, and in which case."""
    return f"{entry.method.label} at {entry.case}" if entry.case else entry.method.label


def _second(entry: Radius, tried: Sequence[Radius]) -> Iterator[Doubt]:
    """One chosen radius, if another one does better."""
    known = [(other, other.accuracy.mean) for other in tried if other.accuracy is not None]
    top = max(known, key=lambda pair: pair[1], default=(entry, 0.0))[0]
    if top is not entry:
        text = (
            f"The final runs of {_who(entry)} have radius {entry.rho:g}; "
            f"in the grid {top.rho:g} has the best mean validation accuracy."
        )
        yield Doubt("Radius not the best", text)


def _eigenvalues(body: Sequence[Row]) -> Iterator[Doubt]:
    """How exact the eigenvalues are."""
    known = [(row.method.label, row.residual) for row in body if row.residual is not None]
    if known:
        label, worst = max(known, key=lambda pair: pair[1])
        text = f"The largest relative residual of λ₁ and λ₅ is {worst:.1g} ({label})."
        loose = [label for label, residual in known if residual > LOOSE]
        if loose:
            text += (
                f" The eigenvalues of {', '.join(loose)} have not converged: read them as rough."
            )
        yield Doubt("Eigenvalues", text)


def _differences(study: Study) -> Iterator[Doubt]:
    """What is not as in the source."""
    for text in study.about.get("differences") or ():
        yield Doubt("Differs from the source", str(text))


def _comparisons(body: Sequence[Row]) -> Iterator[Doubt]:
    """Several comparisons at 95 % each."""
    count = sum(row.difference is not None and row.difference.half is not None for row in body)
    if count > 1:
        text = (
            f"{count} methods are compared with the baseline, each at 95 % and without correction: "
            "about one in twenty such intervals leaves out 0 by chance."
        )
        yield Doubt("Many comparisons", text)


def _chance(study: Study) -> Iterator[Doubt]:
    """What guessing would give."""
    settings = dict(flat(study.runs[0].settings)) if study.runs else {}
    classes = [value for name, value in settings.items() if name.rpartition(".")[2] in CLASSES]
    if classes and isinstance(classes[0], int) and classes[0] > 1:
        text = f"Guessing among {classes[0]} classes is right {100 / classes[0]:.3g} % of the time."
        yield Doubt("Chance, accuracy", text)
    if any(run.regions for run in study.runs):
        text = (
            "Were the slope uphill independent of the slope here, and of the same symmetric law, "
            f"each region would hold {CHANCE} % of the coordinates whose slope is not 0. "
            "Where both slopes are 0, as behind a dead unit, the share counts as gentler; "
            "the figure shows it apart."
        )
        yield Doubt("Chance, regions", text)


def _code(study: Study) -> Iterator[Doubt]:
    """Code that no commit holds."""
    if (study.about.get("code") or {}).get("dirty"):
        text = "Files differed from the commit; each run's code.txt holds the difference."
        yield Doubt("Uncommitted code", text)


def _pictures(study: Study) -> Iterator[Doubt]:
    """What pictures and clocks do not say."""
    if any((run.result or {}).get("slice_2d") for run in study.runs):
        text = (
            "A surface shows two directions of thousands, around one run: "
            "a picture, no measurement."
        )
        yield Doubt("Landscape", text)
    if any(run.number("seconds_per_step") for run in study.runs):
        text = "Seconds per step are wall clock, with whatever else the machine did at the time."
        yield Doubt("Time", text)
