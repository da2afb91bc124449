"""The contract: what every member keeps, with every base optimizer where that matters."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from family import Case
from members import (
    BUSY,
    KEEPING,
    MEMBERS,
    ONE_PASS,
    RANDOM,
    REMEMBERING,
    STALE,
    function,
    sharpness_aware,
)
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
from torch import Tensor, nn

import flatminima as fm
from flatminima.rules import schedule, zoo

every_member = pytest.mark.parametrize("case", MEMBERS, ids=str)
without_memory = pytest.mark.parametrize(
    "case", [case for case in MEMBERS if function(case) not in REMEMBERING], ids=str
)
slow = pytest.mark.slow
every_dtype = pytest.mark.parametrize(
    "dtype",
    [
        *(pytest.param(dtype, marks=slow) for dtype in (torch.float64, torch.float16)),
        *(torch.float32, torch.bfloat16),
    ],
)
every_base = pytest.mark.parametrize(
    "base",
    [base if base == "SGD" else pytest.param(base, marks=slow) for base in OPTIMIZERS],
)
STEPS, SAVED = 15, 7


def passes(case: Case) -> int:
    """How often a busy step of `case` evaluates the loss."""
    model = smooth()
    loss_fn = Counted(loss_of(model))
    sharpness_aware(case, model, step=BUSY).backward(loss_fn, *batches(1)[0])
    return len(loss_fn.seen)


# ---------------------------------------------------------------------------------- the list itself


def test_every_function_of_the_zoo_and_every_schedule_of_rules_is_a_member():
    wrappers = {name for name in schedule.__all__ if name.islower()}
    assert {function(case) for case in MEMBERS} == {*zoo.__all__, *wrappers}


@every_member
def test_a_busy_step_looks_uphill(case: Case):
    model, (before, batch) = smooth(), batches(2)
    loss_fn = Counted(loss_of(model), look=lambda: weights(model))
    sharp = sharpness_aware(case, model, step=BUSY)
    if function(case) in KEEPING:  # some look uphill along what they saw before
        sharp.backward(loss_of(model), *before)
        sharp.load_state_dict({**sharp.state_dict(), "step": BUSY})
    sharp.backward(loss_fn, *batch)
    assert not same_bits(loss_fn.seen[-1], weights(model))
    assert (len(loss_fn.seen) == 1) is (function(case) in ONE_PASS)


@every_member
def test_a_rule_prints_as_the_call_that_makes_it(case: Case):
    assert repr(sharpness_aware(case, smooth()).rule).startswith(f"{function(case)}(")


# --------------------------------------------------------------------------- .grad, as torch has it


@every_member
def test_backward_sets_grad_first_and_accumulates_in_the_same_tensors_after(case: Case):
    model, data = noisy(), batches(4)
    alone, together = sharpness_aware(case, model), sharpness_aware(case, model)
    torch.manual_seed(3)
    apart = []
    for batch in data:
        model.zero_grad()
        alone.backward(loss_of(model), *batch)
        apart.append(gradients(model))
    torch.manual_seed(3)
    model.zero_grad()
    together.backward(loss_of(model), *data[0])
    first = [param.grad for param in model.parameters()]
    assert same_bits(copied(first), apart[0])
    for batch in data[1:]:
        together.backward(loss_of(model), *batch)
    assert all(param.grad is grad for param, grad in zip(model.parameters(), first, strict=True))
    total = apart[0]
    for more in apart[1:]:
        total = [a + b for a, b in zip(total, more, strict=True)]
    assert same_bits(gradients(model), total)


@every_member
def test_grad_is_nobody_elses_memory(case: Case):
    """What a rule remembers must survive an optimizer that scales or clips `.grad` in place."""
    model, data = smooth(), batches(3)
    sharp = sharpness_aware(case, model)
    for batch in data:
        sharp.backward(loss_of(model), *batch)
        remembered = copy.deepcopy(sharp.state_dict()["memory"])
        with restored(model.parameters()):
            for param in model.parameters():
                param.grad.mul_(0.0)
        assert same_bits(sharp.state_dict()["memory"], remembered)


@every_member
def test_a_loss_scale_multiplies_the_direction_and_nothing_else(case: Case):
    model, (batch,) = smooth(), batches(1)
    plain, scaled = (sharpness_aware(case, model, step=BUSY) for _ in range(2))
    loss = plain.backward(loss_of(model), *batch)
    expected = [1024.0 * grad for grad in gradients(model)]
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert torch.equal(scaled.backward(loss_of(model), *batch, scaler=scaler), loss)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- the weights, there and back


@every_member
@every_dtype
def test_the_weights_are_bit_for_bit_what_they_were(case: Case, dtype: torch.dtype):
    model = smooth(dtype)
    with torch.no_grad():
        model[0].bias[0], model[0].bias[1] = -0.0, torch.finfo(dtype).tiny
    sharp = sharpness_aware(case, model, step=BUSY)
    with restored(model.parameters()):
        for batch in batches(3, dtype=dtype):
            sharp.backward(loss_of(model), *batch)
    assert all(grad.dtype == dtype and grad.isfinite().all() for grad in gradients(model))


@every_member
@every_dtype
def test_a_loss_that_raises_in_any_pass_changes_nothing(case: Case, dtype: torch.dtype):
    model, (batch,) = smooth(dtype), batches(1, dtype=dtype)
    for at in range(1, passes(case) + 1):
        for param in model.parameters():
            param.grad = torch.full_like(param, 0.5)
        sharp = sharpness_aware(case, model, step=BUSY)
        with (
            restored(model.parameters(), and_gradients=True),
            pytest.raises(ArithmeticError, match=f"pass {at}"),
        ):
            sharp.backward(Counted(loss_of(model), raise_at=at), *batch)
        assert sharp.state_dict()["step"] == BUSY


@every_member
def test_a_step_that_raised_leaves_no_trace_in_the_next_one(case: Case):
    model, (before, batch) = noisy(), batches(2)
    whole, shaken = (sharpness_aware(case, model, step=BUSY) for _ in range(2))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for sharp, at in ((whole, None), (shaken, passes(case))):
        model.zero_grad()
        model.load_state_dict(buffers, strict=False)
        if at is not None:
            state = copy.deepcopy(sharp.state_dict())
            with pytest.raises(ArithmeticError, match="pass"):
                sharp.backward(Counted(loss_of(model), raise_at=at), *before)
            assert all(param.grad is None for param in model.parameters())
            sharp.load_state_dict(state)
        torch.manual_seed(4)
        sharp.backward(loss_of(model), *batch)
        if at is None:
            expected = gradients(model)
    assert same_bits(gradients(model), expected)


# -------------------------------------------------------------------------------------- radius zero


def trained(case: Case | None, base: str, steps: int = 20) -> dict[str, Any]:
    """What is left of a short run; plain training without a case, else with radius 0."""
    model = noisy()
    optimizer = OPTIMIZERS[base](model.parameters())
    sharp = case and sharpness_aware(case, model, optimizer, rho=0.0)
    torch.manual_seed(5)
    losses = []
    for batch in batches(steps):
        optimizer.zero_grad()
        if sharp:
            losses.append(sharp.backward(loss_of(model), *batch))
        else:
            loss = loss_of(model)(*batch)
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
    state = optimizer.state_dict()["state"]
    return {
        "model": dict(model.state_dict()),
        "optimizer": state,
        "losses": losses,
        "random": torch.get_rng_state(),
    }


@every_member
@every_base
def test_radius_zero_is_the_base_optimizer_bit_for_bit(case: Case, base: str):
    ours, plain = trained(case, base), trained(None, base)
    for name in plain:
        assert same_bits(ours[name], plain[name]), f"the {name} differs"


# ----------------------------------------------------------------------------------------- resuming


def run(case: Case, base: str, saved: io.BytesIO, *, same_noise: bool, resumed: bool):
    """Train from the start, saving in the middle; or from what was saved there."""
    model = noisy()
    optimizer = OPTIMIZERS[base](model.parameters())
    sharp = sharpness_aware(case, model, optimizer, same_noise=same_noise)
    parts = {"model": model, "optimizer": optimizer, "sharp": sharp}
    torch.manual_seed(6)
    first = 0
    if resumed:
        torch.manual_seed(99)
        state = torch.load(saved, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        first = SAVED
    for step, batch in enumerate(batches(STEPS)[first:], first):
        if step == SAVED and not resumed:
            torch.save(state_of(parts), saved)
            saved.seek(0)
        optimizer.zero_grad()
        sharp.backward(loss_of(model), *batch)
        optimizer.step()
    return state_of(parts)


def state_of(parts: dict[str, Any]) -> dict[str, Any]:
    state = {name: part.state_dict() for name, part in parts.items()}
    return {**state, "random": torch.get_rng_state()}


@every_member
@every_base
def test_resuming_changes_nothing(case: Case, base: str):
    same_noise = base != "Adagrad"  # one of the bases with fresh noise in every pass
    saved = io.BytesIO()
    whole = run(case, base, saved, same_noise=same_noise, resumed=False)
    resumed = run(case, base, saved, same_noise=same_noise, resumed=True)
    for name in whole:
        assert same_bits(resumed[name], whole[name]), f"the {name} differs"


@every_member
def test_a_state_holds_no_copy_of_the_weights(case: Case):
    model = nn.Linear(4, 300)
    sharp = sharpness_aware(case, model)
    for x, _ in batches(3):
        sharp.backward(lambda x: model(x).square().mean(), x)
    held = [leaf for leaf in leaves(sharp.state_dict()["memory"]) if isinstance(leaf, Tensor)]
    if function(case) in KEEPING:
        shapes = [param.shape for param in model.parameters()]
        assert [leaf.shape for leaf in held] == shapes  # one vector, and not of the weights
        assert not any(torch.allclose(a, b) for a, b in zip(held, weights(model), strict=True))
    else:
        assert all(leaf.numel() <= 6 * 4 for leaf in held)  # a batch at most
    assert function(case) in REMEMBERING or sharp.state_dict()["memory"] == {}


# -------------------------------------------------------------------- parameters without a gradient


class Branches(nn.Module):
    """A part for every pass, one for the first only, one for the further ones, and one for none."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("always", "first", "later", "never"):
            setattr(self, name, nn.Parameter(torch.tensor([1.0, -2.0, 0.5])))
        self.calls = 0

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        part = self.first if self.calls == 1 else self.later
        return ((x[:, :3] * self.always).sum() + (x[:, :3] * part).square().sum()) / len(x)


@every_member
def test_parameters_without_a_gradient_behave_as_in_torch(case: Case):
    model, (batch,) = Branches(), batches(1)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    sum(param.square().sum() for param in model.parameters()).backward()
    optimizer.step()  # there is a momentum now, and a weight decay, that could move a parameter
    optimizer.zero_grad()
    with restored(model.parameters()):
        sharpness_aware(case, model, optimizer, step=BUSY).backward(model.loss, *batch)
    assert model.never.grad is None
    assert model.always.grad is not None and model.always.grad.isfinite().all()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimizer.step()
    for name, param in model.named_parameters():
        assert same_bits(param, before[name]) is (param.grad is None), name


@every_member
def test_what_has_no_gradient_is_never_displaced(case: Case):
    model, (batch,) = smooth(), batches(1)
    model[0].requires_grad_(False)
    model.unused = nn.Parameter(torch.ones(3))
    still = [*model[0].parameters(), model.unused]
    if function(case) in ONE_PASS:
        still.pop()  # that it is unused is seen after the only pass
    loss_fn = Counted(lambda x, y: loss_of(model[:3])(x, y), look=lambda: copied(still))
    sharpness_aware(case, model, step=BUSY).backward(loss_fn, *batch)
    assert all(same_bits(seen, copied(still)) for seen in loss_fn.seen)
    assert all(param.grad is None for param in still)


# -------------------------------------------------------------------- zero and non-finite gradients


@every_member
@every_dtype
def test_a_zero_gradient_gives_zero(case: Case, dtype: torch.dtype):
    model, ((x, _),) = smooth(dtype), batches(1, dtype=dtype)
    loss_fn = Counted(lambda x: (model(x) * 0.0).sum(), look=lambda: weights(model))
    sharp = sharpness_aware(case, model, step=BUSY)
    with restored(model.parameters()):
        sharp.backward(loss_fn, x)
    assert all((grad == 0).all() for grad in gradients(model))
    if function(case) not in RANDOM:
        assert all(same_bits(seen, weights(model)) for seen in loss_fn.seen)


class Fragile(nn.Module):
    """Its loss overflows at some calls: in one coordinate (inf), or altogether (nan)."""

    def __init__(self, calls: set[int], value: float) -> None:
        super().__init__()
        self.body, self.slope = noisy(), nn.Parameter(torch.ones(3))
        self.calls, self.value, self.size = calls, value, 1.0
        self.seen: list[list[Tensor]] = []

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self.seen.append(weights(self))
        value = self.value if len(self.seen) in self.calls else 1.0
        loss = self.size * loss_of(self.body)(x, y)
        if math.isnan(value):
            return (loss + self.slope.sum()) * value
        return loss + self.slope @ torch.tensor([1.0, value, -1.0])


SPOILT = [
    (case, which)
    for case in MEMBERS
    for which in ("first", "second", "every")
    if which != "second" or function(case) not in ONE_PASS
]


@pytest.mark.parametrize(("case", "which"), SPOILT, ids=[f"{c}-{w}" for c, w in SPOILT])
@pytest.mark.parametrize("value", [math.inf, pytest.param(math.nan, marks=slow)], ids=str)
def test_a_non_finite_gradient_makes_the_direction_non_finite_and_nothing_else(
    case: Case, which: str, value: float
):
    before, batch, after = batches(3)
    model = Fragile(set(), value)
    sharp = sharpness_aware(case, model, step=BUSY)
    sharp.backward(model.loss, *before)  # what is remembered must not be spoilt either
    model.calls = {"first": {1}, "second": {2}, "every": set(range(1, 9))}[which]
    model.size = 10.0  # a large gradient, for a member that waits for one
    with restored(model.parameters()):
        for _ in range(20):  # a member that looks uphill by chance: until it does
            sharp.load_state_dict({**sharp.state_dict(), "step": BUSY})
            model.seen.clear()
            model.zero_grad()
            sharp.backward(model.loss, *batch)
            if model.calls & set(range(1, len(model.seen) + 1)):
                break
    assert all(part.isfinite().all() for seen in model.seen for part in seen)
    if which != "second" and function(case) not in ONE_PASS | STALE:
        assert all(same_bits(seen, weights(model)) for seen in model.seen[:2])
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    for leaf in leaves(sharp.state_dict()["memory"]):
        assert torch.as_tensor(leaf).isfinite().all()
    assert not all(grad.isfinite().all() for grad in gradients(model))
    model.calls = set()
    model.zero_grad()
    sharp.backward(model.loss, *after)
    assert all(grad.isfinite().all() for grad in gradients(model))


# ----------------------------------------------------------------------------------- several groups


@without_memory
def test_one_group_of_all_examples_is_the_whole_batch_bit_for_bit(case: Case):
    model, (batch,) = noisy(), batches(1)
    found = []
    for m in (None, 6, 7):
        model.zero_grad()
        sharpness_aware(case, model, step=BUSY, m=m).backward(loss_of(model), *batch)
        found.append(gradients(model))
    assert same_bits(found[1], found[0]) and same_bits(found[2], found[0])


@without_memory
def test_each_example_has_its_own_displacement_when_m_is_one(case: Case):
    model, (batch,) = smooth(), batches(1)
    sharpness_aware(case, model, step=BUSY, m=1).backward(loss_of(model), *batch)
    found = gradients(model)
    model.zero_grad()
    single = sharpness_aware(case, model)
    for x, y in zip(*batch, strict=True):
        single.load_state_dict({**single.state_dict(), "step": BUSY})
        single.backward(loss_of(model), x[None], y[None])
    torch.testing.assert_close(found, [grad / 6 for grad in gradients(model)])


@pytest.mark.parametrize("case", [c for c in MEMBERS if function(c) in REMEMBERING], ids=str)
def test_a_rule_that_remembers_refuses_groups(case: Case):
    model, (batch,) = smooth(), batches(1)
    sharp = sharpness_aware(case, model, m=2)
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(RuntimeError, match="must see one gradient per step, got groups of m"),
    ):
        sharp.backward(loss_of(model), *batch)


# ---------------------------------------------------------------------------------------- observers


@every_member
def test_observers_change_nothing(case: Case):
    def read(step: fm.observe.Step) -> None:
        for vector in (step.w, step.g, step.p, step.e, step.d):
            assert vector is None or (vector.parts and vector.norm() >= 0)

    found = []
    for observe in ([], [read, fm.observe.RegionShares()]):
        model = noisy()
        sharp = sharpness_aware(case, model, step=BUSY, observe=observe)
        optimizer = OPTIMIZERS["SGD"](model.parameters())
        torch.manual_seed(7)
        for batch in batches(3):
            optimizer.zero_grad()
            sharp.backward(loss_of(model), *batch)
            optimizer.step()
        found.append((dict(model.state_dict()), sharp.state_dict(), torch.get_rng_state()))
    assert same_bits(found[0], found[1])
