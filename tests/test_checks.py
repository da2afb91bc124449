"""What the public names and the hyper-parameters refuse, and in which words."""

import math

import pytest
import torch

import flatminima as fm
from flatminima.models.resnet import resnet18
from flatminima.vector import Vector


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"flatminima has no name 'sgd'; its names are .*sam"):
        fm.sgd  # noqa: B018 - the look-up is the test


@pytest.mark.parametrize("make", [fm.gsam, fm.gradient_norm_penalty])
@pytest.mark.parametrize("alpha", [math.nan, math.inf, "0.4"])
def test_a_weight_is_a_finite_number(make, alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number, got"):
        make(alpha=alpha)


def test_a_factor_is_a_finite_number():
    with pytest.raises(ValueError, match="GENTLER must be a finite number, got nan"):
        fm.same({fm.Region.GENTLER: math.nan})


def test_regions_without_factors_are_no_factors():
    with pytest.raises(TypeError, match="factor must be a factor for each region, got"):
        fm.same([fm.Region.GENTLER])


@pytest.mark.parametrize("whole", [0, -1, 2.5, True, "3"])
def test_a_count_is_a_positive_whole_number(whole):
    for make in (
        lambda: fm.multi_step(steps=whole),
        lambda: fm.periodic(fm.sam(), every=whole),
        lambda: fm.window(fm.sam(), steps=whole),
    ):
        with pytest.raises(ValueError, match=r"(steps|every) must be a positive whole number, got"):
            make()


@pytest.mark.parametrize("rule", [fm.sam, "sam", None, 3])
def test_a_wrapper_wants_a_rule(rule):
    for wrap in (
        fm.periodic,
        fm.while_large,
        fm.with_probability,
        lambda rule: fm.window(rule, steps=9),
    ):
        with pytest.raises(
            TypeError, match=r"rule must be a rule such as flatminima\.sam\(\), got"
        ):
            wrap(rule)


def test_an_uncalled_member_is_told_to_be_called():
    with pytest.raises(TypeError, match=r"call it: gsam\(\)"):
        fm.SharpnessAware([torch.zeros(1, requires_grad=True)], fm.gsam)


def test_a_rule_that_uses_a_radius_must_be_given_one():
    def sam(look: fm.Look) -> fm.Talk:
        g = yield fm.HERE
        return (yield fm.perturb.normalized(look.w, g, look.rho))

    weight = torch.ones(1, requires_grad=True)
    sharp = fm.SharpnessAware([weight], sam)
    with pytest.raises(RuntimeError, match="rule must be given a radius to use look.rho, got none"):
        sharp.backward(lambda: weight.square().sum())
    by_group = fm.SharpnessAware([{"params": [weight], "rho": 0.5}], sam)
    by_group.backward(lambda: weight.square().sum())
    assert weight.grad == 3.0


def test_vectors_that_meet_have_the_same_shapes():
    one, two = Vector([torch.ones(3)]), Vector([torch.ones(1)])
    for meet in (lambda: one + two, lambda: one * two, lambda: one.dot(two), lambda: one.onto(two)):
        with pytest.raises(
            ValueError, match=r"other must have parts of the same shapes, got \(1,\)"
        ):
            meet()


def test_nested_rules_of_one_kind_remember_for_themselves():
    inner = fm.while_large(fm.sam(rho=0.1), 0.0, decay=0.5)
    weight = torch.ones(1, requires_grad=True)
    passes = {True: [], False: []}
    for nested in passes:
        # At a threshold far below the mean, the outer rule always follows the inner one.
        rule = fm.while_large(inner, -100.0, decay=0.9) if nested else inner
        sharp = fm.SharpnessAware([weight], rule)
        for size in (2.0, 4.0, 2.0, 3.0):
            calls = []
            sharp.backward(lambda size=size, calls=calls: calls.append(1) or (size * weight).sum())
            passes[nested].append(len(calls))
    assert passes[True] == passes[False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "layer"}, "norm must be 'group' or 'batch', got 'layer'"),
        ({"width": 3}, "width must be even with group normalisation, got 3"),
    ],
)
def test_a_residual_network_refuses_what_it_cannot_build(settings, message):
    with pytest.raises(ValueError, match=message):
        resnet18(**settings)


def test_the_residual_network_has_the_size_of_the_literature():
    size = sum(param.numel() for param in resnet18(width=64, classes=10, norm="batch").parameters())
    assert size == 11_173_962
