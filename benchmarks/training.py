"""What does the training loop add to forward, backward and step, loading the data included?

    python benchmarks/training.py [--device cuda] [--rounds 60]

After every step of `train` one bare step is taken (forward, backward, step) of a network of the
same kind, on a batch that lies ready: the two alternate step by step, so that what else the machine
does meets both. A step of the loop is everything from one to the next: reading the batch, changing
its images, the loss, the gradient, the optimizer and the schedule. Reported are the medians of the
time per step, the median of the ratios pair by pair with its 95 % interval by bootstrap over the
pairs, their quartiles, the median of the differences (`adds`), and what preparing a batch alone
takes, the least of as many (`batch`), which `adds` contains. `augmented` is cropped, mirrored and
cut out of; the others see the images as they are. The network `nothing` has one unit: there the
difference is hardly blurred, and over the time of any other network it is what the loop adds to it.

The last table (2026-11-27, commit 44e5044; n = 40 pairs; AMD EPYC, 2 cores, shared machine):

    torch 2.15.0+cu132, CPU, 2 threads
    40 pairs of steps at batch 64; ms a step
    model                     bare    loop  ratio   95 % interval       quartiles   adds  batch
    nothing                   0.96    1.41  1.469  1.402 to 1.521  1.359 to 1.597   0.44   0.12
    nothing augmented         1.04    2.78  2.665  2.575 to 2.741  2.462 to 2.862   1.70   0.97
    resnet18_16             266.64  259.35  0.986  0.965 to 1.034  0.941 to 1.071  -4.01   0.10
    resnet18_16 augmented   210.36  208.10  1.003  0.965 to 1.042  0.926 to 1.069   0.50   0.62
    conv_32 augmented        36.32   37.03  1.019  1.008 to 1.044  0.997 to 1.053   0.67   0.69

So the loop adds 0.4 ms, and 0.7 to 1.7 ms with augmented images, as the machine has its hour: less
than 1 % of a step of the ResNet, 2 % of one of the small network. Quartiles of the larger networks'
pairs are 10 % apart, so that their own ratios decide less. On a GPU it was not measured.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
from torch.nn import functional

from flatminima.data import Augment, Part, Parts, batches
from flatminima.models import MLP, CifarResNet, SmallConv
from flatminima.train import SGD, Training, train

BATCH = 64
WARM = 4  # pairs that are not counted


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
    least = replace(plain, model=MLP(hidden=(1,)))
    return {
        "nothing": least,
        "nothing augmented": replace(least, augment=Augment(cutout=16)),
        "resnet18_16": plain,
        "resnet18_16 augmented": replace(plain, augment=Augment(cutout=16)),
        "conv_32 augmented": replace(plain, model=SmallConv(width=32), augment=Augment(cutout=16)),
    }


def bare(training: Training, parts: Parts, device: torch.device) -> Callable[[], None]:
    """A step of nothing but the network and the optimizer, on a batch that lies ready."""
    net = training.model.build(parts.train.shape, parts.classes).to(device).train()
    optimizer = training.optimizer.build(net.parameters())
    part = parts.train.take(slice(BATCH)).to(device)
    x, y = part.inputs(), part.labels

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def pairs(training: Training, parts: Parts, device: torch.device) -> list[tuple[float, float]]:
    """Seconds of a bare step and of the step of the loop before it, again and again."""
    step, found = bare(training, parts, device), []
    resumed = 0.0

    def after() -> None:
        nonlocal resumed
        ended = clock(device)
        step()
        found.append((clock(device) - ended, ended - resumed))
        resumed = clock(device)

    @contextmanager
    def steps_shown(*_: object) -> Generator[Callable[[], None]]:
        yield after

    with mock.patch("flatminima.train.loop.steps_shown", steps_shown):
        train(training, parts, device=device)
    return found[WARM:]


def prepared(training: Training, parts: Parts, device: torch.device) -> float:
    """The least seconds that it takes to read and change a batch."""
    order = torch.randperm(len(parts.train)).split(BATCH)
    read, times = batches(parts.to(device).train, order, training.augment, int), []
    for _ in order:
        began = clock(device)
        next(read)
        times.append(clock(device) - began)
    return min(times)


def interval(ratios: list[float], draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the median, by drawing the pairs again with replacement."""
    chance = random.Random(0)
    medians = [statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(draws)]
    cuts = statistics.quantiles(medians, n=40)
    return cuts[0], cuts[-1]


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    device, steps = torch.device(options.device), options.rounds + WARM
    threads = f"CPU, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device.type == "cuda" else threads
    print(f"torch {torch.__version__}, {where}")
    print(f"{options.rounds} pairs of steps at batch {BATCH}; ms a step")
    print(f"{'model':<22}{'bare':>8}{'loop':>8}{'ratio':>7}{'95 % interval':>16}", end="")
    print(f"{'quartiles':>16}{'adds':>7}{'batch':>7}")
    parts = images(BATCH * steps)
    for name, training in settings(steps).items():
        timed = pairs(training, parts, device)
        base, loop = (1e3 * statistics.median(side) for side in zip(*timed, strict=True))
        ratios = [loop / base for base, loop in timed]
        least, most = interval(ratios)
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<22}{base:>8.2f}{loop:>8.2f}{middle:>7.3f}", end="")
        print(f"{f'{least:.3f} to {most:.3f}':>16}{f'{low:.3f} to {high:.3f}':>16}", end="")
        print(f"{1e3 * statistics.median(two - one for one, two in timed):>7.2f}", end="")
        print(f"{1e3 * prepared(training, parts, device):>7.2f}", flush=True)


if __name__ == "__main__":
    main()
