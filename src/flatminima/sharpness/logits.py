"""Logits of a fixed size, so that a measure of sharpness does not measure the scale of a network.

A classifier whose logits are doubled makes the same predictions and is sharper or flatter by it.
Put `normalized_logits` between the model and the loss before building the objective.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["normalized_logits"]


def normalized_logits(logits: Tensor, by: Literal["norm", "deviation"] = "norm") -> Tensor:
    """The logits of each example, centred and brought to one size.

        z = a - mean(a);   norm: z / max(||z||, 1e-10)    deviation: z / max(std(z), 1e-10)

    Args:
        logits: One row of K logits per example, (..., K).
        by: `norm` divides by the Euclidean norm, `deviation` by the standard deviation, which makes
            logits larger by sqrt(K). Figures made with the two cannot be compared.

    Returns:
        The normalised logits, of the same shape.

    Raises:
        ValueError: If `by` is unknown.

    Source: Andriushchenko et al. 2023, arXiv:2302.07011, whose code divides by the norm, floored at
    1e-10 as here.

    Example:
        >>> normalized_logits(torch.tensor([[0.0, 1.0, 8.0]])).norm()
        tensor(1.)
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    if by not in ("norm", "deviation"):
        raise ValueError(f"by must be 'norm' or 'deviation', got {by!r}")
    size = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    if by == "deviation":
        size = size / logits.shape[-1] ** 0.5
    return centred / size.clamp_min(1e-10)
