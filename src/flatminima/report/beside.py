"""Published figures beside ours: the reading of a study whose methods meet under conditions.

    PUBLISHED = {("40 %", "sgd"): Published(value=68.8), ("40 %", "sam"): Published(value=93.4)}

    def reading(study):
        return beside(study, LAST, PUBLISHED, case="Wrong labels", also=(BEST, MEMORISED))

The table has a row for each condition and method: what is published, what is ours, the difference
to the baseline by seed, and the verdict on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from flatminima.report.by_case import heat, lines, points
from flatminima.report.doubts import FEW, Doubt, always, edges
from flatminima.report.figures import plates as all_plates
from flatminima.report.interval import Interval, by_seed
from flatminima.report.plate import Plate
from flatminima.report.quantity import Quantity
from flatminima.report.reading import Reading
from flatminima.report.records import Method, Run, Study
from flatminima.report.render import Cell, Table, radius_csv, runs_csv, signed, spread
from flatminima.report.table import ends, size
from flatminima.report.verdict import Published, Verdict, claimed, tally, verdict

__all__ = ["Figures", "Row", "beside", "compared"]

Figures: TypeAlias = Mapping[tuple[str, str], Published]
"""What is published, by case and name of the method."""
MANY = 8  # methods from which on lines are too many, and a table of colours is drawn


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method under one condition."""

    case: str
    """The condition."""
    method: Method
    """The method."""
    rhos: Sequence[float]
    """The radii of the final runs."""
    n: int
    """How many seeds finished."""
    planned: int
    """How many there are."""
    ours: Interval | None
    """Our mean over the seeds."""
    difference: Interval | None
    """Ours minus the baseline's, by seed."""
    published: Published | None
    """What the source prints."""
    claim: Interval | None
    """The difference that the source prints."""
    also: Sequence[Interval | None]
    """Further quantities."""

    @property
    def verdict(self) -> Verdict:
        """What our difference says of the published one."""
        return verdict(self.claim, self.difference)


def compared(
    study: Study, quantity: Quantity, published: Figures, also: Sequence[Quantity] = ()
) -> list[Row]:
    """Every method under every condition, in the order of the study.

    Args:
        study: The study.
        quantity: What is compared.
        published: What the source prints.
        also: Further quantities, of which the mean is taken.

    Returns:
        The rows. The baseline of a condition that has none is the one without a condition.
    """
    rows: list[Row] = []
    base = study.baseline.name if study.baseline else ""
    common = study.within("").select(base, stage="final")
    for case in study.cases:
        part = study.within(case)
        theirs = part.select(base, stage="final") or common
        for method in study.methods:
            every = part.select(method.name, stage="final", done=False)
            if not every:
                continue
            runs = [run for run in every if run.status == "done"]
            told = published.get((case, method.name))
            against = published.get((case, base)) or published.get(("", base))
            rows.append(
                Row(
                    case=case,
                    method=method,
                    rhos=sorted({run.rho for run in every if run.rho is not None}),
                    n=len({run.seed for run in runs}),
                    planned=len({run.seed for run in every}),
                    ours=_mean(runs, quantity),
                    difference=None if method.name == base else _paired(runs, theirs, quantity),
                    published=told,
                    claim=None if method.name == base else claimed(told, against),
                    also=[_mean(runs, other) for other in also],
                )
            )
    return rows


def beside(
    study: Study,
    quantity: Quantity,
    published: Figures,
    *,
    case: str = "Case",
    also: Sequence[Quantity] = (),
    plates: Sequence[Plate] = (),
    curves: str | None = None,
    doubts: Sequence[Doubt] = (),
    claims: Sequence[tuple[str, str]] = (),
    headline: tuple[str, str] | None = None,
) -> Reading:
    """The reading of a study, with published figures beside ours.

    Args:
        study: The study.
        quantity: What is compared.
        published: What the source prints.
        case: What the conditions are: the header of their column.
        also: Further quantities, a column each.
        plates: The study's own figures; they come after the first.
        curves: The condition whose training curves are drawn; None for none if there are several.
        doubts: The study's own doubts.
        claims: What was claimed in words, and what was found.
        headline: The case and the method of the first sentence; None takes the first comparison.

    Returns:
        The reading.
    """
    rows = compared(study, quantity, published, also)
    several = len(study.cases) > 1
    drawn: list[Plate] = [_picture(study, rows, quantity, case)] if rows else []
    if not several or curves is not None:
        part = study.within(curves) if curves is not None and several else study
        drawn += [*plates, *_curves(part, curves if several else None)]
    else:
        drawn += plates
    verdicts = tally(row.verdict for row in rows)
    return Reading(
        answer=_answer(study, rows, quantity, case, headline, verdicts),
        table=_table(study, rows, quantity, case, also),
        note=_note(study, several=several),
        plates=drawn,
        doubts=[*always(study), *edges(study), *_seeds(rows), *_many(rows), *doubts],
        setting=_setting(study),
        heading="Published and ours" if published else "Every method",
        claims=claims,
        verdict=verdicts,
        files={"radii": radius_csv(study), "runs": runs_csv(study)},
    )


def _mean(runs: Sequence[Run], quantity: Quantity) -> Interval | None:
    """The mean over seeds."""
    return Interval.of(list(by_seed([(run.seed, quantity.number(run)) for run in runs]).values()))


def _paired(ours: Sequence[Run], theirs: Sequence[Run], quantity: Quantity) -> Interval | None:
    """The mean difference in the seeds that both have."""
    one, other = (
        by_seed([(run.seed, quantity.number(run)) for run in runs]) for runs in (ours, theirs)
    )
    return Interval.of([one[seed] - other[seed] for seed in one if seed in other])


def _picture(study: Study, rows: Sequence[Row], quantity: Quantity, case: str) -> Plate:
    """The quantity under every condition, as many-sided as the study is."""
    cells = [(row.case, row.method, row.ours) for row in rows]
    if len(study.cases) == 1:
        return points(study, cells, quantity)
    draw = heat if len(study.methods) > MANY else lines
    return draw(study, cells, quantity, case)


def _curves(study: Study, case: str | None) -> Iterator[Plate]:
    """The usual figures of one condition, but for those that the table says already."""
    where = f" Condition: {case}." if case else ""
    for plate in all_plates(study):
        if plate.name != "differences":
            yield replace(plate, caption=plate.caption + where)


def _table(
    study: Study,
    rows: Sequence[Row],
    quantity: Quantity,
    case: str,
    also: Sequence[Quantity],
) -> Table:
    """The main table; columns that would be empty are left out."""
    base = study.baseline.label if study.baseline else "baseline"
    step = f" ({quantity.step})" if quantity.step else ""
    unit = f" ({quantity.unit})" if quantity.unit else ""
    columns = {
        "Method": [row.method.label for row in rows],
        case: [row.case for row in rows],
        "ρ": [", ".join(f"{rho:g}" for rho in row.rhos) for row in rows],
        f"Published{unit}": [str(row.published or "") for row in rows],
        quantity.header: [spread(row.ours) for row in rows],
        "n": [f"{row.n}" if row.n == row.planned else f"{row.n} of {row.planned}" for row in rows],
        f"Published minus {base}{step}": [_claim(row) for row in rows],
        f"Ours minus {base}{step}": [signed(row.difference) for row in rows],
        "Verdict": [row.verdict if row.difference or row.claim else "" for row in rows],
    }
    if not any(row.claim for row in rows):
        del columns["Verdict"]
    columns |= {
        other.header: [spread(row.also[place]) for row in rows] for place, other in enumerate(also)
    }
    kept = {head: cells for head, cells in columns.items() if any(map(_said, cells))}
    best = _best(rows, quantity)
    lines = [
        [
            Cell(kept[head][place] or "–", head == quantity.header and rows[place] in best)
            for head in kept
        ]
        for place in range(len(rows))
    ]
    return Table(header=tuple(kept), rows=lines, methods=[row.method.name for row in rows])


def _said(cell: str) -> bool:
    """Whether a cell says something."""
    return cell not in ("", "–")


def _claim(row: Row) -> str:
    """A published difference, a word where the source has no number."""
    if row.claim is None:
        return ""
    if row.published is not None and row.published.sign is not None:
        return str(Published(sign=row.published.sign))
    half = f" ± {row.claim.half:.2g}" if row.claim.half else ""
    return f"{row.claim.mean:+.4g}{half}"


def _best(rows: Sequence[Row], quantity: Quantity) -> list[Row]:
    """The best row of each condition, if its interval is apart from all others there."""
    found: list[Row] = []
    for case in dict.fromkeys(row.case for row in rows):
        known = [row for row in rows if row.case == case and row.ours is not None]
        known.sort(key=lambda row: row.ours.mean if row.ours else 0, reverse=quantity.larger)
        first, *others = known or [None]
        if first and others and all(_apart(first.ours, row.ours) for row in others if row):
            found.append(first)
    return found


def _apart(one: Interval | None, other: Interval | None) -> bool:
    return one is not None and other is not None and one.apart(other)


def _answer(
    study: Study,
    rows: Sequence[Row],
    quantity: Quantity,
    case: str,
    headline: tuple[str, str] | None,
    verdicts: str,
) -> str:
    """One sentence with the number, its interval and n; then the verdicts."""
    known = [row for row in rows if row.difference is not None]
    chosen = [row for row in known if headline in (None, (row.case, row.method.name))]
    row = next(iter(chosen or known), None)
    if row is None or row.difference is None or study.baseline is None:
        return "No answer yet: no method and its baseline have finished in a common seed."
    what = quantity.words
    where = f" ({case.lower()}: {row.case})" if row.case else ""
    base, n = study.baseline.label, f"{row.n} seed{'' if row.n == 1 else 's'}"
    step = f" {quantity.step}" if quantity.step else ""
    if row.difference.half is None:
        said = f"Undecided: one seed gives no interval for {row.method.label} and {base}{where}"
    elif not row.difference.decided:
        said = (
            f"No difference between {row.method.label} and {base} in {what}{where}: "
            f"{row.difference}{step}, {n}"
        )
    else:
        side = "above" if row.difference.mean > 0 else "below"
        said = (
            f"{row.method.label} is {size(row.difference)}{step} "
            f"{ends(row.difference)} {side} {base} in {what}{where}, {n}"
        )
    if all(row.verdict == "not comparable" for row in rows):
        return f"{said}; there is {verdicts}."
    return f"{said}; of the comparisons with the source {verdicts}."


def _note(study: Study, *, several: bool) -> str:
    """How to read the table."""
    base = study.baseline.label if study.baseline else "the baseline"
    each = " under the same condition" if several else ""
    return (
        f"Means over seeds ± half of the 95 % interval (Student’s t). Differences to {base}{each} "
        "are taken seed by seed. The verdict is on the difference: “agrees” and “differs” need an "
        "interval without 0. Bold: best, its interval apart from all others."
    )


def _setting(study: Study) -> str:
    """The preset, and how many seeds, methods and conditions."""
    seeds = len({run.seed for run in study.select(stage="final", done=False)})
    parts = [f"preset {study.word('preset')}"] if study.word("preset") else []
    parts.append(f"{len(study.methods)} methods")
    if len(study.cases) > 1:
        parts.append(f"{len(study.cases)} conditions")
    return ", ".join([*parts, f"{seeds} seed{'' if seeds == 1 else 's'}"])


def _seeds(rows: Sequence[Row]) -> Iterator[Doubt]:
    """Too few seeds."""
    if rows and min(row.n for row in rows) < FEW:
        yield Doubt("Few seeds", f"Fewer than {FEW} seeds in some rows: an interval says little.")


def _many(rows: Sequence[Row]) -> Iterator[Doubt]:
    """Several comparisons at 95 % each."""
    count = sum(row.difference is not None for row in rows)
    if count > 1:
        text = (
            f"{count} differences, each at 95 % and without correction: about one in twenty such "
            "intervals leaves out 0 by chance."
        )
        yield Doubt("Many comparisons", text)
