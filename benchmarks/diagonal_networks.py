"""How fast is the published grid of diagonal networks, against a plain loop?

    python benchmarks/diagonal_networks.py [--steps 10001] [--loop-steps 200]

The grid is that of the notebook's cells 1 to 4: 4 descents without a radius, 19 of n-SAM and 16 of
1-SAM, on data seed 0. The plain loop, over radii and examples, is timed over fewer steps and
scaled; that both agree over the first steps is checked.

Measured on 2026-11-27 with NumPy on one thread of an x86-64 CPU that ran much other work beside it
(`--loop-steps 60`), so read the ratio and not the seconds:

    39 descents of 10001 steps
    batched         4.93 s min, 6.44 s median of 3
    plain loop    955.62 s, scaled from 60 steps
    ratio          148.3
"""

import argparse
import time

import numpy as np

from flatminima.theory import diagonal_linear, sparse_regression

D = 30
FOUR = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.9)
N_SAM = [(rho, 5 / D, 0.1) for rho in (0.01, 0.03, 0.1, 0.3, 1.0)]
N_SAM += [(rho, step / D, 0.1) for step in (10, 15) for rho in FOUR]
PLAIN = [(0.0, 5 / D, 0.1), (0.0, 5 / D, 0.02), (0.0, 10 / D, 0.1), (0.0, 15 / D, 0.1)]
ONE_SAM = [(rho, 5 / D, 0.02) for rho in (0.01, 0.03, 0.1, 0.3)]
ONE_SAM += [(rho, 10 / D, 0.1) for rho in (0.03, 0.1, 0.15, 0.2, 0.3)]
ONE_SAM += [(rho, 15 / D, 0.1) for rho in FOUR]


def batched(steps: int) -> list[np.ndarray]:
    """All of the grid, in two computations."""
    data, ends = sparse_regression(), []
    for cells, m in ((PLAIN + N_SAM, 20), (ONE_SAM, 1)):
        rho, gamma, alpha = np.array(cells).T
        end = diagonal_linear(
            data, rho=rho, gamma=gamma, alpha=alpha, m=m, doubled=m == 1, steps=steps
        )
        ends.append(end.u[0])
    return ends


def plain(steps: int) -> list[np.ndarray]:
    """The same, radius after radius and example after example."""
    data = sparse_regression()
    x, y = data.x[0], data.y[0]
    ends = []
    for cells, single in ((PLAIN + N_SAM, False), (ONE_SAM, True)):
        ends.append(np.array([one_by_one(x, y, *cell, single, steps) for cell in cells]))
    return ends


def one_by_one(x, y, rho, gamma, alpha, single, steps):  # noqa: ANN001, ANN201
    n, d = x.shape
    u, v = np.full(d, alpha), np.zeros(d)
    for _ in range(steps):
        gu, gv = np.zeros(d), np.zeros(d)
        su, sv = np.zeros(d), np.zeros(d)
        if not single:
            for k in range(n):
                residual = x[k] @ (u * v) - y[k]
                su += residual * x[k] * v / n
                sv += residual * x[k] * u / n
        for k in range(n):
            if single:
                residual = x[k] @ (u * v) - y[k]
                su, sv = 2 * residual * x[k] * v, 2 * residual * x[k] * u
            uk, vk = u + rho * su, v + rho * sv
            residual = x[k] @ (uk * vk) - y[k]
            gu += residual * x[k] * vk / n
            gv += residual * x[k] * uk / n
        u, v = u - gamma * gu, v - gamma * gv
    return u


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_001)
    parser.add_argument("--loop-steps", type=int, default=200)
    options = parser.parse_args()
    with np.errstate(all="ignore"):
        for ours, theirs in zip(batched(3), plain(3), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10)
        began = time.perf_counter()
        plain(options.loop_steps)
        loop = (time.perf_counter() - began) * options.steps / options.loop_steps
    times = []
    for _ in range(3):
        began = time.perf_counter()
        batched(options.steps)
        times.append(time.perf_counter() - began)
    cells = len(PLAIN + N_SAM + ONE_SAM)
    print(f"{cells} descents of {options.steps} steps")
    print(f"batched     {min(times):8.2f} s min, {sorted(times)[1]:.2f} s median of 3")
    print(f"plain loop  {loop:8.2f} s, scaled from {options.loop_steps} steps")
    print(f"ratio       {loop / sorted(times)[1]:8.1f}")


if __name__ == "__main__":
    main()
