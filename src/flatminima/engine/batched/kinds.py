"""Which functions of torch are understood, and by what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flatminima.engine.batched import (
    attention,
    convolution,
    elementwise,
    embedding,
    linear,
    loss,
    noise,
    normalisation,
)

__all__ = ["ALWAYS", "HARMLESS", "KINDS"]

Kind = Callable[..., Any]

KINDS: dict[Any, Kind] = {
    functional.linear: linear.linear,
    torch.conv1d: convolution.convolution,
    torch.conv2d: convolution.convolution,
    torch.conv3d: convolution.convolution,
    functional.layer_norm: normalisation.layer_norm,
    torch.layer_norm: normalisation.layer_norm,
    functional.rms_norm: normalisation.rms_norm,
    torch.rms_norm: normalisation.rms_norm,
    functional.group_norm: normalisation.group_norm,
    torch.group_norm: normalisation.group_norm,
    functional.instance_norm: normalisation.instance_norm,
    functional.embedding: embedding.embedding,
    functional.embedding_bag: embedding.bag,
    functional.multi_head_attention_forward: attention.attention,
    Tensor.expand: elementwise.expand,
    torch.matmul: linear.matmul,
    Tensor.matmul: linear.matmul,
    Tensor.__matmul__: linear.matmul,
    torch.mm: linear.matmul,
    Tensor.mm: linear.matmul,
}
"""Understood where one of the arguments is a parameter that moves."""

for _names, _kind in (
    (("add", "__add__", "__radd__"), elementwise.add),
    (("sub", "subtract", "__sub__"), elementwise.subtract),
    (("rsub", "__rsub__"), elementwise.subtract_reversed),
    (("mul", "multiply", "__mul__", "__rmul__"), elementwise.multiply),
    (("sub_", "__isub__"), elementwise.in_place(elementwise.subtract)),
    (("mul_", "__imul__"), elementwise.in_place(elementwise.multiply)),
):
    for _name in _names:
        for _place in (torch, Tensor):
            if hasattr(_place, _name):
                KINDS[getattr(_place, _name)] = _kind

ALWAYS: dict[Any, Kind] = {
    Tensor.add_: elementwise.add_in_place,
    Tensor.__iadd__: elementwise.add_in_place,
    functional.batch_norm: normalisation.batch_norm,
    functional.cross_entropy: loss.cross_entropy,
    functional.nll_loss: loss.nll_loss,
    **noise.KINDS,
}
"""Understood everywhere: what mixes examples, and what must stand still in a rehearsal."""

HARMLESS: set[Any] = {
    getattr(Tensor, name).__get__
    for name in (
        "shape", "dtype", "device", "requires_grad", "ndim", "is_cuda", "is_cpu", "is_mps",
        "is_sparse", "is_nested", "is_quantized", "layout", "is_leaf", "is_meta", "is_xpu",
        "itemsize", "nbytes", "names",
    )
    if hasattr(Tensor, name)
} | {
    getattr(Tensor, name)
    for name in (
        "size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "__len__",
        "is_complex", "element_size", "get_device", "ndimension", "nelement", "__hash__",
        "data_ptr", "storage_offset", "untyped_storage", "__repr__",
    )
} | {torch.is_floating_point, torch.is_complex, torch.numel, torch.is_tensor}  # fmt: skip
"""What looks at a parameter without its values."""
