"""What does the training loop add to forward, backward and step, loading the data included?

    python benchmarks/training.py [--device cuda] [--rounds 12] [--steps 10]

An epoch of `train` without its evaluation, over the same number of bare steps (forward, backward,
step) of the same network on one batch that lies ready. Both are interleaved, in changing order;
reported are the medians of the time per step, their ratio, and the quartiles of the ratios pair by
pair. `augmented` is cropped, mirrored and cut out of; the others see the images as they are.

The last table (2026-11-27, before crops became one gather; 2 cores, while other programs ran, so
that the pairs spread far beyond 3 % and it decides nothing; n = 10 rounds):

    torch 2.15.0+cu132, CPU, 2 threads
    10 interleaved rounds of 6 steps at batch 64; ms a step
    model                       bare    loop   ratio             pairs
    resnet18_16               309.38  309.19   0.999    1.026 to 1.437
    resnet18_16 augmented     240.55  291.44   1.212    0.962 to 1.273
    conv_32 augmented          63.58   79.18   1.245    1.136 to 2.094

On a GPU it was not measured.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from flatminima.data import Augment, Part, Parts
from flatminima.models import CifarResNet, SmallConv
from flatminima.train import SGD, Training, train
from flatminima.train.loop import Trained

BATCH = 64


def images(count: int) -> Parts:
    """Random images of CIFAR's size: their content costs nothing and changes no time."""
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (count,))
    part = Part(images=pixels, labels=labels, clean_labels=labels, peak=255)
    few = part.take(slice(1))
    return Parts(train=part, validation=few, test=few, classes=10)


def settings(steps: int) -> dict[str, Training]:
    from flatminima.data import Cifar10
    from flatminima.train import Evaluation

    plain = Training(
        data=Cifar10(),
        model=CifarResNet(width=16),
        optimizer=SGD(lr=1e-3),
        epochs=1,
        batch_size=BATCH,
        steps=steps,
        evaluation=Evaluation(examples=1),
    )
    return {
        "resnet18_16": plain,
        "resnet18_16 augmented": replace(plain, augment=Augment(cutout=16)),
        "conv_32 augmented": replace(plain, model=SmallConv(width=32), augment=Augment(cutout=16)),
    }


def bare(training: Training, parts: Parts, device: torch.device) -> Callable[[], float]:
    """Seconds of a bare step, the mean over a run of them."""
    net = training.model.build(parts.train.shape, parts.classes).to(device).train()
    optimizer = training.optimizer.build(net.parameters())
    part = parts.train.take(slice(BATCH)).to(device)
    x, y = part.inputs(), part.labels

    def measured() -> float:
        began = clock(device)
        for _ in range(training.steps or 1):
            optimizer.zero_grad()
            functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        return (clock(device) - began) / (training.steps or 1)

    return measured


def looped(training: Training, parts: Parts, device: torch.device) -> Callable[[], float]:
    """Seconds of a step of the loop, the mean over an epoch."""

    def measured() -> float:
        trained: Trained = train(training, parts, device=device)
        return trained.seconds_per_step

    return measured


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    device = torch.device(options.device)
    threads = f"CPU, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device.type == "cuda" else threads
    print(f"torch {torch.__version__}, {where}")
    print(
        f"{options.rounds} interleaved rounds of {options.steps} steps at batch {BATCH}; ms a step"
    )
    print(f"{'model':<24}{'bare':>8}{'loop':>8}{'ratio':>8}{'pairs':>18}")
    parts = images(BATCH * options.steps)
    for name, training in settings(options.steps).items():
        sides = [bare(training, parts, device), looped(training, parts, device)]
        rounds = []
        for turn in range(options.rounds + 1):
            times = {side: sides[side]() for side in ((0, 1) if turn % 2 else (1, 0))}
            rounds.append((times[0], times[1]))
        rounds = rounds[1:]  # the first one warms up
        base, loop = (statistics.median(side) for side in zip(*rounds, strict=True))
        low, _, high = statistics.quantiles([b / a for a, b in rounds], n=4)
        print(f"{name:<24}{1e3 * base:>8.2f}{1e3 * loop:>8.2f}{loop / base:>8.3f}", end="")
        print(f"{f'{low:.3f} to {high:.3f}':>18}", flush=True)


if __name__ == "__main__":
    main()
