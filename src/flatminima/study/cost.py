"""What a training will take, estimated before it begins: operations and memory.

    operations   3 x forward of one example x examples x epochs x gradients per step
    memory       (4 + buffers) numbers for every weight, and what is kept for the backward pass

A backward pass is counted as two forward ones. Shapes alone are computed, on the meta device.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from flatminima.data import Cifar10, Cifar100, Data, Digits, FashionMnist, ImageFolder, Mnist, Svhn
from flatminima.engine.backward import SharpnessAware
from flatminima.models import Architecture, Timm, Torchvision
from flatminima.study.run import Experiment
from flatminima.train import SGD, Member, Training

__all__ = ["RATE", "Cost", "cost", "gradients", "in_words"]

RATE = 2e13  # operations a second of one GPU in training: an assumption, said where it is used
LOOKS = 40  # steps over which gradients are counted
BYTES = 4  # of a number in full precision
COUNTED: dict[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run takes; evaluation, and reading the data, left out."""

    operations: float
    """Floating point operations."""
    memory: float
    """Bytes on the device."""

    @property
    def hours(self) -> float:
        """Hours of one GPU at `RATE`."""
        return self.operations / RATE / 3600


def cost(run: Experiment) -> Cost | None:
    """The cost of a run that trains a network.

    Args:
        run: The run.

    Returns:
        The estimate; None if the run trains none, or its images have a size that only their file
        knows.
    """
    training = getattr(run, "training", None)
    shape = _shape(training.data) if isinstance(training, Training) else None
    if not isinstance(training, Training) or shape is None:
        return None
    forward, kept, weights = _sizes(training.model, shape, training.data.classes)
    seen = training.data.train * training.epochs * getattr(run, "rounds", 1)
    if training.steps is not None:
        seen = min(seen, training.steps * training.batch_size)
    buffers = 1 if isinstance(training.optimizer, SGD) else 2
    saved = 2 if training.rule else 0  # the weights as they were, and the first gradient
    return Cost(
        operations=3 * forward * seen * gradients(training.rule),
        memory=BYTES * weights * (2 + buffers + saved) + kept * training.batch_size,
    )


def gradients(rule: Member | None) -> float:
    """How many gradients a step takes under a rule: counted, on a network of one weight."""
    if rule is None:
        return 1.0
    return _counted(replace(rule, rho=0.1), str(replace(rule, rho=0.1)))


def _counted(rule: Member, key: str) -> float:
    """The gradients of a rule per step; `key` says all of it, for settings are not hashable."""
    if key in COUNTED:
        return COUNTED[key]
    calls = 0
    net = nn.Linear(1, 1)
    sharp = SharpnessAware(net, rule.build(LOOKS))

    def loss_fn(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return net(x).square().mean()

    with torch.random.fork_rng():
        for _ in range(LOOKS):
            net.zero_grad()
            sharp.backward(loss_fn, torch.ones(2, 1))
    COUNTED[key] = calls / LOOKS
    return COUNTED[key]


def in_words(costs: list[Cost], runs: int) -> str:
    """Some costs as a sentence.

    Args:
        costs: Those that are known.
        runs: How many runs there are; the others are taken to cost as much.

    Returns:
        GPU-hours and memory.
    """
    if not costs:
        return "No network of known size is trained: there is no estimate of GPU-hours."
    hours = sum(one.hours for one in costs) / len(costs) * runs
    memory = max(one.memory for one in costs) / 2**30
    told = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
    return (
        f"About {told} GPU-hours in all, if a GPU does {RATE / 1e12:g} TFLOP/s, evaluation left "
        f"out; {memory:.3g} GiB at most for weights and activations."
    )


def _shape(data: Data) -> tuple[int, int, int] | None:
    """The shape of an image: (channels, height, width)."""
    match data:
        case Digits():
            return (1, 8, 8)
        case Mnist() | FashionMnist():
            return (1, 28, 28)
        case Cifar10() | Cifar100() | Svhn():
            return (3, 32, 32)
        case ImageFolder():
            return (3, data.size, data.size)
        case _:
            return None


@lru_cache(maxsize=64)
def _sizes(
    model: Architecture, shape: tuple[int, int, int], classes: int
) -> tuple[float, float, int]:
    """Operations forward and bytes kept for backward, per example; and the number of weights."""
    kept: list[Tensor] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved)
        return saved

    same: Callable[[Tensor], Tensor] = lambda saved: saved  # noqa: E731
    if isinstance(model, Timm | Torchvision):
        model = replace(model, weights=None)  # their file need not be here
    with torch.device("meta"):
        net = model.build(shape, classes)
        x = torch.empty(2, *shape)
        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, same):
            net(x)
    weights = sum(param.numel() for param in net.parameters())
    storages = {id(storage): storage for storage in [saved.untyped_storage() for saved in kept]}
    activations = sum(storage.nbytes() for storage in storages.values()) - BYTES * weights
    return counter.get_total_flops() / 2, max(0, activations) / 2, weights
