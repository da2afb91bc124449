"""`SharpnessAwareOptimizer(..., replay=module).step()`: no closure, and yet both passes."""

from __future__ import annotations

import copy
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nets import (
    OPTIMIZERS,
    batches,
    gradients,
    loss_of,
    noisy,
    restored,
    same_bits,
    smooth,
    weights,
)
from torch import Tensor, distributed, nn
from torch.optim import lr_scheduler

import flatminima as fm
from flatminima.engine.replay import loss_in

RULES = [fm.sam(0.3), fm.asam(0.3), fm.gsam(0.3), fm.multi_step(0.3, steps=3)]
RULES += [fm.usam(0.3), fm.hybrid({fm.Region.GENTLER}, 0.3)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule).partition("(")[0])
every_base = pytest.mark.parametrize("base", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Task(nn.Module):
    """Returns its loss, in one of the usual forms, and notes where it was called."""

    def __init__(self, net: nn.Module, form: Any = lambda loss: loss) -> None:
        super().__init__()
        self.net, self.form, self.calls = net, form, 0

    def forward(self, x: Tensor, *, y: Tensor) -> Any:
        self.calls += 1
        return self.form(nn.functional.cross_entropy(self.net(x), y))


def replayed(task: nn.Module, rule: Any = None, base: Any = None, **keywords: Any) -> Any:
    make = base or OPTIMIZERS["SGD"]
    params = make(task.parameters())
    return fm.SharpnessAwareOptimizer(params, rule or fm.sam(0.3), replay=task, **keywords)


def plainly(model: nn.Module, rule: Any, base: Any, data: list[Any], **keywords: Any) -> None:
    optimizer = base(model.parameters())
    sharp = fm.SharpnessAware(model, rule, **keywords)
    for batch in data:
        optimizer.zero_grad()
        sharp.backward(loss_of(model), *batch)
        optimizer.step()


@every_rule
@every_base
@pytest.mark.parametrize("same_noise", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_loop_without_closures_is_the_same_as_backward(
    rule: Any, base: Any, same_noise: bool
) -> None:
    one, two = noisy(), noisy()
    torch.manual_seed(5)
    optimizer = replayed(task := Task(one), rule, base, same_noise=same_noise)
    for x, y in batches(5):
        optimizer.zero_grad()
        loss = task(x, y=y)
        loss.backward()
        returned = optimizer.step()
        assert same_bits(returned, loss.detach())
    random = torch.get_rng_state()
    torch.manual_seed(5)
    plainly(two, rule, base, batches(5), same_noise=same_noise)
    assert same_bits(weights(one), weights(two))
    assert torch.equal(random, torch.get_rng_state())
    assert one[1].num_batches_tracked == 5


def test_a_rule_that_never_looks_at_the_weights_replays_its_only_pass() -> None:
    one, two, rule = smooth(), smooth(), fm.random_perturbation(0.3)
    torch.manual_seed(5)
    optimizer = replayed(task := Task(one), rule)
    for x, y in batches(5):
        optimizer.zero_grad()
        task(x, y=y).backward()
        optimizer.step()
    torch.manual_seed(5)
    plainly(two, rule, OPTIMIZERS["SGD"], batches(5))
    assert same_bits(weights(one), weights(two))


FORMS = {
    "tensor": lambda loss: loss,
    "dictionary": lambda loss: {"loss": loss, "output": torch.zeros(3)},
    "attribute": lambda loss: SimpleNamespace(loss=loss),
    "tuple": lambda loss: (loss, torch.zeros(3)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_loss_is_found_in_what_the_module_returns(form: Any) -> None:
    one, two = smooth(), smooth()
    optimizer = replayed(task := Task(one, form))
    for x, y in batches(2):
        optimizer.zero_grad()
        output = task(x, y=y)
        loss = loss_in(output)
        assert loss is not None
        loss.backward()
        optimizer.step()
    plainly(two, fm.sam(0.3), OPTIMIZERS["SGD"], batches(2))
    assert same_bits(weights(one), weights(two))


@pytest.mark.parametrize("rule", [fm.sam(0.3), fm.usam(0.3), fm.gsam(0.3)], ids=repr)
def test_accumulation_has_one_displacement_from_the_whole_gradient(rule: Any) -> None:
    """Elsewhere the second pass sees the last micro-batch only."""
    one, two = smooth(), smooth()
    optimizer = replayed(task := Task(one), rule, same_noise=False)
    losses = []
    for number, (x, y) in enumerate(batches(8)):
        loss = task(x, y=y) / 4
        loss.backward()
        losses.append(loss.detach())
        if number % 4 == 3:
            returned = optimizer.step()
            torch.testing.assert_close(returned, torch.stack(losses[-4:]).sum())
            optimizer.zero_grad()
    data = batches(8)
    base, sharp = OPTIMIZERS["SGD"](two.parameters()), fm.SharpnessAware(two, rule)
    for four in (data[:4], data[4:]):
        base.zero_grad()
        sharp.backward(lambda *four: sum(loss_of(two)(x, y) / 4 for x, y in four), *four)
        base.step()
    for ours, expected in zip(weights(one), weights(two), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)  # sums in another order


def test_every_micro_batch_is_replayed_with_its_own_dropout_masks() -> None:
    model = noisy()
    masks: list[Tensor] = []
    model[3].register_forward_hook(lambda module, args, output: masks.append(output == 0.0))
    optimizer = replayed(task := Task(model), fm.sam(0.0001))
    for x, y in batches(3):
        (task(x, y=y) / 3).backward()
    optimizer.step()
    assert len(masks) == 6
    assert all(torch.equal(masks[i], masks[i + 3]) for i in range(3))
    assert not torch.equal(masks[0], masks[1])
    assert model[1].num_batches_tracked == 3


def test_autocast_is_as_it_was_at_the_call() -> None:
    one, two = smooth(torch.float32), smooth(torch.float32)
    seen: list[Any] = []
    one[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    optimizer = replayed(task := Task(one))
    data = batches(3, dtype=torch.float32)

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return nn.functional.cross_entropy(two(x), y)

    sharp, base = fm.SharpnessAware(two, fm.sam(0.3)), OPTIMIZERS["SGD"](two.parameters())
    for x, y in data:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = task(x, y=y)
        loss.backward()
        optimizer.step()
        base.zero_grad()
        sharp.backward(loss_fn, x, y)
        base.step()
    assert seen == [torch.bfloat16] * 6
    assert same_bits(weights(one), weights(two))


def test_a_call_that_is_not_backpropagated_does_not_count_and_is_not_kept() -> None:
    one, two = smooth(), smooth()
    optimizer = replayed(task := Task(one))
    (x, y), (other, labels) = batches(2)
    lost = torch.randn(6, 4)
    gone = weakref.ref(lost)
    task(lost, y=labels)
    del lost
    gc.collect()
    assert gone() is None
    with torch.no_grad():
        task(other, y=labels)
    task.calls = 0
    task(x, y=y).backward()
    optimizer.step()
    assert task.calls == 2
    plainly(two, fm.sam(0.3), OPTIMIZERS["SGD"], batches(1))
    assert same_bits(weights(one), weights(two))


def test_a_step_forgets_its_calls() -> None:
    optimizer = replayed(task := Task(smooth()))
    kept = torch.randn(6, 4)
    gone = weakref.ref(kept)
    task(kept, y=batches(1)[0][1]).backward()
    optimizer.step()
    del kept
    gc.collect()
    assert gone() is None
    x, y = batches(1)[0]
    task(x, y=y).backward()
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="replay must have returned a loss that was backprop"):
        optimizer.step()


def test_a_loss_computed_outside_the_module_is_refused() -> None:
    """HF's label smoothing, for one."""
    model, (batch,) = smooth(), batches(1)
    optimizer = replayed(model)
    loss_of(model)(*batch).backward()
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(RuntimeError, match="since the last step, got none from Sequential"),
    ):
        optimizer.step()


def test_clipping_that_only_the_first_pass_would_see_is_refused_and_max_norm_is_right() -> None:
    one, two, ((x, y),) = smooth(), smooth(), batches(1)
    optimizer = replayed(task := Task(one))
    task(x, y=y).backward()
    nn.utils.clip_grad_norm_(one.parameters(), 0.01)
    with (
        restored(one.parameters(), and_gradients=True),
        pytest.raises(RuntimeError, match="gradients must reach step as backward left them, got"),
    ):
        optimizer.step()
    optimizer = replayed(task := Task(one), max_norm=0.01)
    optimizer.zero_grad()
    task(x, y=y).backward()
    optimizer.step()
    fm.SharpnessAware(two, fm.sam(0.3)).backward(loss_of(two), x, y)
    nn.utils.clip_grad_norm_(two.parameters(), 0.01)
    assert same_bits(gradients(one), gradients(two))


@pytest.mark.parametrize("unscaled_before", [False, True])
def test_a_scaler_that_steps_is_refused(unscaled_before: bool) -> None:
    optimizer = replayed(task := Task(smooth(torch.float32)))
    scaler = torch.amp.GradScaler("cpu")
    ((x, y),) = batches(1, dtype=torch.float32)
    scaler.scale(task(x, y=y)).backward()
    if unscaled_before:
        scaler.unscale_(optimizer)
    with (
        restored(task.parameters()),
        pytest.raises(RuntimeError, match="step must not be called by a GradScaler"),
    ):
        scaler.step(optimizer)


def test_a_replay_that_raises_leaves_everything_as_it_was() -> None:
    model, ((x, y),) = noisy(), batches(1)
    optimizer = replayed(task := Task(model))
    task(x, y=y).backward()
    buffers = copy.deepcopy(dict(model.named_buffers()))

    def broken(loss: Tensor) -> Tensor:
        raise ArithmeticError("the second pass")

    task.form = broken
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(ArithmeticError, match="the second pass"),
    ):
        optimizer.step()
    assert same_bits(dict(model.named_buffers()), buffers)
    task.form = lambda loss: loss.detach().expand(2)
    task.zero_grad()
    task.form = lambda loss: loss
    task(x, y=y).backward()
    task.form = lambda loss: None
    with pytest.raises(RuntimeError, match="replay must return its loss again, got none"):
        optimizer.step()


def test_a_closure_may_be_there_as_well() -> None:
    one, two = smooth(), smooth()
    optimizer = replayed(task := Task(one))
    for x, y in batches(3):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = task(x, y=y)
            loss.backward()
            return loss

        optimizer.step(closure)
    plainly(two, fm.sam(0.3), OPTIMIZERS["SGD"], batches(3))
    assert same_bits(weights(one), weights(two))


def test_a_copy_of_the_module_is_not_recorded() -> None:
    """An average of the weights, as timm keeps one, is a copy of the module."""
    optimizer = replayed(task := Task(smooth()))
    average, ((x, y),) = copy.deepcopy(task), batches(1)
    average(x, y=y).backward()
    with pytest.raises(RuntimeError, match="replay must have returned a loss that was backprop"):
        optimizer.step()


def test_resuming_changes_nothing_and_schedulers_do_not_warn() -> None:
    def loop(task: Task, optimizer: Any, data: Any) -> None:
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
        for x, y in data:
            optimizer.zero_grad()
            task(x, y=y).backward()
            optimizer.step()
            scheduler.step()

    data, rule = batches(6), fm.with_probability(fm.sam(0.3), 0.5)
    straight = replayed(one := Task(smooth()), rule)
    loop(one, straight, data[:3])
    resumed = replayed(two := Task(smooth(seed=8)), rule)
    two.load_state_dict(one.state_dict())
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    loop(one, straight, data[3:])
    loop(two, resumed, data[3:])
    assert same_bits(weights(one), weights(two))


def test_a_group_that_is_added_is_replayed() -> None:
    model, ((x, y),) = smooth(), batches(1)
    task = Task(model)
    base = torch.optim.SGD(model[0].parameters(), lr=0.1)
    optimizer = fm.SharpnessAwareOptimizer(base, fm.sam(0.3), replay=task)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    twin = smooth()
    task(x, y=y).backward()
    optimizer.step()
    plainly(twin, fm.sam(0.3), lambda params: torch.optim.SGD(params, lr=0.1), [(x, y)])
    assert same_bits(weights(model), weights(twin))


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = replayed(task := Task(smooth()))
    ((x, y),) = batches(1)
    task(x, y=y).backward()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="replay must run in one process, got 2"):
        optimizer.step()


def test_clipping_that_changes_nothing_is_not_refused() -> None:
    """Hugging Face's trainer clips to an infinite norm, to learn the norm."""
    one, two, ((x, y),) = smooth(), smooth(), batches(1)
    optimizer = replayed(task := Task(one))
    task(x, y=y).backward()
    nn.utils.clip_grad_norm_(one.parameters(), float("inf"))
    optimizer.step()
    plainly(two, fm.sam(0.3), OPTIMIZERS["SGD"], [(x, y)])
    assert same_bits(weights(one), weights(two))
