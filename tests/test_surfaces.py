"""Surfaces, descents of many points at once, basins, and closed forms on a parabola."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn, optim

import flatminima as fm
from flatminima.landscape import basins, descents, minima, stability, tilts, wilson
from flatminima.landscape.basin import Minima
from flatminima.landscape.descent import Descents
from flatminima.landscape.surfaces import (
    Surface,
    ackley,
    beale,
    easom,
    eggholder,
    himmelblau,
    quadratic,
    rastrigin,
    rosenbrock,
    two_valleys,
)
from flatminima.sharpness import edge_of_stability
from flatminima.vector import Vector

NAMED = [easom, eggholder, rosenbrock, beale, himmelblau, ackley, rastrigin, two_valleys()]
by_name = pytest.mark.parametrize("surface", NAMED, ids=lambda surface: surface.name)


def at(*coordinates: float) -> Tensor:
    return torch.tensor(coordinates)


# ---------------------------------------------------------------------------------------- surfaces


@by_name
def test_a_known_minimum_has_the_height_that_is_known(surface):
    for minimum in surface.minima:
        assert surface.values(at(*minimum.at)).item() == pytest.approx(minimum.value, abs=1e-12)


@by_name
def test_a_known_minimum_has_no_slope_but_what_its_kind_allows(surface):
    for minimum in surface.minima:
        across, along = surface.gradients(at(*minimum.at))
        assert abs(along) < 1e-9
        assert across < -1 if minimum.kind == "edge" else abs(across) < 1e-9


@by_name
def test_no_point_of_the_box_is_lower_than_a_known_minimum(surface):
    lowest = min(minimum.value for minimum in surface.minima)
    assert surface.values(surface.grid(400)).min() >= lowest
    for minimum in surface.minima:
        turns = torch.linspace(0, 2 * math.pi, 100)
        ring = at(*minimum.at) + 1e-3 * torch.stack((turns.cos(), turns.sin()), dim=-1)
        (left, right), _ = surface.box
        inside = (ring[:, 0] >= left) & (ring[:, 0] <= right)
        assert (surface.values(ring[inside]) > minimum.value).all()


def test_the_tip_of_a_cone_rises_in_every_direction():
    turns = torch.linspace(0, 2 * math.pi, 100)
    ring = 1e-6 * torch.stack((turns.cos(), turns.sin()), dim=-1)
    assert (ackley.values(ring) / 1e-6).min() == pytest.approx(4 / math.sqrt(2), rel=1e-4)


@by_name
def test_many_points_at_once_are_each_point_as_an_objective_has_it(surface):
    points = surface.grid(4).reshape(-1, 2)
    values, gradients = surface.values(points), surface.gradients(points)
    hessians = surface.hessians(points)
    for number, point in enumerate(points):
        w, v = Vector([point]), Vector([at(0.6, -0.8)])
        assert surface.value(w) == values[number]
        assert torch.equal(surface.gradient(w).tensors[0], gradients[number])
        product = surface.hvp(w, v).tensors[0]
        torch.testing.assert_close(hessians[number] @ v.tensors[0], product)


@by_name
def test_gradients_are_the_slopes_of_the_heights(surface):
    points, step = surface.grid(7).reshape(-1, 2) + 0.0123, 1e-6
    for axis in range(2):
        shift = step * torch.eye(2)[axis]
        slope = (surface.values(points + shift) - surface.values(points - shift)) / (2 * step)
        torch.testing.assert_close(surface.gradients(points)[:, axis], slope, rtol=1e-5, atol=1e-5)


def test_easom_and_eggholder_are_the_formulas_of_their_sources():
    for a, b in [(3.0, 2.5), (-100.0, 301.5), (512.0, 404.0)]:
        hole = -math.cos(a) * math.cos(b) * math.exp(-((a - math.pi) ** 2) - (b - math.pi) ** 2)
        assert easom.values(at(a, b)).item() == pytest.approx(hole, rel=1e-13)
        written = -(b + 47) * math.sin(math.sqrt(abs(b + a / 2 + 47)))
        written -= a * math.sin(math.sqrt(abs(a - (b + 47))))
        assert eggholder.values(at(a, b)).item() == pytest.approx(written, rel=1e-13)


def test_a_surface_prints_what_it_is():
    assert repr(himmelblau) == "Surface(Himmelblau, [-5, 5] x [-5, 5])"


def test_a_plane_has_no_curvature():
    plane = Surface(lambda a, b: a + 2 * b)
    assert torch.equal(plane.hessians(torch.zeros(3, 2)), torch.zeros(3, 2, 2))


@pytest.mark.parametrize("box", [((1.0, 1.0), (0.0, 1.0)), ((0.0, math.inf), (0.0, 1.0))])
def test_a_box_has_two_ends(box):
    with pytest.raises(ValueError, match="box must have low < high, both finite, got"):
        Surface(lambda a, b: a * b, box=box)


@pytest.mark.parametrize(
    "height",
    [
        lambda a, b: (a * b).detach(),
        lambda a, b: torch.zeros(2),
        lambda a, b: torch.as_tensor((a + b).detach().numpy() ** 2),
    ],
)
def test_a_surface_without_a_gradient_is_refused(height):
    with pytest.raises(TypeError, match="height must be made of torch operations on its arguments"):
        Surface(height)


@pytest.mark.parametrize("height", [lambda a, b: (a * b).sum(), lambda a, b: 1.0])
def test_a_surface_has_a_height_for_every_point(height):
    with pytest.raises(TypeError, match="height must return a tensor of the shape of its argument"):
        Surface(height)


def test_a_grid_has_a_side():
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        easom.grid(0)


@pytest.mark.parametrize(("sharp", "flat"), [(1.0, 2.0), (1.0, 0.0), (math.inf, 1.0)])
def test_the_sharp_valley_is_the_sharper(sharp, flat):
    with pytest.raises(ValueError, match="flat must be above 0 and below sharp = .*, got"):
        two_valleys(sharp, flat)


# ---------------------------------------------------------------------------------------- descents

BASES = {
    "gradient": partial(optim.SGD, lr=0.01),
    "momentum": partial(optim.SGD, lr=0.01, momentum=0.9),
    "adagrad": partial(optim.Adagrad, lr=0.3),
    "adam": partial(optim.Adam, lr=0.1),
}
RULES = {
    "plain": None,
    "sam": fm.sam(rho=0.2),
    "asam": fm.asam(rho=0.2),
    "gsam": fm.gsam(rho=0.2),
    "hybrid": fm.hybrid({fm.Region.STEEPER}, rho=0.2),
    "several": fm.multi_step(rho=0.2),
}


def single(surface, start, base, rule, steps, *, lean=None, m=None) -> Tensor:
    """One descent as a training loop makes it, point by point."""
    w = nn.Parameter(start.clone())
    optimizer = base([w])
    sharp = None if rule is None else fm.SharpnessAware([w], rule, m=m, engine="loop")
    batch = torch.zeros(1, 2) if lean is None else lean

    def loss_fn(batch):
        return surface.height(w) + (batch @ w).mean()

    path = [start]
    for _ in range(steps):
        optimizer.zero_grad()
        if sharp is None:
            loss_fn(batch).backward()
        else:
            sharp.backward(loss_fn, batch)
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_many_descents_are_each_the_training_loop_step_by_step(base, rule):
    starts = himmelblau.grid(2).reshape(-1, 2)[1:] + 0.1
    many = descents(himmelblau, starts, base, rule, steps=8, every=1)
    alone = torch.stack([single(himmelblau, start, base, rule, 8) for start in starts], dim=1)
    torch.testing.assert_close(many.path, alone, rtol=1e-9, atol=1e-11)
    assert many.kept.tolist() == list(range(9))


@pytest.mark.parametrize("m", [1, 2, 3, None])
@pytest.mark.parametrize("rule", [fm.sam(rho=0.2), fm.asam(rho=0.2), None], ids=str)
def test_groups_of_examples_are_m_sam(rule, m):
    lean = tilts(8, 30.0, torch.Generator().manual_seed(1))
    m = None if rule is None else m
    start, base = at(-1.0, 1.5), BASES["gradient"]
    many = descents(himmelblau, start[None], base, rule, steps=5, tilts=lean, m=m, every=1)
    alone = single(himmelblau, start, base, rule, 5, lean=lean, m=m)
    torch.testing.assert_close(many.path[:, 0], alone, rtol=1e-9, atol=1e-10)


def test_tilts_leave_the_mean_as_it_is_and_move_groups():
    lean = tilts(6, 30.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(lean.sum(dim=0), torch.zeros(2), rtol=0, atol=1e-12)
    run = partial(
        descents, himmelblau, at(-1.0, 1.5)[None], BASES["gradient"], fm.sam(rho=0.2), steps=5
    )
    whole = run(tilts=lean).ends
    torch.testing.assert_close(whole, run().ends)
    assert (run(tilts=lean, m=1).ends - whole).norm() > 1e-3


def test_each_start_may_have_its_own_radius():
    radii = at(0.0, 0.1, 0.4)
    starts = at(1.0, 1.0).expand(3, 2)
    together = descents(himmelblau, starts, BASES["adam"], fm.sam(rho=9.0), steps=6, rho=radii).ends
    for rho, end in zip(radii, together, strict=True):
        rule = fm.sam(rho=float(rho))
        alone = descents(himmelblau, starts[:1], BASES["adam"], rule, steps=6).ends[0]
        torch.testing.assert_close(end, alone)


def test_a_schedule_of_the_radius_is_followed():
    rule = fm.sam(rho=lambda step: 0.3 if step < 2 else 0.0)
    start = at(1.0, 1.0)[None]
    many = descents(himmelblau, start, BASES["gradient"], rule, steps=4)
    torch.testing.assert_close(
        many.ends[0], single(himmelblau, start[0], BASES["gradient"], rule, 4)[-1]
    )


def test_a_radius_beyond_the_edge_diverges_at_a_step_and_has_no_end():
    bowl, lr = quadratic(10.0, 10.0), 0.1
    edge = (2 / lr / 10 - 1) / 10  # eta a (1 + rho a) = 2
    starts = at(1.0, 0.0).expand(2, 2)
    radii = edge * at(0.95, 1.05)
    ended = descents(
        bowl, starts, partial(optim.SGD, lr=lr), fm.usam(rho=0.0), steps=200, rho=radii
    )
    calm, wild = ended.diverged.tolist()
    # |w| grows by eta a (1 + rho a) - 1 a step, until it is 10 times the box's half away
    growth = lr * 10 * (1 + 1.05 * edge * 10) - 1
    assert calm == 0 and wild == math.ceil(math.log(50) / math.log(growth))
    assert ended.ends[0].isfinite().all() and ended.ends[1].isnan().all()
    assert ended.fate(1) == f"diverged at step {wild}"
    assert ended.fate(0).startswith("at (") and ended.fate(0).endswith("after 200 steps")
    assert ended.path[-1, 1].isnan().all()


def test_a_gradient_that_is_not_finite_diverges():
    kink = Surface(lambda a, b: a.abs().sqrt() + b**2)
    ended = descents(kink, at(0.0, 1.0)[None], BASES["gradient"], steps=3)
    assert ended.fate(0) == "diverged at step 1"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_starts_are_finite(bad):
    starts = torch.zeros(4, 2)
    starts[2, 1] = bad
    with pytest.raises(ValueError, match=rf"starts must be finite, got \[0.0, {bad}\] in row 2"):
        descents(easom, starts, BASES["adam"], steps=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts": torch.zeros(2)}, r"starts must have the shape \(n, 2\), got \(2,\)"),
        ({"steps": 0}, "steps and every must be at least 1, got 0 and None"),
        ({"every": 0}, "steps and every must be at least 1, got 1 and 0"),
        ({"far": 1.0}, "far must be above 1, a multiple of the box, got 1.0"),
        ({"rule": None, "rho": torch.ones(3)}, "rule must be given with rho, got None"),
        ({"m": 2}, "tilts must be given with m, got None"),
        ({"rho": torch.ones(2)}, "rho must be 3 radii >= 0, one per start, got tensor"),
        ({"rho": -torch.ones(3)}, "rho must be 3 radii >= 0, one per start, got tensor"),
        ({"tilts": torch.zeros(4, 2), "m": 0}, "m must be at least 1, got 0"),
    ],
)
def test_a_descent_that_is_none_is_refused(change, message):
    settings = {"starts": torch.zeros(3, 2), "rule": fm.sam(), "steps": 1} | change
    with pytest.raises(ValueError, match=message):
        descents(easom, optimizer=BASES["adam"], **settings)


def test_an_optimizer_that_mixes_coordinates_is_refused():
    with pytest.raises(TypeError, match="optimizer must make one that steps each coordinate by it"):
        descents(easom, torch.zeros(1, 2), optim.LBFGS, steps=1)


def test_a_rule_that_asks_for_another_batch_is_refused():
    def elsewhere(look):
        return (yield fm.Ask(fm.HERE, batch=(torch.zeros(1),)))

    with pytest.raises(TypeError, match="rule must ask for displacements of the weights on a surf"):
        descents(easom, torch.zeros(1, 2), BASES["adam"], elsewhere, steps=1)


@pytest.mark.parametrize(("examples", "size"), [(0, 1.0), (2, -1.0)])
def test_tilts_are_of_examples(examples, size):
    with pytest.raises(ValueError, match="tilts must be of one example or more and of a size >= 0"):
        tilts(examples, size, torch.Generator())


# ------------------------------------------------------------------------------------------ basins


@pytest.mark.parametrize(
    ("surface", "count"), [(himmelblau, 4), (easom, 5), (rastrigin, 121), (rosenbrock, 1)]
)
def test_newton_finds_every_minimum(surface, count):
    found = minima(surface, side=25)
    assert len(found) == count
    assert surface.gradients(found.points).norm(dim=-1).max() < 1e-6
    assert (found.values.diff() >= 0).all()
    for minimum in surface.minima:
        assert (found.points - at(*minimum.at)).norm(dim=-1).min() < 1e-9


def test_sharpness_is_the_largest_eigenvalue():
    found = minima(two_valleys(400.0, 4.0), side=8)
    assert found.sharpness.tolist() == [400.0, 4.0]
    assert (found.sharpest, found.flattest) == (0, 1)


def test_a_minimum_without_a_curvature_is_infinitely_sharp():
    found = minima(eggholder, side=10)
    assert found.points[0].tolist() == list(eggholder.minima[0].at)
    assert found.sharpness[0] == math.inf


def test_a_start_ends_in_its_minimum_or_nowhere_or_diverges():
    found = Minima(points=torch.eye(2), values=torch.zeros(2), sharpness=torch.ones(2))
    ends = torch.stack([at(1.0, 0.1), at(0.0, 0.9), at(0.5, 0.5), at(math.nan, math.nan)])
    ended = Descents(
        ends=ends,
        diverged=torch.tensor([0, 0, 0, 7]),
        path=ends[None],
        kept=torch.zeros(1),
        steps=9,
    )
    where = basins(ended, found, within=0.2)
    assert where.index.tolist() == [0, 1, -1, -2]
    assert [share.count for share in where.shares] == [1, 1]
    assert (where.nowhere.count, where.diverged.count) == (1, 1)
    assert basins(ended, found).index.tolist() == [0, 1, 0, -2]  # half way to the next


def test_wilsons_interval_is_the_solution_of_its_equation():
    # |p - x| = z sqrt(x (1 - x) / n) at both ends
    share = wilson(30, 200)
    for end in (share.low, share.high):
        assert abs(0.15 - end) == pytest.approx(1.959963985 * math.sqrt(end * (1 - end) / 200))
    assert wilson(0, 50).low == 0 < wilson(0, 50).high
    assert wilson(50, 50).high == 1 > wilson(50, 50).low


@pytest.mark.parametrize(("count", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_a_share_is_of_something(count, n):
    with pytest.raises(ValueError, match="count must be between 0 and n, and n positive, got"):
        wilson(count, n)


def test_basins_need_minima_and_a_distance():
    found = Minima(points=torch.eye(2), values=torch.zeros(2), sharpness=torch.ones(2))
    ended = descents(easom, torch.zeros(1, 2), BASES["adam"], steps=1)
    with pytest.raises(ValueError, match="within must be positive, got 0.0"):
        basins(ended, found, within=0.0)
    none = Minima(points=torch.zeros(0, 2), values=torch.zeros(0), sharpness=torch.zeros(0))
    with pytest.raises(ValueError, match="found must hold at least one minimum, got none"):
        basins(ended, none)


# --------------------------------------------------------------------------------- closed forms


def threshold(holds, low: float, high: float) -> float:
    """The place between two at which a property is lost, by halving."""
    assert holds(low) and not holds(high)
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2


def stays(curvature: float, base, rule=None, steps: int = 250) -> bool:
    """Whether a descent on a parabola does not grow without end."""
    start = at(1.0, 0.0)[None]
    bowl = quadratic(curvature, 0.0)
    return not descents(bowl, start, base, rule, steps=steps, far=3.0).diverged.item()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.7, False), (0.7, True)])
@pytest.mark.slow
def test_gradient_descent_diverges_above_its_edge(momentum, nesterov):
    base = partial(optim.SGD, lr=0.1, momentum=momentum, nesterov=nesterov)
    edge = edge_of_stability.momentum(0.1, momentum, nesterov=nesterov)
    found = threshold(lambda a: stays(a, base), 0.5 * edge, 2 * edge)
    assert found == pytest.approx(edge, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.01, 0.1])
def test_sam_without_the_normalisation_diverges_above_its_edge(rho):
    base, edge = partial(optim.SGD, lr=0.1), stability.usam_edge(0.1, rho)
    found = threshold(lambda a: stays(a, base, fm.usam(rho)), 0.5 * edge, 2 * edge)
    assert found == pytest.approx(edge, rel=0.01)


@pytest.mark.parametrize("rho", [0.0, 0.02, 0.3])
def test_sam_moves_away_from_the_bottom_above_its_edge(rho):
    lr, slope = 0.1, 2.0
    base, rule = partial(optim.SGD, lr=lr), fm.sam(rho)

    def shrinks(curvature: float) -> bool:
        start = at(slope / curvature, 0.0)[None]
        end = descents(quadratic(curvature, 0.0), start, base, rule, steps=1).ends
        return bool(end.norm() < start.norm())

    edge = edge_of_stability.sam(lr, rho, slope)
    assert threshold(shrinks, 0.5 * edge, 2 * edge) == pytest.approx(edge, rel=0.01)


@pytest.mark.parametrize("curvature", [5.0, 15.0])
@pytest.mark.slow
def test_sam_goes_on_jumping_at_the_distance_of_its_cycle(curvature):
    base, bowl = partial(optim.SGD, lr=0.1), quadratic(curvature, 1.0)
    ended = descents(bowl, at(1.0, 0.0)[None], base, fm.sam(0.5), steps=400, every=1)
    last = ended.path[-2:, 0, 0]
    assert last.abs().max() == pytest.approx(stability.bounce(curvature, 0.1, 0.5), rel=1e-9)
    assert last[0] == pytest.approx(-last[1])


@pytest.mark.parametrize("start", ["settled", "bottom"])
@pytest.mark.parametrize(("sharp", "flat"), [(400.0, 4.0), (200.0, 20.0), (50.0, 2.0)])
@pytest.mark.slow
def test_sam_leaves_a_valley_above_its_escape_radius(sharp, flat, start):
    lr, valleys = 0.002, two_valleys(sharp, flat)
    ridge = 2 * math.sqrt(flat) / (math.sqrt(sharp) + math.sqrt(flat))
    base = partial(optim.SGD, lr=lr)

    radius = stability.escape_radius(sharp, lr, ridge, start=start)
    radii = radius * torch.linspace(0.9, 1.1, 81)
    settled = torch.tensor([stability.bounce(sharp, lr, float(rho)) for rho in radii])
    first = settled if start == "settled" else torch.full_like(settled, 1e-9)
    starts = torch.stack((-1 - first, torch.zeros_like(first)), dim=-1)  # next, towards the ridge
    path = descents(valleys, starts, base, fm.sam(0.0), steps=300, rho=radii, every=1).path
    reach = settled if start == "settled" else lr * sharp * radii  # of what stays
    left = path[:, :, 0].amax(dim=0) + 1 > 1.001 * reach
    assert (left.int().diff() >= 0).all() and left.any() and not left.all()
    assert radii[int(left.int().argmax())] == pytest.approx(radius, rel=0.01)


def test_beyond_the_edge_there_is_no_cycle_and_no_radius_that_stays():
    assert stability.bounce(20.0, 0.1, 0.5) == math.inf
    assert stability.escape_radius(20.0, 0.1, 1.0) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stability.usam_edge(0.0, 0.1), "lr must be positive, got 0.0"),
        (lambda: stability.usam_edge(0.1, -1.0), "rho must be >= 0, got -1.0"),
        (lambda: stability.bounce(0.0, 0.1, 1.0), "curvature must be positive, got 0.0"),
        (lambda: stability.escape_radius(1.0, 0.1, 0.0), "ridge must be a positive distance, got"),
    ],
)
def test_closed_forms_are_of_a_valley(call, message):
    with pytest.raises(ValueError, match=message):
        call()
