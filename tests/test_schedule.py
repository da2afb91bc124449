"""How far to look, and when."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from talks import talk, vector

import flatminima as fm
from flatminima import HERE, Vector
from flatminima.rules.rule import Look, Rule
from flatminima.rules.schedule import Cosine, Linear, Proportional

RULE = fm.sam(rho=0.5)


def looks_uphill(rule: Rule, size: float = 1.0, **look: Any) -> bool:
    """Whether the rule asks for a second gradient, the first one being of this size."""
    g = vector([size])
    conversation = rule(Look(**{"w": g.zeros_like(), **look}))
    assert next(conversation) is HERE
    with contextlib.suppress(StopIteration):
        conversation.send(g)
        return True
    return False


# ------------------------------------------------------------------------------------------ how far


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (1, 0.2), (5, 0.6), (10, 1.1), (11, 1.1), (999, 1.1)]
)
def test_linear_moves_in_a_straight_line_and_stays(step, expected):
    assert Linear(start=0.1, end=1.1, steps=10)(step) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.1), (5, 0.6), (10, 0.1), (999, 0.1), (2.5, 0.1 + (2 + 2**0.5) / 4)]
)
def test_cosine_moves_along_half_a_wave_and_stays(step, expected):
    assert Cosine(start=1.1, end=0.1, steps=10)(step) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_a_schedule_of_no_steps_is_at_its_end_from_the_beginning(schedule):
    assert schedule(start=0.0, end=0.3, steps=0)(0) == 0.3


@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_a_schedule_begins_at_its_start_and_ends_at_its_end_to_the_bit(schedule):
    moving = schedule(start=0.0, end=0.3, steps=7)
    assert (moving(0), moving(7), moving(8)) == (0.0, 0.3, 0.3)


@pytest.mark.parametrize("schedule", [Linear, Cosine])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_the_ends_of_a_schedule_are_numbers(schedule, value):
    with pytest.raises(ValueError, match="start must be finite, got (inf|nan)"):
        schedule(start=value, end=0.1, steps=1)
    with pytest.raises(ValueError, match="end must be finite, got (inf|nan)"):
        schedule(start=0.1, end=value, steps=1)


@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_a_schedule_goes_forward(schedule):
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        schedule(start=0.0, end=0.1, steps=-1)


def optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}], lr=lr)


@pytest.mark.parametrize(
    ("lr", "expected"), [(0.1, 0.6), (0.05, 0.35), (0.01, 0.15), (0.0, 0.1), (0.2, 1.1)]
)
def test_a_radius_may_follow_the_learning_rate_between_two_points(lr, expected):
    """GSAM: rho = low + (high - low) (lr - lr_low) / (lr_high - lr_low)."""
    following = Proportional(optimizer=optimizer(lr), high=0.6, lr_high=0.1, low=0.1, lr_low=0.0)
    assert following(0) == pytest.approx(expected, rel=1e-14)


def test_by_default_the_radius_is_proportional_to_the_learning_rate():
    base = optimizer(0.1)
    following = Proportional(optimizer=base, high=0.6, lr_high=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(base, step_size=1, gamma=0.5)
    seen = []
    for step in range(3):
        seen.append(following(step))
        base.step()
        scheduler.step()
    assert seen == pytest.approx([0.6, 0.3, 0.15])


def test_any_group_of_parameters_may_lead():
    base = optimizer(0.1)
    base.param_groups[1]["lr"] = 0.01
    following = Proportional(optimizer=base, high=0.6, lr_high=0.1, group=1)
    assert following(0) == pytest.approx(0.06)


def test_below_its_lowest_learning_rate_a_radius_is_never_negative():
    following = Proportional(optimizer=optimizer(0.0), high=0.6, lr_high=0.1, low=0.0, lr_low=0.05)
    assert following(0) == 0.0


def test_the_highest_learning_rate_is_above_the_lowest():
    with pytest.raises(ValueError, match=r"lr_high must be above lr_low 0\.1, got 0\.1"):
        Proportional(optimizer=optimizer(0.1), high=0.6, lr_high=0.1, lr_low=0.1)


@pytest.mark.parametrize("wrong", [{"high": -0.6}, {"high": 0.6, "low": -0.1}])
def test_a_radius_that_follows_the_learning_rate_is_not_negative(wrong):
    with pytest.raises(ValueError, match=r"must be >= 0.*, got -0\."):
        Proportional(optimizer=optimizer(0.1), lr_high=0.1, **wrong)


def test_it_prints_without_the_optimizers_settings():
    following = Proportional(optimizer=optimizer(0.1), high=0.6, lr_high=0.1)
    assert repr(following) == "Proportional(SGD, high=0.6, lr_high=0.1, low=0.0, lr_low=0.0)"


def test_a_schedule_is_read_at_the_step_of_the_conversation():
    rule = fm.sam(rho=Linear(start=0.0, end=1.0, steps=4))
    for step, expected in ((1, 0.25), (3, 0.75), (9, 1.0)):
        questions, _ = talk(rule, vector([-2.0]), vector([1.0]), step=step)
        assert questions[1].parts[0].item() == -expected


def test_while_a_schedule_is_at_zero_there_is_no_second_pass():
    assert not looks_uphill(fm.sam(rho=Linear(start=0.0, end=1.0, steps=4)), step=0)
    assert looks_uphill(fm.sam(rho=Linear(start=0.0, end=1.0, steps=4)), step=1)


# ------------------------------------------------------------------------------------ when: counted


def test_every_third_step_begins_with_the_first():
    rule = fm.periodic(RULE, every=3)
    assert [looks_uphill(rule, step=step) for step in range(7)] == [
        step in (0, 3, 6) for step in range(7)
    ]


@pytest.mark.parametrize("every", [0, -1])
def test_a_period_is_a_positive_number(every):
    with pytest.raises(ValueError, match="every must be a positive whole number, got"):
        fm.periodic(RULE, every=every)


@pytest.mark.parametrize(
    ("start", "end", "inside"),
    [
        (0.0, 0.3, range(3)),
        (0.3, 0.7, range(3, 7)),
        (0.7, 1.0, range(7, 15)),
        (0.25, 0.75, range(3, 8)),
        (0.5, 0.5, range(0)),
        (0.0, 0.0, range(0)),
        (0.0, 1.0, range(15)),
    ],
)
def test_a_window_holds_its_start_and_not_its_end_but_all_after_training(start, end, inside):
    rule = fm.window(RULE, start=start, end=end, steps=10)
    assert [step for step in range(15) if looks_uphill(rule, step=step)] == list(inside)


def test_two_windows_side_by_side_meet_at_every_step_once():
    """Also where the boundary is no whole number of steps: plain, then SAM, leaves no gap."""
    for steps in (7, 10, 33):
        for share in (0.1, 0.3, 0.7, 0.9):
            one = fm.window(RULE, end=share, steps=steps)
            two = fm.window(RULE, start=share, steps=steps)
            for step in range(steps + 2):
                assert looks_uphill(one, step=step) is not looks_uphill(two, step=step)


@pytest.mark.parametrize(("start", "end"), [(-0.1, 0.5), (0.5, 1.1), (0.6, 0.5), (math.nan, 1.0)])
def test_a_window_is_within_training(start, end):
    with pytest.raises(ValueError, match="start and end must satisfy 0 <= start <= end <= 1, got"):
        fm.window(RULE, start=start, end=end, steps=10)


def test_training_has_a_step():
    with pytest.raises(ValueError, match="steps must be a positive whole number, got 0"):
        fm.window(RULE, steps=0)


# ---------------------------------------------------------------------------------- when: by chance


def test_it_is_followed_as_often_as_the_probability_says():
    rule, generator = fm.with_probability(RULE, 0.3), torch.Generator().manual_seed(1)
    count = sum(looks_uphill(rule, generator=generator) for _ in range(2000))
    assert abs(count - 600) < 5 * math.sqrt(2000 * 0.3 * 0.7)


def test_chance_is_drawn_from_the_rules_own_generator():
    rule, seen = fm.with_probability(RULE, 0.5), []
    for _ in range(2):
        generator = torch.Generator().manual_seed(1)
        seen.append([looks_uphill(rule, generator=generator) for _ in range(30)])
        torch.rand(3)
    assert seen[0] == seen[1] and len(set(seen[0])) == 2


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_probability_is_one(probability):
    with pytest.raises(ValueError, match=r"probability must be within \[0, 1\], got"):
        fm.with_probability(RULE, probability)


# -------------------------------------------------------------------------- when: while it is large


def followed(sizes: list[float], threshold: Any = 0.0, decay: float = 0.5) -> list[bool]:
    rule, memory = fm.while_large(RULE, threshold, decay=decay), {}
    return [looks_uphill(rule, size, step=step, memory=memory) for step, size in enumerate(sizes)]


def test_it_is_followed_while_the_square_is_above_its_running_mean():
    """With decay 1/2 and squares 4, 16, 4, 9 the means are 4, 10, 7, 8."""
    assert followed([2.0, 4.0, 2.0, 3.0]) == [True, True, False, True]


def test_the_threshold_counts_in_standard_deviations():
    """At the second step mu = 10, sigma^2 = (16 - 10)^2 / 2 = 18: 16 is mu + 1.414 sigma."""
    assert followed([2.0, 4.0], threshold=1.4) == [True, True]
    assert followed([2.0, 4.0], threshold=1.42) == [True, False]


def test_the_threshold_may_move():
    moving = Linear(start=-5.0, end=5.0, steps=3)
    sizes = [2.0, 1.9, 2.1, 2.2, 2.0]
    assert followed(sizes, moving)[0] and not followed(sizes, moving)[-1]
    assert followed(sizes, -5.0) == [True] * 5


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_overflow_is_passed_on_and_forgotten(value):
    sizes = [2.0, 4.0, 2.0, 3.0]
    assert followed([*sizes[:2], value, *sizes[2:]]) == [True, True, False, False, True]


def test_a_large_gradient_is_not_asked_for_twice():
    questions, d = talk(fm.while_large(RULE), vector([2.0]), vector([7.0]))
    assert questions[0] is HERE and isinstance(questions[1], Vector)
    assert d.parts[0].item() == 7.0


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_the_past_fades(decay):
    with pytest.raises(ValueError, match=r"decay must be within \[0, 1\), got"):
        fm.while_large(RULE, decay=decay)


def test_what_is_large_has_no_meaning_for_groups_of_examples():
    with pytest.raises(
        RuntimeError, match="while_large must see one gradient per step, got groups"
    ):
        talk(fm.while_large(RULE), vector([2.0]), memory=None)


def test_a_rule_that_looks_elsewhere_first_cannot_wait_for_a_large_gradient():
    with pytest.raises(ValueError, match="rule must look HERE first to be combined with this one"):
        talk(fm.while_large(fm.random_perturbation()), vector([2.0]), vector([2.0]))


# ----------------------------------------------------------------------------------------- together


def test_schedules_wrap_one_another():
    rule = fm.window(fm.periodic(RULE, every=2), start=0.5, steps=8)
    assert [step for step in range(10) if looks_uphill(rule, step=step)] == [4, 6, 8]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (fm.periodic(RULE, every=3), "periodic(rule=sam(rho=0.5, p=2), every=3)"),
        (
            fm.window(RULE, end=0.5, steps=9),
            "window(rule=sam(rho=0.5, p=2), start=0.0, end=0.5, steps=9)",
        ),
        (fm.with_probability(RULE), "with_probability(rule=sam(rho=0.5, p=2), probability=0.5)"),
        (
            fm.while_large(RULE),
            "while_large(rule=sam(rho=0.5, p=2), threshold=0.0, decay=0.9)",
        ),
        (
            fm.periodic(fm.window(RULE, steps=9), every=3),
            "periodic(rule=window(rule=sam(rho=0.5, p=2), start=0.0, end=1.0, steps=9), every=3)",
        ),
    ],
    ids=str,
)
def test_a_schedule_prints_as_the_call_that_makes_it(rule, expected):
    assert repr(rule) == expected
