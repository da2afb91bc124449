"""How well a network does on a part of the data, in evaluation mode and without side effects."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatminima.data import Part

__all__ = ["Evaluation", "Score", "evaluate", "relabelled"]

MANY = 100  # classes from which on the five best guesses are counted too


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Settings of the evaluation through a training."""

    every: int = 1
    """Epochs between two of them; the last epoch is always evaluated."""
    examples: int | None = None
    """At most so many examples of each part, the first ones; None for all."""
    batch_size: int = 1000
    """How many go through the network at once."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def seen(self, part: Part) -> Part:
        """The examples of a part that are evaluated."""
        if self.examples is None or self.examples >= len(part):
            return part
        return part.take(slice(self.examples))


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean loss and accuracies against the labels as given."""

    loss: float
    """The mean cross-entropy."""
    accuracy: float
    """Share of the examples whose label is predicted."""
    clean_accuracy: float | None
    """The same among the examples that kept their label; None if no label was flipped."""
    noisy_accuracy: float | None
    """The same among the flipped ones: what was memorised; None if no label was flipped."""
    top5_accuracy: float | None = None
    """Share of the examples whose label is among the five likeliest; None below 100 classes."""


@torch.no_grad()
def evaluate(model: nn.Module, part: Part, *, batch_size: int = 1000) -> Score:
    """Score a network on every example of a part.

    Args:
        model: The network; its mode is put back.
        part: The examples, on the network's device.
        batch_size: How many go through the network at once; changes memory, not the result.

    Returns:
        The means over all examples.
    """
    outputs = _outputs(model, part, batch_size)
    correct = outputs.argmax(1) == part.labels
    noisy = bool(part.flipped.any())
    return Score(
        loss=F.cross_entropy(outputs, part.labels).item(),
        accuracy=_share(correct),
        clean_accuracy=_share(correct[~part.flipped]) if noisy else None,
        noisy_accuracy=_share(correct[part.flipped]) if noisy else None,
        top5_accuracy=_share(_among_five(outputs, part.labels))
        if outputs.shape[1] >= MANY
        else None,
    )


@torch.no_grad()
def relabelled(model: nn.Module, part: Part, *, batch_size: int = 1000) -> Part:
    """The same images with the labels that a network predicts for them.

    Training anew on these is how we read the bootstrapping of Foret et al. 2021, arXiv:2010.01412,
    section 3.3.

    Args:
        model: The network; its mode is put back.
        part: The examples, on the network's device.
        batch_size: How many go through the network at once; changes memory, not the result.

    Returns:
        The part; these labels are now taken to be true, so that none of them counts as flipped.
    """
    labels = _outputs(model, part, batch_size).argmax(1)
    return replace(part, labels=labels, clean_labels=labels)


def _outputs(model: nn.Module, part: Part, batch_size: int) -> Tensor:
    """What a network in evaluation mode says of every example: (n, classes)."""
    mode = model.training
    model.eval()
    positions = torch.arange(len(part), device=part.labels.device)
    outputs = torch.cat([model(part.inputs(index)) for index in positions.split(batch_size)])
    model.train(mode)
    return outputs


def _among_five(outputs: Tensor, labels: Tensor) -> Tensor:
    """Where the label is among the five likeliest: bool, (n,)."""
    return (outputs.topk(5, dim=1).indices == labels[:, None]).any(1)


def _share(correct: Tensor) -> float:
    """The share of true entries; nan if there are none."""
    return correct.double().mean().item()
