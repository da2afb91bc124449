"""Where runs are carried out: never part of what determines their results."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

__all__ = ["ExecutorName", "Place", "cores"]

ExecutorName = Literal["local", "ray", "slurm"]


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how the runs of a study are carried out."""

    folder: Path = Path("results")
    """The records of all studies are written below it, each in a folder of its own."""
    workers: int = field(default_factory=cores)
    """Processes that carry out runs; 0 carries them out in this process, one after another."""
    executor: ExecutorName = "local"
    """What carries them out: workers on this machine, tasks of Ray, or jobs of Slurm."""
    address: str | None = None
    """Where the executor is: a Ray cluster, as `ray.init` takes it, or a Slurm cluster by
    submitit's name (`local` is its stand-in on this machine); None is the usual one."""
    device: str = "cpu"
    """Where networks are trained and measured, as torch names it."""
    data_root: str | None = None
    """The folder of the data; None takes it from the environment variable FLATMINIMA_DATA."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be >= 0, got {self.workers}.")
        if self.executor not in get_args(ExecutorName):
            names = ", ".join(get_args(ExecutorName))
            raise ValueError(f"executor must be one of {names}, got {self.executor!r}.")
        if self.executor == "local" and self.address is not None:
            raise ValueError(
                f"address must be left out with the local executor, got {self.address!r}; "
                "give executor ray or slurm with it."
            )
