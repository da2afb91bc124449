"""How far a study is: a bar with the time left at a terminal, a line every few runs elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from flatminima.study.record import Record

__all__ = ["Meter", "duration"]

LINES = 10  # about how many lines a study prints where there is no terminal


class Meter:
    """Shows the progress over the runs of a study while it is entered.

    Args:
        total: How many runs there are; None if that is not known.
        console: Where to show it.
    """

    def __init__(self, total: int | None, console: Console) -> None:
        self._total = total
        self._console = console
        self._began = time.monotonic()
        self._done = 0
        self._skipped = 0
        self._bar = _bar(console)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def skip(self, count: int) -> None:
        """Note runs that had ended before."""
        self._skipped += count
        self._bar.advance(self._task, count)
        if count:
            self._console.print(f"{count} runs were done before.", highlight=False)

    def ended(self, record: Record) -> None:
        """Note a run that ended, and say so if it went wrong."""
        self._done += 1
        said = f"{record.run.title}: {_word(record)}"
        self._bar.update(self._task, advance=1, description=said)
        bad = (record.result or {}).get("status") != "done"
        every = max(1, (self._total or LINES) // LINES)
        if bad or (not self._console.is_terminal and self._done % every == 0):
            self._console.print(f"{self._place()}{said}", soft_wrap=True, highlight=False)

    def _place(self) -> str:
        """How far the study is, in words."""
        position = self._done + self._skipped
        if self._total is None:
            return f"{position} runs done; "
        left = (time.monotonic() - self._began) / self._done * (self._total - position)
        return f"{position} of {self._total} runs, about {duration(left)} left; "


def _bar(console: Console) -> Progress:
    """The bar, which goes when the study is done."""
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )


def _word(record: Record) -> str:
    """What became of a run, in a few words."""
    result = record.result or {}
    if result.get("status") == "done":
        if "test_accuracy_last" in result:
            return f"test accuracy {100 * result['test_accuracy_last']:.1f} %"
        return str(result.get("said", "done"))
    error = str(result.get("error", "")).strip() or "no result"
    return f"{result.get('status', 'failed')}: {error.splitlines()[-1]}"


def duration(seconds: float) -> str:
    """A time in words, as exact as one wants to read it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
