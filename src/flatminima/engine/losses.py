"""Losses that take part: the outputs' gradient is kept, or only the hardest examples count.

Most methods are rules, which see gradients of the weights. Two families look deeper: functional SAM
sends the first pass's gradient at the outputs through the displaced network, and K-SAM chooses
examples by their losses. Both are made of the loss, and go together with any rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flatminima.engine.buffers import Buffers
from flatminima.engine.groups import examples, leaves, picked
from flatminima.engine.noise import Noise

__all__ = ["FunctionalLoss", "hardest"]


class FunctionalLoss:
    """A loss whose gradient at the outputs stays that of the undisplaced network (functional SAM).

        d = J(w + e)^T r,   J = the Jacobian of the outputs F,   r = dL / dF at F(w)

    so that a displacement acts by the Jacobian alone, and not by the outputs that it changes. With
    `m=1` each example has a displacement of its own, and this is J-SAM.

    Args:
        outputs: Takes the first item of a batch, returns the outputs F: usually the model.
        criterion: Takes the outputs and the rest of the batch, returns the mean loss over the
            examples, a 0-d tensor.

    Hand it to `SharpnessAware.backward` as the loss function. Where the weights are displaced, the
    engine calls `displaced` in its place. Elsewhere it is the ordinary loss.

    Raises:
        TypeError: If the outputs are no tensor.
        RuntimeError: If a rule looks uphill before it has looked at the weights themselves, or asks
            about another batch.

    Source: Singh et al., ICML 2025, "Avoiding spurious sharpness minimization broadens
        applicability of SAM"; Baek et al., ICLR 2024, "Why is SAM Robust to Label Noise?" (J-SAM).
    Cost: as the rule; the criterion is differentiated twice, and one copy of the outputs is kept.

    Example:
        >>> from torch import nn
        >>> from flatminima.engine.backward import SharpnessAware
        >>> from flatminima.rules.zoo import sam
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> loss_fn = FunctionalLoss(model, lambda out, y: 0.5 * (out - y).square().mean())
        >>> sharp = SharpnessAware(model, sam(rho=0.5))
        >>> sharp.backward(loss_fn, torch.ones(1, 1), torch.zeros(1, 1)), model.weight.grad
        (tensor(2.), tensor([[2.]]))
    """

    def __init__(self, outputs: Callable[[Any], Tensor], criterion: Callable[..., Tensor]) -> None:
        self.outputs = outputs
        self.criterion = criterion
        self._seen: tuple[tuple[Any, ...], Tensor] | None = None

    def __call__(self, *batch: Any) -> Tensor:  # noqa: ANN401 - a batch is whatever the loss takes
        """The loss at the weights; what reaches the outputs from it is kept."""
        wide = self._wide(batch)
        loss = self.criterion(wide, *batch[1:])
        if loss.requires_grad:
            (residual,) = torch.autograd.grad(loss, wide, retain_graph=True)
            self._seen = batch, residual
        return loss

    def displaced(self, *batch: Any) -> Tensor:  # noqa: ANN401 - as above
        """What has the gradient J(w + e)^T r; its value means nothing.

        Args:
            *batch: The batch that the loss was called with before.

        Returns:
            The inner product of the outputs, here, and r.

        Raises:
            RuntimeError: If there is no r of this batch.
        """
        seen, residual = self._seen or ((), None)
        same = len(seen) == len(batch) and all(map(_is, seen, batch))
        if residual is None or not same:
            raise RuntimeError(
                "rule must look at the weights first, and at one batch only, to go with a "
                "FunctionalLoss, got a displaced pass over a batch whose outputs nobody has seen"
            )
        return (self._wide(batch) * residual).sum()

    def _wide(self, batch: tuple[Any, ...]) -> Tensor:
        """The outputs, in float32 at least: a half-precision residual would vanish."""
        outputs = self.outputs(batch[0])
        if not isinstance(outputs, Tensor):
            raise TypeError(f"outputs must return a tensor, got {type(outputs).__name__}")
        return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs

    def __repr__(self) -> str:
        names = (getattr(part, "__name__", type(part).__name__) for part in vars(self).values())
        outputs, criterion, _ = names
        return f"FunctionalLoss({outputs}, {criterion})"


@torch.no_grad()
def hardest(losses_fn: Callable[..., Tensor], *batch: Any, share: float = 0.5) -> tuple[Any, ...]:  # noqa: ANN401 - as above
    """The examples of a batch with the largest losses, for both passes of a step (K-SAM).

    Args:
        losses_fn: Takes the batch, returns the loss of each example, of shape (examples,).
        *batch: The batch; tensors as long as it are cut, also inside lists and dictionaries.
        share: Which share of the examples stays, 0 < share <= 1; rounded up, so that it is never
            none, and as many on every rank.

    Returns:
        The smaller batch, in the order of the whole one.

    Raises:
        ValueError: If `share` is not within (0, 1], or `losses_fn` returns something else than one
            number for each example.

    Buffers and random state stay as they were: running statistics move in the first pass of the
    step, over the examples that stay.

    Source: Ni et al. 2022, "K-SAM: Sharpness-Aware Minimization at the Speed of SGD".
    Cost: one forward pass; the step then costs `share` of what it would.

    Example:
        >>> x = torch.tensor([3.0, 1.0, 2.0])
        >>> hardest(lambda x: x.square(), x, share=0.6)
        (tensor([3., 2.]),)
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must be within (0, 1], got {share}")
    total = examples(batch)
    devices = {item.device for item in leaves(batch) if isinstance(item, Tensor)}
    with Noise.now(devices).again(), Buffers(None).held():
        losses = losses_fn(*batch)
    if losses.shape != (total,):
        raise ValueError(
            f"losses_fn must return one loss for each of the {total} examples, "
            f"got shape {tuple(losses.shape)}; use reduction='none'"
        )
    rows = losses.topk(math.ceil(share * total)).indices.sort().values
    return picked(batch, rows)


def _is(one: object, two: object) -> bool:
    return one is two
