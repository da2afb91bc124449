"""Which parameters a step is about: groups with their own radius, ties, frozen ones, none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import Counted, batches, copied, gradients, loss_of, restored, same_bits, smooth, weights
from torch import Tensor, nn

import flatminima as fm
from flatminima.engine.parameters import Parameters
from flatminima.rules.schedule import Linear


def displacements(
    model: nn.Module, sharp: fm.SharpnessAware, loss_fn: Callable[..., Tensor] | None = None
) -> fm.Vector:
    """Where the last pass of a step looked, relative to the weights; it leaves no gradient."""
    (batch,) = batches(1)
    counted = Counted(loss_fn or loss_of(model), look=lambda: weights(model))
    sharp.backward(counted, *batch)
    return fm.Vector(counted.seen[-1]) - fm.Vector(weights(model))


def plain_gradient(model: nn.Module) -> fm.Vector:
    grads = torch.autograd.grad(loss_of(model)(*batches(1)[0]), list(model.parameters()))
    return fm.Vector(grads)


def split(model: nn.Sequential, **own: Any) -> list[dict[str, Any]]:
    first, last = model[0].parameters(), model[2].parameters()
    return [{"params": first}, {"params": last, **own}]


# ------------------------------------------------------------------------------------------ groups


def test_a_group_with_radius_zero_stays_and_does_not_count_in_the_norm():
    model = smooth()
    e = displacements(model, fm.SharpnessAware(split(model, rho=0.0), fm.sam(rho=0.3)))
    g = plain_gradient(model).only([True, True, False, False])
    torch.testing.assert_close(list(e)[:2], list(g * (0.3 / g.norm()))[:2])
    assert all((part == 0).all() for part in list(e)[2:])


def test_every_group_moves_by_its_own_radius_within_one_norm():
    model = smooth()
    e = displacements(model, fm.SharpnessAware(split(model, rho=0.9), fm.sam(rho=0.3)))
    g = plain_gradient(model)
    expected = [rho / g.norm() * part for rho, part in zip((0.3, 0.3, 0.9, 0.9), g, strict=True)]
    torch.testing.assert_close(list(e), expected)


@pytest.mark.parametrize("rule", [fm.sam(0.3), fm.usam(0.3), fm.asam(0.3)], ids=str)
def test_groups_that_set_no_radius_are_one(rule: object):
    model = smooth()
    whole = displacements(model, fm.SharpnessAware(model, rule))
    groups = displacements(model, fm.SharpnessAware(split(model, lr=1.0), rule))
    same = displacements(model, fm.SharpnessAware(split(model, rho=0.3), rule))
    torch.testing.assert_close(list(groups), list(whole))
    torch.testing.assert_close(list(same), list(whole))


def test_a_group_may_have_a_schedule_or_a_tensor():
    model = smooth()
    falling = split(model, rho=Linear(start=0.6, end=0.0, steps=1))
    sharp = fm.SharpnessAware(falling, fm.sam(rho=0.0))
    first, second = displacements(model, sharp), displacements(model, sharp)
    torch.testing.assert_close(first.norm(), torch.tensor(0.6))
    assert second.norm() == 0.0
    tensor = fm.SharpnessAware(split(model, rho=torch.tensor(0.6)), fm.sam(rho=0.0))
    torch.testing.assert_close(list(displacements(model, tensor)), list(first))


def test_all_groups_at_zero_are_the_plain_gradient_in_one_pass():
    model, (batch,) = smooth(), batches(1)
    groups = [{"params": model.parameters(), "rho": 0.0}]
    loss_fn = Counted(loss_of(model))
    fm.SharpnessAware(groups, fm.sam(rho=0.3)).backward(loss_fn, *batch)
    assert len(loss_fn.seen) == 1 and same_bits(gradients(model), list(plain_gradient(model)))


def test_the_groups_of_an_optimizer_will_do():
    model = smooth()
    optimizer = torch.optim.AdamW(split(model, lr=1e-3, rho=0.0))
    by_hand = fm.SharpnessAware(split(model, rho=0.0), fm.sam(rho=0.3))
    expected = list(displacements(model, by_hand))
    sharp = fm.SharpnessAware(optimizer.param_groups, fm.sam(rho=0.3))
    assert same_bits(list(displacements(model, sharp)), expected)


@pytest.mark.parametrize(
    "listed",
    [
        lambda model: model,
        lambda model: model.parameters(),
        lambda model: list(model.parameters()),
        lambda model: (param for param in model.parameters()),
        lambda model: ({"params": layer.parameters()} for layer in model),
        lambda model: [{"params": param} for param in model.parameters()],
        lambda model: [{"params": (param for param in model.parameters())}],
        lambda model: [model[0].weight, {"params": [model[0].bias, *model[2].parameters()]}],
        lambda model: model.named_parameters(),
    ],
    ids=[
        "a model",
        "parameters",
        "a list",
        "a generator",
        "groups",
        "singles",
        "a nested one",
        "mixed",
        "names",
    ],
)
def test_parameters_may_be_listed_as_for_an_optimizer(listed: Callable[[nn.Module], Any]):
    model, (batch,) = smooth(), batches(1)
    fm.SharpnessAware(model, fm.sam(rho=0.3)).backward(loss_of(model), *batch)
    expected = gradients(model)
    model.zero_grad()
    fm.SharpnessAware(listed(model), fm.sam(rho=0.3)).backward(loss_of(model), *batch)
    assert same_bits(gradients(model), expected)


# ---------------------------------------------------------------------------- tied, frozen, foreign


def test_tied_weights_are_displaced_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    loss_fn = loss_of(model)
    e = displacements(model, fm.SharpnessAware(model, fm.sam(rho=0.3)), loss_fn)
    assert len(e) == 3
    torch.testing.assert_close(e.norm(), torch.tensor(0.3))


def test_frozen_parameters_stay_frozen_without_a_gradient():
    model = smooth()
    model[0].requires_grad_(False)
    e = displacements(model, fm.SharpnessAware(model, fm.sam(rho=0.3)))
    assert not any(param.requires_grad for param in model[0].parameters())
    assert [grad is None for grad in gradients(model)] == [True, True, False, False]
    assert all((part == 0).all() for part in list(e)[:2])


@pytest.mark.parametrize("rule", [fm.sam(0.3), fm.asam(0.3), fm.gsam(0.3)], ids=str)
def test_weight_decay_in_the_ascent_displaces_no_frozen_parameter(rule: object):
    model = smooth()
    model[0].requires_grad_(False)
    e = displacements(model, fm.SharpnessAware(model, rule, ascent_weight_decay=0.5))
    assert all((part == 0).all() for part in list(e)[:2])
    assert all((part != 0).any() for part in list(e)[2:])


def test_parameters_may_be_frozen_and_thawed_later():
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(rho=0.3))
    sharp.backward(loss_of(model), *batch)
    kept = model[0].weight.grad
    before = kept.clone()
    model[0].requires_grad_(False)
    e = displacements(model, sharp)
    assert model[0].weight.grad is kept and same_bits(kept, before)
    assert all((part == 0).all() for part in list(e)[:2])
    model[0].requires_grad_(True)
    assert all((part != 0).any() for part in displacements(model, sharp))


def test_only_the_listed_parameters_get_a_gradient():
    model, (batch,) = smooth(), batches(1)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    fm.SharpnessAware(model[2].parameters(), fm.sam()).backward(loss_of(model), *batch)
    assert (model[0].weight.grad == 1.0).all() and model[0].bias.grad is None
    assert all(grad is not None for grad in gradients(model[2]))


def test_a_second_one_on_the_same_model_leaves_the_first_alone():
    def directions(second: bool) -> list[list[Tensor | None]]:
        model, found = smooth(), []
        torch.manual_seed(0)
        ours = fm.SharpnessAware(model, fm.with_probability(fm.previous_batch(0.3), 0.5))
        other = fm.SharpnessAware(model, fm.with_probability(fm.previous_batch(9.0), 0.5), m=None)
        for x, y in batches(6):
            if second:
                other.backward(loss_of(model), x.flip(0), y)
                model.zero_grad()
            ours.backward(loss_of(model), x, y)
            found.append(gradients(model))
            model.zero_grad()
        return found

    assert same_bits(directions(second=True), directions(second=False))


def test_hooks_of_a_parameter_see_every_pass():
    model, (batch,) = smooth(), batches(1)
    seen: list[Tensor] = []
    model[0].bias.register_hook(lambda grad: seen.append(grad))
    fm.SharpnessAware(model, fm.sam()).backward(loss_of(model), *batch)
    assert len(seen) == 2


# ----------------------------------------------------------------------------------- bad input


def frozen() -> nn.Module:
    return smooth().requires_grad_(False)


def twice() -> list[Tensor]:
    layer = nn.Linear(2, 2)
    return [layer.weight, layer.bias, layer.weight]


@pytest.mark.parametrize(
    ("target", "error", "match"),
    [
        (lambda: [], ValueError, "parameters must include a trainable one, got none at all"),
        (nn.Tanh, ValueError, "parameters must include a trainable one, got none at all"),
        (frozen, ValueError, "parameters must include a trainable one, got 4 frozen ones"),
        (twice, ValueError, "parameters must be distinct, got one of them twice"),
        (lambda: [{"weights": []}], ValueError, "a parameter group must have 'params', got the"),
        (lambda: ["w"], TypeError, "parameters must be a module, tensors, or groups .*, got str"),
        (lambda: {"params": twice()}, TypeError, "parameters must be a module, tensors, or groups"),
        (lambda: nn.Linear(2, 3).weight, TypeError, "parameters must be a module, tensors, or"),
        (lambda: [nn.Linear(2, 3).weight * 2.0], ValueError, "parameters must be leaves, got"),
        (lambda: 3, TypeError, "parameters must be a module, tensors, or groups of tensors, got"),
    ],
    ids=[
        "empty",
        "a module without",
        "frozen",
        "twice",
        "no params",
        "text",
        "one group",
        "one tensor",
        "no leaf",
        "3",
    ],
)
def test_bad_parameters_are_refused(target: Callable[[], Any], error: type, match: str):
    with pytest.raises(error, match=match):
        fm.SharpnessAware(target(), fm.sam())


RADII = [
    (-0.1, ValueError, "rho must be >= 0 and finite, got -0.1"),
    (float("nan"), ValueError, "rho must be >= 0 and finite, got nan"),
    (float("inf"), ValueError, "rho must be >= 0 and finite, got inf"),
    (True, TypeError, "rho must be a number, a 0-d tensor or a schedule, got True"),
    ("0.1", TypeError, "rho must be a number, a 0-d tensor or a schedule, got '0.1'"),
    ([0.1], TypeError, "rho must be a number, a 0-d tensor or a schedule, got"),
    (torch.ones(2), TypeError, "rho must be a number, a 0-d tensor or a schedule, got"),
]


@pytest.mark.parametrize(("rho", "error", "match"), RADII, ids=[str(row[0]) for row in RADII])
def test_a_bad_radius_is_refused_wherever_it_is_set(rho: Any, error: type, match: str):
    model = smooth()
    for make in (fm.sam, fm.asam, fm.multi_step, fm.random_perturbation, fm.saner):
        with pytest.raises(error, match=match):
            make(rho=rho)
    with pytest.raises(error, match=match):
        fm.SharpnessAware(split(model, rho=rho), fm.sam())


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_bad_weight_decay_is_refused(value: float):
    with pytest.raises(ValueError, match="ascent_weight_decay must be >= 0.*, got"):
        fm.SharpnessAware(smooth(), fm.sam(), ascent_weight_decay=value)


def test_refusing_changes_nothing():
    model = smooth()
    with restored(model.parameters(), and_gradients=True), pytest.raises(ValueError, match="rho"):
        fm.SharpnessAware(split(model, rho=-1.0), fm.sam())
    assert all(param.requires_grad for param in model.parameters())


def test_radii_belong_to_the_parameters_in_order():
    model = smooth()
    found = Parameters.of(split(model, rho=0.5))
    assert found.radii == (None, None, 0.5, 0.5) and len(found) == 4
    assert all(a is b for a, b in zip(found.tensors, model.parameters(), strict=True))
    assert same_bits(copied(found.trainable), weights(model))
