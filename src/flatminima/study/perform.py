"""One run from its settings to its result on disk: what an executor is handed."""

import traceback
from dataclasses import replace
from functools import lru_cache
from typing import Any

from flatminima.data import Data, Parts
from flatminima.study.place import Place
from flatminima.study.record import Record
from flatminima.study.run import Experiment, Run
from flatminima.train import Checkpoints, Diverged, Trained, measured, train
from flatminima.train.checkpoint import save_weights
from flatminima.train.evaluate import relabelled

__all__ = ["perform", "summary"]

Json = dict[str, Any]
MINUTES = 10.0  # of a training that may be lost when it is killed


def perform(run: Experiment, *, study: str, place: Place, wait: bool = True) -> bool:
    """Carry out a run and leave its record, whatever becomes of it; one that ended stays as it is.

    Args:
        run: The run.
        study: The name of its study.
        place: Where; the record goes below `place.folder`.
        wait: What to do while another sweep carries out the same run: wait for it, or come back.

    Returns:
        Whether the run has a result now; False only if another sweep is busy with it.
    """
    record = Record(place.folder, study, run)
    with record.claimed(wait=wait) as mine:
        if mine and not record.ended:
            _carry_out(run, record, place)
    return mine


def _carry_out(run: Experiment, record: Record, place: Place) -> None:
    """Carry out a run that nobody else is busy with."""
    record.begin(place.device)
    try:
        own = (
            _training(run, record, place)
            if isinstance(run, Run)
            else run.perform(place, record.log)
        )
        result = {"status": "done", **own}
    except Diverged as error:
        result = {"status": "diverged", "error": str(error)}
    except Exception:
        result = {"status": "failed", "error": traceback.format_exc()}
    record.end(result)


def _training(run: Run, record: Record, place: Place) -> Json:
    """Train, and measure what came out."""
    parts = loaded(run.training.data, place.data_root).to(place.device)
    for number in range(1, run.rounds):
        before = _one_round(run, parts, record, place, number)
        parts = replace(parts, train=relabelled(before.model, parts.train))
    trained = _one_round(run, parts, record, place, run.rounds)
    if run.measure is None:
        return summary(trained)
    return summary(trained) | measured(trained.model, parts.train, run.measure)


def _one_round(run: Run, parts: Parts, record: Record, place: Place, number: int) -> Trained:
    """Train once, from the last checkpoint if there is one; the last round leaves its weights."""
    last = number == run.rounds
    checkpoints = Checkpoints(
        folder=record.checkpoints / str(number), every=1, minutes=MINUTES, best=False
    )
    trained = train(
        run.training,
        parts,
        device=place.device,
        log=record.log if last else lambda _: None,
        name=f"run {run.key}",
        checkpoints=checkpoints,
    )
    if last and checkpoints.saved:
        save_weights(record.folder / "weights.safetensors", trained.model.state_dict())
    return trained


@lru_cache(maxsize=2)  # MNIST takes 55 MB
def loaded(data: Data, root: str | None) -> Parts:
    """The data of a run, kept for the next one that this process carries out."""
    return data.load(root)


def summary(trained: Trained) -> Json:
    """What a training came to, in a few numbers."""
    # Chosen by the validation part, the first of equals; the test part chooses nothing.
    last = trained.epochs[-1]
    best = max(trained.epochs, key=lambda row: row["validation_accuracy"])
    return {
        "test_accuracy_last": last["test_accuracy"],
        "test_accuracy_best": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "train_loss_last": last["train_loss"],
        "validation_accuracy_last": last["validation_accuracy"],
        "validation_accuracy_best": best["validation_accuracy"],
        "seconds_per_step": trained.seconds_per_step,
        "steps": last["step"],
        "parameters": trained.parameters,
    }
