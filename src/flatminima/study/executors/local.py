"""Tasks in this process, one after another, or in a pool of workers on this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait
from typing import Any, Self

import torch

from flatminima.study.executors.task import Setup, Task, one_thread

__all__ = ["Later", "LocalPool", "ThisProcess"]


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

    Every worker keeps to cores of its own, an equal share of those that this process may use; with
    GPUs, to one of them, in turn.

    Args:
        workers: How many.
        setup: Called first in every worker; sent there by pickle.
        gpus: How many GPUs there are to share; 0 if none is used.
    """

    def __init__(self, workers: int, setup: Setup | None = None, *, gpus: int = 0) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}.")
        self._setup = setup
        self._seats = [
            _Seat(cores=share, gpu=index % gpus if gpus else None)
            for index, share in enumerate(shares(_cores(), workers))
        ]
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
            self._mine.seat = getattr(self._mine, "seat", None) or self._seats.pop()
            self._mine.worker = _Worker(self._mine.seat, self._setup)
            self._alive.append(self._mine.worker)
        return self._mine.worker

    def _discard(self) -> None:
        """Let the dead worker of the calling thread go."""
        worker, self._mine.worker = self._mine.worker, None
        if worker is not None:
            self._alive.remove(worker)
            worker.close()


@dataclass(frozen=True)
class _Seat:
    """What one worker keeps to."""

    cores: frozenset[int]
    """Cores; none where the system does not say which there are."""
    gpu: int | None
    """A GPU, by its number among those that are visible."""

    def take(self) -> None:
        """Keep to it from now on; torch has not looked for GPUs yet."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        if self.gpu is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            mine = visible.split(",")[self.gpu] if visible else str(self.gpu)
            os.environ["CUDA_VISIBLE_DEVICES"] = mine


def _cores() -> list[int]:
    """The cores that this process may use, where the system says it."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else []


def shares(cores: Sequence[int], workers: int) -> list[frozenset[int]]:
    """As equal shares of the cores as there can be; workers beyond the cores share them in turn.

    Args:
        cores: The numbers of the cores.
        workers: How many shares.

    Returns:
        One set of cores per worker.

    Example:
        >>> [sorted(share) for share in shares([0, 1, 2, 3], 2)]
        [[0, 2], [1, 3]]
        >>> [sorted(share) for share in shares([0, 1], 3)]
        [[0], [1], [0]]
    """
    taken = min(workers, len(cores)) or 1
    return [frozenset(cores[index % taken :: taken]) for index in range(workers)]


class _Worker:
    """One spawned process."""

    def __init__(self, seat: _Seat, setup: Setup | None) -> None:
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(seat, setup)
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


def _begin(seat: _Seat, setup: Setup | None) -> None:
    """The first thing a worker does."""
    seat.take()
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
