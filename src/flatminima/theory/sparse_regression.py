"""Sparse linear regression with more coordinates than examples, and its exact interpolators.

Every array has a first axis of data seeds, so that many problems are solved at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Regression", "entropic", "minimum_l1", "minimum_l2", "sparse_regression"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Examples and test points of several problems of one size."""

    x: Array
    """The examples, (seeds, n, d)."""
    y: Array
    """Their labels, (seeds, n)."""
    x_test: Array
    """The test points, (seeds, t, d)."""
    y_test: Array
    """Their labels, (seeds, t)."""
    beta: Array
    """The coefficients that made the labels, (seeds, d)."""
    seeds: Sequence[int]
    """The seed of each problem."""

    def loss(self, beta: Array) -> Array:
        """The training loss |X beta - y|^2 / (2n); beta is (seeds, grid, d)."""
        return _half_mean_square(self.x, self.y, beta)

    def test_loss(self, beta: Array) -> Array:
        """The same over the test points."""
        return _half_mean_square(self.x_test, self.y_test, beta)


def sparse_regression(
    seeds: Sequence[int] = (0,), *, n: int = 20, d: int = 30, nonzero: int = 3, test: int = 1000
) -> Regression:
    """Noiseless labels of a sparse, non-negative vector of norm 1: y = X beta.

    The random numbers are drawn in the order of the published notebook from NumPy's legacy
    generator, so that seed 0 gives its very data: X, the test points, beta.

    Args:
        seeds: One problem for each.
        n: Examples.
        d: Coordinates.
        nonzero: Coordinates of beta that are not 0.
        test: Test points.

    Returns:
        The problems.

    Raises:
        ValueError: If there are fewer coordinates than nonzero ones, or no seed.

    Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232, the authors' notebook.

    Example:
        >>> data = sparse_regression()
        >>> data.x.shape, int((data.beta != 0).sum())
        ((1, 20, 30), 3)
    """
    if not 0 < nonzero <= d:
        raise ValueError(f"nonzero must be between 1 and d = {d}, got {nonzero}.")
    if not len(seeds):
        raise ValueError(f"seeds must be at least one number, got {seeds!r}.")
    draws = [_draw(np.random.RandomState(seed), n, d, nonzero, test) for seed in seeds]
    x, x_test, beta = (np.stack(parts) for parts in zip(*draws, strict=True))
    return Regression(
        x=x,
        y=np.einsum("snd,sd->sn", x, beta),
        x_test=x_test,
        y_test=np.einsum("snd,sd->sn", x_test, beta),
        beta=beta,
        seeds=tuple(seeds),
    )


def _draw(
    random: np.random.RandomState, n: int, d: int, nonzero: int, test: int
) -> tuple[Array, Array, Array]:
    """One problem; a multivariate normal is not the same numbers as a normal."""
    x, x_test = (random.multivariate_normal(np.zeros(d), np.eye(d), size) for size in (n, test))
    beta = random.randn(d)
    beta[nonzero:] = 0
    beta = np.abs(beta)
    return x, x_test, beta / np.linalg.norm(beta)


def minimum_l2(data: Regression) -> Array:
    """The interpolator of least Euclidean norm of every problem, (seeds, d)."""
    return np.einsum("sdn,sn->sd", np.linalg.pinv(data.x), data.y)


def minimum_l1(data: Regression) -> Array:
    """The interpolator of least sum of absolute values of every problem, (seeds, d).

    Solved exactly, as a linear program in beta's positive and negative parts. Needs scipy
    (`flatminima[lab]` brings it).

    Args:
        data: The problems.

    Returns:
        The coefficients.

    Raises:
        RuntimeError: If the program has no solution, as where equal examples have unequal labels.
    """
    from scipy.optimize import linprog  # the core does without scipy

    found: list[Array] = []
    for x, y in zip(data.x, data.y, strict=True):
        d = x.shape[1]
        done = linprog(np.ones(2 * d), A_eq=np.hstack([x, -x]), b_eq=y, bounds=(0, None))
        if done.x is None:
            raise RuntimeError(f"there is no interpolator of least l1 norm: {done.message}")
        found.append(done.x[:d] - done.x[d:])
    return np.stack(found)


def entropic(data: Regression, alpha: Array, *, steps: int = 400) -> Array:
    """The interpolator that gradient flow on u * v reaches from u = alpha, v = 0.

        beta = alpha^2 sinh(2 X'z) / 2  with z such that  X beta = y

    It is the interpolator of least hyperbolic entropy: of least l1 norm as alpha goes to 0, of
    least l2 norm as alpha goes to infinity. z is found by Newton's method;
    starts below 1e-8 are beyond its precision.

    Args:
        data: The problems.
        alpha: The scale of the start, (seeds, grid, d).
        steps: The most Newton steps.

    Returns:
        The coefficients, (seeds, grid, d).

    Source: Woodworth et al. 2020, arXiv:2002.09277; here with beta = u * v.
    """
    found = np.empty_like(alpha)
    for problem, place in np.ndindex(alpha.shape[:2]):
        x, y, square = data.x[problem], data.y[problem], alpha[problem, place] ** 2
        found[problem, place] = _least_entropy(x, y, square, steps)
    return found


def _least_entropy(x: Array, y: Array, square: Array, steps: int) -> Array:
    """Newton's method on the convex dual, sum(alpha^2 cosh(2 X'z)) / 4 - y'z."""

    def dual(z: Array) -> float:
        with np.errstate(over="ignore"):
            return float(np.sum(square * np.cosh(2 * x.T @ z)) / 4 - y @ z)

    z = np.zeros(len(y))
    for _ in range(steps):
        slope = x @ (square * np.sinh(2 * x.T @ z) / 2) - y
        if np.abs(slope).max() < 1e-13:
            break
        curved = (x * (square * np.cosh(2 * x.T @ z))) @ x.T
        step = np.linalg.lstsq(curved, slope)[0]
        size = min(1.0, 1 / np.abs(2 * x.T @ step).max())  # cosh is no parabola beyond that
        here, down = dual(z), slope @ step
        while size > 1e-6 and not dual(z - size * step) <= here - 1e-4 * size * down:
            size /= 2
        z = z - size * step
    return square * np.sinh(2 * x.T @ z) / 2


def _half_mean_square(x: Array, y: Array, beta: Array) -> Array:
    """Half of the mean square of X beta - y, (seeds, grid)."""
    with np.errstate(all="ignore"):
        return np.mean((beta @ x.swapaxes(1, 2) - y[:, None]) ** 2, axis=-1) / 2
