"""The settings that final runs share, and those that they should share but do not."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from flatminima.report.records import Json, Run, Study

__all__ = ["common", "flat", "mixed"]

# These name a run, or say what is measured of it; they are meant to differ.
NAMES = {"key", "study", "stage", "method", "label", "seed", "measure"}


def flat(settings: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting under its dotted name, those that name a run left out."""
    for name, value in settings.items():
        if name in NAMES:
            continue
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def common(study: Study) -> dict[str, str]:
    """The settings that all final runs share."""
    values = _values(study.select(stage="final", done=False))
    return {name: seen[0] for name, seen in values.items() if len(seen) == 1 and seen[0] != "null"}


def mixed(study: Study, method: str) -> dict[str, list[str]]:
    """The settings that differ between the final runs of one method: there should be none."""
    values = _values(study.select(method, stage="final"))
    return {name: seen for name, seen in values.items() if len(seen) > 1}


def _values(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Every value that each setting has in some runs."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in flat(run.settings):
            word = value if isinstance(value, str) else json.dumps(value)
            found.setdefault(name, {})[word] = None
    return {name: list(words) for name, words in found.items()}
