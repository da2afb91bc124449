"""What other tools for spectra are known to get wrong: each a test that ours passes.

The figures are those that were measured with the tools in question. The traps of sharpness and of
landscapes have files of their own; those of hard spectra are `SPECTRA` in `test_lanczos`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from test_lanczos import RATIO, SPECTRA, diagonal
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from flatminima import Objective, Vector
from flatminima.sharpness import (
    GGN,
    EmpiricalFisher,
    FromFunction,
    Hessian,
    average_case,
    density,
    m_sharpness,
    top_eigenpairs,
    trace,
    worst_case,
)
from flatminima.sharpness.krylov import flat, shaped


def dense(operator) -> torch.Tensor:
    with operator:
        rows = [
            flat(operator(shaped(unit, operator.like)), operator.like) for unit in eye(operator)
        ]
    return torch.stack(rows)


def eye(operator) -> torch.Tensor:
    return torch.eye(operator.size)


def regression(sizes=(100,)):
    model, x, y = nn.Linear(3, 1), torch.randn(100, 3), torch.randn(100, 1)
    x[96:] *= 5.0
    batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    return Objective.of_model(model, lambda x, y: F.mse_loss(model(x), y), batches)


# ------------------------------------------------------------------------------------- eigenvalues


def test_values_of_a_cluster_descend_and_are_right_to_ten_digits() -> None:
    # a stop at a relative change of 1e-3 gave 9.83, 9.72, 9.69, 9.65, 9.55, not always descending
    pairs = top_eigenpairs(diagonal(SPECTRA["a cluster"]), tolerance=1e-9)
    torch.testing.assert_close(
        pairs.values, torch.tensor([10.0, 9.9, 9.8, 9.7, 9.6]), rtol=1e-10, atol=0
    )
    assert (pairs.values.diff() < 0).all()


def test_the_largest_is_not_the_largest_in_magnitude() -> None:
    # -3 where +1 is the largest; elsewhere the sign was lost altogether
    values = SPECTRA["a large negative outlier"]
    largest, by_size = (
        float(top_eigenpairs(diagonal(values), k=1, which=which).values)
        for which in ("largest", "magnitude")
    )
    assert (largest, by_size) == pytest.approx((1.0, -3.0), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-8, 1e-6, 1e-3, 1e8])
def test_no_epsilon_makes_small_curvature_smaller(scale) -> None:
    # a division by ||v|| + 1e-6: low by 18 % at a scale of 1e-6
    values = top_eigenpairs(diagonal(scale * RATIO), tolerance=1e-8).values
    torch.testing.assert_close(values, scale * RATIO[:5], rtol=1e-10, atol=0)


def test_one_eigenvalue_is_as_good_as_the_first_of_many() -> None:
    # two steps of Lanczos for k = 1: 9.69 for 24.2
    pairs = top_eigenpairs(diagonal(RATIO), k=1)
    assert pairs.converged and pairs.values.item() == pytest.approx(24.2, rel=1e-6)


def test_converged_is_said_only_where_the_residual_is_small() -> None:
    # power iteration with momentum returned lambda - beta, 23.2 for 24.2, as converged; another
    # stop was a cosine above 0.995
    for budget in range(10, 40):
        pairs = top_eigenpairs(diagonal(RATIO), max_products=budget)
        if pairs.converged:
            assert (pairs.residuals <= 1e-3 * pairs.values[0]).all()
            assert pairs.values[0].item() == pytest.approx(24.2, rel=1e-6)


def test_the_tolerance_does_not_depend_on_the_number_of_weights() -> None:
    # 12 % of lambda at 124 million parameters
    for size in (100, 100_000):
        values = torch.cat([RATIO[:7], torch.zeros(size)])
        pairs = top_eigenpairs(diagonal(values), k=1)
        assert pairs.converged and pairs.residuals[0] <= 1e-3 * 24.2


@pytest.mark.parametrize("name", ["rank three", "identity", "zero"])
def test_a_degenerate_matrix_has_no_ghosts_and_no_errors(name) -> None:
    # 12 copies of lambda_1 in 100 steps; identity and zero raised LinAlgError
    expected = SPECTRA[name].sort(descending=True).values[:5]
    torch.testing.assert_close(top_eigenpairs(diagonal(SPECTRA[name])).values, expected)
    seen = density(diagonal(SPECTRA[name]), runs=2, steps=100)
    distinct = SPECTRA[name].unique()
    near = (seen.nodes[..., None] - distinct).abs().min(-1).values
    assert float((seen.weights * near).sum()) < 1e-10


def test_the_start_has_both_signs_and_the_stored_basis_is_where_the_weights_are() -> None:
    # a start vector without negative entries; every product copied to the host in float64
    seen: list[Vector] = []
    like = Vector([torch.zeros(500, dtype=torch.float32)])
    top_eigenpairs(FromFunction(lambda v: seen.append(v) or 2.0 * v, like=like), k=1)
    assert bool((seen[0].parts[0] < 0).any()) and bool((seen[0].parts[0] > 0).any())
    assert all(v.parts[0].dtype == torch.float32 for v in seen)


# ------------------------------------------------------------------------------------------- data


def test_ragged_batches_give_the_matrix_of_the_whole() -> None:
    # sizes 32, 32, 32, 4: a trace of 114 for 29.0 and 68.8 for 12.7
    whole = dense(Hessian(*seeded(regression)))
    for sizes in ((32, 32, 32, 4), (50, 50), (1,) * 100):
        split = dense(Hessian(*seeded(regression, sizes)))
        torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-12)


def seeded(make: Callable, *arguments):
    torch.manual_seed(3)
    return make(*arguments)


def test_more_batches_do_not_make_more_curvature() -> None:
    # summed over batches: 2.84, 5.68, 11.37, 34.1 with 1, 2, 4, 12 of them
    values = [
        float(top_eigenpairs(Hessian(*seeded(regression, sizes)), k=1).values)
        for sizes in ((100,), (50,) * 2, (25,) * 4, (10,) * 10)
    ]
    assert values == pytest.approx([values[0]] * 4, rel=1e-10)


def test_a_loader_that_shuffles_and_a_loss_that_is_a_function_are_fine() -> None:
    # "non-deterministic data" for the one, AttributeError: reduction for the other; 6 set-up passes
    model = nn.Linear(3, 2)
    data = TensorDataset(torch.randn(20, 3), torch.randint(2, (20,)))
    loader = DataLoader(data, batch_size=8, shuffle=True)
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), loader)
    hessian = Hessian(f, w)
    assert f.passes == 0
    torch.testing.assert_close(dense(hessian), dense(hessian), rtol=0, atol=0)


def test_the_result_says_which_parameters_it_is_about() -> None:
    # only those with more than one axis, and nowhere said so
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    f, _ = Objective.of_model(model, lambda x: model(x).square().mean(), [(x,)])
    assert f.setting.parameters == ("weight", "bias")
    assert f.setting.batches == (5.0,) and f.setting.batch_norm == "eval"


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own
def test_the_hessian_of_a_language_model_is_that_of_its_loss() -> None:
    # the product was taken at p = v of the mean logit
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    tokens = torch.randint(5, (4, 6))

    def loss_fn(tokens):
        z = model(tokens[:, :-1])
        return F.cross_entropy(z.reshape(-1, 5), tokens[:, 1:].reshape(-1))

    f, w = Objective.of_model(model, loss_fn, [(tokens[:3],), (tokens[3:],)])
    sizes, shapes = zip(*((p.numel(), p.shape) for p in model.parameters()), strict=True)
    names = [name for name, _ in model.named_parameters()]

    def whole(row):
        parts = [part.view(shape) for part, shape in zip(row.split(sizes), shapes, strict=True)]
        z = torch.func.functional_call(
            model, dict(zip(names, parts, strict=True)), (tokens[:, :-1],)
        )
        return F.cross_entropy(z.reshape(-1, 5), tokens[:, 1:].reshape(-1))

    expected = torch.func.hessian(whole)(flat(w, w).clone())
    torch.testing.assert_close(dense(Hessian(f, w)), expected)


def test_exact_products_are_the_default_and_the_length_of_v_does_not_matter() -> None:
    # v was not normalised before finite differences: 1.5 to 4 % of error in float32
    f = Objective(lambda w: (w * w).dot(w * w) / 12)
    w, v = Vector([torch.tensor([1.0, 2.0])]), Vector([torch.tensor([1.0, -1.0])])
    expected = torch.tensor([1.0, -4.0])
    torch.testing.assert_close(Hessian(f, w)(v).parts[0], expected, rtol=1e-14, atol=0)
    for size in (1e-6, 1.0, 1e6):
        found = Hessian(f, w, kind="finite_differences")(size * v).parts[0] / size
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


# ------------------------------------------------------------------------- densities and traces


def test_the_share_near_zero_is_right_whatever_the_width() -> None:
    # a default width left 5.3 % of the mass where 98.8 % lies
    values = torch.cat([torch.linspace(-0.01, 0.01, 988), torch.linspace(1, 5, 12)])
    seen = density(diagonal(values), runs=32, steps=40)
    share = seen.cdf(0.02).value - seen.cdf(-0.02).value
    assert share == pytest.approx(0.988, abs=0.01)


def test_weights_are_squares_of_first_components_and_sum_to_one() -> None:
    # the whole matrix of eigenvectors was squared: weights (1, 8, 8), complex; a histogram
    seen = density(diagonal(RATIO), runs=3, steps=30)
    assert seen.weights.shape == (3, 30) and not seen.nodes.is_complex()
    torch.testing.assert_close(seen.weights.sum(1), torch.ones(3))
    assert seen.nodes.min() >= -0.5 - 1e-9 and seen.nodes.max() <= 24.2 + 1e-9


@pytest.mark.slow
def test_a_trace_does_not_stop_because_its_mean_has_stopped_moving() -> None:
    # 3 samples at the least, and 27 % of runs off by more than 10 %
    matrix = torch.diag(torch.linspace(0, 1, 50)) + 0.3
    operator = FromFunction(lambda v: Vector([matrix @ v.parts[0]]), like=Vector([torch.ones(50)]))
    for seed in range(20):
        found = trace(operator, 4096, seed=seed, tolerance=0.02)
        assert found.samples >= 16 and found.standard_error <= 0.02 * found.value
        assert abs(found.value - float(matrix.trace())) <= 5 * found.standard_error


def test_two_seeds_give_two_results_and_zero_is_a_seed() -> None:
    # no seed meant seed 0
    values = [trace(diagonal_plus(), 8, seed=seed).value for seed in (0, 1, 0)]
    assert values[0] == values[2] != values[1]


def diagonal_plus() -> FromFunction:
    matrix = torch.ones(30, 30)
    return FromFunction(lambda v: Vector([matrix @ v.parts[0]]), like=Vector([torch.zeros(30)]))


# ------------------------------------------------------------------------------- no side effects


class Everything(nn.Module):
    """Batch norm, attention and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.first(x)).view(len(x), 2, 2).repeat(1, 1, 2)
        return self.last(self.attention(x).mean(1))


MEASURES = {
    "value and gradient": lambda f, w: f.value_and_gradient(w),
    "eigenvalues": lambda f, w: top_eigenpairs(Hessian(f, w), k=2, max_products=8),
    "eigenvalues by scipy": lambda f, w: top_eigenpairs(
        Hessian(f, w), k=1, tolerance=0.5, backend="scipy"
    ),
    "finite differences": lambda f, w: Hessian(f, w, kind="finite_differences")(w),
    "gauss newton": lambda f, w: top_eigenpairs(GGN(f, w), k=2, max_products=8),
    "fisher": lambda f, w: EmpiricalFisher(f, w)(w),
    "density": lambda f, w: density(Hessian(f, w), runs=2, steps=3),
    "trace": lambda f, w: trace(Hessian(f, w), samples=6, method="xtrace"),
    "worst case": lambda f, w: worst_case(f, w, 0.1, restarts=1, steps=3),
    "average case": lambda f, w: average_case(f, w, 0.1, samples=2),
    "m-sharpness": lambda f, w: m_sharpness(f, w, 0.1, 4, restarts=0),
}


def state(model: nn.Module):
    """Everything that a measure could have moved."""
    return {
        "tensors": {name: part.clone() for name, part in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "slopes": [param.grad is None for param in model.parameters()],
        "required": [param.requires_grad for param in model.parameters()],
        "random": torch.random.get_rng_state(),
        "fused": torch.backends.cuda.flash_sdp_enabled(),
    }


def assert_same(one, two) -> None:
    assert all(torch.equal(part, two["tensors"][name]) for name, part in one["tensors"].items())
    assert torch.equal(one["random"], two["random"])
    assert all(one[key] == two[key] for key in ("modes", "slopes", "required", "fused"))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "dropout", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["dropout", "plain"]
)
@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_leaves_no_trace_also_when_it_is_interrupted(name, dropout, training) -> None:
    # eval mode and a live graph were left behind; running means moved before the refusal
    model = Everything().train(training)
    x, y = torch.randn(12, 3), torch.randint(3, (12,))
    calls: list[int] = []

    def loss_fn(x, y):
        calls.append(1)
        if len(calls) == stop:
            raise KeyError("interrupted")
        return F.cross_entropy(model(x), y)

    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    policy = "batch" if training else "eval"
    before = state(model)
    stop = 0
    f, w = Objective.of_model(model, loss_fn, batches, batch_norm=policy, dropout=dropout)
    MEASURES[name](f, w)
    assert_same(before, state(model))
    calls.clear()
    stop = 2  # the second batch of the first pass
    with pytest.raises(KeyError, match="interrupted"):
        MEASURES[name](f, w)
    assert_same(before, state(model))


@pytest.mark.slow
def test_fifty_calls_hold_no_more_memory_than_one() -> None:
    # a graph was kept in .grad
    f, w = regression()

    def held() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    top_eigenpairs(Hessian(f, w), k=2)
    first = held()
    for _ in range(50):
        top_eigenpairs(Hessian(f, w), k=2)
    assert held() <= first
