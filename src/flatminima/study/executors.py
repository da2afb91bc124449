"""What carries out the runs of a study: this process, or a pool of workers on this machine.

Anything else will do that has `submit(fn, run)` and returns something with `result()`; nothing
besides these two is used, because other libraries share no more.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait
from typing import Any, Protocol, Self

import torch

__all__ = ["Executor", "Handle", "Later", "LocalPool", "ThisProcess", "one_thread"]

Task = Callable[[Any], Any]


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


class ThisProcess:
    """Carries out every task in this process, when its result is asked for.

    Example:
        >>> ThisProcess().submit(abs, -2).result()
        2
    """

    def submit(self, fn: Task, run: Any) -> "Later":  # noqa: ANN401
        """Keep `fn(run)` for later."""
        return Later(fn, run)


@dataclass(frozen=True)
class Later:
    """A task that is carried out when its result is first asked for."""

    fn: Task
    """What to call."""
    run: Any
    """What to call it with."""

    def result(self) -> Any:  # noqa: ANN401
        """What the task returns, computed with one thread, as a worker would."""
        return self._result

    @cached_property
    def _result(self) -> Any:  # noqa: ANN401
        with one_thread():
            return self.fn(self.run)


class LocalPool:
    """Worker processes on this machine, each with one thread of torch, reused for many tasks.

    Every worker is a pool of one process, held by a thread of this process. So when a process
    dies, it is known which task it had: that one is tried once more in a fresh process, and no
    other is touched. Workers are spawned, not forked: a fork copies the locks of threads that it
    does not copy. They end with their parent, however it ends.

    Args:
        workers: How many.
        setup: Called first in every worker; sent there by pickle.
    """

    def __init__(self, workers: int, setup: Callable[[], None] | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}.")
        self._setup = setup
        self._threads = ThreadPoolExecutor(workers)
        self._mine = threading.local()
        self._alive: list[_Worker] = []
        self._closing = False

    def submit(self, fn: Task, run: Any) -> Future[Any]:  # noqa: ANN401
        """Queue `fn(run)`; both are sent by pickle."""
        return self._threads.submit(self._carried_out, fn, run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing = True
        if kind is not None:  # such as Ctrl-C: do not wait for the runs under way
            for worker in self._alive:
                worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._alive:
            worker.close()

    def _carried_out(self, fn: Task, run: Any) -> Any:  # noqa: ANN401
        """The result of a task, which is tried again once if its process dies."""
        try:
            return self._attempt(fn, run)
        except BrokenProcessPool:
            if self._closing:
                raise
            return self._attempt(fn, run)

    def _attempt(self, fn: Task, run: Any) -> Any:  # noqa: ANN401
        """The result of a task; the worker is let go if its process dies."""
        try:
            return self._worker().submit(fn, run)
        except BrokenProcessPool:
            self._discard()
            raise

    def _worker(self) -> "_Worker":
        """The worker of the calling thread."""
        if getattr(self._mine, "worker", None) is None:
            self._mine.worker = _Worker(self._setup)
            self._alive.append(self._mine.worker)
        return self._mine.worker

    def _discard(self) -> None:
        """Let the dead worker of the calling thread go."""
        worker, self._mine.worker = self._mine.worker, None
        if worker is not None:
            self._alive.remove(worker)
            worker.close()


class _Worker:
    """One spawned process."""

    def __init__(self, setup: Callable[[], None] | None) -> None:
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(setup,)
        )
        self._pid: int | None = None

    def submit(self, fn: Task, run: Any) -> Any:  # noqa: ANN401
        """Wait for the result of a task."""
        self._pid = self._pid or self._pool.submit(os.getpid).result()
        return self._pool.submit(fn, run).result()

    def kill(self) -> None:
        """End the process without waiting for its task."""
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def close(self) -> None:
        """End the process after its task."""
        self._pool.shutdown(wait=True)


def _begin(setup: Callable[[], None] | None) -> None:
    """The first thing a worker does."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if setup is not None:
        setup()


def _end_with_parent() -> None:
    """Wait for the parent to die, and leave at once: nobody would take the result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def one_thread() -> Generator[None]:
    """Let torch use one thread, as workers do: a sum in another order is another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
