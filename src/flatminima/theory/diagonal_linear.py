"""Diagonal linear networks, beta = u * v: the smallest model in which SAM changes the solution.

Many radii, step sizes, starts and data seeds descend together, one array operation for all. With
R the residuals and S_j the groups of m examples that share a displacement,

    G_j = X_j' R_j / m                   the slope of group j in beta
    u_j, v_j = u + rho G_j v, v + rho G_j u
    P_j = X_j' (X_j (u_j v_j) - y_j) / m
    u <- u - gamma mean_j(P_j v_j) = u - gamma (A v + B u),  A = mean P_j,  B = rho mean(G_j P_j)

and the same with u and v exchanged. No tensor of displaced weights is needed for m = 1.

A is what plain descent has. B shrinks u^2 - v^2, which plain gradient flow conserves: the end is
that of gradient flow from a smaller start, alpha exp(-integral of B), coordinate by coordinate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flatminima.theory.sparse_regression import Array, Regression

__all__ = ["Descent", "diagonal_linear"]

LIMIT = 1e12  # a residual above it is on its way to infinity
Slopes: TypeAlias = "Callable[[Array, Array], tuple[Array, Array, Array]]"


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Where a grid of descents ended; what diverged is nan."""

    u: Array
    """The first layer, (seeds, grid, d)."""
    v: Array
    """The second, (seeds, grid, d)."""
    loss: Array
    """The training loss |X beta - y|^2 / (2n), (seeds, grid)."""
    test_loss: Array
    """The same over the test points, (seeds, grid)."""
    diverged: NDArray[np.int64]
    """The step at which a residual passed 1e12 or was no number; -1 for none, (seeds, grid)."""
    alpha_predicted: Array
    """The start of the gradient flow with this end: alpha exp(-gamma sum B), (seeds, grid, d)."""
    kept: Sequence[int]
    """The steps after which `path` was written."""
    path: Array
    """beta after those steps, (kept, seeds, grid, d)."""

    @property
    def beta(self) -> Array:
        """The coefficients u * v, (seeds, grid, d)."""
        return self.u * self.v

    @property
    def alpha(self) -> Array:
        """The scale that the end remembers, sqrt(|u^2 - v^2|), (seeds, grid, d)."""
        return np.sqrt(np.abs(self.u**2 - self.v**2))


def diagonal_linear(
    data: Regression,
    *,
    rho: ArrayLike = 0.0,
    gamma: ArrayLike,
    m: int | None = None,
    alpha: ArrayLike = 0.1,
    steps: int = 10_001,
    batch: int | None = None,
    normalized: bool = False,
    loss_derivative_only: bool = False,
    doubled: bool = False,
    label_noise: float = 0.0,
    seed: int = 0,
    start: Descent | None = None,
    keep: Sequence[int] = (),
) -> Descent:
    """Train diagonal linear networks on a grid of radii, step sizes and starts, all at once.

    Args:
        data: The problems.
        rho: The radius, a number or one per place of the grid; 0 is gradient descent.
        gamma: The step size, likewise.
        m: Examples per displacement; it must divide their number. 1 is 1-SAM, None n-SAM.
        alpha: The start u = alpha, v = 0: a number, one per place, or (grid, d) for any shape.
        steps: Updates.
        batch: Examples drawn for each update, with replacement, the same for the whole grid; None
            takes all. `batch=1, rho=0` is SGD.
        normalized: Whether a displacement has length rho, rather than rho times the slope.
        loss_derivative_only: Whether the displaced point decides the residuals alone, and not the
            layer that they are multiplied with.
        doubled: Whether the displacement is 2 rho, as in the published code for 1-SAM alone.
        label_noise: The standard deviation of noise on the labels, fresh in every step.
        seed: Of the batches and the noise.
        start: Go on from the end of another descent, in place of `alpha`.
        keep: Steps after which beta is kept in `path`.

    Returns:
        Where the descents ended.

    Raises:
        ValueError: If m does not divide the examples, or a start, radius or step size is not
            finite.

    Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232.
    Cost: about 20 small array operations per step for the whole grid.

    Example:
        >>> from flatminima.theory.sparse_regression import sparse_regression
        >>> end = diagonal_linear(sparse_regression(), rho=[0.0, 0.2], m=1, gamma=1 / 3, steps=300)
        >>> end.test_loss.shape, bool(end.test_loss[0, 1] < end.test_loss[0, 0])
        ((1, 2), True)
    """
    u, v = _start(data, rho, gamma, alpha, start)
    rates = _column(gamma, "gamma")
    radii = _column(rho, "rho") * (2 if doubled else 1)
    examples = batch or int(data.x.shape[1])
    size = m or examples
    if examples % size:
        raise ValueError(f"m must divide the {examples} examples of a step, got {m}.")
    slopes = _slopes(data, radii, size, batch, normalized, label_noise, np.random.default_rng(seed))
    shrunk = np.zeros_like(u)
    diverged = np.full(u.shape[:2], -1)
    path: list[Array] = []
    with np.errstate(all="ignore"):
        for step in range(1, steps + 1):
            a, b, residuals = slopes(u, v)
            gone = ~(np.abs(residuals).max(axis=-1) <= LIMIT) & (diverged < 0)
            if gone.any():
                diverged[gone] = step
                u[gone] = v[gone] = np.nan
            shrunk += rates * b
            if loss_derivative_only:
                u, v = u - rates * (a * v), v - rates * (a * u)
            else:
                u, v = u - rates * (a * v + b * u), v - rates * (a * u + b * v)
            if step in keep:
                path.append(u * v)
        alone = np.zeros_like(shrunk) if loss_derivative_only else shrunk
        begun = _start(data, rho, gamma, alpha, start)
        remembered = np.sqrt(np.abs(begun[0] ** 2 - begun[1] ** 2)) * np.exp(-alone)
    diverged[(diverged < 0) & ~(data.loss(u * v) <= LIMIT)] = steps
    u[diverged >= 0] = v[diverged >= 0] = np.nan
    return Descent(
        u=u,
        v=v,
        loss=data.loss(u * v),
        test_loss=data.test_loss(u * v),
        diverged=diverged,
        alpha_predicted=np.where(np.isfinite(u), remembered, np.nan),
        kept=tuple(step for step in range(1, steps + 1) if step in keep),
        path=np.array(path).reshape(-1, *u.shape),
    )


def _column(values: ArrayLike, name: str) -> Array:
    """Numbers along the grid, to be broadcast over coordinates."""
    column = np.atleast_1d(np.asarray(values, dtype=np.float64))[:, None]
    if not np.isfinite(column).all() or (column < 0).any():
        raise ValueError(f"{name} must be >= 0 and finite, got {values!r}.")
    return column


def _start(
    data: Regression, rho: ArrayLike, gamma: ArrayLike, alpha: ArrayLike, start: Descent | None
) -> tuple[Array, Array]:
    """The first layers of the whole grid."""
    seeds, _, d = data.x.shape
    scale = np.asarray(alpha, dtype=np.float64)
    scale = scale.reshape(-1, 1) if scale.ndim < 2 else scale
    u, v = (scale, np.zeros(1)) if start is None else (start.u, start.v)
    places = np.broadcast_shapes(np.shape(rho), np.shape(gamma), u.shape[-2:-1])
    u, v = (np.broadcast_to(layer, (seeds, *places, d)).copy() for layer in (u, v))
    if not (np.isfinite(u).all() and np.isfinite(v).all()):
        raise ValueError(f"the start must be finite, got u in [{u.min()}, {u.max()}].")
    return u, v


def _slopes(
    data: Regression,
    rho: Array,
    m: int,
    batch: int | None,
    normalized: bool,
    noise: float,
    random: np.random.Generator,
) -> Slopes:
    """What gives A, B and the residuals at u, v."""
    once = None if batch or noise else _groups(data.x, data.y, rho, m, normalized)

    def slopes(u: Array, v: Array) -> tuple[Array, Array, Array]:
        if once is not None:
            return once(u, v)
        x, y = data.x, data.y
        if batch:
            picked = random.integers(x.shape[1], size=(len(x), batch))
            x, y = np.take_along_axis(x, picked[..., None], 1), np.take_along_axis(y, picked, 1)
        if noise:
            y = y + noise * random.standard_normal(y.shape)
        return _groups(x, y, rho, m, normalized)(u, v)

    return slopes


def _groups(x: Array, y: Array, rho: Array, m: int, normalized: bool) -> Slopes:
    """The slopes for groups of m; m = 1 has a form without a tensor per example."""
    return _single(x, y, rho, normalized) if m == 1 else _shared(x, y, rho, m, normalized)


def _single(x: Array, y: Array, rho: Array, normalized: bool) -> Slopes:
    """Groups of one: G_j = R_j x_j, so that every sum over coordinates is a matrix product."""
    n, y = x.shape[1], y[:, None]
    square = x**2
    xt, square_t, cube_t = (np.ascontiguousarray(z.swapaxes(1, 2)) for z in (x, square, x**3))

    def slopes(u: Array, v: Array) -> tuple[Array, Array, Array]:
        beta = u * v
        residuals = beta @ xt - y
        if not rho.any():
            return residuals @ x / n, np.zeros_like(u), residuals
        sizes = (u * u + v * v) @ square_t
        size = _safely(rho, np.abs(residuals) * np.sqrt(sizes)) if normalized else rho
        far = size * residuals
        there = residuals + far * (sizes + far * (beta @ cube_t))
        return there @ x / n, (far * there) @ square / n, residuals

    return slopes


def _shared(x: Array, y: Array, rho: Array, m: int, normalized: bool) -> Slopes:
    """Groups of m; arrays are (seeds, groups, grid, ...)."""
    seeds, n, d = x.shape
    x = x.reshape(seeds, n // m, m, d)
    xt, y = np.ascontiguousarray(x.swapaxes(2, 3)), y.reshape(seeds, n // m, 1, m)

    def slopes(u: Array, v: Array) -> tuple[Array, Array, Array]:
        u, v = u[:, None], v[:, None]
        residuals = (u * v) @ xt - y
        g = residuals @ x / m
        flat = np.moveaxis(residuals, 1, 2).reshape(seeds, u.shape[2], n)
        if not rho.any():
            return g.mean(axis=1), np.zeros_like(g[:, 0]), flat
        size = rho
        if normalized:
            size = _safely(rho, np.sqrt(np.sum(g**2 * (u**2 + v**2), axis=-1, keepdims=True)))
        e = size * g
        p = ((u + e * v) * (v + e * u)) @ xt - y
        p = p @ x / m
        return p.mean(axis=1), (e * p).mean(axis=1), flat

    return slopes


def _safely(rho: Array, length: Array) -> Array:
    """How far for a radius, and 0 where the slope is 0: there is no way uphill."""
    return np.divide(rho, length, out=np.zeros_like(length), where=length != 0)
