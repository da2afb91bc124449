"""`SharpnessAware.backward`: what it returns, what it refuses, and the company it keeps."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from nets import (
    Counted,
    batches,
    copied,
    gradients,
    loss_of,
    noisy,
    restored,
    same_bits,
    smooth,
    weights,
)
from torch import Tensor, nn
from torch.optim import lr_scheduler

import flatminima as fm
from flatminima import perturb
from flatminima.vector import Vector

RULES = [fm.sam(0.3), fm.usam(0.3), fm.asam(0.3), fm.gsam(0.3), fm.hybrid({fm.Region.GENTLER}, 0.3)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule).partition("(")[0])


def grown(model: nn.Module) -> nn.Module:
    """The model with something in `.grad`."""
    for param in model.parameters():
        param.grad = torch.full_like(param, 0.5)
    return model


# ------------------------------------------------------------------------------- what it returns


@every_rule
def test_the_loss_is_that_at_the_weights_detached(rule: object):
    model, (batch,) = smooth(), batches(1)
    expected = loss_of(model)(*batch)
    loss = fm.SharpnessAware(model, rule).backward(loss_of(model), *batch)
    assert same_bits(loss, expected.detach()) and not loss.requires_grad


def test_the_loss_is_the_one_on_the_batch_at_hand():
    model, data = smooth(), batches(3)
    sharp = fm.SharpnessAware(model, fm.previous_batch(rho=0.0))
    for batch in data:
        assert same_bits(sharp.backward(loss_of(model), *batch), loss_of(model)(*batch).detach())


def test_a_loss_of_exactly_zero_still_gives_a_direction():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    loss = fm.SharpnessAware([w], fm.sam(0.1)).backward(lambda: (w - w.detach()).sum())
    assert loss == 0.0 and same_bits(w.grad, torch.ones(2))


def test_a_batch_is_whatever_the_loss_takes():
    model, ((x, y),) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(0.3))
    sharp.backward(loss_of(model), x, y)
    expected = gradients(model)
    for loss_fn, batch in (
        (lambda: loss_of(model)(x, y), ()),
        (lambda pair: loss_of(model)(pair["x"], pair["y"]), ({"x": x, "y": y},)),
    ):
        model.zero_grad()
        sharp.backward(loss_fn, *batch)
        assert same_bits(gradients(model), expected)


def test_it_works_where_gradients_are_switched_off():
    model, (batch,) = smooth(), batches(1)
    fm.SharpnessAware(model, fm.gsam(0.3)).backward(loss_of(model), *batch)
    expected = gradients(model)
    model.zero_grad()
    with torch.no_grad():
        fm.SharpnessAware(model, fm.gsam(0.3)).backward(loss_of(model), *batch)
        assert not torch.is_grad_enabled()
    assert same_bits(gradients(model), expected)
    assert not any(param.grad.requires_grad for param in model.parameters())


def test_gradients_set_to_zero_instead_of_none_are_added_to():
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(0.3))
    sharp.backward(loss_of(model), *batch)
    expected, objects = gradients(model), [param.grad for param in model.parameters()]
    model.zero_grad(set_to_none=False)
    sharp.backward(loss_of(model), *batch)
    assert same_bits(gradients(model), expected)
    pairs = zip(model.parameters(), objects, strict=True)
    assert all(param.grad is grad for param, grad in pairs)


def test_a_parameter_of_the_first_pass_only_gets_no_gradient_from_sam():
    one, two, both = (nn.Parameter(torch.ones(2)) for _ in range(3))
    calls: list[int] = []

    def loss_fn() -> Tensor:
        calls.append(1)
        return (both * (one if len(calls) == 1 else two)).square().sum()

    fm.SharpnessAware([one, two, both], fm.sam(0.1)).backward(loss_fn)
    assert one.grad is None and two.grad is not None and both.grad is not None


def test_the_weights_stay_where_they_are_in_memory_over_a_hundred_steps():
    model, data = smooth(), batches(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sharp = fm.SharpnessAware(model, fm.sam(0.3))
    with restored(model.parameters()):
        for step in range(100):
            optimizer.zero_grad()
            sharp.backward(loss_of(model), *data[step % 5])
            optimizer.step()


def test_it_prints_how_large_the_model_is_and_the_rule():
    assert repr(fm.SharpnessAware(smooth(), fm.sam(0.3), m=4)).startswith(
        "SharpnessAware(4 parameters, 43 coordinates, sam(rho=0.3, p=2)"
    )


# ------------------------------------------------------------------------------------ backward_fn


@every_rule
def test_backward_fn_is_what_every_pass_calls_on_its_loss(rule: object):
    model, (batch,) = smooth(), batches(1)
    losses: list[Tensor] = []

    def backward_fn(loss: Tensor) -> None:
        losses.append(loss.detach())
        loss.backward()

    loss_fn = Counted(loss_of(model))
    loss = fm.SharpnessAware(model, rule).backward(loss_fn, *batch, backward_fn=backward_fn)
    found = gradients(model)
    model.zero_grad()
    fm.SharpnessAware(model, rule).backward(loss_of(model), *batch)
    assert len(losses) == len(loss_fn.seen) == 2 and same_bits(losses[0], loss)
    assert same_bits(found, gradients(model))


@pytest.mark.parametrize("at", [1, 2])
def test_a_backward_fn_that_raises_changes_nothing(at: int):
    model, (batch,) = grown(smooth()), batches(1)
    calls: list[int] = []

    def backward_fn(loss: Tensor) -> None:
        loss.backward()
        calls.append(1)
        if len(calls) == at:
            raise ArithmeticError("a backward_fn's own trouble")

    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(ArithmeticError, match="a backward_fn's own trouble"),
    ):
        sharp = fm.SharpnessAware(model, fm.gsam())
        sharp.backward(loss_of(model), *batch, backward_fn=backward_fn)


# -------------------------------------------------------------------------------- bad losses


def embedded(model: nn.Module) -> Tensor:
    return nn.functional.embedding(torch.tensor([0, 1]), model[0].weight, sparse=True).sum()


LOSSES = [
    (lambda model: 1.5, "loss_fn must return a 0-d tensor, got float"),
    (lambda model: None, "loss_fn must return a 0-d tensor, got NoneType"),
    (
        lambda model: (model[0].bias.sum(), 1),
        "loss_fn must return a 0-d tensor, got tuple",
    ),
    (
        lambda model: model[0].bias,
        r"loss_fn must return a 0-d tensor, got shape \(5,\); take the mean over the examples",
    ),
    (
        lambda model: model[0].bias.sum().detach(),
        "loss_fn must return a tensor that depends on the parameters, got one without a graph",
    ),
    (embedded, "gradients must be dense, got torch.sparse_coo for a parameter of shape"),
]


@pytest.mark.parametrize(("bad", "match"), LOSSES, ids=[match[-24:] for _, match in LOSSES])
@pytest.mark.parametrize("at", [1, 2])
def test_a_bad_loss_is_refused_and_nothing_changes(
    bad: Callable[[nn.Module], Any], match: str, at: int
):
    model, (batch,) = grown(smooth()), batches(1)
    calls: list[int] = []

    def loss_fn(x: Tensor, y: Tensor) -> Any:
        calls.append(1)
        return bad(model) if len(calls) == at else loss_of(model)(x, y)

    sharp = fm.SharpnessAware(model, fm.gsam())
    state = sharp.state_dict()
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(TypeError, match=match),
    ):
        sharp.backward(loss_fn, *batch)
    assert same_bits(sharp.state_dict(), state)


def test_a_loss_that_does_not_depend_on_the_parameters_gives_no_gradient():
    model, other = smooth(), nn.Parameter(torch.ones(1))
    with restored(model.parameters(), and_gradients=True):
        fm.SharpnessAware(model, fm.sam()).backward(lambda: other.sum())


@every_rule
@pytest.mark.parametrize("m", [None, 2])
def test_a_step_that_raised_is_forgotten(rule: object, m: int | None):
    model, (other,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, rule, m=m)
    state = sharp.state_dict()
    with pytest.raises(ArithmeticError, match="pass 2"):
        sharp.backward(Counted(loss_of(model), raise_at=2), *other)
    assert same_bits(sharp.state_dict(), state)


@pytest.mark.parametrize(
    "rule",
    [fm.previous_batch(0.3), fm.with_probability(fm.sam(0.3)), fm.while_large(fm.sam(0.3), -9.0)],
    ids=lambda rule: repr(rule).partition("(")[0],
)
def test_a_rule_forgets_what_it_remembered_of_a_step_that_raised(rule: object):
    model, (before, other) = smooth(), batches(2)
    sharp = fm.SharpnessAware(model, rule)
    sharp.backward(loss_of(model), *before)
    state = copy.deepcopy(sharp.state_dict())
    with pytest.raises(ArithmeticError, match="pass"):
        for _ in range(20):
            state = copy.deepcopy(sharp.state_dict())
            sharp.backward(Counted(loss_of(model), raise_at=2), *other)
    assert same_bits(sharp.state_dict(), state)


# --------------------------------------------------------------------------------- bad rules


def ask(question: Callable[[fm.Look, Vector], Any]) -> Callable[[fm.Look], Iterator[Any]]:
    """A rule that looks here, and then asks this."""

    def rule(look: fm.Look):
        g = yield fm.HERE
        return (yield question(look, g))

    return rule


def answer(direction: Callable[[fm.Look, Vector], Any]) -> Callable[[fm.Look], Iterator[Any]]:
    """A rule that looks here and uphill, and then returns this."""

    def rule(look: fm.Look):
        g = yield fm.HERE
        p = yield perturb.normalized(look.w, g, 0.3)
        return direction(look, p)

    return rule


def silent(look: fm.Look) -> Iterator[Any]:
    return look.w
    yield


def raising(look: fm.Look, p: Vector) -> Vector:
    raise ArithmeticError("a rule's own trouble, got it")


def longer(look: fm.Look, v: Vector) -> Vector:
    return Vector([*v.parts, torch.ones(1)])


def shorter(look: fm.Look, v: Vector) -> Vector:
    return Vector(v.parts[:-1])


def misshapen(look: fm.Look, v: Vector) -> Vector:
    return Vector([*v.parts[:-1], torch.ones(7)])


def broadcast(look: fm.Look, v: Vector) -> Vector:
    return Vector([*v.parts[:-1], torch.ones(1)])


def other_kind(look: fm.Look, v: Vector) -> Vector:
    return Vector([*v.parts[:-1], torch.ones(3, dtype=torch.int64)])


NONSENSE = [
    (ask(lambda look, g: "uphill"), "rule must yield HERE, a Vector or Ask, got 'uphill'"),
    (ask(lambda look, g: None), "rule must yield HERE, a Vector or Ask, got None"),
    (ask(lambda look, g: list(g)), "rule must yield HERE, a Vector or Ask, got "),
    (ask(longer), "rule must yield .* parts, got"),
    (ask(shorter), "rule must yield .* parts, got"),
    (ask(misshapen), "rule must yield .*, got"),
    (ask(broadcast), "rule must yield .*, got"),
    (answer(lambda look, p: None), "rule must return a Vector of 4 parts, got None"),
    (answer(lambda look, p: list(p)), "rule must return a Vector of 4 parts, got"),
    (answer(lambda look, p: fm.HERE), "rule must return a Vector of 4 parts, got HERE"),
    (answer(longer), "rule must return a Vector of 4 parts, got Vector"),
    (answer(shorter), "rule must return a Vector of 4 parts, got Vector"),
    (answer(misshapen), "rule must return .*, got"),
    (answer(broadcast), "rule must return .*, got"),
    (answer(other_kind), "rule must return .*, got"),
    (silent, "rule must look at least once, got a rule that asks nothing"),
    (lambda look: look.w, "rule must be a generator function of a Look, got one that gives"),
    (lambda look: iter([fm.HERE]), "rule must be a generator function of a Look, got one that"),
    (fm.sam, "rule must .*, got"),
]
NAMES = [
    *("yields a text", "yields None", "yields a list", "yields more parts", "yields fewer parts"),
    *("yields another shape", "yields what broadcasts", "returns None", "returns a list"),
    *("returns HERE", "returns more parts", "returns fewer parts", "returns another shape"),
    *("returns what broadcasts", "returns another kind", "asks nothing", "is a function"),
    *("is an iterator", "is a member that nobody called"),
]


@pytest.mark.parametrize(("rule", "match"), NONSENSE, ids=NAMES)
@pytest.mark.parametrize("full", [True, False], ids=["gradients there", "none there"])
def test_a_rule_that_breaks_the_protocol_is_refused(rule: Any, match: str, full: bool):
    model, (batch,) = smooth(), batches(1)
    if full:
        grown(model)
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises((TypeError, ValueError), match=match),
    ):
        fm.SharpnessAware(model, rule).backward(loss_of(model), *batch)


@pytest.mark.parametrize("rule", [ask(raising), answer(raising)], ids=["asking", "answering"])
def test_a_rule_that_raises_changes_nothing(rule: Any):
    model, (batch,) = grown(noisy()), batches(1)
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(ArithmeticError, match="a rule's own trouble"),
    ):
        fm.SharpnessAware(model, rule).backward(loss_of(model), *batch)
    assert model[1].num_batches_tracked == 1


def test_a_direction_may_be_the_weights_themselves():
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, answer(lambda look, p: look.w))
    sharp.backward(loss_of(model), *batch)
    with restored(model.parameters()):
        for param in model.parameters():
            param.grad.mul_(0.0)


@pytest.mark.parametrize(
    ("keywords", "error", "match"),
    [
        ({"rule": None}, TypeError, r"rule must be a rule such as flatminima.sam\(\), got None"),
        ({"rule": "sam"}, TypeError, r"rule must be a rule such as flatminima.sam\(\), got 'sam'"),
        ({"engine": "fast"}, ValueError, "engine must be 'auto', 'loop', 'vmap' or 'batched', got"),
        ({"sync": "local"}, ValueError, "sync must be 'global' or 'replica', got 'local'"),
        ({"ascent_weight_decay": "1"}, TypeError, "ascent_weight_decay must be .*, got '1'"),
        ({"observe": print}, TypeError, "observe must be .*, got"),
        ({"observe": [None]}, TypeError, "observe must be .*, got"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused(keywords: dict[str, Any], error: type, match: str):
    with pytest.raises(error, match=match):
        fm.SharpnessAware(smooth(), **{"rule": fm.sam(), **keywords})


# ---------------------------------------------------------------------------------- GradScaler


def scaled_run(rule: Any, scale: float | None, **keywords: Any) -> list[Tensor]:
    """The weights after five clipped steps in float32, with a loss scale or without."""
    model = smooth(torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    sharp = fm.SharpnessAware(model, rule, **keywords)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for batch in batches(5, dtype=torch.float32):
        optimizer.zero_grad()
        sharp.backward(loss_of(model), *batch, scaler=scaler)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
    return weights(model)


@every_rule
@pytest.mark.parametrize("keywords", [{}, {"ascent_weight_decay": 0.3}, {"m": 4}], ids=str)
def test_clipped_steps_with_a_loss_scale_are_those_without(rule: Any, keywords: dict[str, Any]):
    expected = scaled_run(rule, None, **keywords)
    torch.testing.assert_close(scaled_run(rule, 2.0**16, **keywords), expected)
    torch.testing.assert_close(scaled_run(rule, 1e3, **keywords), expected)


def test_a_disabled_scaler_changes_nothing():
    model, (batch,) = smooth(), batches(1)
    fm.SharpnessAware(model, fm.gsam(0.3)).backward(loss_of(model), *batch)
    expected = gradients(model)
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    fm.SharpnessAware(model, fm.gsam(0.3)).backward(loss_of(model), *batch, scaler=scaler)
    assert same_bits(gradients(model), expected)


@every_rule
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("m", [None, 3])
def test_an_overflow_in_either_pass_skips_the_step_and_halves_the_scale_once(
    rule: Any, at: int, m: int | None
):
    model, (batch,) = noisy(torch.float32), batches(1, dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1)
    sharp = fm.SharpnessAware(model, rule, m=m, engine="loop")
    loss_fn = Counted(loss_of(model), spoil=lambda call: torch.inf if call == at else 1.0)
    with restored(model.parameters()):
        sharp.backward(loss_fn, *batch, scaler=scaler)
        scaler.step(optimizer)
    assert not optimizer.state_dict()["state"]
    scaler.update()
    assert scaler.get_scale() == 128.0
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    optimizer.zero_grad()
    sharp.backward(loss_of(model), *batch, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 256.0 and optimizer.state_dict()["state"]


def test_the_scale_settles_where_half_precision_holds_it():
    """Activations in float16: the gradients overflow by themselves until the scale is right."""
    model, (batch,) = smooth(torch.float32), batches(1, dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    sharp = fm.SharpnessAware(model, fm.asam(0.3))

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return loss_of(model)(x, y)

    skipped = 0
    for _ in range(40):
        before = weights(model)
        optimizer.zero_grad()
        sharp.backward(loss_fn, *batch, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
        if not same_bits(weights(model), before):
            break
        skipped += 1
    assert 5 < skipped < 30 and scaler.get_scale() == 2.0 ** (30 - skipped)
    assert all(param.isfinite().all() for param in model.parameters())


def test_micro_batches_add_up_under_a_loss_scale():
    model, data = smooth(), batches(3)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for scale in (None, scaler):
        sharp = fm.SharpnessAware(model, fm.gsam(0.3))
        for batch in data:
            sharp.backward(loss_of(model), *batch, scaler=scale)
        if scale is None:
            expected = [64.0 * grad for grad in gradients(model)]
            model.zero_grad()
    torch.testing.assert_close(gradients(model), expected)


def test_backward_fn_is_handed_the_scaled_loss():
    model, (batch,) = smooth(), batches(1)
    handed: list[Tensor] = []
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    loss = fm.SharpnessAware(model, fm.sam()).backward(
        loss_of(model),
        *batch,
        scaler=scaler,
        backward_fn=lambda loss: (handed.append(loss.detach()), loss.backward()),
    )
    torch.testing.assert_close(handed[0], 64.0 * loss)


# ------------------------------------------------------------------------------------ autocast


def cast(model: nn.Module) -> Callable[..., Tensor]:
    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss_of(model)(x, y)

    return loss_fn


@every_rule
@pytest.mark.parametrize("used", [False, True], ids=["cache empty", "cache full"])
def test_autocast_around_the_step_is_autocast_within_the_loss(rule: Any, used: bool):
    model, (batch,) = smooth(torch.float32), batches(1, dtype=torch.float32)
    fm.SharpnessAware(model, rule).backward(cast(model), *batch)
    expected = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if used:
            loss_of(model)(*batch)
        fm.SharpnessAware(model, rule).backward(loss_of(model), *batch)
    assert same_bits(gradients(model), expected)
    model.zero_grad()
    loss_of(model)(*batch).backward()
    distance = Vector(gradients(model)) - Vector(expected)
    assert distance.norm() > 0.01 * Vector(expected).norm()


def test_autocast_sees_the_restored_weights_after_a_step():
    model, (batch,) = smooth(torch.float32), batches(1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fm.SharpnessAware(model, fm.sam(5.0)).backward(loss_of(model), *batch)
        after = loss_of(model)(*batch)
    assert same_bits(after.detach(), cast(model)(*batch).detach())


# ---------------------------------------------------------------------------------------- state


def remembering(look: fm.Look):
    """A rule whose direction is the running mean of what it saw, which it remembers."""
    g = yield fm.HERE
    memory = look.remembered("mean")
    memory["g"] = 0.5 * (memory["g"] + g) if "g" in memory else g
    return memory["g"]


def listing(look: fm.Look):
    """A rule that remembers the last gradients in a list, and returns their sum."""
    memory = look.remembered("last")
    memory["gradients"] = [*memory.get("gradients", []), (yield fm.HERE)][-2:]
    return sum(memory["gradients"][1:], start=memory["gradients"][0])


def test_a_function_is_known_by_its_name_when_a_state_is_loaded():
    """Not by its place in memory, which is another one in the process that resumes."""
    assert "0x" not in fm.SharpnessAware(smooth(), remembering).state_dict()["rule"]


@pytest.mark.parametrize("rule", [remembering, listing], ids=["a vector", "a list of vectors"])
def test_what_a_rule_remembers_survives_a_file(rule: Any):
    model, data = smooth(), batches(4)
    sharp = fm.SharpnessAware(model, rule)
    for batch in data[:2]:
        sharp.backward(loss_of(model), *batch)
    file = io.BytesIO()
    torch.save(sharp.state_dict(), file)
    file.seek(0)
    resumed = fm.SharpnessAware(model, rule)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    found = []
    for one in (sharp, resumed):
        model.zero_grad()
        for batch in data[2:]:
            one.backward(loss_of(model), *batch)
        found.append(gradients(model))
    assert same_bits(found[0], found[1])


def test_what_a_rule_remembers_is_not_what_lies_in_grad():
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, remembering)
    sharp.backward(loss_of(model), *batch)
    kept = copy.deepcopy(sharp.state_dict()["memory"]["mean"]["g"])
    for param in model.parameters():
        param.grad.zero_()
    assert same_bits(sharp.state_dict()["memory"]["mean"]["g"], kept)


def test_a_loaded_state_is_not_changed_by_further_steps():
    model, data = smooth(), batches(3)
    sharp = fm.SharpnessAware(model, remembering)
    sharp.backward(loss_of(model), *data[0])
    state = sharp.state_dict()
    kept = copy.deepcopy(state)
    sharp.load_state_dict(state)
    sharp.backward(loss_of(model), *data[1])
    assert same_bits(state, kept)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rule": "gsam(rho=0.1)"}, r"state has rule gsam\(rho=0.1\), this run has sam"),
        ({"m": 4}, "state has m 4, this run has None"),
    ],
    ids=["rule", "m"],
)
def test_a_state_of_another_run_is_loaded_with_a_warning(change: dict[str, Any], match: str):
    sharp = fm.SharpnessAware(smooth(), fm.sam())
    with pytest.warns(UserWarning, match=match):
        sharp.load_state_dict({**sharp.state_dict(), "step": 3, **change})
    assert sharp.state_dict()["step"] == 3 and sharp.state_dict()["m"] is None


STATES = [
    ({}, "state must be one that SharpnessAware.state_dict returned, got one without version"),
    (
        {"state": {}, "param_groups": []},
        "state must be one that SharpnessAware.state_dict returned",
    ),
    (None, "state must be one that SharpnessAware.state_dict returned, got"),
    ([1, 2], "state must be one that SharpnessAware.state_dict returned, got"),
    ({"version": 99}, "state must be of version 1 or earlier, got 99; update flatminima"),
    ({"memory": {"mean": {"g": {"vector": [None]}}}}, "state must .*, got"),
    ({"generator": torch.zeros(3, dtype=torch.uint8)}, "state must .*, got"),
    ({"step": "three"}, "state must .*, got"),
]


@pytest.mark.parametrize(
    ("bad", "match"),
    STATES,
    ids=[
        "empty",
        "an optimizer's",
        "None",
        "a list",
        "newer",
        "another model's",
        "a bad generator",
        "a bad step",
    ],
)
def test_a_bad_state_is_refused_and_nothing_changes(bad: Any, match: str):
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, remembering)
    sharp.backward(loss_of(model), *batch)
    before = copy.deepcopy(sharp.state_dict())
    whole = isinstance(bad, dict) and bad and set(bad) <= set(before)
    with pytest.raises((ValueError, TypeError), match=match):
        sharp.load_state_dict({**before, "step": 7, **bad} if whole else bad)
    assert same_bits(sharp.state_dict(), before)


# ------------------------------------------------------------------------------- in company


SCHEDULERS = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 5),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, 2
    ),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step)),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_sees_an_ordinary_optimizer(name: str):
    def rates(sharpened: bool) -> list[float]:
        model = smooth()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = SCHEDULERS[name](optimizer)
        sharp = fm.SharpnessAware(model, fm.sam(0.3))
        found = []
        for batch in batches(5):
            optimizer.zero_grad()
            if sharpened:
                sharp.backward(loss_of(model), *batch)
            else:
                loss_of(model)(*batch).backward()
            optimizer.step()
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            found.append(optimizer.param_groups[0]["lr"])
        return found

    assert rates(sharpened=True) == rates(sharpened=False)
    assert len(set(rates(sharpened=True))) > 1


def test_a_radius_may_follow_the_scheduler():
    model, data = smooth(), batches(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen: list[float] = []
    sharp = fm.SharpnessAware(
        model,
        fm.sam(fm.schedule.Proportional(optimizer=optimizer, high=0.4, lr_high=0.1)),
        observe=[lambda step: seen.append(float(step.e.norm()))],
    )
    for batch in data:
        optimizer.zero_grad()
        sharp.backward(loss_of(model), *batch)
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([0.4, 0.2, 0.1])


def test_two_of_them_may_take_turns_on_one_model():
    model, (batch,) = noisy(), batches(1)
    first, second = (fm.SharpnessAware(model, fm.sam(rho)) for rho in (0.1, 0.7))
    fresh = fm.SharpnessAware(model, fm.sam(0.1))
    found = []
    with restored(model.parameters()):
        for sharp in (fresh, first, second, first):
            model.zero_grad()
            torch.manual_seed(3)
            sharp.backward(loss_of(model), *batch)
            found.append(gradients(model))
    assert same_bits(found[1], found[0]) and same_bits(found[3], found[0])
    assert not same_bits(found[2], found[0])


def test_a_model_may_move_to_another_precision_between_steps():
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(0.3))
    sharp.backward(loss_of(model), *batch)
    model.float()
    model.zero_grad()
    with restored(model.parameters()):
        sharp.backward(loss_of(model), *batches(1, dtype=torch.float32)[0])
    assert all(grad.dtype == torch.float32 for grad in gradients(model))


@pytest.mark.parametrize("known", [True, False], ids=["a model", "its parameters"])
@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # of the hook, for "its"
def test_a_compiled_model_is_compiled_once(known: bool):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    eager, inner, data = noisy(), noisy(), batches(4)
    eager[3].p = inner[3].p = 0.0  # a compiled network draws other masks
    compiled = torch.compile(inner, backend=counter)
    found = []
    for model in (eager, compiled):
        sharp = fm.SharpnessAware(model if known else list(model.parameters()), fm.gsam(0.3))
        model.zero_grad()
        for batch in data:
            sharp.backward(loss_of(model), *batch)
        found.append(gradients(model))
    torch.testing.assert_close(found[1], found[0])
    assert inner[1].num_batches_tracked == 4
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_model_of_the_real_compiler_gives_the_same_gradients():
    torch._dynamo.reset()
    eager, data = noisy(), batches(3)
    eager[3].p = 0.0  # a compiled network draws other masks
    inner = copy.deepcopy(eager)
    compiled = torch.compile(inner)
    try:
        compiled(data[0][0])
    except Exception as error:
        pytest.skip(f"no compiler here: {type(error).__name__}")
    inner.load_state_dict(eager.state_dict())
    found = []
    for model in (eager, compiled):
        sharp = fm.SharpnessAware(model, fm.sam(0.3))
        with restored(model.parameters()):
            for batch in data:
                sharp.backward(loss_of(model), *batch)
        found.append((gradients(model), copied(model.buffers())))
    torch.testing.assert_close(found[1], found[0])
    assert inner[1].num_batches_tracked == 3
