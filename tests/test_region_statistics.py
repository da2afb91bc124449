"""What regions hold, each figure beside its chance level; against closed forms and plain loops."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from talks import vector
from torch import Tensor, nn

import flatminima as fm
from flatminima import Region, Vector, regions
from flatminima.engine.observe import Recorder, Step
from flatminima.regions import ratio_bins

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
STEEPER = {Region.STEEPER}
MANY = 200_000  # coordinates; a share of chance is then known to about 0.001


def random_set(share: float, seed: int, size: int = MANY) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < share


def gradients(size: int = 5000, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    g, p = (torch.randn(size, generator=generator) for _ in range(2))
    g[::9], p[::11] = 0.0, 0.0  # both zero at every 99th
    p[1::9] = g[1::9]
    return g, p


# ------------------------------------------------------------------------------------------- shares


def test_shares_of_the_parts_are_those_of_each_part_and_sum_to_those_of_all():
    g, p = gradients()
    parts = g.split([1000, 4000]), p.split([1000, 4000])
    one, absent, two = regions.shares_by_part(*(Vector([a, None, b]) for a, b in parts))
    assert absent is None
    assert one == regions.shares(parts[0][0], parts[1][0])
    assert two == regions.shares(parts[0][1], parts[1][1])
    whole = regions.shares(g, p)
    for name in Region:
        assert (1000 * one[name] + 4000 * two[name]) / 5000 == pytest.approx(whole[name], abs=1e-15)


def test_an_empty_parameter_has_no_shares():
    g = Vector([torch.zeros(0), torch.ones(2)])
    empty, there = regions.shares_by_part(g, g)
    assert empty is None and there.gentler == 1.0


def test_a_mask_holds_the_coordinates_of_its_regions():
    g, p = gradients()
    names = regions.region(g, p)
    for chosen in ({Region.STEEPER}, {Region.GENTLER, Region.REVERSED_STEEPER}, set(Region), set()):
        expected = sum(names == int(name) for name in chosen) > 0
        assert torch.equal(
            regions.mask(g, p, chosen).parts[0], torch.as_tensor(expected).expand(len(g))
        )


# ------------------------------------------------------------------------------------- ratio bins


def by_definition(g: Tensor, p: Tensor, edges, of: str) -> list[int]:
    """The counts of the bins, with exact fractions, one coordinate after the other."""
    counts = [0] * (len(edges) - 1)
    for a, b in zip(g.tolist(), p.tolist(), strict=True):
        if a == 0 and b == 0:
            continue
        r = math.inf if a == 0 else Fraction(b) / Fraction(a)
        r = abs(r) if of == "size" else r
        for i in range(len(counts)):
            counts[i] += edges[i] < r and (r <= edges[i + 1])
    return counts


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("of", ["ratio", "size"])
@pytest.mark.parametrize(
    "edges",
    [
        (1, 1.2, 1.5, 2, 4, 8, 16, math.inf),
        (1, 2, 4, 8, 16, 32, 64),
        (-math.inf, -1, 0, 1, math.inf),
        (0.25, 0.5),
    ],
)
def test_bins_of_the_ratio_are_those_of_exact_fractions(edges, of, dtype):
    g, p = (part.to(dtype) for part in gradients(1000))
    found = ratio_bins(g, p, edges, of=of)
    expected = [count / 1000 for count in by_definition(g, p, edges, of)]
    assert list(found.disjoint) == pytest.approx(expected, abs=1e-15)
    assert found.outside == pytest.approx(1 - sum(expected), abs=1e-12)
    assert (found.coordinates, found.of) == (1000, of)


def test_the_published_bins_divide_the_steeper_region():
    g, p = gradients()
    found = ratio_bins(g, p)
    assert sum(found.disjoint) == pytest.approx(regions.shares(g, p).steeper, abs=1e-15)
    assert len(found.disjoint) == 7


def test_the_cumulative_form_is_named_and_is_not_the_disjoint_one():
    g = torch.ones(10)
    p = torch.tensor([1.1] * 5 + [1.4] * 3 + [3.0] * 2)
    found = ratio_bins(g, p, (1, 1.2, 1.5, 2, 4))
    assert found.disjoint == pytest.approx((0.5, 0.3, 0.0, 0.2))
    assert found.cumulative == pytest.approx((0.5, 0.8, 0.8, 1.0))


def test_an_infinite_ratio_is_in_the_last_bin_and_a_pair_of_zeros_in_none():
    found = ratio_bins(torch.zeros(4), torch.tensor([1.0, -1e-300, 0.0, -0.0]), (1, 2, math.inf))
    assert found.disjoint == (0.0, 0.5) and found.outside == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bins_hold_where_the_edge_times_the_gradient_would_overflow(dtype):
    top = torch.finfo(dtype).max
    g, p = torch.tensor([top / 4], dtype=dtype), torch.tensor([top], dtype=dtype)
    assert ratio_bins(g, p, (3.9, 4.1, 16)).disjoint == (1.0, 0.0)


@pytest.mark.parametrize("edges", [(), (1.0,), (2.0, 1.0), (1.0, 1.0), (1.0, math.nan)])
def test_edges_must_ascend(edges):
    with pytest.raises(
        ValueError, match=r"edges must be at least two numbers in ascending order, got"
    ):
        ratio_bins(torch.ones(1), torch.ones(1), edges)


# ------------------------------------------------------------------------------ sets against chance


def test_independent_sets_overlap_as_chance_says():
    for a, b in ((0.6, 0.6), (0.1, 0.8), (0.535, 0.65)):
        seen = regions.overlap(Vector([random_set(a, 1)]), Vector([random_set(b, 2)]))
        spread = math.sqrt(a * (1 - a) * b * (1 - b) / MANY)  # of the overlap
        assert abs(seen.both - seen.chance) < 4 * spread
        assert abs(seen.phi) < 4 / math.sqrt(MANY)
        assert abs(seen.lift - 1) < 4 * spread / (a * b)
        assert abs(seen.jaccard - seen.jaccard_chance) < 0.01


def test_a_set_is_like_itself_and_unlike_the_rest():
    one = Vector([random_set(0.3, 1)])
    same, rest = regions.overlap(one, one), regions.overlap(one, one.map(torch.logical_not))
    assert same.phi == pytest.approx(1.0) and same.jaccard == 1.0
    assert rest.phi == pytest.approx(-1.0) and rest.both == rest.jaccard == 0.0


def test_the_published_overlap_is_what_chance_gives():
    """67 % of the frozen set, called persistence: 0.535 of 0.65 of all is 35 % of the network."""
    seen = regions.overlap(Vector([random_set(0.535, 1)]), Vector([random_set(0.65, 2)]))
    assert seen.chance == pytest.approx(0.535 * 0.65, abs=0.003)
    assert abs(seen.phi) < 0.01


def test_the_level_by_layers_is_the_global_one_where_all_layers_have_the_same_shares():
    half, third = torch.arange(600) % 2 == 0, torch.arange(600) % 3 == 0
    one, two = Vector([half, half[:300]]), Vector([third, third[:300]])
    seen = regions.overlap(one, two)
    assert seen.chance_by_part == pytest.approx(seen.chance, abs=1e-15)


def test_sets_that_differ_between_layers_only_are_lifted_over_the_global_level_alone():
    one = Vector([random_set(0.9, 1), random_set(0.1, 2)])
    two = Vector([random_set(0.9, 3), random_set(0.1, 4)])
    seen = regions.overlap(one, two)
    assert seen.lift > 1.5
    assert seen.both == pytest.approx(seen.chance_by_part, rel=0.01)


def test_empty_sets_have_no_phi_and_no_lift():
    none, every = Vector([torch.zeros(4).bool()]), Vector([torch.ones(4).bool()])
    seen = regions.overlap(none, every)
    assert math.isnan(seen.phi) and math.isnan(seen.lift) and seen.jaccard == 0.0
    assert math.isnan(regions.overlap(none, none).jaccard)


def test_sets_need_a_coordinate():
    with pytest.raises(ValueError, match="sets must have a coordinate, got none"):
        regions.overlap(Vector([None]), Vector([None]))


def steps(count: int, share: float) -> list[Tensor]:
    """Perturbed gradients, steeper than a gradient of ones in an independent set at each step."""
    return [torch.where(random_set(share, seed), 2.0, 0.5) for seed in range(count)]


def test_what_persists_of_independent_sets_is_the_product_of_their_sizes():
    stay, g = regions.Persistence(STEEPER), torch.ones(MANY)
    seen = [stay(g, p) for p in steps(5, 0.6)]
    assert [row.steps for row in seen] == [1, 2, 3, 4, 5]
    for k, row in enumerate(seen):
        assert row.chance == pytest.approx(0.6 ** (k + 1), rel=0.02)
        assert row.left == pytest.approx(row.chance, abs=4 * math.sqrt(row.chance / MANY))
    assert math.isnan(seen[0].phi)
    assert all(abs(row.phi) < 4 / math.sqrt(MANY) for row in seen[1:])


def test_what_persists_of_one_set_is_the_set():
    stay, g, p = regions.Persistence(STEEPER), torch.ones(MANY), steps(1, 0.6)[0]
    seen = [stay(g, p) for _ in range(4)][-1]
    assert seen.left == pytest.approx(0.6, abs=0.01) and seen.phi == pytest.approx(1.0)
    assert seen.lift == pytest.approx(0.6**-3, rel=0.05)


def test_the_frozen_set_is_that_of_the_first_step():
    frozen, g = regions.FrozenOverlap(STEEPER), torch.ones(MANY)
    one, two, three = (frozen(g, p) for p in steps(3, 0.6))
    assert one.phi == pytest.approx(1.0) and one.both == one.first
    assert two.first == three.first == one.first
    assert abs(two.phi) < 0.01 and abs(three.phi) < 0.01


def test_the_union_over_radii_stands_beside_that_of_independent_sets():
    seen = regions.union(torch.ones(MANY), steps(3, 0.4))
    assert seen.union_chance == pytest.approx(1 - 0.6**3, abs=0.01)
    assert seen.union == pytest.approx(seen.union_chance, abs=0.01)
    assert seen.intersection == pytest.approx(seen.intersection_chance, abs=0.01)
    assert [seen.phi[i][i] for i in range(3)] == pytest.approx([1.0] * 3)
    assert seen.phi[0][1] == seen.phi[1][0] and abs(seen.phi[0][1]) < 0.01


def test_the_union_of_one_radius_is_its_share():
    g, p = gradients()
    seen = regions.union(g, [p], STEEPER)
    share = regions.shares(g, p).steeper
    assert seen.shares == (share,) and seen.union == seen.intersection == share
    assert (seen.union_chance, seen.intersection_chance) == pytest.approx((share, share))


def test_a_union_needs_a_radius():
    with pytest.raises(ValueError, match="perturbed must hold a gradient for at least one radius"):
        regions.union(torch.ones(1), [])


# --------------------------------------------------------------------------------- sizes of slopes


def test_squares_of_the_norms_by_region_sum_to_the_whole():
    g, p = gradients()
    parts = Vector([*g.split(2000)]), Vector([*p.split(2000)])
    seen = regions.norms(*parts)
    assert seen.whole == pytest.approx((float(g.norm()), float(p.norm())), rel=1e-14)
    names = regions.region(g, p)
    for name in Region:
        here = names == int(name)
        assert seen.g[name] == pytest.approx(float(g[here].norm()), rel=1e-12)
        assert seen.p[name] == pytest.approx(float(p[here].norm()), rel=1e-12)


def test_the_large_share_of_a_random_set_is_its_chance_level():
    gradient = torch.randn(MANY, generator=torch.Generator().manual_seed(5))
    for share in (0.05, 0.6):
        seen = regions.large_share(gradient, Vector([random_set(share, 6)]))
        assert seen.chance == pytest.approx(share, abs=0.005)
        spread = (1 - share) / math.sqrt(MANY)  # sqrt(a^2 (1 - a)^2 / N) of the overlap, over a
        assert abs(seen.share - seen.chance) < 4 * spread
        assert abs(seen.phi) < 4 / math.sqrt(MANY)


def test_the_large_share_of_the_largest_is_one_and_of_the_smallest_zero():
    gradient = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0])
    top = regions.large_share(gradient, Vector([gradient.abs() > 3.5]))
    low = regions.large_share(gradient, Vector([gradient.abs() < 2.5]))
    assert (top.share, top.phi, top.threshold) == (1.0, 1.0, 4.0)
    assert (low.share, low.threshold, low.chance) == (0.0, 4.0, 0.4)


def test_equal_slopes_count_with_the_chance_to_be_drawn():
    """Most of a ReLU network's slopes can be 0: the set must not win by its place in memory."""
    gradient = torch.zeros(100)
    first = Vector([torch.arange(100) < 30])
    assert regions.large_share(gradient, first).share == pytest.approx(0.3)
    gradient[0] = 1.0
    assert regions.large_share(gradient, first).share == pytest.approx((1 + 29 * 29 / 99) / 30)


def test_the_large_share_of_no_coordinates_is_unknown_and_of_all_is_one():
    none, every = Vector([torch.zeros(3).bool()]), Vector([torch.ones(3).bool()])
    seen = regions.large_share(torch.ones(3), none)
    assert math.isnan(seen.share) and math.isnan(seen.phi) and seen.chance == 0.0
    seen = regions.large_share(torch.ones(3), every)
    assert (seen.share, seen.chance) == (1.0, 1.0) and math.isnan(seen.phi)


def test_the_large_share_needs_finite_coordinates():
    some = Vector([torch.ones(2).bool()])
    with pytest.raises(ValueError, match="gradient must be finite, got coordinates that are not"):
        regions.large_share(torch.tensor([1.0, math.inf]), some)
    with pytest.raises(ValueError, match="gradient must have a coordinate in the set's parameters"):
        regions.large_share(Vector([None]), Vector([None]))


@pytest.mark.parametrize(
    "function",
    [regions.shares, regions.ratio_bins, regions.norms, regions.shares_by_part],
    ids=lambda function: function.__name__,
)
def test_what_is_not_finite_has_no_statistics(function):
    g, p = vector([1.0, math.nan]), vector([1.0, 1.0])
    with pytest.raises(ValueError, match="gradients must be finite, got 1 coordinates"):
        function(g, p)


# ---------------------------------------------------------------------------------------- observers


def observed(*recorders, steps: int = 6) -> list[Step]:
    """A few steps of SAM on a small net."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(12, 5), torch.randint(3, (12,))
    seen: list[Step] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharp = fm.SharpnessAware(model, fm.sam(rho=0.3), observe=[*recorders, seen.append])
    for _ in range(steps):
        optimizer.zero_grad()
        sharp.backward(lambda x, y: nn.functional.cross_entropy(model(x), y), x, y)
        optimizer.step()
    return seen


def test_a_recorder_keeps_any_statistic_of_the_steps_it_looks_at():
    sizes = Recorder(regions.norms, every=2)
    by_part = Recorder(regions.shares_by_part, every=5)
    frozen = Recorder(regions.FrozenOverlap(STEEPER), every=3)
    stay = Recorder(regions.Persistence(STEEPER), until=4)
    seen = observed(sizes, by_part, frozen, stay)
    assert [row["step"] for row in sizes.rows] == [0, 2, 4]
    assert sizes.rows[0]["g"] == regions.norms(seen[0].g, seen[0].p).g
    assert len(by_part.rows[0]["value"]) == 4
    assert [row["step"] for row in frozen.rows] == [0, 3] and frozen.rows[0]["both"] > 0
    assert [row["steps"] for row in stay.rows] == [1, 2, 3, 4]


def test_a_recorder_leaves_out_steps_that_did_not_look_uphill_or_are_not_finite():
    recorder = Recorder(regions.norms)
    w = torch.tensor([1.0], requires_grad=True)
    sharp = fm.SharpnessAware([w], fm.sam(rho=0.0), observe=[recorder])
    sharp.backward(lambda: w.square().sum())
    bad = fm.SharpnessAware([w], fm.sam(rho=0.1), observe=[recorder])
    bad.backward(lambda: (w * math.inf).sum())
    assert recorder.rows == []


def test_a_recorder_looks_every_so_often():
    with pytest.raises(ValueError, match="every must be a positive whole number, got 0"):
        Recorder(regions.norms, 0)


def test_what_was_frozen_is_no_view_of_the_live_gradients():
    frozen = regions.FrozenOverlap(STEEPER)
    g, p = torch.ones(4), torch.tensor([2.0, 2.0, 0.5, 0.5])
    frozen(g, p)
    p.fill_(0.5)
    assert frozen(g, p).first == 0.5
