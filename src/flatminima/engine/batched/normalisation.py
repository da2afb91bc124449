"""Normalisations: statistics first, which have no parameters, then an affine map, which has all.

The normalised input is made without the affine map and not recovered from the output, since gamma
may be 0. Batch normalisation takes its statistics within each group, as the loop over the groups
does: groups are folded into channels. What its running statistics make of that is in `running`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flatminima.engine.batched.elementwise import Affine
from flatminima.engine.batched.layer import Pass
from flatminima.engine.batched.layout import Layout
from flatminima.engine.batched.running import follow

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def layer_norm(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """`torch.nn.functional.layer_norm`."""
    normal = functional.layer_norm(input, normalized_shape, None, None, eps)
    return run.through(Affine(weight, bias, shape=input.shape), normal)


def rms_norm(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`torch.nn.functional.rms_norm`."""
    normal = functional.rms_norm(input, normalized_shape, None, eps)
    return run.through(Affine(weight, None, shape=input.shape), normal)


def group_norm(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """`torch.nn.functional.group_norm`."""
    normal = functional.group_norm(input, num_groups, None, None, eps)
    return run.through(Affine(weight, bias, shape=input.shape, channels=True), normal)


def instance_norm(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.instance_norm`."""
    if running_mean is not None:
        run.refuse("keep no running statistics of instances, got instance_norm with them")
    normal = functional.instance_norm(input, eps=eps)
    return run.through(Affine(weight, bias, shape=input.shape, channels=True), normal)


def batch_norm(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, with statistics of each group where it is in training."""
    if not training:
        normal = functional.batch_norm(input, running_mean, running_var, eps=eps)
    else:
        normal, mean, variance = _normal(input, run.layout(input), eps)
        if running_mean is not None and running_var is not None and not run.is_rehearsal:
            follow(run, running_mean, mean, momentum)
            follow(run, running_var, variance, momentum)
    affine = Affine(weight, bias, shape=input.shape, channels=True)
    return (
        run.through(affine, normal)
        if run.moves(weight, bias)
        else affine.plain(normal, weight, bias)
    )


def _normal(x: Tensor, layout: Layout, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised input, and the mean and the unbiased variance of each group and channel."""
    groups = layout.groups
    folded = layout.grouped(x).transpose(0, 1).flatten(1, 2)  # (rows, groups * channels, ...)
    kind = torch.promote_types(x.dtype, torch.float32)
    mean, variance = torch.zeros(2, folded.shape[1], dtype=kind, device=x.device)
    # A momentum of 1 makes the "running" statistics those of this batch.
    normal = functional.batch_norm(folded, mean, variance, None, None, True, 1.0, eps)
    if normal.requires_grad:
        # On the CPU torch's backward misreads a gradient whose strides are those of channels last.
        normal.register_hook(lambda grad: grad.contiguous())
    normal = layout.flat(normal.unflatten(1, (groups, -1)).transpose(0, 1))
    return normal, mean.view(groups, -1), variance.view(groups, -1)
