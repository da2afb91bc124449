"""One run, from its settings to a trained network, to be read from top to bottom."""

import math
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatminima.data import Digits, Mnist, Part, Parts
from flatminima.engine.backward import SharpnessAware
from flatminima.engine.observe import RegionShares
from flatminima.models import MLP, SmallConv
from flatminima.train.evaluate import evaluate
from flatminima.train.member import Member
from flatminima.train.optimizer import SGD, AdamW, Schedule, schedule
from flatminima.train.progress import epochs

__all__ = ["Diverged", "Trained", "Training", "train"]

Row = dict[str, Any]


class Diverged(RuntimeError):
    """A run whose loss is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that determines the numbers of a run."""

    data: Digits | Mnist
    """What is learned, with its noise and its split."""
    model: MLP | SmallConv
    """The network."""
    optimizer: SGD | AdamW
    """What takes the steps."""
    rule: Member | None = None
    """What the gradient is replaced with; None is plain training."""
    schedule: Schedule = "cosine"
    """How the learning rate changes through the run."""
    epochs: int = 100
    """How often every example is seen."""
    batch_size: int = 50
    """Examples per step; the last step of an epoch takes what is left."""
    seed: int = 0
    """Decides the initial weights, the order of the examples, and the rule's random numbers."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 example, got {self.batch_size}.")
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"schedule must be one of {', '.join(get_args(Schedule))}, got {self.schedule!r}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What a run leaves."""

    model: nn.Module
    """The network after the last epoch."""
    epochs: list[Row]
    """One row per epoch, as logged."""
    seconds_per_step: float
    """Time of one step: the median over the epochs, without evaluation."""

    @property
    def parameters(self) -> int:
        """How many trainable numbers the network has."""
        return sum(param.numel() for param in self.model.parameters() if param.requires_grad)


def train(
    training: Training,
    parts: Parts,
    *,
    device: torch.device | str = "cpu",
    log: Callable[[Row], None] = lambda _: None,
    name: str = "run",
) -> Trained:
    """Train one network.

    The same settings on the same device and number of threads give the same numbers bit for bit,
    the times aside. The caller's random state is left as it was.

    Args:
        training: The settings.
        parts: The data that `training.data` loads.
        device: Where to train.
        log: Called with every row of the record as soon as it is known: one of kind `epoch` after
            each epoch, and under a rule one of kind `regions`.
        name: What the progress bar and an error call the run.

    Returns:
        The trained network with its rows.

    Raises:
        Diverged: If the loss of a step, or after an epoch, is not finite.
    """
    with seeded(training.seed, device):
        # --- what is trained, on what, by what
        parts = parts.to(device)
        model = training.model.build(parts.train.shape, parts.classes).to(device)
        optimizer = training.optimizer.build(model.parameters())
        steps = math.ceil(len(parts.train) / training.batch_size)  # of one epoch
        scheduler = schedule(training.schedule, optimizer, steps * training.epochs)
        shares = RegionShares(every=steps)
        sharp = training.rule and SharpnessAware(model, training.rule.build(), observe=[shares])
        order = torch.Generator().manual_seed(training.seed)

        def loss_fn(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y)

        # --- the epochs
        rows: list[Row] = []
        times: list[float] = []
        for epoch in epochs(training.epochs, name):
            began = time.perf_counter()
            lr = scheduler.get_last_lr()[0]
            losses: list[Tensor] = []
            model.train()
            for index in torch.randperm(len(parts.train), generator=order).split(
                training.batch_size
            ):
                x, y = _batch(parts.train, index)
                optimizer.zero_grad()
                if sharp:
                    loss = sharp.backward(loss_fn, x, y)
                else:
                    loss = loss_fn(x, y)
                    loss.backward()
                optimizer.step()
                scheduler.step()
                losses.append(loss.detach())
            # Asked once per epoch, so that a GPU is not waited for at every step.
            _check_finite(torch.stack(losses).tolist(), first=steps * (epoch - 1) + 1, name=name)
            times.append(time.perf_counter() - began)

            # --- what the epoch came to
            row: Row = {"kind": "epoch", "epoch": epoch, "step": steps * epoch}
            row |= _scores(model, parts) | {"lr": lr, "seconds": times[-1]}
            if training.rule:
                row["rho"] = training.rule.rho
            rows.append(row)
            log(row)
            _check_finite([row["train_loss"]], first=row["step"], name=name)
            while shares.rows:
                log(_region_row(shares.rows.pop(0), steps))
    return Trained(model=model, epochs=rows, seconds_per_step=median(times) / steps)


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Generator[None]:
    """Give torch's random numbers a seed, and the caller's state back afterwards."""
    device = torch.device(device)
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        yield


def _batch(part: Part, index: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels at some positions."""
    index = index.to(part.labels.device)
    return part.inputs(index), part.labels[index]


def _check_finite(losses: Iterable[float], *, first: int, name: str) -> None:
    """Raise `Diverged` at the first loss that is not finite; they are of the steps from `first`."""
    for step, loss in enumerate(losses, start=first):
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} at step {step} of {name}: lower lr or rho.")


def _scores(model: nn.Module, parts: Parts) -> Row:
    """Losses and accuracies on the three parts."""
    fitted, chosen, told = (
        evaluate(model, part) for part in (parts.train, parts.validation, parts.test)
    )
    row: Row = {
        "train_loss": fitted.loss,
        "train_accuracy": fitted.accuracy,
        "clean_accuracy": fitted.clean_accuracy,
        "noisy_accuracy": fitted.noisy_accuracy,
        "validation_loss": chosen.loss,
        "validation_accuracy": chosen.accuracy,
        "test_loss": told.loss,
        "test_accuracy": told.accuracy,
    }
    return {field: value for field, value in row.items() if value is not None}


def _region_row(shares: Row, steps: int) -> Row:
    """A row of the observer as a row of the record."""
    return {"kind": "regions", "epoch": shares["step"] / steps} | shares
