"""`nn.MultiheadAttention` is one call for torch: here are the linear layers inside it.

Softmax attention has no parameters of its own, so it stays as it is; the projections before and
after it are linear layers over sequences.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flatminima.engine.batched.layer import Pass
from flatminima.engine.batched.linear import Linear

__all__ = ["attention"]


def attention(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`torch.nn.functional.multi_head_attention_forward`, on (time, batch, width)."""
    extras = (bias_k, bias_v, static_k, static_v)
    if add_zero_attn or any(extra is not None for extra in extras) or query.dim() != 3:
        run.refuse("attend to batches without bias_k, bias_v or zeros added, got one of these")
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        q, k, v = _separate(run, (query, key, value), weights, in_proj_bias)
    else:
        q, k, v = _packed(run, (query, key, value), in_proj_weight, in_proj_bias)
    mask = _mask(attn_mask, key_padding_mask, q, k, num_heads, is_causal)
    drop = dropout_p if training and not run.is_rehearsal else 0.0
    heads, shares = _attended(q, k, v, mask, num_heads, drop, need_weights)
    y = _layer(run, heads, out_proj_weight, out_proj_bias)
    if shares is not None and average_attn_weights:
        shares = shares.mean(1)
    return y, shares


def _packed(
    run: Pass, inputs: tuple[Tensor, Tensor, Tensor], weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """The three projections whose weights are one parameter: one layer, if they have one input."""
    assert weight is not None
    query, key, value = inputs
    if query is key and key is value:
        return _layer(run, query, weight, bias).chunk(3, -1)
    weights = _thirds(run, weight)
    biases = (None, None, None) if bias is None else _thirds(run, bias)
    rows = zip(inputs, weights, biases, strict=True)
    return tuple(_layer(run, x, w_third, b_third) for x, w_third, b_third in rows)


def _separate(
    run: Pass,
    inputs: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor | None, ...],
    bias: Tensor | None,
) -> tuple[Tensor, ...]:
    biases = (None, None, None) if bias is None else _thirds(run, bias)
    rows = zip(inputs, weights, biases, strict=True)
    return tuple(_layer(run, x, weight, third) for x, weight, third in rows if weight is not None)


def _layer(run: Pass, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return run.through(Linear(weight, bias, x.dim()), x)


def _thirds(run: Pass, param: Tensor) -> tuple[Tensor, ...]:
    """Three slices of a packed parameter, as functions of it."""
    return run.call(torch.chunk, param, 3)


def _mask(
    mask: Tensor | None,
    padding: Tensor | None,
    q: Tensor,
    k: Tensor,
    heads: int,
    is_causal: bool,
) -> Tensor | None:
    """What is added to the scores, (batch or 1, heads or 1, time, time)."""
    if mask is None and is_causal:
        mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).triu(1)
    if mask is not None:
        mask = _additive(mask, q.dtype)
        mask = mask[None, None] if mask.dim() == 2 else mask.unflatten(0, (-1, heads))
    if padding is not None:
        hidden = _additive(padding, q.dtype)[:, None, None, :]
        mask = hidden if mask is None else mask + hidden
    return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)


def _attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    heads: int,
    drop: float,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention over heads, back as (time, batch, width); and its weights if they are wanted."""
    q, k, v = (_split(part, heads) for part in (q, k, v))
    if need_weights:
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        shares = (scores if mask is None else scores + mask).softmax(-1)
        if drop:
            shares = functional.dropout(shares, drop)
        y = shares @ v
    else:
        shares = None
        y = functional.scaled_dot_product_attention(q, k, v, mask, drop)
    return y.permute(2, 0, 1, 3).flatten(2), shares


def _split(x: Tensor, heads: int) -> Tensor:
    """(time, batch, width) as (batch, heads, time, width of a head)."""
    return x.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)
