"""What a training works with: a network and everything that changes it, and how a step does."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from flatminima.engine.backward import SharpnessAware
from flatminima.engine.losses import FunctionalLoss
from flatminima.engine.observe import Observer, RegionShares
from flatminima.models.shake import Shake, ShakeDrop, true_gradient
from flatminima.train.checkpoint import Checkpoints
from flatminima.train.distributed import Parallel, Processes, whole
from flatminima.train.schedule import schedule
from flatminima.train.training import Training

__all__ = ["Work"]

Row = dict[str, Any]


@dataclass(kw_only=True, eq=False)
class Work:
    """A network with its optimizer and the rest, after some steps."""

    training: Training
    """The settings."""
    here: Processes
    """This process among others."""
    device: torch.device
    """Where the network lies."""
    net: nn.Module
    """The network itself."""
    forward: Any
    """What is called for it: wrapped, compiled."""
    optimizer: Optimizer
    """What takes the steps."""
    scheduler: LRScheduler
    """What sets the learning rate."""
    scaler: torch.amp.GradScaler | None
    """What scales the loss in float16."""
    sharp: SharpnessAware | None
    """What gives the gradient under a rule."""
    shares: RegionShares
    """What the rule's gradients were like."""
    average: AveragedModel | None
    """The mean of the weights."""
    order: torch.Generator
    """Decides the order of the examples."""
    steps: int
    """How many steps the run has."""
    step: int = 0
    """How many are done."""
    lr: float = 0.0
    """The learning rate at the start of this epoch."""
    rows: list[Row] = field(default_factory=list[Row])
    """What was logged so far."""
    times: list[float] = field(default_factory=list[float])
    """Seconds per step of each epoch, without evaluation."""
    _share: float = 1.0
    _seen: Tensor | None = None

    @classmethod
    def begun(
        cls,
        training: Training,
        shape: Sequence[int],
        classes: int,
        *,
        examples: int,
        device: torch.device,
        parallel: Parallel,
        observe: Sequence[Observer] = (),
    ) -> Self:
        """A network with its optimizer and the rest, before the first step."""
        here, numerics = Processes.now(), training.numerics
        net = numerics.laid_out(training.model.build(shape, classes).to(device))
        _check_sharded(training, here, parallel)
        model = here.wrapped(net, parallel, device)
        optimizer = training.optimizer.build(model.parameters())
        per_epoch = training.steps_per_epoch(examples)
        shares = RegionShares(every=per_epoch)
        sharp = training.rule and SharpnessAware(
            model,
            training.rule.build(per_epoch * training.epochs),
            m=training.m,
            engine=training.engine,
            # The shares of one group, or of one process, would not be those of the batch.
            observe=[shares, *observe] if training.m is None and here.count == 1 else [],
        )
        if here.rank:
            torch.manual_seed(training.seed + here.rank)  # noise of its own
        return cls(
            training=training,
            here=here,
            device=device,
            net=net,
            forward=numerics.compiled(model),
            optimizer=optimizer,
            scheduler=schedule(training.schedule, optimizer, per_epoch * training.epochs),
            scaler=numerics.scaler(device),
            sharp=sharp,
            shares=shares,
            average=training.average and training.average.build(net),
            order=torch.Generator().manual_seed(training.seed),
            steps=min(per_epoch * training.epochs, training.steps or per_epoch * training.epochs),
        )

    def __post_init__(self) -> None:
        self._mixes = any(isinstance(part, Shake | ShakeDrop) for part in self.net.modules())
        functional = self.training.loss.functional
        self._loss_fn = FunctionalLoss(self.outputs, self.criterion) if functional else self.loss

    @property
    def epochs(self) -> list[Row]:
        """The epochs among the rows."""
        return [row for row in self.rows if row["kind"] == "epoch"]

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss of this process's part of a batch."""
        return self.criterion(self.outputs(x), target)

    def outputs(self, x: Tensor) -> Tensor:
        """What the network says of this process's part of a batch."""
        if self._mixes:  # the ascent needs a true gradient; later passes see the same tensor again
            true_gradient(self.net, on=self.sharp is not None and x is not self._seen)
            self._seen = x
        numerics = self.training.numerics
        with numerics.autocast(self.device):
            outputs = self.forward(numerics.laid_out(x))
        return numerics.outputs(outputs)

    def criterion(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The loss of those outputs."""
        loss = self.training.loss.value(outputs, target, self.net.parameters())
        return loss if self._share == 1.0 else loss * self._share

    def take_step(self, batch: tuple[Tensor, Tensor], share: float) -> Tensor:
        """One step of the optimizer.

        Args:
            batch: Inputs and labels.
            share: This process's part of the batch, as a multiple of an equal one.

        Returns:
            The loss at the weights before it, detached.
        """
        self._share = share
        self.optimizer.zero_grad()
        if self.sharp:
            loss = self.sharp.backward(self._loss_fn, *batch, scaler=self.scaler)
        else:
            loss = self.loss(*batch)
            (self.scaler.scale(loss) if self.scaler else loss).backward()
        if self.scaler:
            self._scaled_step(self.scaler)
        else:
            self.optimizer.step()
            self.scheduler.step()
        self.step += 1
        mean = self.training.average
        if self.average and mean and mean.due(self.step, self.steps):
            self.average.update_parameters(self.net)
        return loss.detach()

    def _scaled_step(self, scaler: torch.amp.GradScaler) -> None:
        """A step that is left out if a gradient overflowed; the learning rate goes on."""
        scaler.step(self.optimizer)
        scaler.update()
        with warnings.catch_warnings():  # torch would have the first step never left out
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def weights(self) -> Mapping[str, Tensor]:
        """The network's weights and buffers in one piece, on the CPU; every process must ask."""
        return {name: whole(value) for name, value in self.net.state_dict().items()}

    def save(self, checkpoints: Checkpoints, order: Tensor) -> None:
        """Save everything that the rest of the run depends on.

        Args:
            checkpoints: Where to.
            order: The random state before the order of this epoch was drawn.
        """
        state = {
            "step": self.step,
            "lr": self.lr,
            "order": order,
            "random": self.here.gathered(_random(self.device)),
            "rows": self.rows,
            "times": self.times,
            "shares": self.shares.rows,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        for name in ("sharp", "scaler", "average"):
            if part := getattr(self, name):
                state[name] = part.state_dict()
        weights = self.weights()
        if not self.here.rank:
            checkpoints.save(self.step, weights, state)

    def take_up(self, checkpoints: Checkpoints) -> None:
        """Go on from the last checkpoint, if there is one."""
        saved = checkpoints.last()
        if saved is None:
            return
        weights, state = saved
        self.net.load_state_dict(weights)
        for name in ("optimizer", "scheduler", "sharp", "scaler", "average"):
            if name in state:
                getattr(self, name).load_state_dict(state[name])
        self.step, self.rows, self.shares.rows = state["step"], state["rows"], state["shares"]
        self.lr, self.times = state["lr"], state.get("times", [])
        self.order.set_state(state["order"])
        random = state["random"][self.here.rank]
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.device)


def _random(device: torch.device) -> dict[str, Tensor]:
    """The random state of this process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _check_sharded(training: Training, here: Processes, parallel: Parallel) -> None:
    """Raise a ValueError where sharded weights cannot do what is asked."""
    if here.count == 1 or parallel != "fsdp2":
        return
    if training.average is not None or training.loss.weight_decay:
        raise ValueError(
            "average must be None and the loss's weight_decay 0 with fsdp2, got "
            f"{training.average} and {training.loss.weight_decay}: use ddp."
        )
