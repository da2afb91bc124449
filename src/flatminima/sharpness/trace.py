"""The trace of an operator from random probes, with a standard error.

Hutchinson's estimator is the mean of z' A z over random signs z. Hutch++ spends a third of its
products on finding a space Q that holds much of the trace, takes the trace there exactly, and
estimates only what is left: better where few eigenvalues are large, worse where none are. XTrace
lets every probe serve both ends: each in turn is left out of Q and estimates what the others leave.
Its terms share their probes, so their spread alone understates the error; what two terms have in
common is estimated from what each of the two probes adds to the other's term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flatminima.sharpness.estimate import Estimate, estimated, stream
from flatminima.sharpness.krylov import flat, shaped
from flatminima.sharpness.operators import Operator
from flatminima.vector import Vector

__all__ = ["Trace", "trace"]


@dataclass(frozen=True, kw_only=True)
class Trace(Estimate):
    """A trace with its standard error, and the squared Frobenius norm from the same probes."""

    products: int  # with the operator
    seed: int
    method: str
    squares: Estimate | None  # of ||A||_F^2; None where no probe was multiplied by A itself


def trace(
    operator: Operator,
    samples: int = 64,
    *,
    seed: int = 0,
    method: Literal["hutchinson", "hutch++", "xtrace"] = "hutchinson",
    scale: Vector | None = None,
    tolerance: float | None = None,
) -> Trace:
    """The sum of the eigenvalues, from random probes.

        tr A ~ (1/n) sum_i z_i' A z_i

    Args:
        operator: A symmetric operator.
        samples: How many products are made.
        seed: Of the probes. The same seed gives the same result.
        method: `hutchinson`; `hutch++` or `xtrace` where few eigenvalues are large.
        scale: A vector c, for the trace of C A C with C = diag(c), as in adaptive sharpness.
        tolerance: Hutchinson stops at the first 16, 32, 64, ... probes whose standard error is
            within this multiple of |trace|, at `samples` in any case.

    Returns:
        The estimate; its standard error is estimated from the probes. XTrace's `samples`, which
        decide how wide an interval is, are half its probes: its error, itself a mean over pairs,
        is known about as well as from half as many independent terms.

    Raises:
        ValueError: If there are too few samples or no such method.

    Source: Hutchinson 1990; Meyer, Musco, Musco and Woodruff 2021, "Hutch++: optimal stochastic
    trace estimation"; Epperly, Tropp and Webber 2023, "XTrace: making the most of every sample".
    Cost: `samples` products; Hutch++ keeps a third as many vectors, XTrace three halves as many.

    Example:
        >>> from flatminima.sharpness import FromFunction
        >>> curvature = Vector([torch.tensor([3.0, 1.0])])
        >>> trace(FromFunction(lambda v: curvature * v, like=curvature), samples=4).value
        4.0
    """
    least = {"hutchinson": 2, "hutch++": 6, "xtrace": 6}
    if method not in least:
        raise ValueError(f"method must be 'hutchinson', 'hutch++' or 'xtrace', got {method!r}")
    if samples < least[method]:
        raise ValueError(f"samples must be at least {least[method]} for {method}, got {samples}")
    if tolerance is not None and not (tolerance > 0 and method == "hutchinson"):
        raise ValueError(
            f"tolerance must be > 0 and for hutchinson, got {tolerance} for {method}; "
            "the other methods divide their samples beforehand"
        )
    before = operator.products
    probes = _Probes(operator, scale, stream(seed))
    squares = None
    with operator:
        if method == "hutchinson":
            guess, squares = _hutchinson(probes, samples, tolerance or 0.0)
        else:
            guess = (_hutch if method == "hutch++" else _exchange)(probes, samples)
    return Trace(
        value=guess.value,
        standard_error=guess.standard_error,
        samples=guess.samples,
        products=operator.products - before,
        seed=seed,
        method=method,
        squares=squares,
    )


class _Probes:
    """Random signs, and products with C A C, in float64."""

    def __init__(
        self, operator: Operator, scale: Vector | None, generator: torch.Generator
    ) -> None:
        self.operator = operator
        self.scale = scale
        self.generator = generator

    def draw(self) -> Tensor:
        normal = self.operator.like.randn_like(self.generator)
        return torch.where(flat(normal, self.operator.like) < 0, -1.0, 1.0).double()

    def times(self, row: Tensor) -> Tensor:
        v = shaped(row, self.operator.like)
        product = self.operator(v if self.scale is None else v * self.scale)
        product = product if self.scale is None else product * self.scale
        return flat(product, self.operator.like).double()

    def pair(self) -> tuple[float, float]:
        z = self.draw()
        product = self.times(z)
        return float(z @ product), float(product @ product)


def _hutchinson(probes: _Probes, samples: int, tolerance: float) -> tuple[Estimate, Estimate]:
    """The trace and the squared Frobenius norm; looks at its error at powers of two only."""
    rows: list[tuple[float, float]] = []
    while True:
        count = min(samples, max(16, 2 * len(rows)))
        rows += [probes.pair() for _ in range(count - len(rows))]
        ones, twos = torch.tensor(rows, dtype=torch.float64).T
        guess = estimated(ones)
        if (
            count == samples
            or tolerance > 0
            and guess.standard_error <= tolerance * abs(guess.value)
        ):
            return guess, estimated(twos)


def _hutch(probes: _Probes, samples: int) -> Estimate:
    size = probes.operator.size
    third = min(samples // 3, size)
    q = _range(torch.stack([probes.times(probes.draw()) for _ in range(third)], dim=1))
    inside = sum(float(column @ probes.times(column)) for column in q.T)
    parts: list[Tensor] = []
    squares = 0.0
    for _ in range(samples - 2 * third):
        z = probes.draw()
        outside = probes.times(z - q @ (q.T @ z))
        outside -= q @ (q.T @ outside)
        parts.append(z * outside)
        squares += float(outside @ outside) / (samples - 2 * third)
    rest = estimated(torch.stack([part.sum() for part in parts]))
    known = 0.5 * (rest.standard_error**2 + _by_squares(torch.stack(parts), squares))
    return Estimate(
        value=inside + rest.value, standard_error=math.sqrt(known), samples=rest.samples
    )


def _by_squares(parts: Tensor, squares: float) -> float:
    """The variance of the mean of z'Rz over random signs z, from its formula.

        Var z'Rz = 2 (||R||_F^2 - sum_i R_ii^2)

    The spread of the terms is small where the mean is too low, for they are skewed; this one is
    above it there. Both are right on average, and their mean serves.

    Args:
        parts: z * Rz, a row for each z, (n, P).
        squares: The mean of ||Rz||^2.

    Returns:
        The variance; at least 0.
    """
    count = len(parts)
    diagonal = (parts.sum(0).square().sum() - parts.square().sum()) / (count * (count - 1))
    return max(0.0, 2 * (squares - float(diagonal)) / count)


def _exchange(probes: _Probes, samples: int) -> Estimate:
    """XTrace: without probe i, the space of the others is Q less the direction Q s_i."""
    count = min(samples // 2, probes.operator.size)
    z = torch.stack([probes.draw() for _ in range(count)], dim=1)
    space = torch.stack([probes.times(column) for column in z.T], dim=1)
    q = _range(space)
    aq = torch.stack([probes.times(column) for column in q.T], dim=1) if q.numel() else q
    inner, seen = q.T @ aq, q.T @ z
    # s_i is orthogonal to every other column of Q'AZ; in a space of less rank none is missed.
    s = torch.zeros_like(seen)
    if q.shape[1] == count:
        s = torch.linalg.inv(q.T @ space).T
        s = s / s.norm(dim=0)
    inside = inner.trace() - (s * (inner @ s)).sum(dim=0)
    known = seen - s * (s * seen).sum(dim=0)
    rest, product = z - q @ known, space - aq @ known
    guess = estimated(inside + (rest * product).sum(dim=0))
    shared = _shared(s, inner, seen, aq.T @ rest)
    return Estimate(
        value=guess.value,
        standard_error=math.sqrt(guess.standard_error**2 + shared),
        samples=count // 2 + 1,
    )


def _shared(s: Tensor, inner: Tensor, seen: Tensor, pulled: Tensor) -> float:
    """The covariance of two terms of XTrace, which their spread does not show; at least 0.

    Given all other probes, term i has the mean tr A whatever probe j is, so the two terms covary
    only by what depends on both probes: with d_ij what probe j adds to term i, less its mean over
    j, the mean of d_ij d_ji over all pairs.

    Args:
        s: The direction that each probe alone adds to the space, in its coordinates.
        inner: Q' A Q.
        seen: Q' Z.
        pulled: (A Q)' times what each probe is outside the space of the others.

    Returns:
        The covariance.
    """
    count = s.shape[1]
    added = torch.zeros(count, count, dtype=torch.float64, device=s.device)
    for i, way in enumerate(s.T):
        # Without probes i and j the space is Q less span(Q s_i, Q s_j) = span(Q s_i, Q n_j).
        n = torch.nn.functional.normalize(s - torch.outer(way, way @ s), dim=0)
        n[:, i] = 0.0
        along = n.T @ seen[:, i]
        added[i] = (1 - along.square()) * (n * (inner @ n)).sum(0) - 2 * along * (
            n.T @ pulled[:, i]
        )
    own = added - added.sum(1, keepdim=True) / (count - 1)
    own.fill_diagonal_(0.0)
    # Taking the mean off scales the products by ((count - 2) / (count - 1))^2.
    return max(0.0, float((own * own.T).sum()) * (count - 1) / (count * (count - 2) ** 2))


def _range(space: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span, up to rounding."""
    basis = torch.linalg.svd(space, full_matrices=False)
    floor = max(space.shape) * torch.finfo(torch.float64).eps * float(basis.S[0])
    return basis.U[:, basis.S.gt(floor)]
