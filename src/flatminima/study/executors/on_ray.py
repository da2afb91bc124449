"""Runs as tasks of Ray: on this machine, or on a cluster whose address is given."""

from dataclasses import dataclass
from typing import Any, Self

from flatminima.study.executors.task import Parcel, Setup, Task, extra

__all__ = ["RayTasks"]


@dataclass(frozen=True)
class Reference:
    """A task that Ray has taken."""

    ray: Any
    """The package."""
    ref: Any
    """Ray's own reference."""

    def result(self) -> Any:  # noqa: ANN401 - whatever the task returns
        """Wait for the result, or raise what the task raised."""
        return self.ray.get(self.ref)


class RayTasks:
    """Carries out every task as a task of Ray, with one core and, on a GPU, one GPU each.

    A task whose process dies is tried once more, as in the local pool.

    Args:
        workers: How many at a time, where Ray is started here; a cluster decides by its own cores.
        setup: Called first in every task; sent there by pickle.
        address: Of a cluster, as `ray.init` takes it (`auto` finds one that runs on this machine);
            None starts Ray here, and ends it with the context.
        gpus: How many GPUs a task needs.
    """

    def __init__(
        self,
        workers: int,
        setup: Setup | None = None,
        *,
        address: str | None = None,
        gpus: float = 0.0,
    ) -> None:
        cores = workers if address is None else None
        self._ray = extra("ray")
        self._ray.init(address, num_cpus=cores, include_dashboard=False, log_to_driver=False)
        self._setup = setup
        self._open = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(_opened)

    def submit(self, fn: Task, run: Any) -> Reference:  # noqa: ANN401
        """Hand `fn(run)` to Ray."""
        return Reference(self._ray, self._open.remote(Parcel.of(fn, run, self._setup)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # ends a Ray that was started here, and only leaves a cluster


def _opened(parcel: Parcel) -> Any:  # noqa: ANN401 - whatever the task returns
    return parcel()
