"""Top eigenpairs against known spectra, dense solvers and scipy; and how honest they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatminima import Objective, Vector
from flatminima.sharpness import Eigenpairs, FromFunction, Hessian, Operator, top_eigenpairs
from flatminima.sharpness.krylov import Krylov, flat, shaped

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def spread(low, high, count):
    return torch.linspace(low, high, count, dtype=torch.float64)


def spectrum(*tops, bulk) -> torch.Tensor:
    return torch.cat([torch.tensor(tops, dtype=torch.float64), bulk])


def diagonal(values, dtype=torch.float64) -> Operator:
    """An operator with known eigenvalues, in two parts, in no order."""
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(5))]
    first, second = values.to(dtype).split([3, len(values) - 3])
    curvature = Vector([first, second.view(-1, 1)])
    return FromFunction(lambda v: curvature * v, like=curvature)


def matrix_operator(matrix) -> Operator:
    return FromFunction(
        lambda v: Vector([matrix @ v.parts[0]]), like=Vector([torch.zeros(len(matrix))])
    )


def random_matrix(seed: int, size: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return matrix + matrix.T


def true_residuals(operator, pairs: Eigenpairs) -> torch.Tensor:
    rows = zip(pairs.vectors, pairs.values.tolist(), strict=True)
    return torch.stack([(operator(v) - value * v).norm() for v, value in rows])


RATIO = spectrum(24.2, 10, 6, 4, 2.12, 2.1, 2.0, bulk=spread(1, -0.5, 193))
SPECTRA = {
    "an outlier for each class": RATIO,
    "a cluster": spectrum(*(10 - 0.1 * i for i in range(10)), bulk=spread(1, -1, 190)),
    "three equal on top": spectrum(5, 5, 5, 3, 2, bulk=spread(1, -0.5, 195)),
    "two equal at the cut": spectrum(5, 4, 3, 2, 2, 2, bulk=spread(1, -0.5, 194)),
    "five equal pairs": spectrum(5, 5, 4, 4, 3, 3, 2, 2, 1, 1, bulk=spread(0.1, 0, 90)),
    "a large negative outlier": spectrum(1, -3, bulk=spread(0.5, -1, 60)),
    "all negative": -spectrum(1, 2, 3, bulk=spread(4, 90, 57)),
    "the largest is zero": -spectrum(5, 3, 1, bulk=torch.zeros(60, dtype=torch.float64)),
    "rank three": spectrum(5, 3, 1, bulk=torch.zeros(97, dtype=torch.float64)),
    "identity": torch.ones(50, dtype=torch.float64),
    "identity and one outlier": spectrum(1.5, bulk=torch.ones(3000, dtype=torch.float64)),
    "zero": torch.zeros(50, dtype=torch.float64),
    "as small as k": spectrum(3, 2, 1, 0, -4, bulk=torch.zeros(0, dtype=torch.float64)),
}


# --------------------------------------------------------------------------------- known spectra


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_largest_eigenvalues_are_found(name, seed) -> None:
    expected = SPECTRA[name].sort(descending=True).values[:5]
    operator = diagonal(SPECTRA[name])
    pairs = top_eigenpairs(operator, k=5, tolerance=1e-9, seed=seed)
    torch.testing.assert_close(pairs.values, expected, **EXACT)
    assert pairs.converged
    assert pairs.missed <= 0.01
    assert pairs.products == operator.products <= 200


@pytest.mark.parametrize("name", SPECTRA)
def test_float32_finds_them_to_its_own_precision(name) -> None:
    values = SPECTRA[name]
    expected = values.sort(descending=True).values[:5]
    pairs = top_eigenpairs(diagonal(values, torch.float32), k=5, tolerance=1e-4)
    error = (pairs.values - expected).abs().max()
    assert error <= 2e-6 * values.abs().max()
    assert pairs.converged and pairs.vectors[0].parts[0].dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4, 1e8])
def test_the_scale_of_the_curvature_does_not_matter(scale) -> None:
    small, one = (top_eigenpairs(diagonal(factor * RATIO), tolerance=1e-8) for factor in (scale, 1))
    torch.testing.assert_close(small.values, scale * one.values, rtol=1e-10, atol=0)
    assert small.products == one.products and small.converged


def test_the_ratio_of_the_first_to_the_fifth() -> None:
    pairs = top_eigenpairs(diagonal(RATIO), k=5, tolerance=1e-7)
    ratio = pairs.ratio(1, 5)
    assert ratio.value == pytest.approx(11.415094, abs=1e-6)
    assert abs(ratio.value - 24.2 / 2.12) <= ratio.bound < 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_the_default_tolerance_states_an_error_that_holds(seed) -> None:
    pairs = top_eigenpairs(diagonal(RATIO), k=8, seed=seed)
    assert pairs.converged and ((pairs.values - RATIO[:8]).abs()[:5] <= pairs.residuals[:5]).all()
    five = top_eigenpairs(diagonal(RATIO), k=5, seed=seed)
    for ratio in (pairs.ratio(1, 5), five.ratio(1, 5)):
        assert abs(ratio.value - 24.2 / 2.12) <= ratio.bound < 0.2
    nearest = (five.values[:, None] - RATIO).abs().min(dim=1).values
    assert (nearest <= five.residuals).all() and (five.residuals <= 1e-3 * 24.2).all()
    assert ((five.values - RATIO[:5]).abs() <= 1e-3 * 24.2).all()
    assert five.products <= 33
    assert top_eigenpairs(diagonal(RATIO), k=5, risk=1.0, seed=seed).products <= 27


# ------------------------------------------------------------------------ both ends, other starts


@pytest.mark.parametrize("backend", ["lanczos", "scipy"])
@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("largest", [3.0, 2.0, 1.0]),
        ("smallest", [-5.0, -4.0, -1.0]),
        ("both", [3.0, 2.0, 1.0, -1.0, -4.0, -5.0]),
        ("magnitude", [-5.0, -4.0, 3.0]),
    ],
)
def test_either_end_of_the_spectrum_is_found(which, backend, expected) -> None:
    values = spectrum(3, 2, 1, -5, -4, -1, bulk=spread(0.9, -0.9, 60))
    pairs = top_eigenpairs(
        diagonal(values), k=3, which=which, tolerance=1e-8, backend=backend, max_products=400
    )
    torch.testing.assert_close(pairs.values, torch.tensor(expected), **EXACT)
    assert pairs.converged and pairs.which == which
    torch.testing.assert_close(pairs.residuals, true_residuals(diagonal(values), pairs))
    assert (pairs.missed <= 0.01) == (backend == "lanczos")


@pytest.mark.parametrize("which", ["smallest", "magnitude", "both"])
def test_a_repeated_eigenvalue_is_found_at_either_end(which) -> None:
    values = spectrum(4, 4, -5, -5, -5, bulk=spread(1, -1, 195))
    pairs = top_eigenpairs(diagonal(values), k=2, which=which, tolerance=1e-8, window=14)
    expected = {"both": [4.0, 4.0, -5.0, -5.0]}.get(which, [-5.0, -5.0])
    torch.testing.assert_close(pairs.values, torch.tensor(expected), **EXACT)
    assert pairs.converged


def test_a_block_sees_as_many_copies_without_doubting() -> None:
    values = SPECTRA["three equal on top"]
    for block, copies in ((1, 1), (2, 2), (3, 3), (4, 3)):
        pairs = top_eigenpairs(diagonal(values), k=4, tolerance=1e-6, risk=1.0, block=block)
        assert int((pairs.values - 5).abs().lt(1e-6).sum()) >= copies  # rounding can add one
        assert pairs.converged


@pytest.mark.parametrize("name", SPECTRA)
def test_a_block_finds_the_largest_too(name) -> None:
    expected = SPECTRA[name].sort(descending=True).values[:5]
    pairs = top_eigenpairs(diagonal(SPECTRA[name]), k=5, tolerance=1e-9, block=3, max_products=900)
    torch.testing.assert_close(pairs.values, expected, **EXACT)
    torch.testing.assert_close(pairs.residuals, true_residuals(diagonal(SPECTRA[name]), pairs))
    assert pairs.converged


def test_a_warm_start_saves_products_and_finds_what_is_new() -> None:
    bulk = spread(1, -0.5, 2000)
    before, moved = (spectrum(*tops, bulk=bulk) for tops in ((9, 7, 6, 5, 4), (9, 6.9, 6.1, 5, 4)))
    curvature, later = Vector([before]), Vector([moved])
    operator, changed = (FromFunction(lambda v, c=c: c * v, like=c) for c in (curvature, later))
    cold = top_eigenpairs(operator)
    again = top_eigenpairs(changed, start=cold)
    one = top_eigenpairs(changed, start=sum(cold.vectors[1:], cold.vectors[0]))
    for pairs in (again, one):
        torch.testing.assert_close(pairs.values, moved[:5], rtol=1e-6, atol=0)
        assert pairs.converged and pairs.products < cold.products
    news = Vector([before.clone()])
    news.parts[0][700] = 8.0  # where no old vector points
    found = top_eigenpairs(FromFunction(lambda v: news * v, like=news), start=cold)
    torch.testing.assert_close(found.values, torch.arange(9.0, 4.0, -1), rtol=1e-6, atol=0)
    assert found.converged


def test_scipy_that_runs_out_of_products_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="eigsh must find 5 pairs, got 0 after"):
        top_eigenpairs(
            diagonal(spread(1, 2, 800)), tolerance=1e-12, max_products=20, backend="scipy"
        )


def test_a_seed_draws_other_numbers_than_torch_does_for_it() -> None:
    torch.manual_seed(0)
    drawn = torch.randn(200)
    seen = []
    operator = FromFunction(lambda v: seen.append(v) or 2.0 * v, like=Vector([drawn]))
    top_eigenpairs(operator, k=1, seed=0)
    assert abs(seen[0].parts[0] @ drawn) < 0.3 * drawn.norm()


def test_a_small_window_finds_the_same_with_more_products() -> None:
    wide = top_eigenpairs(diagonal(SPECTRA["a cluster"]), k=5, tolerance=1e-9)
    narrow = top_eigenpairs(diagonal(SPECTRA["a cluster"]), k=5, tolerance=1e-9, window=12)
    torch.testing.assert_close(narrow.values, wide.values, **EXACT)
    assert narrow.converged and narrow.products > wide.products


def test_an_eigenvalue_that_is_repeated_is_found_or_said_to_be_possible() -> None:
    values = SPECTRA["three equal on top"]
    thorough = top_eigenpairs(diagonal(values), k=3, tolerance=1e-6)
    torch.testing.assert_close(thorough.values, values[:3], **EXACT)
    hasty = top_eigenpairs(diagonal(values), k=3, tolerance=1e-6, risk=1.0)
    assert hasty.values[1] == pytest.approx(3.0)  # once for the three equal ones
    assert hasty.missed == 1.0 and thorough.missed <= 0.01


@pytest.mark.parametrize("edge", [1.0, 1.9])
@pytest.mark.slow
def test_the_risk_is_kept(edge) -> None:
    values = spectrum(2, 2, bulk=spread(edge, 0, 400))
    runs = [top_eigenpairs(diagonal(values), k=2, risk=0.2, seed=seed) for seed in range(40)]
    misses = sum(pairs.values[1] < 1.99 for pairs in runs)
    assert all(pairs.missed <= 0.2 for pairs in runs) and misses <= 8


def test_a_small_residual_by_accident_ends_nothing() -> None:
    values = spectrum(1.01, bulk=torch.ones(3000, dtype=torch.float64))
    pairs = top_eigenpairs(diagonal(values), k=1)  # the first step has a residual of 2e-4
    assert pairs.values.item() == pytest.approx(1.01, abs=1e-9)


@pytest.mark.parametrize("name", ["a cluster", "three equal on top", "five equal pairs"])
@pytest.mark.slow
def test_what_stops_the_search_is_small_enough_when_measured(name) -> None:
    operator = diagonal(SPECTRA[name])
    runs = [top_eigenpairs(operator, k=5, tolerance=1e-2, seed=seed) for seed in range(60)]
    assert all(pairs.converged for pairs in runs)


# ------------------------------------------------------------------------------- honest errors


@pytest.mark.parametrize("seed", range(8))
def test_a_residual_is_never_below_the_true_one(seed) -> None:
    matrix = random_matrix(seed)
    operator = matrix_operator(matrix)
    for tolerance in (1e-1, 1e-3, 1e-12):
        pairs = top_eigenpairs(operator, k=4, tolerance=tolerance, seed=seed)
        true = true_residuals(operator, pairs)
        torch.testing.assert_close(pairs.residuals, true, rtol=1e-6, atol=1e-13)
        assert (pairs.residuals >= 0.999999 * true - 1e-14).all()
        eigenvalues = torch.linalg.eigvalsh(matrix)
        errors = (pairs.values[:, None] - eigenvalues).abs().min(dim=1).values
        assert (errors <= pairs.residuals + 1e-13).all()
        assert (pairs.errors <= pairs.residuals).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_vectors_are_orthonormal_eigenvectors(seed) -> None:
    matrix = random_matrix(seed)
    pairs = top_eigenpairs(matrix_operator(matrix), k=4, tolerance=1e-10, window=10)
    values, vectors = (found.flip(-1)[..., :4] for found in torch.linalg.eigh(matrix))
    rows = torch.stack([v.parts[0] for v in pairs.vectors])
    torch.testing.assert_close(rows @ rows.T, torch.eye(4), **EXACT)
    torch.testing.assert_close((rows @ vectors).abs(), torch.eye(4), rtol=0, atol=1e-8)
    torch.testing.assert_close(pairs.values, values, **EXACT)


def test_a_matrix_that_is_not_symmetric_is_not_said_to_have_converged() -> None:
    matrix = random_matrix(0)
    matrix[0] += 5.0
    pairs = top_eigenpairs(matrix_operator(matrix), k=3)
    assert not pairs.converged


def test_noise_in_the_products_shows_in_the_residuals() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = FromFunction(
        lambda v: RATIO[:50].norm() * v + 0.1 * v.randn_like(generator),
        like=Vector([torch.zeros(50)]),
    )
    pairs = top_eigenpairs(noisy, k=3)
    assert not pairs.converged and (pairs.residuals > 0.1).all()
    assert (pairs.values.diff() <= 0).all()


def test_when_the_products_run_out_it_says_so() -> None:
    operator = diagonal(SPECTRA["a cluster"])
    pairs = top_eigenpairs(operator, k=5, tolerance=1e-9, max_products=20)
    assert not pairs.converged and pairs.products == operator.products == 20
    torch.testing.assert_close(pairs.residuals, true_residuals(operator, pairs))
    assert "NOT converged after 20 products" in repr(pairs)


def test_an_unreachable_tolerance_ends_at_rounding() -> None:
    pairs = top_eigenpairs(diagonal(RATIO, torch.float32), k=5, tolerance=1e-12)
    assert not pairs.converged and pairs.products < 60
    assert pairs.residuals.max() < 1e-5 * 24.2


def test_a_ratio_allows_for_a_value_that_was_passed_over() -> None:
    values = torch.tensor([24.2, 5.0, 4.999, 4.998, 4.0, 3.0, *torch.linspace(0.0, 2.0, 30)])
    for seed in range(20):
        ratio = top_eigenpairs(diagonal(values), k=4, seed=seed).ratio(1, 4)
        assert abs(ratio.value - 24.2 / 4.998) <= ratio.bound


def test_a_ratio_by_what_may_be_zero_has_no_bound() -> None:
    pairs = top_eigenpairs(diagonal(SPECTRA["rank three"]), k=5)
    assert pairs.ratio(1, 4).bound == math.inf
    assert pairs.ratio(2, 2) == (1.0, 0.0)
    zero = top_eigenpairs(diagonal(SPECTRA["zero"]), k=2)
    assert math.isnan(zero.ratio(1, 2).value) and zero.ratio(1, 2).bound == math.inf


# ------------------------------------------------------------------------------------ Hessians


def test_linear_regression_has_the_eigenvalues_of_its_data() -> None:
    model, x, y = nn.Linear(8, 1, bias=False), torch.randn(40, 8), torch.randn(40, 1)
    f, w = Objective.of_model(model, lambda x, y: 0.5 * (model(x) - y).square().mean(), [(x, y)])
    pairs = top_eigenpairs(Hessian(f, w), k=3, tolerance=1e-8)
    torch.testing.assert_close(
        pairs.values, torch.linalg.eigvalsh(x.T @ x / 40).flip(0)[:3], **EXACT
    )


def test_several_outputs_repeat_every_eigenvalue() -> None:
    model, x = nn.Linear(8, 4, bias=False), torch.randn(40, 8)
    f, w = Objective.of_model(model, lambda x: 0.5 * model(x).square().sum(1).mean(), [(x,)])
    pairs = top_eigenpairs(Hessian(f, w), k=5, tolerance=1e-8)
    values = torch.linalg.eigvalsh(x.T @ x / 40).flip(0)
    expected = torch.stack([values[0]] * 4 + [values[1]])
    torch.testing.assert_close(pairs.values, expected, **EXACT)


def network(dtype=torch.float64, sizes=(64,)):
    model = nn.Sequential(
        nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)
    )
    model.to(dtype)
    x = torch.randn(64, 5)
    y = (x[:, :3] ** 2).argmax(1)
    x = x.to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    return Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches)


def test_a_trained_network_agrees_with_its_dense_hessian() -> None:
    f, w = network()
    hessian = Hessian(f, w)
    with hessian:
        rows = [flat(hessian(shaped(unit, w)), w) for unit in torch.eye(hessian.size)]
    expected = torch.linalg.eigvalsh(torch.stack(rows)).flip(0)[:5]
    pairs = top_eigenpairs(hessian, k=5, tolerance=1e-6)
    torch.testing.assert_close(pairs.values, expected, rtol=1e-9, atol=0)


def test_a_trained_network_in_float32_agrees_with_scipy() -> None:
    linalg = pytest.importorskip("scipy.sparse.linalg")
    f, w = network(torch.float32)
    hessian = Hessian(f, w)

    def product(row):
        v = shaped(torch.from_numpy(row.astype("float32")), w)
        return flat(hessian(v), w).double().numpy()

    operator = linalg.LinearOperator((hessian.size,) * 2, matvec=product, dtype="float64")
    expected = torch.from_numpy(linalg.eigsh(operator, k=5, which="LA")[0].copy()).flip(0)
    pairs = top_eigenpairs(hessian, k=5)
    assert ((pairs.values - expected).abs() <= pairs.residuals + 1e-6 * expected[0]).all()
    torch.testing.assert_close(pairs.values, expected, rtol=1e-4, atol=0)
    assert pairs.converged and pairs.products <= 45


def test_ragged_batches_change_nothing() -> None:
    torch.manual_seed(0)
    whole = top_eigenpairs(Hessian(*network()), k=3, tolerance=1e-8)
    torch.manual_seed(0)
    split = top_eigenpairs(Hessian(*network(sizes=(31, 1, 30, 2))), k=3, tolerance=1e-8)
    torch.testing.assert_close(split.values, whole.values, rtol=1e-12, atol=0)


def test_the_seed_decides_the_start_and_nothing_else() -> None:
    f, w = network()
    first, again, other = (top_eigenpairs(Hessian(f, w), k=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.vectors[2].parts[0], again.vectors[2].parts[0])
    assert not torch.equal(first.values, other.values)
    assert ((first.values - other.values).abs() <= first.residuals + other.residuals).all()


# ----------------------------------------------------------------------------------- operators


def test_building_an_operator_costs_no_pass_and_the_rest_is_counted() -> None:
    f, w = network()
    hessian = Hessian(f, w)
    assert f.passes == 0 and hessian.products == 0 and hessian.size == 5 * 12 + 12 + 156 + 39
    pairs = top_eigenpairs(hessian, k=2)
    assert hessian.products == pairs.products == f.passes / 4
    top_eigenpairs(hessian, k=2)
    assert hessian.products == 2 * pairs.products
    assert repr(hessian) == f"Hessian(size 267, {hessian.products} products so far)"


def test_the_graph_is_built_once_for_many_products_and_let_go() -> None:
    evaluations = []

    def function(w):
        evaluations.append(1)
        return w.parts[0].pow(4).sum()

    hessian = Hessian(Objective(function), Vector([torch.ones(6)]))
    top_eigenpairs(hessian, k=2)
    assert len(evaluations) == 1
    with hessian, hessian:
        hessian(hessian.like), hessian(hessian.like)
    assert len(evaluations) == 2
    hessian(hessian.like), hessian(hessian.like)
    assert len(evaluations) == 4


def test_an_interrupted_operator_can_be_used_again() -> None:
    calls = []

    def function(v):
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("interrupted")
        return 2.0 * v

    operator = FromFunction(function, like=Vector([torch.zeros(9)]))
    with pytest.raises(KeyError, match="interrupted"):
        top_eigenpairs(operator, k=3)
    assert top_eigenpairs(operator, k=3).values.tolist() == [2.0, 2.0, 2.0]


def test_absent_parts_of_the_weights_take_no_part() -> None:
    like = Vector([torch.zeros(3), None, torch.zeros(2)])
    curvature = Vector([torch.tensor([5.0, 1.0, 3.0]), None, torch.tensor([4.0, 2.0])])
    pairs = top_eigenpairs(FromFunction(lambda v: curvature * v, like=like), k=3)
    torch.testing.assert_close(pairs.values, torch.tensor([5.0, 4.0, 3.0]))
    assert pairs.vectors[0].parts[1] is None
    assert abs(pairs.vectors[0].parts[0][0]) == pytest.approx(1.0)


def test_half_precision_weights_are_measured_as_well_as_they_can_be() -> None:
    curvature = Vector([torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.bfloat16)])
    pairs = top_eigenpairs(FromFunction(lambda v: curvature * v, like=curvature), k=2)
    torch.testing.assert_close(pairs.values, torch.tensor([8.0, 4.0]), rtol=1e-2, atol=0)
    assert pairs.vectors[0].parts[0].dtype == torch.bfloat16


def test_an_operator_may_use_and_return_what_carries_a_graph() -> None:
    curvature = torch.tensor([3.0, 2.0, 1.0], requires_grad=True)

    def product(v):
        (slope,) = torch.autograd.grad((curvature**2 * v.parts[0]).sum(), curvature)
        return Vector([slope / 2 + 0 * curvature])

    with torch.no_grad():
        pairs = top_eigenpairs(Hessian(Objective(lambda w: w.dot(w)), Vector([torch.ones(3)])), k=1)
    assert pairs.values.item() == pytest.approx(2.0)
    pairs = top_eigenpairs(FromFunction(product, like=Vector([torch.zeros(3)])), k=2)
    torch.testing.assert_close(pairs.values, torch.tensor([3.0, 2.0]))
    assert not pairs.vectors[0].parts[0].requires_grad and not pairs.values.requires_grad


def test_progress_is_reported_until_the_end() -> None:
    seen = []
    pairs = top_eigenpairs(
        diagonal(RATIO), k=5, progress=lambda n, values, residuals: seen.append((n, values))
    )
    counts = [n for n, _ in seen]
    assert counts == list(range(5, pairs.products - 4))
    torch.testing.assert_close(seen[-1][1], pairs.values, rtol=1e-6, atol=0)


def test_the_basis_stays_orthonormal_and_sees_what_it_should() -> None:
    matrix = random_matrix(0, 30)
    operator = matrix_operator(matrix)
    basis = Krylov(operator, window=12, generator=torch.Generator().manual_seed(0))
    for step in range(40):
        if basis.applied == basis.window:
            basis.compress(5, fresh=step > 25)
        basis.extend()
        rows = basis.rows[: basis.filled]
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-14)
        ritz = basis.ritz()
        rows = rows[: basis.applied]
        expected = torch.linalg.eigvalsh(rows @ matrix @ rows.T).flip(0)
        torch.testing.assert_close(ritz.values, expected, rtol=0, atol=1e-9)
        if step <= 25:  # before a row is dropped the recurrence knows the residuals
            vectors = ritz.weights.T @ rows
            residuals = (vectors @ matrix - ritz.values[:, None] * vectors).norm(dim=1)
            torch.testing.assert_close(ritz.residuals, residuals, rtol=0, atol=1e-10)
    assert basis.scale <= torch.linalg.matrix_norm(matrix, 2)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 50}, "k must be at most the operator's size 23, got 50"),
        ({"tolerance": 0.0}, r"tolerance must be > 0, got 0\.0"),
        ({"k": 12, "which": "both"}, "k must be at most half of the operator's size 23, got 12"),
        ({"which": "top"}, "which must be one of largest, smallest, both, magnitude, got 'top'"),
        ({"backend": "numpy"}, "backend must be 'lanczos' or 'scipy', got 'numpy'"),
        ({"block": 0}, "block must be between 1 and the operator's size 23, got 0"),
        ({"risk": 0.0}, r"risk must be > 0 and at most 1, got 0\.0; 1 does without the check"),
        ({"window": 6}, r"window must be at least k \+ 2 = 7, got 6"),
        ({"max_products": 9}, "max_products must be at least 2 k = 10, got 9; k of them measure"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message) -> None:
    operator = diagonal(spread(1, 2, 23))
    with pytest.raises(ValueError, match=message):
        top_eigenpairs(operator, **arguments)
    assert operator.products == 0


def test_the_largest_k_is_the_size() -> None:
    values = spread(1, 2, 23)
    pairs = top_eigenpairs(diagonal(values), k=23)
    torch.testing.assert_close(pairs.values, values.flip(0), **EXACT)
    assert pairs.converged and pairs.products == 46


@pytest.mark.parametrize("index", [0, 4])
def test_a_ratio_is_of_pairs_that_are_there(index) -> None:
    pairs = top_eigenpairs(diagonal(RATIO), k=3)
    with pytest.raises(ValueError, match=f"i must be between 1 and k = 3, got {index}"):
        pairs.ratio(index, 1)
    with pytest.raises(ValueError, match=f"j must be between 1 and k = 3, got {index}"):
        pairs.ratio(1, index)


def test_a_product_that_is_not_finite_is_an_error() -> None:
    f = Objective(lambda w: (w.parts[0].sum() - 3.0).log())
    with pytest.raises(RuntimeError, match="operator must return finite products, got nan or inf"):
        top_eigenpairs(Hessian(f, Vector([torch.ones(3)])), k=1)


def test_a_vector_must_have_the_parts_of_the_weights() -> None:
    with pytest.raises(ValueError, match="v must have 2 parts like the weights, got 1"):
        diagonal(RATIO)(Vector([torch.zeros(200)]))
