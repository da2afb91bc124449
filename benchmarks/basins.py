"""How long does a map of 10,000 starts take, and how much longer one start after another?

    python benchmarks/basins.py [--side 100] [--steps 300]

A map: the descents of side x side starts on Easom with Adagrad, the minima, and which start ended
in which. Beside it, a plain loop of `SharpnessAware.backward` and `optimizer.step` over a few
starts, scaled to all of them.

The last table (2026-11-27, commit 1aba7c1, AMD EPYC, 2 cores, alone on the machine; n = 1 each):

    torch 2.15.0+cu132, CPU, 2 threads
    10,000 starts on Easom, Adagrad, 300 steps: seconds
    without SAM        0.9
    SAM                2.3
    ASAM               3.1
    m-SAM              3.2
    SAM, start after start (from 4 of them)        5154
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch

import flatminima as fm
from flatminima.landscape import basins, descents, minima, tilts
from flatminima.landscape.surfaces import easom

MEMBERS = {
    "without SAM": (None, {}),
    "SAM": (fm.sam(rho=0.1), {}),
    "ASAM": (fm.asam(rho=0.1), {}),
    "m-SAM": (
        fm.sam(rho=0.1),
        {"tilts": tilts(4, 0.1, torch.Generator().manual_seed(0)), "m": 1},
    ),
}
ADAGRAD = partial(torch.optim.Adagrad, lr=0.3)
FEW = 4


def map_seconds(side: int, steps: int, rule: fm.Rule | None, many: dict) -> float:
    begin = time.perf_counter()
    ended = descents(easom, easom.grid(side).reshape(-1, 2), ADAGRAD, rule, steps=steps, **many)
    basins(ended, minima(easom), within=0.1)
    return time.perf_counter() - begin


def loop_seconds(side: int, steps: int, rule: fm.Rule) -> float:
    begin = time.perf_counter()
    for start in easom.grid(side).reshape(-1, 2)[:: side**2 // FEW][:FEW]:
        w = torch.nn.Parameter(start.clone())
        optimizer, sharp = ADAGRAD([w]), fm.SharpnessAware([w], rule)
        for _ in range(steps):
            optimizer.zero_grad()
            sharp.backward(lambda w: easom.height(w), w)
            optimizer.step()
    return (time.perf_counter() - begin) / FEW * side**2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    map_seconds(4, 2, fm.sam(), {})  # what torch loads at its first step
    print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads")
    print(f"{args.side**2:,} starts on Easom, Adagrad, {args.steps} steps: seconds")
    for name, (rule, many) in MEMBERS.items():
        print(f"{name:<14}{map_seconds(args.side, args.steps, rule, many):>8.1f}")
    slow = loop_seconds(args.side, args.steps, fm.sam(rho=0.1))
    print(f"SAM, start after start (from {FEW} of them){slow:>12.0f}")


if __name__ == "__main__":
    main()
