"""What the runs say, per method: means, 95 % intervals and differences by seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from flatminima.report.interval import Interval, by_seed
from flatminima.report.records import Method, Run, Study

__all__ = [
    "Radius",
    "Row",
    "answer",
    "best",
    "criterion",
    "difference",
    "ends",
    "grid",
    "listed",
    "rows",
    "size",
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the final runs of one method say; None where they say nothing."""

    method: Method
    """The method."""
    n: int
    """How many seeds finished."""
    planned: int
    """How many seeds there are, finished or not."""
    rhos: Sequence[float]
    """The radii of the final runs; more than one is a mixture."""
    last: Interval | None
    """Test accuracy after the last epoch, in percent."""
    best: Interval | None
    """Test accuracy at the epoch of the best validation accuracy, in percent."""
    difference: Interval | None
    """Test accuracy after the last epoch minus the baseline's, by seed, in points."""
    train_loss: Interval | None
    """Training loss after the last epoch."""
    top: Interval | None
    """The largest eigenvalue of the Hessian."""
    ratio: Interval | None
    """The largest eigenvalue over the fifth."""
    residual: float | None
    """The largest |Hv - lambda v| / |lambda| of the eigenvalues behind these two."""
    pace: float | None
    """Seconds per step over the baseline's."""

    @property
    def verdict(self) -> str:
        """Better, worse or no difference, by the interval of the difference."""
        if self.difference is None or self.difference.half is None:
            return ""
        if not self.difference.decided:
            return "no difference"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class Radius:
    """What the grid runs of one method say about one radius."""

    method: Method
    """The method."""
    case: str
    """The case, where there are several."""
    rho: float
    """The radius."""
    accuracy: Interval | None
    """Validation accuracy at the epoch that the study chooses by, in percent."""
    planned: int
    """How many runs there are, finished or not."""
    chosen: bool
    """Whether the final runs have this radius."""


@lru_cache(maxsize=4)  # the table, the figures and the doubts of a study all ask for them
def rows(study: Study) -> Sequence[Row]:
    """One row per method, in the order of the study."""
    return tuple(_row(study, method) for method in study.methods)


def _row(study: Study, method: Method) -> Row:
    """What the final runs of a method say."""
    runs = study.select(method.name, stage="final")
    everything = study.select(method.name, stage="final", done=False)
    return Row(
        method=method,
        n=len({run.seed for run in runs}),
        planned=len({run.seed for run in everything}),
        rhos=_rhos(everything),
        last=_percent(_mean(runs, accuracy)),
        best=_percent(_mean(runs, lambda run: run.number("test_accuracy_best"))),
        difference=difference(study, method),
        train_loss=_mean(runs, lambda run: run.number("train_loss_last")),
        top=_mean(runs, lambda run: _eigenvalue(run, 0)),
        ratio=_mean(runs, _ratio),
        residual=max(filter(None, map(_residual, runs)), default=None),
        pace=_pace(study, runs),
    )


def accuracy(run: Run) -> float | None:
    """Test accuracy after the last epoch, a fraction."""
    return run.number("test_accuracy_last")


def difference(study: Study, method: Method) -> Interval | None:
    """Test accuracy minus the baseline's in the seeds that both have, in points.

    Args:
        study: The study.
        method: The method to compare.

    Returns:
        The mean of the differences by seed with its interval; None without a common seed.
    """
    if study.baseline is None or method is study.baseline:
        return None
    ours, theirs = (
        by_seed([(run.seed, accuracy(run)) for run in study.select(name, stage="final")])
        for name in (method.name, study.baseline.name)
    )
    return _percent(Interval.of([ours[seed] - theirs[seed] for seed in ours if seed in theirs]))


def best(
    study_rows: Sequence[Row], column: Callable[[Row], Interval | None], *, largest: bool = True
) -> Row | None:
    """The best row of a column, if its interval separates from that of the next.

    Args:
        study_rows: The rows.
        column: What to compare.
        largest: Whether the largest value is the best.

    Returns:
        The best row; None if the next one's interval touches its own.
    """
    present = [(row, value) for row in study_rows if (value := column(row)) is not None]
    ranked = sorted(present, key=lambda pair: pair[1].mean, reverse=largest)
    if len(ranked) < 2 or not all(ranked[0][1].apart(value) for _, value in ranked[1:]):
        return None
    return ranked[0][0]


def grid(study: Study) -> list[Radius]:
    """What the grid says: one entry per case, method and radius, small radii first."""
    return [
        _radius(part, case, method, rho)
        for case, part in ((case, study.within(case)) for case in study.cases)
        for method in study.methods
        for rho in _rhos(part.select(method.name, stage="grid", done=False))
    ]


def criterion(study: Study) -> str:
    """The number of a result by which the study chooses a radius."""
    return study.word("chosen_by") or "validation_accuracy_best"


def _radius(study: Study, case: str, method: Method, rho: float) -> Radius:
    """What the grid runs of a method say about one radius."""
    runs = study.select(method.name, stage="grid", done=False)
    runs = [run for run in runs if run.rho == rho]
    done = [run for run in runs if run.status == "done"]
    return Radius(
        method=method,
        case=case,
        rho=rho,
        accuracy=_percent(_mean(done, lambda run: run.number(criterion(study)))),
        planned=len(runs),
        chosen=rho in _rhos(study.select(method.name, stage="final", done=False)),
    )


def answer(study: Study) -> str:
    """The study in one sentence, honest in every case.

    The first method that is not the baseline gives the number; the others are counted.

    Args:
        study: The study.

    Returns:
        A sentence such as "SAM beats SGD by 2.1 points [1.4, 2.8], 5 seeds."
    """
    if missing := _missing(study):
        return f"No answer yet: {missing}."
    first, *rest = [row for row in rows(study) if row.method is not study.baseline]
    return (
        _sentence(study, first)
        + _unfinished(study)
        + _tally(rest, study.baseline.label if study.baseline else "")
    )


def _missing(study: Study) -> str:
    """Why there is no answer, or an empty string."""
    planned = study.select(stage="final", done=False)
    if not study.select(stage="final"):
        return (
            f"none of {_count(len(planned), 'final run')} has finished"
            if planned
            else ("there is no final run")
        )
    if study.baseline is None:
        return "the study names no baseline to compare with"
    if not study.others:
        return f"there is nothing to compare {study.baseline.label} with"
    for method in (study.baseline, study.others[0]):
        if not study.select(method.name, stage="final"):
            return f"no final run of {method.label} has finished"
    if difference(study, study.others[0]) is None:
        return f"{study.others[0].label} and {study.baseline.label} share no finished seed"
    return ""


def _sentence(study: Study, row: Row) -> str:
    """The comparison of one method with the baseline, without a full stop."""
    assert study.baseline is not None and row.difference is not None  # _missing has looked
    ours, theirs, value = row.method.label, study.baseline.label, row.difference
    if value.half is None:
        side = "above" if value.mean >= 0 else "below"
        return (
            f"Undecided: {ours} is {size(value)} points {side} {theirs} "
            "in the only seed they share, which gives no interval"
        )
    if not value.decided:
        mean, _, rest = str(value).partition(" ")
        return f"No difference between {ours} and {theirs}: {mean} points {rest}, {_seeds(value)}"
    verb = "beats" if value.mean > 0 else "loses to"
    return f"{ours} {verb} {theirs} by {size(value)} points {ends(value)}, {_seeds(value)}"


def size(value: Interval) -> str:
    """How large a difference is, without its sign."""
    return str(Interval(mean=abs(value.mean), half=value.half, n=value.n)).split(" ")[0]


def ends(value: Interval) -> str:
    """The interval of a difference's size."""
    return str(value if value.mean > 0 else value.times(-1)).partition(" ")[2]


def _unfinished(study: Study) -> str:
    """A remark in brackets if final runs are missing from the answer."""
    planned, done = (len(study.select(stage="final", done=flag)) for flag in (False, True))
    if planned == done:
        return ""
    return f" ({planned - done} of {_count(planned, 'final run')} not done)"


def _tally(others: Sequence[Row], base: str) -> str:
    """The end of the sentence: what became of the further methods."""
    words = {"better": "better", "worse": "worse", "no difference": "no different", "": "undecided"}
    groups = {
        word: [row.method.label for row in others if row.verdict == verdict]
        for verdict, word in words.items()
    }
    said = ", ".join(f"{listed(labels)} {word}" for word, labels in groups.items() if labels)
    return f"; also against {base}: {said}." if said else "."


def listed(labels: Sequence[str]) -> str:
    """Words as in a sentence."""
    *most, final = labels
    return f"{', '.join(most)} and {final}" if most else final


def _count(number: int, word: str) -> str:
    """A number with its noun."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def _seeds(value: Interval) -> str:
    """How many seeds a difference is of."""
    return _count(value.n, "seed")


def _rhos(runs: Sequence[Run]) -> list[float]:
    """The radii of some runs, small ones first."""
    return sorted({run.rho for run in runs if run.rho is not None})


def _mean(runs: Sequence[Run], number: Callable[[Run], float | None]) -> Interval | None:
    """The mean over seeds of a number of some runs."""
    return Interval.of(list(by_seed([(run.seed, number(run)) for run in runs]).values()))


def _percent(value: Interval | None) -> Interval | None:
    """A fraction in percent."""
    return value and value.times(100)


def _pairs(run: Run) -> list[tuple[float, float]]:
    """The first five eigenvalues of a run's Hessian with their residuals."""
    hessian = (run.result or {}).get("hessian") or {}
    return list(zip(hessian.get("values", ()), hessian.get("residuals", ()), strict=True))[:5]


def _eigenvalue(run: Run, index: int) -> float | None:
    """One eigenvalue of a run's Hessian, the largest first."""
    pairs = _pairs(run)
    return pairs[index][0] if index < len(pairs) else None


def _ratio(run: Run) -> float | None:
    """The largest eigenvalue over the fifth, if that one is above 0."""
    first, fifth = _eigenvalue(run, 0), _eigenvalue(run, 4)
    return first / fifth if first is not None and fifth is not None and fifth > 0 else None


def _residual(run: Run) -> float | None:
    """The largest residual of a run's first and fifth eigenvalue, relative to them."""
    pairs = _pairs(run)[::4]
    return max((abs(residual / value) for value, residual in pairs if value), default=None)


def _pace(study: Study, runs: Sequence[Run]) -> float | None:
    """Seconds per step of some runs over the baseline's."""
    if study.baseline is None:
        return None
    ours, theirs = (
        _mean(group, lambda run: run.number("seconds_per_step"))
        for group in (runs, study.select(study.baseline.name, stage="final"))
    )
    return ours.mean / theirs.mean if ours and theirs and theirs.mean else None
