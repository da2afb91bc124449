"""What the members of the zoo must not do: faults seen in other code, and refusals."""

from __future__ import annotations

import math
from typing import Any

import by_hand
import pytest
import torch
from family import LR, Case
from members import MEMBERS, function
from nets import Counted, batches, loss_of, same_bits, smooth
from talks import direction, talk, vector
from test_memory import GROUPS, SLACK, buffers
from torch import Tensor, nn

import flatminima as fm
from flatminima import HERE, Vector, perturb
from flatminima.rules.recall import averaged, remember
from flatminima.rules.rule import Look, Rule
from flatminima.rules.schedule import Cosine


def only(answer: Any) -> Tensor:
    (part,) = answer.parts
    assert part is not None
    return part


def calls(rule: Rule, steps: int, **keywords: Any) -> int:
    """How often the loss is evaluated in so many steps."""
    model = smooth()
    loss_fn = Counted(loss_of(model))
    sharp = fm.SharpnessAware(model, rule, **keywords)
    for batch in batches(steps):
        sharp.backward(loss_fn, *batch)
    return len(loss_fn.seen)


# ------------------------------------------------------------------------------------- the device


@pytest.mark.parametrize(
    "case", [case for case in MEMBERS if function(case) != "while_large"], ids=str
)
def test_no_member_asks_the_host(case: Case):
    """A tensor of the meta device has no values, so that whoever asked for one would fail."""
    w = Vector([torch.ones(4, 3, device="meta"), torch.ones(4, device="meta")])
    memory: dict[str, Any] = {}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    for step in range(5):
        look = Look(
            w=w, step=step, memory=memory, batch=(torch.ones(2),), generator=torch.Generator()
        )
        conversation = case.rule(optimizer, 0.1 if "tensor" not in case.name else None)(look)
        next(conversation)
        with pytest.raises(StopIteration) as end:
            while True:
                conversation.send(w.map(torch.clone))
        assert all(part.device.type == "meta" for part in end.value.value.tensors)


# ------------------------------------------------------------------------------- the running means


def test_friendly_sam_takes_the_old_mean_off_and_feeds_the_new_one_with_the_whole_gradient():
    memory: dict[str, Any] = {}
    rule = fm.friendly_sam(1.0, sigma=1.0, decay=0.9)
    talk(rule, vector([1.0, 0.0]), vector([1.0, 0.0]), memory=memory)
    assert same_bits(only(memory["friendly_sam"]["m"]), torch.tensor([1.0, 0.0]))
    questions, _ = talk(rule, vector([2.0, 1.0]), vector([1.0, 0.0]), memory=memory)
    h = torch.tensor([1.0, 1.0])  # g - m, the m of before
    torch.testing.assert_close(only(questions[1]), h / h.norm())
    torch.testing.assert_close(only(memory["friendly_sam"]["m"]), torch.tensor([1.1, 0.1]))


def test_friendly_sam_without_sigma_and_vasso_without_a_past_are_sam():
    gradients = [vector([0.3, -0.4]), vector([1.0, 1.0])]
    for rule in (fm.friendly_sam(0.1, sigma=0.0), fm.vasso(0.1, theta=1.0)):
        memory: dict[str, Any] = {}
        for _ in range(2):
            questions, _ = talk(rule, *gradients, memory=memory)
        torch.testing.assert_close(only(questions[1]), torch.tensor([0.06, -0.08]))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_does_not_enter_a_running_mean(bad: float):
    memory: dict[str, Any] = {}
    seen = [averaged(memory, "m", vector([value, 1.0]), 0.5) for value in (1.0, bad, 3.0)]
    assert not only(seen[1]).isfinite().all()
    assert same_bits(only(memory["m"]), torch.tensor([2.0, 1.0]))


def test_a_first_gradient_that_is_not_finite_is_kept_as_zero():
    memory: dict[str, Any] = {}
    remember(memory, "m", vector([math.inf, 1.0], None))
    assert same_bits(list(memory["m"].parts), [torch.zeros(2), None])


def test_what_is_remembered_is_replaced_and_not_written_to():
    memory: dict[str, Any] = {}
    averaged(memory, "m", vector([1.0]), 0.9)
    before, bits = memory["m"], only(memory["m"]).clone()
    averaged(memory, "m", vector([5.0]), 0.9)
    assert memory["m"] is not before and same_bits(only(before), bits)


def test_a_running_mean_stays_for_parameters_that_are_missing_for_a_step():
    memory: dict[str, Any] = {}
    averaged(memory, "m", vector([1.0], None), 0.5)
    mean = averaged(memory, "m", vector(None, [4.0]), 0.5)
    assert same_bits(list(mean.parts), [torch.tensor([1.0]), torch.tensor([4.0])])


@pytest.mark.parametrize("rule", [fm.friendly_sam(), fm.vasso(), fm.async_sam()], ids=str)
def test_what_has_no_gradient_in_this_step_is_not_displaced_by_an_earlier_one(rule: Rule):
    memory: dict[str, Any] = {}
    both, one = vector([1.0, 2.0], [3.0]), vector([2.0, -1.0], None)
    talk(rule, both, both, memory=memory)
    questions, _ = talk(rule, one, one, memory=memory)
    assert questions[1].present == [True, False]


# --------------------------------------------------------------------------- fewer gradients a step


@pytest.mark.parametrize("every", [1, 4, 5])
def test_looksam_costs_one_gradient_more_every_so_many_steps(every: int):
    assert calls(fm.looksam(0.1, every=every), 2 * every) == 2 * (every + 1)


def test_looksam_keeps_a_direction_of_unit_length_at_right_angles_to_the_whole_gradient():
    memory: dict[str, Any] = {}
    g, p = vector([1.0, 2.0], [3.0]), vector([0.5, -1.0], [2.0])
    _, d = talk(fm.looksam(0.1), g, p, memory=memory)
    h = memory["looksam"]["h"]
    assert same_bits(list(d.parts), list(p.parts))
    assert float(h.norm()) == pytest.approx(1.0) and abs(float(h.dot(g))) < 1e-15
    assert abs(float((h.parts[0] * g.parts[0]).sum())) > 0.1  # not tensor by tensor


def test_looksam_gives_no_gradient_to_what_has_none_in_this_step():
    memory: dict[str, Any] = {}
    talk(fm.looksam(0.1), vector([1.0], [2.0]), vector([2.0], [1.0]), memory=memory)
    _, d = talk(fm.looksam(0.1), vector([1.0], None), memory=memory, step=1)
    assert d.present == [True, False]


def test_one_gradient_is_all_that_the_cheap_members_take():
    for rule in (fm.momentum_sam(0.1), fm.s2_sam(0.1), fm.lpf_sgd(0.1), fm.s2_sam(0.1, True)):
        assert calls(rule, 6) == 6


def test_momentum_sam_looks_against_its_momentum():
    memory: dict[str, Any] = {}
    rule = fm.momentum_sam(1.0, momentum=0.5)
    first, _ = talk(rule, vector([3.0, 4.0]), memory=memory)
    second, _ = talk(rule, vector([0.0, 1.0]), memory=memory)
    third, _ = talk(rule, vector([0.0, 0.0]), memory=memory)
    assert first == [HERE]
    torch.testing.assert_close(only(second[0]), torch.tensor([-0.6, -0.8]))
    v = torch.tensor([1.5, 3.0])
    torch.testing.assert_close(only(third[0]), -v / v.norm())


def test_momentum_sam_follows_its_momentum_while_the_radius_is_zero():
    memory: dict[str, Any] = {}
    for step in range(2):
        questions, _ = talk(
            fm.momentum_sam(lambda step: 0.0, momentum=0.5), vector([1.0]), memory=memory, step=step
        )
        assert questions == [HERE]
    assert same_bits(only(memory["momentum_sam"]["v"]), torch.tensor([1.5]))


def test_with_a_learning_rate_of_zero_the_weights_of_momentum_sam_never_move():
    model = smooth()
    before = [param.detach().clone() for param in model.parameters()]
    sharp = fm.SharpnessAware(model, fm.momentum_sam(lambda step: 0.1 + step))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for batch in batches(4):
        optimizer.zero_grad()
        sharp.backward(loss_of(model), *batch)
        optimizer.step()
    assert same_bits([param.detach() for param in model.parameters()], before)


def test_the_adaptive_metric_of_s2_sam_is_that_of_the_weights():
    memory: dict[str, Any] = {}
    rule, w = fm.s2_sam(1.0, adaptive=True), vector([2.0, 1.0])
    talk(rule, vector([1.0, 1.0]), memory=memory, w=w)
    questions, _ = talk(rule, vector([1.0, 1.0]), memory=memory, w=w)
    torch.testing.assert_close(only(questions[0]), torch.tensor([4.0, 1.0]) / math.sqrt(5.0))


def test_async_sam_climbs_along_the_gradient_of_the_step_before():
    memory: dict[str, Any] = {}
    rule = fm.async_sam(1.0)
    talk(rule, vector([3.0, 4.0]), vector([1.0, 1.0]), memory=memory)
    questions, _ = talk(rule, vector([7.0, 0.0]), vector([1.0, 1.0]), memory=memory)
    torch.testing.assert_close(only(questions[1]), torch.tensor([0.6, 0.8]))


def test_lpf_sgd_in_groups_is_the_paper_s_split_of_the_batch():
    model, (batch,) = smooth(), batches(1)
    fm.SharpnessAware(model, fm.lpf_sgd(0.1), m=2).backward(loss_of(model), *batch)
    assert all(param.grad.isfinite().all() for param in model.parameters())
    assert calls(fm.lpf_sgd(0.1), 1, m=2) == 3
    assert calls(fm.lpf_sgd(0.1, samples=4), 1) == 4


# ------------------------------------------------------------------------------- metrics and masks

MASKS = {
    "ssam": lambda w, g, rho: perturb.topmost(w, g, rho, share=0.3),
    "zsharp": lambda w, g, rho: perturb.outlying(w, g, rho, quantile=0.9),
    "gcsam": perturb.centralized,
}


@pytest.mark.parametrize("name", MASKS)
def test_the_radius_is_that_of_all_parameters_together_after_the_mask(name: str):
    w = Vector(by_hand.weights())
    e = MASKS[name](w, w, 0.25)
    assert float(e.norm()) == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("name", MASKS)
def test_a_masked_gradient_that_is_not_finite_moves_nothing(name: str, bad: float):
    g = vector([1.0, bad, 2.0, 0.0], [[1.0, 4.0]])
    e = MASKS[name](g.zeros_like(), g, 0.25)
    assert all(bool((part == 0).all()) for part in e.tensors)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 1.0])
def test_the_share_that_moves_is_the_share_asked_for(share: float):
    g = Vector([torch.randn(30, 5), torch.randn(50)])
    e = perturb.topmost(g, g, 0.1, share=share)
    moved = sum(int((part != 0).sum()) for part in e.tensors)
    assert moved == math.ceil(share * 200)


def test_of_all_coordinates_masked_sam_moves_the_largest_first():
    g = vector([1.0, -5.0], [0.5, 4.0])
    e = perturb.topmost(g, g, 1.0, share=0.5)
    assert [(part != 0).tolist() for part in e.tensors] == [[False, True], [False, True]]


def test_a_full_share_is_sam_and_a_quantile_of_zero_too():
    w = Vector(by_hand.weights())
    sam = perturb.normalized(w, w, 0.1)
    for e in (perturb.topmost(w, w, 0.1, share=1.0), perturb.outlying(w, w, 0.1, quantile=0.0)):
        torch.testing.assert_close(list(e.parts), list(sam.parts))


def test_where_the_outlying_coordinates_have_no_gradient_the_whole_gradient_is_climbed():
    g = vector([1.0, 1.0, 1.0, 0.0])
    e = only(perturb.outlying(g, g, 1.0, quantile=0.95))
    torch.testing.assert_close(e, torch.tensor([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3.0))


@pytest.mark.slow
def test_masks_take_tensors_of_more_than_sixteen_million_numbers():
    g = Vector([torch.linspace(-1.0, 1.0, 2**24 + 3, dtype=torch.float32)])
    for e in (
        perturb.outlying(g, g, 1.0, quantile=0.999),
        perturb.topmost(g, g, 1.0, share=0.001),
    ):
        moved = int((only(e) != 0).sum())
        assert moved == pytest.approx(0.001 * (2**24 + 3), rel=1e-3)


def test_nothing_to_perturb_is_no_error_for_a_mask():
    nothing = Vector([None, None])
    assert perturb.topmost(nothing, nothing, 0.1, share=0.5).present == [False, False]


def test_layers_move_by_their_own_share_whatever_their_gradients():
    w, g = vector([3.0, 4.0], [0.0, 2.0]), vector([1e-9, 0.0], [0.0, -1e6])
    e = perturb.layerwise(w, g, 0.1)
    torch.testing.assert_close([float(part.norm()) for part in e.tensors], [0.5, 0.2])


def test_a_layer_without_a_slope_stays_while_the_others_move():
    e = perturb.layerwise(vector([1.0], [1.0]), vector([0.0], [2.0]), 0.1)
    torch.testing.assert_close(list(e.parts), [torch.tensor([0.0]), torch.tensor([0.1])])


def test_no_layer_moves_if_any_gradient_is_not_finite():
    e = perturb.layerwise(vector([1.0], [1.0]), vector([1.0], [math.inf]), 0.1)
    assert all(bool((part == 0).all()) for part in e.tensors)


def test_a_layer_may_have_a_radius_of_its_own_or_stay():
    one = vector([1.0], [1.0], [1.0])
    e = perturb.layerwise(one, one, (0.1, 0.0, torch.tensor(0.3)))
    assert e.is_absent(1)
    assert [float(part) for part in e.tensors] == pytest.approx([0.1, 0.3])


def test_a_loss_budget_is_what_the_loss_grows_by_to_first_order():
    g = vector([3.0, -4.0])
    e = perturb.within_budget(g, g, 1.0, budget=0.2)
    assert float(e.dot(g)) == pytest.approx(0.2)
    far = perturb.within_budget(g, g, (0.01,), budget=0.2)
    assert float(far.norm()) == pytest.approx(0.01)
    zero = vector([0.0, 0.0])
    assert same_bits(only(perturb.within_budget(g, zero, 1.0, budget=0.2)), torch.zeros(2))


def test_a_loss_budget_falls_as_its_schedule_says():
    rule = fm.le_sam(1.0, budget=Cosine(start=0.4, end=0.0, steps=10))
    g = vector([3.0, 4.0])
    for step, budget in ((0, 0.4), (5, 0.2)):
        questions, _ = talk(rule, g, g, step=step)
        assert float(questions[1].dot(g)) == pytest.approx(budget)


def test_fisher_sam_moves_by_rho_in_its_own_metric():
    g, s = vector([1.0, -2.0, 0.5]), vector([4.0, 0.0, 1.0])
    e = perturb.fisher(g, g, 0.3, squares=s, eta=2.0)
    metric = 1.0 + 2.0 * only(s)
    assert float((metric * only(e) ** 2).sum().sqrt()) == pytest.approx(0.3)


# ------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize(
    "rule",
    [fm.friendly_sam(0.1), fm.vasso(0.1), fm.async_sam(0.1), fm.fisher_sam(0.1)],
    ids=str,
)
def test_one_vector_is_remembered_and_the_one_before_until_the_step_is_done(rule: Rule):
    """During the pass, the copy of the weights, what is remembered, and what was remembered before,
    for a step that raises. Before the pass, when there is no graph, what the displacement is made
    of besides."""
    during, ever = buffers(rule)
    assert during <= 3.0 + SLACK
    assert ever <= 5.0 + 2.0 / GROUPS + SLACK


@pytest.mark.parametrize(
    ("rule", "most"),
    [(fm.looksam(0.1, every=1), 3.0), (fm.cr_sam(0.1), 3.0), (fm.rwp(0.1), 2.0)],
    ids=["looksam", "cr_sam", "rwp"],
)
def test_these_keep_as_many_buffers_as_they_say(rule: Rule, most: float):
    during, _ = buffers(rule)
    assert most - 0.5 < during <= most + SLACK


@pytest.mark.parametrize(
    "rule",
    [fm.awp(0.1), fm.gcsam(0.1), fm.ssam(0.1), fm.zsharp(0.1), fm.le_sam(0.1)],
    ids=str,
)
def test_a_mask_or_a_radius_is_let_go_of_before_the_second_pass(rule: Rule):
    during, _ = buffers(rule)
    kept = 2.0 if rule.__repr__().startswith("gcsam") else 1.0  # a combination keeps g
    assert during <= kept + SLACK


# ------------------------------------------------------------------------------------ combinations


def test_stable_sam_is_as_long_as_the_gradient():
    d = direction(fm.stable_sam(), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 100.0]))
    torch.testing.assert_close(d, torch.tensor([0.0, 5.0]))


def test_sagm_without_alpha_is_half_way_to_sam():
    assert same_bits(
        direction(fm.sagm(alpha=0.0), torch.tensor([1.0]), torch.tensor([3.0])), torch.tensor([2.0])
    )


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("g", "p", "expected"),
    [
        ([3.0, 4.0], [6.0, 8.0], [6.0, 8.0]),  # parallel: there is no arc to follow
        ([3.0, 4.0], [-3.0, -4.0], [-3.0, -4.0]),  # opposite: there are too many
        ([0.0, 0.0], [3.0, 4.0], [3.0, 4.0]),
        ([3.0, 4.0], [0.0, 0.0], [0.0, 0.0]),
    ],
    ids=["parallel", "opposite", "no g", "no p"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_arc_between_parallel_and_opposite_vectors_is_no_nan(
    g: list[float], p: list[float], expected: list[float], alpha: float, dtype: torch.dtype
):
    one, two, wanted = (torch.tensor(part, dtype=dtype) for part in (g, p, expected))
    torch.testing.assert_close(direction(fm.xsam(alpha=alpha), one, two), wanted)


def test_an_arc_of_a_right_angle_is_followed_and_extrapolated():
    g, p = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    half = 3.0 / math.sqrt(2.0)
    torch.testing.assert_close(direction(fm.xsam(alpha=0.5), g, p), torch.tensor([half, half]))
    torch.testing.assert_close(direction(fm.xsam(alpha=1.5), g, p), torch.tensor([-half, half]))
    torch.testing.assert_close(direction(fm.xsam(alpha=1.0), g, p), p)


def test_curvature_regularisation_without_weights_is_sam_with_a_look_downhill():
    g, p, q = (torch.tensor([value]) for value in (1.0, 3.0, 7.0))
    assert same_bits(direction(fm.cr_sam(gamma=0.0, beta=0.0), g, p, q), p)


def test_curvature_regularisation_looks_on_both_sides():
    g = vector([3.0, 4.0])
    questions, _ = talk(fm.cr_sam(0.5), g, g, g)
    assert same_bits(only(questions[2]), -only(questions[1]))


def test_where_nothing_is_reversed_nothing_is_forgotten():
    g, p = torch.tensor([1.0, -2.0]), torch.tensor([3.0, -1.0])
    assert same_bits(direction(fm.forget_sam(), g, p), p)


# -------------------------------------------------------------------------- groups of parameters


def blocks() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3))
    )


def radii(model: nn.Module, groups: list[dict[str, Any]]) -> list[Any]:
    """The radius of each parameter, in the model's order."""
    found = {id(param): group.get("rho") for group in groups for param in group["params"]}
    return [found[id(param)] for param in model.parameters()]


def test_groups_choose_by_the_kind_of_module():
    model = blocks()
    assert radii(model, fm.groups(model, {nn.LayerNorm: 0.1})) == [0, 0, 0.1, 0.1, 0, 0, 0.1, 0.1]


def test_groups_choose_by_a_function_and_leave_the_rest_to_the_rule():
    model = blocks()
    narrow = fm.groups(
        model, {lambda module: getattr(module, "out_features", 0) == 3: 0.2}, otherwise=None
    )
    assert radii(model, narrow) == [None, None, None, None, 0.2, 0.2, None, None]


def test_of_nested_modules_the_inner_one_decides_and_of_several_kinds_the_first():
    model = blocks()
    inner = fm.groups(model, {nn.Sequential: 0.3, nn.LayerNorm: 0.1})
    assert radii(model, inner) == [0.3, 0.3, 0.1, 0.1, 0.3, 0.3, 0.1, 0.1]
    first = fm.groups(model, {nn.LayerNorm: 0.1, nn.Module: 0.4})
    assert radii(model, first) == [0.4, 0.4, 0.1, 0.1, 0.4, 0.4, 0.1, 0.1]


def test_sam_on_the_norms_alone_moves_nothing_else_and_takes_their_norm():
    torch.manual_seed(1)
    model, (batch,) = blocks(), batches(1)
    seen = []
    sharp = fm.SharpnessAware(
        fm.groups(model, {nn.LayerNorm: 0.1}), fm.sam(), observe=[lambda step: seen.append(step.e)]
    )
    sharp.backward(loss_of(model), *batch)
    moved = [part for part in seen[0].parts if part is not None and part.norm() > 0]
    assert sum(part.numel() for part in moved) == 18
    assert float(Vector(moved).norm()) == pytest.approx(0.1)


def test_groups_suit_an_optimizer_as_well():
    model = blocks()
    groups = fm.groups(model, {nn.LayerNorm: 0.1})
    assert len(torch.optim.SGD(groups, lr=0.1).param_groups) == 2


def test_groups_refuse_what_is_no_kind_and_what_is_not_there():
    with pytest.raises(
        TypeError, match="a kind must be a class of modules or a function, got 'norm'"
    ):
        fm.groups(blocks(), {"norm": 0.1})
    with pytest.raises(ValueError, match="radii must name kinds of modules .* got BatchNorm1d"):
        fm.groups(blocks(), {nn.BatchNorm1d: 0.1})
    with pytest.raises(ValueError, match="rho must be >= 0 and finite, got -0.1"):
        fm.groups(blocks(), {nn.LayerNorm: -0.1})


# -------------------------------------------------------------------------------------- refusals

REFUSED = [
    (lambda: fm.ssam(share=0.0), r"share must be within \(0, 1\], got 0\.0"),
    (lambda: fm.zsharp(quantile=1.0), r"quantile must be within \[0, 1\), got 1\.0"),
    (lambda: fm.le_sam(budget=0.0), "budget must be positive and finite, got 0.0"),
    (lambda: fm.le_sam(budget=math.inf), "budget must be positive and finite, got inf"),
    (lambda: fm.lpf_sgd(samples=0), "samples must be a positive whole number, got 0"),
    (lambda: fm.rwp(alpha=math.nan), "alpha must be a finite number, got nan"),
    (lambda: fm.vasso(theta=0.0), r"theta must be within \(0, 1\], got 0\.0"),
    (lambda: fm.friendly_sam(decay=1.0), r"decay must be within \[0, 1\), got 1\.0"),
    (lambda: fm.friendly_sam(sigma=math.inf), "sigma must be a finite number, got inf"),
    (lambda: fm.fisher_sam(eta=-1.0), "eta must be >= 0, got -1.0"),
    (lambda: fm.fisher_sam(decay=1.5), r"decay must be within \[0, 1\), got 1\.5"),
    (lambda: fm.looksam(every=0), "every must be a positive whole number, got 0"),
    (lambda: fm.looksam(alpha=math.inf), "alpha must be a finite number, got inf"),
    (lambda: fm.momentum_sam(momentum=1.0), r"momentum must be within \[0, 1\), got 1\.0"),
    (lambda: fm.sagm(alpha=math.nan), "alpha must be a finite number, got nan"),
    (lambda: fm.xsam(alpha=math.nan), "alpha must be a finite number, got nan"),
    (lambda: fm.cr_sam(beta=math.nan), "beta must be a finite number, got nan"),
    (lambda: fm.forget_sam(strength=math.nan), "strength must be a finite number, got nan"),
    (lambda: fm.second_order_sam(step=0.0), "step must be positive and finite, got 0.0"),
    (lambda: fm.second_order_sam(step=math.inf), "step must be positive and finite, got inf"),
    (lambda: fm.awp(rho=-1.0), "rho must be >= 0 and finite, got -1.0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_settings_without_a_meaning_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()
