"""A thousand steps of every member on two ranks, each with a displacement of its own: replicas stay
equal, bit for bit, since weights are copied back and the direction is reduced once."""

from __future__ import annotations

import pytest
import torch
from members import MEMBERS
from members import Case as Member
from ranks import Case, on_all_ranks, run_all
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import flatminima as fm

pytestmark = pytest.mark.slow  # it starts two processes

STEPS = 1000


class Thousand:
    """A thousand steps of one member; both ranks must end with the same weights."""

    def __init__(self, member: int) -> None:
        self.member = member

    def __call__(self, rank: int) -> None:
        member: Member = MEMBERS[self.member]
        generator = torch.Generator().manual_seed(rank)  # other examples on every rank
        x = torch.randn(40, 3, generator=generator, dtype=torch.float32)
        y = torch.randint(2, (40,), generator=generator)
        torch.manual_seed(rank)  # also for the rules that follow chance
        model = nn.Linear(3, 2).float()
        ddp = DistributedDataParallel(model)  # sends rank 0's weights to the other
        before = [param.detach().clone() for param in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        sharp = fm.SharpnessAware(
            ddp, member.rule(optimizer, 0.1), sync="replica", **member.keywords
        )
        for step in range(STEPS):
            optimizer.zero_grad()
            some = slice(step % 32, step % 32 + 8)
            sharp.backward(lambda x, y: functional.cross_entropy(ddp(x), y), x[some], y[some])
            optimizer.step()
        for param, start in zip(model.parameters(), before, strict=True):
            one, two = on_all_ranks(param.detach())
            assert torch.equal(one, two)
            assert one.isfinite().all() and not torch.equal(one, start)


CASES: dict[str, Case] = {member.name: Thousand(i) for i, member in enumerate(MEMBERS)}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_all(tmp_path_factory.mktemp("ranks"), CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_thousand_steps_leave_the_replicas_equal_bit_for_bit(
    name: str, outcome: dict[str, str]
) -> None:
    assert not outcome[name], outcome[name]
