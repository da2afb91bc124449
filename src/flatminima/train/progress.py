"""A progress bar that shows only where somebody looks: at a terminal, outside worker processes."""

import multiprocessing
import sys
from collections.abc import Iterable

from rich.progress import track

__all__ = ["epochs", "watched"]


def watched() -> bool:
    """Whether standard output is a terminal and this is no worker process."""
    return sys.stdout.isatty() and multiprocessing.parent_process() is None


def epochs(count: int, label: str) -> Iterable[int]:
    """The numbers of the epochs from 1 on, with a progress bar if somebody looks."""
    numbers = range(1, count + 1)
    return track(numbers, description=label, transient=True) if watched() else numbers
