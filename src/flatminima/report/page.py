"""The report of a study: one HTML file that needs no network."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from flatminima.report.comparison import comparison
from flatminima.report.plate import Panel, Plate
from flatminima.report.reading import Reader, Reading
from flatminima.report.records import Json, Study, read
from flatminima.report.render import radius_table, table_csv
from flatminima.report.setting import common
from flatminima.report.style import INKS, legend, strokes, template
from flatminima.report.table import criterion, grid

__all__ = [
    "code_in_words",
    "date_in_words",
    "drawings",
    "environment",
    "html",
    "machine_in_words",
    "script",
    "time_in_words",
    "told",
    "write",
]

LISTED = 200  # runs that did not end well; with more of them, the CSV of all runs has the rest
NARROW = {" = ": "\u00a0=\u00a0", " ": "\u00a0"}  # no line is broken at these spaces


def write(
    study: Study | Path | str, out: Path | str | None = None, *, reader: Reader | None = None
) -> Path:
    """Write the report of a study as one self-contained HTML file.

    Args:
        study: The study, or the folder that holds its `study.json` and `runs/`.
        out: The file to write; `report.html` in the study's folder if None.
        reader: What reads the records; None reads them as a comparison of trainings.

    Returns:
        The file.
    """
    study = study if isinstance(study, Study) else read(study)
    out = study.folder / "report.html" if out is None else Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html(study, told(study, reader)), encoding="utf-8")
    return out


def told(study: Study, reader: Reader | None) -> Reading:
    """What a study says, read by its own reader or, without one, as a comparison of trainings."""
    return reader(study) if reader else comparison(study)


def html(study: Study, reading: Reading | None = None) -> str:
    """The report of a study as text; without a reading, that of a comparison of trainings."""
    reading = reading or told(study, None)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            study=study,
            reading=reading,
            has_singles=any(map(_has_singles, reading.plates)),
            facts=list(_facts(study, reading)),
            setting=common(study),
            legend={entry.group: entry for entry in legend(study, strokes(study))},
            inks=INKS,
            radii=radius_table(study),
            radius_methods=[entry.method.name for entry in grid(study)],
            radius_epoch="after the last epoch"
            if criterion(study).endswith("_last")
            else "at each run’s best epoch",
            trouble=[run for run in study.select(done=False) if run.status != "done"],
            listed=LISTED,
            plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own text
            data=script(_payload(reading)),
        )
    )


def environment() -> Environment:
    """Where the template is, with the filters that it uses."""
    here = Environment(
        loader=PackageLoader("flatminima.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    here.filters |= {"fine": _fine, "words": _words, "unit": _unit}
    return here


def _fine(text: str) -> str:
    """Text with minus signs before negative numbers, and no line broken before a unit."""
    text = re.sub(r"(?<![\w-])-(?=\d)", "−", text)
    return re.sub(
        r"(?<=\bn) = (?=\d)|(?<=\d) (?=%|points|seeds?\b)", lambda gap: NARROW[gap[0]], text
    )


def _words(header: str) -> str:
    """A header without its unit."""
    return header.partition(" (")[0]


def _unit(header: str) -> str:
    """The unit of a header, which stands in brackets; empty if it has none."""
    return header.partition(" (")[2].removesuffix(")")


def _payload(reading: Reading) -> Json:
    """Everything that the script of the page draws or hands out."""
    return {
        **drawings(reading.plates),
        "files": {"methods": table_csv(reading.table), **reading.files},
    }


def _has_singles(plate: Plate) -> bool:
    """Whether single runs are drawn behind their means."""
    traces = (trace for panel in plate.panels for trace in panel.figure.data)
    return any((getattr(trace, "meta", None) or {}).get("single") for trace in traces)


def drawings(drawn: Sequence[Plate]) -> Json:
    """Figures as the script of a page takes them, with the templates of both themes."""
    return {
        "templates": {theme: template(theme).to_plotly_json() for theme in INKS},
        "plates": {
            plate.name: {
                "title": plate.title,
                "views": {
                    "deep": [bare(panel) for panel in plate.panels],
                    "flat": [bare(panel) for panel in plate.flat],
                },
            }
            for plate in drawn
        },
    }


def bare(panel: Panel) -> Json:
    """A drawing without its template, which the page adds for its theme."""
    drawing = json.loads(panel.figure.to_json() or "{}")
    drawing["layout"].pop("template", None)
    return drawing


def script(value: Json) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), default=list)
    return Markup(text.replace("<", "\\u003c"))


def _facts(study: Study, reading: Reading) -> Iterator[tuple[str, str]]:
    """What stands under the answer: a name and a text each, only those that are known."""
    done, every = len(study.select()), len(study.runs) + study.waiting
    facts = {
        "Question": study.word("question"),
        "Expected": study.word("expected"),
        "Source": study.word("source"),
        "Setting": reading.setting,
        "Runs": f"{done} of {every} done",
        "Date": date_in_words(study.word("finished") or study.word("started")),
        "Time": time_in_words(study.about.get("seconds")),
        "Machine": machine_in_words(study.about.get("machine") or {}),
        "Code": code_in_words(study.about.get("code") or {}),
    }
    return ((name, text) for name, text in facts.items() if text)


def date_in_words(text: str) -> str:
    """A date as people write it; the text itself if it is none."""
    try:
        return f"{datetime.fromisoformat(text):%d %B %Y}".lstrip("0")
    except ValueError:
        return text


def time_in_words(seconds: Any) -> str:  # noqa: ANN401 - a record may hold anything
    """A duration in two units at most; empty if it is unknown."""
    if not isinstance(seconds, int | float):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def machine_in_words(machine: Json) -> str:
    """The device, the number of cores and the version of torch."""
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    torch = f"torch {machine['torch']}" if machine.get("torch") else ""
    device = str(machine.get("device_name") or machine.get("device") or "")
    return ", ".join(filter(None, (device, cores, torch)))


def code_in_words(code: Json) -> str:
    """The commit, or the version where there is none."""
    if not code.get("commit"):
        return f"version {code['version']}" if code.get("version") else ""
    return f"commit {code['commit'][:10]}{', with changes' if code.get('dirty') else ''}"
