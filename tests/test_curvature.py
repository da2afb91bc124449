"""Gauss-Newton and Fisher matrices, densities and traces against closed forms."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatminima import Objective, Vector
from flatminima.sharpness import (
    GGN,
    EmpiricalFisher,
    Estimate,
    FromFunction,
    Hessian,
    density,
    outputs,
    trace,
)
from flatminima.sharpness.estimate import stream
from flatminima.sharpness.krylov import flat, shaped


def dense(operator) -> torch.Tensor:
    with operator:
        rows = [
            flat(operator(shaped(unit, operator.like)), operator.like)
            for unit in torch.eye(operator.size)
        ]
    return torch.stack(rows)


def of_matrix(matrix) -> FromFunction:
    return FromFunction(
        lambda v: Vector([matrix @ v.parts[0]]), like=Vector([torch.zeros(len(matrix))])
    )


def diagonal(values) -> FromFunction:
    curvature = Vector([values])
    return FromFunction(lambda v: curvature * v, like=curvature)


def small(sizes=(6, 3)):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.randn(9, 3), torch.randint(3, (9,))
    batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    return model, x, y, batches


def jacobian(model, x) -> torch.Tensor:
    """(n, outputs, weights)."""
    rows = []
    for row in x:
        z = model(row)
        grads = [torch.autograd.grad(one, model.parameters(), retain_graph=True) for one in z]
        rows.append(torch.stack([torch.cat([g.reshape(-1) for g in grad]) for grad in grads]))
    return torch.stack(rows)


# --------------------------------------------------------------------- Gauss-Newton and Fisher


@pytest.mark.parametrize("sizes", [(9,), (6, 3)], ids=["kept", "batch by batch"])
def test_gauss_newton_of_cross_entropy_is_its_closed_form(sizes) -> None:
    model, x, y, batches = small(sizes)
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches)
    shares = model(x).softmax(1).detach()
    inner = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
    slopes = jacobian(model, x)
    expected = (slopes.mT @ inner @ slopes).mean(0)
    torch.testing.assert_close(dense(GGN(f, w)), expected)
    assert torch.linalg.eigvalsh(expected).min() > -1e-12


def test_gauss_newton_of_the_squared_error_is_its_closed_form() -> None:
    model, x, _, _ = small()
    y = torch.randn(9, 3)
    f, w = Objective.of_model(model, lambda x, y: nn.MSELoss()(model(x), y), [(x, y)])
    slopes = jacobian(model, x)
    torch.testing.assert_close(dense(GGN(f, w)), 2 / 3 * (slopes.mT @ slopes).mean(0))


def test_gauss_newton_is_the_hessian_of_a_model_that_is_linear() -> None:
    model, x, y = nn.Linear(3, 3), torch.randn(9, 3), torch.randint(3, (9,))
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), [(x, y)])
    torch.testing.assert_close(dense(GGN(f, w)), dense(Hessian(f, w)))


def test_the_empirical_fisher_is_the_mean_outer_product_of_gradients() -> None:
    model, x, y, batches = small()
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches)
    rows = []
    for one, label in zip(x, y, strict=True):
        grads = torch.autograd.grad(F.cross_entropy(model(one), label), model.parameters())
        rows.append(torch.cat([grad.reshape(-1) for grad in grads]))
    rows = torch.stack(rows)
    fisher = dense(EmpiricalFisher(f, w))
    torch.testing.assert_close(fisher, rows.T @ rows / 9)
    assert (fisher - dense(GGN(f, w))).norm() > 0.1 * fisher.norm()


def test_marked_outputs_serve_a_loss_of_ones_own() -> None:
    model, x, y, _ = small()

    def own(x, y):
        z = outputs(model(x))
        return (z.logsumexp(1) - z[range(len(y)), y]).mean()

    known, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), [(x, y)])
    marked, _ = Objective.of_model(model, own, [(x, y)])
    torch.testing.assert_close(dense(GGN(marked, w)), dense(GGN(known, w)))


def test_a_loss_without_known_outputs_is_refused() -> None:
    f = Objective(lambda w: w.dot(w))
    with pytest.raises(ValueError, match="the loss must call cross_entropy, .* once, got 0 calls"):
        GGN(f, Vector([torch.ones(2)]))(Vector([torch.ones(2)]))


def test_a_penalty_on_the_weights_is_refused() -> None:
    x = torch.ones(2, 1)
    f = Objective(lambda w: F.mse_loss(x @ w.parts[0], x) + w.dot(w))
    w = Vector([torch.ones(1, 1)])
    with pytest.raises(ValueError, match="the loss must depend on the weights through the network"):
        GGN(f, w)(w)


def test_building_any_operator_costs_no_pass() -> None:
    model, _, _, batches = small()
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches)
    for make in (Hessian, GGN, EmpiricalFisher):
        make(f, w)
    assert f.passes == 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own
@pytest.mark.parametrize(
    "kind",
    ["finite_differences", pytest.param("forward_over_reverse", marks=pytest.mark.slow)],
)
def test_the_other_ways_to_a_hessian_agree(kind) -> None:
    model, _, _, batches = small()
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches)
    found, expected = dense(Hessian(f, w, kind=kind)), dense(Hessian(f, w))
    bound = 1e-12 if kind == "forward_over_reverse" else 1e-6
    assert (found - expected).norm() <= bound * expected.norm()


def test_a_kind_that_is_unknown_is_refused() -> None:
    f, w = Objective(lambda w: w.dot(w)), Vector([torch.ones(2)])
    with pytest.raises(ValueError, match="kind must be one of double_backward, .* got 'magic'"):
        Hessian(f, w, kind="magic")(w)


# ------------------------------------------------------------------------------ the objective


def test_the_policies_for_batch_norm_have_four_curvatures_and_move_no_buffer() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    plain, x, y, batches = small()
    before = [buffer.clone() for buffer in model.buffers()]
    for net, different in ((model, 4), (plain, 1)):
        found = set()
        for policy in ("eval", "batch", "frozen_batch", "recompute"):
            f, w = Objective.of_model(
                net,
                lambda x, y, net=net: F.cross_entropy(net(x), y),
                batches,
                batch_norm=policy,
            )
            found.add(round(float(f.hvp(w, w).norm()), 9))
        assert len(found) == different
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_frozen_statistics_are_those_of_the_batch_where_the_weights_are() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    _, _, _, batches = small()
    (frozen, w), (batch, _) = (
        Objective.of_model(
            model, lambda x, y: F.cross_entropy(model(x), y), batches, batch_norm=policy
        )
        for policy in ("frozen_batch", "batch")
    )
    torch.testing.assert_close(frozen.value(w), batch.value(w))
    assert abs(frozen.value(1.5 * w) - batch.value(1.5 * w)) > 1e-3


def test_parameters_are_chosen_by_name_or_by_what_they_are() -> None:
    model, _, _, batches = small()

    def loss_fn(x, y):
        return F.cross_entropy(model(x), y)

    by_name, w = Objective.of_model(model, loss_fn, batches, parameters=["2.weight"])
    by_kind, v = Objective.of_model(model, loss_fn, batches, parameters=lambda n, p: p.dim() > 1)
    assert (len(w), len(v)) == (1, 2)
    assert by_name.setting.parameters == ("2.weight",)
    assert by_kind.setting.parameters == ("0.weight", "2.weight")
    assert torch.equal(by_name.gradient(w).parts[0], by_kind.gradient(v).parts[1])
    with pytest.raises(
        ValueError, match=r"parameters must be names of the model's parameters, got"
    ):
        Objective.of_model(model, loss_fn, batches, parameters=["head"])


def test_only_known_policies_are_taken() -> None:
    model, _, _, batches = small()
    with pytest.raises(ValueError, match="batch_norm must be one of eval, batch, .* got 'train'"):
        Objective.of_model(model, lambda x, y: x.mean(), batches, batch_norm="train")


def test_a_norm_that_is_applied_twice_cannot_be_frozen() -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(norm, nn.Linear(3, 3), norm)
    f, w = Objective.of_model(
        model, lambda x: model(x).square().mean(), [(torch.randn(4, 3),)], batch_norm="frozen_batch"
    )
    with pytest.raises(ValueError, match="batch_norm must be 'eval' or 'batch' where a norm is"):
        f.value(w)


def test_something_must_count() -> None:
    model, _, _, batches = small()
    with pytest.raises(ValueError, match="count must be above 0 for some batch, got 0 in all"):
        Objective.of_model(model, lambda x, y: x.mean(), batches, count=lambda x, y: 0)


def test_only_an_objective_of_a_model_has_other_data() -> None:
    with pytest.raises(TypeError, match="objective must be of a model on batches"):
        Objective(lambda w: w.dot(w)).on([(torch.zeros(1),)])


# ------------------------------------------------------------------------------------- density


def test_the_quadrature_has_every_moment_up_to_its_degree() -> None:
    values = torch.linspace(-1, 2, 40)
    operator = diagonal(values)
    seen = density(operator, runs=2, steps=10)
    v = operator.like.randn_like(stream(0)).parts[0]
    square = (v / v.norm()).square()
    for power in range(20):
        moment = (seen.weights[0] * seen.nodes[0] ** power).sum()
        expected = (square * values**power).sum()
        assert abs(moment - expected) <= 1e-12 * 2.0**power


@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_few_distinct_eigenvalues_are_the_nodes(scale) -> None:
    values = scale * torch.tensor([5.0, 5.0, 2.0, 0.0, 0.0, 0.0])
    seen = density(diagonal(values), runs=4, steps=6)
    for nodes, weights in zip(seen.nodes, seen.weights, strict=True):
        near = (nodes[:, None] - scale * torch.tensor([5.0, 2.0, 0.0])).abs().min(1).values
        assert float((weights * near).sum()) <= 1e-12 * scale
    assert torch.allclose(seen.weights.sum(1), torch.ones(4))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_zero_and_identity_have_one_eigenvalue(value) -> None:
    seen = density(diagonal(torch.full((20,), value)), runs=2, steps=8)
    assert seen.cdf(value - 1e-9).value == 0.0 and seen.cdf(value + 1e-9).value == 1.0


def test_the_cdf_needs_no_width() -> None:
    values = torch.cat([torch.linspace(-0.01, 0.01, 247), torch.tensor([3.0, 5.0, 9.0])])
    seen = density(diagonal(values), runs=64, steps=40)
    share = seen.cdf(0.02)
    assert abs(share.value - 247 / 250) <= 4 * share.standard_error
    assert seen.log_scale(torch.tensor([0.02, 1.0, 4.0])).sum() == pytest.approx(1.0)
    assert seen.log_scale(torch.tensor([0.02]))[0] == pytest.approx(share.value)


def test_the_density_of_random_data_is_that_of_marchenko_and_pastur() -> None:
    torch.manual_seed(0)  # the seed of the probes too, whose stream must be another
    d, n = 400, 800
    x = torch.randn(n, d)
    seen = density(of_matrix(x.T @ x / n), runs=20, steps=60)
    q = d / n
    low, high = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2
    grid = torch.linspace(low, high, 20_001)
    height = ((high - grid) * (grid - low)).clamp_min(0).sqrt() / (2 * math.pi * q * grid)
    curve = torch.cumulative_trapezoid(height, grid)
    for index in range(1000, 20_000, 1000):
        assert abs(seen.cdf(float(grid[index + 1])).value - float(curve[index])) < 0.015


def test_the_effective_dimension_and_the_smooth_density() -> None:
    values = torch.tensor([4.0, 1.0, 0.0, 0.0])
    seen = density(diagonal(values), runs=400, steps=4)
    dimension = seen.effective_dimension(1.0)
    assert abs(dimension.value - (4 / 5 + 1 / 2)) <= 4 * dimension.standard_error
    grid = torch.linspace(-3, 7, 2001)
    assert torch.trapezoid(seen.smoothed(grid, 0.1), grid) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: density(diagonal(torch.ones(3)), runs=1), "runs must be at least 2, got 1"),
        (lambda: density(diagonal(torch.ones(3)), steps=0), "steps must be at least 1, got 0"),
        (lambda: trace(diagonal(torch.ones(3)), samples=1), "samples must be at least 2 for hutch"),
        (
            lambda: trace(diagonal(torch.ones(3)), method="magic"),
            "method must be 'hutchinson', 'hutch",
        ),
        (
            lambda: trace(diagonal(torch.ones(3)), method="xtrace", tolerance=0.1),
            r"tolerance must be > 0 and for hutchinson, got 0\.1 for xtrace",
        ),
        (
            lambda: density(diagonal(torch.ones(3)), runs=2).effective_dimension(0.0),
            r"alpha must be > 0, got 0\.0",
        ),
        (
            lambda: density(diagonal(torch.ones(3)), runs=2).smoothed(torch.ones(1), 0.0),
            r"width must be > 0, got 0\.0",
        ),
        (
            lambda: Estimate(value=1.0, standard_error=1.0, samples=2).interval(1.0),
            r"level must be between 0 and 1, got 1\.0",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------------------- trace


def test_one_probe_of_signs_is_exact_on_a_diagonal() -> None:
    values = torch.randn(30)
    found = trace(diagonal(values), samples=2)
    assert found.value == pytest.approx(float(values.sum())) and found.standard_error < 1e-12
    assert found.squares.value == pytest.approx(float(values.square().sum()))


def test_hutch_plus_plus_is_exact_where_the_rank_is_small() -> None:
    factor = torch.randn(50, 4)
    found = trace(of_matrix(factor @ factor.T), samples=18, method="hutch++")
    assert found.value == pytest.approx(float(factor.square().sum()))
    assert found.products <= 18 and found.squares is None


def test_xtrace_is_exact_where_the_rank_is_small() -> None:
    factor = torch.randn(50, 4)
    found = trace(of_matrix(factor @ factor.T), samples=12, method="xtrace")
    assert found.value == pytest.approx(float(factor.square().sum()))
    assert found.standard_error < 1e-6 * found.value and found.products <= 12


def test_xtrace_is_the_mean_over_every_probe_left_out() -> None:
    matrix = torch.randn(20, 20)
    matrix = matrix + matrix.T
    operator, seen = of_matrix(matrix), []

    def spied(v):
        seen.append(v.parts[0].double())
        return operator(v)

    found = trace(FromFunction(spied, like=operator.like), samples=8, method="xtrace")
    matrix, z, terms = matrix.double(), torch.stack(seen[:4], dim=1), []
    for i in range(4):
        others = [j for j in range(4) if j != i]
        q = torch.linalg.qr(matrix @ z[:, others]).Q
        rest = z[:, i] - q @ (q.T @ z[:, i])
        terms.append((q.T @ matrix @ q).trace() + rest @ matrix @ rest)
    terms = torch.stack(terms)
    assert found.value == pytest.approx(float(terms.mean()), rel=1e-5)
    assert found.samples == 3  # which decide the quantile: half the probes
    added = torch.zeros(4, 4)
    for i, j in permutations(range(4), 2):
        others = [k for k in range(4) if k not in (i, j)]
        q = torch.linalg.qr(matrix @ z[:, others]).Q
        rest = z[:, i] - q @ (q.T @ z[:, i])
        added[i, j] = terms[i] - (q.T @ matrix @ q).trace() - rest @ matrix @ rest
    own = (added - added.sum(1, keepdim=True) / 3) * (1 - torch.eye(4))
    shared = float((own * own.T).sum()) / 12 * (3 / 2) ** 2
    expected = math.sqrt(float(terms.var()) / 4 + max(0.0, shared))
    assert found.standard_error == pytest.approx(expected, rel=1e-5)


def test_the_trace_stops_on_its_standard_error() -> None:
    matrix = torch.diag(torch.linspace(1, 2, 40)) + 0.05
    loose, tight = (trace(of_matrix(matrix), 512, tolerance=rule) for rule in (0.02, 0.004))
    assert loose.samples < tight.samples < 512
    assert tight.standard_error <= 0.004 * tight.value


def test_scaled_probes_give_the_trace_of_the_scaled_matrix() -> None:
    matrix, c = torch.diag(torch.randn(20)), torch.randn(20)
    found = trace(of_matrix(matrix), samples=2, scale=Vector([c]))
    assert found.value == pytest.approx(float((c.square() * matrix.diagonal()).sum()))


def test_the_variance_of_a_probe_is_that_of_the_formula() -> None:
    matrix = torch.randn(12, 12)
    matrix = matrix + matrix.T
    found = trace(of_matrix(matrix), samples=4000)
    variance = 2 * (matrix.square().sum() - matrix.diagonal().square().sum())
    assert found.standard_error**2 * 4000 == pytest.approx(float(variance), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "decay"),
    [
        ("hutchinson", 0.0),
        ("hutch++", 0.0),
        ("xtrace", 0.0),
        ("hutchinson", 0.2),
        ("hutch++", 0.2),
        ("xtrace", 0.2),
    ],
)
def test_intervals_of_the_trace_cover_the_truth(method, decay) -> None:
    covered = 0
    for case in range(1000):
        factor = torch.randn(24, 24, generator=torch.Generator().manual_seed(case))
        factor = factor * torch.exp(-0.5 * decay * torch.arange(24.0))
        found = trace(of_matrix(factor @ factor.T), samples=30, seed=case, method=method)
        low, high = found.interval()
        covered += low <= float(factor.square().sum()) <= high
    assert 930 <= covered <= 970, covered


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (9, 2.262), (63, 1.998)]
)
def test_intervals_are_those_of_student(freedom, quantile) -> None:
    low, high = Estimate(value=0.0, standard_error=1.0, samples=freedom + 1).interval()
    assert high == -low == pytest.approx(quantile, abs=2e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.xfail(torch.__version__.startswith("2.11."), reason="its compiler refuses, aloud")
def test_the_compiled_hessian_agrees() -> None:
    model, _, _, batches = small()
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches)
    torch.testing.assert_close(flat(Hessian(f, w, kind="compiled")(w), w), flat(f.hvp(w, w), w))
