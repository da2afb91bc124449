"""What does it cost to watch the regions of a step? Each statistic, beside one step of SAM.

python benchmarks/region_observers.py

    1,068,810 weights, batch 128, 1 thread, torch 2.15.0+cu132, n = 15
                        min ms  median ms  of a step
    step of SAM           26.1       28.3      100 %
    shares                18.5       21.1       75 %
    shares_by_part        18.4       21.2       75 %
    norms                 45.9       49.2      173 %
    ratio_bins            81.9       92.6      327 %
    FrozenOverlap         20.5       21.4       75 %
    Persistence           20.8       21.7       76 %
    large_share           49.1       56.7      200 %

27 November 2026, AMD EPYC, a shared machine: trust the shares of a step, not the times.
"""

import time
from statistics import median

import torch
from torch import nn

import flatminima as fm

STEEPER = {fm.Region.STEEPER}
STATISTICS = {
    "shares": fm.regions.shares,
    "shares_by_part": fm.regions.shares_by_part,
    "norms": fm.regions.norms,
    "ratio_bins": fm.regions.ratio_bins,
    "FrozenOverlap": fm.regions.FrozenOverlap(STEEPER),
    "Persistence": fm.regions.Persistence(STEEPER),
    "large_share": lambda g, p: fm.regions.large_share(g, fm.regions.mask(g, p, STEEPER)),
}
ROUNDS = 15


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 256), nn.Linear(256, 10))
    x, y = torch.randn(128, 784), torch.randint(10, (128,))
    steps: list[fm.observe.Step] = []
    sharp = fm.SharpnessAware(model, fm.sam(rho=0.05), observe=[steps.append])

    def step() -> None:
        steps.clear()
        model.zero_grad()
        sharp.backward(lambda x, y: nn.functional.cross_entropy(model(x), y), x, y)

    step()
    pair = steps[0].g, steps[0].p
    calls = {"step of SAM": step} | {
        name: lambda function=function: function(*pair) for name, function in STATISTICS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 2):  # interleaved; the first two warm up
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    whole = median(times["step of SAM"][2:])
    size = sum(param.numel() for param in model.parameters())
    print(f"{size:,} weights, batch 128, 1 thread, torch {torch.__version__}, n = {ROUNDS}")
    print(f"{'':16}  {'min ms':>8}  {'median ms':>9}  {'of a step':>9}")
    for name, all_of_them in times.items():
        kept = all_of_them[2:]
        middle = median(kept)
        print(
            f"{name:16}  {1e3 * min(kept):8.1f}  {1e3 * middle:9.1f}  {100 * middle / whole:7.0f} %"
        )


if __name__ == "__main__":
    main()
