"""Losses that take part: functional SAM, J-SAM and K-SAM, against loops written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import Batch, batches, gradients, loss_of, noisy, restored, same_bits, smooth
from torch import Tensor, nn
from torch.nn import functional

import flatminima as fm

RHO = 0.3
SHAPES = ((5, 4), (5,), (3, 5), (3,))


def outputs(w: list[Tensor], x: Tensor) -> Tensor:
    """The network of `smooth`, of its weights."""
    return torch.tanh(x @ w[0].T + w[1]) @ w[2].T + w[3]


def by_hand(w: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """J(w + e)^T r with r = (softmax - onehot) / n at w, and e = rho J(w)^T r / ||J(w)^T r||."""
    here = [part.detach().requires_grad_() for part in w]
    logits = outputs(here, x)
    r = (logits.softmax(dim=1) - functional.one_hot(y, 3)).detach() / len(y)
    g = torch.autograd.grad(logits, here, r)
    length = torch.sqrt(sum(part.square().sum() for part in g))
    there = [(a + RHO * b / length).detach().requires_grad_() for a, b in zip(w, g, strict=True)]
    return list(torch.autograd.grad(outputs(there, x), there, r))


def one_by_one(w: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """The mean of the same over the examples, each with a displacement of its own."""
    every = [by_hand(w, x[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    return [torch.stack(parts).mean(dim=0) for parts in zip(*every, strict=True)]


def functional_loss(model: nn.Module) -> fm.FunctionalLoss:
    return fm.FunctionalLoss(model, functional.cross_entropy)


@pytest.mark.parametrize(
    ("m", "direction"), [(None, by_hand), (1, one_by_one)], ids=["functional SAM", "J-SAM"]
)
def test_fifty_steps_are_those_of_the_loop_written_by_hand(m: int | None, direction: Any) -> None:
    model = smooth()
    w = [param.detach().clone() for param in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharp = fm.SharpnessAware(model, fm.sam(RHO), m=m)
    for x, y in batches(5) * 10:
        optimizer.zero_grad()
        loss = sharp.backward(functional_loss(model), x, y)
        torch.testing.assert_close(loss, functional.cross_entropy(outputs(w, x), y))
        optimizer.step()
        w = [a - 0.1 * b for a, b in zip(w, direction(w, x, y), strict=True)]
    for param, part in zip(model.parameters(), w, strict=True):
        torch.testing.assert_close(param.detach(), part, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("m", [None, 1])
def test_it_is_another_direction_than_sams(m: int | None) -> None:
    found = []
    for make in (functional_loss, loss_of):
        model, (batch,) = smooth(), batches(1)
        fm.SharpnessAware(model, fm.sam(RHO), m=m).backward(make(model), *batch)
        found.append(fm.Vector(gradients(model)))
    assert (found[0] - found[1]).norm() > 1e-3 * found[1].norm()


def test_of_linear_outputs_only_the_residual_matters() -> None:
    """J does not depend on w, so that nothing is left of the displacement."""
    model = nn.Linear(4, 3)
    (batch,) = batches(1)
    loss_of(model)(*batch).backward()
    plain = fm.Vector(gradients(model))
    model.zero_grad()
    fm.SharpnessAware(model, fm.sam(RHO)).backward(functional_loss(model), *batch)
    assert (fm.Vector(gradients(model)) - plain).norm() <= 1e-12 * plain.norm()


def test_it_is_an_ordinary_loss_elsewhere() -> None:
    model, (batch,) = smooth(), batches(1)
    loss_fn = functional_loss(model)
    assert same_bits(loss_fn(*batch), loss_of(model)(*batch))
    with torch.no_grad():
        assert same_bits(loss_fn(*batch), loss_of(model)(*batch))
    assert repr(loss_fn) == "FunctionalLoss(Sequential, cross_entropy)"


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_a_loss_scale_and_autocast_change_it_by_rounding_only(half: torch.dtype) -> None:
    """The tolerance is that of `test_precision`, for products of 11 and of 8 bits."""
    found = []
    for cast in (True, False):
        model, (batch,) = smooth(torch.float32), batches(1, dtype=torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=cast)
        with torch.autocast("cpu", dtype=half, enabled=cast):
            fm.SharpnessAware(model, fm.sam(RHO)).backward(
                functional_loss(model), *batch, scaler=scaler
            )
        scale = scaler.get_scale() if cast else 1.0
        found.append(fm.Vector(gradients(model)) / scale)
    tolerance = 5e-3 if half == torch.float16 else 3e-2
    assert (found[0] - found[1]).norm() <= tolerance * found[1].norm()


@pytest.mark.parametrize("rule", [fm.momentum_sam(), fm.previous_batch()], ids=str)
def test_what_looks_uphill_first_or_at_another_batch_is_refused(rule: Any) -> None:
    model, data = smooth(), batches(3)
    sharp = fm.SharpnessAware(model, rule)
    loss_fn = functional_loss(model)
    with (
        restored(model.parameters()),
        pytest.raises(RuntimeError, match="rule must look at the weights first, and at one batch"),
    ):
        for batch in data:
            sharp.backward(loss_fn, *batch)


def test_the_engine_of_one_pass_refuses_it() -> None:
    model, (batch,) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(RHO), m=1, engine="batched")
    with pytest.raises(ValueError, match="engine must be 'loop' or 'auto' with FunctionalLoss"):
        sharp.backward(functional_loss(model), *batch)


def test_the_doctor_examines_it_as_it_is_trained() -> None:
    model, (batch,) = smooth(), batches(1)
    calls: list[str] = []

    class Noted(fm.FunctionalLoss):
        def displaced(self, *batch: Any) -> Tensor:
            calls.append("uphill")
            return super().displaced(*batch)

    sharp = fm.SharpnessAware(model, fm.sam(RHO))
    findings = fm.doctor(model, sharp, Noted(model, functional.cross_entropy), batch)
    assert findings.gradients == 2 and findings.moved == 1.0 and calls == ["uphill"] * 2


def test_outputs_are_a_tensor() -> None:
    with pytest.raises(TypeError, match="outputs must return a tensor, got tuple"):
        fm.FunctionalLoss(lambda x: (x, x), functional.cross_entropy)(torch.ones(1))


# ------------------------------------------------------------------------------------------- K-SAM


def each(model: nn.Module) -> Any:
    return lambda x, y: functional.cross_entropy(model(x), y, reduction="none")


def test_the_hardest_examples_make_both_gradients() -> None:
    one, two, (batch,) = smooth(), smooth(), batches(1)
    x, y = batch
    losses = functional.cross_entropy(one(x), y, reduction="none")
    rows = sorted(losses.argsort(descending=True)[:3].tolist())
    fm.SharpnessAware(one, fm.sam(RHO)).backward(
        loss_of(one), *fm.hardest(each(one), *batch, share=0.5)
    )
    fm.SharpnessAware(two, fm.sam(RHO)).backward(loss_of(two), x[rows], y[rows])
    assert same_bits(gradients(one), gradients(two))


def test_choosing_leaves_buffers_and_random_state_alone() -> None:
    model, (batch,) = noisy(), batches(1)
    buffers = [buffer.clone() for buffer in model.buffers()]
    random = torch.get_rng_state()
    fm.hardest(each(model), *batch)
    assert same_bits(list(model.buffers()), buffers)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("share", "count"), [(1e-9, 1), (0.5, 3), (0.51, 4), (1.0, 6)])
def test_the_choice_is_never_empty(share: float, count: int) -> None:
    def losses(x: dict[str, Tensor], y: Tensor) -> Tensor:
        return x["x"][:, 0]

    x, y = batches(1)[0]
    chosen: Any = fm.hardest(losses, {"x": x}, y, share=share)
    assert len(chosen[0]["x"]) == len(chosen[1]) == count


def test_examples_of_equal_loss_are_chosen_in_number() -> None:
    batch: Batch = (torch.zeros(6, 4), torch.zeros(6, dtype=torch.long))
    assert len(fm.hardest(lambda x, y: x[:, 0], *batch, share=0.5)[0]) == 3


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(ValueError, match=r"share must be within \(0, 1\], got"):
        fm.hardest(lambda x: x, torch.zeros(2), share=share)


def test_losses_are_one_for_each_example() -> None:
    with pytest.raises(ValueError, match="losses_fn must return one loss for each of the 2 examp"):
        fm.hardest(lambda x: x.sum(), torch.zeros(2, 3))
