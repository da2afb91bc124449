"""Embeddings: a lookup is a product with a one-hot vector, whose left factor is a place.

G_j = sum over positions t of onehot(token_t) b_t^T,     moved:  W[token] + e_j[token]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flatminima.engine.batched.forms import Dense, Rows
from flatminima.engine.batched.layer import Layer, Moved, Pass, Tap
from flatminima.engine.batched.layout import Layout

__all__ = ["Embedding", "bag", "embedding"]


class Embedding(Layer):
    """y = W[x], for whole numbers x."""

    def __init__(self, weight: Tensor, padding_idx: int | None) -> None:
        self.params = (weight,)
        self.padding_idx = padding_idx

    def plain(self, x: Tensor, *params: Tensor | None) -> Tensor:
        """W[x]."""
        (weight,) = params
        assert weight is not None
        return functional.embedding(x, weight, self.padding_idx)

    def fits(self, layout: Layout) -> bool:
        """A row is looked up wherever the examples are."""
        return True

    def taps(self, x: Tensor, b: Tensor, layout: Layout) -> tuple[Tap | None, ...]:
        """The places and the gradients of the rows that were looked up."""
        places = layout.grouped(x).flatten(1)
        right = layout.grouped(b).flatten(1, -2)
        (weight,) = self.params
        assert weight is not None
        count, width = weight.shape
        if self.padding_idx is not None:  # torch gives that row no gradient
            right = right * (places != self.padding_idx % count)[..., None]
        rows = Rows(places, right, count)
        return (Tap(dense=rows.dense, rows=lambda: rows, size=(right.shape[1], count, width)),)

    def moved(self, x: Tensor, layout: Layout, *params: Moved | None) -> Tensor:
        """W[x] + e_j[x]."""
        (weight,) = params
        assert weight is not None
        tokens = layout.grouped(x)
        places = tokens.flatten(1)
        if weight.apart:
            y = _gathered(weight.value, places)
            return layout.flat(y.unflatten(1, tokens.shape[1:]))
        if isinstance(weight.by, Dense):
            e = _gathered(weight.by.multiplied(), places)
        else:
            parts = [rows.looked_up(places) for rows in weight.rows]
            e = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        y = self.plain(x, weight.value)
        return y + layout.flat(e.unflatten(1, tokens.shape[1:])).to(y.dtype)


def _gathered(each: Tensor, places: Tensor) -> Tensor:
    """Row `places[j, n]` of `each[j]`: (groups, n, d)."""
    return each.gather(1, places[..., None].expand(-1, -1, each.shape[2]))


def embedding(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`torch.nn.functional.embedding`."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        run.refuse("look up rows and nothing else, got max_norm, scale_grad_by_freq or sparse")
    return run.through(Embedding(weight, padding_idx), input)


def bag(
    run: Pass,
    function: Any,  # noqa: ANN401 - a function of torch
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding_bag`, for bags that are rows of a matrix."""
    if offsets is not None or mode == "max" or padding_idx is not None:
        run.refuse("take sums or means of the rows of a matrix, got offsets, max or padding_idx")
    words = embedding(
        run, function, input, weight, None, max_norm, norm_type, scale_grad_by_freq, sparse
    )
    if per_sample_weights is not None:
        words = words * per_sample_weights[..., None]
    return words.mean(1) if mode == "mean" else words.sum(1)
