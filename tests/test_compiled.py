"""A whole step as one graph: it is `backward` to rounding, or it says why it cannot be."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from members import MEMBERS, sharpness_aware
from nets import batches, copied, gradients, loss_of, noisy, same_bits, smooth, weights
from torch import Tensor, nn

import flatminima as fm
from flatminima.rules.rule import HERE, Probe

Graph = torch.fx.GraphModule
QUICK = ("sam", "same, four factors")  # the others are for the slow suite
PROBES = [
    case
    for case in MEMBERS
    if isinstance(case.rule(torch.optim.SGD(smooth().parameters(), lr=0.1)), Probe)
]
close = torch.testing.assert_close


class Counting:
    """A backend that runs a graph as it is, and counts how many there were."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Graph, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def both(
    model: nn.Module, rule: Any, data: Any, loss: Callable[..., Any] = loss_of, **options: Any
) -> tuple[Any, Any]:
    """Losses, gradients and buffers after `backward`, and after the compiled step."""
    found = []
    for compiled in (False, True):
        net = copy.deepcopy(model)
        sharp, loss_fn = fm.SharpnessAware(net, rule), loss(net)
        step = sharp.compiled(loss_fn, backend="eager", **options) if compiled else None
        losses = [step(*batch) if step else sharp.backward(loss_fn, *batch) for batch in data]
        found.append((losses, gradients(net), copied(net.buffers())))
    return found[0], found[1]


# ---------------------------------------------------------------------------------- what it returns


@pytest.mark.parametrize(
    "case",
    [case if case.name in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in PROBES],
    ids=str,
)
def test_a_member_that_is_a_probe_gives_the_same_gradients(case: Any):
    data, found = batches(2), []
    for compiled in (False, True):
        model = smooth()
        sharp, loss_fn = sharpness_aware(case, model), loss_of(model)
        step = sharp.compiled(loss_fn, backend="eager") if compiled else None
        losses = [step(*batch) if step else sharp.backward(loss_fn, *batch) for batch in data]
        found.append((losses, gradients(model)))
    close(found[1], found[0], rtol=1e-11, atol=1e-13)


def test_most_members_are_probes():
    assert len(PROBES) >= 10


def test_running_statistics_move_once_a_step():
    model, data = noisy(), batches(3)
    model[3].p = 0.0
    one, two = both(model, fm.gsam(0.3), data)
    close(two, one)
    assert model[1].num_batches_tracked == 0 and two[2][-1] == 3


@pytest.mark.slow
def test_the_weights_stay_and_the_gradient_is_added():
    model, (batch,) = smooth(), batches(1)
    before = copied(weights(model))
    step = fm.SharpnessAware(model, fm.sam(0.3)).compiled(loss_of(model), backend="eager")
    step(*batch)
    once = copied(gradients(model))
    step(*batch)
    assert same_bits(weights(model), before)
    close(gradients(model), [2 * grad for grad in once])


def test_a_schedule_needs_no_further_graph():
    counting, model, data = Counting(), smooth(), batches(4)
    other = copy.deepcopy(model)
    rule = fm.sam(lambda step: 0.1 * (step + 1))
    sharp = fm.SharpnessAware(model, rule)
    step = sharp.compiled(loss_of(model), backend=counting)
    eager = fm.SharpnessAware(other, rule)
    for batch in data:
        close(step(*batch), eager.backward(loss_of(other), *batch))
    close(gradients(model), gradients(other))
    assert counting.graphs == 1 and sharp.state_dict()["step"] == 4


@pytest.mark.slow
def test_another_kind_of_batch_or_mode_has_a_graph_of_its_own():
    counting, model = Counting(), noisy()
    model[3].p = 0.0
    step = fm.SharpnessAware(model, fm.sam(0.3)).compiled(loss_of(model), backend=counting)
    other = copy.deepcopy(model)
    eager = fm.SharpnessAware(other, fm.sam(0.3))
    (small,), (large,) = batches(1, size=4), batches(1, size=6)
    for batch, mode in ((small, True), (large, True), (large, False), (large, True)):
        model.train(mode)
        other.train(mode)
        close(step(*batch), eager.backward(loss_of(other), *batch))
    close(gradients(model), gradients(other))
    assert counting.graphs == 3


def test_a_radius_of_zero_is_plain_descent():
    one, two = both(smooth(), fm.sam(0.0), batches(1))
    close(two, one)


@pytest.mark.slow
def test_groups_of_parameters_keep_their_radii():
    (batch,), found = batches(1), []
    for compiled in (False, True):
        model = smooth()
        first, *others = model.parameters()
        target = [
            {"params": [first]},
            {"params": others[:1], "rho": 0.0},
            {"params": others[1:], "rho": 0.1},
        ]
        sharp = fm.SharpnessAware(target, fm.sam(0.3))
        if compiled:
            sharp.compiled(loss_of(model), model=model, backend="eager")(*batch)
        else:
            sharp.backward(loss_of(model), *batch)
        found.append(gradients(model))
    close(found[1], found[0], rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_a_frozen_parameter_gets_no_gradient():
    model = smooth()
    next(model.parameters()).requires_grad_(False)
    one, two = both(model, fm.asam(0.3), batches(1))
    close(two[1][1:], one[1][1:])
    assert one[1][0] is None and two[1][0] is None


@pytest.mark.slow
def test_a_tensor_that_the_loss_uses_is_not_fixed():
    model, (batch,) = smooth(), batches(1)
    share = torch.ones((), dtype=torch.float64)
    step = fm.SharpnessAware(model, fm.usam(0.0)).compiled(
        lambda x, y: share * loss_of(model)(x, y), backend="eager"
    )
    once = step(*batch)
    share.fill_(2.0)
    close(step(*batch), 2 * once)


@pytest.mark.slow
def test_autocast_is_part_of_the_graph():
    def loss(model: nn.Module) -> Callable[..., Tensor]:
        def loss_fn(x: Tensor, y: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(x)
            return nn.functional.mse_loss(out.float(), y)

        return loss_fn

    model = smooth(torch.float32)
    x, y = batches(1, dtype=torch.float32)[0]
    target = torch.zeros_like(model(x))
    one, two = both(model, fm.sam(0.3), [(x, target)], loss)
    close(two[1], one[1], rtol=2e-2, atol=2e-3)  # bfloat16 has three digits


@pytest.mark.slow
def test_what_is_not_finite_in_the_first_pass_is_not_lost():
    def loss(model: nn.Module) -> Callable[..., Tensor]:
        return lambda x, y: loss_of(model)(x, y) * torch.where(x.sum() > -1e9, torch.inf, 1.0)

    for found in both(smooth(), fm.sam(0.3), batches(1), loss):
        assert any(not grad.isfinite().all() for grad in found[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_torchs_own_compiler_gives_the_same_gradients():
    model, data = noisy(), batches(3)
    model[3].p = 0.0
    other = copy.deepcopy(model)
    step = fm.SharpnessAware(model, fm.sam(0.3)).compiled(loss_of(model))
    eager = fm.SharpnessAware(other, fm.sam(0.3))
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:
        pytest.skip(f"no compiler here: {type(error).__name__}")
    for batch in data:
        close(step(*batch), eager.backward(loss_of(other), *batch))
    close(gradients(model), gradients(other))
    close(copied(model.buffers()), copied(other.buffers()))


# --------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"m": 2, "rule": fm.gsam(0.3)}, "rule must take the perturbed gradient as it is to be"),
        ({"observe": [print]}, "must have no observers, got some"),
        ({"rounding": "stochastic"}, "rounding must be 'nearest' to be compiled"),
        ({"rule": fm.looksam(0.3)}, "rule must be a Probe to be compiled .* got looksam"),
        ({"rule": fm.random_perturbation(0.3)}, "rule must be a Probe"),
    ],
    ids=str,
)
def test_what_is_not_the_same_in_every_step_is_refused(settings: dict[str, Any], words: str):
    model = smooth()
    sharp = fm.SharpnessAware(model, **{"rule": fm.sam(0.3), **settings})
    with pytest.raises(ValueError, match=words):
        sharp.compiled(loss_of(model))


def test_parameters_without_their_module_are_refused():
    model = smooth()
    sharp = fm.SharpnessAware(list(model.parameters()), fm.sam(0.3))
    with pytest.raises(ValueError, match="must be given the module, got parameters"):
        sharp.compiled(loss_of(model))
    with pytest.raises(ValueError, match="model must hold the parameters, got one without 4 of 4"):
        sharp.compiled(loss_of(model), model=smooth())


def test_a_model_that_is_compiled_already_is_refused():
    model = torch.compile(smooth(), backend="eager")
    with pytest.raises(
        ValueError, match="model must be as it was written, got one that is compiled"
    ):
        fm.SharpnessAware(model, fm.sam(0.3)).compiled(loss_of(model))


def test_groups_that_are_not_provably_exact_are_refused():
    model, (batch,) = noisy(), batches(1)
    model[1].momentum, model[3].p = None, 0.0
    four = fm.SharpnessAware(model, fm.sam(0.3), m=4).compiled(loss_of(model), backend="eager")
    with pytest.raises(RuntimeError, match="the batch must hold two whole groups, got 6"):
        four(*batch)
    two = fm.SharpnessAware(model, fm.sam(0.3), m=2).compiled(loss_of(model), backend="eager")
    with pytest.raises(RuntimeError, match="a step with m=2 must be provably exact"):
        two(*batch)
    with pytest.raises(RuntimeError, match="running statistics must have a momentum, got None"):
        two(*batch)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    model = smooth()
    sharp = fm.SharpnessAware(model, fm.sam(0.3))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="must have the whole batch in one process, got several"):
        sharp.compiled(loss_of(model))


def test_random_numbers_are_refused():
    model, (batch,) = noisy(), batches(1)
    step = fm.SharpnessAware(model, fm.sam(0.3)).compiled(loss_of(model), backend="eager")
    before = copied(model.buffers())
    with pytest.raises(RuntimeError, match="must draw no random numbers .* set dropout to 0"):
        step(*batch)
    assert same_bits(copied(model.buffers()), before)
    assert all(grad is None for grad in gradients(model))


def test_a_loss_that_looks_at_values_is_refused():
    model, (batch,) = smooth(), batches(1)

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        return loss_of(model)(x, y) * (1.0 if float(x.sum()) > 0 else 2.0)

    step = fm.SharpnessAware(model, fm.sam(0.3)).compiled(loss_fn, backend="eager")
    with pytest.raises(
        RuntimeError, match="loss_fn must be one that torch can trace without values"
    ):
        step(*batch)


def test_a_batch_of_another_kind_is_refused():
    model, ((x, y),) = smooth(), batches(1)
    step = fm.SharpnessAware(model, fm.sam(0.3)).compiled(
        lambda batch: loss_of(model)(batch["x"], batch["y"]), backend="eager"
    )
    step({"x": x, "y": y})
    with pytest.raises(TypeError, match="batch must be of tensors and numbers, .* got UserDict"):
        step(UserDict(x=x, y=y))


def test_a_loss_without_a_graph_is_refused():
    model, (batch,) = smooth(), batches(1)
    step = fm.SharpnessAware(model, fm.sam(0.3)).compiled(
        lambda x, y: loss_of(model)(x, y).detach(), backend="eager"
    )
    with pytest.raises(TypeError, match="loss_fn must return a tensor that depends"):
        step(*batch)


@pytest.mark.slow
def test_a_rule_of_ones_own_is_compiled_if_it_is_a_probe():
    def talk(look: Any) -> Any:
        return (yield HERE)

    model = smooth()
    sharp = fm.SharpnessAware(model, talk)
    with pytest.raises(ValueError, match="rule must be a Probe"):
        sharp.compiled(loss_of(model))
    half = Probe(lambda w, g, rho: 0.5 * fm.perturb.normalized(w, g, rho), rho=0.2)
    one, two = both(model, half, batches(1))
    close(two, one)
