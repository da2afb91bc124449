"""Everything that determines the numbers of a run."""

import math
from dataclasses import dataclass
from typing import get_args

from flatminima.data import Augment, Data
from flatminima.engine.msam import Engine
from flatminima.models import Architecture
from flatminima.train.average import Average
from flatminima.train.evaluate import Evaluation
from flatminima.train.later import later
from flatminima.train.loss import Loss
from flatminima.train.member import Member
from flatminima.train.numerics import Numerics
from flatminima.train.optimizer import SGD, Adam, AdamW
from flatminima.train.schedule import Schedule

__all__ = ["Training"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that determines the numbers of a run."""

    data: Data
    """What is learned, with its noise and its split."""
    model: Architecture
    """The network."""
    optimizer: SGD | Adam | AdamW
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
    m: int | None = later(None)
    """Examples per perturbation (m-SAM); None perturbs once for the whole batch."""
    engine: Engine = later("loop")
    """How m-SAM's groups are computed: `loop` one after the other, `batched` at once. `auto` takes
    the faster by a trial, so that two runs may differ by rounding."""
    loss: Loss = later(Loss())
    """What is made small."""
    augment: Augment | None = later(None)
    """How training images are changed; None leaves them alone."""
    average: Average | None = later(None)
    """The mean of the weights that is evaluated besides; None for none."""
    numerics: Numerics = later(Numerics())
    """Precision, memory layout, compilation."""
    evaluation: Evaluation = later(Evaluation())
    """How often, and on how many examples, the network is evaluated."""
    drop_last: bool = later(False)
    """Whether the last step of an epoch is left out if it has fewer examples than the others."""
    steps: int | None = later(None)
    """The run ends after so many steps, with the learning rates of the whole; None for all."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 example, got {self.batch_size}.")
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"schedule must be one of {', '.join(get_args(Schedule))}, got {self.schedule!r}."
            )
        if self.m is not None and (self.m < 1 or self.rule is None):
            raise ValueError(f"m must be at least 1, and None without a rule, got {self.m}.")
        if self.engine not in get_args(Engine):
            raise ValueError(
                f"engine must be one of {', '.join(get_args(Engine))}, got {self.engine!r}."
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1 or None, got {self.steps}.")
        if self.drop_last and self.data.train < self.batch_size:
            raise ValueError(
                f"batch_size must be at most the {self.data.train} training examples with "
                f"drop_last, got {self.batch_size}."
            )

    def steps_per_epoch(self, examples: int) -> int:
        """How many steps see each of so many examples once."""
        per_epoch = examples / self.batch_size
        return math.floor(per_epoch) if self.drop_last else math.ceil(per_epoch)
