"""A thousand steps of every member on two ranks, each with a displacement of its own: replicas stay
equal, bit for bit, since weights are copied back and the direction is reduced once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from members import MEMBERS, SETTINGS
from ranks import Case, on_all_ranks, run_all
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import flatminima as fm

STEPS = 1000
EVERY = [member for member in MEMBERS if member.name not in SETTINGS]
SOME = [slice(start, start + 6) for start in range(0, len(EVERY), 6)]  # one pair of processes each


class Thousand:
    """A thousand steps of one member; both ranks must end with the same weights."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, rank: int) -> None:
        (member,) = [member for member in EVERY if member.name == self.name]
        generator = torch.Generator().manual_seed(rank)  # other examples on every rank
        x = torch.randn(40, 3, generator=generator, dtype=torch.float32)
        y = torch.randint(2, (40,), generator=generator)
        torch.manual_seed(rank)  # also for the rules that follow chance
        model = nn.Linear(3, 2).float()
        ddp = DistributedDataParallel(model)  # sends rank 0's weights to the other
        before = [param.detach().clone() for param in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        rule = member.rule(optimizer, 0.1)
        sharp = fm.SharpnessAware(ddp, rule, sync="replica", **member.keywords)
        for step in range(STEPS):
            optimizer.zero_grad()
            some = slice(step % 32, step % 32 + 8)
            sharp.backward(lambda x, y: functional.cross_entropy(ddp(x), y), x[some], y[some])
            optimizer.step()
        for param, start in zip(model.parameters(), before, strict=True):
            one, two = on_all_ranks(param.detach())
            assert torch.equal(one, two)
            assert one.isfinite().all() and not torch.equal(one, start)


@pytest.mark.slow  # it starts two processes
@pytest.mark.parametrize("some", SOME, ids=lambda some: ",".join(m.name for m in EVERY[some]))
def test_a_thousand_steps_leave_the_replicas_equal_bit_for_bit(some: slice, tmp_path: Path) -> None:
    cases: dict[str, Case] = {member.name: Thousand(member.name) for member in EVERY[some]}
    wrong = run_all(tmp_path, cases)
    assert wrong == dict.fromkeys(cases, "")


def test_every_function_that_makes_a_rule_is_among_them() -> None:
    names = {member.name.partition(" ")[0].partition(",")[0] for member in EVERY}
    assert names == {member.name.partition(" ")[0].partition(",")[0] for member in MEMBERS}
    zoo = {name for name in fm.__all__ if getattr(getattr(fm, name), "makes_rules", False)}
    assert zoo <= names, zoo - names
