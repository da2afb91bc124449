"""One list of every member of the zoo, each beside the formula that it must compute.

A new member is one line here: how it is made, and an oracle from `by_hand`. What is in the list is
run by the oracles, the laws and the contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import by_hand
import torch
from by_hand import Oracle, with_radius

import flatminima as fm
from flatminima.rules.rule import Rule
from flatminima.rules.schedule import Cosine, Linear, Proportional

Make = Callable[..., Rule]
LR = 0.05


@dataclass(frozen=True, kw_only=True)
class Case:
    """A member with its settings.

    `make` takes the radius (and the optimizer, where it is `tied` to one) and returns the rule.
    `own` are the radii of the parameters' groups, `keywords` what else `SharpnessAware` is handed.
    `plain` marks what is plain descent by its formula.
    """

    name: str
    make: Make
    oracle: Oracle
    rho: float = 0.2
    tied: bool = False
    own: tuple[float | None, ...] = (None,) * len(by_hand.SHAPES)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False

    def rule(
        self, optimizer: torch.optim.Optimizer | None = None, rho: float | None = None
    ) -> Rule:
        """The rule, made anew; with the radius `rho` instead of its own, if given."""
        radius = self.rho if rho is None else rho
        return self.make(radius, optimizer) if self.tied else self.make(radius)

    def __str__(self) -> str:
        return self.name


def regions(digits: str) -> set[fm.Region]:
    return {fm.Region(int(digit)) for digit in digits}


SUBSETS = ["".join(some) for count in range(5) for some in combinations("1234", count)]

# From the table of published classes; r = p / (g + 1e-8). None was published for 14 and 24.
PUBLISHED = {
    "": lambda r: torch.zeros_like(r, dtype=torch.bool),
    "1": lambda r: r > 1,
    "2": lambda r: (r > 0) & (r < 1),
    "3": lambda r: (r < 0) & (r.abs() > 1),
    "4": lambda r: (r < 0) & (r.abs() < 1),
    "12": lambda r: r > 0,
    "13": lambda r: ~(r.abs() < 1),
    "23": lambda r: ~((r > 1) | ((r > -1) & (r < 0))),
    "34": lambda r: ~(r > 0),
    "123": lambda r: ~((r > -1) & (r < 0)),
    "124": lambda r: ~(r < -1),
    "134": lambda r: ~((r > 0) & (r < 1)),
    "234": lambda r: ~(r > 1),
    "1234": lambda r: torch.ones_like(r, dtype=torch.bool),
}

SAME = {
    "same, region 2 damped": {"2": 0.5},
    "same, region 3 nearly off": {"3": 0.1},
    "same, regions 2, 3 and 4": {"2": 0.3, "3": 0.3, "4": 0.3},
    "same, four factors": {"1": 1.5, "2": 0.5, "3": 0.0, "4": 2.0},
}

WHERE = [
    Case(name="sam", make=fm.sam, oracle=by_hand.sam),
    *(
        Case(
            name=f"sam, p={order}",
            make=lambda rho, order=order: fm.sam(rho, p=order),
            oracle=by_hand.sam_of_order(order),
            rho=0.1,
        )
        for order in (1.0, 1.5, 2.0, 3.0, math.inf)
    ),
    Case(name="usam", make=fm.usam, oracle=by_hand.usam),
    Case(name="asam", make=fm.asam, oracle=by_hand.asam(), rho=0.5),
    *(
        Case(
            name=f"asam, scale={scale}, eta={eta}",
            make=lambda rho, scale=scale, eta=eta: fm.asam(rho, eta=eta, scale=scale),
            oracle=by_hand.asam(scale, eta),
        )
        for scale, eta in (("element", 0.0), ("filter", 0.01), ("filter", 0.0), ("layer", 0.01))
    ),
    *(
        Case(
            name=f"asam, scale={scale}, p=inf",
            make=lambda rho, scale=scale: fm.asam(rho, scale=scale, p=math.inf),
            oracle=by_hand.asam(scale, order=math.inf),
            rho=0.05,
        )
        for scale in ("element", "filter", "layer")
    ),
    Case(
        name="multi_step",
        make=lambda rho: fm.multi_step(rho, steps=3, size=0.5),
        oracle=by_hand.multi_step(3, 0.5),
    ),
    Case(
        name="multi_step, long ones",
        make=lambda rho: fm.multi_step(rho, steps=2, size=1.0),
        oracle=by_hand.multi_step(2, 1.0),
    ),
    Case(
        name="random_perturbation",
        make=fm.random_perturbation,
        oracle=by_hand.random_perturbation,
    ),
    Case(name="previous_batch", make=fm.previous_batch, oracle=by_hand.previous_batch),
    Case(name="awp", make=fm.awp, oracle=by_hand.awp),
    Case(name="gcsam", make=fm.gcsam, oracle=by_hand.gcsam),
    Case(name="ssam", make=fm.ssam, oracle=by_hand.ssam(0.5)),
    Case(
        name="ssam, a tenth",
        make=lambda rho: fm.ssam(rho, share=0.1),
        oracle=by_hand.ssam(0.1),
    ),
    Case(name="zsharp", make=fm.zsharp, oracle=by_hand.zsharp(0.95)),
    Case(
        name="zsharp, the upper half",
        make=lambda rho: fm.zsharp(rho, quantile=0.5),
        oracle=by_hand.zsharp(0.5),
    ),
    Case(
        name="le_sam",
        make=lambda rho: fm.le_sam(rho, budget=0.05),
        oracle=by_hand.le_sam(lambda step: 0.05),
    ),
    Case(
        name="le_sam, a budget that falls",
        make=lambda rho: fm.le_sam(rho, budget=Linear(start=0.3, end=0.1, steps=40)),
        oracle=by_hand.le_sam(lambda step: 0.3 - 0.2 * min(step / 40, 1.0)),
    ),
    Case(name="fisher_sam", make=fm.fisher_sam, oracle=by_hand.fisher_sam(1.0, 0.9)),
    Case(
        name="fisher_sam, of this step",
        make=lambda rho: fm.fisher_sam(rho, eta=20.0, decay=0.0),
        oracle=by_hand.fisher_sam(20.0, 0.0),
    ),
    Case(name="lpf_sgd", make=fm.lpf_sgd, oracle=by_hand.lpf_sgd(1)),
    Case(
        name="lpf_sgd, 3 copies",
        make=lambda rho: fm.lpf_sgd(rho, samples=3),
        oracle=by_hand.lpf_sgd(3),
    ),
    Case(name="rwp", make=lambda rho: fm.rwp(rho, alpha=0.7), oracle=by_hand.rwp(0.7)),
    Case(name="vasso", make=lambda rho: fm.vasso(rho, theta=0.4), oracle=by_hand.vasso(0.4)),
    Case(name="friendly_sam", make=fm.friendly_sam, oracle=by_hand.friendly_sam(1.0, 0.9)),
    Case(
        name="friendly_sam, some of it taken off",
        make=lambda rho: fm.friendly_sam(rho, sigma=0.5, decay=0.6),
        oracle=by_hand.friendly_sam(0.5, 0.6),
    ),
]

CHEAPER = [
    Case(
        name="looksam",
        make=lambda rho: fm.looksam(rho, every=4, alpha=0.2),
        oracle=by_hand.looksam(4, 0.2),
    ),
    Case(
        name="momentum_sam",
        make=fm.momentum_sam,
        oracle=by_hand.momentum_sam(0.9, adaptive=False),
    ),
    Case(
        name="momentum_sam, adaptive",
        make=lambda rho: fm.momentum_sam(rho, adaptive=True, momentum=0.5),
        oracle=by_hand.momentum_sam(0.5, adaptive=True),
    ),
    Case(name="s2_sam", make=fm.s2_sam, oracle=by_hand.s2_sam(adaptive=False)),
    Case(
        name="s2_sam, adaptive",
        make=lambda rho: fm.s2_sam(rho, adaptive=True),
        oracle=by_hand.s2_sam(adaptive=True),
    ),
    Case(name="async_sam", make=fm.async_sam, oracle=by_hand.async_sam),
]

COMBINE = [
    Case(name="gsam", make=fm.gsam, oracle=by_hand.gsam(0.4)),
    Case(
        name="gradient_norm_penalty",
        make=fm.gradient_norm_penalty,
        oracle=by_hand.lerp(0.8),
    ),
    Case(
        name="wsam",
        make=lambda rho: fm.wsam(rho, gamma=0.8),
        oracle=by_hand.weighted(0.8),
        rho=0.05,
    ),
    Case(
        name="perturbed_magnitude",
        make=fm.perturbed_magnitude,
        oracle=by_hand.coordinatewise(by_hand.magnitude),
    ),
    Case(
        name="perturbed_direction",
        make=fm.perturbed_direction,
        oracle=by_hand.coordinatewise(by_hand.direction),
    ),
    Case(
        name="clipped",
        make=lambda rho: fm.clipped(rho, times=1.5),
        oracle=by_hand.clipped(1.5),
    ),
    Case(name="stable_sam", make=fm.stable_sam, oracle=by_hand.stable_sam),
    Case(
        name="sagm",
        make=lambda rho: fm.sagm(rho, alpha=0.05),
        oracle=by_hand.sagm(0.05),
    ),
    Case(
        name="xsam",
        make=lambda rho: fm.xsam(rho, alpha=1.5),
        oracle=by_hand.xsam(1.5),
    ),
    Case(
        name="xsam, half way",
        make=lambda rho: fm.xsam(rho, alpha=0.5),
        oracle=by_hand.xsam(0.5),
    ),
    Case(name="second_order_sam", make=fm.second_order_sam, oracle=by_hand.second_order_sam(0.1)),
    Case(
        name="cr_sam",
        make=lambda rho: fm.cr_sam(rho, gamma=0.2, beta=0.1),
        oracle=by_hand.cr_sam(0.2, 0.1),
    ),
]

REGIONS = [
    *(
        Case(
            name=f"hybrid {digits or 'none'}",
            make=lambda rho, digits=digits: fm.hybrid(regions(digits), rho),
            oracle=by_hand.hybrid(digits),
            plain=not digits,
        )
        for digits in SUBSETS
    ),
    *(
        Case(
            name=name,
            make=lambda rho, factor=factor: fm.same(
                {fm.Region(int(digit)): value for digit, value in factor.items()}, rho
            ),
            oracle=by_hand.same(factor),
        )
        for name, factor in SAME.items()
    ),
    Case(
        name="same, a factor that moves",
        make=lambda rho: fm.same(
            {fm.Region.STEEPER: Linear(start=1.0, end=0.5, steps=30), fm.Region.GENTLER: 0.7}, rho
        ),
        oracle=by_hand.same({"1": lambda step: 1.0 - 0.5 * min(step / 30, 1.0), "2": 0.7}),
    ),
    Case(name="saner", make=fm.saner, oracle=by_hand.saner(0.5, 0)),
    Case(
        name="saner, warmed up",
        make=lambda rho: fm.saner(rho, strength=0.8, warmup=20),
        oracle=by_hand.saner(0.8, 20),
    ),
    *(
        Case(
            name=f"legacy_hybrid {digits or 'none'}",
            make=lambda rho, digits=digits: fm.legacy_hybrid(regions(digits), rho),
            oracle=by_hand.legacy(PUBLISHED[digits]),
            plain=not digits,
        )
        for digits in ("", "13", "234")
    ),
    Case(name="forget_sam", make=fm.forget_sam, oracle=by_hand.forget_sam(0.5)),
    Case(name="legacy_ckpt14", make=fm.legacy_ckpt14, oracle=by_hand.legacy(PUBLISHED["23"])),
]

FAR = [
    Case(
        name="sam, the radius a tensor",
        make=lambda rho: fm.sam(torch.tensor(rho, dtype=torch.float64)),
        oracle=by_hand.sam,
    ),
    Case(
        name="sam, Linear",
        make=lambda rho: fm.sam(Linear(start=0.0, end=rho, steps=20)),
        oracle=with_radius(by_hand.sam, lambda scene: 0.2 * min(scene.step / 20, 1.0)),
    ),
    Case(
        name="asam, Cosine",
        make=lambda rho: fm.asam(Cosine(start=rho, end=0.0, steps=40)),
        oracle=with_radius(
            by_hand.asam(),
            lambda scene: 0.1 * (1.0 + math.cos(math.pi * min(scene.step / 40, 1.0))),
        ),
    ),
    Case(
        name="gsam, Proportional",
        make=lambda rho, optimizer: fm.gsam(
            Proportional(optimizer=optimizer, high=rho, lr_high=LR, low=rho / 4, lr_low=LR / 5)
        ),
        oracle=with_radius(
            by_hand.gsam(0.4),
            lambda scene: 0.05 + (0.2 - 0.05) * (scene.lr - LR / 5) / (LR - LR / 5),
        ),
        tied=True,
    ),
]

WHEN = [
    Case(
        name="periodic",
        make=lambda rho: fm.periodic(fm.sam(rho), every=4),
        oracle=by_hand.when(lambda scene: scene.step % 4 == 0, by_hand.sam),
    ),
    Case(
        name="window",
        make=lambda rho: fm.window(fm.sam(rho), start=0.2, end=0.7, steps=50),
        oracle=by_hand.when(lambda scene: 10 <= scene.step < 35, by_hand.sam),
    ),
    Case(
        name="with_probability",
        make=lambda rho: fm.with_probability(fm.sam(rho), 0.5),
        oracle=by_hand.when(by_hand.heads, by_hand.sam),
    ),
    Case(
        name="while_large",
        make=lambda rho: fm.while_large(fm.sam(rho), 0.2, decay=0.9),
        oracle=by_hand.when(by_hand.is_large(0.2, 0.9), by_hand.sam),
    ),
]

# The hidden biases stay, and the last layer has a radius of its own.
OWN = (None, 0.0, None, 0.0, 0.4, 0.4)

ON_WHAT = [
    Case(name="sam, groups of parameters", make=fm.sam, oracle=by_hand.sam, own=OWN),
    Case(
        name="sam, p=3, groups of parameters",
        make=lambda rho: fm.sam(rho, p=3.0),
        oracle=by_hand.sam_of_order(3.0),
        own=OWN,
    ),
    Case(
        name="sam, p=inf, groups of parameters",
        make=lambda rho: fm.sam(rho, p=math.inf),
        oracle=by_hand.sam_of_order(math.inf),
        rho=0.05,
        own=(None, 0.0, None, 0.0, 0.1, 0.1),
    ),
    Case(name="asam, groups of parameters", make=fm.asam, oracle=by_hand.asam(), own=OWN),
    Case(name="awp, groups of parameters", make=fm.awp, oracle=by_hand.awp, own=OWN),
    Case(name="usam, groups of parameters", make=fm.usam, oracle=by_hand.usam, own=OWN),
    Case(name="gsam, groups of parameters", make=fm.gsam, oracle=by_hand.gsam(0.4), own=OWN),
    Case(
        name="sam, weight decay in the ascent",
        make=fm.sam,
        oracle=by_hand.sam,
        keywords={"ascent_weight_decay": 0.1},
    ),
    Case(
        name="asam, weight decay in the ascent",
        make=fm.asam,
        oracle=by_hand.asam(),
        keywords={"ascent_weight_decay": 0.1},
    ),
    Case(
        name="sam, groups of 3 examples",
        make=fm.sam,
        oracle=by_hand.in_groups(3, by_hand.sam),
        keywords={"m": 3},
    ),
    Case(
        name="hybrid 13, one example at a time",
        make=lambda rho: fm.hybrid(regions("13"), rho),
        oracle=by_hand.in_groups(1, by_hand.hybrid("13")),
        keywords={"m": 1},
    ),
]

FAMILY = [*WHERE, *CHEAPER, *COMBINE, *REGIONS, *FAR, *WHEN, *ON_WHAT]
