"""Carrying out a study: every run that is not done yet, stage by stage."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from flatminima.study.executors import Executor, Handle, LocalPool, ThisProcess
from flatminima.study.perform import perform
from flatminima.study.place import Place
from flatminima.study.progress import Meter
from flatminima.study.record import Record, StudyRecord
from flatminima.study.run import Experiment, Outcome, Run
from flatminima.study.study import Stages, Study

__all__ = ["launch", "planned"]


def launch(
    study: Study,
    preset: str,
    place: Place,
    *,
    download: bool = False,
    executor: Executor | None = None,
    console: Console | None = None,
) -> Path:
    """Carry out the runs of a study that are not done yet.

    A run that ended is not carried out again, so launching a study again resumes it. A run that
    was killed or failed begins from scratch. A run that fails is recorded with its traceback and
    stops no other.

    Args:
        study: The study.
        preset: Which of its plans.
        place: Where and how.
        download: Whether to fetch data that are missing.
        executor: What carries out the runs; None makes `place.workers` processes, which end with
            this call.
        console: Where progress is shown; None is standard output.

    Returns:
        The study's folder, below `place.folder`.
    """
    _check_device(place.device)
    stages = study.stages(preset)
    about = StudyRecord(place.folder, study, preset, place.device)
    with ExitStack() as stack:
        stack.enter_context(about)
        executor = executor or _executor(study, place, stack)
        meter = stack.enter_context(Meter(study.count(preset), console or Console()))
        outcomes: list[Outcome] | None = None
        while (runs := _next(stages, outcomes)) is not None:
            records = [Record(place.folder, study.name, run) for run in runs]
            todo = [record for record in records if not record.ended]
            about.add([run.key for run in runs], worked=bool(todo))
            meter.skip(len(records) - len(todo))
            _fetch(todo, place, download=download)
            for record in _carried_out(todo, place, executor):
                meter.ended(record)
            outcomes = _outcomes(records)
        about.finished = True
    return about.folder


def planned(study: Study, preset: str, place: Place) -> Iterator[Sequence[Record]]:
    """The runs of a study, stage by stage, as far as they are known without carrying any out.

    Args:
        study: The study.
        preset: Which of its plans.
        place: Where the records are.

    Yields:
        The records of a stage, done or not; after a stage that is not done there is no other,
        since it may depend on the outcomes.
    """
    stages = study.stages(preset)
    outcomes: list[Outcome] | None = None
    while (runs := _next(stages, outcomes)) is not None:
        records = [Record(place.folder, study.name, run) for run in runs]
        yield records
        if not all(record.ended for record in records):
            return
        outcomes = _outcomes(records)


def _check_device(name: str) -> None:
    """Raise a ValueError unless torch knows the device and it is there."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be one that torch can use here, such as cpu, got {name!r}: {error}"
        ) from error


def _next(stages: Stages, outcomes: list[Outcome] | None) -> Sequence[Experiment] | None:
    """The next stage of a study, or None after the last."""
    try:
        return stages.send(outcomes)
    except StopIteration:
        return None


def _outcomes(records: Sequence[Record]) -> list[Outcome]:
    """What the runs of a stage came to."""
    return [Outcome(run=record.run, result=record.result or {}) for record in records]


def _executor(study: Study, place: Place, stack: ExitStack) -> Executor:
    """The executor that a place asks for, to be closed by the stack."""
    # Another `Study` of the same file: this one has run it, and a module cannot be sent to workers.
    setup, workers = Study(study.path).load, max(place.workers, 1)
    on_gpu = torch.device(place.device).type == "cuda"
    if place.executor == "ray":
        from flatminima.study.executors.on_ray import RayTasks

        tasks = RayTasks(workers, setup, address=place.address, gpus=float(on_gpu))
        return stack.enter_context(tasks)
    if place.executor == "slurm":
        from flatminima.study.executors.on_slurm import SlurmArray

        logs = place.folder / study.name / "jobs"
        cluster = place.address or "slurm"
        return stack.enter_context(
            SlurmArray(logs, workers, setup, cluster=cluster, gpus=int(on_gpu))
        )
    if place.workers == 0:
        return ThisProcess()
    gpus = torch.cuda.device_count() if on_gpu else 0
    return stack.enter_context(LocalPool(workers, setup, gpus=gpus))


def _fetch(todo: Sequence[Record], place: Place, *, download: bool) -> None:
    """Read the data once before the workers do: what is wrong with them is said at once."""
    runs = [record.run for record in todo]
    for data in {run.training.data for run in runs if isinstance(run, Run)}:
        data.load(place.data_root, download=download)


def _carried_out(todo: Sequence[Record], place: Place, executor: Executor) -> Iterator[Record]:
    """Carry out runs, and yield each record when it is complete, in the order of the runs.

    What another sweep is busy with comes last: by then it may have ended.
    """
    busy: list[Record] = []
    for record, ended in _performed(todo, place, executor, wait=False):
        if ended:
            yield record
        else:
            busy.append(record)
    for record, _ in _performed(busy, place, executor, wait=True):
        yield record


def _performed(
    records: Sequence[Record], place: Place, executor: Executor, *, wait: bool
) -> Iterator[tuple[Record, bool]]:
    """Carry out runs; yield each record, and whether it is complete."""
    waiting: list[tuple[Record, Handle]] = []
    for record in records:
        task = partial(perform, study=record.study, place=place, wait=wait)
        waiting.append((record, executor.submit(task, record.run)))
    for record, handle in waiting:
        try:
            ended = bool(handle.result())
        except Exception as error:  # the worker died, or could not take the run
            record.fail(error, place.device)
            ended = True
        yield record, ended
