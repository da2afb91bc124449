"""Buffers move once per step, in the first pass, whatever kind they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import Counted, batches, loss_of, restored, same_bits
from torch import Tensor, nn

import flatminima as fm
from flatminima.engine.buffers import SMALL, Buffers


class Reassigning(nn.Module):
    """Puts a new tensor in the place of its buffer at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - x.mean(0)


class Mutating(nn.Module):
    """Changes its buffer in place at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return x - x.mean(0)


class Queue(nn.Module):
    """Keeps the last features in a buffer that is too large to be copied at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(SMALL // 6 + 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.queue[:-6] = self.queue[6:].clone()
            self.queue[-6:] = x
        return x


class Lazy(nn.Module):
    """Has no buffer before it is called first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.detach().mean(0)
        self.mean = mean if self.mean is None else 0.9 * self.mean + 0.1 * mean
        return x - x.mean(0)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm": lambda: nn.BatchNorm1d(6),
    "BatchNorm, momentum None": lambda: nn.BatchNorm1d(6, momentum=None),
    "BatchNorm, nested": lambda: nn.Sequential(nn.Sequential(nn.BatchNorm1d(6)), nn.ReLU()),
    "InstanceNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
    "reassigning": Reassigning,
    "mutating": Mutating,
    "queue": Queue,
    "lazy": Lazy,
}
every_norm = pytest.mark.parametrize("norm", NORMS)
known = pytest.mark.parametrize("known", [True, False], ids=["a model", "its parameters"])


def network(norm: str) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), NORMS[norm](), nn.Tanh(), nn.Linear(6, 3))


def sharpness_aware(model: nn.Module, known: bool, **keywords: Any) -> fm.SharpnessAware:
    target = model if known else list(model.parameters())
    return fm.SharpnessAware(target, fm.sam(rho=0.5), **keywords)


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def differing(one: nn.Module, two: nn.Module | dict[str, Tensor]) -> list[str]:
    """The names of the buffers that are not equal bit for bit."""
    ours, theirs = buffers(one), two if isinstance(two, dict) else buffers(two)
    assert ours and ours.keys() == theirs.keys()
    return [name for name in ours if not same_bits(ours[name], theirs[name])]


@every_norm
@known
def test_buffers_move_once_per_step_as_in_a_plain_one(norm: str, known: bool):
    ours, plain = network(norm), network(norm)
    sharp = sharpness_aware(ours, known)
    for batch in batches(3):
        sharp.backward(loss_of(ours), *batch)
        loss_of(plain)(*batch).backward()
    assert differing(ours, plain) == []


@every_norm
@known
@pytest.mark.parametrize("at", [1, 2])
def test_buffers_are_as_the_first_pass_left_them_when_a_pass_raises(
    norm: str, known: bool, at: int
):
    ours, plain = network(norm), network(norm)
    (batch,) = batches(1)
    with restored(ours.parameters()), pytest.raises(ArithmeticError, match="pass"):
        sharpness_aware(ours, known).backward(Counted(loss_of(ours), raise_at=at), *batch)
    loss_of(plain)(*batch)
    assert differing(ours, plain) == []


@known
def test_the_tensor_of_a_buffer_stays_the_same_object(known: bool):
    model, (batch,) = network("BatchNorm"), batches(1)
    before = list(model.buffers())
    sharpness_aware(model, known).backward(loss_of(model), *batch)
    assert all(a is b for a, b in zip(model.buffers(), before, strict=True))


@known
def test_statistics_never_see_the_displaced_weights(known: bool):
    model, (batch,) = network("BatchNorm"), batches(1)
    sharp = fm.SharpnessAware(model if known else list(model.parameters()), fm.usam(rho=1e6))
    sharp.backward(loss_of(model), *batch)
    hidden = model[0](batch[0])
    torch.testing.assert_close(model[1].running_mean, 0.1 * hidden.mean(0))


@known
def test_a_module_that_only_the_second_pass_calls_moves_no_buffer(known: bool):
    model, (batch,) = network("BatchNorm"), batches(1)
    other = network("BatchNorm")
    both = nn.ModuleList([model, other])
    calls: list[int] = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return loss_of(model if len(calls) == 1 else other)(x, y) + 0.0 * sum(
            param.sum() for param in both.parameters()
        )

    before = buffers(other)
    sharpness_aware(both, known).backward(loss_fn, *batch)
    assert len(calls) == 2
    assert differing(other, before) == []


@known
def test_groups_move_buffers_once_each(known: bool):
    ours, plain = network("BatchNorm"), network("BatchNorm")
    (batch,) = batches(1)
    sharp = sharpness_aware(ours, known, m=2, engine="loop")  # the other engine rounds differently
    sharp.backward(loss_of(ours), *batch)
    for start in range(0, 6, 2):
        loss_of(plain)(*(part[start : start + 2] for part in batch))
    assert differing(ours, plain) == []


@known
def test_a_model_in_evaluation_mode_stays_in_it(known: bool):
    model, (batch,) = network("BatchNorm"), batches(1)
    model.eval()
    before = buffers(model)
    sharpness_aware(model, known).backward(loss_of(model), *batch)
    assert not any(module.training for module in model.modules())
    assert differing(model, before) == []


@known
def test_statistics_move_again_after_a_step(known: bool):
    model, (batch,) = network("BatchNorm"), batches(1)
    sharp = sharpness_aware(model, known)
    sharp.backward(loss_of(model), *batch)
    model(batch[0])
    assert model[1].num_batches_tracked == 2


def test_holding_twice_is_safe():
    norm = nn.BatchNorm1d(2)
    held = Buffers(norm)
    before = buffers(norm)
    with held.watched():
        pass
    with held.held():
        norm(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
        with held.held():
            norm(torch.tensor([[9.0, 9.0], [8.0, 7.0]]))
        assert norm.num_batches_tracked == 1
    assert differing(norm, before) == []


def test_no_hook_is_left_behind():
    model, (batch,) = network("BatchNorm"), batches(1)
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    before = len(hooks)
    for at in (None, 1, 2):
        try:
            loss_fn = Counted(loss_of(model), raise_at=at)
            sharpness_aware(model, known=False).backward(loss_fn, *batch)
        except ArithmeticError:
            assert at is not None
    assert len(hooks) == before


def test_a_step_within_a_step_leaves_the_statistics_of_both_moved_once():
    outer, inner = network("BatchNorm"), network("BatchNorm")
    (batch,) = batches(1)
    within = sharpness_aware(inner, known=False)

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        if outer[1].num_batches_tracked == 0:
            within.backward(loss_of(inner), x, y)
        return loss_of(outer)(x, y)

    sharpness_aware(outer, known=False).backward(loss_fn, *batch)
    assert outer[1].num_batches_tracked == 1 and inner[1].num_batches_tracked == 1
