"""The page over all studies of a folder: what each asked, what came out, and where its report is.

It reads what the studies and their reports left, and none of the runs, so it takes no time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flatminima.report.page import date_in_words, environment, machine_in_words, time_in_words
from flatminima.report.records import Json, opened
from flatminima.report.style import INKS

__all__ = ["Entry", "entries", "write"]

FILES = {"report.html": "Report", "table.md": "Markdown", "table.tex": "LaTeX", "runs.csv": "CSV"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One study."""

    name: str
    """The name of its folder."""
    title: str
    """What it asks."""
    answer: str
    """What came out; empty without a report."""
    facts: Mapping[str, str]
    """What else is known: name and text."""
    files: Mapping[str, str]
    """What its report left: what to call a file, and where it is, seen from the page."""


def write(folder: Path | str) -> Path:
    """Write the page over all studies below a folder.

    Args:
        folder: The folder that holds the studies' folders.

    Returns:
        The page, `index.html` in that folder.

    Raises:
        ValueError: If no study was run there.
    """
    folder = Path(folder)
    found = entries(folder)
    if not found:
        raise ValueError(f"folder must hold a study that was run, got {str(folder)!r}: run one.")
    template = environment().get_template("index.html.j2")
    out = folder / "index.html"
    out.write_text(template.render(entries=found, inks=INKS), encoding="utf-8")
    return out


def entries(folder: Path) -> list[Entry]:
    """Every study below a folder, by name."""
    return [
        _entry(path.parent, about)
        for path in sorted(folder.glob("*/study.json"))
        if (about := opened(path)) is not None
    ]


def _entry(folder: Path, about: Json) -> Entry:
    """What a study's folder says of it."""
    told = opened(folder / "report.json") or {}
    facts = {
        "Setting": str(told.get("setting") or f"preset {about.get('preset', '')}"),
        "Runs": f"{told['done']} of {told['runs']} done" if "runs" in told else _planned(about),
        "Against the source": str(told.get("verdict") or ""),
        "Date": date_in_words(str(about.get("finished") or about.get("started") or "")),
        "Time": time_in_words(about.get("seconds")),
        "Machine": machine_in_words(about.get("machine") or {}),
    }
    return Entry(
        name=folder.name,
        title=str(about.get("title") or about.get("name") or folder.name),
        answer=str(told.get("answer") or ""),
        facts={name: text for name, text in facts.items() if text},
        files={
            word: f"{folder.name}/{name}"
            for name, word in FILES.items()
            if (folder / name).is_file()
        },
    )


def _planned(about: Json) -> str:
    """How many runs a study without a report has."""
    return f"{len(about.get('runs') or ())} planned so far"
