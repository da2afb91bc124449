"""Weights of bfloat16: who loses a displacement is told how much, and may round by chance."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from nets import batches, gradients, loss_of, restored, same_bits, smooth
from torch import Tensor, nn

import flatminima as fm
from flatminima.vector import Vector

RHO = 0.02


def wide(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(256, 256).bfloat16(), torch.randn(8, 256).bfloat16()


def square(model: nn.Module) -> Any:
    return lambda x: model(x).float().square().mean()


def seen(model: nn.Module, x: Tensor, **keywords: Any) -> tuple[Vector, Vector]:
    """The displacement that was wanted, and what the weights made of it."""
    w = Vector(param.detach().clone() for param in model.parameters())
    there: list[Vector] = []
    steps: list[Any] = []

    def loss_fn(x: Tensor) -> Tensor:
        there.append(Vector(param.detach().clone() for param in model.parameters()))
        return square(model)(x)

    def observer(step: Any) -> None:
        steps.append(step.e.clone())

    sharp = fm.SharpnessAware(model, fm.sam(RHO), observe=[observer], **keywords)
    sharp.backward(loss_fn, x)
    moved = there[1].map(lambda a, b: a.float() - b.float(), w)
    return steps[0].map(Tensor.float), moved


def test_who_loses_much_of_a_displacement_is_told_the_share_once() -> None:
    model, x = wide()
    sharp = fm.SharpnessAware(model, fm.sam(RHO))
    with pytest.warns(UserWarning, match=r"(\d\d\.\d)% of the coordinates did not mov") as caught:
        sharp.backward(square(model), x)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        e, moved = seen(model, x)
    stayed = sum(
        int(((a != 0) & (b == 0)).sum()) for a, b in zip(e.tensors, moved.tensors, strict=True)
    )
    share = stayed / sum(int((a != 0).sum()) for a in e.tensors)
    assert share > 0.5 and str(caught[0].message).startswith(f"{share:.1%} of the coordinates")
    sharp.backward(square(model), x)  # a second warning would be an error


def test_rounding_by_chance_is_right_in_the_mean() -> None:
    """The part of the displacement along the one that was wanted is all of it, but for chance."""
    along = []
    for seed in range(20):
        model, x = wide(seed)
        e, moved = seen(model, x, rounding="stochastic")
        along.append(float(moved.dot(e) / e.dot(e)))
    mean = torch.tensor(along).mean().item()
    error = torch.tensor(along).std().item() / 20**0.5
    assert abs(mean - 1.0) < 4 * error and error < 0.01
    model, x = wide()
    with pytest.warns(UserWarning, match="of the coordinates did not move"):
        e, moved = seen(model, x)
    assert abs(moved.dot(e) / e.dot(e) - 1.0) > 10 * error


def test_a_coordinate_becomes_one_of_its_neighbours_as_often_as_it_is_near() -> None:
    value = torch.full((100_000,), 1.0, dtype=torch.bfloat16)  # the next one is 1 + 2 ** -7
    Vector([torch.full((100_000,), 0.25 * 2**-7)]).add_to([value], torch.Generator())
    assert set(value.unique().tolist()) == {1.0, 1.0 + 2**-7}
    share = float((value > 1.0).float().mean())
    assert share == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 100_000) ** 0.5)


def test_what_bfloat16_holds_and_what_is_not_finite_stays() -> None:
    value = torch.tensor([1.0, -2.0, 0.0, torch.inf, -torch.inf, torch.nan], dtype=torch.bfloat16)
    before = value.clone()
    Vector([torch.zeros(6)]).add_to([value], torch.Generator())
    assert same_bits(value[:5], before[:5]) and value[5].isnan()


def test_the_weights_come_back_and_the_global_random_state_is_that_of_a_plain_step() -> None:
    model, x = wide()
    random = torch.get_rng_state()
    sharp = fm.SharpnessAware(model, fm.sam(RHO), rounding="stochastic")
    with restored(model.parameters()):
        sharp.backward(square(model), x)
    assert torch.equal(torch.get_rng_state(), random)


def test_resuming_draws_on() -> None:
    model, x = wide()
    sharp = fm.SharpnessAware(model, fm.sam(RHO), rounding="stochastic")
    sharp.backward(square(model), x)
    state = copy.deepcopy(sharp.state_dict())
    found = []
    for one in (sharp, fm.SharpnessAware(model, fm.sam(RHO), rounding="stochastic")):
        one.load_state_dict(state)
        model.zero_grad()
        one.backward(square(model), x)
        found.append(gradients(model))
    assert same_bits(found[0], found[1])


def test_other_precisions_are_rounded_as_ever() -> None:
    found = []
    for rounding in ("nearest", "stochastic"):
        model, (batch,) = smooth(), batches(1)
        fm.SharpnessAware(model, fm.sam(0.3), rounding=rounding).backward(loss_of(model), *batch)
        found.append(gradients(model))
    assert same_bits(found[0], found[1])


def test_an_optimizer_keeps_the_rounding_when_a_group_is_added() -> None:
    model, x = wide()
    base = torch.optim.SGD([model.weight], lr=0.1)
    optimizer = fm.SharpnessAwareOptimizer(base, fm.sam(RHO), rounding="stochastic")
    optimizer.add_param_group({"params": [model.bias]})

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = square(model)(x)
        loss.backward()
        return loss

    optimizer.step(closure)  # rounding to the nearest would warn


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="rounding must be 'nearest' or 'stochastic', got 'up'"):
        fm.SharpnessAware(smooth(), fm.sam(), rounding="up")  # pyright: ignore
