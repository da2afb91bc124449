"""What must hold by mathematics, whatever the code looks like."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import by_hand
import pytest
import torch
from family import SUBSETS, regions
from nets import same_bits
from torch import Tensor

import flatminima as fm
from flatminima import HERE, Region, Vector, perturb
from flatminima.engine.observe import Step
from flatminima.rules.combine import lerp
from flatminima.rules.rule import Look, Rule, Talk
from flatminima.rules.schedule import Cosine, Linear

EVERYWHERE = set(Region)
RHO = 0.3


def batch() -> by_hand.Batch:
    return by_hand.batches(1)[0]


def descended(rule: Rule | None, steps: int = 5, **keywords: Any) -> list[Tensor]:
    """The weights after a few steps with momentum; plain descent without a rule."""
    torch.manual_seed(5)
    w = [part.requires_grad_() for part in by_hand.weights()]
    optimizer = torch.optim.SGD(w, lr=0.1, momentum=0.9, weight_decay=1e-3)
    sharp = None if rule is None else fm.SharpnessAware(w, rule, **keywords)
    for x, y in by_hand.batches(steps):
        optimizer.zero_grad()
        if sharp is None:
            by_hand.network(w, x, y).backward()
        else:
            sharp.backward(lambda x, y: by_hand.network(w, x, y), x, y)
        optimizer.step()
    return [part.detach() for part in w]


def one_step(rule: Rule, loss: Callable[..., Tensor], w: Sequence[Tensor], **keywords: Any) -> Step:
    """What an observer sees of a step of `loss(w)`."""
    steps: list[Step] = []
    leaves = [part.clone().requires_grad_() for part in w]
    groups = keywords.pop("own", (None,) * len(leaves))
    params = [
        {"params": [leaf]} if rho is None else {"params": [leaf], "rho": rho}
        for leaf, rho in zip(leaves, groups, strict=True)
    ]
    sharp = fm.SharpnessAware(params, rule, observe=[steps.append], **keywords)
    sharp.backward(lambda: loss(leaves))
    return steps[0]


def network_step(rule: Rule, **keywords: Any) -> Step:
    return one_step(rule, lambda w: by_hand.network(w, *batch()), by_hand.weights(), **keywords)


def together(parts: Vector | None) -> Tensor:
    """All coordinates in a row; zeros where a part is absent."""
    assert parts is not None
    rows = zip(parts.parts, by_hand.SHAPES, strict=True)
    return torch.cat(
        [
            torch.zeros(shape).double().flatten() if part is None else part.flatten()
            for part, shape in rows
        ]
    )


# ------------------------------------------------------------------------------------- closed forms


def quadratic() -> tuple[Tensor, Tensor]:
    """A symmetric matrix with known curvature, and a point."""
    generator = torch.Generator().manual_seed(6)
    q, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    a = q @ torch.diag(torch.tensor([5.0, 2.0, 1.0, 0.5, -0.3]).double()) @ q.T
    return a, torch.randn(5, generator=generator, dtype=torch.float64)


def on_the_quadratic(rule: Rule) -> Tensor:
    a, w = quadratic()
    (part,) = one_step(rule, lambda w: 0.5 * w[0] @ a @ w[0], [w]).d.parts
    assert part is not None
    return part


def test_sam_on_a_quadratic_is_in_closed_form():
    a, w = quadratic()
    d = a @ w + RHO * a @ a @ w / (a @ w).norm()
    torch.testing.assert_close(on_the_quadratic(fm.sam(RHO)), d, rtol=1e-13, atol=0)


def test_unnormalized_sam_on_a_quadratic_is_in_closed_form():
    a, w = quadratic()
    d = (a + RHO * a @ a) @ w
    torch.testing.assert_close(on_the_quadratic(fm.usam(RHO)), d, rtol=1e-13, atol=0)


def test_the_gradient_norm_penalty_on_a_quadratic_is_exact():
    """There grad(f + alpha rho ||grad f||) is a finite difference without error."""
    a, w = quadratic()
    leaf = w.clone().requires_grad_()
    (0.5 * leaf @ a @ leaf + 0.8 * RHO * (a @ leaf).norm()).backward()
    d = on_the_quadratic(fm.gradient_norm_penalty(RHO, alpha=0.8))
    torch.testing.assert_close(d, leaf.grad, rtol=1e-13, atol=0)


def test_second_order_sam_on_a_quadratic_is_the_gradient_through_the_displacement():
    a, w = quadratic()
    leaf = w.clone().requires_grad_()
    uphill = leaf + RHO * (a @ leaf) / (a @ leaf).norm()
    (0.5 * uphill @ a @ uphill).backward()
    d = on_the_quadratic(fm.second_order_sam(RHO))
    torch.testing.assert_close(d, leaf.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "own", [(), (None, None, 0.0, 0.0, 0.5, 0.5)], ids=["one radius", "several"]
)
def test_second_order_sam_is_the_gradient_through_the_displacement(own, decay):
    w = [part.requires_grad_() for part in by_hand.weights()]
    radii = [RHO if rho is None else rho for rho in own or (None,) * len(w)]
    loss = by_hand.network(w, *batch())
    slope = torch.autograd.grad(loss, w, create_graph=True)
    g = [one + decay * part for one, part in zip(slope, w, strict=True)]
    norm = torch.cat([p.flatten() for p, r in zip(g, radii, strict=True) if r]).norm()
    uphill = [part + r * p / norm for part, p, r in zip(w, g, radii, strict=True)]
    whole = torch.autograd.grad(by_hand.network(uphill, *batch()), w)
    options = {"own": own} if own else {}
    rule = fm.second_order_sam(RHO, step=1e-3)
    d = network_step(rule, ascent_weight_decay=decay, **options).d.tensors
    torch.testing.assert_close(d, list(whole), rtol=1e-5, atol=1e-7)
    plain = network_step(fm.sam(RHO), ascent_weight_decay=decay, **options).d.tensors
    assert not torch.allclose(plain[0], whole[0], rtol=1e-2)


def test_of_all_points_of_the_ball_the_one_uphill_is_worst_to_first_order():
    generator = torch.Generator().manual_seed(8)
    g = Vector([torch.randn(6, generator=generator, dtype=torch.float64)])
    for order in (1.0, 1.3, 2.0, 4.0, math.inf):
        e = fm.perturb.normalized(g, g, RHO, p=order)
        rise = g.dot(e).item()
        dual = 1.0 / (1.0 - 1.0 / order) if order > 1.0 else math.inf
        assert rise == pytest.approx(RHO * g.norm(dual).item(), rel=1e-12)  # Hoelder's bound
        for _ in range(20):
            other = g.randn_like(generator)
            assert g.dot(other * (RHO / other.norm(order))).item() < rise


# ------------------------------------------------------------------------------------- lengths of e


@pytest.mark.parametrize("order", [1.0, 1.001, 1.5, 2.0, 3.0, 50.0, math.inf])
def test_the_displacement_has_the_length_rho_in_the_norm_chosen(order):
    e = together(network_step(fm.sam(RHO, p=order)).e)
    assert torch.linalg.vector_norm(e, order).item() == pytest.approx(RHO, rel=1e-12)


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_with_groups_left_out_the_others_fill_the_ball(order):
    step = network_step(fm.sam(RHO, p=order), own=(None, 0.0, 0.0, 0.0, None, None))
    assert torch.linalg.vector_norm(together(step.e), order).item() == pytest.approx(RHO, rel=1e-12)
    assert [part is None for part in step.e.parts] == [False, True, True, True, False, False]


def test_groups_with_radii_of_their_own_share_one_norm():
    step = network_step(fm.sam(RHO), own=(0.1, 0.1, 0.0, 0.0, None, None))
    g = [part for part in step.g.parts if part is not None]
    norm = by_hand.length([g[0], g[1], g[4], g[5]])
    for index, radius in ((0, 0.1), (1, 0.1), (4, RHO), (5, RHO)):
        torch.testing.assert_close(
            step.e.parts[index], radius * g[index] / norm, rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("scale", ["element", "filter", "layer"])
@pytest.mark.parametrize("order", [2.0, math.inf])
def test_the_adaptive_displacement_has_the_length_rho_in_its_own_metric(scale, order):
    step = network_step(fm.asam(RHO, scale=scale, p=order, eta=0.01))
    sizes = by_hand.sizes(list(step.w.parts), scale, 0.01)
    scaled = torch.cat([(e / t).flatten() for e, t in zip(step.e.parts, sizes, strict=True)])
    assert torch.linalg.vector_norm(scaled, order).item() == pytest.approx(RHO, rel=1e-12)


def test_unnormalized_sam_is_sam_with_the_radius_rho_times_the_norm():
    norm = together(network_step(fm.sam(RHO)).g).norm().item()
    one, two = network_step(fm.usam(RHO)), network_step(fm.sam(RHO * norm))
    torch.testing.assert_close(together(one.e), together(two.e), rtol=1e-13, atol=0)
    torch.testing.assert_close(together(one.d), together(two.d), rtol=1e-12, atol=1e-14)


def test_the_scale_of_the_loss_does_not_matter_to_the_displacement():
    w = by_hand.weights()
    for rule in (fm.sam(RHO), fm.asam(RHO), fm.sam(RHO, p=1.5), fm.sam(RHO, p=1.0)):
        one = one_step(rule, lambda w: by_hand.network(w, *batch()), w)
        two = one_step(rule, lambda w: 1024.0 * by_hand.network(w, *batch()), w)
        torch.testing.assert_close(together(one.e), together(two.e), rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("size", [0.3, 1.0, 2.5])
def test_several_steps_uphill_stay_within_the_ball(steps, size):
    asked = network_step(fm.multi_step(RHO, steps=steps, size=size)).seen[1:]
    assert len(asked) == steps
    assert max(seen.at.norm().item() for seen in asked) <= RHO * (1 + 1e-14)
    if size < 1.0:
        assert asked[0].at.norm().item() == pytest.approx(size * RHO, rel=1e-12)


def test_a_random_perturbation_has_the_length_rho_and_no_preferred_direction():
    shapes, draws = Vector([torch.zeros(4, 3).double(), torch.zeros(8).double()]), 4000
    generator = torch.Generator().manual_seed(9)
    rows = []
    for _ in range(draws):
        e = fm.perturb.random(shapes, shapes, RHO, generator=generator)
        rows.append(torch.cat([part.flatten() for part in e.parts if part is not None]))
    e = torch.stack(rows)
    torch.testing.assert_close(
        e.norm(dim=1), torch.full((draws,), RHO).double(), rtol=1e-12, atol=0
    )
    deviation = RHO / math.sqrt(20 * draws)  # of the mean of one coordinate
    assert e.mean(0).abs().max().item() < 5 * deviation
    covariance = e.T @ e / draws
    assert (covariance - RHO**2 / 20 * torch.eye(20).double()).abs().max() < 6 * RHO * deviation


def test_a_random_perturbation_leaves_what_is_frozen_and_fills_the_ball_with_the_rest():
    """Else the radius would mean less the more of a model is frozen."""
    trained = torch.ones(4, dtype=torch.float64, requires_grad=True)
    frozen, steps = torch.ones(400, dtype=torch.float64), []
    rule = fm.random_perturbation(RHO)
    sharp = fm.SharpnessAware([trained, frozen], rule, observe=[steps.append])
    sharp.backward(lambda: (trained * frozen[:4]).square().sum())
    moved, still = steps[0].e.parts
    assert still is None or still.eq(0.0).all()
    assert moved.norm().item() == pytest.approx(RHO, rel=1e-12)


# -------------------------------------------------------------------------------------- invariances


def rectified(w: Sequence[Tensor], x: Tensor) -> Tensor:
    return torch.relu(x @ w[0].T) @ w[1].T


def in_function_space(rule: Rule, a: float) -> Tensor:
    """The outputs at the displaced weights, the first layer times `a` and the second over `a`."""
    first, _, _, _, second, _ = by_hand.weights()
    w = [a * first, second[:, :1].repeat(1, 5) * torch.arange(1.0, 6.0).double() / a]
    x, y = batch()
    e = one_step(rule, lambda w: torch.nn.functional.cross_entropy(rectified(w, x), y), w).e
    assert e is not None
    return rectified([part + move for part, move in zip(w, e.parts, strict=True)], x)


@pytest.mark.parametrize("scale", ["element", "layer", "filter"])
@pytest.mark.parametrize("order", [2.0, math.inf])
def test_adaptive_sam_does_not_see_the_rescaling_of_a_layer(scale, order):
    rule = fm.asam(RHO, eta=0.0, scale=scale, p=order)
    one, two = in_function_space(rule, 1.0), in_function_space(rule, 7.0)
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)


def test_plain_sam_does_see_it():
    one, two = in_function_space(fm.sam(RHO), 1.0), in_function_space(fm.sam(RHO), 7.0)
    assert (one - two).abs().max() > 0.01


# --------------------------------------------------------------------- members that are one another


def backwards(look: Look) -> Talk:
    """Against the direction of the step before."""
    memory = look.remembered("backwards")
    before = memory.get("d")
    at = HERE if before is None else -perturb.normalized(look.w, before, look.rho)
    memory["d"] = yield at
    return memory["d"]


IDENTICAL = {
    "gsam at alpha=0 is sam": (fm.gsam(RHO, alpha=0.0), fm.sam(RHO)),
    "wsam at gamma=1/2 is sam": (fm.wsam(RHO, gamma=0.5), fm.sam(RHO)),
    "gradient_norm_penalty at alpha=1 is sam": (
        fm.gradient_norm_penalty(RHO, alpha=1.0),
        fm.sam(RHO),
    ),
    "the hybrid of all regions is sam": (fm.hybrid(EVERYWHERE, RHO), fm.sam(RHO)),
    "the published hybrid of all is sam": (fm.legacy_hybrid(EVERYWHERE, RHO), fm.sam(RHO)),
    "factors of one are sam": (fm.same(dict.fromkeys(Region, 1.0), RHO), fm.sam(RHO)),
    "no factor is sam": (fm.same({}, RHO), fm.sam(RHO)),
    "saner of strength 0 is sam": (fm.saner(RHO, strength=0.0), fm.sam(RHO)),
    "saner is same on the gentler region": (
        fm.saner(RHO, strength=0.25),
        fm.same({Region.GENTLER: 0.75}, RHO),
    ),
    "a bound that is never met is sam": (fm.clipped(RHO, times=math.inf), fm.sam(RHO)),
    "at every step is always": (fm.periodic(fm.sam(RHO), every=1), fm.sam(RHO)),
    "the window over all of training is always": (fm.window(fm.sam(RHO), steps=5), fm.sam(RHO)),
    "beyond the end of training too": (fm.window(fm.sam(RHO), steps=3), fm.sam(RHO)),
    "with probability 1 is always": (fm.with_probability(fm.sam(RHO), 1.0), fm.sam(RHO)),
    "a threshold below everything is always": (
        fm.while_large(fm.sam(RHO), -1e9, decay=0.9),
        fm.sam(RHO),
    ),
    "order 2 is the default": (fm.sam(RHO, p=2.0), fm.sam(RHO)),
    "a constant schedule is a number": (fm.sam(Linear(start=RHO, end=RHO, steps=9)), fm.sam(RHO)),
    "a schedule of no steps is at its end": (
        fm.sam(Linear(start=0, end=RHO, steps=0)),
        fm.sam(RHO),
    ),
    "a cosine of no steps is at its end": (fm.sam(Cosine(start=0, end=RHO, steps=0)), fm.sam(RHO)),
    "friendly_sam without sigma is sam": (fm.friendly_sam(RHO, sigma=0.0), fm.sam(RHO)),
    "vasso without a past is sam": (fm.vasso(RHO, theta=1.0), fm.sam(RHO)),
    "looksam that looks at every step is sam": (fm.looksam(RHO, every=1), fm.sam(RHO)),
    "looksam without alpha is periodic sam": (
        fm.looksam(RHO, every=3, alpha=0.0),
        fm.periodic(fm.sam(RHO), every=3),
    ),
    "a mask that lets all through is sam": (fm.ssam(RHO, share=1.0), fm.sam(RHO)),
    "a quantile of 0 is sam": (fm.zsharp(RHO, quantile=0.0), fm.sam(RHO)),
    "cr_sam without its terms is sam": (fm.cr_sam(RHO, gamma=0.0, beta=0.0), fm.sam(RHO)),
    "momentum_sam without momentum looks back along the last direction": (
        fm.momentum_sam(RHO, momentum=0.0),
        fm.Conversation(backwards, RHO),
    ),
    "rwp of the noisy gradient alone is lpf_sgd": (fm.rwp(RHO, alpha=1.0), fm.lpf_sgd(RHO)),
    "the published 14 is the published 23": (
        fm.legacy_ckpt14(RHO),
        fm.legacy_hybrid(regions("23"), RHO),
    ),
}

PLAIN = {
    "sam at rho=0": fm.sam(0.0),
    "the hybrid of no region": fm.hybrid(set(), RHO),
    "the published hybrid of none": fm.legacy_hybrid(set(), RHO),
    "wsam at gamma=0": fm.wsam(RHO, gamma=0.0),
    "gradient_norm_penalty at alpha=0": fm.gradient_norm_penalty(RHO, alpha=0.0),
    "rwp at alpha=0": fm.rwp(RHO, alpha=0.0),
    "momentum_sam at rho=0": fm.momentum_sam(0.0),
    "an empty window": fm.window(fm.sam(RHO), start=0.5, end=0.5, steps=10),
    "a window that is still to come": fm.window(fm.sam(RHO), start=0.5, steps=10),
    "with probability 0": fm.with_probability(fm.sam(RHO), 0.0),
    "a schedule that ends at 0": fm.sam(Linear(start=1.0, end=0.0, steps=0)),
}


@pytest.mark.parametrize("name", IDENTICAL)
def test_these_two_are_one_bit_for_bit(name):
    one, two = IDENTICAL[name]
    assert same_bits(descended(one), descended(two))


NEARLY = {
    "a loss budget beyond the radius is sam": (fm.le_sam(RHO, budget=1e9), fm.sam(RHO)),
    "sagm without alpha is half the penalty": (
        fm.sagm(RHO, alpha=0.0),
        fm.gradient_norm_penalty(RHO, alpha=0.5),
    ),
    "fisher_sam without the metric is sam": (fm.fisher_sam(RHO, eta=0.0), fm.sam(RHO)),
}


@pytest.mark.parametrize("name", NEARLY)
def test_these_two_are_one_up_to_the_order_of_operations(name):
    one, two = NEARLY[name]
    torch.testing.assert_close(descended(one), descended(two), rtol=1e-12, atol=1e-13)


def test_the_rules_that_are_compared_differ_from_plain_descent():
    assert not same_bits(descended(fm.sam(RHO)), descended(None))


@pytest.mark.parametrize("name", PLAIN)
def test_this_is_plain_descent_bit_for_bit(name):
    assert same_bits(descended(PLAIN[name]), descended(None))


def test_stable_sam_and_fisher_sam_on_a_quadratic_are_in_closed_form():
    a, w = quadratic()
    g = a @ w
    p = g + RHO * a @ g / g.norm()
    stable = on_the_quadratic(fm.stable_sam(RHO))
    torch.testing.assert_close(stable, p * g.norm() / p.norm(), rtol=1e-13, atol=0)
    fisher = on_the_quadratic(fm.fisher_sam(RHO, eta=0.0))
    torch.testing.assert_close(fisher, p, rtol=1e-13, atol=0)


def test_the_second_difference_of_a_quadratic_is_zero_and_the_first_is_its_slope():
    a, w = quadratic()
    g = a @ w
    change = RHO * a @ g / g.norm()
    d = on_the_quadratic(fm.cr_sam(RHO, gamma=5.0, beta=0.5))
    torch.testing.assert_close(d, g + change + 0.5 * 2.0 * change, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.7, 0.9, 0.95, 0.99])
def test_the_first_gradient_is_as_large_as_what_was_seen_whatever_its_size(decay):
    """There ||g||^2 = mu and sigma = 0, so the rule is followed; round-off must not decide."""
    for threshold in (-1.0, 0.0, 1.0):
        rule = fm.while_large(fm.sam(RHO), threshold, decay=decay)
        for size in torch.linspace(0.5, 3.0, 300).double():
            question = rule(Look(w=Vector([torch.ones(1).double()])))
            assert next(question) is fm.HERE
            with contextlib.suppress(StopIteration):
                assert isinstance(question.send(Vector([size.reshape(1)])), Vector)
                continue
            raise AssertionError(f"no look uphill at ||g|| = {size}, c = {threshold}")


def test_a_radius_that_is_a_tensor_is_the_number_that_it_holds():
    one = network_step(fm.sam(torch.tensor(RHO, dtype=torch.float64)))
    torch.testing.assert_close(
        together(one.e), together(network_step(fm.sam(RHO)).e), rtol=1e-14, atol=0
    )


def test_one_step_of_full_size_is_sam():
    """Up to round-off: it may be projected back from the sphere to the sphere."""
    one, two = network_step(fm.multi_step(RHO, steps=1, size=1.0)), network_step(fm.sam(RHO))
    torch.testing.assert_close(together(one.d), together(two.d), rtol=1e-13, atol=1e-16)


def test_the_line_between_the_gradients_ends_at_each():
    g, p = (Vector([torch.randn(50).double()]) for _ in range(2))
    assert torch.equal(lerp(g, p, a=0.0).parts[0], g.parts[0])
    assert torch.equal(lerp(g, p, a=1.0).parts[0], p.parts[0])


def test_the_sixteen_hybrids_split_the_step_between_them():
    """Each coordinate belongs to one region: the hybrids of one region each add up to p + 3 g."""
    one = [network_step(fm.hybrid(regions(digit), RHO)) for digit in "1234"]
    total = sum(together(step.d) for step in one)
    expected = together(one[0].p) + 3 * together(one[0].g)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("digits", SUBSETS)
def test_a_hybrid_and_the_one_of_the_other_regions_add_up(digits):
    rest = "".join(digit for digit in "1234" if digit not in digits)
    one = network_step(fm.hybrid(regions(digits), RHO))
    two = network_step(fm.hybrid(regions(rest), RHO))
    expected = together(one.p) + together(one.g)
    torch.testing.assert_close(together(one.d) + together(two.d), expected, rtol=1e-12, atol=1e-15)


def test_what_gsam_adds_is_orthogonal_to_the_perturbed_gradient():
    step = network_step(fm.gsam(RHO, alpha=0.7))
    d, g, p = together(step.d), together(step.g), together(step.p)
    added = d - p
    assert abs((added @ p).item()) < 1e-14 * (added.norm() * p.norm()).item() + 1e-15
    assert (added @ g).item() < 0  # and it is a step against g


def test_sizes_and_signs_recombine_to_either_gradient():
    size = network_step(fm.perturbed_magnitude(RHO))
    way = network_step(fm.perturbed_direction(RHO))
    g, p = together(size.g), together(size.p)
    assert torch.equal(together(size.d).abs(), p.abs())
    assert torch.equal(together(size.d).sign(), g.sign())
    assert torch.equal(together(way.d).abs(), g.abs())
    assert torch.equal(together(way.d).sign(), p.sign())
    assert not torch.equal(g.sign(), p.sign())


def test_clipping_bounds_the_growth_and_keeps_the_sign():
    step = network_step(fm.clipped(RHO, times=1.2))
    d, g, p = together(step.d), together(step.g), together(step.p)
    assert (d.abs() <= 1.2 * g.abs() * (1 + 1e-15)).all() and (d.sign() == p.sign()).all()
    assert torch.equal(d.abs(), torch.minimum(p.abs(), 1.2 * g.abs()))
    assert (d != p).any() and (d == p).any()


# ----------------------------------------------------------------------------------- on which batch


def test_the_batch_before_gives_the_displacement():
    """The loss sees: the first batch twice, then always the one before and the one at hand."""
    seen: list[int] = []
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def loss_fn(x: Tensor, number: int) -> Tensor:
        seen.append(number)
        return (w * x).sum()

    sharp = fm.SharpnessAware([w], fm.previous_batch(RHO))
    for number in range(3):
        sharp.backward(loss_fn, torch.tensor([1.0, number]).double(), number)
    assert seen == [0, 0, 0, 1, 1, 2]


def test_with_equal_batches_the_batch_before_is_the_one_at_hand():
    w, (x, y) = by_hand.weights(), batch()
    found = []
    for rule in (fm.previous_batch(RHO), fm.sam(RHO)):
        leaves = [part.clone().requires_grad_() for part in w]
        sharp = fm.SharpnessAware(leaves, rule)
        for _ in range(3):
            sharp.backward(
                lambda x, y, leaves=leaves: by_hand.network(leaves, x, y), x.clone(), y.clone()
            )
        found.append([leaf.grad for leaf in leaves])
    assert same_bits(*found)


def test_weight_decay_in_the_ascent_is_that_of_a_loss_with_the_penalty():
    """The displacement is the one for f + wd/2 ||w||^2; the descent is along f alone."""
    w, decay = by_hand.weights(), 0.5
    inside = one_step(
        fm.sam(RHO),
        lambda w: by_hand.network(w, *batch()) + decay / 2 * sum(part.square().sum() for part in w),
        w,
    )
    outside = network_step(fm.sam(RHO), ascent_weight_decay=decay)
    torch.testing.assert_close(together(inside.e), together(outside.e), rtol=1e-12, atol=1e-15)
    moved = [part + e for part, e in zip(w, outside.e.parts, strict=True)]
    leaves = [part.clone().requires_grad_() for part in moved]
    by_hand.network(leaves, *batch()).backward()
    expected = torch.cat([leaf.grad.flatten() for leaf in leaves])
    torch.testing.assert_close(together(outside.d), expected, rtol=1e-12, atol=1e-15)


def test_the_loss_that_is_returned_is_the_one_at_the_weights():
    w = by_hand.weights()
    expected = by_hand.network(w, *batch())
    for rule in (fm.sam(RHO), fm.gsam(RHO), fm.multi_step(RHO), fm.hybrid(regions("1"), RHO)):
        assert torch.equal(network_step(rule).loss, expected)
