"""Worst-case and average-case sharpness against trust-region solutions and other closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from test_objective import assert_same, everything, state_of
from torch import nn
from torch.nn import functional as F

from flatminima import Objective, Vector
from flatminima.sharpness import average_case, normalized_logits, worst_case
from flatminima.sharpness.units import units

CLOSE = {"rel": 1e-6}
FINE = {"steps": 500, "tolerance": 1e-10}


def problem(curvature, w, slope) -> tuple[Objective, Vector]:
    """A quadratic around w with a diagonal Hessian."""
    h, g, here = (Vector([torch.as_tensor(values)]) for values in (curvature, slope, w))
    return Objective(lambda x: (x - here).dot(g) + 0.5 * (x - here).dot(h * (x - here))), here


def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return np.linspace(0.1, 2.0, 50), draw.standard_normal(50), 0.05 * draw.standard_normal(50)


def trust_region(h, g, rho) -> float:
    """The maximum of <g, e> + <e, h e> / 2 over ||e|| <= rho, from its secular equation."""
    top = h.max()
    rest = h < top
    away = np.where(rest, g / np.where(rest, top - h, 1.0), 0.0)
    if np.abs(g[~rest]).max() == 0 and top > 0 and np.linalg.norm(away) <= rho:  # the hard case
        e = away + np.sqrt(rho**2 - away @ away) * (~rest) / np.sqrt((~rest).sum())
    else:
        length = lambda mu: np.linalg.norm(g / (mu - h)) - rho  # noqa: E731
        e = g / (brentq(length, max(top, 0) + 1e-12, max(top, 0) + 1e6, xtol=1e-15) - h)
    return float(g @ e + 0.5 * e @ (h * e))


H, W, G = table()
CASES = {
    "as drawn": (W, G, "one", 0.356155207990504),
    "as drawn, adaptive": (W, G, "element", 0.971268233227542),
    "a weight of zero, adaptive": (np.r_[0.0, W[1:]], G, "element", 0.971267896926190),
    "no slope": (W, 0 * G, "one", 0.25),
    "no slope, adaptive": (W, 0 * G, "element", 0.923403350133),
}


@pytest.mark.parametrize("name", CASES)
def test_the_worst_case_is_the_trust_region_solution(name) -> None:
    w, slope, scale, expected = CASES[name]
    f, here = problem(H, w, slope)
    found = worst_case(f, here, 0.5, scale=scale, **FINE)
    assert found.value == pytest.approx(expected, **CLOSE)
    assert found.converged


@pytest.mark.parametrize("name", CASES)
def test_the_trust_region_solver_of_these_tests_gives_the_same(name) -> None:
    w, slope, scale, expected = CASES[name]
    c = np.abs(w) if scale == "element" else np.ones(50)
    assert trust_region(c * H * c, c * slope, 0.5) == pytest.approx(expected, rel=1e-9)


def test_the_hard_case_is_solved_where_no_slope_points_to_the_sharpest_direction() -> None:
    slope = G.copy()
    slope[-1] = 0.0  # orthogonal to the top eigenvector
    f, here = problem(H, W, 0.1 * slope)
    found = worst_case(f, here, 0.5, **FINE)
    assert found.value == pytest.approx(trust_region(H, 0.1 * slope, 0.5), **CLOSE)
    assert abs(float(found.displacement.parts[0][-1])) > 0.1


def test_directions_that_bend_down_do_not_confuse_the_ascent() -> None:
    h = np.linspace(-5.0, 2.0, 50)
    f, here = problem(h, W, G)
    assert worst_case(f, here, 0.5, **FINE).value == pytest.approx(trust_region(h, G, 0.5), **CLOSE)


def test_a_maximum_inside_the_ball_is_found_there() -> None:
    f, here = problem(-H, W, G)
    found = worst_case(f, here, 100.0, **FINE)
    assert found.value == pytest.approx(float((G**2 / (2 * H)).sum()), **CLOSE)
    assert found.displacement.norm() < 100.0


@pytest.mark.parametrize("scale", ["one", "element"])
def test_in_a_cube_the_worst_case_is_a_corner(scale) -> None:
    f, here = problem(H, W, G)
    c = np.abs(W) if scale == "element" else np.ones(50)
    corner = (0.05 * np.abs(G) * c + 0.5 * 0.05**2 * H * c**2).sum()
    assert worst_case(f, here, 0.05, p=math.inf, scale=scale).value == pytest.approx(corner)


@pytest.mark.parametrize("p", [2, math.inf])
def test_the_displacement_is_in_the_ball_and_causes_the_rise(p) -> None:
    f, here = problem(H, W, G)
    found = worst_case(f, here, 0.3, p=p, scale="element")
    u = found.displacement / here.map(torch.abs)
    assert u.norm(p) <= 0.3 * (1 + 1e-12)
    rise = f.value(here + found.displacement) - f.value(here)
    assert found.value == pytest.approx(float(rise), rel=1e-12)


def test_the_result_says_which_start_won_and_how_the_others_did() -> None:
    f, here = problem(H, W, 0 * G)
    found = worst_case(f, here, 0.5, restarts=3)
    assert found.rises[0] == 0.0  # stuck: there is no slope at the weights
    assert found.winner in (1, 2)
    assert found.spread == found.value == max(found.rises)
    assert found.gradients <= f.passes / 2
    assert "of 3" in repr(found)


def test_a_start_that_never_rose_has_not_converged() -> None:
    f, here = problem(H, W, 0 * G)
    found = worst_case(f, here, 0.5, restarts=1)
    assert (found.value, found.converged) == (0.0, False)
    assert "NOT converged" in repr(found)


def test_too_few_steps_are_reported() -> None:
    f, here = problem(H, W, G)
    found = worst_case(f, here, 0.5, restarts=1, steps=2)
    assert not found.converged
    assert found.gradients == 2


def test_the_same_seed_gives_the_same_result_and_another_one_other_starts() -> None:
    f, here = problem(H, W, G)
    one, two, other = (worst_case(f, here, 0.5, seed=seed, steps=3) for seed in (1, 1, 2))
    assert one.rises == two.rises
    assert one.rises[1:] != other.rises[1:]


def test_a_loss_that_leaves_the_numbers_is_passed_on() -> None:
    f = Objective(lambda w: -(1.0 - w.norm(math.inf)).log())  # infinite at 1
    found = worst_case(f, Vector([torch.tensor([0.5, 0.1])]), 10.0, restarts=1)
    assert not math.isfinite(found.value)
    assert not found.converged


# ---------------------------------------------------------------------------------- average case


@pytest.mark.parametrize(("scale", "expected"), [("one", 0.065625), ("element", 0.0656003607350)])
@pytest.mark.parametrize("seed", range(3))
def test_the_average_case_is_half_the_trace_times_the_variance(scale, expected, seed) -> None:
    f, here = problem(H, W, G)
    found = average_case(f, here, 0.05, scale=scale, samples=500, seed=seed)
    assert abs(found.value - expected) < 4 * found.standard_error
    assert found.standard_error < 0.05 * expected


def test_its_standard_error_is_the_one_that_repetition_shows() -> None:
    f, here = problem(H, W, G)
    runs = [average_case(f, here, 0.05, samples=20, seed=seed) for seed in range(150)]
    spread = np.std([run.value for run in runs])
    assert np.mean([run.standard_error for run in runs]) == pytest.approx(spread, rel=0.2)


def test_one_sample_has_no_standard_error() -> None:
    f, here = problem(H, W, G)
    assert math.isnan(average_case(f, here, 0.05, samples=1).standard_error)


# ------------------------------------------------------------------------ units and normalisation


def relu_net(factor: float = 1.0) -> tuple[Objective, Vector]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    with torch.no_grad():
        model[0].weight *= factor
        model[2].weight /= factor
    return Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), [(x, y)])


@pytest.mark.slow
@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("scale", ["element", "filter", "layer"])
def test_rescaling_relu_layers_leaves_adaptive_sharpness_as_it_was(p, scale) -> None:
    one, other = (worst_case(*relu_net(a), 0.1, p=p, scale=scale, steps=15) for a in (1.0, 8.0))
    assert other.value == pytest.approx(one.value, rel=1e-5)
    plain = [worst_case(*relu_net(a), 0.1, p=p, steps=15).value for a in (1.0, 8.0)]
    assert abs(plain[1] - plain[0]) > 0.1 * plain[0]


def test_rescaling_relu_layers_leaves_the_average_case_as_it_was() -> None:
    one, other = (average_case(*relu_net(a), 0.1, scale="element") for a in (1.0, 8.0))
    assert other.value == pytest.approx(one.value, rel=1e-9)


def test_the_unit_is_the_size_of_what_it_names_plus_eta() -> None:
    w = Vector([torch.tensor([[3.0, -4.0], [0.0, 0.0]]), torch.tensor([-2.0])])
    assert units(w, "one", eta=1.0).parts[0].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert units(w, "element", eta=0.5).parts[0].tolist() == [[3.5, 4.5], [0.5, 0.5]]
    assert units(w, "filter").parts[0].tolist() == [[5.0, 5.0], [0.0, 0.0]]
    assert units(w, "layer").parts[0].tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert units(w, "filter").parts[1].tolist() == [2.0]


def test_eta_lets_a_weight_of_zero_move() -> None:
    f, here = problem([1.0, 1.0], [0.0, 1.0], [1.0, 0.0])
    still = worst_case(f, here, 0.1, scale="element").displacement.parts[0]
    moved = worst_case(f, here, 0.1, scale="element", eta=0.5).displacement.parts[0]
    assert still[0] == 0
    assert moved[0] > 0


def test_normalised_logits_have_one_size_and_forget_scale_and_shift() -> None:
    logits = torch.randn(5, 7)
    norm, deviation = normalized_logits(logits), normalized_logits(logits, by="deviation")
    torch.testing.assert_close(norm.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(deviation, norm * 7**0.5)
    torch.testing.assert_close(normalized_logits(3 * logits + 2), norm)
    assert normalized_logits(torch.ones(1, 3)).tolist() == [[0.0, 0.0, 0.0]]


# --------------------------------------------------------------------------------- no side effects


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_measuring_leaves_the_model_as_it_was(training, batch_norm) -> None:
    model, f, w = everything(training=training, batch_norm=batch_norm)
    before = state_of(model)
    worst_case(f, w, 0.1, restarts=2, steps=3)
    average_case(f, w, 0.1, samples=2)
    assert_same(before, state_of(model))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("measure", [worst_case, average_case])
def test_an_exception_leaves_the_model_as_it_was(training, measure) -> None:
    model, f, w = everything(training=training, batch_norm="batch", fail_at=4)
    before = state_of(model)
    with pytest.raises(KeyError, match="interrupted"):
        measure(f, w, 0.1)
    assert_same(before, state_of(model))


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rho": 0.0}, r"rho must be > 0 and finite, got 0.0"),
        ({"p": 1}, r"p must be 2 or inf, got 1"),
        ({"scale": "abs"}, r"scale must be 'one', 'element', 'filter' or 'layer', got 'abs'"),
        ({"scale": "element", "eta": -1.0}, r"eta must be >= 0, got -1.0"),
        ({"restarts": 0}, r"restarts must be at least 1, got 0; the first is at w"),
        ({"steps": 0}, r"steps must be at least 1, got 0"),
        ({"tolerance": -1.0}, r"tolerance must be >= 0, got -1.0"),
    ],
)
def test_what_has_no_meaning_is_refused(keywords, message) -> None:
    f, here = problem(H, W, G)
    with pytest.raises(ValueError, match=message):
        worst_case(f, here, **{"rho": 0.1, **keywords})


def test_an_average_needs_a_sample_and_a_radius() -> None:
    f, here = problem(H, W, G)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        average_case(f, here, 0.1, samples=0)
    with pytest.raises(ValueError, match="rho must be > 0 and finite, got -1"):
        average_case(f, here, -1.0)


def test_logits_are_normalised_by_what_has_a_name() -> None:
    with pytest.raises(ValueError, match="by must be 'norm' or 'deviation', got 'std'"):
        normalized_logits(torch.ones(1, 2), by="std")
