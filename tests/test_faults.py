"""The table of faults is complete, and those that no other file tests."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import batches, gradients, loss_of, noisy, restored, same_bits, smooth, weights
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import flatminima as fm
from flatminima.rules.schedule import Linear
from flatminima.vector import Vector

ROOT = Path(__file__).parents[1]
TABLE = runpy.run_path(str(ROOT / "docs" / "faults.py"))
FAULTS = [fault for faults in TABLE["FAULTS"].values() for fault in faults]


def every_test() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every test, and every case that the pair of processes runs."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                marks = {ast.unparse(mark) for mark in node.decorator_list}
                if node.name.startswith("test_") or "on_two_ranks" in marks:
                    yield f"{path.stem}::{node.name}", node


@cache
def known() -> dict[str, ast.FunctionDef]:
    return dict(every_test())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.rule)
def test_a_fault_is_ruled_out_by_tests_that_are_there(fault: Any) -> None:
    assert fault.tests
    for name in fault.tests:
        assert name in known(), f"no such test: {name}"
        marks = {ast.unparse(mark) for mark in known()[name].decorator_list}
        assert not any(re.search(r"skip|xfail", mark) for mark in marks), f"{name} does not run"
    on_gpu = [{ast.unparse(mark) for mark in known()[name].decorator_list} for name in fault.tests]
    assert not all("gpu" in marks for marks in on_gpu), "one of them must run everywhere"


def test_the_page_of_faults_is_up_to_date() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert TABLE["page"]() == text, "run: python docs/faults.py"


def test_the_table_holds_every_fault_once() -> None:
    assert len(FAULTS) == len({fault.rule for fault in FAULTS}) >= 80


# ------------------------------------------------------------------- those that no other file tests


@pytest.mark.parametrize(
    "make", [fm.sam, fm.momentum_sam, fm.s2_sam, fm.asam], ids=lambda make: make.__name__
)
def test_under_a_schedule_of_the_radius_the_weights_come_back(make: Any) -> None:
    model, data = smooth(), batches(5)
    sharp = fm.SharpnessAware(model, make(Linear(start=0.5, end=0.0, steps=8)))
    with restored(model.parameters()):
        for step in range(12):
            model.zero_grad()
            sharp.backward(loss_of(model), *data[step % 5])


def test_both_passes_are_in_training_mode_and_see_the_whole_loss() -> None:
    """The regularisation that a loss holds is in the ascent and in the descent."""
    model, (batch,) = noisy(), batches(1)
    modes: list[bool] = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        modes.append(model.training)
        penalty = sum(param.square().sum() for param in model.parameters())
        return loss_of(model)(x, y) + 0.1 * penalty

    seen: list[Any] = []
    sharp = fm.SharpnessAware(model, fm.sam(0.3), observe=[lambda step: seen.append(step.seen)])
    random = torch.get_rng_state()
    sharp.backward(loss_fn, *batch)
    assert modes == [True, True]
    w = Vector(weights(model))
    torch.set_rng_state(random)
    model.zero_grad()
    loss_of(model)(*batch).backward()
    g = Vector(gradients(model)) + 0.2 * w
    ((here, there),) = seen
    torch.testing.assert_close(here.gradient.parts, g.parts)
    torch.testing.assert_close(there.at.parts, (0.3 / g.norm() * g).parts)


class Lion(torch.optim.Optimizer):
    """w <- w - lr sign(b1 v + (1 - b1) d), v <- b2 v + (1 - b2) d; an optimizer by hand."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1e-2})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                v = self.state[param].setdefault("v", torch.zeros_like(param))
                param.sub_(group["lr"] * torch.lerp(v, param.grad, 0.1).sign())
                v.lerp_(param.grad, 0.01)


def matrices(params: Any) -> Any:
    return torch.optim.Muon([param for param in params if param.dim() == 2], lr=1e-2)


OPTIMIZERS = {
    "Nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "Lion": Lion,
    "Muon": matrices,
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer_steps_along_the_direction(make: Any) -> None:
    """Ten steps are those along g at w + rho g / ||g||, written out."""
    one, two, data = smooth(), smooth(), batches(5)
    params = [param for group in make(two.parameters()).param_groups for param in group["params"]]
    base = make(two.parameters())
    optimizer = fm.SharpnessAwareOptimizer(make(one.parameters()), fm.sam(0.3))
    for step in range(10):
        batch = data[step % 5]

        def closure(batch: Any = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(one)(*batch)
            loss.backward()
            return loss

        optimizer.step(closure)
        before = weights(two)
        g = torch.autograd.grad(loss_of(two)(*batch), params)
        length = torch.sqrt(sum(part.square().sum() for part in g))
        with torch.no_grad():
            for param, part in zip(params, g, strict=True):
                param.add_(0.3 * part / length)
        for param, part in zip(
            params, torch.autograd.grad(loss_of(two)(*batch), params), strict=True
        ):
            param.grad = part
        with torch.no_grad():
            for param, old in zip(two.parameters(), before, strict=True):
                param.copy_(old)
        base.step()
    for ours, theirs in zip(weights(one), weights(two), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    assert not same_bits(weights(one), weights(smooth()))


class Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_norm_is_one_kernel_for_all_tensors() -> None:
    v = Vector([torch.randn(3) for _ in range(50)])
    with Kernels() as kernels:
        v.norm()
    assert kernels.names.count("_foreach_norm") == 1
    assert len(kernels.names) < 10
