"""Where the four regions end, in every precision, and what the hybrids make of them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from family import PUBLISHED, SUBSETS, regions
from talks import direction, vector
from torch import Tensor, nn

import flatminima as fm
from flatminima import Region, Vector
from flatminima.engine.observe import RegionShares, Step
from flatminima.regions import legacy_mask, legacy_shares, region, shares
from flatminima.regions.legacy import legacy_masks

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def edges(dtype: torch.dtype) -> list[tuple[float, float, int]]:
    """Coordinates g, p with their region, at and around every edge."""
    info = torch.finfo(dtype)
    tiny, ulp = info.smallest_normal * info.eps, info.eps  # tiny * tiny is 0, and it is denormal
    return [
        *((g, p, 1) for g, p in ((1, 2), (-1, -2), (1, 1 + ulp), (tiny, 2 * tiny))),
        *((g, p, 2) for g, p in ((2, 1), (-2, -1), (1 + ulp, 1), (2 * tiny, tiny))),
        *((g, p, 3) for g, p in ((1, -2), (-1, 2), (1, -1 - ulp), (tiny, -2 * tiny))),
        *((g, p, 4) for g, p in ((2, -1), (-2, 1), (1 + ulp, -1), (2 * tiny, -tiny))),
        *((g, g, 2) for g in (1, -1, tiny, -tiny, info.max)),  # r = 1
        *((g, -g, 4) for g in (1, -1, tiny, -tiny, info.max)),  # r = -1
        *((g, p, 2) for g in (1, -1, tiny, -tiny, info.max) for p in (0.0, -0.0)),  # r = 0
        *((g, p, 1) for p in (1, -1, tiny, -tiny, info.max) for g in (0.0, -0.0)),  # r infinite
        *((g, p, 2) for g in (0.0, -0.0) for p in (0.0, -0.0)),  # both zero
        (tiny, info.max, 1),
        (info.max, tiny, 2),
        (tiny, -info.max, 3),
        (info.max, -tiny, 4),
    ]


def gradients(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g, p, name = zip(*edges(dtype), strict=True)
    return torch.tensor(g, dtype=dtype), torch.tensor(p, dtype=dtype), torch.tensor(name)


def mixed(dtype: torch.dtype, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Random gradients with zeros of both signs, denormals, and equal values among them."""
    generator = torch.Generator().manual_seed(3)
    info = torch.finfo(dtype)
    scales = torch.tensor([0.0, -0.0, info.smallest_normal / 4, 1e-3, 1.0], dtype=torch.float64)

    def draw() -> Tensor:
        size = scales[torch.randint(len(scales), (count,), generator=generator)]
        return (size * torch.randn(count, generator=generator, dtype=torch.float64)).to(dtype)

    g, p = draw(), draw()
    p[::7], p[3::7] = g[::7], -g[3::7]
    return g, p


def exact(g: float, p: float) -> int:
    """The region by its definition, r = p / g, in exact fractions."""
    if g == 0.0:
        return 2 if p == 0.0 else 1
    r = Fraction(p) / Fraction(g)
    if r > 1:
        return 1
    if r >= 0:
        return 2
    return 4 if r >= -1 else 3


# -------------------------------------------------------------------------------------- the regions


@every_dtype
def test_every_edge_is_in_the_region_that_the_table_says(dtype):
    g, p, names = gradients(dtype)
    assert region(g, p).tolist() == names.tolist()


@every_dtype
def test_the_edges_hold_coordinates_whose_product_underflows(dtype):
    g, p, _ = gradients(dtype)
    assert bool(((g * p == 0) & (g != 0) & (p != 0)).any())


@every_dtype
def test_regions_are_those_of_the_exact_ratio(dtype):
    g, p = mixed(dtype)
    assert region(g, p).tolist() == [
        exact(*pair) for pair in zip(g.tolist(), p.tolist(), strict=True)
    ]


def test_the_regions_are_numbered_as_in_the_literature():
    assert [name.value for name in Region] == [1, 2, 3, 4]
    assert [name.name for name in Region] == [
        "STEEPER",
        "GENTLER",
        "REVERSED_STEEPER",
        "REVERSED_GENTLER",
    ]


# --------------------------------------------------------------------------------------- the shares


@every_dtype
@pytest.mark.parametrize("kind", ["mixed", "zeros", "edges"])
def test_the_four_shares_sum_to_one(dtype, kind):
    zeros = (torch.zeros(5, dtype=dtype), torch.zeros(5, dtype=dtype))
    g, p = {"mixed": mixed(dtype), "zeros": zeros, "edges": gradients(dtype)[:2]}[kind]
    seen = shares(g, p)
    assert sum(seen[name] for name in Region) == pytest.approx(1.0, abs=1e-15)
    assert seen.coordinates == g.numel()


def test_shares_are_counts_over_all_parameters_together():
    g = vector([1.0, 1.0, 1.0], [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]], None)
    p = vector([2.0, 0.5, 0.5], [[-2.0, -2.0], [0.0, 3.0], [-1.0, 1.0]], None)
    seen = shares(g, p)
    assert [seen.steeper, seen.gentler, seen.reversed_steeper, seen.reversed_gentler] == [
        2 / 9,
        4 / 9,
        2 / 9,
        1 / 9,
    ]
    assert seen.coordinates == 9


def test_dead_units_are_reported_beside_the_four_and_sit_inside_gentler():
    seen = shares(torch.tensor([0.0, -0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 2.0, 0.5]))
    assert (seen.both_zero, seen.gentler, seen.steeper) == (0.5, 0.75, 0.25)


def test_a_parameter_without_a_gradient_in_one_pass_counts_as_zero_there():
    seen = shares(vector([1.0], None, None), vector(None, [1.0, 1.0], None))
    assert (seen.gentler, seen.steeper, seen.coordinates) == (1 / 3, 2 / 3, 3)


def test_shares_need_a_coordinate():
    with pytest.raises(ValueError, match="g must have a coordinate, got none"):
        shares(Vector([None]), Vector([None]))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_shares_of_what_is_not_finite_are_refused(value, which):
    pair = [torch.ones(3), torch.ones(3)]
    pair[which][1] = value
    with pytest.raises(ValueError, match="gradients must be finite, got 1 coordinates"):
        shares(*pair)


def test_the_observer_records_the_shares_of_each_step():
    steps: list[Step] = []
    recorder = RegionShares(every=2)
    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    sharp = fm.SharpnessAware([w], fm.sam(rho=3.0), observe=[steps.append, recorder])
    for _ in range(3):
        sharp.backward(lambda: w.cos().sum())
    assert [row["step"] for row in recorder.rows] == [0, 2]
    seen = shares(steps[0].g, steps[0].p)
    assert recorder.rows[0]["steeper"] == seen.steeper
    assert recorder.rows[0]["both_zero"] == seen.both_zero


# ----------------------------------------------------------------- hybrids, against the truth table

# Columns: r in region 1, 2, 3, 4.
TRUTH = {
    "": "gggg",
    "1": "pggg",
    "2": "gpgg",
    "3": "ggpg",
    "4": "gggp",
    "12": "ppgg",
    "13": "pgpg",
    "14": "pggp",
    "23": "gppg",
    "24": "gpgp",
    "34": "ggpp",
    "123": "pppg",
    "124": "ppgp",
    "134": "pgpp",
    "234": "gppp",
    "1234": "pppp",
}


def test_the_truth_table_holds_all_sixteen_subsets():
    assert sorted(TRUTH) == sorted(SUBSETS)


@every_dtype
@pytest.mark.parametrize("digits", TRUTH)
def test_a_hybrid_takes_what_the_truth_table_says(digits, dtype):
    g, p, names = gradients(dtype)
    takes_p = torch.tensor([TRUTH[digits][name - 1] == "p" for name in names.tolist()])
    d = direction(fm.hybrid(regions(digits)), g, p)
    assert torch.equal(d[takes_p], p[takes_p]) and torch.equal(d[~takes_p], g[~takes_p])
    assert d.dtype == dtype


@every_dtype
@pytest.mark.parametrize("digits", TRUTH)
def test_same_takes_the_perturbed_gradient_times_the_factor_of_the_region(digits, dtype):
    g, p, names = gradients(dtype)
    scaled = torch.tensor([str(name) in digits for name in names.tolist()])
    d = direction(fm.same(dict.fromkeys(regions(digits), 0.5)), g, p)
    assert torch.equal(d[scaled], p[scaled] * 0.5) and torch.equal(d[~scaled], p[~scaled])


@pytest.mark.parametrize("digits", TRUTH)
def test_an_infinite_coordinate_becomes_nan_nowhere_and_moves_no_other(digits):
    g, p, _ = gradients(torch.float64)
    rule = fm.hybrid(regions(digits))
    expected = direction(rule, g, p)
    for which in (0, 1):
        pair = [g.clone(), p.clone()]
        pair[which][0] = math.inf
        d = direction(rule, *pair)
        assert not d.isnan().any() and torch.equal(d[1:], expected[1:])


@pytest.mark.parametrize("wrong", [1, "STEEPER", None])
@pytest.mark.parametrize(
    "make",
    [
        lambda name: fm.hybrid([name]),
        lambda name: fm.same({name: 1.0}),
        lambda name: fm.legacy_hybrid([name]),
    ],
    ids=["hybrid", "same", "legacy_hybrid"],
)
def test_regions_go_by_their_names(make, wrong):
    with pytest.raises(TypeError, match="regions must be members of Region, got .*; for example"):
        make(wrong)


# ----------------------------------------------------------------------------- the published counts

# Columns: r in region 1, 2, 3, 4; then r = 1, -1, 0, with r = p / (g + 1e-8).
LEGACY = {
    "": "gggg ggg",
    "1": "pggg ggg",
    "2": "gpgg ggg",
    "3": "ggpg ggg",
    "4": "gggp ggg",
    "12": "ppgg pgg",
    "13": "pgpg ppg",
    "23": "gppg ppp",  # what the class called 14 does
    "34": "ggpp gpp",
    "123": "pppg ppp",
    "124": "ppgp ppp",
    "134": "pgpp ppp",
    "234": "gppp ppp",
    "1234": "pppp ppp",
}
NAN_TAKES_P = {"13", "23", "34", "123", "124", "134", "234", "1234"}


def boundary() -> tuple[Tensor, Tensor]:
    """One coordinate for each column of the table."""
    g = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3], dtype=torch.float64)
    shifted = g + 1e-8
    r = torch.tensor([2.0, 0.5, -2.0, -0.5, 1.0, -1.0, 0.0], dtype=torch.float64)
    return g, r * shifted


@pytest.mark.parametrize("digits", LEGACY)
def test_a_legacy_hybrid_takes_what_the_published_class_took(digits):
    g, p = boundary()
    expected = [takes == "p" for takes in LEGACY[digits].replace(" ", "")]
    assert legacy_mask(g, p, regions(digits)).tolist() == expected
    assert torch.equal(
        direction(fm.legacy_hybrid(regions(digits)), g, p),
        torch.where(torch.tensor(expected), p, g),
    )


@pytest.mark.parametrize("digits", LEGACY)
def test_the_one_point_that_is_not_a_number_goes_where_it_went(digits):
    pole, zero = torch.tensor([-1e-8]).double(), torch.zeros(1).double()
    assert bool((zero / (pole + 1e-8)).isnan())
    assert legacy_mask(pole, zero, regions(digits)).item() is (digits in NAN_TAKES_P)


@pytest.mark.parametrize("digits", LEGACY)
def test_legacy_masks_are_the_published_expressions(digits):
    g, p = mixed(torch.float64)
    g = g * 3e-8  # around the pole
    expected = PUBLISHED[digits](p / (g + 1e-8))
    assert torch.equal(legacy_mask(g, p, regions(digits)), expected)


def test_the_class_called_14_takes_the_perturbed_gradient_in_2_and_3():
    g, p = boundary()
    d = direction(fm.legacy_ckpt14(), g, p)
    assert torch.equal(d, direction(fm.legacy_hybrid(regions("23")), g, p))
    assert (d[:4] == p[:4]).tolist() == [False, True, True, False]
    assert "legacy_ckpt14" in repr(fm.legacy_ckpt14())


@pytest.mark.parametrize("digits", ["14", "24"])
def test_sets_for_which_nothing_was_published_have_no_legacy(digits):
    g, p = boundary()
    with pytest.raises(ValueError, match="chosen must be a published set of regions .* got"):
        legacy_mask(g, p, regions(digits))
    with pytest.raises(ValueError, match="use hybrid instead"):
        direction(fm.legacy_hybrid(regions(digits)), g, p)


def test_legacy_shares_leave_the_edges_and_nan_unclassified():
    g, p = boundary()
    pole, zero = torch.tensor([-1e-8]).double(), torch.zeros(1).double()
    seen = legacy_shares(torch.cat([g, pole]), torch.cat([p, zero]))
    assert [seen.checkpoint1, seen.checkpoint2, seen.checkpoint3, seen.checkpoint4] == [1 / 8] * 4
    assert seen.unclassified == 0.5


def test_near_zero_the_legacy_ratio_has_the_wrong_sign():
    """The published example: r is +1 within rounding, where the true ratio is -0.11."""
    g, p = torch.tensor([-0.9e-8]).double(), torch.tensor([1e-9]).double()
    assert (p / (g + 1e-8)).item() == pytest.approx(1.0, abs=1e-6)
    assert region(g, p).item() == Region.REVERSED_GENTLER
    g = torch.tensor([-0.5e-8]).double()  # and without the accident of r = 1
    assert [mask.item() for mask in legacy_masks(g, p)] == [False, True, False, False]
    assert region(g, p).item() == Region.REVERSED_GENTLER


@pytest.mark.parametrize(("p", "expected"), [(1.0, 0), (-1.0, 2)])
def test_at_the_pole_the_legacy_ratio_is_infinite(p, expected):
    masks = legacy_masks(torch.tensor([-1e-8]).double(), torch.tensor([p]).double())
    assert [mask.item() for mask in masks] == [index == expected for index in range(4)]


@pytest.mark.parametrize(("p", "expected"), [(2e-8, 0), (0.5e-8, 1), (-2e-8, 2), (-0.5e-8, 3)])
def test_where_g_is_zero_the_legacy_class_goes_by_the_size_of_p(p, expected):
    g, p = torch.zeros(1).double(), torch.tensor([p]).double()
    assert [mask.item() for mask in legacy_masks(g, p)] == [index == expected for index in range(4)]
    assert region(g, p).item() == Region.STEEPER


# -------------------------------------------------------------------------- what must not move them


def first_step(weight_decay: float) -> Step:
    """The first step of a small net with batch normalisation."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=weight_decay)
    steps: list[Step] = []
    sharp = fm.SharpnessAware(model, fm.sam(rho=0.5), observe=[steps.append])
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(2, (8,))
    sharp.backward(lambda x, y: nn.functional.cross_entropy(model(x), y), x, y)
    optimizer.step()
    return steps[0]


def test_weight_decay_of_the_optimizer_changes_neither_displacement_nor_regions():
    one, two = first_step(0.0), first_step(0.5)
    for a, b in ((one.e, two.e), (one.p, two.p), (one.g, two.g)):
        assert all(map(torch.equal, a.parts, b.parts))
    assert shares(one.g, one.p) == shares(two.g, two.p)


def test_running_statistics_move_in_the_first_pass_only():
    torch.manual_seed(4)
    norm, scale = nn.BatchNorm1d(3).double(), nn.Parameter(torch.ones(3, dtype=torch.float64))
    x = torch.randn(8, 3, dtype=torch.float64)
    sharp = fm.SharpnessAware([scale, *norm.parameters()], fm.sam(rho=5.0))
    sharp.backward(lambda x: norm(x * scale).square().sum(1).sigmoid().mean(), x)
    assert norm.num_batches_tracked.item() == 1
    assert torch.allclose(norm.running_mean, 0.1 * x.mean(0), rtol=1e-12)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * x.var(0), rtol=1e-12)
