"""The protocol: what a rule may ask, what it knows, and what it is called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import by_hand
import pytest
import torch
from nets import same_bits
from talks import talk, vector
from torch import Tensor

import flatminima as fm
from flatminima import HERE, Ask, Conversation, Look, Probe, Region, Vector, perturb
from flatminima.rules.rule import check_radius, member, resumed
from flatminima.rules.schedule import Linear


def sam(look):
    """The rule of the design, word for word."""
    g = yield HERE
    p = yield perturb.normalized(look.w, g, look.rho)
    return p


def gradients(rule: Any, steps: int = 3, **keywords: Any) -> list[Tensor]:
    """What is in `.grad` after a few calls on different batches."""
    w = [part.requires_grad_() for part in by_hand.weights()]
    sharp = fm.SharpnessAware(w, rule, **keywords)
    for x, y in by_hand.batches(steps):
        sharp.backward(lambda x, y: by_hand.network(w, x, y), x, y)
    return [part.grad for part in w]


def slope(e: list[Tensor] | None = None, index: int = 0) -> list[Tensor]:
    """The gradient by hand, at the first weights, of one of the batches."""
    w, batch = by_hand.weights(), by_hand.batches()[index]
    scene = by_hand.Scene(
        w=w,
        batch=batch,
        before=batch,
        step=0,
        lr=0.0,
        own=(),
        weight_decay=0.0,
        memory={},
        generator=torch.Generator(),
    )
    return scene.slope(e)


# ------------------------------------------------------------------------------- rules of one's own


def test_three_lines_are_sam_bit_for_bit():
    assert same_bits(gradients(Conversation(sam, rho=0.05)), gradients(fm.sam(rho=0.05)))


def test_two_slots_are_sam_bit_for_bit():
    assert same_bits(gradients(Probe(perturb.normalized, rho=0.05)), gradients(fm.sam(rho=0.05)))


def test_a_probe_combines_what_it_saw():
    rule = Probe(perturb.normalized, lambda g, p: 0.5 * (g + p), rho=0.3)
    found = gradients(rule, steps=1)
    g = slope()
    p = slope([0.3 * part / by_hand.length(g) for part in g])
    for part, a, b in zip(found, g, p, strict=True):
        torch.testing.assert_close(part, (a + b) / 2, rtol=1e-12, atol=1e-15)


def test_a_bare_generator_function_is_a_rule():
    def both_sides(look):
        g = yield HERE
        e = perturb.normalized(look.w, g, 0.3)
        p = yield e
        q = yield -e
        return 0.5 * (p + q)

    found, g = gradients(both_sides, steps=1), slope()
    e = [0.3 * part / by_hand.length(g) for part in g]
    p, q = slope(e), slope([-part for part in e])
    for part, a, b in zip(found, p, q, strict=True):
        torch.testing.assert_close(part, (a + b) / 2, rtol=1e-12, atol=1e-15)


def test_a_rule_may_look_anywhere_first():
    def aside(look):
        return (yield Vector([torch.ones_like(part) for part in look.w.parts]))

    found = gradients(aside, steps=1)
    expected = slope([torch.ones_like(part) for part in by_hand.weights()])
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-12, atol=1e-15)


def test_a_rule_may_ask_about_another_batch():
    other = by_hand.batches()[2]

    def elsewhere(look):
        g = yield Ask(HERE, other)
        return (yield Ask(perturb.normalized(look.w, g, 0.3), other))

    found, g = gradients(elsewhere, steps=1), slope(index=2)
    expected = slope([0.3 * part / by_hand.length(g) for part in g], index=2)
    for part, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-12, atol=1e-15)


def test_a_rule_may_remember():
    """Ascent along the running mean of the gradients, as in the how-to."""

    def slow_ascent(look):
        memory = look.remembered("slow_ascent")
        g = yield HERE
        mean = memory["mean"] = 0.9 * memory["mean"] + 0.1 * g if "mean" in memory else g.clone()
        return (yield perturb.normalized(look.w, mean, 0.05))

    found, mean, total = gradients(slow_ascent), None, None
    for index in range(3):
        g = slope(index=index)
        mean = g if mean is None else [0.9 * a + 0.1 * b for a, b in zip(mean, g, strict=True)]
        p = slope([0.05 * part / by_hand.length(mean) for part in mean], index=index)
        total = p if total is None else [a + b for a, b in zip(total, p, strict=True)]
    for part, wanted in zip(found, total, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-12, atol=1e-15)


def test_memories_go_by_name_and_last():
    look = Look(w=vector([1.0]))
    look.remembered("one")["x"] = 1
    assert look.remembered("two") == {} and look.remembered("one") == {"x": 1}
    assert look.within(0.3).remembered("one") == {"x": 1}


def test_where_gradients_are_of_groups_nothing_can_be_remembered():
    look = Look(w=vector([1.0]), memory=None)
    with pytest.raises(
        RuntimeError, match="slow must see one gradient per step, got groups of m e"
    ):
        look.remembered("slow")
    with pytest.raises(RuntimeError, match="previous_batch must see one gradient per step"):
        gradients(fm.previous_batch(), m=4)


def test_the_batch_before_needs_a_loop_that_shows_its_batches():
    with pytest.raises(RuntimeError, match="previous_batch must see the batches, got none; hand"):
        talk(fm.previous_batch(), vector([1.0]))


def test_a_conversation_that_breaks_off_is_closed():
    closed = []

    def careful(look):
        try:
            return (yield HERE)
        finally:
            closed.append(True)

    def loss_fn():
        raise ArithmeticError("no loss")

    sharp = fm.SharpnessAware([torch.ones(1, requires_grad=True)], careful)
    with pytest.raises(ArithmeticError):
        sharp.backward(loss_fn)
    assert closed == [True]


# ---------------------------------------------------------------------------- breaking the protocol


def asks_in_words(look):
    yield "here"


def asks_for_a_tensor(look):
    g = yield HERE
    yield g.parts[0]


def returns_nothing(look):
    yield HERE


def returns_a_tensor(look):
    g = yield HERE
    return g.parts[0]


def returns_too_little(look):
    g = yield HERE
    return Vector(g.parts[:1])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (asks_in_words, "rule must yield HERE, a Vector or Ask, got 'here'"),
        (asks_for_a_tensor, "rule must yield HERE, a Vector or Ask, got tensor"),
        (returns_nothing, "rule must return a Vector of 6 parts, got None"),
        (returns_a_tensor, "rule must return a Vector of 6 parts, got tensor"),
        (returns_too_little, "rule must return a Vector of 6 parts, got Vector"),
    ],
)
def test_a_rule_that_breaks_the_protocol_is_told_and_changes_nothing(rule, message):
    w = [part.requires_grad_() for part in by_hand.weights()]
    before = [part.detach().clone() for part in w]
    sharp = fm.SharpnessAware(w, rule)
    with pytest.raises(TypeError, match=message):
        sharp.backward(lambda x, y: by_hand.network(w, x, y), *by_hand.batches()[0])
    assert all(part.grad is None for part in w)
    assert same_bits([part.detach() for part in w], before)


@pytest.mark.parametrize("rule", [None, "sam", 0.05])
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(TypeError, match=r"rule must be a rule such as flatminima\.sam\(\), got"):
        fm.SharpnessAware([torch.ones(1, requires_grad=True)], rule)


# ------------------------------------------------------------------------------------ what it knows


def test_here_is_one_thing_and_says_so():
    assert repr(HERE) == "HERE"


def test_what_moves_has_a_radius_that_is_not_the_number_0():
    look = Look(w=vector([1.0], [1.0]))
    assert not look.moves
    assert look.within(0.1).moves and not look.within(0.1).within(0).moves
    assert look.within(torch.tensor(0.0)).moves  # whether it is 0 is the device's to know
    assert look.within(lambda step: 0.5).moves


def test_a_group_keeps_its_own_radius():
    own = (None, 0.0, 0.7, Linear(start=0.0, end=1.0, steps=4))
    look = Look(w=vector([1.0], [1.0], [1.0], [1.0]), step=1, own=own)
    assert look.within(0.1).rho == (0.1, 0.0, 0.7, 0.25)
    assert look.within(lambda step: step / 2).rho == (0.5, 0.0, 0.7, 0.25)


def test_without_groups_of_its_own_there_is_one_radius():
    look = Look(w=vector([1.0], [1.0]), own=(None, None))
    assert look.within(0.1).rho == 0.1


def test_the_ascent_has_the_weight_decay_in_it_only_where_told():
    g = vector([1.0, 2.0])
    assert Look(w=vector([3.0, 4.0])).ascent(g) is g
    climbed = Look(w=vector([3.0, 4.0]), weight_decay=0.5).ascent(g)
    assert climbed.parts[0].tolist() == [2.5, 4.0]


def test_every_rule_of_the_family_sees_the_step_and_the_batch():
    seen = []

    def watching(look):
        seen.append((look.step, look.batch))
        return (yield HERE)

    gradients(watching)
    assert [step for step, _ in seen] == [0, 1, 2]
    for (_, batch), expected in zip(seen, by_hand.batches(3), strict=True):
        assert same_bits(batch, expected)


# -------------------------------------------------------------------------------------------- radii

MAKERS: dict[str, Callable[[Any], Any]] = {
    "sam": fm.sam,
    "usam": fm.usam,
    "asam": fm.asam,
    "gsam": fm.gsam,
    "wsam": fm.wsam,
    "gradient_norm_penalty": fm.gradient_norm_penalty,
    "multi_step": fm.multi_step,
    "random_perturbation": fm.random_perturbation,
    "previous_batch": fm.previous_batch,
    "perturbed_magnitude": fm.perturbed_magnitude,
    "perturbed_direction": fm.perturbed_direction,
    "clipped": fm.clipped,
    "hybrid": lambda rho: fm.hybrid({Region.STEEPER}, rho),
    "same": lambda rho: fm.same({Region.STEEPER: 0.5}, rho),
    "same, moving": lambda rho: fm.same({Region.STEEPER: lambda step: 0.5}, rho),
    "saner": fm.saner,
    "legacy_hybrid": lambda rho: fm.legacy_hybrid({Region.STEEPER}, rho),
    "legacy_ckpt14": fm.legacy_ckpt14,
    "Probe": lambda rho: Probe(perturb.normalized, rho=rho),
    "Conversation": lambda rho: Conversation(sam, rho),
    "check_radius": check_radius,
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf, -math.inf])
def test_a_radius_is_a_finite_number_and_not_negative(name, rho):
    with pytest.raises(ValueError, match=f"rho must be >= 0 and finite, got {rho}"):
        MAKERS[name](rho)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rho", ["0.1", True, [0.1]])
def test_a_radius_is_a_number_a_tensor_or_a_schedule(name, rho):
    with pytest.raises(TypeError, match="rho must be a number, a 0-d tensor or a schedule, got"):
        MAKERS[name](rho)


@pytest.mark.parametrize("rho", [0, 1, 0.1, torch.tensor(0.1), Linear(start=0, end=1, steps=3)])
def test_radii_that_are_allowed_are_allowed(rho):
    for make in MAKERS.values():
        make(rho)


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf])
def test_a_schedule_that_leaves_the_radii_is_refused_at_its_step(rho):
    """It is a number on the host, so looking costs nothing; passed on, it would climb downhill."""
    with pytest.raises(ValueError, match=f"rho must be >= 0 and finite, got {rho}"):
        talk(fm.sam(rho=lambda step: rho), vector([1.0]), vector([1.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fm.sam(p=0.5), r"p must be >= 1, got 0\.5; below 1 there is no norm"),
        (lambda: fm.sam(p=math.nan), "p must be >= 1, got nan"),
        (lambda: fm.asam(eta=-0.1), r"eta must be >= 0, got -0\.1"),
        (lambda: fm.asam(eta=math.nan), "eta must be >= 0, got nan"),
        (
            lambda: fm.asam(scale="row"),
            "scale must be 'element', 'filter' or 'layer', got 'row'",
        ),
        (lambda: fm.asam(p=3), "p must be 2 or inf, got 3"),
        (lambda: fm.multi_step(steps=0), "steps must be a positive whole number, got 0$"),
        (lambda: fm.multi_step(size=0.0), r"size must be positive, got 0\.0"),
        (lambda: fm.multi_step(size=math.nan), "size must be positive, got nan"),
        (lambda: fm.wsam(gamma=1.0), r"gamma must be within \[0, 1\), got 1\.0"),
        (lambda: fm.wsam(gamma=-0.1), r"gamma must be within \[0, 1\), got -0\.1"),
        (lambda: fm.clipped(times=-1.0), r"times must be >= 0, got -1\.0"),
        (lambda: fm.saner(strength=1.1), r"strength must be within \[0, 1\], got 1\.1"),
        (lambda: fm.saner(strength=-0.1), r"strength must be within \[0, 1\], got -0\.1"),
        (lambda: fm.saner(warmup=-1), "steps must be >= 0, got -1"),
    ],
)
def test_a_member_refuses_settings_without_meaning(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ----------------------------------------------------------------------- the rest of a conversation


def test_the_rest_of_a_conversation_begins_with_its_second_question():
    g, p = vector([3.0, 4.0]), vector([1.0, 1.0])
    rest = resumed(fm.sam(rho=0.5)(Look(w=g.zeros_like())), g)
    e = next(rest)
    assert e.parts[0].tolist() == pytest.approx([0.3, 0.4])
    with pytest.raises(StopIteration) as end:
        rest.send(p)
    assert end.value.value is p


def test_of_a_conversation_of_one_question_nothing_is_left_but_the_answer():
    g = vector([3.0, 4.0])
    rest = resumed(fm.sam(rho=0.0)(Look(w=g.zeros_like())), g)
    with pytest.raises(StopIteration) as end:
        next(rest)
    assert end.value.value is g


@pytest.mark.parametrize("first", [vector([1.0]), Ask(HERE, ())], ids=["elsewhere", "Ask"])
def test_only_a_rule_that_looks_here_first_can_be_resumed(first):
    def elsewhere(look):
        return (yield first)

    rest = resumed(elsewhere(Look(w=vector([1.0]))), vector([1.0]))
    with pytest.raises(ValueError, match="rule must look HERE first to be combined .*, got"):
        next(rest)


# -------------------------------------------------------------------------------- what it is called


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (fm.sam(0.1), "sam(rho=0.1, p=2) = Probe(normalized(p=2.0), rho=0.1)"),
        (fm.usam(0.1), "usam(rho=0.1) = Probe(unnormalized, rho=0.1)"),
        (
            fm.asam(1.0, scale="layer"),
            "asam(rho=1.0, eta=0.01, scale='layer', p=2) = "
            "Probe(adaptive(eta=0.01, scale='layer', p=2.0), rho=1.0)",
        ),
        (
            fm.gsam(0.1),
            "gsam(rho=0.1, alpha=0.4) = Probe(normalized, surrogate_gap(alpha=0.4), rho=0.1)",
        ),
        (
            fm.wsam(0.1, gamma=0.5),
            "wsam(rho=0.1, gamma=0.5) = Probe(normalized, lerp(a=1.0), rho=0.1)",
        ),
        (
            fm.hybrid({Region.REVERSED_STEEPER, Region.GENTLER}),
            "hybrid(regions={GENTLER, REVERSED_STEEPER}, rho=0.1) = "
            "Probe(normalized, regionwise(chosen={GENTLER, REVERSED_STEEPER}), rho=0.1)",
        ),
        (
            fm.same({Region.GENTLER: 0.5}),
            "same(factor={GENTLER: 0.5}, rho=0.1) = "
            "Probe(normalized, rescaled_by_region(factor={GENTLER: 0.5}), rho=0.1)",
        ),
        (fm.multi_step(0.1), "multi_step(rho=0.1, steps=3, size=0.5)"),
        (fm.saner(warmup=9), "saner(rho=0.1, strength=0.5, warmup=9)"),
        (
            fm.sam(Linear(start=0.0, end=0.1, steps=9)),
            "sam(rho=Linear(start=0.0, end=0.1, steps=9), p=2) = "
            "Probe(normalized(p=2.0), rho=Linear(start=0.0, end=0.1, steps=9))",
        ),
        (Conversation(sam, rho=0.05), "Conversation(sam, rho=0.05)"),
        (Conversation(sam), "Conversation(sam)"),
        (Probe(perturb.unnormalized, rho=0.1), "Probe(unnormalized, rho=0.1)"),
    ],
    ids=lambda value: value.partition("(")[0] if isinstance(value, str) else "",
)
def test_a_printed_rule_teaches_its_parts(rule, expected):
    assert repr(rule) == expected


def test_a_member_keeps_its_signature_and_its_words():
    @member
    def mine(rho: float = 0.1, times: int = 3) -> Probe:
        """One of mine."""
        return Probe(perturb.normalized, rho=rho * times)

    assert repr(mine(0.2)) == "mine(rho=0.2, times=3) = Probe(normalized, rho=0.6000000000000001)"
    assert mine.__doc__ == "One of mine."
    assert list(inspect.signature(mine).parameters) == ["rho", "times"]


def test_rules_of_the_same_settings_are_called_the_same():
    """A state tells by the name whether it is loaded into the rule that it was saved from."""
    one, two, three = Region.STEEPER, Region.GENTLER, Region.REVERSED_GENTLER
    expected = repr(fm.hybrid({one, two, three}))
    assert repr(fm.hybrid({three, one, two})) == expected
    assert repr(fm.hybrid(frozenset([two, three, one]))) == expected
