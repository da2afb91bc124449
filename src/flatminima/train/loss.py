"""What is made small: cross-entropy with its usual additions.

f = CE(outputs, target) + weight_decay / 2 |w|^2

smoothing    target = (1 - s) y + s / classes
mixup        inputs and labels of two examples in one; see `mixed`
bootstrap    target = b y + (1 - b) prediction, the prediction taken as given
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from flatminima.data.augment import mixed
from flatminima.train.later import later

__all__ = ["Loss"]

Bootstrap = Literal["soft", "hard"]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Settings of the loss; the defaults are cross-entropy and nothing else."""

    smoothing: float = 0.0
    """Share of every label that is spread over all classes."""
    weight_decay: float = 0.0
    """Half of this times the squared weights, all of them, is part of the loss; so it is part of
    the ascent of SAM too, other than the optimizer's weight decay."""
    mixup: float = 0.0
    """How even mixtures of two examples are, the alpha of mixup; 0 for none."""
    bootstrap: Bootstrap | None = None
    """Whether labels are mixed with the network's own `soft` probabilities or `hard` choice."""
    trust: float = 0.8
    """The share of the given label in that mixture."""
    functional: bool = later(False)
    """Whether a rule's second gradient keeps the first one's gradient at the outputs (functional
    SAM; with one example per perturbation J-SAM)."""

    def __post_init__(self) -> None:
        if self.functional and self.weight_decay:
            raise ValueError(
                f"weight_decay must be 0 in a functional loss, got {self.weight_decay}: the "
                "displaced pass sees outputs only; give it to the optimizer."
            )
        for name in ("smoothing", "trust"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        if min(self.weight_decay, self.mixup) < 0:
            raise ValueError(
                f"weight_decay and mixup must be >= 0, got {self.weight_decay} and {self.mixup}."
            )
        if self.bootstrap is not None and self.bootstrap not in get_args(Bootstrap):
            raise ValueError(f"bootstrap must be soft, hard or None, got {self.bootstrap!r}.")

    def batch(
        self, x: Tensor, y: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What the loss of a batch is computed from.

        Args:
            x: Inputs, (n, ...).
            y: Labels, (n,).
            classes: How many classes there are.
            generator: Random numbers of the CPU, for mixup.

        Returns:
            Inputs, and labels or probabilities of the classes.
        """
        if not self.mixup:
            return x, y
        return mixed(x, F.one_hot(y, classes).to(x.dtype), self.mixup, generator)

    def value(self, outputs: Tensor, target: Tensor, params: Iterable[Tensor]) -> Tensor:
        """The mean loss over a batch.

        Args:
            outputs: Logits, (n, classes).
            target: Labels, (n,), or probabilities, (n, classes).
            params: The weights that are made small, if they are.

        Returns:
            The loss, a 0-d tensor.

        Source: bootstrapping: Reed et al. 2015, arXiv:1412.6596, with trust 0.95 for soft and 0.8
            for hard there; smoothing: Szegedy et al. 2016, arXiv:1512.00567.
        """
        if self.bootstrap is not None:
            target = self.trust * _probabilities(target, outputs)
            target = target + (1 - self.trust) * self._prediction(outputs.detach())
        loss = F.cross_entropy(outputs, target, label_smoothing=self.smoothing)
        if self.weight_decay:
            squares = torch.stack([param.square().sum() for param in params])
            loss = loss + 0.5 * self.weight_decay * squares.sum()
        return loss

    def _prediction(self, outputs: Tensor) -> Tensor:
        """What the network says, as probabilities."""
        if self.bootstrap == "soft":
            return outputs.softmax(1)
        return _probabilities(outputs.argmax(1), outputs)


def _probabilities(target: Tensor, outputs: Tensor) -> Tensor:
    """Labels as probabilities; probabilities as they are."""
    if target.ndim == outputs.ndim:
        return target
    return F.one_hot(target, outputs.shape[1]).to(outputs.dtype)
