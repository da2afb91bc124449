"""The spectral density of an operator by stochastic Lanczos quadrature.

From a random unit vector, m steps of Lanczos give m nodes and weights whose weighted sums are the
vector's own moments v' A^j v, exactly for j <= 2 m - 1. Over random vectors the mean of such sums
estimates the mean over all eigenvalues. Nodes and weights are kept: the cumulative distribution
needs no smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.sharpness.estimate import Estimate, estimated, stream
from flatminima.sharpness.krylov import Krylov
from flatminima.sharpness.operators import Operator

__all__ = ["Density", "density"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Density:
    """The distribution of the eigenvalues, as nodes and weights of each run."""

    nodes: Tensor  # (runs, steps) float64
    weights: Tensor  # (runs, steps) float64; each row sums to 1, 0 where a run ended early
    size: int  # how many eigenvalues there are
    products: int  # with the operator
    seed: int

    def mean(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """The mean of a function over all eigenvalues.

        Args:
            function: Takes a tensor of eigenvalues and returns its values there.

        Returns:
            The estimate, with its standard error from the runs.
        """
        return estimated((self.weights * function(self.nodes)).sum(1))

    def cdf(self, level: float) -> Estimate:
        """The share of the eigenvalues that are at most `level`; no smoothing is involved."""
        return self.mean(lambda nodes: (nodes <= level).double())

    def effective_dimension(self, alpha: float) -> Estimate:
        """The number of eigenvalues that matter beside a regulariser: sum of x / (x + alpha).

        Args:
            alpha: The regulariser; negative eigenvalues count 0.

        Returns:
            The estimate.

        Raises:
            ValueError: If `alpha` is not above 0.
        """
        if not alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        mean = self.mean(lambda nodes: nodes.clamp_min(0) / (nodes.clamp_min(0) + alpha))
        return Estimate(
            value=self.size * mean.value,
            standard_error=self.size * mean.standard_error,
            samples=mean.samples,
        )

    def smoothed(self, grid: Tensor, width: float) -> Tensor:
        """The density with a Gaussian for every node.

        Args:
            grid: Where to evaluate it (n,).
            width: The standard deviation of the Gaussians.

        Returns:
            The density (n,) float64.

        Raises:
            ValueError: If `width` is not above 0.
        """
        if not width > 0:
            raise ValueError(f"width must be > 0, got {width}")
        apart = (grid.double()[:, None, None] - self.nodes) / width
        bells = torch.exp(-0.5 * apart.square()) / (width * math.sqrt(2 * math.pi))
        return (self.weights * bells).sum(2).mean(1)

    def log_scale(self, edges: Tensor) -> Tensor:
        """The share of the eigenvalues by size, whatever their sign.

        Args:
            edges: Bounds of |x| (n,), ascending and above 0; log-spaced, say.

        Returns:
            The shares (n + 1,) float64 below the first bound, between the bounds, and from the last
            one on; they sum to 1.
        """
        places = torch.bucketize(self.nodes.abs(), edges.double(), right=True)
        shares = torch.zeros(len(edges) + 1, dtype=torch.float64)
        shares.index_add_(0, places.reshape(-1), self.weights.reshape(-1))
        return shares / len(self.nodes)


def density(operator: Operator, runs: int = 8, steps: int = 80, *, seed: int = 0) -> Density:
    """The spectral density, by stochastic Lanczos quadrature.

        mean over eigenvalues of h(x) ~ (1/runs) sum_r sum_i weight_ri h(node_ri)

    Args:
        operator: A symmetric operator.
        runs: How many random vectors, two or more.
        steps: Of Lanczos from each; a run ends where its space is exhausted.
        seed: Of the random vectors. The same seed gives the same result.

    Returns:
        Nodes and weights.

    Raises:
        ValueError: If there are too few runs or steps.

    Source: Ghorbani, Krishnan and Xiao 2019, "An investigation into neural net optimization via
    Hessian eigenvalue density".
    Cost: runs times steps products; `steps` vectors of memory.

    Example:
        >>> from flatminima.sharpness import FromFunction
        >>> from flatminima.vector import Vector
        >>> double = FromFunction(lambda v: 2.0 * v, like=Vector([torch.zeros(3)]))
        >>> seen = density(double, runs=2, steps=5)
        >>> seen.cdf(1.0).value, seen.cdf(3.0).value
        (0.0, 1.0)
    """
    if runs < 2:
        raise ValueError(f"runs must be at least 2, got {runs}; one has no standard error")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    before = operator.products
    generator = stream(seed)
    with operator:
        rows = [_run(operator, steps, generator) for _ in range(runs)]
    length = max(len(nodes) for nodes, _ in rows)
    return Density(
        nodes=torch.stack([_padded(nodes, length, float(nodes[0])) for nodes, _ in rows]),
        weights=torch.stack([_padded(weights, length, 0.0) for _, weights in rows]),
        size=operator.size,
        products=operator.products - before,
        seed=seed,
    )


def _run(operator: Operator, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    basis = Krylov(operator, steps, generator)
    while basis.applied < basis.window:
        basis.extend()
        if basis.filled == basis.applied:  # the space of this vector is exhausted
            break
    ritz = basis.ritz()
    weights = ritz.weights[0].square()
    return ritz.values, weights / weights.sum()


def _padded(row: Tensor, length: int, value: float) -> Tensor:
    return torch.cat([row, row.new_full((length - len(row),), value)])
