"""Every member agrees with a loop written out by hand from its paper, step by step in float64."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from by_hand import Scene, Tensors
from family import FAMILY, LR, Case
from members import every_case
from torch import Tensor

import flatminima as fm
from flatminima.rules import schedule, zoo

STEPS = {"sgd": 50, "nesterov": 100, "adamw": 50, "adagrad": 50}
SEED = 7
TOLERANCE = 1e-12  # of the weights' norm
# Where a rule jumps, round-off (1e-16 a step) must not be able to push a coordinate over the edge.
MARGIN = 1e-9


@dataclass(frozen=True)
class Base:
    """A torch optimizer, and its update written out."""

    make: Callable[[Tensors], torch.optim.Optimizer]
    by_hand: Callable[..., Tensor]


BASES = {
    "sgd": Base(
        lambda w: torch.optim.SGD(w, lr=LR, momentum=0.9, weight_decay=5e-4),
        by_hand.sgd(0.9, 5e-4),
    ),
    "nesterov": Base(
        lambda w: torch.optim.SGD(w, lr=LR, momentum=0.9, weight_decay=5e-4, nesterov=True),
        by_hand.sgd(0.9, 5e-4, nesterov=True),
    ),
    "adamw": Base(
        lambda w: torch.optim.AdamW(w, lr=LR, weight_decay=0.01), by_hand.adamw(weight_decay=0.01)
    ),
    "adagrad": Base(
        lambda w: torch.optim.Adagrad(w, lr=LR, weight_decay=5e-4), by_hand.adagrad(5e-4)
    ),
}

PLAIN = Case(name="plain", make=fm.sam, oracle=by_hand.plain, rho=0.0, plain=True)
CASES = {case.name: case for case in [PLAIN, *FAMILY]}


def learning_rate(step: int) -> float:
    return LR * (1.0 - 0.6 * step / max(STEPS.values()))


def by_the_library(case: Case, name: str) -> Tensors:
    torch.manual_seed(SEED)
    w = [part.requires_grad_() for part in by_hand.weights()]
    optimizer = BASES[name].make(w)
    groups = [
        {"params": [part]} if rho is None else {"params": [part], "rho": rho}
        for part, rho in zip(w, case.own, strict=True)
    ]
    sharp = fm.SharpnessAware(groups, case.rule(optimizer), **case.keywords)
    data = by_hand.batches()
    for step in range(STEPS[name]):
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        optimizer.zero_grad()
        sharp.backward(lambda x, y: by_hand.network(w, x, y), *data[step % len(data)])
        optimizer.step()
    return [part.detach() for part in w]


@cache
def by_formula(name: str, base: str) -> tuple[Tensors, list[float]]:
    """The weights after the loop, and every distance from a jump that it kept."""
    case, stepped = CASES[name], BASES[base].by_hand
    w, data, margins = by_hand.weights(), by_hand.batches(), []
    memory: dict[str, Any] = {}
    states: list[dict[str, Any]] = [{} for _ in w]
    generator = torch.Generator().manual_seed(SEED)
    for step in range(STEPS[base]):
        scene = Scene(
            w=w,
            batch=data[step % len(data)],
            before=data[max(step - 1, 0) % len(data)],
            step=step,
            lr=learning_rate(step),
            own=case.own,
            weight_decay=case.keywords.get("ascent_weight_decay", 0.0),
            memory=memory,
            generator=generator,
            margins=margins,
        )
        d = case.oracle(scene, case.rho)
        rows = zip(w, d, states, strict=True)
        w = [stepped(part, way, state, scene.lr) for part, way, state in rows]
    return w, margins


def distance(one: Tensors, two: Tensors) -> float:
    """||one - two|| / ||one||."""
    difference = [a - b for a, b in zip(one, two, strict=True)]
    return float(by_hand.length(difference) / by_hand.length(one))


@pytest.mark.parametrize(
    "base", [b if b == "sgd" else pytest.param(b, marks=pytest.mark.slow) for b in BASES]
)
@every_case
def test_every_step_agrees_with_the_loop_written_by_hand(case: Case, base: str) -> None:
    expected, margins = by_formula(case.name, base)
    assert min(margins, default=1.0) > MARGIN, "round-off could decide: choose other data"
    assert distance(expected, by_the_library(case, base)) <= TOLERANCE
    apart = distance(expected, by_formula("plain", base)[0])  # else both could do nothing
    assert apart == 0.0 if case.plain else apart > 1e-4


def test_no_two_cases_of_the_family_have_one_name() -> None:
    names = sorted(case.name for case in FAMILY)
    assert not [one for one, two in pairwise(names) if one == two]


def names_used(path: Path) -> set[str]:
    """Every `fm.name` in a file."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "fm"
    }


def test_every_member_of_the_zoo_is_in_the_family() -> None:
    wrappers = {name for name in schedule.__all__ if name.islower()}
    listed = names_used(Path(__file__).with_name("family.py"))
    assert not (set(zoo.__all__) | wrappers) - listed


def test_no_oracle_knows_the_library() -> None:
    source = Path(by_hand.__file__).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.startswith("flatminima") for name in names)
