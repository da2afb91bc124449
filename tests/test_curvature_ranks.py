"""Two processes that share the batches unequally measure what one measures."""

from __future__ import annotations

import pytest
import torch
from ranks import on_all_ranks, run_all
from torch import distributed, nn
from torch.nn import functional as F

from flatminima import Objective
from flatminima.sharpness import GGN, Hessian, top_eigenpairs, trace
from flatminima.sharpness.krylov import flat


def parts(policy: str):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.randn(12, 3), torch.randint(3, (12,))
    sizes = [5, 2, 5]
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))

    def loss_fn(x, y):
        return F.cross_entropy(model(x), y)

    one, w = Objective.of_model(model, loss_fn, batches, batch_norm=policy)
    own = batches[:1] if distributed.get_rank() == 0 else batches[1:]
    group = distributed.group.WORLD
    two, _ = Objective.of_model(model, loss_fn, own, batch_norm=policy, process_group=group)
    assert (two.examples, two.setting.processes) == (12, 2)
    return one, two, w


def loss_gradient_and_products(rank: int) -> None:
    for policy in ("eval", "batch", "recompute"):
        one, two, w = parts(policy)
        torch.testing.assert_close(two.value(w), one.value(w))
        for kind in (Hessian, GGN):
            torch.testing.assert_close(flat(kind(two, w)(w), w), flat(kind(one, w)(w), w))
        gradient = flat(two.gradient(w), w)
        torch.testing.assert_close(gradient, flat(one.gradient(w), w))
        first, second = on_all_ranks(gradient)
        assert torch.equal(first, second)


def eigenvalues_and_trace(rank: int) -> None:
    one, two, w = parts("eval")
    found = top_eigenpairs(Hessian(two, w), k=3, tolerance=1e-8)
    alone = top_eigenpairs(Hessian(one, w), k=3, tolerance=1e-8)
    torch.testing.assert_close(found.values, alone.values)
    first, second = on_all_ranks(found.values)
    assert torch.equal(first, second)
    assert abs(trace(Hessian(two, w)).value - trace(Hessian(one, w)).value) < 1e-10


CASES = {
    "loss, gradient and products": loss_gradient_and_products,
    "eigenvalues and trace": eigenvalues_and_trace,
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> dict[str, str]:
    return run_all(tmp_path_factory.mktemp("ranks"), CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_measure_what_one_measures(name, wrong) -> None:
    assert not wrong[name], wrong[name]
