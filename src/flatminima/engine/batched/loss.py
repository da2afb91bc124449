"""Losses whose mean is over something other than the examples: each group has a mean of its own.

    L_j = sum_i v_i l_i / sum_i v_i  over group j;   v_i: the weight of i's class, 0 if ignored

The loop over the groups divides by each group's own sum, so this does as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flatminima.engine.batched.layer import Pass
from flatminima.vector import has_value

__all__ = ["cross_entropy", "nll_loss"]


def cross_entropy(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.cross_entropy`."""
    options: dict[str, Any] = {"weight": weight, "label_smoothing": label_smoothing}
    if size_average is not None or reduce is not None:
        run.refuse("have a loss with a reduction, got size_average or reduce")
    if target.is_floating_point():
        return function(input, target, reduction=reduction, **options)
    options["ignore_index"] = ignore_index
    return _by_group(run, function, input, target, reduction, options)


def nll_loss(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.nll_loss`."""
    if size_average is not None or reduce is not None:
        run.refuse("have a loss with a reduction, got size_average or reduce")
    options: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index}
    return _by_group(run, function, input, target, reduction, options)


def _by_group(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    target: Tensor,
    reduction: str,
    options: dict[str, Any],
) -> Tensor:
    if reduction != "mean" or target.dim() == 0:
        return function(input, target, reduction=reduction, **options)
    if not run.is_rehearsal and _counts_all(target, options):
        run.layout(target)
        return function(input, target, reduction="mean", **options)
    terms = function(input, target, reduction="none", **options)
    layout = run.layout(terms)
    counted = target != options["ignore_index"]
    shares = counted.to(terms.dtype)
    if options["weight"] is not None:
        places = torch.where(counted, target, 0)
        shares = shares * options["weight"].to(terms.dtype)[places]
    sums = layout.grouped(terms).flatten(1).sum(1)
    return (sums / layout.grouped(shares).flatten(1).sum(1)).mean()


def _counts_all(target: Tensor, options: dict[str, Any]) -> bool:
    """Whether every group has the same sum of shares; off the CPU the host does not know."""
    if not has_value(target) or target.device.type != "cpu" or options["weight"] is not None:
        return False
    return not bool((target == options["ignore_index"]).any())
