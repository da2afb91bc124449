"""How far each measure is, for whoever looks on."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from flatminima.train.progress import watched

__all__ = ["bars"]


@contextmanager
def bars() -> Generator[Callable[[str, int, int], None]]:
    """A bar for each of several tasks, if somebody looks.

    Yields:
        A function that takes a name, how much is done, and of how much (0 if not known).
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, transient=True, disable=not watched()) as drawn:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = drawn.add_task(name, total=total or None)
            drawn.update(tasks[name], completed=done, total=total or None)

        yield tell
