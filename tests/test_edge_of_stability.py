"""The lines at which optimizers leave a quadratic, found by running them; preconditioning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from torch import nn

import flatminima as fm
from flatminima import Objective, Vector
from flatminima.sharpness import (
    Hessian,
    Preconditioned,
    adam_preconditioner,
    edge_of_stability,
    top_eigenpairs,
)


def grows(curvature: float, lr: float, **options) -> bool:
    """Whether SGD moves away from the minimum of a parabola."""
    w = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([w], lr=lr, **options)
    sizes = []
    for _ in range(2000):
        w.grad = curvature * w.detach()
        optimizer.step()
        sizes.append(abs(w.item()))
        if sizes[-1] > 1e6:
            return True
    return max(sizes[-50:]) > max(sizes[:50])


LINES = {
    "gradient descent": (edge_of_stability.gradient_descent(0.1), {}),
    "momentum": (edge_of_stability.momentum(0.1, 0.9), {"momentum": 0.9}),
    "Nesterov": (
        edge_of_stability.momentum(0.1, 0.9, nesterov=True),
        {"momentum": 0.9, "nesterov": True},
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_an_optimizer_leaves_a_parabola_just_above_its_line_and_not_below(name) -> None:
    line, options = LINES[name]
    assert grows(1.01 * line, 0.1, **options)
    assert not grows(0.99 * line, 0.1, **options)


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_adam_with_a_fixed_preconditioner_leaves_a_parabola_above_its_line(beta1) -> None:
    line = edge_of_stability.adam(0.1, beta1)

    def ends_at(curvature: float) -> float:
        w, average = 1.0, 0.0
        for _ in range(2000):
            average = beta1 * average + (1 - beta1) * curvature * w
            w -= 0.1 * average
        return abs(w)

    assert ends_at(1.01 * line) > 1.0 > ends_at(0.99 * line)
    assert edge_of_stability.adam(1.0, 0.9) == pytest.approx(38.0)


@pytest.mark.parametrize("share", [0.9, 0.999, 1.001, 1.1])
@pytest.mark.parametrize("w0", [0.01, 0.3, 5.0])
def test_sam_grows_on_a_parabola_exactly_above_its_line(share, w0) -> None:
    lr, rho = 0.1, 0.05
    # |w - lr a (w + rho)| = w at this curvature a
    curvature = share * 2.0 / lr / (1 + rho / w0)
    w = nn.Parameter(torch.tensor([w0]))
    sharp = fm.SharpnessAware([w], fm.sam(rho=rho))
    sharp.backward(lambda: 0.5 * curvature * w.square().sum())
    after = abs(w.item() - lr * w.grad.item())
    line = edge_of_stability.sam(lr, rho, curvature * w0)
    assert (after > w0) == (curvature > line) == (share > 1)


def test_the_line_of_sam_tends_to_that_of_gradient_descent_and_falls_with_the_gradient() -> None:
    assert edge_of_stability.sam(0.1, 1e-12, 1.0) == pytest.approx(20.0, rel=1e-9)
    assert edge_of_stability.sam(0.1, 0.0, 0.0) == 20.0
    lines = [edge_of_stability.sam(0.1, 0.05, norm) for norm in (10.0, 1.0, 0.1, 0.0)]
    assert lines == sorted(lines, reverse=True)
    g, rho, lr = 0.7, 0.05, 0.1
    published = g / (2 * rho) * (np.sqrt(1 + 8 * rho / (lr * g)) - 1)
    assert edge_of_stability.sam(lr, rho, g) == pytest.approx(published, rel=1e-12)


def test_preconditioned_eigenvalues_are_the_generalised_ones() -> None:
    draw = np.random.default_rng(0)
    x, diagonal = draw.standard_normal((30, 6)), draw.uniform(0.1, 3.0, 6)
    data = torch.tensor(x)
    f = Objective(lambda w: 0.5 * (data @ w.parts[0]).square().mean())
    w, P = Vector([torch.zeros(6)]), Vector([torch.tensor(diagonal)])
    found = top_eigenpairs(Preconditioned(Hessian(f, w), P), k=3, tolerance=1e-8)
    expected = eigh(x.T @ x / 30, np.diag(diagonal), eigvals_only=True)[::-1][:3]
    assert found.values.tolist() == pytest.approx(expected.tolist(), rel=1e-10)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_moves_by_its_average_over_the_preconditioner(kind, amsgrad) -> None:
    model = nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1, amsgrad=amsgrad, weight_decay=0.0)
    for step in range(5):
        before = [param.detach().clone() for param in model.parameters()]
        optimizer.zero_grad()
        (model(torch.randn(4, 3)) * (5 - step)).square().mean().backward()
        optimizer.step()
    P = adam_preconditioner(optimizer, model.parameters())
    for param, old, divisor in zip(model.parameters(), before, P.tensors, strict=True):
        average = optimizer.state[param]["exp_avg"]
        torch.testing.assert_close(old - param.detach(), 0.1 * average / divisor)


def test_what_has_no_preconditioner_is_refused() -> None:
    param = nn.Parameter(torch.ones(2))
    for optimizer in (torch.optim.SGD([param]), torch.optim.Adam([param])):
        with pytest.raises(ValueError, match="optimizer must be an Adam that has made a step"):
            adam_preconditioner(optimizer, [param])
    hessian = Hessian(Objective(lambda w: w.dot(w)), Vector([torch.ones(2)]))
    with pytest.raises(ValueError, match="preconditioner must be positive everywhere, got 0"):
        Preconditioned(hessian, Vector([torch.tensor([1.0, 0.0])]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edge_of_stability.gradient_descent(0.0), r"lr must be > 0, got 0.0"),
        (lambda: edge_of_stability.momentum(0.1, 1.0), r"beta must be in \[0, 1\), got 1.0"),
        (lambda: edge_of_stability.adam(0.1, -0.1), r"beta1 must be in \[0, 1\), got -0.1"),
        (lambda: edge_of_stability.sam(0.1, -1.0, 1.0), r"rho must be >= 0, got -1.0"),
        (lambda: edge_of_stability.sam(0.1, 1.0, -1.0), r"gradient_norm must be >= 0, got -1.0"),
    ],
)
def test_a_line_without_meaning_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
