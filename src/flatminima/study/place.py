"""Where runs are carried out: never part of what determines their results."""

import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Place", "cores"]


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
    device: str = "cpu"
    """Where networks are trained and measured, as torch names it."""
    data_root: str | None = None
    """The folder of the data; None takes it from the environment variable FLATMINIMA_DATA."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be >= 0, got {self.workers}.")
