"""Where to look: the displacements, in every precision and at their limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from nets import same_bits
from talks import vector
from torch import Tensor

from flatminima import Vector
from flatminima.perturb import (
    Radius,
    adaptive,
    centralized,
    layerwise,
    moved,
    noise,
    normalized,
    outlying,
    projected,
    random,
    size,
    topmost,
    unnormalized,
    within_budget,
)

Perturb = Callable[[Vector, Vector, Radius], Vector]

PERTURBATIONS: dict[str, Perturb] = {
    **{f"normalized, p={p}": partial(normalized, p=p) for p in (1.0, 1.5, 2.0, 3.0, math.inf)},
    "unnormalized": unnormalized,
    **{
        f"adaptive, {scale}, p={p}": partial(adaptive, scale=scale, p=p)
        for scale in ("element", "filter", "layer")
        for p in (2.0, math.inf)
    },
    "layerwise": layerwise,
    "centralized": centralized,
    "topmost": partial(topmost, share=0.5),
    "outlying": partial(outlying, quantile=0.8),
    "within_budget": partial(within_budget, budget=1e3),
}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
every_perturbation = pytest.mark.parametrize("name", PERTURBATIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def draw(dtype: torch.dtype = torch.float64, seed: int = 3) -> Vector:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 3), (4,), (2, 3, 2, 2))
    return Vector(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    )


def flat(e: Vector) -> Tensor:
    return torch.cat([part.flatten().double() for part in e.tensors])


def stays(part: Tensor | None) -> bool:
    """Whether the displacement of a parameter is nothing."""
    return part is None or bool(part.eq(0.0).all())


# ----------------------------------------------------------------------------- zero, and not finite


@every_perturbation
@every_dtype
def test_no_slope_is_no_displacement(name, dtype):
    e = PERTURBATIONS[name](draw(dtype), draw(dtype).zeros_like(), 0.1)
    assert flat(e).eq(0.0).all()
    assert all(part.dtype == dtype for part in e.tensors)


@every_perturbation
@every_dtype
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_slope_that_is_not_finite_is_no_displacement(name, dtype, value):
    g = draw(dtype)
    g.parts[1][2] = value
    assert flat(PERTURBATIONS[name](draw(dtype, seed=4), g, 0.1)).eq(0.0).all()


@every_perturbation
def test_the_radius_zero_is_no_displacement(name):
    for zero in (0.0, torch.zeros(())):
        e = PERTURBATIONS[name](draw(seed=4), draw(), zero)
        assert flat(e).eq(0.0).all()


@every_perturbation
def test_nothing_asks_the_host(name):
    """A tensor of the meta device has no values, so that whoever asked for one would fail."""
    w, g = (draw(seed=seed).map(lambda part: part.to("meta")) for seed in (3, 4))
    e = PERTURBATIONS[name](w, g, (0.1, 0.0, torch.tensor(0.2, device="meta")))
    assert all(part.device.type == "meta" for part in e.tensors)


@every_perturbation
def test_a_parameter_without_a_gradient_is_not_moved(name):
    w, g = draw(seed=4), draw()
    g = g.only([True, False, True])
    e = PERTURBATIONS[name](w, g, 0.1)
    assert stays(e.parts[1])
    alone = PERTURBATIONS[name](
        Vector([w.parts[0], w.parts[2]]), Vector([g.parts[0], g.parts[2]]), 0.1
    )
    assert same_bits([e.parts[0], e.parts[2]], list(alone.parts))


@every_perturbation
def test_neither_the_weights_nor_the_slope_are_changed(name):
    w, g = draw(seed=4), draw()
    before = flat(w), flat(g)
    flat(PERTURBATIONS[name](w, g, 0.1))
    assert torch.equal(flat(w), before[0]) and torch.equal(flat(g), before[1])


# ----------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1e-7, 1.0, 6e4], ids=["tiny", "ordinary", "huge"])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_in_half_precision_the_length_is_rho_whatever_the_size_of_the_slope(dtype, scale, p):
    """The squares of these leave the range of float16 on both sides."""
    g = Vector([torch.linspace(0.5, 1.0, 300, dtype=torch.float64).mul(scale).to(dtype)])
    e = flat(normalized(g, g, 0.5, p=p))
    assert torch.linalg.vector_norm(e, p).item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1.0, 1e30, 1e100])
@pytest.mark.parametrize("p", [1.0, 1.01, 1.5, 2.0, 3.0, 100.0, math.inf])
def test_powers_neither_overflow_nor_vanish(scale, p):
    g = draw() * scale
    e = flat(normalized(g, g, 0.5, p=p))
    assert torch.linalg.vector_norm(e, p).item() == pytest.approx(0.5, rel=1e-10)


# ------------------------------------------------------------------------------------------ by hand


def test_the_order_1_moves_the_largest_coordinate_alone():
    e = normalized(vector([0.0]), vector([1.0, -4.0, 2.0]), 0.5, p=1.0)
    assert e.parts[0].tolist() == [0.0, -0.5, 0.0]


def test_at_the_order_1_equals_share_the_radius():
    e = normalized(vector([0.0]), vector([4.0, -4.0], [4.0, 1.0]), 0.6, p=1.0)
    assert flat(e).tolist() == pytest.approx([0.2, -0.2, 0.2, 0.0])


def test_the_order_inf_moves_all_alike_and_those_without_a_slope_not_at_all():
    e = normalized(vector([0.0]), vector([1.0, -4.0, 0.0]), 0.5, p=math.inf)
    assert e.parts[0].tolist() == [0.5, -0.5, 0.0]


def test_the_order_3_is_the_formula():
    """q = 3/2: e = rho sign(g) |g|^(1/2) / (sum |g|^(3/2))^(1/3)."""
    e = normalized(vector([0.0]), vector([1.0, -4.0, 9.0]), 0.5, p=3.0)
    below = (1.0 + 8.0 + 27.0) ** (1 / 3)
    assert e.parts[0].tolist() == pytest.approx([0.5 / below, -1.0 / below, 1.5 / below], rel=1e-14)


def test_unnormalized_is_a_multiple_of_the_slope():
    assert unnormalized(vector([0.0]), vector([1.0, -4.0]), 0.5).parts[0].tolist() == [0.5, -2.0]


def test_adaptive_is_the_formula():
    """t = 2.5, 0.5; t g = 2.5, -2; ||t g||^2 = 10.25; e = t^2 g / ||t g||."""
    e = adaptive(vector([-2.0, 0.0]), vector([1.0, -4.0]), 1.0, eta=0.5)
    assert e.parts[0].tolist() == pytest.approx([6.25 / 10.25**0.5, -1.0 / 10.25**0.5], rel=1e-14)


@pytest.mark.parametrize(("eta", "moves"), [(0.0, False), (0.01, True)])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_a_weight_of_zero_moves_with_eta_and_without_it_stays(eta, moves, p):
    e = adaptive(vector([0.0, 1.0]), vector([1.0, 1.0]), 0.5, eta=eta, p=p)
    assert (e.parts[0][0].item() != 0.0) is moves


def test_a_filter_is_what_makes_one_output():
    weight = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 2, 2)
    sizes = size(weight, "filter", 0.5)
    assert sizes.shape == (2, 1, 1, 1)
    expected = [sum(i * i for i in range(12)) ** 0.5 + 0.5]
    expected += [sum(i * i for i in range(12, 24)) ** 0.5 + 0.5]
    assert sizes.flatten().tolist() == pytest.approx(expected, rel=1e-14)


def test_a_vector_has_one_filter_for_each_entry():
    bias = torch.tensor([3.0, -4.0]).double()
    assert size(bias, "filter", 0.5).tolist() == [3.5, 4.5]
    assert size(bias, "element", 0.5).tolist() == [3.5, 4.5]
    assert size(bias, "layer", 0.5).item() == 5.5


def test_a_parameter_without_axes_is_measured_too():
    for scale in ("element", "filter", "layer"):
        assert size(torch.tensor(-3.0).double(), scale, 0.5).item() == 3.5


# ------------------------------------------------------------------------- one radius per parameter


@every_perturbation
def test_a_radius_for_each_is_one_radius_where_they_are_equal(name):
    w, g = draw(seed=4), draw()
    one, two = (PERTURBATIONS[name](w, g, rho) for rho in (0.2, (0.2, 0.2, 0.2)))
    torch.testing.assert_close(flat(one), flat(two), rtol=1e-15, atol=0)


@every_perturbation
def test_the_radius_zero_takes_a_parameter_out_of_displacement_and_norm(name):
    w, g = draw(seed=4), draw()
    e = PERTURBATIONS[name](w, g, (0.2, 0.0, 0.2))
    assert stays(e.parts[1])
    alone = PERTURBATIONS[name](
        Vector([w.parts[0], w.parts[2]]), Vector([g.parts[0], g.parts[2]]), 0.2
    )
    assert same_bits([e.parts[0], e.parts[2]], list(alone.parts))


def test_what_is_left_out_takes_no_memory():
    """Where normalisation layers alone are perturbed, the rest must not cost its own size."""
    g = draw().only([True, True, False])
    rules = PERTURBATIONS.items()
    stored = [
        name for name, e in ((n, f(draw(), g, (0.2, 0.0, 0.2))) for n, f in rules) if e.tensors[1:]
    ]
    assert stored == []


@every_perturbation
def test_each_part_is_in_proportion_to_its_own_radius(name):
    w, g = draw(seed=4), draw()
    one, two = (PERTURBATIONS[name](w, g, rho) for rho in (0.2, (0.1, 0.2, 0.6)))
    for part, other, ratio in zip(one.parts, two.parts, (0.5, 1.0, 3.0), strict=True):
        torch.testing.assert_close(ratio * part, other, rtol=1e-14, atol=0)


def test_what_moves_is_what_has_a_radius():
    g = vector([1.0], [2.0], None)
    assert [part is None for part in moved(g, (0.1, 0.0, 0.1)).parts] == [False, True, True]
    assert moved(g, 0.0) is g


# ----------------------------------------------------------------------------- random and projected


def test_random_displacements_depend_on_their_generator_alone():
    w, g = draw(seed=4), draw()
    e = [random(w, g, 0.3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(flat(e[0]), flat(e[1])) and not torch.equal(flat(e[0]), flat(e[2]))
    torch.manual_seed(77)
    again = random(g, w, 0.3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(flat(e[0]), flat(again))


@every_dtype
def test_random_displacements_have_the_length_rho_in_every_precision(dtype):
    e = random(draw(dtype), draw(dtype), 0.3, generator=torch.Generator().manual_seed(1))
    assert flat(e).norm().item() == pytest.approx(0.3, rel=0.01)


def test_random_displacements_leave_out_what_has_no_gradient_or_no_radius():
    g = draw().only([False, True, True])
    e = random(draw(), g, (0.3, 0.0, 0.3), generator=torch.Generator().manual_seed(1))
    assert [part is None for part in e.parts] == [True, True, False]
    assert flat(e).norm().item() == pytest.approx(0.3, rel=1e-12)


def test_noise_is_in_proportion_to_the_filters_and_to_the_radius():
    w = Vector([draw().parts[0] * torch.tensor([[1.0], [0.0], [10.0], [1.0]]).double()])
    draws = [noise(w, w, rho, generator=torch.Generator().manual_seed(1)) for rho in (0.1, 0.2)]
    one, two = (e.parts[0] for e in draws)
    torch.testing.assert_close(2.0 * one, two)
    z = Vector(w.parts).randn_like(torch.Generator().manual_seed(1)).parts[0]
    torch.testing.assert_close(one, 0.1 * w.parts[0].norm(dim=1, keepdim=True) * z)


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_noise_stays_where_the_slope_is_nothing_or_not_finite(value):
    g = draw().map(lambda part: torch.full_like(part, value))
    assert flat(noise(draw(), g, 0.1, generator=torch.Generator())).eq(0.0).all()


def test_noise_leaves_out_what_has_no_gradient_or_no_radius():
    g = draw().only([False, True, True])
    e = noise(draw(), g, (0.3, 0.0, 0.3), generator=torch.Generator().manual_seed(1))
    assert [part is None for part in e.parts] == [True, True, False]


def test_projecting_changes_nothing_within_the_ball():
    e = draw()
    assert torch.equal(flat(projected(e, 1e3)), flat(e))
    assert flat(projected(e.zeros_like(), 0.5)).eq(0.0).all()


def test_projecting_ends_on_the_sphere_in_the_same_direction():
    e = draw()
    shorter = flat(projected(e, 0.5))
    assert shorter.norm().item() == pytest.approx(0.5, rel=1e-14)
    torch.testing.assert_close(shorter / 0.5, flat(e) / flat(e).norm(), rtol=1e-13, atol=0)


def test_of_several_radii_the_largest_bounds_the_ball():
    assert flat(projected(draw(), (0.1, 0.0, 0.5))).norm().item() == pytest.approx(0.5, rel=1e-14)


def test_the_ball_of_radius_zero_is_a_point():
    assert flat(projected(draw(), 0.0)).eq(0.0).all()
