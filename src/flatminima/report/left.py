"""What a report leaves in the folder of its study: the page, the table for papers, the rows.

report.html   the page
table.md      the main table in Markdown, table.tex in LaTeX with booktabs
runs.csv      every run, a line each
report.json   the answer in a few words, for the page over all studies
"""

import json
from pathlib import Path

from flatminima.report import page, render
from flatminima.report.reading import Reading
from flatminima.report.records import Study

__all__ = ["leave"]


def leave(study: Study, reading: Reading) -> Path:
    """Write a report and its tables.

    Args:
        study: The study.
        reading: What it says.

    Returns:
        The page.
    """
    texts = {
        "table.md": render.markdown(reading.table),
        "table.tex": render.latex(reading.table),
        "runs.csv": reading.files.get("runs") or render.runs_csv(study),
        "report.json": json.dumps(_summary(study, reading), indent=1) + "\n",
    }
    for name, text in texts.items():
        (study.folder / name).write_text(text, encoding="utf-8")
    return page.write(study, reader=lambda _: reading)


def _summary(study: Study, reading: Reading) -> dict[str, str | int]:
    """What the page over all studies says of this one."""
    return {
        "answer": reading.answer,
        "verdict": reading.verdict,
        "setting": reading.setting,
        "done": len(study.select()),
        "runs": len(study.runs) + study.waiting,
    }
