"""Networks 1 - hidden - 1 with ReLU on twelve points of a line, trained by SAM on all of them.

    f(x) = sum_j c_j max(0, a_j x + b_j),   loss 0.5 sum_i (f(x_i) - y_i)^2

`gradient` says what is done; `fused` does it in place for one network, whose 12 x 100 numbers stay
near the processor. What was learned is piecewise linear, and its kinks are read off the weights:
unit j bends the function at -b_j / a_j, by |a_j| c_j.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flatminima.theory.sparse_regression import Array

__all__ = [
    "POINTS", "TARGETS", "ReluNets", "Schedule", "fused", "gradient", "relu_1d", "start", "values",
]  # fmt: skip

Schedule = Literal["linear", "constant"]
POINTS = (np.arange(12) - 5.5) / 4 + 0.07
TARGETS = 0.345 + np.array([-2, 1.5, 0, 0, 2, 1, 0, -1, 0, 1, 2, -1])
INPUTS = np.stack([POINTS, np.ones(12)], axis=1)  # a bias is the weight of an input that is 1
ZERO = np.zeros(())  # an array, which numpy need not make of a number in every step
LIMIT = 1e12


@dataclass(frozen=True, kw_only=True)
class ReluNets:
    """Trained networks; what diverged is nan."""

    weights: Array
    """The rows a, b, c of every network, (nets, 3, hidden)."""
    loss: Array
    """0.5 times the sum of squares, (nets,)."""
    stopped: NDArray[np.int64]
    """The step after which the loss was small enough; -1 for never, (nets,)."""
    diverged: NDArray[np.int64]
    """The step at which the loss passed 1e12 or was no number; -1 for none, (nets,)."""
    kept: Sequence[int]
    """The steps after which `path` was written."""
    path: Array
    """The weights after those steps, (kept, nets, 3, hidden)."""

    def __call__(self, x: ArrayLike) -> Array:
        """What the networks say at some points, (nets, points)."""
        return values(self.weights, np.asarray(x, dtype=np.float64))

    def bends(self, net: int) -> tuple[Array, Array]:
        """Where the function of one network bends between the outer points, and by how much.

        Args:
            net: Which network.

        Returns:
            The places in rising order, and the change of slope at each; units that bend at one
            place are added up.
        """
        a, b, c = self.weights[net]
        bending = (a != 0) & (c != 0)
        places, at = np.unique(-b[bending] / a[bending], return_inverse=True)
        changes = np.bincount(at, weights=(np.abs(a) * c)[bending], minlength=len(places))
        inside = (places > POINTS[0]) & (places < POINTS[-1]) & (changes != 0)
        return np.asarray(places[inside], np.float64), np.asarray(changes[inside], np.float64)

    def kinks(self, *, share: float = 0.0, apart: float = 0.0) -> NDArray[np.int64]:
        """How many kinks each function has between the outer points, counted from the weights.

        The exact number, by default, is about that of the hidden units, whatever was learned.
        What one sees is counted with `apart=0.01, share=0.01`: neighbours that are closer than
        the eye tells are one kink, in which bends of opposite sign cancel.

        Args:
            share: Count those that hold more than this share of the function's total bending.
            apart: Bends that follow one another within this distance are one; the points are 0.25
                apart.

        Returns:
            The counts, (nets,); -1 for a network that diverged.
        """
        counts = [_count(*self.bends(net), share, apart) for net in range(len(self.weights))]
        return np.where(self.diverged >= 0, -1, counts)

    @property
    def bending(self) -> Array:
        """The total change of slope between the outer points, sum_j |a_j c_j|, (nets,)."""
        total = [np.abs(self.bends(net)[1]).sum() for net in range(len(self.weights))]
        return np.where(self.diverged >= 0, np.nan, total)

    @property
    def sharpness(self) -> Array:
        """The largest eigenvalue of J'J with J the slopes of the 12 outputs, (nets,).

        It is that of the Hessian where the loss is 0, and its Gauss-Newton part elsewhere.
        """
        a, b, c = (row[:, None] for row in np.moveaxis(self.weights, 1, 0))
        x = POINTS[:, None]
        before = a * x + b
        active = c * (before > 0)
        j = np.concatenate([active * x, active, np.maximum(before, 0)], axis=-1)
        gram = np.nan_to_num(j @ j.swapaxes(1, 2))
        return np.where(self.diverged >= 0, np.nan, np.linalg.eigvalsh(gram)[:, -1])


def _count(places: Array, changes: Array, share: float, apart: float) -> int:
    """How many kinks some bends make."""
    if not len(places):
        return 0
    groups = np.concatenate([[0], np.cumsum(np.diff(places) > apart)])
    together = np.abs(np.bincount(groups, weights=changes))
    return int(np.sum(together > share * np.abs(changes).sum()))


def values(weights: Array, x: Array) -> Array:
    """The functions of some networks at some points, (..., points)."""
    a, b, c = (weights[..., None, row, :] for row in range(3))
    return np.sum(c * np.maximum(a * x[:, None] + b, 0), axis=-1)


def start(seeds: Sequence[int], *, hidden: int = 100, scale: float = 1.0) -> Array:
    """Weights to begin with: a = +-2.5, b normal times 2.5, c normal times 4, all times `scale`.

    Args:
        seeds: One network for each.
        hidden: Hidden units.
        scale: The factor.

    Returns:
        The weights, (nets, 3, hidden).
    """
    nets: list[Array] = []
    for seed in seeds:
        random = np.random.default_rng(seed)
        signs = random.choice([-2.5, 2.5], hidden)
        b, c = 2.5 * random.standard_normal(hidden), 4 * random.standard_normal(hidden)
        nets.append(scale * np.stack([signs, b, c]))
    return np.stack(nets)


def gradient(weights: Array) -> tuple[Array, Array]:
    """The loss of some networks, (nets,), and its gradient, (nets, 3, hidden).

    At a kink of a unit the slope is the one to its left, 0, as in torch.

    Args:
        weights: The rows a, b, c of every network, (nets, 3, hidden).

    Returns:
        The losses and the gradients.
    """
    a, b, c = (weights[:, None, row] for row in range(3))
    before = POINTS[:, None] * a + b
    after = np.maximum(before, 0)
    residuals = np.sum(c * after, axis=-1) - TARGETS
    far = residuals[..., None]
    active = far * c * (before > 0)
    g = np.stack([active * POINTS[:, None], active, far * after]).sum(axis=2)
    return np.sum(residuals**2, axis=-1) / 2, np.moveaxis(g, 0, 1)


def fused(hidden: int) -> Callable[[Array, Array], float]:
    """What gives the loss of one network and writes its gradient, without a new array.

    Args:
        hidden: Hidden units.

    Returns:
        A function of the weights (3, hidden) and of the array that gets the gradient.

    Example:
        >>> w = start([0])[0]
        >>> g = np.empty_like(w)
        >>> loss = fused(100)(w, g)
        >>> bool(np.allclose(g, gradient(w[None])[1][0]))
        True
    """
    after, active = np.empty((12, hidden)), np.empty((12, hidden))
    residuals, slopes = np.empty(12), np.empty((2, hidden))
    inputs, far = np.ascontiguousarray(INPUTS.T), np.empty((2, 12))

    def step(w: Array, g: Array) -> float:
        c = w[2]
        np.dot(INPUTS, w[:2], out=after)
        np.maximum(after, ZERO, out=after)
        np.sign(after, out=active)  # 0 or 1
        np.dot(after, c, out=residuals)
        np.subtract(residuals, TARGETS, out=residuals)
        np.multiply(inputs, residuals, out=far)
        np.dot(far, active, out=slopes)
        np.multiply(slopes, c, out=g[:2])
        np.dot(residuals, after, out=g[2])
        return float(residuals.dot(residuals)) / 2

    return step


def relu_1d(
    seeds: Sequence[int] = (0,),
    *,
    rho: float = 0.0,
    lr: float = 5e-5,
    schedule: Schedule = "linear",
    steps: int = 1_000_000,
    enough: float = 1e-5,
    hidden: int = 100,
    scale: float = 1.0,
    keep: Sequence[int] = (),
) -> ReluNets:
    """Train networks on the twelve points, one after another, each on the whole of the data.

    Args:
        seeds: One network for each.
        rho: The radius: the displacement is rho g / |g| over all weights. 0 is gradient descent.
        lr: The step size; the default is the source's.
        schedule: `linear` falls to 0 over all steps; the source uses it for SAM, and `constant`
            for gradient descent.
        steps: The most updates.
        enough: The loss below which a network is left as it is.
        hidden: Hidden units.
        scale: Of the start.
        keep: Steps after which the weights are kept in `path`.

    Returns:
        The networks.

    Raises:
        ValueError: If the radius, the step size or the scale is not finite, or negative.

    Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232, the authors' code.
    Differs: the random numbers of the start are our own, and it is the loss at the weights that
        ends a training, where the source takes the one at the displaced weights.
    Cost: 10 array operations on at most 12 x hidden numbers per step and network; twice that with
        a radius.

    Example:
        >>> nets = relu_1d([0, 1], steps=200)
        >>> nets.loss.shape, bool((nets.kinks() <= 100).all())
        ((2,), True)
    """
    for name, value in {"rho": rho, "lr": lr, "scale": scale}.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be >= 0 and finite, got {value}.")
    weights = start(seeds, hidden=hidden, scale=scale)
    kept = sorted({step for step in keep if 1 <= step <= steps})
    path = np.empty((len(kept), *weights.shape))

    def rate(step: int) -> float:
        return lr * (1 - (step - 1) / steps) if schedule == "linear" else lr

    ends = [
        _train(w, rho, rate, steps, enough, kept, path[:, net]) for net, w in enumerate(weights)
    ]
    loss, last = np.array([end[0] for end in ends]), np.array([end[1] for end in ends])
    diverged = ~(loss < LIMIT)
    loss[diverged] = np.nan
    return ReluNets(
        weights=weights,
        loss=loss,
        stopped=np.where(loss <= enough, last, -1),
        diverged=np.where(diverged, np.minimum(last + 1, steps), -1),
        kept=kept,
        path=path,
    )


def _train(
    w: Array,
    rho: float,
    rate: Callable[[int], float],
    steps: int,
    enough: float,
    kept: Sequence[int],
    path: Array,
) -> tuple[float, int]:
    """Train one network in place, and write its path; its loss, and how many steps it took."""
    slopes = fused(w.shape[1])
    g, there = np.empty_like(w), np.empty_like(w)
    flat = g.reshape(-1)
    places = {step: place for place, step in enumerate(kept)}
    loss, step = math.nan, 0
    with np.errstate(all="ignore"):
        for step in range(steps + 1):
            loss = slopes(w, g)
            if step == steps or not enough < loss < LIMIT:
                break
            if rho and (length := math.sqrt(flat.dot(flat))):  # a slope of 0 knows no way uphill
                np.multiply(g, rho / length, out=there)
                np.add(there, w, out=there)
                slopes(there, g)
            np.multiply(g, rate(step + 1), out=g)
            np.subtract(w, g, out=w)
            if step + 1 in places:
                path[places[step + 1]] = w
    if not loss < LIMIT:
        w[:] = np.nan
    path[[place for place, after in enumerate(kept) if after > step]] = w
    return loss, step
