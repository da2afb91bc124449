"""What a study says on its page: an answer, a table, figures and doubts.

A comparison of trainings is read by the report itself (`comparison.py`). A study of another kind
reads its own records, by a function in its file:

    def reading(study: report.Study) -> Reading:
        values = [run.number("test_loss") for run in study.select("sam")]
        ...
        return Reading(answer="...", table=Table(...), note="...", plates=[Plate(...)])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from flatminima.report.doubts import Doubt
from flatminima.report.plate import Plate
from flatminima.report.records import Study
from flatminima.report.render import Table

__all__ = ["Marks", "Reader", "Reading"]

Marks: TypeAlias = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a study says on its page."""

    answer: str
    """One sentence with the number, its interval and n; what follows "; " is set smaller."""
    table: Table
    """The main table."""
    note: str
    """How to read the table, in a line or two."""
    plates: Sequence[Plate]
    """The figures, in the order of the page."""
    doubts: Sequence[Doubt]
    """What to doubt."""
    setting: str
    """The size of the study, in a few words: "preset quick, 3 methods, 20 seeds"."""
    heading: str = "Every method"
    """What stands above the table."""
    claims: Sequence[tuple[str, str]] = ()
    """What was claimed and what was found, pair by pair."""
    verdict: str = ""
    """What became of the source's claims, in a few words: "3 agree, 1 no difference"."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """What can be downloaded as CSV: `methods` is the main table, `runs` all runs."""
    marks: Marks = field(default_factory=dict[str, dict[str, float]])
    """Where the interval of each method stands in the fourth column, in percent."""


Reader: TypeAlias = Callable[[Study], Reading]
