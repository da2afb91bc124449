"""Eigenvectors by scipy's `eigsh` (ARPACK), an implementation that shares nothing with ours."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from flatminima.sharpness.eigenpairs import Which
from flatminima.sharpness.krylov import flat, shaped
from flatminima.sharpness.operators import Operator
from flatminima.vector import Vector

__all__ = ["by_scipy"]

NAMES = {"largest": "LA", "smallest": "SA", "both": "BE", "magnitude": "LM"}


def by_scipy(
    operator: Operator,
    k: int,
    which: Which,
    start: Vector | None,
    tolerance: float,
    limit: int,
    generator: torch.Generator,
) -> list[Vector]:
    """The vectors that `eigsh` finds, in no particular order.

    Args:
        operator: The operator; its products pass through the CPU in float64.
        k: How many; at each end for `both`.
        which: Which ones.
        start: The vector that the iteration begins from; by default a random one.
        tolerance: Of the residuals, beside each value's size.
        limit: At most about so many products.
        generator: For the random vector.

    Returns:
        The vectors, of norm 1.

    Raises:
        RuntimeError: If the iteration does not converge.
    """
    linalg: Any = import_module("scipy.sparse.linalg")  # an extra, without types
    like = operator.like

    def product(row: Any) -> Any:  # noqa: ANN401 - scipy's arrays
        v = shaped(torch.from_numpy(row.reshape(-1).copy()), like)
        return flat(operator(v), like).double().cpu().numpy()

    first = like.randn_like(generator) if start is None else start
    pairs = 2 * k if which == "both" else k
    width = min(operator.size, max(2 * pairs + 1, 20))
    matrix = linalg.LinearOperator((operator.size, operator.size), matvec=product, dtype="float64")
    try:
        _, columns = linalg.eigsh(
            matrix,
            k=pairs,
            which=NAMES[which],
            v0=flat(first, like).double().cpu().numpy(),
            ncv=width,
            tol=tolerance,
            maxiter=max(1, (limit - width) // (width - pairs) if width > pairs else 1),
        )
    except linalg.ArpackNoConvergence as error:
        raise RuntimeError(
            f"eigsh must find {pairs} pairs, got {len(error.eigenvalues)} after "
            f"{operator.products} products; raise max_products or tolerance"
        ) from error
    return [shaped(torch.from_numpy(column.copy()), like) for column in columns.T]
