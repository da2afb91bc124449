"""The tables of a report, for terminal, Markdown, LaTeX, spreadsheet and page."""

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flatminima.report.interval import Interval, decimals
from flatminima.report.records import Study
from flatminima.report.table import Radius, Row, best, grid, rows

__all__ = [
    "Cell",
    "Table",
    "latex",
    "main_csv",
    "main_table",
    "markdown",
    "radius_csv",
    "radius_table",
    "runs_csv",
    "signed",
    "spread",
    "table_csv",
    "text",
]

ABSENT = "–"
LATEX = {
    "\\": r"\textbackslash{}",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "₁": "$_1$",
    "₅": "$_5$",
    "ρ": r"$\rho$",
    "–": "--",
    "✓": r"$\checkmark$",
}
ENDS = {
    "last": "test accuracy last",
    "best": "test accuracy best",
    "difference": "difference",
    "train_loss": "training loss",
    "top": "lambda 1",
    "ratio": "lambda 1 over 5",
}
NUMBERS = (
    "test_accuracy_last",
    "test_accuracy_best",
    "best_epoch",
    "validation_accuracy_last",
    "validation_accuracy_best",
    "train_loss_last",
    "seconds_per_step",
)


class Cell(NamedTuple):
    """What stands in one place of a table."""

    text: str
    """The text."""
    best: bool = False
    """Whether it is the best of its column, apart from the next."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    """What each column holds, with its unit."""
    rows: Sequence[Sequence[Cell]]
    """The cells row by row; the first of each is its name."""
    methods: Sequence[str] = ()
    """The name of the method that each row is about, where rows are about methods."""


def main_table(study: Study) -> Table:
    """The final runs, a row per method."""
    body = rows(study)
    base = study.baseline.label if study.baseline else "baseline"
    marked = {
        "last": best(body, lambda row: row.last),
        "best": best(body, lambda row: row.best),
        "top": best(body, lambda row: row.top, largest=False),
    }
    header = {
        "Method": lambda row: row.method.label,
        "n": lambda row: f"{row.n}" if row.n == row.planned else f"{row.n} of {row.planned}",
        "ρ": lambda row: ", ".join(f"{rho:g}" for rho in row.rhos) or ABSENT,
        "Test accuracy, last epoch (%)": lambda row: spread(row.last),
        "Test accuracy, best epoch (%)": lambda row: spread(row.best),
        f"Difference to {base} (points)": lambda row: signed(row.difference),
        "Training loss": lambda row: spread(row.train_loss),
        "λ₁": lambda row: spread(row.top),
        "λ₁/λ₅": lambda row: spread(row.ratio),
        "Relative residual": lambda row: _plain(row.residual, ".0e"),
        f"Time per step (× {base})": lambda row: _plain(row.pace, ".2f"),
        "Published": lambda row: row.method.published or ABSENT,
    }
    if not any(method.published for method in study.methods):
        del header["Published"]
    where = dict(zip(marked, (3, 4, 7), strict=True))
    lines = [
        [
            Cell(cell(row), any(marked[key] is row and where[key] == place for key in marked))
            for place, cell in enumerate(header.values())
        ]
        for row in body
    ]
    return Table(header=tuple(header), rows=lines, methods=[row.method.name for row in body])


def radius_table(study: Study) -> Table:
    """The grid of radii, a row per method and radius; the chosen one is marked."""
    header = ("Method", "ρ", "Validation accuracy (%)", "n", "Chosen")
    return Table(header=header, rows=[_radius_cells(entry) for entry in grid(study)])


def _radius_cells(entry: Radius) -> list[Cell]:
    """The cells of one radius."""
    n = entry.accuracy.n if entry.accuracy else 0
    return [
        Cell(", ".join(filter(None, (entry.method.label, entry.case)))),
        Cell(f"{entry.rho:g}"),
        Cell(spread(entry.accuracy)),
        Cell(f"{n}" if n == entry.planned else f"{n} of {entry.planned}"),
        Cell("✓" if entry.chosen else ""),
    ]


def text(table: Table) -> str:
    """A table for the terminal; the best of a column has a star."""
    body = [[cell.text + "*" * cell.best for cell in line] for line in table.rows]
    columns = zip(*body, strict=True) if body else ((),) * len(table.header)
    heads = [
        textwrap.wrap(head, max(map(len, ("Method", *head.split(), *column))))
        for head, column in zip(table.header, columns, strict=True)
    ]
    depth = max(map(len, heads))
    top = [*zip(*([""] * (depth - len(head)) + head for head in heads), strict=True)]
    widths = [max(map(len, column)) for column in zip(*top, *body, strict=True)]
    lines = [*top, ["─" * width for width in widths], *body]
    return "\n".join(_aligned(line, widths) for line in lines) + "\n"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """A line of text, its first cell to the left and the others to the right."""
    first, *others = zip(line, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "  ".join(cells).rstrip()


def markdown(table: Table) -> str:
    """A table in Markdown; the best of a column is bold."""
    lines = [list(table.header), ["---", *["--:"] * (len(table.header) - 1)]]
    lines += [
        [f"**{cell.text}**" if cell.best else cell.text for cell in line] for line in table.rows
    ]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def latex(table: Table) -> str:
    """A table in LaTeX with booktabs; the best of a column is bold."""
    lines = [" & ".join(map(_escaped, table.header)), r"\midrule"]
    for line in table.rows:
        cells = [(_escaped(cell.text), cell.best) for cell in line]
        lines.append(" & ".join(rf"\textbf{{{cell}}}" if bold else cell for cell, bold in cells))
    body = "\n".join(line if line == r"\midrule" else rf"{line} \\" for line in lines)
    columns = "l" + "r" * (len(table.header) - 1)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _escaped(words: str) -> str:
    """Text with every character that LaTeX reads otherwise spelled out."""
    return "".join(LATEX.get(letter, letter) for letter in words).replace(
        "$$", ""
    )  # λ₁ is one formula


def table_csv(table: Table) -> str:
    """A table as it is read, a line per row."""
    return _csv(table.header, ([cell.text for cell in line] for line in table.rows))


def main_csv(study: Study) -> str:
    """The numbers of the main table, unrounded, a line per method."""
    names = [f"{name} {part}" for name in ENDS.values() for part in ("mean", "low", "high")]
    header = ["method", "n", "planned", "rho", *names, "relative residual", "time per step"]
    return _csv(header, map(_main_line, rows(study)))


def _main_line(row: Row) -> list[Any]:
    """The numbers of one method."""
    ends = [part for name in ENDS for part in _ends(getattr(row, name))]
    rho = " ".join(f"{rho:g}" for rho in row.rhos)
    return [row.method.label, row.n, row.planned, rho, *ends, row.residual, row.pace]


def radius_csv(study: Study) -> str:
    """The numbers of the grid of radii, unrounded, a line per method and radius."""
    header = ["method", "rho", "validation accuracy mean", "low", "high", "n", "chosen"]
    return _csv(
        header,
        (
            [
                entry.method.label,
                entry.rho,
                *_ends(entry.accuracy),
                entry.accuracy.n if entry.accuracy else 0,
                entry.chosen,
            ]
            for entry in grid(study)
        ),
    )


def runs_csv(study: Study, numbers: Sequence[str] = NUMBERS) -> str:
    """Every run, finished or not, a line each, with some numbers of its result.

    Args:
        study: The study.
        numbers: The names of the numbers.

    Returns:
        The lines; the case and the network have a column where the runs have any.
    """
    every = study.select(done=False)
    told = {"case": [run.case for run in every], "model": [run.model for run in every]}
    told = {name: words for name, words in told.items() if any(words)}
    header = ["key", "stage", "method", *told, "rho", "seed", "status", *numbers, "error"]
    lines = (
        [run.key, run.stage, run.method, *(words[place] for words in told.values()), run.rho]
        + [run.seed, run.status, *map(run.number, numbers), run.error]
        for place, run in enumerate(every)
    )
    return _csv(header, lines)


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Lines as comma-separated values; what is absent is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return file.getvalue()


def _ends(value: Interval | None) -> list[float | None]:
    """The mean and both ends of an interval; the ends are absent for a single value."""
    if value is None:
        return [None] * 3
    return [value.mean, *((value.low, value.high) if value.half is not None else (None, None))]


def spread(value: Interval | None, digits: int = 1) -> str:
    """A mean with half the width of its interval."""
    if value is None:
        return ABSENT
    if value.mean and math.isfinite(value.mean):  # two figures at least, however small
        digits = max(digits, min(6, 1 - math.floor(math.log10(abs(value.mean)))))
    digits = max(digits, decimals(value.half))
    if value.half is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ± {value.half:.{digits}f}"


def signed(value: Interval | None) -> str:
    """A difference with its sign and both ends of its interval."""
    if value is None:
        return ABSENT
    return f"+{value}" if value.mean > 0 else str(value)


def _plain(value: float | None, form: str) -> str:
    """A number without an interval."""
    return ABSENT if value is None or math.isnan(value) else format(value, form)
