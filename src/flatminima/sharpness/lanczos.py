"""The outermost eigenvalues of an operator, each with a residual that was measured.

Thick-restart Lanczos with full reorthogonalisation, in three stages:

1. *Search*: extend a Krylov basis from a random vector, or a block of them, until the residuals of
   the k wanted Ritz pairs are small. By default those are the algebraically largest: a Hessian has
   negative outliers away from minima.
2. *Doubt*: one random vector sees one direction of an eigenspace, so a repeated eigenvalue counts
   once. Keep the pairs found, begin again from a fresh vector in their complement, and go on until
   the chance that it overlooked another eigenvalue among the k is small. If one turns up,
   converge and doubt again.
3. *Measure*: multiply every eigenvector once more. Values and residuals are those of the vectors
   returned.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from flatminima.sharpness.arpack import by_scipy
from flatminima.sharpness.eigenpairs import (
    Eigenpairs,
    Ratio,
    Which,
    aim,
    order,
    rayleigh,
    squared_errors,
)
from flatminima.sharpness.estimate import stream
from flatminima.sharpness.krylov import Krylov
from flatminima.sharpness.operators import Operator
from flatminima.sharpness.search import Progress, Search
from flatminima.vector import Vector

__all__ = ["Eigenpairs", "Progress", "Ratio", "top_eigenpairs"]


def top_eigenpairs(
    operator: Operator,
    k: int = 5,
    *,
    which: Which = "largest",
    seed: int = 0,
    tolerance: float = 1e-3,
    risk: float = 0.01,
    window: int | None = None,
    max_products: int = 300,
    block: int = 1,
    start: Eigenpairs | Vector | None = None,
    backend: Literal["lanczos", "scipy"] = "lanczos",
    progress: Progress | None = None,
) -> Eigenpairs:
    """The k outermost eigenvalues and their eigenvectors, with measured residuals.

        A v_i = lambda_i v_i,   lambda_1 >= lambda_2 >= ... >= lambda_k

    Args:
        operator: A symmetric operator; a `Hessian`, say.
        k: How many, at most the operator's size; k at each end for `both`.
        which: The algebraically `largest` or `smallest`, `both`, or the largest in `magnitude`,
            whatever their sign.
        seed: Of the random start vectors. The same seed gives the same result.
        tolerance: The residuals stop the search at this multiple of the outermost value's size. The
            error of a value is about residual^2 / gap, so 1e-3 gives six digits of a well separated
            one. Values that differ by less count as one: the last of them is surest where a few
            more are asked for.
        risk: The largest chance to overlook one of the k because its eigenvalue is repeated; 1 does
            without that check. Where the chance is not brought down to it, `converged` is false.
        window: The basis vectors kept in memory; by default 4 k + 20. Fewer need more products.
            Not for scipy, as `block` and `risk`.
        max_products: When to give up; the pairs found so far are returned, and `converged` is
            false.
        block: How many random vectors the search begins from. It sees so many copies of a repeated
            eigenvalue at once, also with a risk of 1; each further one costs products.
        start: Begin from what is expected instead: the sum of an earlier result's vectors, or a
            vector. Saves products where the operator has changed little; the risk then is to
            overlook any eigenvalue that is larger than all but the last.
        backend: `scipy` hands the products to `scipy.sparse.linalg.eigsh`, on the CPU: another
            implementation for comparison. It does not look for repeated eigenvalues: `missed` is 1,
            and `converged` speaks of the residuals.
        progress: Called with (products so far, the k values, their residuals) as they improve.

    Returns:
        The eigenpairs.

    Raises:
        ValueError: If an argument is out of its range.
        RuntimeError: If a product is not finite, or scipy's iteration does not converge.

    Source: Wu and Simon 2000 (thick restart); Kuczynski and Wozniakowski 1992, "Estimating the
    largest eigenvalue by the power and Lanczos algorithms with a random start": the chance that j
    steps miss an eigenvalue by the fraction x of the spectrum's width is at most 1.648 sqrt(P)
    exp(-sqrt(x) (2 j - 1)).
    Cost: products are everything, most often 30 to 60 for k = 5 on a network; `window` vectors of
    memory.

    Example:
        >>> from flatminima.sharpness import FromFunction
        >>> curvature = Vector([torch.tensor([3.0, 1.0]), torch.tensor([-7.0])])
        >>> pairs = top_eigenpairs(FromFunction(lambda v: curvature * v, like=curvature), k=2)
        >>> pairs.values.round(decimals=5)
        tensor([3., 1.], dtype=torch.float64)
    """
    pairs = 2 * k if which == "both" else k
    window = 4 * pairs + 20 if window is None else window
    _check(operator.size, k, which, tolerance, risk, window, max_products, block, backend)
    first, before = _first(start), operator.products
    with operator:
        if backend == "scipy":
            limit = max_products - pairs
            vectors = by_scipy(operator, k, which, first, tolerance, limit, stream(seed))
            missed, floor, others = 1.0, 0.0, torch.empty(0, dtype=torch.float64)
        else:
            search = Search(
                basis=Krylov(operator, window, stream(seed), block=block, start=first),
                k=k,
                which=which,
                tolerance=tolerance,
                risk=risk,
                limit=before + max_products - pairs,
                progress=progress,
                warm=first is not None,
            )
            missed, floor = search.run(), search.floor
            vectors, others = search.found()
        values, residuals = rayleigh(operator, vectors)
    places = order(values, which)
    values, residuals = values[places], residuals[places]
    least = aim(values, which, tolerance, floor)
    return Eigenpairs(
        values=values,
        vectors=[vectors[place] for place in places.tolist()],
        residuals=residuals,
        errors=squared_errors(values, residuals, others),
        slack=max(least, floor),
        missed=missed,
        products=operator.products - before,
        converged=bool((residuals <= least).all()) and (missed <= risk or backend == "scipy"),
        which=which,
        seed=seed,
    )


def _first(start: Eigenpairs | Vector | None) -> Vector | None:
    if isinstance(start, Eigenpairs):
        return sum(start.vectors[1:], start.vectors[0])
    return start


def _check(
    size: int,
    k: int,
    which: str,
    tolerance: float,
    risk: float,
    window: int,
    max_products: int,
    block: int,
    backend: str,
) -> None:
    if which not in get_args(Which):
        raise ValueError(f"which must be one of {', '.join(get_args(Which))}, got {which!r}")
    if backend not in ("lanczos", "scipy"):
        raise ValueError(f"backend must be 'lanczos' or 'scipy', got {backend!r}")
    pairs = 2 * k if which == "both" else k
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if pairs > size:
        raise ValueError(
            f"k must be at most {'half of ' * (pairs > k)}the operator's size {size}, got {k}"
        )
    if not 1 <= block <= size:
        raise ValueError(f"block must be between 1 and the operator's size {size}, got {block}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}")
    if not 0 < risk <= 1:
        raise ValueError(f"risk must be > 0 and at most 1, got {risk}; 1 does without the check")
    if window < min(pairs + 2, size):
        raise ValueError(f"window must be at least k + 2 = {pairs + 2}, got {window}")
    if max_products < 2 * pairs:
        raise ValueError(
            f"max_products must be at least 2 k = {2 * pairs}, got {max_products}; "
            "k of them measure the residuals"
        )
