"""The file to paste gives the library's numbers, and is written by its script."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import Counted, batches, gradients, loss_of, noisy, restored, same_bits, smooth, weights
from torch import nn

import flatminima as fm

ROOT = Path(__file__).parents[1]
FILE = ROOT / "examples" / "single_file" / "sam.py"
Pasted = runpy.run_path(str(FILE))["SAM"]

RULES = {"sam": (fm.sam(0.3), {"rho": 0.3}), "asam": (fm.asam(0.5), {"rho": 0.5, "adaptive": True})}
both = pytest.mark.parametrize(("rule", "settings"), RULES.values(), ids=RULES)


def trained(model: nn.Module, step: Any, *, count: int = 50) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    torch.manual_seed(3)
    for x, y in batches(10) * (count // 10):
        optimizer.zero_grad()
        step(lambda x=x, y=y: loss_of(model)(x, y))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return weights(model) + [buffer.clone() for buffer in model.buffers()]


@both
@pytest.mark.parametrize("make", [smooth, noisy])
def test_fifty_steps_are_those_of_the_library(rule: Any, settings: Any, make: Any) -> None:
    """Beside rounding: the library scales a displacement while it adds it."""
    one, two = make(), make()
    found = trained(one, Pasted(one.parameters(), model=one, **settings).backward)
    wanted = trained(two, fm.SharpnessAware(two, rule).backward)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@both
def test_a_loss_scale_changes_nothing_but_the_scale(rule: Any, settings: Any) -> None:
    model, (batch,) = smooth(torch.float32), batches(1, dtype=torch.float32)
    found = []
    for scale in (None, 1024.0):
        model.zero_grad()
        scaler = scale and torch.amp.GradScaler("cpu", init_scale=scale)
        Pasted(model.parameters(), **settings).backward(lambda: loss_of(model)(*batch), scaler)
        found.append(fm.Vector(gradients(model)) / (scale or 1.0))
    assert (found[0] - found[1]).norm() <= 1e-5 * found[0].norm()


@both
@pytest.mark.parametrize("call", [1, 2])
def test_a_closure_that_raises_leaves_no_trace(rule: Any, settings: Any, call: int) -> None:
    model, (batch,) = smooth(), batches(1)
    loss_of(model)(*batch).backward()
    loss_fn = Counted(loss_of(model), raise_at=call)
    with restored(model.parameters(), and_gradients=True), pytest.raises(ArithmeticError):
        Pasted(model.parameters(), **settings).backward(lambda: loss_fn(*batch))


@both
def test_no_slope_is_no_displacement_and_radius_zero_is_plain(rule: Any, settings: Any) -> None:
    model, (batch,) = smooth(), batches(1)
    Pasted(model.parameters(), **settings).backward(lambda: 0.0 * loss_of(model)(*batch))
    assert all(not grad.any() for grad in gradients(model))
    model.zero_grad()
    loss_of(model)(*batch).backward()
    plain = gradients(model)
    model.zero_grad()
    Pasted(model.parameters(), **{**settings, "rho": 0.0}).backward(lambda: loss_of(model)(*batch))
    assert same_bits(gradients(model), plain)


def test_a_gradient_that_is_not_finite_moves_no_weight() -> None:
    model, (batch,) = smooth(), batches(1)
    with restored(model.parameters()):
        Pasted(model.parameters()).backward(lambda: torch.inf * loss_of(model)(*batch))
    assert not fm.Vector(gradients(model)).norm().isfinite()


def test_it_is_short_and_up_to_date() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "flatminima" not in text.partition('"""\n')[2].replace("from flatminima", "")
    script = runpy.run_path(str(ROOT / "docs" / "single_file.py"))
    assert script["written"]() == text, "run: python docs/single_file.py"


def test_it_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="rho must be >= 0 and finite, got -1"):
        Pasted(smooth().parameters(), rho=-1.0)
    with pytest.raises(ValueError, match="params must include one that requires a gradient"):
        Pasted([])
