"""Slices against direct evaluation and closed forms; directions against their definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatminima import Objective, Vector
from flatminima.landscape import (
    Filters,
    as_large_as,
    between,
    filter_normalized,
    filters_of,
    interpolation,
    orthogonal,
    random,
    slice_1d,
    slice_2d,
)
from flatminima.sharpness import Hessian, top_eigenpairs

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(size: int = 4):
    matrix = torch.randn(size, size)
    matrix = matrix @ matrix.T
    return matrix, Objective(lambda w: 0.5 * w.parts[0] @ matrix @ w.parts[0])


def network():
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    x, y = torch.randn(20, 3), torch.randint(2, (20,))
    return model, Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), [(x, y)])


# ----------------------------------------------------------------------------------- directions


def test_every_filter_is_as_large_as_the_weights() -> None:
    model = nn.ModuleList(
        [
            nn.Conv2d(3, 5, 3),
            nn.Conv2d(4, 8, 3, groups=4),
            nn.Linear(7, 6),
            nn.Embedding(9, 4),
            nn.BatchNorm2d(5),
        ]
    )
    w = Vector(param.detach() for param in model.parameters())
    direction = filter_normalized(w, generator())
    for d, param in zip(direction, w, strict=True):
        if param.dim() == 1:
            assert not d.any()
        else:
            norms = (d.flatten(1).norm(dim=1), param.flatten(1).norm(dim=1))
            torch.testing.assert_close(*norms, **EXACT)


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_lie_along_its_second_axis(groups) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    w = Vector(param.detach() for param in layer.parameters())
    d = filter_normalized(w, generator(), filters=filters_of(layer)).parts[0]
    weight, outputs = w.parts[0], 6 // groups
    for group in range(groups):
        rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
        for channel in range(outputs):  # one loop over output channels, as the layer computes them
            torch.testing.assert_close(
                d[rows, channel].norm(), weight[rows, channel].norm(), rtol=1e-12, atol=0
            )


def test_the_filters_of_a_model_are_those_of_its_objective() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3, groups=1), nn.ConvTranspose1d(3, 4, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    )
    model[3].weight = model[2].weight  # tied: once
    model[2].bias.requires_grad_(False)
    kinds = filters_of(model)
    assert kinds == [
        Filters(),
        Filters(),
        Filters(transposed=True),
        Filters(),
        Filters(),
        Filters(),
    ]
    assert len(kinds) == len(Objective.of_model(model, model, [(torch.ones(1),)])[1])


def test_a_direction_with_other_filters_than_the_weights_is_refused() -> None:
    w = Vector([torch.ones(2, 2)])
    with pytest.raises(ValueError, match="filters must have one entry per parameter, 1, got 2"):
        filter_normalized(w, generator(), filters=[Filters(), Filters()])
    with pytest.raises(ValueError, match='one_dimensional must be "still" or "scaled", got'):
        filter_normalized(w, generator(), one_dimensional="frozen")


def test_orthogonal_then_resized_is_nearly_orthogonal_and_as_large_as_the_weights() -> None:
    w = Vector([torch.randn(50, 40), torch.randn(40, 30)])
    one = filter_normalized(w, generator(0))
    left = orthogonal(random(w, generator(1)), one)
    assert abs(left.dot(one) / (left.norm() * one.norm())) < 1e-14
    two = as_large_as(w, left)
    for d, param in zip(two, w, strict=True):
        torch.testing.assert_close(d.norm(dim=1), param.norm(dim=1), rtol=1e-6, atol=0)
    assert 0 < abs(two.dot(one) / (two.norm() * one.norm())) < 0.05  # they do not commute


def test_a_direction_is_orthogonal_to_several_others() -> None:
    others = torch.linalg.qr(torch.randn(6, 3)).Q.T
    left = orthogonal(Vector([torch.randn(6)]), *(Vector([row]) for row in others))
    assert float((others @ left.parts[0]).abs().max()) < 1e-14


def test_parameters_of_one_dimension_can_move_too() -> None:
    w = Vector([torch.randn(5), torch.tensor(3.0), torch.zeros(2)])
    direction = filter_normalized(w, generator(), one_dimensional="scaled")
    for d, param in zip(direction, w, strict=True):
        torch.testing.assert_close(d.norm(), param.norm(), **EXACT)


def test_a_filter_of_zeros_stays_where_it_is() -> None:
    w = Vector([torch.tensor([[0.0, 0.0], [3.0, 4.0]])])
    d = filter_normalized(w, generator()).parts[0]
    assert d[0].tolist() == [0.0, 0.0]
    assert d[1].norm() == pytest.approx(5.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_directions_have_the_dtype_of_the_weights(dtype) -> None:
    w = Vector([torch.full((4, 8), 100.0, dtype=dtype), None, torch.ones(3, dtype=dtype)])
    for direction in (random(w, generator()), filter_normalized(w, generator())):
        assert direction.parts[0].dtype == dtype and direction.parts[1] is None
    norms = filter_normalized(w, generator()).parts[0].float().norm(dim=1)
    torch.testing.assert_close(norms, torch.full((4,), 100 * 8**0.5).float(), rtol=1e-2, atol=0)


def test_directions_repeat_with_their_generator() -> None:
    w = Vector([torch.randn(4, 3), torch.randn(4)])
    for draw in (random, filter_normalized):
        one, same, other = (draw(w, generator(seed)) for seed in (0, 0, 1))
        assert torch.equal(one.parts[0], same.parts[0])
        assert not torch.equal(one.parts[0], other.parts[0])


def test_a_step_of_one_between_two_points_arrives() -> None:
    _, f = quadratic()
    w, other = Vector([torch.randn(4)]), Vector([torch.randn(4)])
    found = slice_1d(f, w, between(w, other), reach=(0.0, 1.0), points=2).loss
    torch.testing.assert_close(found, torch.stack([f.value(w), f.value(other)]), **EXACT)


# --------------------------------------------------------------------------------------- slices


def test_a_slice_of_a_quadratic_is_a_parabola() -> None:
    matrix, f = quadratic()
    w, d = torch.randn(4), torch.randn(4)
    found = slice_1d(f, Vector([w]), Vector([d]), reach=2.0, points=9)
    a = found.reach
    expected = 0.5 * w @ matrix @ w + a * (w @ matrix @ d) + 0.5 * a**2 * (d @ matrix @ d)
    torch.testing.assert_close(found.loss, expected, **EXACT)


def test_a_plane_of_a_quadratic_is_its_form() -> None:
    matrix, f = quadratic()
    one, two = torch.randn(4), torch.randn(4)
    found = slice_2d(
        f,
        Vector([torch.zeros(4)]),
        Vector([one]),
        Vector([two]),
        reach=((-1, 2), 3.0),
        points=(4, 7),
    )
    a, b = found.one[:, None], found.two[None, :]
    expected = 0.5 * (
        a**2 * (one @ matrix @ one) + 2 * a * b * (one @ matrix @ two) + b**2 * (two @ matrix @ two)
    )
    assert found.loss.shape == (4, 7)
    torch.testing.assert_close(found.loss, expected, **EXACT)
    assert found.cosine == pytest.approx(float(F.cosine_similarity(one, two, dim=0)))


def test_the_curvatures_on_the_plane_of_two_eigenvectors_are_the_eigenvalues() -> None:
    _, f = quadratic(6)
    w = Vector([torch.zeros(6)])
    pairs = top_eigenpairs(Hessian(f, w), k=2, tolerance=1e-10)
    found = slice_2d(f, w, *pairs.vectors, reach=([0.0, 1.0], [0.0, 1.0]), points=2)
    torch.testing.assert_close(found.loss[1, 0], 0.5 * pairs.values[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(found.loss[0, 1], 0.5 * pairs.values[1], rtol=1e-9, atol=0)
    assert abs(found.cosine) < 1e-9


def test_a_grid_that_is_not_square_is_what_direct_evaluation_gives() -> None:
    _, (f, w) = network()
    one, two = filter_normalized(w, generator(0)), filter_normalized(w, generator(1))
    rows, columns = [-1.0, -0.3, 0.0, 0.1, 0.2, 0.7, 2.0], [-0.5, 0.25, 3.0]
    found = slice_2d(f, w, one, two, reach=(rows, columns))
    assert found.loss.shape == (7, 3)
    assert found.one.tolist() == rows and found.two.tolist() == columns
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            expected = f.value(w + a * one + b * two)
            torch.testing.assert_close(found.loss[i, j], expected, **EXACT)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_rescaling_a_relu_network_leaves_its_slice_as_it_was(factor) -> None:
    def net():
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 5, bias=False),
            nn.ReLU(),
            nn.Linear(5, 3, bias=False),
        )

    x, y = torch.randn(10, 2, 4, 4), torch.randint(3, (10,))
    first, second = net(), net()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second[0].weight *= factor
        second[3].weight /= factor
    curves, plain = [], []
    for model in (first, second):
        f, w = Objective.of_model(
            model, lambda x, y, model=model: F.cross_entropy(model(x), y), [(x, y)]
        )
        curves.append(slice_1d(f, w, filter_normalized(w, generator()), reach=1.0, points=7).loss)
        plain.append(slice_1d(f, w, random(w, generator()), reach=1.0, points=7).loss)
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-9, atol=0)
    assert (plain[1] - plain[0]).abs().max() > 1e-2  # which a plain direction does not do


def test_what_is_not_finite_stays_so() -> None:
    f = Objective(lambda w: w.parts[0].sum().log())
    w, d = Vector([torch.zeros(1)]), Vector([torch.ones(1)])
    found = slice_1d(f, w, d, reach=[-1.0, 0.0, 1.0])
    assert math.isnan(found.loss[0]) and found.loss[1] == -math.inf and found.loss[2] == 0.0
    plane = slice_2d(f, w, d, 2.0 * d, reach=([-1.0, 0.0, 1.0], [0.0, 1.0, 0.5]))
    assert plane.loss.isnan().tolist() == [[True, False, False], [False] * 3, [False] * 3]


def test_losses_below_zero_are_losses() -> None:
    f = Objective(lambda w: -w.parts[0].square().sum())
    w = Vector([torch.zeros(1)])
    found = slice_1d(f, w, Vector([torch.ones(1)]), reach=2.0, points=3)
    assert found.loss.tolist() == [-4.0, 0.0, -4.0]


def test_the_point_itself_is_on_the_slice_bit_for_bit() -> None:
    _, (f, w) = network()
    d = filter_normalized(w, generator())
    assert slice_1d(f, w, d, reach=0.7).reach[25] == 0
    assert slice_1d(f, w, d, reach=0.7).loss[25] == f.value(w)
    assert slice_2d(f, w, d, d, reach=0.3, points=5).loss[2, 2] == f.value(w)


def test_the_same_call_gives_the_same_bytes_and_leaves_the_model_as_it_was() -> None:
    model, (f, w) = network()
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    d = filter_normalized(w, generator())
    first, again = (slice_1d(f, w, d, reach=1.0, points=5) for _ in range(2))
    assert torch.equal(first.loss, again.loss)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_float32_networks_have_coordinates_and_losses_in_float64() -> None:
    f = Objective(lambda w: w.parts[0].square().sum())
    w = Vector([torch.ones(2, dtype=torch.float32)])
    found = slice_1d(f, w, w, reach=[0.1, 0.2, 0.3])
    assert found.reach.tolist() == [0.1, 0.2, 0.3]
    assert found.loss.dtype == torch.float64


@pytest.mark.parametrize(
    ("reach", "points", "expected"),
    [
        (1, 3, [-1, 0, 1]),
        (0.5, 5, [-0.5, -0.25, 0, 0.25, 0.5]),
        ((-1, 2), 4, [-1, 0, 1, 2]),
        ((0.1, 0.3), 2, [0.1, 0.3]),
        ([3.0, -1.0, 3.0], 51, [3, -1, 3]),
        ((1.0,), 51, [1]),
        (torch.tensor([5.0, 1.0]), 51, [5, 1]),
    ],
)
def test_a_reach_is_a_number_a_pair_or_the_points_themselves(reach, points, expected) -> None:
    f, w = Objective(lambda w: w.parts[0].sum()), Vector([torch.zeros(1)])
    found = slice_1d(f, w, Vector([torch.ones(1)]), reach=reach, points=points)
    torch.testing.assert_close(found.reach, torch.tensor(expected).double(), **EXACT)
    torch.testing.assert_close(found.loss, found.reach, **EXACT)


def test_progress_counts_the_points() -> None:
    f, w = Objective(lambda w: w.parts[0].sum()), Vector([torch.zeros(1)])
    line, plane = [], []
    slice_1d(f, w, w, reach=1.0, points=3, progress=lambda *at: line.append(at))
    slice_2d(f, w, w, w, reach=1.0, points=(3, 2), progress=lambda *at: plane.append(at))
    assert line == [(1, 3), (2, 3), (3, 3)]
    assert plane == [(n, 6) for n in range(1, 7)]


# -------------------------------------------------------------------------------- interpolation


def test_an_interpolation_has_both_solutions_on_it_bit_for_bit_at_one_end() -> None:
    _, (f, w) = network()
    other = w + filter_normalized(w, generator())
    found = interpolation(f, w, other, points=11, beyond=0.25)
    reach = found.line.reach
    torch.testing.assert_close(reach, torch.arange(-2, 13) / 10.0, **EXACT)
    assert found.line.loss[reach == 0] == f.value(w)
    torch.testing.assert_close(found.line.loss[reach == 1][0], f.value(other), **EXACT)
    assert found.distance == pytest.approx(float((other - w).norm()))


def test_the_barrier_is_what_rises_over_the_chord() -> None:
    f = Objective(lambda w: (w.parts[0].square() - 1).square().sum() + w.parts[0].sum())
    one, two = (Vector([torch.tensor([x])]) for x in (-1.0, 1.0))
    assert interpolation(f, one, two, points=101).barrier == pytest.approx(1.0)
    assert interpolation(f, two, one, points=101).barrier == pytest.approx(1.0)
    bowl = Objective(lambda w: w.parts[0].square().sum())
    assert interpolation(bowl, one, two, points=11).barrier == 0.0  # what is below is no barrier


def test_a_diverged_point_makes_the_barrier_no_number() -> None:
    f = Objective(lambda w: w.parts[0].abs().sum().log() * 0 + w.parts[0].sum())
    one, two = (Vector([torch.tensor([x])]) for x in (-1.0, 1.0))
    assert math.isnan(interpolation(f, one, two, points=3).barrier)


@pytest.mark.parametrize("wrong", [{"points": 1}, {"beyond": -0.1}])
def test_an_interpolation_has_two_ends(wrong) -> None:
    _, f = quadratic()
    w = Vector([torch.ones(4)])
    with pytest.raises(ValueError, match="points must be at least 2 and beyond >= 0, got"):
        interpolation(f, w, w, **wrong)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("reach", "points", "message"),
    [
        (1.0, 1, "points must be at least 2, got 1"),
        (-1.0, 5, r"reach must be > 0, or \(low, high\) with low < high, got -1.0"),
        ((2.0, 1.0), 5, r"reach must be > 0, or \(low, high\) with low < high, got \(2.0, 1.0\)"),
        (math.inf, 5, "reach must be finite numbers in one row, got inf"),
        ([], 5, r"reach must be finite numbers in one row, got \[\]"),
        (torch.ones(2, 2), 5, "reach must be finite numbers in one row, got tensor"),
    ],
)
def test_a_reach_that_describes_no_line_is_refused(reach, points, message) -> None:
    f, w = Objective(lambda w: w.parts[0].sum()), Vector([torch.zeros(1)])
    with pytest.raises(ValueError, match=message):
        slice_1d(f, w, w, reach=reach, points=points)


def test_a_direction_must_fit_the_weights() -> None:
    f, w = Objective(lambda w: w.parts[0].sum()), Vector([torch.zeros(1)])
    with pytest.raises(ValueError, match="other must have 1 parts like this vector, got 2"):
        slice_1d(f, w, Vector([torch.ones(1), torch.ones(1)]), reach=1.0)
