"""One run, from its settings to a trained network, to be read from top to bottom."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from flatminima.data import Part, Parts, batches
from flatminima.engine.observe import Observer
from flatminima.models import parameters
from flatminima.train.average import settled
from flatminima.train.checkpoint import Checkpoints
from flatminima.train.distributed import Parallel
from flatminima.train.evaluate import Evaluation, evaluate
from flatminima.train.progress import steps_shown
from flatminima.train.training import Training
from flatminima.train.work import Work

__all__ = ["Diverged", "Trained", "train"]

Row = dict[str, Any]
APART = ("_clean_accuracy", "_noisy_accuracy")


class Diverged(RuntimeError):
    """A run whose loss is no longer a number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What a run leaves."""

    model: nn.Module
    """The network after the last epoch."""
    epochs: list[Row]
    """One row per epoch that was evaluated, as logged."""
    seconds_per_step: float
    """Time of one step: the median over the epochs, without evaluation."""
    average: nn.Module | None = None
    """The network with the mean of the weights; None if there was none."""

    @property
    def parameters(self) -> int:
        """How many trainable numbers the network has."""
        return parameters(self.model)


def train(
    training: Training,
    parts: Parts,
    *,
    device: torch.device | str = "cpu",
    log: Callable[[Row], None] = lambda _: None,
    name: str = "run",
    also: Mapping[str, Part] | None = None,
    checkpoints: Checkpoints | None = None,
    parallel: Parallel = "ddp",
    workers: int = 0,
    observe: Sequence[Observer] = (),
) -> Trained:
    """Train one network.

    The same settings on the same device and number of threads give the same numbers bit for bit,
    the times aside, also if the run was stopped and went on from a checkpoint. The caller's random
    state is left as it was. Where `torch.distributed` has several processes they train one network
    together, each on its part of every batch.

    Args:
        training: The settings.
        parts: The data that `training.data` loads.
        device: Where to train.
        log: Called with every row of the record as soon as it is known: one of kind `epoch` after
            each epoch that is evaluated, and under a rule one of kind `regions`. A run that goes on
            from a checkpoint begins with the rows that it had.
        name: What the progress bar and an error call the run.
        also: Further parts to evaluate on, by the name that their columns begin with.
        checkpoints: Where to save, and to go on from if something is there; None for nowhere.
        parallel: How several processes share the weights: each has all of them (`ddp`), or they
            are sharded (`fsdp2`).
        workers: Processes that decode image files.
        observe: What looks on at every step of a rule on whole batches; not part of a checkpoint.

    Returns:
        The trained network with its rows.

    Raises:
        Diverged: If the loss of a step, or after an epoch, is not finite.
        ValueError: If the settings do not go together with the data or the processes.
    """
    with seeded(training.seed, device):
        # --- what is trained, on what, by what
        parts = parts.to(device)
        count, size = len(parts.train), training.batch_size
        work = Work.begun(
            training,
            parts.train.shape,
            parts.classes,
            examples=count,
            device=torch.device(device),
            parallel=parallel,
            observe=observe,
        )
        here, per_epoch = work.here, training.steps_per_epoch(count)
        if checkpoints and parallel == "fsdp2" and here.count > 1:
            raise ValueError(f"checkpoints must be None with fsdp2, got {checkpoints}: use ddp.")
        if checkpoints and checkpoints.minutes and here.count > 1:
            raise ValueError(
                "checkpoints must have minutes=0 with several processes, got "
                f"{checkpoints.minutes}: their clocks differ; use every."
            )
        log = log if here.rank == 0 else lambda _: None
        if checkpoints:
            work.take_up(checkpoints)
            for row in work.rows:
                log(row)

        # --- the epochs
        with steps_shown(work.steps, work.step, name) as shown:
            while work.step < work.steps:
                began, first = time.perf_counter(), work.step
                epoch = first // per_epoch + 1
                if first % per_epoch == 0:
                    work.lr = float(work.scheduler.get_last_lr()[0])
                before = work.order.get_state()
                losses: list[Tensor] = []
                work.net.train()
                order = torch.randperm(count, generator=work.order).split(size)
                order = order[first % per_epoch : per_epoch][: work.steps - first]
                here.check(min(map(len, order)))
                read = batches(
                    parts.train,
                    [here.mine(index) for index in order],
                    training.augment,
                    partial(step_seed, training.seed, first, here.rank),
                    workers,
                )
                for index, (x, y, noise) in zip(order, read, strict=True):
                    batch = training.loss.batch(x, y, parts.classes, noise)
                    losses.append(work.take_step(batch, here.share(index)))
                    shown()
                    within = work.step % per_epoch and work.step < work.steps
                    if checkpoints and within and checkpoints.due(work.step, epoch_ends=False):
                        work.save(checkpoints, before)
                # Asked once per epoch, so that a GPU is not waited for at every step.
                everywhere = here.gathered(torch.stack(losses).tolist())
                _check_finite(map(sum, zip(*everywhere, strict=True)), first=first + 1, name=name)
                seconds = time.perf_counter() - began
                work.times.append(seconds / len(losses))

                # --- what the epoch came to
                if epoch % training.evaluation.every == 0 or work.step == work.steps:
                    row: Row = {"kind": "epoch", "epoch": epoch, "step": work.step}
                    row |= _scores(work, parts, also or {}) | {"lr": work.lr, "seconds": seconds}
                    if training.rule:
                        row["rho"] = training.rule.rho
                    work.rows.append(row)
                    log(row)
                    _check_finite([row["train_loss"]], first=work.step, name=name)
                    if checkpoints and checkpoints.best and _best(work.epochs):
                        _save_best(checkpoints, work)
                while work.shares.rows:
                    work.rows.append(_region_row(work.shares.rows.pop(0), per_epoch))
                    log(work.rows[-1])
                ended = work.step == work.steps
                if checkpoints and checkpoints.due(work.step, epoch_ends=True, ended=ended):
                    whole_epoch = work.step % per_epoch == 0
                    work.save(checkpoints, work.order.get_state() if whole_epoch else before)
    return Trained(
        model=work.net,
        epochs=work.epochs,
        seconds_per_step=median(work.times) if work.times else math.nan,
        average=work.average and work.average.module,
    )


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Generator[None]:
    """Give torch's random numbers a seed, and the caller's state back afterwards."""
    device = torch.device(device)
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        yield


def step_seed(seed: int, first: int, rank: int, place: int) -> int:
    """The seed of what is random in a batch, other than in every other step and process.

    Args:
        seed: The run's seed.
        first: The steps before the first batch.
        rank: The number of the process.
        place: The place of the batch after the first one.

    Returns:
        The seed.
    """
    return ((seed * 1_000_003 + rank) * 2**32 + first + place) % 2**63


def _check_finite(losses: Iterable[float], *, first: int, name: str) -> None:
    """Raise `Diverged` at the first loss that is not finite; they are of the steps from `first`."""
    for step, loss in enumerate(losses, start=first):
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} at step {step} of {name}: lower lr or rho.")


def _best(rows: list[Row]) -> bool:
    """Whether the last row has a better validation accuracy than all before it."""
    *before, last = (row["validation_accuracy"] for row in rows)
    return not before or last > max(before)


def _save_best(checkpoints: Checkpoints, work: Work) -> None:
    """Save the weights of the best epoch so far."""
    weights = work.weights()
    if not work.here.rank:
        checkpoints.save_best(weights)


def _scores(work: Work, parts: Parts, also: Mapping[str, Part]) -> Row:
    """Losses and accuracies on the parts, of the network and of the mean of its weights."""
    settings = work.training.evaluation
    parts = parts.map(settings.seen)
    row = {
        **_score(work.net, "train", parts.train, settings),
        **_score(work.net, "validation", parts.validation, settings),
        **_score(work.net, "test", parts.test, settings),
    }
    for name, part in also.items():
        row |= _score(work.net, name, settings.seen(part.to(work.device)), settings)
    if work.average:
        mean = settled(work.average, parts.train, settings.batch_size)
        row |= _score(mean, "average_validation", parts.validation, settings)
        row |= _score(mean, "average_test", parts.test, settings)
    # Of the training part alone it is told apart what was learned and what was memorised.
    row |= {name[1:]: row[f"train{name}"] for name in APART if f"train{name}" in row}
    return {name: value for name, value in row.items() if not name.endswith(APART)}


def _score(net: nn.Module, name: str, part: Part, settings: Evaluation) -> Row:
    """The columns of one part."""
    score = evaluate(net, part, batch_size=settings.batch_size)
    return {f"{name}_{field}": value for field, value in vars(score).items() if value is not None}


def _region_row(shares: Row, steps: int) -> Row:
    """A row of the observer as a row of the record."""
    return {"kind": "regions", "epoch": shares["step"] / steps} | shares
