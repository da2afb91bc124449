"""What the batched engine of m-SAM refuses to guess, and how `auto` decides."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import batches, loss_of, noisy, same_bits, smooth
from test_batched import assert_close, made, stepped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import flatminima as fm
from flatminima.engine import msam


class Body(nn.Module):
    """Two linear layers with something in between that is called with the module itself."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        for name, part in parts.items():
            setattr(self, name, part)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x).tanh()))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        with torch._C.DisableTorchFunction():  # as an extension in C++ would
            return x * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grads[0] * weight, (grads[0] * x).sum(0)


def without_gradients(body: Body, x: Tensor) -> Tensor:
    with torch.no_grad():
        offset = body.inner(x)
    return x + offset


REFUSED = {
    "prelu": (
        lambda: Body(lambda body, x: body.act(x), act=nn.PReLU(5)),
        "the step must use parameters in layers that are understood, got 'act.weight' in .*prelu",
    ),
    "recurrent kernel": (
        lambda: Body(lambda body, x: body.inner(x[:, None])[0][:, 0], inner=nn.GRU(5, 5)),
        "the step must use parameters in layers that are understood, got 'inner.weight_ih_l0.*gru",
    ),
    "examples mixed": (
        lambda: Body(lambda body, x: body.inner(x - x.mean(0)), inner=nn.Linear(5, 5)),
        "must keep examples of different groups apart, got Linear of 'inner.weight'.* mixes",
    ),
    "shuffled": (
        lambda: Body(lambda body, x: x[torch.randperm(len(x))]),
        "the step must keep examples apart, got torch.randperm",
    ),
    "similarity": (
        lambda: Body(
            lambda body, x: x + body.inner((x @ x.mT)[..., None]).mean(1), inner=nn.Linear(1, 5)
        ),
        "the step must have one axis of examples in every result, got Linear of 'inner.weight'",
    ),
    "custom function": (
        lambda: Body(lambda body, x: Doubled.apply(x, body.w), w=nn.Parameter(torch.rand(5))),
        "parameters must be used by functions of torch, got 'w' in a custom",
    ),
    "no gradients": (
        lambda: Body(without_gradients, inner=nn.Linear(5, 5)),
        "must use parameters with gradients on, got 'inner.weight' and 'inner.bias' without",
    ),
    "checkpoint": (
        lambda: Body(
            lambda body, x: checkpoint(body.inner, x, use_reentrant=False), inner=nn.Linear(5, 5)
        ),
        "the step must keep what autograd saves, got saved-tensor hooks",
    ),
    "max norm": (
        lambda: Body(
            lambda body, x: x + body.words((x[:, 0] > 0).long()),
            words=nn.Embedding(2, 5, max_norm=1.0),
        ),
        "the step must look up rows and nothing else, got max_norm",
    ),
    "multiple added": (
        lambda: Body(lambda body, x: torch.add(x, body.w, alpha=2), w=nn.Parameter(torch.rand(5))),
        "the step must add parameters as they are, got alpha=2",
    ),
    "multiple subtracted": (
        lambda: Body(lambda body, x: torch.sub(x, body.w, alpha=2), w=nn.Parameter(torch.rand(5))),
        "the step must subtract parameters as they are, got alpha=2",
    ),
    "written to": (
        lambda: Body(lambda body, x: x + body.w.mul_(1.0), w=nn.Parameter(torch.rand(5))),
        "the step must leave parameters as they are, got mul_ on one",
    ),
    "running instances": (
        lambda: Body(
            lambda body, x: body.norm(x[:, :, None].expand(-1, -1, 2))[..., 0],
            norm=nn.InstanceNorm1d(5, affine=True, track_running_stats=True),
        ),
        "the step must keep no running statistics of instances",
    ),
    "zeros attended to": (
        lambda: Body(
            lambda body, x: body.inner(x[:, None], x[:, None], x[:, None])[0][:, 0],
            inner=nn.MultiheadAttention(5, 1, add_zero_attn=True, batch_first=True),
        ),
        "the step must attend to batches without bias_k, bias_v or zeros",
    ),
    "vectors": (
        lambda: Body(lambda body, x: x + (x @ body.w)[:, None], w=nn.Parameter(torch.rand(5))),
        "the step must multiply by matrices, got shapes",
    ),
}


def losses(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_covered_is_named(name: str):
    build, message = REFUSED[name]
    model, (batch,) = build(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=message) as caught:
        sharp.backward(losses(model), *batch)
    assert "engine='batched' must be able to prove that it is exact" in str(caught.value)
    assert same_bits(dict(before), dict(model.state_dict()))
    assert all(param.grad is None for param in model.parameters())


@pytest.mark.parametrize("name", ["prelu", "custom function", "no gradients", "checkpoint"])
def test_auto_takes_the_exact_loop_and_says_so_once(name: str):
    build, message = REFUSED[name]
    model, (batch,) = build(), batches(1)
    other = copy.deepcopy(model)
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2)
    with pytest.warns(UserWarning, match="m-SAM goes group by group: .*" + message):
        sharp.backward(losses(model), *batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sharp.backward(losses(model), *batch)
    loop = fm.SharpnessAware(other, fm.sam(0.3), m=2, engine="loop")
    for _ in range(2):
        loop.backward(losses(other), *batch)
    grads = [[param.grad for param in net.parameters()] for net in (model, other)]
    assert same_bits(*grads)


def test_a_loss_that_is_no_mean_over_examples_is_refused():
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    with pytest.raises(
        RuntimeError, match="engine='batched' must be able to prove that it is exact"
    ):
        sharp.backward(lambda x, y: loss_of(model)(x, y) * len(x), *batch)
    with pytest.raises(RuntimeError, match="the loss must be the mean over the examples, got"):
        sharp.backward(lambda x, y: loss_of(model)(x, y) * len(x), *batch)


@pytest.mark.parametrize("engine", ["batched", "auto"])
def test_branches_that_change_between_steps_are_noticed(engine: Any):
    model, (batch,) = noisy(), batches(1)
    other, branch = copy.deepcopy(model), [1]

    def loss_fn(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(x: Tensor, y: Tensor) -> Tensor:
            out = net(x)
            for _ in range(branch[0] - 1):
                out = out + net[4](net[0](x))
            return functional.cross_entropy(out, y)

        return loss

    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    sharp.backward(loss_fn(model), *batch)
    other.load_state_dict(model.state_dict())
    model.zero_grad()
    branch[0] = 2
    object.__setattr__(sharp._grouped, "engine", engine)
    if engine == "batched":
        with pytest.raises(
            RuntimeError, match="the step must take the same branches in every pass"
        ):
            sharp.backward(loss_fn(model), *batch)
        return
    torch.manual_seed(4)
    with pytest.warns(UserWarning, match="the step must take the same branches in every pass, got"):
        sharp.backward(loss_fn(model), *batch)
    torch.manual_seed(4)
    fm.SharpnessAware(other, fm.sam(0.3), m=2, engine="loop").backward(loss_fn(other), *batch)
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert same_bits(param.grad, expected.grad)
    assert same_bits(dict(model.state_dict()), dict(other.state_dict()))


def test_inputs_that_are_written_to_are_noticed():
    model, (batch,) = smooth(), batches(1)

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        out = functional.linear(x, model[0].weight) @ torch.ones(5, 3)
        x.mul_(2.0)
        return functional.cross_entropy(out + model(x), y)

    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    with pytest.raises(
        RuntimeError, match="the step must leave the inputs of layers as they are, got one"
    ):
        sharp.backward(loss_fn, *batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": fm.gsam(0.1)},
            "rule must take the perturbed gradient as it is for engine='batched', got gsam",
        ),
        (
            {"rule": fm.sam(0.1, p=3)},
            "rule must have a norm of order 2 or inf for engine='batched', got sam.*p=3",
        ),
        (
            {"rule": fm.multi_step(0.1)},
            "rule must look uphill once for engine='batched', got multi_step",
        ),
        ({"observe": [print]}, "engine='batched' must have no observers, got some"),
        ({"memory_limit": 0.0}, "memory_limit must be positive, got 0.0"),
    ],
)
def test_options_without_a_batched_form_are_refused(options: dict[str, Any], message: str):
    options = {"rule": fm.sam(0.1), **options}
    with pytest.raises(ValueError, match=message):
        fm.SharpnessAware(smooth(), options.pop("rule"), m=2, engine="batched", **options)


def test_a_displacement_of_ones_own_has_no_batched_form():
    rule = fm.Probe(lambda w, g, rho: g * rho)
    with pytest.raises(ValueError, match="must have a displacement that is normalized, unnorm"):
        fm.SharpnessAware(smooth(), rule, m=2, engine="batched")


def test_a_decay_in_the_ascent_has_no_batched_form():
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(0.1), m=2, engine="batched", ascent_weight_decay=0.1)
    with pytest.raises(ValueError, match="ascent_weight_decay must be 0 with engine='batched'"):
        sharp.backward(loss_of(model), *batch)


@pytest.mark.parametrize(
    "rule", [fm.gsam(0.1), fm.multi_step(0.1), fm.sam(0.0)], ids=["gsam", "steps", "rho 0"]
)
def test_auto_is_the_loop_where_the_rule_has_no_batched_form(rule: Any):
    model, (batch,) = smooth(), batches(1)
    other = copy.deepcopy(model)
    fm.SharpnessAware(model, rule, m=2).backward(loss_of(model), *batch)
    fm.SharpnessAware(other, rule, m=2, engine="loop").backward(loss_of(other), *batch)
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert same_bits(param.grad, expected.grad)


def test_auto_decides_once_for_each_shape_and_keeps_it_in_the_state():
    model, (batch,) = noisy(), batches(1)
    calls: list[int] = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        return loss_of(model)(x, y)

    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2)
    sharp.backward(loss_fn, *batch)
    (verdict,) = sharp.state_dict()["engines"].values()
    assert verdict in ("loop", "batched")
    calls.clear()
    sharp.backward(loss_fn, *batch)
    assert calls == ([6, 6] if verdict == "batched" else [2] * 6)
    fresh = fm.SharpnessAware(model, fm.sam(0.3), m=2)
    fresh.load_state_dict(sharp.state_dict())
    calls.clear()
    fresh.backward(loss_fn, *batch)
    assert len(calls) <= 5 + 6  # a rehearsal and a step: no trial of engines
    calls.clear()
    sharp.backward(loss_fn, *(tensor[:4] for tensor in batch))
    assert len(sharp.state_dict()["engines"]) == 2 and len(calls) > 6


@pytest.mark.parametrize(
    ("group", "verdict", "rounds"),
    [(5.0, "batched", 2), (0.1, "loop", 2), (0.9, "batched", 2 + 2), (0.6, "loop", 2 + 2)]
    + [(0.72, "batched", 2 + 5), (0.70, "loop", 2 + 5)],
)
def test_auto_takes_the_faster_engine_and_tries_longer_where_they_are_near(
    group: float, verdict: str, rounds: int, monkeypatch: pytest.MonkeyPatch
):
    model, batch = noisy(), [torch.cat([tensor, tensor]) for tensor in batches(1)[0]]  # 6 groups
    calls: list[int] = []
    seconds: list[float] = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        return loss_of(model)(x, y)

    def timed(step: object, carry_out: Callable[[], object]) -> float:
        calls.clear()
        carry_out()
        seconds.append(len(calls) / 2 * group if calls[0] == 2 else 4.3)
        return seconds[-1]

    monkeypatch.setattr(msam, "_timed", timed)
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2)
    sharp.backward(loss_fn, *batch)
    assert list(sharp.state_dict()["engines"].values()) == [verdict]
    assert len(seconds) == 4 * rounds  # of each engine one that follows the other, and one more


def test_a_trial_of_engines_leaves_no_trace():
    model, (batch,) = noisy(), batches(1)
    other = copy.deepcopy(model)
    torch.manual_seed(3)
    auto = fm.SharpnessAware(model, fm.sam(0.3), m=2)
    auto.backward(loss_of(model), *batch)
    (verdict,) = auto.state_dict()["engines"].values()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    fm.SharpnessAware(other, fm.sam(0.3), m=2, engine=verdict).backward(loss_of(other), *batch)
    assert torch.equal(after, torch.get_rng_state())
    assert same_bits(dict(model.state_dict()), dict(other.state_dict()))
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(param.grad, expected.grad, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------------- random architectures

LAYERS: list[Callable[[int], nn.Module]] = [
    lambda n: nn.Linear(n, n),
    lambda n: nn.Linear(n, n, bias=False),
    lambda n: nn.LayerNorm(n),
    lambda n: nn.RMSNorm(n),
    lambda n: nn.LayerNorm(n, bias=False),
    lambda n: nn.TransformerEncoderLayer(n, 2, 5, 0.0, batch_first=True),
    lambda n: Along(nn.Conv1d(n, n, 3, padding=1)),
    lambda n: Along(nn.Conv1d(n, n, 3, padding=2, dilation=2, groups=n)),
    lambda n: Along(nn.GroupNorm(2, n)),
    lambda n: Along(nn.BatchNorm1d(n)),
    lambda n: Places(n),
]
ACTIVATIONS = [nn.Tanh, nn.GELU, nn.Sigmoid, lambda: nn.ReLU(inplace=True)]


class Along(nn.Module):
    """A layer for (batch, channels, time) on (batch, time, channels)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mT).mT


class Places(nn.Module):
    """A positional table and a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.scale = (
            nn.Parameter(torch.randn(5, width)),
            nn.Parameter(torch.rand(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.table[: x.shape[1]]


class Drawn(nn.Module):
    """Layers in a row, some of them called again, with residual connections."""

    def __init__(self, layers: list[nn.Module], order: list[int]) -> None:
        super().__init__()
        self.layers, self.order = nn.ModuleList(layers), order
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for index in self.order:
            x = x + self.layers[index % len(self.layers)](x)
        return self.head(x.mean(1))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kinds=st.lists(
        st.tuples(st.sampled_from(range(len(LAYERS))), st.sampled_from(range(len(ACTIVATIONS)))),
        min_size=1,
        max_size=3,
    ),
    order=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    m=st.integers(1, 4),
    rest=st.integers(0, 2),
    rule=st.sampled_from([fm.sam(0.2), fm.usam(0.2), fm.asam(0.2, scale="filter")]),
)
def test_any_small_architecture_agrees_with_the_loop(
    kinds: Any, order: Any, m: int, rest: int, rule: Any
):
    torch.manual_seed(0)
    layers = [nn.Sequential(LAYERS[kind](4), ACTIVATIONS[act]()) for kind, act in kinds]
    model = Drawn(layers, order)
    size = 2 * m + min(rest, m - 1)
    batch = torch.randn(size, 4, 4), torch.randint(3, (size,))
    other = copy.deepcopy(model)
    got = stepped(fm.SharpnessAware(model, rule, m=m, engine="batched"), model, batch)
    loop = fm.SharpnessAware(other, rule, m=m, engine="loop")
    assert_close(got, stepped(loop, other, batch))


def test_a_frozen_part_costs_nothing_and_changes_nothing():
    model, batch = made("residual")
    model.inner.requires_grad_(False)
    other = copy.deepcopy(model)
    seen = [
        stepped(fm.SharpnessAware(net, fm.sam(0.3), m=2, engine=engine), net, batch)
        for net, engine in ((model, "batched"), (other, "loop"))
    ]
    assert_close(*seen)


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError):
        model, batch = made("mlp")
        other = copy.deepcopy(model)
        one = stepped(fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched"), model, batch)
        assert_close(one, stepped(fm.SharpnessAware(other, fm.sam(0.3), m=3), other, batch))
