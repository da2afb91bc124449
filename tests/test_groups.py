"""Groups of m examples: how a batch is cut, and that their directions are averaged by size."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from nets import batches, gradients, loss_of, restored, smooth
from torch import Tensor

import flatminima as fm
from flatminima.engine.groups import examples, groups

Pair = namedtuple("Pair", ["x", "y"])
RULES = [fm.sam(0.3), fm.asam(0.3), fm.gsam(0.3), fm.hybrid({fm.Region.STEEPER}, 0.3), fm.usam(0.3)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=str)


def direction(rule: object, *batch: Any, m: int | None = None) -> list[Tensor]:
    model = smooth()
    fm.SharpnessAware(model, rule, m=m).backward(loss_of(model), *batch)
    return [param.grad for param in model.parameters()]


def mean_of_groups(rule: object, batch: tuple[Tensor, ...], m: int) -> list[Tensor]:
    """Written out: every group's own SAM gradient, weighted by its number of examples."""
    total = len(batch[0])
    parts = [
        [size / total * part for part in direction(rule, *group)]
        for start in range(0, total, m)
        if (group := [tensor[start : start + m] for tensor in batch])
        and (size := len(group[0])) > 0
    ]
    return [sum(column[1:], start=column[0]) for column in zip(*parts, strict=True)]


@every_rule
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_the_direction_is_the_mean_over_the_groups_weighted_by_size(rule: object, m: int):
    (batch,) = batches(1, size=7)
    torch.testing.assert_close(direction(rule, *batch, m=m), mean_of_groups(rule, batch, m))


def test_a_ragged_last_group_counts_for_its_examples_only():
    (batch,) = batches(1, size=4)
    found = direction(fm.sam(0.3), *batch, m=3)
    large, small = (direction(fm.sam(0.3), *(t[cut] for t in batch)) for cut in (slice(3), [3]))
    expected = [0.75 * a + 0.25 * b for a, b in zip(large, small, strict=True)]
    torch.testing.assert_close(found, expected)


@every_rule
def test_micro_batches_accumulate_to_the_mean_of_their_own_gradients(rule: object):
    (batch,) = batches(1, size=8)
    micro = [tuple(tensor[start : start + 2] for tensor in batch) for start in range(0, 8, 2)]
    model = smooth()
    sharp = fm.SharpnessAware(model, rule)
    for x, y in micro:
        sharp.backward(lambda x, y: loss_of(model)(x, y) / 4.0, x, y)
    if "usam" not in repr(rule):  # a displacement that is proportional to the loss is so here too
        torch.testing.assert_close(gradients(model), mean_of_groups(rule, batch, 2))
    model.zero_grad()
    for x, y in micro:
        sharp.backward(loss_of(model), x, y)
    found = [grad / 4.0 for grad in gradients(model)]
    torch.testing.assert_close(found, mean_of_groups(rule, batch, 2))


def test_groups_within_micro_batches_are_not_the_micro_batches():
    (batch,) = batches(1, size=8)
    halves = [tuple(tensor[cut] for tensor in batch) for cut in (slice(4), slice(4, 8))]
    finer = [direction(fm.sam(0.3), *half, m=1) for half in halves]
    coarser = [direction(fm.sam(0.3), *half) for half in halves]
    each = [(a + b) / 2.0 for a, b in zip(*finer, strict=True)]
    torch.testing.assert_close(each, direction(fm.sam(0.3), *batch, m=1))
    distance = fm.Vector(each) - (fm.Vector(coarser[0]) + fm.Vector(coarser[1])) / 2.0
    assert distance.norm() > 1e-3 * fm.Vector(each).norm()


def test_the_loss_is_that_of_the_whole_batch():
    model, (batch,) = smooth(), batches(1, size=7)
    expected = loss_of(model)(*batch).detach()
    loss = fm.SharpnessAware(model, fm.sam(0.3), m=2).backward(loss_of(model), *batch)
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad


def test_a_parameter_that_one_group_alone_uses_gets_its_share():
    shared, rare = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

    def loss_fn(x: Tensor) -> Tensor:
        loss = (x * shared).sum(1).square().mean()
        return loss + rare.square().sum() if (x[0] > 0).all() else loss

    x = torch.tensor([[1.0, 2.0], [-1.0, 1.0], [-2.0, 3.0], [-1.0, -1.0]])
    fm.SharpnessAware([shared, rare], fm.sam(rho=0.0), m=1).backward(loss_fn, x)
    torch.testing.assert_close(rare.grad, torch.full((2,), 2.0 / 4.0))


def test_a_group_that_raises_changes_nothing():
    model, (batch,) = smooth(), batches(1)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    calls: list[int] = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 4:
            raise ArithmeticError("in the second group")
        return loss_of(model)(x, y)

    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(ArithmeticError, match="in the second group"),
    ):
        fm.SharpnessAware(model, fm.gsam(), m=2).backward(loss_fn, *batch)


# -------------------------------------------------------------------------------- cutting a batch


def cut(batch: tuple[Any, ...], m: int) -> list[Any]:
    return [group for group, _ in groups(batch, m)]


def test_groups_are_consecutive_and_the_last_may_be_smaller():
    x = torch.arange(5)
    assert [(group[0].tolist(), size) for group, size in groups((x,), 2)] == [
        ([0, 1], 2),
        ([2, 3], 2),
        ([4], 1),
    ]


def test_tensors_are_cut_wherever_they_are():
    x = torch.arange(4)
    batch = ({"x": x, "more": [x, (x,)]}, x)
    first, second = cut(batch, 2)
    assert first[0]["x"].tolist() == first[0]["more"][0].tolist() == [0, 1]
    assert second[0]["more"][1][0].tolist() == second[1].tolist() == [2, 3]
    assert isinstance(second[0]["more"], list) and isinstance(second[0]["more"][1], tuple)


def test_a_named_tuple_stays_one():
    x = torch.arange(4)
    first, second = cut((Pair(x, x + 1),), 2)
    assert isinstance(first[0], Pair) and second[0].y.tolist() == [3, 4]


def test_what_is_not_one_per_example_goes_to_every_group():
    x, weights, scale = torch.arange(4), torch.ones(3), torch.tensor(2.0)
    for group in cut((x, weights, scale, "text", 7, None), 2):
        assert group[1] is weights and group[2] is scale and group[3:] == ("text", 7, None)


def test_the_first_tensor_with_an_axis_counts_the_examples():
    assert examples((torch.tensor(1.0), [{"x": torch.zeros(3, 2)}], torch.zeros(5))) == 3


def test_a_batch_without_a_tensor_has_no_groups():
    model = smooth()
    sharp = fm.SharpnessAware(model, fm.sam(), m=2)
    with pytest.raises(ValueError, match="batch must hold a tensor with examples along its first"):
        sharp.backward(lambda scale: model[0].weight.sum() * scale, 2.0)


def test_an_empty_batch_has_no_groups():
    model = smooth()
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(ValueError, match="batch must hold at least one example, got none"),
    ):
        fm.SharpnessAware(model, fm.sam(), m=2).backward(loss_of(model), torch.zeros(0, 4))


@pytest.mark.parametrize("m", [0, -1, 2.0, "2", True, float("nan")])
def test_m_counts_examples(m: Any):
    with pytest.raises(ValueError, match="m must be a positive whole number or None, got"):
        fm.SharpnessAware(smooth(), fm.sam(), m=m)
