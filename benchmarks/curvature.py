"""What does a Hessian product cost beside a gradient, and the top five of a million weights?

    python benchmarks/curvature.py

A network 784-800-448-10 with random weights on 10,000 random examples in one batch, whose graph is
kept. Not compared here yet: scipy's eigsh, curvlinops, PyHessian; memory; a GPU.

The last table (2026-11-27, CPU, 2 threads, shared machine, torch 2.15.0; 6 interleaved rounds):

    991338
    ratio of minima 1.7859520014784347 medians 1.4892686195524094 one product s 0.6347587079999357
    Eigenpairs(0.18152 +- 4e-08, 0.17992 +- 6e-08, 0.1778 +- 1e-07, 0.17235 +- 5e-07, 0.16914 +- \
4e-05; converged after 106 products) 92.74668196900075 s
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

import flatminima as fm


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = nn.Sequential(
        nn.Linear(784, 800), nn.Tanh(), nn.Linear(800, 448), nn.Tanh(), nn.Linear(448, 10)
    )
    print(sum(param.numel() for param in model.parameters()))
    x, y = torch.randn(10_000, 784), torch.randint(10, (10_000,))
    f, w = fm.Objective.of_model(
        model, lambda x, y: functional.cross_entropy(model(x), y), [(x, y)]
    )
    hessian = fm.sharpness.Hessian(f, w)
    with hessian:
        v = f.gradient(w)
        hessian(v)
        rows = [(seconds(lambda: f.gradient(w)), seconds(lambda: hessian(v))) for _ in range(6)]
    base, product = zip(*rows, strict=True)
    medians = statistics.median(product) / statistics.median(base)
    print(f"ratio of minima {min(product) / min(base)} medians {medians}", end=" ")
    print(f"one product s {min(product)}")
    start = time.perf_counter()
    print(fm.sharpness.top_eigenpairs(hessian, k=5), time.perf_counter() - start, "s")


if __name__ == "__main__":
    main()
