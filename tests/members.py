"""The members that the contract runs over: one of each function, and a few of its settings.

They are taken from `family.FAMILY`, so that a new member there is under the contract as well.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family import FAMILY, LR, Case
from torch import nn

import flatminima as fm

SETTINGS = {
    "sam, p=1.5",
    "sam, p=inf",
    "sam, Linear",
    "sam, the radius a tensor",
    "asam, scale=filter, eta=0.01",
    "asam, scale=layer, eta=0.01",
    "gsam, Proportional",
    "same, four factors",
    "same, a factor that moves",
    "saner, warmed up",
    "momentum_sam, adaptive",
}
# What these keep from step to step is a vector: a gradient, a direction, a running mean.
KEEPING = {
    "async_sam",
    "fisher_sam",
    "friendly_sam",
    "looksam",
    "momentum_sam",
    "s2_sam",
    "vasso",
}
REMEMBERING = {"previous_batch", "while_large", *KEEPING}
ONE_PASS = {"lpf_sgd", "momentum_sam", "random_perturbation", "s2_sam"}
RANDOM = {"lpf_sgd", "random_perturbation", "rwp", "with_probability"}
# These climb along something that was seen before this step's first gradient.
STALE = {"async_sam"}

# A step at which every schedule of the list looks uphill.
BUSY = 12


def function(case: Case) -> str:
    """The function of the zoo, or of the schedules, that makes this case."""
    return case.name.partition(",")[0].partition(" ")[0]


def chosen() -> list[Case]:
    """The first case of each function that is more than plain descent, and those of `SETTINGS`."""
    alike: dict[str, Case] = {}
    for case in FAMILY:
        if not (case.plain or case.keywords or any(own is not None for own in case.own)):
            alike.setdefault(function(case), case)
    return [case for case in FAMILY if case in alike.values() or case.name in SETTINGS]


MEMBERS = chosen()
# The whole list of settings; those that are not a member's first ones are for the slow suite.
every_case = pytest.mark.parametrize(
    "case",
    [case if case in MEMBERS else pytest.param(case, marks=pytest.mark.slow) for case in FAMILY],
    ids=str,
)


def sharpness_aware(
    case: Case,
    model: Any,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    rho: float | None = None,
    step: int = 0,
    **keywords: Any,
) -> fm.SharpnessAware:
    """`SharpnessAware` with the rule of `case`, about to make step number `step`; it sets the seed,
    so that rules that follow chance follow the same one."""
    torch.manual_seed(1)
    optimizer = optimizer or torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    sharp = fm.SharpnessAware(model, case.rule(optimizer, rho), **keywords)
    sharp.load_state_dict({**sharp.state_dict(), "step": step})
    return sharp
