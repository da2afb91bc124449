"""m-SAM by vmap: the loop's result, for any rule, where torch can map the model."""

from __future__ import annotations

import collections
import copy
from typing import Any

import pytest
import torch
from nets import batches, loss_of, smooth
from test_batched import assert_close, made, stepped
from torch import Tensor, distributed, nn
from torch.nn import functional

import flatminima as fm


def sharp_on(model: Any, rule: Any = None, m: int = 2, **options: Any) -> fm.SharpnessAware:
    return fm.SharpnessAware(model, rule or fm.sam(0.3), m=m, engine="vmap", **options)


RULES = [fm.sam(0.3), fm.gsam(0.3), fm.multi_step(0.3)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule).partition(" =")[0])
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("name", ["mlp", "residual", "language, tied"])
def test_vmap_is_the_loop(name: str, m: int, rule: Any):
    model, batch = made(name)
    other = copy.deepcopy(model)
    got = stepped(sharp_on(model, rule, m), model, batch)
    loop = fm.SharpnessAware(other, rule, m=m, engine="loop")
    assert_close(got, stepped(loop, other, batch))


@pytest.mark.parametrize("limit", [1.0, 5000.0])
def test_a_memory_limit_takes_fewer_groups_and_changes_nothing(limit: float):
    model, batch = made("mlp")
    other = copy.deepcopy(model)
    got = stepped(sharp_on(model, memory_limit=limit), model, batch)
    assert_close(got, stepped(sharp_on(other), other, batch))


class Looked(nn.Module):
    """Rows of a table, looked up by a direct call; one of them is padding."""

    def __init__(self, padding_idx: int) -> None:
        super().__init__()
        self.table, self.padding_idx = nn.Parameter(torch.randn(5, 3)), padding_idx

    def forward(self, x: Tensor) -> Tensor:
        return functional.embedding(x, self.table, padding_idx=self.padding_idx).mean(1)


@pytest.mark.parametrize("padding_idx", [0, -1])
def test_padding_has_no_gradient_in_any_group(padding_idx: int):
    torch.manual_seed(0)
    model = Looked(padding_idx).double()
    other = copy.deepcopy(model)
    batch = torch.randint(5, (6, 4)), torch.randint(3, (6,))
    got = stepped(sharp_on(model, m=2), model, batch)
    loop = fm.SharpnessAware(other, fm.sam(0.3), m=2, engine="loop")
    assert_close(got, stepped(loop, other, batch))
    assert not model.table.grad[padding_idx].any() and model.table.grad.any()


def test_a_parameter_without_a_gradient_has_none():
    model, batch = made("mlp")
    model.spare = nn.Parameter(torch.ones(2))
    model[0].bias.requires_grad_(False)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    sharp_on(model).backward(loss_of(model), *batch)
    assert model.spare.grad is None and model[0].bias.grad is None
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.5)], ids=["norm", "dropout"])
def test_what_torch_cannot_map_is_refused_and_leaves_no_trace(layer: nn.Module):
    model, (batch,) = nn.Sequential(layer, nn.Linear(4, 3)), batches(1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="engine='vmap' must be able to map the model over the"):
        sharp_on(model).backward(loss_of(model), *batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())


def test_what_it_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch):
    model, (batch,) = smooth(), batches(1)
    with pytest.raises(ValueError, match="engine='vmap' must be given the module, got parameters"):
        sharp_on(list(model.parameters())).backward(loss_of(model), *batch)
    with pytest.raises(ValueError, match="engine='vmap' must go backward by itself, got a scaler"):
        sharp_on(model).backward(loss_of(model), *batch, backward_fn=Tensor.backward)
    with pytest.raises(ValueError, match="engine='vmap' must have no observers, got some"):
        sharp_on(model, observe=[print])
    other = collections.UserDict(x=batch[0])
    with pytest.raises(ValueError, match="batch must be of tensors, lists and dictionaries for"):
        sharp_on(model).backward(lambda x, y: loss_of(model)(x["x"], y), other, batch[1])
    elsewhere = fm.Ask(fm.HERE, batch=batch)

    def rule(look: Any) -> Any:
        return (yield elsewhere)

    with pytest.raises(TypeError, match="rule must ask HERE or at a Vector in a group, got Ask"):
        sharp_on(model, rule).backward(loss_of(model), *batch)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    grouped = sharp_on(model)._grouped
    with pytest.raises(RuntimeError, match="engine='vmap' must have the whole batch in one proc"):
        grouped.mean(fm.engine.passes.Call(loss_fn=loss_of(model)), batch, None, print)
