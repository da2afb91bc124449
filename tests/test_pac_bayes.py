"""PAC-Bayes bounds against published figures, closed forms and simulated coins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from test_objective import assert_same, everything, state_of
from torch.nn import functional as F

from flatminima import Objective, Vector
from flatminima.sharpness import pac_bayes
from flatminima.sharpness.pac_bayes import (
    Posterior,
    binary_kl,
    certificate,
    complexity,
    gaussian_kl,
    kl_inverse,
    mcallester,
    noise_for,
    noisy_bound,
    sam_bound,
    train_posterior,
)

# ------------------------------------------------------------------------------------ divergences


@pytest.mark.parametrize("bound", [1e-6, 0.1, 1.0, 5.0])
def test_without_mistakes_the_inverse_is_in_closed_form(bound) -> None:
    assert kl_inverse(0.0, bound) == pytest.approx(-math.expm1(-bound), rel=1e-12)


@pytest.mark.parametrize("q", [0.0, 0.028, 0.5, 1.0])
def test_no_divergence_leaves_the_loss_as_it_is(q) -> None:
    assert kl_inverse(q, 0.0) == q


@pytest.mark.parametrize("q", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("bound", [1e-4, 0.05, 2.0])
def test_the_inverse_is_above_the_loss_below_pinsker_and_inverts(q, bound) -> None:
    found = kl_inverse(q, bound)
    assert q < found <= min(1.0, q + math.sqrt(bound / 2))
    assert binary_kl(q, found) == pytest.approx(bound, rel=1e-6)


def test_the_inverse_covers_the_truth_as_often_as_it_says() -> None:
    n, delta, truth = 200, 0.1, 0.2
    counts = np.random.default_rng(0).binomial(n, truth, 1000)
    bounds = [kl_inverse(count / n, math.log(2 / delta) / n) for count in counts]
    assert np.mean(np.array(bounds) >= truth) >= 1 - delta


def test_equal_gaussians_have_no_divergence_and_one_dimension_is_in_closed_form() -> None:
    assert gaussian_kl(7, 0.0, 0.3, 0.3) == 0.0
    closed = math.log(2.0 / 0.5) + (0.5**2 + 1.5**2) / (2 * 2.0**2) - 0.5
    assert gaussian_kl(1, 1.5, 0.5**2, 2.0**2) == pytest.approx(closed)


# -------------------------------------------------------------------------------- the bound of SAM

TABLE = [
    (36_500_000, 50_000, 2000, 0.05, 99.6, 49.8),
    (7_850, 60_000, 50, 0.05, 1.14, 0.576),
    (100, 1_000_000, 10, 0.5, 0.025, 0.014),
]


@pytest.mark.parametrize(("k", "n", "square", "rho", "printed", "tight"), TABLE)
def test_both_forms_have_their_known_values(k, n, square, rho, printed, tight) -> None:
    bound = sam_bound(worst_loss=0.0, norm=math.sqrt(square), k=k, n=n, rho=rho)
    assert bound.printed.excess == pytest.approx(printed, rel=5e-3)
    assert bound.tight.excess == pytest.approx(tight, rel=4e-2)  # to the digits of the table


GRID = list(
    itertools.product([10, 1000, 10**6], [100, 10_000, 10**6], [0.0, 1.0, 100.0], [0.01, 0.1, 10.0])
)


def test_the_form_before_relaxation_is_never_larger() -> None:
    for k, n, norm, rho in GRID:
        for worst in (0.0, 0.3, 1.0):
            bound = sam_bound(worst_loss=worst, norm=norm, k=k, n=n, rho=rho)
            assert bound.tight.value < bound.printed.value


def test_every_term_of_the_bound_is_reported() -> None:
    k, n, norm, rho = 100, 10_000, 3.0, 0.5
    bound = sam_bound(worst_loss=0.2, norm=norm, k=k, n=n, rho=rho, delta=0.01)
    size = k * math.log(1 + norm**2 / rho**2 * (1 + math.sqrt(math.log(n) / k)) ** 2)
    a, b = bound.printed, bound.tight
    assert (a.worst, a.slack, a.constant) == (0.2, 0.0, 0.0)
    assert (b.worst, b.slack, b.constant) == (pytest.approx(0.2 * 0.99), 0.01, 0.25)
    assert a.norm == pytest.approx(size)
    assert b.norm == pytest.approx(size / 4)
    assert a.confidence == pytest.approx(4 * math.log(n / 0.01)) == 4 * b.confidence
    assert a.grid == pytest.approx(8 * math.log(6 * n + 3 * k)) == 4 * b.grid


def test_the_bound_is_the_bound_under_noise_with_the_noise_of_the_ball() -> None:
    k, n, norm, rho = 500, 20_000, 2.0, 0.3
    noisy = noisy_bound(0.0, norm, noise_for(rho, k, n), k, n)
    tight = sam_bound(worst_loss=0.0, norm=norm, k=k, n=n, rho=rho).tight
    assert tight.excess == pytest.approx(noisy + 1 / math.sqrt(n))


def test_choosing_the_prior_from_its_grid_costs_no_more_than_the_bound_says() -> None:
    k, n, delta = 50, 5_000, 0.05
    for norm, sigma in itertools.product([0.1, 1.0, 5.0], [0.05, 0.5]):
        largest = sigma**2 * (1 + math.exp(4 * n / k))
        best = math.inf
        for j in range(1, 4 * n):
            variance = largest * math.exp((1 - j) / k)
            kl = gaussian_kl(k, norm, sigma**2, variance)
            best = min(best, mcallester(0.0, kl, n, 6 * delta / (math.pi * j) ** 2))
        assert best <= noisy_bound(0.0, norm, sigma, k, n, delta)


def test_the_limits_are_those_of_the_formula() -> None:
    far = sam_bound(worst_loss=0.0, norm=1.0, k=100, n=10_000, rho=1e9)
    assert far.tight.norm == pytest.approx(0.0, abs=1e-9)  # a ball without limits: no price
    many = [sam_bound(worst_loss=0.0, norm=1.0, k=k, n=10_000, rho=0.1) for k in (10**4, 10**12)]
    assert many[1].tight.value > 1000 * many[0].tight.value
    assert many[1].vacuous


def test_the_noise_of_a_ball_stays_within_it_often_enough() -> None:
    n = 100
    for k in (1, 10, 1000):
        z = np.random.default_rng(k).standard_normal((4000, k))
        leaves = np.linalg.norm(z, axis=1) * noise_for(0.7, k, n) > 0.7
        assert leaves.mean() <= 1 / math.sqrt(n)


def test_a_bound_above_one_is_called_vacuous_and_one_below_is_not() -> None:
    bound = sam_bound(worst_loss=0.1, norm=math.sqrt(50), k=7_850, n=60_000, rho=0.05)
    assert (bound.printed.vacuous, bound.tight.vacuous) == (True, False)
    assert "vacuous" in repr(bound.printed)
    assert "vacuous" not in repr(bound.tight)
    assert "cannot be checked" in repr(bound)


# ------------------------------------------------------------------------------------ certificates


@pytest.mark.parametrize("log_variance", [-9, -7.5, -6])
def test_the_published_certificate_of_the_net_with_600_units_is_reproduced(log_variance) -> None:
    bound = complexity(5144, 55_000, math.exp(log_variance))
    assert kl_inverse(0.028, bound) == pytest.approx(0.161, abs=5e-4)
    drawn = kl_inverse(0.028, math.log(2 / 0.01) / 150_000)
    assert kl_inverse(drawn, bound) == pytest.approx(0.1637, abs=5e-5)
    assert 0.028 + math.sqrt(bound / 2) == pytest.approx(0.245, abs=5e-4)


def test_random_labels_come_near_one_but_not_above() -> None:
    assert kl_inverse(0.112, complexity(201_131, 55_000, math.exp(-7))) == pytest.approx(
        0.989, abs=5e-4
    )


def two_clouds(n: int = 400) -> tuple[Objective, Objective, Vector]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randn(n, 2, generator=generator) + 3.0 * (2.0 * y[:, None] - 1.0)
    model = torch.nn.Linear(2, 2)
    loss, w = Objective.of_model(
        model, lambda x, y: F.cross_entropy(model(x), y) / math.log(2), [(x, y)]
    )
    error, _ = Objective.of_model(
        model, lambda x, y: (model(x).argmax(1) != y).double().mean(), [(x, y)]
    )
    return loss, error, w.clone()


@pytest.mark.slow
def test_training_the_posterior_makes_the_certificate_small() -> None:
    loss, error, w = two_clouds()
    start = Posterior(
        mean=w,
        deviation=w.map(lambda part: torch.full_like(part, 0.03)),
        prior=w,
        prior_variance=0.01,
    )
    before = certificate(error, start, draws=300)
    trained = certificate(error, train_posterior(loss, w, w, steps=200), draws=300)
    assert trained.value < 0.2
    assert trained.value < before.value
    assert not trained.vacuous


def test_a_certificate_reports_every_term() -> None:
    loss, error, w = two_clouds()
    found = certificate(error, train_posterior(loss, w, w, steps=20), draws=50)
    assert found.error_bound == kl_inverse(found.error, math.log(2 / 0.01) / 50)
    assert found.complexity == pytest.approx(complexity(found.kl, 400, found.prior_variance))
    assert found.value == kl_inverse(found.error_bound, found.complexity)
    j = 100 * math.log(0.1 / found.prior_variance)
    assert j == pytest.approx(round(j))
    assert found.confidence == pytest.approx(0.965)


def test_a_certificate_near_one_is_called_vacuous() -> None:
    _, error, w = two_clouds()
    far = Posterior(mean=w * 100.0, deviation=w.map(torch.ones_like), prior=w, prior_variance=0.01)
    found = certificate(error, far, draws=10)
    assert found.vacuous
    assert "vacuous" in repr(found)


def test_the_divergence_of_a_posterior_is_that_of_gaussians() -> None:
    w = Vector([torch.randn(3, 4), torch.randn(2)])
    prior = w * 0.5
    same = Posterior(
        mean=w,
        deviation=w.map(lambda part: torch.full_like(part, 0.2)),
        prior=prior,
        prior_variance=0.09,
    )
    distance = float((w - prior).norm())
    assert same.kl == pytest.approx(gaussian_kl(14, distance, 0.04, 0.09), rel=1e-12)


def test_the_draws_have_the_deviation_of_the_posterior() -> None:
    w = Vector([torch.zeros(20_000)])
    posterior = Posterior(
        mean=w, deviation=Vector([torch.full((20_000,), 0.1)]), prior=w, prior_variance=0.01
    )
    assert float(posterior.draw(torch.Generator()).parts[0].std()) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("fail_at", [0, 3])
def test_training_a_posterior_leaves_the_model_as_it_was(training, fail_at) -> None:
    model, f, w = everything(training=training, batch_norm="batch", fail_at=fail_at)
    before = state_of(model)
    if fail_at:
        with pytest.raises(KeyError, match="interrupted"):
            train_posterior(f, w, w, steps=5)
    else:
        train_posterior(f, w, w, steps=5)
    assert_same(before, state_of(model))


# -------------------------------------------------------------------------------------- refusals

SETTINGS = {"worst_loss": 0.0, "norm": 1.0, "k": 10, "n": 100, "rho": 0.1}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"worst_loss": 1.5}, r"worst_loss must be in \[0, 1\], got 1.5; take the error"),
        ({"norm": -1.0}, r"norm must be >= 0, got -1.0"),
        ({"k": 0}, r"k must be at least 1, got 0; it counts the trainable parameters"),
        ({"n": 1}, r"n must be at least 2, got 1; it counts the examples"),
        ({"rho": 0.0}, r"rho must be > 0, got 0.0"),
        ({"delta": 1.0}, r"delta must be > 0 and < 1, got 1.0"),
    ],
)
def test_a_bound_without_meaning_is_refused(keywords, message) -> None:
    with pytest.raises(ValueError, match=message):
        sam_bound(**{**SETTINGS, **keywords})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_inverse(1.1, 0.1), r"q must be in \[0, 1\], got 1.1"),
        (lambda: kl_inverse(0.1, -0.1), r"bound must be >= 0, got -0.1"),
        (lambda: binary_kl(0.1, 2.0), r"truth must be in \[0, 1\], got 2.0"),
        (lambda: gaussian_kl(1, 0.0, 0.0, 1.0), r"variance must be > 0, got 0.0"),
        (lambda: complexity(-1.0, 10, 0.01), r"kl must be >= 0, got -1.0"),
        (lambda: complexity(1.0, 1, 0.01), r"n must be at least 2, got 1"),
        (lambda: complexity(1.0, 10, 0.01, delta=0.0), r"delta must be > 0 and < 1, got 0.0"),
        (lambda: complexity(1.0, 10, 0.2), r"prior_variance must be > 0 and < 0.1, got 0.2"),
    ],
)
def test_what_is_no_probability_or_variance_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_certificate_needs_examples_draws_and_an_error() -> None:
    _, error, w = two_clouds()
    posterior = Posterior(mean=w, deviation=w.map(torch.ones_like), prior=w, prior_variance=0.01)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        certificate(error, posterior, draws=0)
    with pytest.raises(ValueError, match="delta_draws must be > 0 and < 1, got 0"):
        certificate(error, posterior, delta_draws=0.0)
    with pytest.raises(ValueError, match=r"error must be in \[0, 1\], got 2"):
        certificate(Objective(lambda w: 0 * w.norm() + 2.0), posterior, n=10, draws=1)
    with pytest.raises(ValueError, match="n must be given for an objective without batches"):
        certificate(Objective(lambda w: w.norm()), posterior)
    assert pac_bayes.certificate is certificate
