"""`SharpnessAwareOptimizer.step(closure)`: torch's contract, and the faults of other wrappers."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import (
    OPTIMIZERS,
    Counted,
    batches,
    copied,
    gradients,
    leaves,
    loss_of,
    noisy,
    restored,
    same_bits,
    smooth,
    weights,
)
from ranks import run_all
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.optim import lr_scheduler

import flatminima as fm

RULES = [fm.sam(0.3), fm.asam(0.3), fm.gsam(0.3), fm.usam(0.3), fm.hybrid({fm.Region.GENTLER}, 0.3)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule).partition("(")[0])
every_base = pytest.mark.parametrize("base", OPTIMIZERS.values(), ids=OPTIMIZERS)


def wrapped(model: nn.Module, rule: Any = None, base: Any = None, **keywords: Any) -> Any:
    make = base or OPTIMIZERS["SGD"]
    return fm.SharpnessAwareOptimizer(make(model.parameters()), rule or fm.sam(0.3), **keywords)


def closure_of(
    optimizer: Any, loss_fn: Callable[..., Tensor], batch: Any, as_float: bool = False
) -> Callable[[], Any]:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_fn(*batch)
        loss.backward()
        return loss.item() if as_float else loss

    return closure


def trained(model: nn.Module, optimizer: Any, data: list[Any]) -> list[Tensor]:
    return [optimizer.step(closure_of(optimizer, loss_of(model), batch)) for batch in data]


def plainly(
    model: nn.Module, rule: Any, base: Any, data: list[Any], **keywords: Any
) -> list[Tensor]:
    """The same with `SharpnessAware.backward`."""
    optimizer, losses = base(model.parameters()), []
    sharp = fm.SharpnessAware(model, rule, **keywords)
    for batch in data:
        optimizer.zero_grad()
        losses.append(sharp.backward(loss_of(model), *batch))
        optimizer.step()
    return losses


@every_rule
@every_base
def test_a_closure_is_the_same_as_backward(rule: Any, base: Any) -> None:
    one, two = noisy(), noisy()
    torch.manual_seed(5)
    losses = trained(one, wrapped(one, rule, base), batches(6))
    random = torch.get_rng_state()
    torch.manual_seed(5)
    assert same_bits(losses, plainly(two, rule, base, batches(6)))
    assert same_bits(weights(one), weights(two))
    assert same_bits(list(one.buffers()), list(two.buffers()))
    assert torch.equal(random, torch.get_rng_state())


@every_base
def test_a_radius_of_zero_is_the_base_optimizer(base: Any) -> None:
    one, two = noisy(), noisy()
    torch.manual_seed(5)
    trained(one, wrapped(one, fm.sam(0.0), base), batches(5))
    torch.manual_seed(5)
    optimizer = base(two.parameters())
    for batch in batches(5):
        optimizer.step(closure_of(optimizer, loss_of(two), batch))
    assert same_bits(weights(one), weights(two))


def test_a_step_alone_runs_both_passes_and_returns_the_clean_loss() -> None:
    model, (batch,) = smooth(), batches(1)
    clean = loss_of(model)(*batch).detach()
    optimizer = wrapped(model)
    loss_fn = Counted(loss_of(model), look=lambda: weights(model))
    loss = optimizer.step(closure_of(optimizer, loss_fn, batch))
    assert same_bits(loss, clean) and not loss.requires_grad
    assert len(loss_fn.seen) == 2
    assert not same_bits(loss_fn.seen[0], loss_fn.seen[1])


def test_a_closure_may_return_a_float() -> None:
    one, two = smooth(), smooth()
    optimizer = wrapped(one)
    for batch in batches(3):
        loss = optimizer.step(closure_of(optimizer, loss_of(one), batch, as_float=True))
        assert loss.dim() == 0
    trained(two, wrapped(two), batches(3))
    assert same_bits(weights(one), weights(two))


def test_a_loss_of_zero_still_updates() -> None:
    model = smooth()
    optimizer, before = wrapped(model), weights(model)

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        loss = loss_of(model)(x, y)
        return loss - loss.detach()

    optimizer.step(closure_of(optimizer, loss_fn, batches(1)[0]))
    assert not same_bits(weights(model), before)


def test_gradients_set_to_zero_instead_of_none_are_as_good() -> None:
    one, two = smooth(), smooth()
    optimizer = wrapped(one)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = loss_of(one)(*data[0])
        loss.backward()
        return loss

    data = batches(4)
    while data:
        optimizer.step(closure)
        del data[0]
    trained(two, wrapped(two), batches(4))
    assert same_bits(weights(one), weights(two))


def test_micro_batches_within_the_closure_are_one_batch() -> None:
    one, two = smooth(), smooth()
    optimizer, micro = wrapped(one, fm.asam(0.3)), batches(4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = [loss_of(one)(*batch) / 4 for batch in micro]
        for loss in losses:
            loss.backward()
        return torch.stack(losses).sum()

    optimizer.step(closure)
    whole = tuple(torch.cat(parts) for parts in zip(*micro, strict=True))
    trained(two, wrapped(two, fm.asam(0.3)), [whole])
    for ours, expected in zip(weights(one), weights(two), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)  # sums in another order


def test_a_closure_that_adds_to_old_gradients_is_refused() -> None:
    """Lightning's closures, for one, do so when it accumulates."""
    model, (batch,) = smooth(), batches(1)
    optimizer = wrapped(model)

    def closure() -> Tensor:
        loss = loss_of(model)(*batch)
        loss.backward()
        return loss

    loss_of(model)(*batch).backward()
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(RuntimeError, match="closure must set the gradients to zero first, got one"),
    ):
        optimizer.step(closure)
    optimizer.zero_grad()
    optimizer.step(closure)  # with none there, there is nothing to add to


@pytest.mark.parametrize(
    ("closure", "message"),
    [
        (lambda: None, "closure must return the loss, got NoneType"),
        (lambda: torch.ones(2), "closure must return one number, got shape"),
        (lambda: 1.0, "closure must run the backward pass, got no gradient from it"),
    ],
)
def test_a_closure_that_breaks_the_contract_is_refused(closure: Any, message: str) -> None:
    model = smooth()
    optimizer = wrapped(model)
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises((TypeError, RuntimeError), match=message),
    ):
        optimizer.step(closure)


def test_a_step_without_closure_or_replay_is_refused() -> None:
    with pytest.raises(RuntimeError, match="step must be given a closure, got none"):
        wrapped(smooth()).step()


@pytest.mark.parametrize("unscaled_before", [False, True])
def test_a_closure_handed_to_a_scaler_is_refused(unscaled_before: bool) -> None:
    """As Accelerate does, positionally: elsewhere the update is 65536 times too big."""
    model, (batch,) = smooth(torch.float32), batches(1, dtype=torch.float32)
    optimizer, scaler = wrapped(model), torch.amp.GradScaler("cpu")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)(*batch)
        scaler.scale(loss).backward()
        return loss

    message = "step must not be called by a GradScaler, got a call"
    closure()
    if unscaled_before:
        scaler.unscale_(optimizer)
    with restored(model.parameters()), pytest.raises(RuntimeError, match=message):
        scaler.step(optimizer, closure)
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    disabled.step(optimizer, closure_of(optimizer, loss_of(model), batch))


def test_a_raising_closure_leaves_everything_as_it_was() -> None:
    model, (batch,) = noisy(), batches(1)
    optimizer = wrapped(model)
    trained(model, optimizer, [batch])
    state = copy.deepcopy(optimizer.state_dict())
    for call in (1, 2):
        loss_fn = Counted(loss_of(model), raise_at=call)
        with restored(model.parameters()), pytest.raises(ArithmeticError, match=f"pass {call}"):
            optimizer.step(closure_of(optimizer, loss_fn, batch))
        assert same_bits(optimizer.state_dict(), state)
        assert model.training


def test_weights_stay_where_they_are_in_memory() -> None:
    model = noisy()
    optimizer = wrapped(model)
    addresses = [param.data_ptr() for param in model.parameters()]
    trained(model, optimizer, batches(20))
    assert [param.data_ptr() for param in model.parameters()] == addresses


def test_a_parameter_without_a_gradient_in_the_second_pass_is_restored() -> None:
    model, (batch,) = smooth(), batches(1)
    extra = nn.Linear(4, 3)
    params = [*model.parameters(), *extra.parameters()]
    optimizer = fm.SharpnessAwareOptimizer(torch.optim.SGD(params, lr=0.0), fm.sam(0.3))
    calls = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return nn.functional.cross_entropy(model(x) + (extra(x) if len(calls) == 1 else 0.0), y)

    with restored(params):
        optimizer.step(closure_of(optimizer, loss_fn, batch))
    assert all(param.grad is None for param in extra.parameters())


def test_running_statistics_see_each_batch_once() -> None:
    model = noisy()
    optimizer = wrapped(model)
    trained(model, optimizer, batches(3))
    assert model[1].num_batches_tracked == 3


def test_groups_state_and_defaults_are_the_base_optimizers() -> None:
    model = smooth()
    optimizer = wrapped(model)
    for name in ("param_groups", "state", "defaults"):
        assert getattr(optimizer, name) is getattr(optimizer.base, name)
    trained(model, optimizer, batches(2))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state and optimizer.state
    optimizer.param_groups = optimizer.param_groups
    optimizer.defaults = dict(optimizer.defaults)
    assert optimizer.defaults is optimizer.base.defaults


@pytest.mark.parametrize("attached_to_the_base", [False, True])
def test_a_scheduler_changes_the_base_and_does_not_warn(attached_to_the_base: bool) -> None:
    model = smooth()
    optimizer = wrapped(model)
    target = optimizer.base if attached_to_the_base else optimizer
    scheduler = lr_scheduler.LambdaLR(target, lambda epoch: 0.5**epoch)
    for epoch in range(3):
        assert optimizer.base.param_groups[0]["lr"] == 0.1 * 0.5**epoch
        trained(model, optimizer, batches(1))
        scheduler.step()  # warnings are errors here


def test_a_scheduler_still_acts_after_resuming() -> None:
    model = smooth()
    optimizer = wrapped(model)
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    trained(model, optimizer, batches(1))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.05


def test_a_group_may_have_a_radius_of_its_own_and_change_it() -> None:
    one, two = smooth(), smooth()

    def groups(model: nn.Sequential) -> list[dict[str, Any]]:
        return [{"params": model[0].parameters()}, {"params": model[2].parameters(), "rho": 0.0}]

    optimizer = fm.SharpnessAwareOptimizer(torch.optim.SGD(groups(one), lr=0.1), fm.sam(0.3))
    first, second = batches(2)
    seen = Counted(loss_of(one), look=lambda: weights(one))
    optimizer.step(closure_of(optimizer, seen, first))
    at, there = seen.seen
    assert same_bits(at[2:], there[2:]) and not same_bits(at[:2], there[:2])
    base = torch.optim.SGD(two.parameters(), lr=0.1)
    for batch, rho in ((first, 0.0), (second, 0.1)):
        described = groups(two)
        described[1]["rho"] = rho
        base.zero_grad()
        fm.SharpnessAware(described, fm.sam(0.3)).backward(loss_of(two), *batch)
        base.step()
        if rho == 0.0:
            assert same_bits(weights(one), weights(two))
            optimizer.param_groups[1]["rho"] = 0.1
            optimizer.step(closure_of(optimizer, loss_of(one), second))
    assert same_bits(weights(one), weights(two))


RESUMED = [*RULES, fm.while_large(fm.sam(0.3), 0.0), fm.with_probability(fm.sam(0.3), 0.5)]


@pytest.mark.parametrize("rule", RESUMED, ids=lambda rule: repr(rule).partition("(")[0])
@every_base
def test_resuming_changes_nothing(rule: Any, base: Any) -> None:
    data = batches(8)
    straight = smooth()
    first = wrapped(straight, rule, base)
    trained(straight, first, data[:4])
    file = io.BytesIO()
    torch.save({"model": straight.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    resumed = smooth(seed=9)
    second = wrapped(resumed, rule, base)
    resumed.load_state_dict(kept["model"])
    second.load_state_dict(kept["optimizer"])
    trained(straight, first, data[4:])
    trained(resumed, second, data[4:])
    assert same_bits(weights(straight), weights(resumed))
    assert same_bits(first.state_dict(), second.state_dict())


def test_a_state_holds_momentum_and_no_weights() -> None:
    model = smooth()
    optimizer = wrapped(model)
    trained(model, optimizer, batches(2))
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups", "sharp"} and state["sharp"]["version"] == 1
    assert len(state["state"]) == 4
    tensors = [leaf for leaf in leaves(state) if isinstance(leaf, Tensor)]
    assert not any(same_bits(leaf, param) for leaf in tensors for param in weights(model))


def test_a_state_that_is_none_is_refused_and_changes_nothing() -> None:
    model = smooth()
    optimizer = wrapped(model)
    trained(model, optimizer, batches(2))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(
        ValueError, match="state must be one that SharpnessAwareOptimizer.state_dict"
    ):
        optimizer.load_state_dict(optimizer.base.state_dict())
    other = wrapped(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(other.state_dict())
    assert same_bits(optimizer.state_dict(), before)


def test_a_group_that_is_added_is_trained_and_perturbed() -> None:
    one, two, (batch,) = smooth(), smooth(), batches(1)
    optimizer = fm.SharpnessAwareOptimizer(
        torch.optim.SGD(one[0].parameters(), lr=0.1), fm.sam(0.3)
    )
    optimizer.add_param_group({"params": list(one[2].parameters()), "lr": 0.1})
    trained(one, optimizer, [batch])
    trained(two, wrapped(two, base=lambda params: torch.optim.SGD(params, lr=0.1)), [batch])
    assert same_bits(weights(one), weights(two))
    remembering = wrapped(one, fm.while_large(fm.sam(0.3), 0.0))
    trained(one, remembering, [batch])
    with pytest.raises(RuntimeError, match="add_param_group must come before the first step of a"):
        remembering.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_hooks_are_called_once_per_step() -> None:
    model, called = smooth(), []
    optimizer = wrapped(model)
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.base.register_step_pre_hook(lambda *_: called.append("base"))
    trained(model, optimizer, batches(1))
    assert called == ["before", "base", "after"]
    optimizer.register_state_dict_pre_hook(lambda _: called.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"mine": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: called.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda _: called.append("loaded"))
    state = optimizer.state_dict()
    assert state.pop("mine") == 1
    optimizer.load_state_dict(state)
    assert called[3:] == ["saving", "loading", "loaded"]


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("replayed", [False, True])
def test_a_copy_goes_on_alone(duplicate: Any, replayed: bool) -> None:
    model, data = Lossy(), batches(4)
    optimizer = wrapped(model, replay=model if replayed else None)
    lr_scheduler.StepLR(optimizer, 1)  # which puts a function of its own over step

    def step(model: nn.Module, optimizer: Any, batch: Any) -> None:
        closure = closure_of(optimizer, model, batch)
        optimizer.step(closure)

    step(model, optimizer, data[0])
    twin, other = duplicate((model, optimizer))
    assert other.param_groups[0]["params"][0] is next(twin.parameters())
    before = weights(model)
    for batch in data[1:]:
        step(twin, other, batch)
    assert same_bits(weights(model), before)
    for batch in data[1:]:
        step(model, optimizer, batch)
    assert same_bits(weights(model), weights(twin))


class Lossy(nn.Module):
    """A module that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = smooth()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.net(x), y)


def test_the_norm_of_the_direction_can_be_clipped() -> None:
    one, two, (batch,) = smooth(), smooth(), batches(1)
    optimizer = wrapped(one, max_norm=0.01)
    optimizer.step(closure_of(optimizer, loss_of(one), batch))
    fm.SharpnessAware(two, fm.sam(0.3)).backward(loss_of(two), *batch)
    nn.utils.clip_grad_norm_(two.parameters(), 0.01)
    assert same_bits(gradients(one), gradients(two))


def test_what_else_the_base_has_is_there() -> None:
    class Scheduled(torch.optim.SGD):
        def train(self) -> str:
            return "training"

    optimizer = fm.SharpnessAwareOptimizer(Scheduled(smooth().parameters(), lr=0.1), fm.sam())
    assert optimizer.train() == "training"
    assert "Scheduled" in repr(optimizer) and "sam(rho=0.05" in repr(optimizer)
    assert not hasattr(optimizer, "found_inf")
    with pytest.raises(AttributeError, match="has no attribute '_nothing'"):
        optimizer._nothing  # noqa: B018 - looking is the test


def test_observers_see_the_steps() -> None:
    model, seen = smooth(), []
    optimizer = wrapped(model, observe=[seen.append])
    (loss,) = trained(model, optimizer, batches(1))
    assert same_bits(seen[0].loss, loss) and seen[0].e is not None


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"base": 3}, TypeError, "base must be a torch.optim.Optimizer, got int"),
        ({"rule": 3}, TypeError, "rule must be"),
        ({"replay": 3}, TypeError, "replay must be a module that returns its loss, got 3"),
        ({"m": 4}, ValueError, "m must be None for an optimizer, got 4"),
        ({"max_norm": 0.0}, ValueError, "max_norm must be positive or None, got 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(change: Any, kind: Any, message: str) -> None:
    settings = {"base": torch.optim.SGD(smooth().parameters(), lr=0.1), "rule": fm.sam()}
    with pytest.raises(kind, match=message):
        fm.SharpnessAwareOptimizer(**(settings | change))


def test_wrapping_twice_is_refused() -> None:
    optimizer = wrapped(smooth())
    with pytest.raises(TypeError, match="base must be an ordinary optimizer, got Sharpness"):
        fm.SharpnessAwareOptimizer(optimizer, fm.sam())


@pytest.mark.parametrize("rule", [fm.previous_batch(0.1)], ids=["previous_batch"])
def test_a_rule_about_another_batch_is_refused(rule: Any) -> None:
    model, (batch,) = smooth(), batches(1)
    optimizer = wrapped(model, rule)
    with pytest.raises(RuntimeError, match="must"):
        optimizer.step(closure_of(optimizer, loss_of(model), batch))


@pytest.mark.parametrize("replayed", [False, True])
def test_a_question_about_another_batch_is_refused(replayed: bool) -> None:
    def elsewhere(look: fm.Look) -> Any:
        return (yield fm.Ask(fm.HERE, batch=(1,)))

    model, (batch,) = Lossy(), batches(1)
    optimizer = wrapped(model, elsewhere, replay=model if replayed else None)
    with pytest.raises(
        RuntimeError, match="rule must ask about the batch at hand only, got another"
    ):
        optimizer.step(closure_of(optimizer, model, batch))
    assert copied(model.parameters())


def step_of_a_rank(rank: int, model: nn.Module) -> None:
    x, y = batches(1, 12)[0]
    mine = (x[6 * rank :][:6], y[6 * rank :][:6])
    optimizer = wrapped(model, fm.asam(0.3))
    for _ in range(2):
        optimizer.step(closure_of(optimizer, loss_of(model), mine))


def assert_like_one_process(found: list[Tensor]) -> None:
    model = smooth()
    optimizer = wrapped(model, fm.asam(0.3))
    trained(model, optimizer, batches(1, 12) * 2)
    for ours, expected in zip(found, weights(model), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)  # sums in another order


def ddp(rank: int) -> None:
    model = smooth()
    step_of_a_rank(rank, nn.parallel.DistributedDataParallel(model))
    assert_like_one_process(weights(model))


def fsdp2(rank: int) -> None:
    model = smooth()
    fully_shard(model)
    step_of_a_rank(rank, model)
    assert_like_one_process([param.full_tensor().detach() for param in model.parameters()])  # pyright: ignore


@pytest.mark.slow
def test_a_closure_on_two_ranks_is_one_process_with_all_of_the_batch(tmp_path: Path) -> None:
    assert run_all(tmp_path, {"DDP": ddp, "FSDP2": fsdp2}) == {"DDP": "", "FSDP2": ""}
