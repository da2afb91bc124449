"""Write the pages of the studies: `python docs/studies.py [RESULTS]`.

With a folder of results, what finished there is first noted in `docs/studies/records`, one small
file for each study and preset; the pages are made of these and of the studies' own files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatminima.report import render
from flatminima.report.page import date_in_words, machine_in_words, time_in_words
from flatminima.report.records import read
from flatminima.study.study import Study, find, studies

HERE = Path(__file__).parent / "studies"
RECORDS = HERE / "records"
HEAD = """# Studies

Every study, from its own file and from the records of what was carried out
(`python docs/studies.py` writes this page). A verdict counts the comparisons with the source: a
difference to the baseline agrees or differs only if its 95 % interval leaves out 0. Presets that
are not measured have their runs, and `flatminima run STUDY --preset paper --dry-run` says what they
take; a quick preset is a stand-in on small images, so what it shows is no re-run of the source.

"""
HEADS = ("Study", "Claim", "Source", "Measured", "Not measured", "Verdict")


def note(results: Path) -> None:
    """Note every study that finished in a folder of results."""
    RECORDS.mkdir(exist_ok=True)
    for path in sorted(results.glob("*/study.json")):
        record = read(path.parent)
        study = find(record.word("name"))
        ended = all(run.status in ("done", "diverged") for run in record.runs)
        if not record.word("finished") or record.waiting or not ended or study.reader is None:
            continue
        told = study.reader(record)
        if not told.verdict:
            continue
        about = {
            "study": study.name,
            "preset": record.word("preset"),
            "date": record.word("finished"),
            "seconds": record.about.get("seconds"),
            "machine": machine_in_words(record.about.get("machine") or {}),
            "answer": told.answer,
            "verdict": told.verdict,
            "setting": told.setting,
            "claims": list(map(list, told.claims)),
            "differences": list(record.about.get("differences") or ()),
            "note": told.note,
            "table": render.markdown(told.table),
        }
        name = f"{study.name}-{about['preset']}.json"
        text = json.dumps(about, indent=1, ensure_ascii=False)
        (RECORDS / name).write_text(text + "\n", encoding="utf-8")


def records(study: Study) -> list[Mapping[str, Any]]:
    """What was noted of a study, by preset."""
    paths = [RECORDS / f"{study.name}-{preset}.json" for preset in study.presets]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def source(study: Study) -> str:
    """The first source of a study, without its details."""
    text = study.field("source")
    ends = (r"arXiv:\d+\.\d+", r"\((\w+ )?\d{4}\)", r"\d{4}")
    first = text.partition(";")[0]
    found = (re.match(rf".*?{end}", first) for end in ends)
    return next((one[0] for one in found if one), first)


def index() -> str:
    """The list of all studies."""
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    pages: list[str] = []
    for study in studies():
        done = records(study)
        presets = [record["preset"] for record in done]
        linked = (HERE / f"{study.name}.md").is_file() or bool(done)
        if linked:
            pages.append(study.name)
        cells = (
            f"[{study.name}]({study.name}.md)" if linked else study.name,
            study.field("claim"),
            source(study),
            ", ".join(presets) or ("see its page" if linked else "–"),
            ", ".join(preset for preset in study.presets if preset not in presets)
            if done or not linked
            else "–",
            "; ".join(f"{record['preset']}: {record['verdict']}" for record in done) or "–",
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    toctree = "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```", ""])
    return HEAD + "\n".join(lines) + "\n" + toctree


def page(study: Study) -> str:
    """The page of one study: claimed, found, and what to doubt."""
    parts = [f"# {study.title}", f"**Claimed.** {study.field('claim')}"]
    parts += [f"**Source.** {study.field('source')}", f"**Expected.** {study.field('expected')}"]
    for record in records(study):
        when = f"{date_in_words(record['date'])}, {record['machine']}"
        took = time_in_words(record["seconds"])
        parts += [
            f"## {record['preset'].capitalize()}",
            f"`flatminima run {study.name} --preset {record['preset']}`: {record['setting']}; "
            f"{when}, {took}.",
            f"**Found.** {record['answer']}",
            *(f"**{claim}.** {finding}" for claim, finding in record["claims"]),
            record["table"].rstrip(),
            record["note"],
            "**Differs from the source.** " + " ".join(record["differences"]),
        ]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """Every page that is generated, by its file."""
    own = {HERE / f"{study.name}.md": page(study) for study in studies() if records(study)}
    return own | {HERE / "index.md": index()}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        note(Path(sys.argv[1]))
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
