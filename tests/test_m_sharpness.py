"""m-sharpness against the trust-region solution of every group, and both of its engines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_objective import assert_same, everything, state_of
from test_worst_case import trust_region
from torch import nn
from torch.nn import functional as F

from flatminima import Objective
from flatminima.sharpness import m_sharpness, worst_case
from flatminima.sharpness.one_step import runs


def least_squares(*sizes: int) -> tuple[Objective, object, np.ndarray, np.ndarray]:
    """A regression at its solution; also the data and the residuals."""
    draw = np.random.default_rng(0)
    x, coefficients = draw.standard_normal((64, 8)), draw.standard_normal(8)
    y = x @ coefficients + 0.3 * draw.standard_normal(64)
    solution = np.linalg.lstsq(x, y, rcond=None)[0]
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(solution))
    cut = list(sizes) or [64]
    data = zip(torch.tensor(x).split(cut), torch.tensor(y)[:, None].split(cut), strict=True)
    f, w = Objective.of_model(model, lambda x, y: 0.5 * (model(x) - y).square().mean(), list(data))
    return f, w, x, x @ solution - y


def exact(x, residuals, m: int, rho: float = 0.1) -> float:
    """The mean over the groups of the largest rise, in the eigenvectors of each group."""
    total = 0.0
    for start in range(0, 64, m):
        rows, rest = x[start : start + m], residuals[start : start + m]
        values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
        slope = vectors.T @ rows.T @ rest / len(rows)
        slope[np.abs(slope) < 1e-12] = 0.0
        total += len(rows) / 64 * trust_region(values, slope, rho)
    return total


@pytest.mark.parametrize(
    ("m", "expected"),
    [
        (64, 0.009037111501184),
        pytest.param(1, 0.088161850620687, marks=pytest.mark.slow),  # 64 ascents
    ],
)
def test_the_exact_value_is_found_with_restarts(m, expected) -> None:
    f, w, x, residuals = least_squares()
    found = m_sharpness(f, w, 0.1, m, tolerance=1e-8)
    assert found.restarts.value == pytest.approx(expected, abs=1e-6)
    assert exact(x, residuals, m) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("engine", ["loop", "batched"])
def test_one_step_is_exact_for_single_examples(engine) -> None:
    f, w, x, residuals = least_squares()
    lengths = np.linalg.norm(x, axis=1)
    closed = (0.5 * ((np.abs(residuals) + 0.1 * lengths) ** 2 - residuals**2)).mean()
    found = m_sharpness(f, w, 0.1, 1, restarts=0, engine=engine)
    assert found.one_step.value == pytest.approx(closed, rel=1e-9)
    assert (found.engine, found.stationary, found.restarts) == (engine, 0, None)


def test_one_step_at_a_minimum_is_flagged_as_worthless() -> None:
    f, w, _, _ = least_squares()
    found = m_sharpness(f, w, 0.1, 64, restarts=0)
    assert found.stationary == 1
    assert "WORTHLESS in 1" in repr(found)
    assert math.isnan(found.one_step.standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("m", [4, 16, 10])
def test_groups_of_any_size_have_their_own_trust_regions(m) -> None:
    f, w, x, residuals = least_squares(37, 27)
    found = m_sharpness(f, w, 0.1, m, restarts=3, tolerance=1e-8)
    assert found.restarts.value == pytest.approx(exact(x, residuals, m), abs=1e-6)
    assert found.one_step.value < found.restarts.value
    assert found.groups == math.ceil(64 / m)


@pytest.mark.slow
def test_it_falls_as_nested_groups_grow() -> None:
    f, w, _, _ = least_squares()
    values = [
        m_sharpness(f, w, 0.1, m, restarts=3, steps=40).restarts.value for m in (8, 16, 32, 64)
    ]
    assert values == sorted(values, reverse=True)


def test_one_group_of_everything_is_the_worst_case() -> None:
    f, w, _, _ = least_squares(40, 24)
    found, worst = m_sharpness(f, w, 0.1, 64), worst_case(f, w, 0.1)
    assert found.restarts.value == pytest.approx(worst.value, rel=1e-9)


def test_how_the_data_are_cut_into_batches_changes_nothing() -> None:
    whole, parts = (
        m_sharpness(*least_squares(*sizes)[:2], 0.1, 6, restarts=0)
        for sizes in ([], [5, 1, 20, 38])
    )
    assert parts.one_step.value == pytest.approx(whole.one_step.value, rel=1e-12)


def test_a_smaller_last_group_counts_by_its_size() -> None:
    f, w, _, _ = least_squares()
    found = m_sharpness(f, w, 0.1, 60, restarts=0)
    assert found.one_step.weights.tolist() == [60 / 64, 4 / 64]
    mean = (found.one_step.weights * found.one_step.rises).sum()
    assert found.one_step.value == pytest.approx(float(mean))


def test_groups_run_on_over_the_end_of_a_batch() -> None:
    cut = list(runs([(torch.arange(7),), (torch.arange(7, 9),), (torch.arange(9, 14),)], m=4))
    groups = [
        [int(i) for piece in pieces for i in piece[0]] for run in cut for pieces in run.split(4)
    ]
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]


def convnet() -> nn.Module:
    layers = (nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("m", [1, 3])
def test_the_batched_engine_agrees_with_the_loop(m) -> None:
    model = convnet()
    x, y = torch.randn(20, 1, 5, 5), torch.randint(4, (20,))
    data = [(x[:13], y[:13]), (x[13:], y[13:])]
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), data)
    away = w * 1.1  # not where the model is
    loop, batched = (
        m_sharpness(f, away, 0.2, m, restarts=0, engine=engine) for engine in ("loop", "batched")
    )
    assert "batched" in batched.engine
    assert batched.one_step.value == pytest.approx(loop.one_step.value, rel=1e-9)


@pytest.mark.slow
def test_the_standard_errors_of_both_engines_agree() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(512, 3), torch.randn(512, 1)
    f, w = Objective.of_model(model, lambda x, y: (model(x) - y).square().mean(), [(x, y)])
    loop, batched = (
        m_sharpness(f, w, 0.1, 2, restarts=0, engine=engine).one_step
        for engine in ("loop", "batched")
    )
    assert (len(loop.rises), len(batched.rises)) == (256, 32)
    assert batched.standard_error == pytest.approx(loop.standard_error, rel=0.4)


def test_a_model_that_the_batched_engine_does_not_understand_takes_the_loop() -> None:
    model = nn.LSTM(3, 2, batch_first=True)
    x = torch.randn(6, 4, 3)
    f, w = Objective.of_model(model, lambda x: model(x)[0].square().mean(), [(x,)])
    assert m_sharpness(f, w, 0.1, 2, restarts=0).engine == "loop"
    with pytest.raises(RuntimeError, match="engine='batched' must be able to prove"):
        m_sharpness(f, w, 0.1, 2, restarts=0, engine="batched")


@pytest.mark.slow
def test_ascents_may_be_made_on_a_sample_of_the_groups() -> None:
    f, w, _, _ = least_squares()
    some = m_sharpness(f, w, 0.1, 1, sample=10, restarts=1)
    every = m_sharpness(f, w, 0.1, 1, restarts=1)
    assert (len(some.restarts.rises), len(every.restarts.rises)) == (10, 64)
    assert set(some.restarts.rises.tolist()) <= set(every.restarts.rises.tolist())
    assert some.restarts.standard_error > every.restarts.standard_error
    assert some.passes < every.passes


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_measuring_leaves_the_model_as_it_was(training) -> None:
    for fail_at in (0, 3, 9):
        model, f, w = everything(training=training, batch_norm="eval", fail_at=fail_at)
        before = state_of(model)
        if fail_at:
            with pytest.raises(KeyError, match="interrupted"):
                m_sharpness(f, w, 0.1, 2, restarts=2, steps=3)
        else:
            m_sharpness(f, w, 0.1, 2, restarts=2, steps=3)
        assert_same(before, state_of(model))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"m": 65}, r"m must be between 1 and the 64 examples, got 65"),
        ({"restarts": -1}, r"restarts must be at least 0, got -1"),
        ({"sample": 0}, r"sample must be at least 1, got 0; restarts=0 makes no ascents"),
        ({"engine": "vmap"}, r"engine must be 'auto', 'loop' or 'batched', got 'vmap'"),
    ],
)
def test_what_has_no_meaning_is_refused(keywords, message) -> None:
    f, w, _, _ = least_squares()
    with pytest.raises(ValueError, match=message):
        m_sharpness(f, w, **{"rho": 0.1, "m": 1, **keywords})
