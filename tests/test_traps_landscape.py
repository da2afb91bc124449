"""Faults of other tools that draw landscapes or count regions, which ours does not have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flatminima import Objective, Region, Vector, regions
from flatminima.landscape import filter_normalized, random, slice_1d, slice_2d
from flatminima.sharpness import Hessian, top_eigenpairs

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bowl(w: Vector) -> torch.Tensor:
    return w.dot(w) - 1.0  # below zero around the middle


def network():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    x, y = torch.randn(9, 2, 4, 4), torch.randint(3, (9,))

    def loss_fn(x, y):
        return nn.functional.cross_entropy(model(x), y)

    return model, *Objective.of_model(model, loss_fn, [(x[:6], y[:6]), (x[6:], y[6:])])


def test_losses_at_and_below_zero_are_not_taken_for_missing_cells() -> None:
    """A sentinel of -1 tested with <= 0 made a grid compute them for ever."""
    asked: list[int] = []

    def counted(w: Vector) -> torch.Tensor:
        asked.append(1)
        return bowl(w)

    w = Vector([torch.zeros(2)])
    one, two = Vector([torch.tensor([1.0, 0.0])]), Vector([torch.tensor([0.0, 1.0])])
    found = slice_2d(Objective(counted), w, one, two, reach=1.0, points=(7, 3))
    assert len(asked) == 21 and found.done.all() and bool((found.loss < 0).any())


def test_a_grid_of_7_by_3_has_every_loss_at_its_own_coordinates() -> None:
    """Odd columns were shifted by a step, and grids that are not square mixed up their axes."""
    _, f, w = network()
    one, two = filter_normalized(w, generator(0)), filter_normalized(w, generator(1))
    found = slice_2d(f, w, one, two, reach=([-1.0, 0.5], 0.3), points=(7, 3))
    for i, a in enumerate(found.one.tolist()):
        for j, b in enumerate(found.two.tolist()):
            torch.testing.assert_close(found.loss[i, j], f.value(w + a * one + b * two), **EXACT)


def test_the_model_stands_where_it_stood_and_can_still_be_trained() -> None:
    """A tool left the model displaced, without requires_grad, and with other buffers."""
    model, f, w = network()
    before = {name: part.clone() for name, part in model.state_dict().items()}
    slice_1d(f, w, filter_normalized(w, generator(0)), reach=5.0, points=5)
    assert all(torch.equal(before[name], part) for name, part in model.state_dict().items())
    assert all(param.requires_grad and param.grad is None for param in model.parameters())


def test_directions_move_weights_and_no_running_statistics() -> None:
    """Random directions pushed running_var below zero, and the grid was nan."""
    model, f, w = network()
    assert len(w) == len(list(model.parameters())) < len(model.state_dict())
    found = slice_1d(f, w, random(w, generator(0)), reach=10.0, points=5)
    assert found.loss.isfinite().all()


def test_two_random_directions_are_nearly_orthogonal_and_the_cosine_is_reported() -> None:
    """Uniform numbers in [0, 1] have a cosine of 0.75."""
    w = Vector([torch.zeros(10_000)])
    one, two = random(w, generator(0)), random(w, generator(1))
    found = slice_2d(Objective(bowl), w, one, two, reach=1.0, points=2)
    assert abs(found.cosine) < 4 / math.sqrt(10_000)
    assert found.cosine == pytest.approx(float(one.dot(two) / (one.norm() * two.norm())))


def test_the_seed_0_is_a_seed_like_any_other() -> None:
    w = Vector([torch.zeros(5)])
    first, again, other = (random(w, generator(seed)).parts[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_normalisation_is_by_filter_and_leaves_biases_still() -> None:
    """Several tools normalise by layer and say filter; then one filter can be ten times another."""
    weight = torch.cat([torch.full((1, 8), 10.0), torch.full((1, 8), 0.1)])
    d = filter_normalized(Vector([weight, torch.ones(2)]), generator(0))
    torch.testing.assert_close(d.parts[0].norm(dim=1), weight.norm(dim=1), rtol=1e-6, atol=0)
    assert not d.parts[1].any()


def test_hessian_directions_move_no_buffers() -> None:
    model, f, w = network()
    before = {name: part.clone() for name, part in model.named_buffers()}
    pairs = top_eigenpairs(Hessian(f, w), k=2)
    slice_2d(f, w, *pairs.vectors, reach=1.0, points=3)
    assert all(torch.equal(before[name], part) for name, part in model.named_buffers())


def test_a_diverged_cell_stays_so_and_identical_calls_give_identical_bytes() -> None:
    """nan was replaced by the mean, and noise was added to the largest cell."""
    f, w = Objective(lambda w: w.parts[0].sum().log()), Vector([torch.zeros(1)])
    one = Vector([torch.ones(1)])
    calls = [slice_2d(f, w, one, 2.0 * one, reach=1.0, points=5) for _ in range(2)]
    assert calls[0].loss.isnan().any() and calls[0].diverged > 0
    assert calls[0].loss.numpy().tobytes() == calls[1].loss.numpy().tobytes()


def test_the_axis_is_in_multiples_of_the_direction_and_says_so() -> None:
    """A label of 0.5 was really 0.4878 of something else."""
    w, d = Vector([torch.zeros(1)]), Vector([torch.full((1,), 3.0)])
    found = slice_1d(Objective(lambda w: w.parts[0].sum()), w, d, reach=0.5, points=3)
    assert found.reach.tolist() == [-0.5, 0.0, 0.5] and found.loss.tolist() == [-1.5, 0.0, 1.5]


def test_an_overlap_at_chance_is_not_reported_as_persistence() -> None:
    """Two thirds of a frozen set were called persistent; independent sets give as much."""
    g = torch.ones(100_000)
    frozen = regions.FrozenOverlap({Region.STEEPER})
    seen = [
        frozen(g, torch.where(torch.rand(len(g), generator=generator(seed)) < share, 2.0, 0.5))
        for seed, share in enumerate((0.535, 0.65))
    ][-1]
    assert seen.both / seen.first == pytest.approx(0.65, abs=0.01)
    assert abs(seen.phi) < 0.02 and seen.lift == pytest.approx(1.0, abs=0.02)
