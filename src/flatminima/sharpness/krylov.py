"""An orthonormal basis that grows by products with an operator, and the operator seen through it.

With the basis as the rows of V (t, P) and the first m of them multiplied so far, the Lanczos
relation is

    A v_j = sum_i h_ij v_i   (i <= j + b, j < m),   T = V_m A V_m'

with b rows that wait to be multiplied: 1, or a block of them.

Every product is made orthogonal to *all* rows, twice, in float64; the rows are kept in the
operator's own dtype. So T is what the rows really give, in whatever way they came about: by the
recurrence, by a restart from Ritz vectors (thick restart), or by a fresh random row where the
recurrence ended or a repeated eigenvalue may hide.

Source: Wu and Simon 2000, "Thick-restart Lanczos method for large symmetric eigenvalue problems";
two passes suffice: Parlett 1998, "The symmetric eigenvalue problem", section 6.9 ("twice is
enough").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.sharpness.operators import Operator
from flatminima.vector import Vector

__all__ = ["Krylov", "Ritz", "flat", "shaped"]

CHUNK = 2**22  # entries of the basis that are widened to float64 at a time: 32 MiB


@dataclass(frozen=True, kw_only=True)
class Ritz:
    """The operator's eigenpairs as far as the basis sees them, the largest value first."""

    values: Tensor  # (m,) float64
    weights: Tensor  # (m, m) float64, a Ritz vector per column, in coordinates of the basis
    residuals: Tensor  # (m,) float64, ||A v - value v|| by the recurrence, up to rounding


class Krylov:
    """The growing basis.

    Args:
        operator: Gives the products; open it (`with operator:`) around all of them.
        window: How many rows may be multiplied before `compress` must make room.
        generator: A generator on the CPU, for the start and for every fresh row.
        block: How many fresh rows are drawn where one is needed.
        start: A vector to begin from, in the place of one of them.

    Attributes:
        rows: The basis, orthonormal rows; the first `applied` have been multiplied, and `filled`
            are there.
        scale: The largest norm of a product, which never exceeds the operator's own norm.

    Cost: `window + block` vectors of memory. An extension is one product and four passes over the
    basis.
    """

    def __init__(
        self,
        operator: Operator,
        window: int,
        generator: torch.Generator,
        *,
        block: int = 1,
        start: Vector | None = None,
    ) -> None:
        like = operator.like
        self.operator = operator
        self.window = min(window, operator.size)
        self.generator = generator
        self.block = block
        dtypes = [part.dtype for part in like.tensors]
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        length = min(window + block, operator.size)
        device = like.tensors[0].device
        self.rows = torch.empty(length, operator.size, dtype=dtype, device=device)
        self.applied = self.filled = 0
        self.scale = 0.0
        self.precision = max(torch.finfo(dtype).eps for dtype in dtypes)
        # h_ij: rows before `applied` are the projection T, the others couple it to what waits.
        self._seen = torch.zeros(length, self.window, dtype=torch.float64, device="cpu")
        if start is not None:
            self._append_new(self._row(start))
            self._refill(block - 1)

    @property
    def is_whole(self) -> bool:
        """Whether the basis spans the operator's whole space, so that nothing is left to find."""
        return self.applied == self.operator.size

    def extend(self) -> None:
        """Multiply one more row by the operator; what is new in the product is the next row."""
        if self.filled == self.applied:
            self._refill(self.block)
        product = self._product(self.applied)
        norm = float(product.norm())
        self.scale = max(self.scale, norm)
        coefficients = self._orthogonalize(product)
        remainder = float(product.norm())
        self._seen[:, self.applied] = 0.0
        self._seen[: self.filled, self.applied] = coefficients
        # At round-off the space is invariant: what waits, or a fresh row, is next.
        if remainder > 10 * self.precision * self.scale and self.filled < len(self.rows):
            self._seen[self.filled, self.applied] = remainder
            self._append(product / remainder)
        self.applied += 1

    def ritz(self) -> Ritz:
        """The eigenpairs of the projection, by the symmetric solver."""
        m = self.applied
        # The upper triangle holds what was measured: column j came with the product of row j.
        values, weights = torch.linalg.eigh(self._seen[:m, :m], UPLO="U")
        values, weights = values.flip(0), weights.flip(1)
        residuals = (self._seen[m : self.filled, :m] @ weights).norm(dim=0)
        return Ritz(values=values, weights=weights, residuals=residuals)

    def compress(self, high: int, low: int = 0, *, fresh: bool = False) -> None:
        """Replace the multiplied rows by Ritz vectors (thick restart).

        Args:
            high: How many of the largest values are kept.
            low: How many of the smallest; with `high` at most `applied`.
            fresh: Whether the rows that wait are dropped, and with them what the residuals know, so
                that a new search begins from random rows in the complement of those kept.
        """
        ritz, keep = self.ritz(), high + low
        chosen = [*range(high), *range(self.applied - low, self.applied)]
        weights = ritz.weights[:, chosen]
        waiting = self.rows[self.applied : self.filled].clone()
        coupling = self._seen[self.applied : self.filled, : self.applied] @ weights
        self._combine(weights, self.rows[:keep])
        self._seen.zero_()
        self._seen.diagonal()[:keep] = ritz.values[chosen]
        self.applied = self.filled = keep
        if not fresh:
            self._seen[keep : keep + len(waiting), :keep] = coupling
            self.rows[keep : keep + len(waiting)] = waiting
            self.filled += len(waiting)

    def vectors(self, weights: Tensor) -> list[Vector]:
        """One combination of the multiplied rows per column of `weights`, in their own memory."""
        combined = self.rows.new_empty(weights.shape[1], self.operator.size)
        self._combine(weights, combined)
        return [shaped(row, self.operator.like).clone() for row in combined]

    def _combine(self, weights: Tensor, out: Tensor) -> None:
        """Write `weights' V` to `out`, which may be the first rows of V."""
        weights = weights.T.to(out.device)
        for columns in self._chunks():
            out[:, columns] = (weights @ self.rows[: self.applied, columns].double()).to(out.dtype)

    def _product(self, index: int) -> Tensor:
        product = self._row(self.operator(shaped(self.rows[index], self.operator.like)))
        if not bool(product.isfinite().all()):
            raise RuntimeError(
                "operator must return finite products, got nan or inf at product "
                f"{self.operator.products}; the weights or the loss there are not finite"
            )
        return product

    def _refill(self, count: int) -> None:
        for _ in range(min(count, len(self.rows) - self.filled)):
            self._append_new(self._row(self.operator.like.randn_like(self.generator)))

    def _append_new(self, row: Tensor) -> None:
        self._orthogonalize(row)
        self._append(row / row.norm())

    def _row(self, v: Vector) -> Tensor:
        return flat(v, self.operator.like).to(self.rows.device, torch.float64)

    def _append(self, row: Tensor) -> None:
        self.rows[self.filled] = row
        self.filled += 1

    def _orthogonalize(self, row: Tensor) -> Tensor:
        """Make `row` orthogonal to the basis in place, in two passes; returns its coefficients."""
        total = torch.zeros(self.filled, dtype=torch.float64, device=row.device)
        for _ in range(2):
            coefficients = torch.zeros_like(total)
            for columns in self._chunks():
                coefficients += self.rows[: self.filled, columns].double() @ row[columns]
            for columns in self._chunks():
                row[columns] -= coefficients @ self.rows[: self.filled, columns].double()
            total += coefficients
        return total.cpu()

    def _chunks(self) -> Iterator[slice]:
        step = max(1, CHUNK // len(self.rows))
        return (slice(start, start + step) for start in range(0, self.operator.size, step))


def flat(v: Vector, like: Vector) -> Tensor:
    """The coordinates of a vector in one row.

    Args:
        v: The vector.
        like: What says which parts there are: one that is `None` in `v` but not here gives zeros.

    Returns:
        The row (P,), on the device of the first part.

    Example:
        >>> like = Vector([torch.zeros(2), None, torch.zeros(1)])
        >>> flat(Vector([torch.ones(2), None, None]), like)
        tensor([1., 1., 0.])
    """
    device = like.tensors[0].device
    pairs = zip(v.parts, like.parts, strict=True)
    present = [a if a is not None else torch.zeros_like(b) for a, b in pairs if b is not None]
    return torch.cat([part.reshape(-1).to(device) for part in present])


def shaped(row: Tensor, like: Vector) -> Vector:
    """The vector that has given coordinates.

    Args:
        row: The coordinates (P,).
        like: A vector of the wanted shapes, dtypes and devices.

    Returns:
        The vector; its parts are views of `row` where the dtypes agree.

    Example:
        >>> shaped(torch.arange(3.0), Vector([torch.zeros(2), None, torch.zeros(1)])).parts
        (tensor([0., 1.]), None, tensor([2.]))
    """
    pieces = iter(row.split([part.numel() for part in like.tensors]))
    return Vector(
        None if part is None else next(pieces).view(part.shape).to(part) for part in like.parts
    )
