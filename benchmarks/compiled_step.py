"""What does `SharpnessAware.compiled` save, and how long does the compiler take?

    python benchmarks/compiled_step.py [--device cuda] [--rounds 30] [--models mlp,resnet18_gn]

Plain SAM by `backward`, by `backward` on a model that `torch.compile` has compiled, and by a step
that is compiled as a whole, in turns; two steps of a kind follow each other, and the second one
is timed. Printed are medians in milliseconds, the median of the ratios to `backward` in the same
round with its quartiles, and the seconds until the first step was done.

Printed at ca62335 on 2026-11-27, on an x86-64 CPU whose two cores share their units (`--models mlp
--rounds 40`, `--models resnet18_gn --rounds 20`):

    torch 2.15.0+cu132, CPU, 2 threads
    model        plain SAM by     median ms  over backward        first, s
    mlp          backward              14.8    1.00 [1.00, 1.00]       0.0
    mlp          compiled model        15.6    1.05 [0.97, 1.18]       2.4
    mlp          compiled step         11.9    0.80 [0.77, 0.87]       6.5
    resnet18_gn  backward             259.9    1.00 [1.00, 1.00]       0.4
    resnet18_gn  compiled model       306.5    1.15 [1.10, 1.19]      61.4
    resnet18_gn  compiled step        352.5    1.34 [1.26, 1.45]     156.0

So on a CPU it pays for small networks, where much of a step is spent between the operations; in a
network of convolutions the compiler's own loops for GroupNorm lose more than that, in the model
alone as well. For groups (`m`) see `m_sam.py --engines batched,compiled`. Not measured on an
accelerator.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial

import torch
from m_sam import MODELS, paired, timed
from torch import Tensor
from torch.nn import functional

import flatminima as fm

NAMES = "mlp", "resnet18_gn"


def measure(name: str, rounds: int, device: torch.device) -> None:
    torch.manual_seed(0)
    build, size = MODELS[name]
    net, (x, y) = build(size)
    net, batch = net.to(device), (x.to(device), y.to(device))
    steps: dict[str, Callable[[], object]] = {}
    first: dict[str, float] = {}
    nets = {kind: copy.deepcopy(net) for kind in ("backward", "compiled model", "compiled step")}
    for kind, own in nets.items():
        called = torch.compile(own, dynamic=False) if kind == "compiled model" else own

        def loss_fn(x: Tensor, y: Tensor, called: Callable[..., Tensor] = called) -> Tensor:
            return functional.cross_entropy(called(x), y)

        sharp = fm.SharpnessAware(own, fm.sam(0.05))
        whole = kind == "compiled step"
        step = sharp.compiled(loss_fn) if whole else partial(sharp.backward, loss_fn)
        steps[kind] = partial(step, *batch)
        first[kind] = timed(steps[kind], device)
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(rounds):
        for kind, step in steps.items():
            nets[kind].zero_grad()
            step()
            nets[kind].zero_grad()
            times[kind].append(timed(step, device))
    for kind, seconds in times.items():
        middle, low, high = paired(seconds, times["backward"])
        print(
            f"{name:<13}{kind:<16}{1e3 * statistics.median(seconds):>10.1f}"
            f"{middle:>8.2f} [{low:.2f}, {high:.2f}]{first[kind]:>10.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", default=",".join(NAMES))
    options = parser.parse_args()
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}, {options.rounds} rounds")
    print(f"{'model':<13}{'plain SAM by':<16}{'median ms':>10}  over backward   {'first, s':>13}")
    for name in options.models.split(","):
        measure(name, options.rounds, device)


if __name__ == "__main__":
    main()
