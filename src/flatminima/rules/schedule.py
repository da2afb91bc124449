"""How far to look, and when: radii that change, and rules that look at some steps only.

A schedule is a function of the step; a radius may be one wherever it may be a number. A step is one
call of `backward`: with gradient accumulation there are several to an update, and `steps` counts
them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from flatminima.rules.checks import check_decay, check_rule, check_whole
from flatminima.rules.rule import HERE, Conversation, Look, Rule, Talk, member, resumed
from flatminima.vector import Vector

__all__ = [
    "Cosine",
    "HasGroups",
    "Linear",
    "Proportional",
    "periodic",
    "while_large",
    "window",
    "with_probability",
]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A number that moves in a straight line, and stays where it arrives.

        start + (end - start) min(step / steps, 1)

    Args:
        start: The value at step 0.
        end: The value from step `steps` on.
        steps: How many steps it takes; with 0 the value is `end` from the beginning.

    Raises:
        ValueError: If `steps` is negative, or an end is not finite.

    Example:
        >>> warm_up = Linear(start=0.0, end=0.1, steps=10)
        >>> warm_up(0), warm_up(5), warm_up(50)
        (0.0, 0.05, 0.1)
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_ends(self.start, self.end, self.steps)

    def __call__(self, step: int) -> float:
        """The value at `step`."""
        return self.start + (self.end - self.start) * _share(step, self.steps)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """A number that moves along half a cosine, and stays where it arrives.

        end + (start - end) (1 + cos(pi min(step / steps, 1))) / 2

    Args:
        start: The value at step 0.
        end: The value from step `steps` on.
        steps: How many steps it takes; with 0 the value is `end` from the beginning.

    Raises:
        ValueError: If `steps` is negative, or an end is not finite.

    Example:
        >>> fade = Cosine(start=0.2, end=0.0, steps=10)
        >>> fade(0), round(fade(5), 6), fade(10)
        (0.2, 0.1, 0.0)
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_ends(self.start, self.end, self.steps)

    def __call__(self, step: int) -> float:
        """The value at `step`."""
        return (
            self.end
            + (self.start - self.end) * (1.0 + math.cos(math.pi * _share(step, self.steps))) / 2.0
        )


class HasGroups(Protocol):
    """Anything with an optimizer's parameter groups."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...  # noqa: D102 - as in torch.optim.Optimizer


@dataclass(frozen=True, kw_only=True)
class Proportional:
    """A radius that follows the learning rate, whatever moves that.

        rho = low + (high - low) (lr - lr_low) / (lr_high - lr_low);   default:  high lr / lr_high

    Args:
        optimizer: Whose learning rate is read at every step.
        high: The radius at the learning rate `lr_high`.
        lr_high: The highest learning rate.
        low: The radius at the learning rate `lr_low`.
        lr_low: The lowest learning rate.
        group: The parameter group whose learning rate counts.

    Raises:
        ValueError: If `lr_high` is not above `lr_low`, or a radius is not finite.

    Source: Zhuang et al. 2022, arXiv:2203.08065, as in the README of juntang-zhuang/GSAM (case 1 of
        its notes on the schedule of rho).
    Differs: here a radius that would be negative is 0.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.05)
        >>> Proportional(optimizer=optimizer, high=0.5, lr_high=0.1)(0)
        0.25
    """

    optimizer: HasGroups
    high: float
    lr_high: float
    low: float = 0.0
    lr_low: float = 0.0
    group: int = 0

    def __post_init__(self) -> None:
        for name, radius in (("low", self.low), ("high", self.high)):
            if not 0.0 <= radius < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {radius}")
        if not self.lr_high > self.lr_low:
            raise ValueError(f"lr_high must be above lr_low {self.lr_low}, got {self.lr_high}")

    def __call__(self, step: int) -> float:
        """The radius at the learning rate of now; `step` does not matter."""
        lr = float(self.optimizer.param_groups[self.group]["lr"])
        return max(
            self.low + (self.high - self.low) * (lr - self.lr_low) / (self.lr_high - self.lr_low),
            0.0,
        )

    def __repr__(self) -> str:
        name = type(self.optimizer).__name__
        return (
            f"Proportional({name}, high={self.high}, lr_high={self.lr_high}, "
            f"low={self.low}, lr_low={self.lr_low})"
        )


# ------------------------------------------------------------------------------------- when to look


@member
def periodic(rule: Rule, every: int = 10) -> Conversation:
    """Follow `rule` at every k-th step, beginning with the first, and descend plainly between.

    Args:
        rule: What to do at those steps.
        every: k; 1 is always. Default from Composer's experiments, which raise `rho` tenfold with
            it.

    Returns:
        The rule.

    Raises:
        TypeError: If `rule` is no rule.
        ValueError: If `every` is not a positive whole number.

    Source: mosaicml/composer, the README of its SAM, option `interval`.
    Cost: 1 + 1/k gradients.

    Example:
        >>> from flatminima.rules.zoo import sam
        >>> periodic(sam(rho=0.5), every=10)
        periodic(rule=sam(rho=0.5, p=2), every=10)
    """
    check_rule(rule)
    check_whole(every=every)

    def talk(look: Look) -> Talk:
        return (yield from (rule(look) if look.step % every == 0 else _plain()))

    return Conversation(talk)


@member
def window(rule: Rule, start: float = 0.0, end: float = 1.0, *, steps: int) -> Conversation:
    """Follow `rule` within a window of training, and descend plainly outside it.

    Args:
        rule: What to do within the window.
        start: Where it begins, as a share of training: 0.9 switches from plain descent to `rule`
            for the last tenth.
        end: Where it ends, as a share of training; it is not within, except that 1 includes
            whatever comes after.
        steps: How many steps training has.

    Returns:
        The rule.

    Raises:
        ValueError: If the window is not within [0, 1], or `steps` is not a positive whole number.

    Cost: 1 + (end - start) gradients, for a rule of two.

    Example:
        >>> from flatminima.rules.zoo import sam
        >>> late = window(sam(rho=0.1), start=0.9, steps=1000)
    """
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(
            f"start and end must satisfy 0 <= start <= end <= 1, got {start} and {end}"
        )
    check_rule(rule)
    check_whole(steps=steps)

    def talk(look: Look) -> Talk:
        inside = look.step >= start * steps and (look.step < end * steps or end == 1.0)
        return (yield from (rule(look) if inside else _plain()))

    return Conversation(talk)


@member
def with_probability(rule: Rule, probability: float = 0.5) -> Conversation:
    """Follow `rule` at random steps, and descend plainly at the others.

    Args:
        rule: What to do at those steps.
        probability: Of following `rule`, independently at each step. The default was not tuned.

    Returns:
        The rule.

    Raises:
        ValueError: If `probability` is not within [0, 1].

    Source: Zhao et al. 2022, arXiv:2203.09962 (randomized sharpness-aware training).
    Cost: 1 + probability gradients on average.

    Example:
        >>> from flatminima.rules.zoo import sam
        >>> half = with_probability(sam(rho=0.1), 0.5)
    """
    check_rule(rule)
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be within [0, 1], got {probability}")

    def talk(look: Look) -> Talk:
        chosen = float(torch.rand((), generator=look.generator, dtype=torch.float64)) < probability
        return (yield from (rule(look) if chosen else _plain()))

    return Conversation(talk)


@member
def while_large(rule: Rule, threshold: float | Linear = 0.0, *, decay: float = 0.9) -> Conversation:
    """Follow `rule` only while the gradient is large, measured by its own recent history (AE-SAM).

        follow if ||g||^2 >= mu + c sigma,   mu <- decay mu + (1 - decay) ||g||^2,
                                             sigma^2 <- decay sigma^2 + (1 - decay) (||g||^2 - mu)^2

    At the first step mu is ||g||^2 and sigma is 0, so that `rule` is followed.

    Args:
        rule: What to do while it is large; it must look `HERE` first.
        threshold: c, a number or a schedule of the step; AE-SAM moves it along a straight line
            (`Linear`). The default was not tuned.
        decay: Of the running mean mu and variance sigma^2. The default was not tuned.

    Returns:
        The rule.

    Raises:
        ValueError: If `decay` is not within [0, 1).

    Source: Jiang et al. 2023, arXiv:2304.14647.
    Cost: 1 gradient, and those of `rule` when it is followed; reads one number from the device at
        every step, since the host has to know how the step goes on.

    Example:
        >>> from flatminima.rules.zoo import sam
        >>> adaptive = while_large(sam(rho=0.1), Linear(start=1.0, end=0.0, steps=1000))
    """
    check_rule(rule)
    check_decay(decay)

    def talk(look: Look) -> Talk:
        memory = look.remembered("while_large")
        g = yield HERE
        square = float(g.norm()) ** 2
        if not math.isfinite(square):  # the running figures must not see an overflow
            return g
        before = memory.get("mean", square)  # moved, not mixed: a first step must equal its mean
        mean = memory["mean"] = before + (1.0 - decay) * (square - before)
        variance = memory["variance"] = (
            decay * memory.get("variance", 0.0) + (1.0 - decay) * (square - mean) ** 2
        )
        c = threshold if isinstance(threshold, float | int) else threshold(look.step)
        if square < mean + c * math.sqrt(variance):
            return g
        rest = resumed(rule(look.inside("while_large")), g)
        del g  # not kept alive during the second pass
        return (yield from rest)

    return Conversation(talk)


# -------------------------------------------------------------------------------------------- parts


def _plain() -> Talk:
    g: Vector = yield HERE
    return g


def _share(step: int, steps: int) -> float:
    return min(step / steps, 1.0) if steps else 1.0


def _check_ends(start: float, end: float, steps: int) -> None:
    for name, value in (("start", start), ("end", end)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
