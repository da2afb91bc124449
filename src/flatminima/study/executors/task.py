"""What an executor is, and a task that any process can open, whatever it knows of the study."""

import pickle
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import torch

__all__ = ["Executor", "Handle", "Parcel", "Setup", "Task", "extra", "one_thread"]

Task = Callable[[Any], Any]
Setup = Callable[[], None]


class Handle(Protocol):
    """Something that will have a result."""

    def result(self) -> Any:  # noqa: ANN401 - whatever the task returns
        """Wait for the result, or raise what the task raised."""
        ...


class Executor(Protocol):
    """Something that carries out tasks."""

    def submit(self, fn: Task, run: Any, /) -> Handle:  # noqa: ANN401 - whatever the task takes
        """Begin `fn(run)`, now or later."""
        ...


@dataclass(frozen=True)
class Parcel:
    """A task that opens itself: a study's file has to be read before a run of it can be unpickled.

    Example:
        >>> Parcel.of(abs, -2, setup=None)()
        2
    """

    setup: Setup | None
    """Called first, in the process that opens the parcel."""
    inside: bytes
    """The task and what it takes, pickled."""

    @classmethod
    def of(cls, fn: Task, run: Any, setup: Setup | None) -> "Parcel":  # noqa: ANN401
        """Pack `fn(run)`."""
        return cls(setup, pickle.dumps((fn, run)))

    def __call__(self) -> Any:  # noqa: ANN401 - whatever the task returns
        """Open it, and carry the task out with one thread, as every executor does."""
        if self.setup is not None:
            self.setup()
        fn, run = pickle.loads(self.inside)
        with one_thread():
            return fn(run)


@contextmanager
def one_thread() -> Generator[None]:
    """Let torch use one thread, as workers do: a sum in another order is another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def extra(package: str, name: str | None = None) -> Any:  # noqa: ANN401 - a package
    """A package that only one executor needs.

    Args:
        package: The package.
        name: The extra that brings it, and the executor that needs it; None if it is called so.

    Returns:
        The package.

    Raises:
        RuntimeError: If it is not installed.
    """
    name = name or package
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"executor {name} must have the package {package}, got an environment without it: "
            f"pip install 'flatminima[{name}]'"
        ) from error
