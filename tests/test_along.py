"""Looks along training find what the measures find, and keep to the time they were given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import flatminima as fm
from flatminima import Objective, Vector
from flatminima.sharpness import AlongTraining, Hessian, top_eigenpairs


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Priced(AlongTraining):
    """Looks that take a stated time on the fake clock and find nothing."""

    price: float = 1.0

    def _row(self, w: Vector) -> dict[str, float]:
        self.clock.now += self.price  # pyright: ignore
        return {}


def trained(budget: float, price, step_time: float, steps: int, every: int = 1) -> Priced:
    """A training with looks at a price that may depend on the step."""
    clock = Clock()
    along = Priced(Objective(lambda w: w.dot(w)), every=every, budget=budget, clock=clock)
    w = Vector([torch.ones(1)])
    for step in range(steps):
        along.price = price(step)
        clock.now += step_time
        along.look(step, w)
        paid = along.spent <= budget * along._trained(clock.now)
        if len(along.rows) > 1:  # the first one, which is on credit, is paid for
            assert paid or along.rows[-1]["seconds"] > max(
                row["seconds"] for row in along.rows[:-1][-3:]
            )
    return along


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.5])
def test_the_looks_keep_within_their_share_of_the_time(budget: float) -> None:
    along = trained(budget, price=lambda step: 3.0, step_time=0.1, steps=20_000)
    assert len(along.rows) > 1
    assert along.share <= budget
    assert along.share > 0.7 * budget  # and use it


def test_looks_that_get_dearer_come_more_rarely() -> None:
    along = trained(0.05, price=lambda step: 1.0 + step / 1000, step_time=0.1, steps=10_000)
    gaps = [b["step"] - a["step"] for a, b in zip(along.rows, along.rows[1:], strict=False)]
    assert gaps[-1] > 3 * gaps[0]
    assert along.share <= 0.05 * 1.1


def test_one_dear_look_is_paid_off_before_the_next() -> None:
    along = trained(0.1, price=lambda step: 50.0 if step == 0 else 0.1, step_time=1.0, steps=2000)
    assert along.rows[1]["step"] >= 500  # 50 seconds are 10 % of 500
    assert along.share <= 0.1


def test_looks_are_no_denser_than_every_so_many_steps() -> None:
    along = trained(0.5, price=lambda step: 0.001, step_time=1.0, steps=100, every=20)
    assert [row["step"] for row in along.rows] == [0, 20, 40, 60, 80]


def test_the_share_says_what_the_looks_cost() -> None:
    clock = Clock()
    along = Priced(Objective(lambda w: w.dot(w)), clock=clock)
    assert along.share == 0.0
    along.look(0, Vector([torch.ones(1)]))
    assert along.share == math.inf
    clock.now += 10.0
    assert along.share == pytest.approx(0.1)


def test_a_look_finds_what_the_measures_find_and_changes_nothing() -> None:
    def run(watched: bool):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3))
        x, y = torch.randn(30, 4), torch.randint(3, (30,))

        def loss_fn(x, y):
            return nn.functional.cross_entropy(model(x), y)

        f, w = Objective.of_model(model, loss_fn, [(x[:20], y[:20]), (x[20:], y[20:])])
        along = AlongTraining(f, every=2, budget=1e6, rho=0.1)
        weights = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        sharp = fm.SharpnessAware(model, fm.sam(rho=0.1), observe=[along] if watched else [])
        for _ in range(3):
            weights.append(w.clone())
            optimizer.zero_grad()
            sharp.backward(loss_fn, x, y)
            optimizer.step()
        return f, w, weights, along

    f, end, weights, along = run(watched=True)
    _, plain, _, _ = run(watched=False)
    assert all(map(torch.equal, end.parts, plain.parts))
    assert [row["step"] for row in along.rows] == [0, 2]
    for row, w in zip(along.rows, weights[::2], strict=True):
        pairs = top_eigenpairs(Hessian(f, w), k=5)
        assert row["lambda_1"] == pytest.approx(float(pairs.values[0]), rel=1e-5)
        bound = pairs.ratio(1, 5).bound + row["ratio_bound"]
        assert abs(row["ratio"] - pairs.ratio(1, 5).value) <= bound < 0.1
        g = f.gradient(w)
        e = 0.1 / g.norm() * g
        assert row["one_step"] == pytest.approx(float(f.value(w + e) - f.value(w)), rel=1e-9)
        assert row["steeper"] == fm.regions.shares(g, f.gradient(w + e)).steeper


def test_a_look_begins_from_the_eigenvectors_of_the_one_before() -> None:
    def products(steady: bool) -> list[int]:
        along = AlongTraining(Objective(lambda w: (w * w * w * w).dot(curvature) / 12), budget=1e9)
        for step in range(4):
            along.look(step, Vector([torch.full((900,), 1.0 + 0.01 * step)]))
            if not steady:
                along._before = None
        assert all(row["converged"] for row in along.rows)
        return [row["products"] for row in along.rows]

    tops = torch.tensor([9.0, 7.0, 6.0, 5.0, 4.0])
    curvature = Vector([torch.cat([tops, torch.linspace(0, 1, 895)])])
    warm, cold = products(True), products(False)
    assert warm[0] == cold[0] and sum(warm[1:]) < sum(cold[1:])


def test_where_the_slope_is_zero_a_step_goes_nowhere() -> None:
    f = Objective(lambda w: w.parts[0].square().sum())
    along = AlongTraining(f, k=1)
    along.look(0, Vector([torch.zeros(2)]))
    assert along.rows[0]["one_step"] == 0.0 and along.rows[0]["gentler"] == 1.0


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"every": 0}, "every must be a positive whole number, got 0"),
        ({"budget": 0.0}, "budget must be > 0 and finite, got 0.0; 0.05 is 5 %"),
        ({"k": 0}, "k must be at least 1, got 0"),
    ],
)
def test_settings_out_of_their_range_are_refused(keywords, message) -> None:
    with pytest.raises(ValueError, match=message):
        AlongTraining(Objective(lambda w: w.dot(w)), **keywords)
