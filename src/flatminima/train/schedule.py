"""How the learning rate changes through a run.

With t the share of the run that is over, as a multiple of the learning rate:

    constant        1
    cosine          (1 + cos(pi t)) / 2
    piecewise       1 until t = 1/2, 1/10 until 3/4, then 1/100
    piecewise_02    the same with its first drop at 0.2; likewise _03 and _04
    piecewise_fifth 1/5, 1/25 and 1/125 from 0.3, 0.6 and 0.8 on
    cyclic          linearly from 0 to 1 at t = 0.4, and back to 0
    one_cycle       torch's OneCycleLR: a cosine from 1/25 up at t = 0.3, and down to almost 0

Source: `piecewise` and `cyclic` are those of Andriushchenko and Flammarion 2022, arXiv:2206.06232;
`piecewise_fifth` that of Zagoruyko and Komodakis 2016, arXiv:1605.07146.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

__all__ = ["Schedule", "schedule"]

Schedule = Literal[
    "cosine",
    "constant",
    "piecewise",
    "piecewise_02",
    "piecewise_03",
    "piecewise_04",
    "piecewise_fifth",
    "cyclic",
    "one_cycle",
]
PIECES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # from these t on, the factors
    "piecewise": ((0.5, 0.75), (1, 0.1, 0.01)),
    "piecewise_02": ((0.2, 0.75), (1, 0.1, 0.01)),
    "piecewise_03": ((0.3, 0.75), (1, 0.1, 0.01)),
    "piecewise_04": ((0.4, 0.75), (1, 0.1, 0.01)),
    "piecewise_fifth": ((0.3, 0.6, 0.8), (1, 0.2, 0.04, 0.008)),
}
PEAK = 0.4  # of the cyclic schedule


def schedule(name: Schedule, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate through a run, stepped after every step of the optimizer.

    Args:
        name: One of those above.
        optimizer: What the learning rate is set on.
        steps: How many steps the run has.

    Returns:
        The scheduler.

    Raises:
        ValueError: If there is no schedule of that name.
    """
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if name == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    if name == "cyclic":
        return LambdaLR(optimizer, lambda step: _cyclic((step + 1) / steps))
    if name == "one_cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, total_steps=steps + 1, cycle_momentum=False)
    if name in PIECES:
        return LambdaLR(optimizer, lambda step: _piece(step / steps, *PIECES[name]))
    raise ValueError(f"schedule must be one of {', '.join(get_args(Schedule))}, got {name!r}.")


def _piece(t: float, ends: Sequence[float], factors: Sequence[float]) -> float:
    """The factor of the piece that a time is in."""
    return factors[bisect_right(ends, t)]


def _cyclic(t: float) -> float:
    """Up to 1 and down to 0."""
    return t / PEAK if t < PEAK else max(0.0, (1 - t) / (1 - PEAK))
