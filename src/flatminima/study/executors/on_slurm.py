"""Runs as an array of jobs of Slurm, through submitit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flatminima.study.executors.task import Parcel, Setup, Task, extra

__all__ = ["SlurmArray"]


@dataclass(frozen=True)
class Place:
    """The place of a task in an array that is not submitted yet."""

    array: "SlurmArray"
    """The array."""
    index: int
    """Which of its tasks."""

    def result(self) -> Any:  # noqa: ANN401 - whatever the task returns
        """Submit what is waiting, wait for this task, and return its result."""
        return self.array.job(self.index).result()


@dataclass
class SlurmArray:
    """Collects tasks, and submits them as one array of jobs when a first result is asked for.

    Args:
        folder: Where submitit keeps scripts, logs and pickled tasks; every node must see it.
        workers: How many jobs may run at a time.
        setup: Called first in every job; sent there by pickle.
        cluster: `slurm`; or `local`, submitit's own stand-in, which starts every job at once as a
            process of this machine.
        hours: The time limit of one job.
        gpus: GPUs per job.
    """

    folder: Path
    workers: int
    setup: Setup | None = None
    cluster: str = "slurm"
    hours: float = 24.0
    gpus: int = 0
    _waiting: list[Parcel] = field(default_factory=list[Parcel])
    _jobs: list[Any] = field(default_factory=list[Any])
    _executor: Any = field(init=False)

    def __post_init__(self) -> None:
        self._executor = extra("submitit", "slurm").AutoExecutor(self.folder, cluster=self.cluster)
        self._executor.update_parameters(
            name="flatminima",
            timeout_min=round(60 * self.hours),
            cpus_per_task=1,
            gpus_per_node=self.gpus,
            slurm_array_parallelism=self.workers,
        )

    def submit(self, fn: Task, run: Any) -> Place:  # noqa: ANN401
        """Keep `fn(run)` for the array."""
        self._waiting.append(Parcel.of(fn, run, self.setup))
        return Place(self, len(self._jobs) + len(self._waiting) - 1)

    def job(self, index: int) -> Any:  # noqa: ANN401 - submitit's own kind
        """The job of a task; whatever waits is submitted first."""
        if self._waiting:
            self._jobs += self._executor.map_array(_opened, self._waiting)
            self._waiting = []
        return self._jobs[index]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # such as Ctrl-C: nobody waits for the jobs any more
            for job in self._jobs:
                job.cancel()


def _opened(parcel: Parcel) -> Any:  # noqa: ANN401 - whatever the task returns
    return parcel()
