"""The gradients of all groups for one parameter, in the form that is cheapest.

    Dense     G_j itself, (groups, *shape): any rule, any layer
    Rows      G_j = sum_n left_n right_n^T, never formed: the Gram matrices of its factors suffice

A parameter that is used more than once has the sum of its uses as its gradient: dense ones are
added, rows are joined along n, and every use of the parameter is moved by all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dense", "Form", "Rows", "joined", "norms", "scores", "wide"]


@dataclass(frozen=True)
class Dense:
    """Something of the parameter's shape for each group: a gradient, or a displacement.

    Args:
        each: What it is, up to a factor, (groups, *shape).
        c: The factor of each group, (groups,); `None` for 1. It waits until the parameter is added,
            which saves a pass over a tensor of this size.
        mark: That of outer products whose left factors it is the sum of, if there are any.
    """

    each: Tensor
    c: Tensor | None = None
    mark: object | None = None

    def norms(self, t: Tensor | None) -> Tensor:
        """||t G_j|| for each group, accumulated in float32 at least."""
        return _lengths(self.each if t is None else self.each * t)

    def times(self, c: Tensor, t: Tensor | None) -> Dense:
        """c_j t G_j."""
        return Dense(self.each, c, self.mark) if t is None else Dense(self.each * t, c)

    def signs(self) -> Dense:
        """sign(G_j), coordinate by coordinate."""
        return Dense(self.each.sign())

    def multiplied(self) -> Tensor:
        """c_j times `each`."""
        return self.each if self.c is None else self.each * _column(self.c, self.each)

    def added_in_place(self, y: Tensor) -> Tensor:
        """A bias's displacement, added to the rows of y, (groups, N, p)."""
        e = self.each[:, None].to(y.dtype)
        return y.add_(e) if self.c is None else y.addcmul_(e, _column(self.c, e))

    def added_to(self, value: Tensor) -> Tensor:
        """What is there plus what is here, (groups, *shape)."""
        if self.c is None:
            return value + self.each
        return torch.addcmul(value, self.each, _column(self.c, self.each))


@dataclass(frozen=True)
class Rows:
    """Outer products whose sum is G_j, of shape (p, d).

    Args:
        left: The factors along the parameter's first axis, (groups, n, p); or (groups, n) whole
            numbers, each of which stands for a 1 at that place and 0 elsewhere.
        right: The factors along its second axis, (groups, n, d).
        p: The length of the parameter's first axis.
        c: The factor of each group, (groups,); `None` for 1. It waits until there are scores, which
            are smaller than the factors.
        mark: What nothing has but the rows of one call, and the sums of their left factors.
    """

    left: Tensor
    right: Tensor
    p: int
    c: Tensor | None = None
    mark: object | None = None

    @property
    def is_one_hot(self) -> bool:
        """Whether `left` holds places instead of vectors."""
        return not self.left.is_floating_point()

    def dense(self) -> Tensor:
        """G_j, (groups, p, d)."""
        if not self.is_one_hot:
            return torch.bmm(self.left.mT, self.right)
        each = self.right.new_zeros(len(self.right), self.p, self.right.shape[2])
        return each.scatter_add_(1, self.left[..., None].expand_as(self.right), self.right)

    def scaled(self, c: Tensor | None, t: Tensor | None) -> Rows:
        """The rows of c_j t G_j, for a `t` with one entry per output row, or one in all."""
        left, right = self.left, self.right
        if t is None:
            return Rows(left, right, self.p, c, self.mark)
        if self.is_one_hot:
            right = right * t.flatten().expand(self.p)[left][..., None]
        else:
            left = left * t.flatten()
        return Rows(left, right, self.p, c)

    def signs(self) -> Rows:
        """The rows of sign(G_j), where one outer product is all of it."""
        return Rows(self.left if self.is_one_hot else self.left.sign(), self.right.sign(), self.p)

    def applied(self, x: Tensor) -> Tensor:
        """X_j G_j^T: what a displacement G_j adds to the outputs for inputs `x`, (groups, N, d)."""
        scores = self.scores(x)
        if not self.is_one_hot:
            return torch.bmm(scores, self.left)
        places = self.left[:, None, :].expand_as(scores)
        return scores.new_zeros(*x.shape[:2], self.p).scatter_add(2, places, scores)

    def scores(self, x: Tensor) -> Tensor:
        """c_j X_j R_j^T, (groups, N, n)."""
        return scores(x, self.right, None if self.c is None else _column(self.c, x))

    def carries(self, e: Dense) -> bool:
        """Whether `e` moves as the left factors do: as one more entry of every `right`, a 1."""
        return self.mark is not None and self.mark is e.mark and self.c is e.c

    def looked_up(self, tokens: Tensor) -> Tensor:
        """The rows of G_j at `tokens`, (groups, N) whole numbers: (groups, N, d)."""
        y = torch.bmm(_places(tokens, self).to(self.right.dtype), self.right)
        return y if self.c is None else y * _column(self.c, y)


Form = Dense | tuple[Rows, ...]


def joined(rows: Sequence[Rows]) -> tuple[Rows, ...]:
    """The same sum in as few terms as possible: those with vectors, and those with places."""
    kinds = [[row for row in rows if row.is_one_hot is one_hot] for one_hot in (False, True)]
    return tuple(
        kind[0]
        if len(kind) == 1
        else Rows(
            torch.cat([row.left for row in kind], 1),
            torch.cat([row.right for row in kind], 1),
            kind[0].p,
        )
        for kind in kinds
        if kind
    )


def norms(rows: tuple[Rows, ...], t: Tensor | None) -> Tensor:
    """||t G_j|| of the sum of all rows, from <L L^T, R R^T>, cross terms included."""
    if t is not None:
        rows = tuple(row.scaled(None, t) for row in rows)
    if len(rows) == 1 and rows[0].right.shape[1] == 1:
        (row,) = rows
        return _lengths(row.right) if row.is_one_hot else _lengths(row.left) * _lengths(row.right)
    total = torch.stack([_inner(row, row) for row in rows]).sum(0)
    if len(rows) == 2:
        total = total + 2 * _inner(rows[0], rows[1])
    return total.clamp(min=0).sqrt()  # rounding may leave a sum that cancels below 0


def scores(x: Tensor, right: Tensor, c: Tensor | None, *, plus_one: bool = False) -> Tensor:
    """c_j X_j R_j^T or c_j (X_j R_j^T + 1), (groups, N, n), for `c` of shape (groups, 1, 1)."""
    found = torch.bmm(x, right.mT)
    if c is None:
        return found + 1 if plus_one else found
    return torch.addcmul(c, found, c, out=found) if plus_one else found.mul_(c)


def wide(tensor: Tensor) -> torch.dtype:
    """The dtype in which sums over a tensor are accumulated."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _lengths(each: Tensor) -> Tensor:
    """The norm of everything that a group has, (groups,)."""
    flat = each.reshape(each.shape[0], -1)
    return torch.linalg.vector_norm(flat, dim=1, dtype=wide(flat))


def _inner(one: Rows, two: Rows) -> Tensor:
    """<G_j, H_j> for each group."""
    rights = torch.bmm(one.right, two.right.mT)
    return (_lefts(one, two) * rights).sum((1, 2), dtype=wide(rights))


def _lefts(one: Rows, two: Rows) -> Tensor:
    """The Gram matrix of the left factors, (groups, n of one, n of two)."""
    if one.is_one_hot:
        return _places(one.left, two)
    return _places(two.left, one).mT if two.is_one_hot else torch.bmm(one.left, two.left.mT)


def _places(tokens: Tensor, rows: Rows) -> Tensor:
    """The left factors of `rows` at some places: (groups, N, n)."""
    if rows.is_one_hot:
        return (tokens[:, :, None] == rows.left[:, None, :]).to(rows.right.dtype)
    index = tokens[:, None, :].expand(-1, rows.left.shape[1], -1)
    return rows.left.gather(2, index).mT


def _column(c: Tensor, like: Tensor) -> Tensor:
    return c.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
