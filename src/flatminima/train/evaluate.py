"""How well a network does on a part of the data, in evaluation mode and without side effects."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatminima.data import Part

__all__ = ["Score", "evaluate"]


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
    mode = model.training
    model.eval()
    positions = torch.arange(len(part), device=part.labels.device)
    outputs = torch.cat([model(part.inputs(index)) for index in positions.split(batch_size)])
    model.train(mode)
    correct = outputs.argmax(1) == part.labels
    noisy = bool(part.flipped.any())
    return Score(
        loss=F.cross_entropy(outputs, part.labels).item(),
        accuracy=_share(correct),
        clean_accuracy=_share(correct[~part.flipped]) if noisy else None,
        noisy_accuracy=_share(correct[part.flipped]) if noisy else None,
    )


def _share(correct: Tensor) -> float:
    """The share of true entries; nan if there are none."""
    return correct.double().mean().item()
