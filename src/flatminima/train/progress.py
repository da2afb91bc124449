"""A progress bar with the time left, where somebody looks: at a terminal, in no worker process."""

import multiprocessing
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import Progress

__all__ = ["steps_shown", "watched"]


def watched() -> bool:
    """Whether standard output is a terminal and this is no worker process."""
    return sys.stdout.isatty() and multiprocessing.parent_process() is None


@contextmanager
def steps_shown(total: int, done: int, label: str) -> Generator[Callable[[], None]]:
    """Show how far a training is and how long it takes yet, if somebody looks.

    Args:
        total: How many steps it has.
        done: How many are behind it.
        label: What it is called.

    Yields:
        What to call after every step.
    """
    if not watched():
        yield lambda: None
        return
    with Progress(transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda: bar.advance(task)
