"""The trace of an operator from random probes, with a standard error.

Hutchinson's estimator is the mean of z' A z over random signs z. Hutch++ spends a third of its
products on finding a space Q that holds much of the trace, takes the trace there exactly, and
estimates only what is left: better where few eigenvalues are large, worse where none are.
"""

from __future__ import annotations

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
    method: Literal["hutchinson", "hutch++"] = "hutchinson",
    scale: Vector | None = None,
) -> Trace:
    """The sum of the eigenvalues, from random probes.

        tr A ~ (1/n) sum_i z_i' A z_i

    Args:
        operator: A symmetric operator.
        samples: How many products are made.
        seed: Of the probes. The same seed gives the same result.
        method: `hutchinson`, or `hutch++` where few eigenvalues are large.
        scale: A vector c, for the trace of C A C with C = diag(c), as in adaptive sharpness.

    Returns:
        The estimate; its standard error is estimated from the probes.

    Raises:
        ValueError: If there are too few samples or no such method.

    Source: Hutchinson 1990; Meyer, Musco, Musco and Woodruff 2021, "Hutch++: optimal stochastic
    trace estimation".
    Cost: `samples` products; Hutch++ keeps a third as many vectors.

    Example:
        >>> from flatminima.sharpness import FromFunction
        >>> curvature = Vector([torch.tensor([3.0, 1.0])])
        >>> trace(FromFunction(lambda v: curvature * v, like=curvature), samples=4).value
        4.0
    """
    least = {"hutchinson": 2, "hutch++": 6}
    if method not in least:
        raise ValueError(f"method must be 'hutchinson' or 'hutch++', got {method!r}")
    if samples < least[method]:
        raise ValueError(f"samples must be at least {least[method]} for {method}, got {samples}")
    before = operator.products
    probes = _Probes(operator, scale, stream(seed))
    squares = None
    with operator:
        if method == "hutchinson":
            rows = [probes.pair() for _ in range(samples)]
            guess = estimated(torch.tensor([one for one, _ in rows], dtype=torch.float64))
            squares = estimated(torch.tensor([two for _, two in rows], dtype=torch.float64))
        else:
            guess = _hutch(probes, samples)
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


def _hutch(probes: _Probes, samples: int) -> Estimate:
    size = probes.operator.size
    third = min(samples // 3, size)
    space = torch.stack([probes.times(probes.draw()) for _ in range(third)], dim=1)
    basis = torch.linalg.svd(space, full_matrices=False)
    floor = max(space.shape) * torch.finfo(torch.float64).eps * float(basis.S[0])
    kept = basis.S.gt(floor)
    q = basis.U[:, kept]
    inside = sum(float(column @ probes.times(column)) for column in q.T)
    terms: list[float] = []
    for _ in range(samples - 2 * third):
        z = probes.draw()
        z = z - q @ (q.T @ z)
        terms.append(float(z @ probes.times(z)))
    rest = estimated(torch.tensor(terms, dtype=torch.float64))
    return Estimate(
        value=inside + rest.value, standard_error=rest.standard_error, samples=rest.samples
    )
