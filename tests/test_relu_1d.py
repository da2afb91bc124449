"""ReLU networks on a line: the gradient, the count of kinks, what diverges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flatminima.theory import ReluNets, relu_1d
from flatminima.theory.relu_1d import POINTS, TARGETS, fused, gradient, start, values


def nets(weights, **changes):
    weights = np.array(weights, dtype=float)
    count = len(weights)
    known = {
        "weights": weights, "loss": np.zeros(count), "stopped": np.full(count, -1),
        "diverged": np.full(count, -1), "kept": (), "path": np.empty((0, *weights.shape)),
    }  # fmt: skip
    return ReluNets(**(known | changes))


def by_autograd(weights):
    """The loss and its gradient as torch has them."""
    w = torch.tensor(weights, requires_grad=True)
    x, y = torch.tensor(POINTS), torch.tensor(TARGETS)
    hidden = torch.relu(w[:, 0, None] * x[:, None] + w[:, 1, None])
    loss = 0.5 * (((hidden * w[:, 2, None]).sum(-1) - y) ** 2).sum(-1)
    loss.sum().backward()
    return loss.detach().numpy(), w.grad.numpy()


def test_the_gradient_is_that_of_autograd():
    weights = start(range(5))
    for (ours, g), (theirs, p) in [(gradient(weights), by_autograd(weights))]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        np.testing.assert_allclose(g, p, rtol=1e-12, atol=1e-12 * np.abs(p).max())


def test_the_fused_gradient_is_the_one_written_out():
    weights = start(range(5), hidden=17)
    losses, gradients = gradient(weights)
    slopes, g = fused(17), np.empty((3, 17))
    for w, loss, expected in zip(weights, losses, gradients, strict=True):
        assert slopes(w, g) == pytest.approx(loss, rel=1e-13)
        np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_a_unit_that_rests_on_its_kink_has_no_slope():
    w, g = np.array([[1.0], [-POINTS[3]], [2.0]]), np.empty((3, 1))
    fused(1)(w, g)
    np.testing.assert_allclose(g, by_autograd(w[None])[1][0], rtol=1e-12)
    np.testing.assert_allclose(gradient(w[None])[1], by_autograd(w[None])[1], rtol=1e-12)


def test_a_hundred_steps_of_sam_are_those_of_a_plain_loop():
    w = start([0, 1])
    for step in range(100):
        g = gradient(w)[1]
        length = np.sqrt((g**2).sum(axis=(1, 2), keepdims=True))
        w = w - 5e-5 * (1 - step / 100) * gradient(w + 0.3 * g / length)[1]
    end = relu_1d([0, 1], rho=0.3, steps=100)
    np.testing.assert_allclose(end.weights, w, rtol=1e-9)


def test_a_step_of_sam_is_the_gradient_uphill():
    weights, rho, lr = start([3]), 0.3, 1e-4
    g = by_autograd(weights)[1]
    p = by_autograd(weights + rho * g / np.linalg.norm(g))[1]
    end = relu_1d([3], rho=rho, lr=lr, schedule="constant", steps=1)
    np.testing.assert_allclose(end.weights, weights - lr * p, rtol=1e-12)


def test_the_step_size_of_both_methods_falls_to_nothing():
    one = relu_1d([0], steps=2, lr=1e-4)
    w = start([0])
    w = w - 1e-4 * by_autograd(w)[1]
    w = w - 0.5e-4 * by_autograd(w)[1]
    np.testing.assert_allclose(one.weights, w, rtol=1e-12)


def test_kinks_are_counted_from_the_weights():
    # bends at 0 by 2, at 0.5 by 1 and -1 (which cancel), at -1 by -3; far outside; a dead unit
    weights = [[[1, 1, -1, 1, 1, 0], [0, -0.5, 0.5, 1, -9, 1], [2, 1, -1, -3, 5, 4]]]
    found = nets(weights)
    places, changes = found.bends(0)
    np.testing.assert_allclose(places, [-1, 0])
    np.testing.assert_allclose(changes, [-3, 2])
    assert found.kinks().tolist() == [2]
    assert found.bending.tolist() == [5]


def test_bends_are_the_changes_of_slope_of_the_function():
    found = nets(start([1]))
    places, changes = found.bends(0)
    step = np.diff(places).min() / 4
    sides = found(np.stack([places - step, places, places + step]).ravel()).reshape(3, -1)
    np.testing.assert_allclose((sides[0] - 2 * sides[1] + sides[2]) / step, changes, rtol=1e-4)


def test_near_kinks_are_one_to_the_eye():
    weights = [[[1, 1, 1], [0, 0.004, -0.7], [1, 1, 0.001]]]
    assert nets(weights).kinks().tolist() == [3]
    assert nets(weights).kinks(apart=0.01, share=0.01).tolist() == [1]


def test_a_function_without_bends_has_no_kink():
    assert nets([[[1.0], [50.0], [1.0]]]).kinks().tolist() == [0]


def test_the_sharpness_is_the_hessians_where_the_loss_is_zero():
    weights = start([2], hidden=8)
    targets = torch.tensor(values(weights, POINTS)[0])

    def loss(flat):
        w = flat.reshape(3, 8)
        hidden = torch.relu(w[0] * torch.tensor(POINTS)[:, None] + w[1])
        return 0.5 * (((hidden * w[2]).sum(-1) - targets) ** 2).sum()

    hessian = torch.autograd.functional.hessian(loss, torch.tensor(weights).reshape(-1))
    top = torch.linalg.eigvalsh(hessian)[-1].item()
    assert nets(weights).sharpness[0] == pytest.approx(top, rel=1e-10)


def test_a_network_that_fits_is_left_as_it_is():
    end = relu_1d([0], steps=20_000, schedule="constant", enough=1.0)
    assert 0 < end.stopped[0] < 20_000
    assert 0 < end.loss[0] <= 1.0


def test_a_network_that_diverges_says_when_and_has_no_number():
    end = relu_1d([0, 1], lr=1e-2, steps=500)
    assert (end.diverged > 0).all() and (end.diverged < 500).all()
    assert np.isnan(end.loss).all() and np.isnan(end.weights).all()
    assert end.kinks().tolist() == [-1, -1]
    assert np.isnan(end.sharpness).all() and np.isnan(end.bending).all()


def test_the_path_is_kept_where_it_is_asked_for():
    end = relu_1d([0, 1], steps=10, keep=(5, 10))
    assert end.kept == [5, 10]
    np.testing.assert_array_equal(end.path[-1], end.weights)


def test_the_path_of_a_network_that_is_left_stays_where_it_was_left():
    end = relu_1d([0], steps=10, enough=1e9, keep=(5, 10, 20))
    assert end.stopped.tolist() == [0] and end.kept == [5, 10]
    np.testing.assert_array_equal(end.path, np.stack([start([0])] * 2))


@pytest.mark.parametrize("name", ["rho", "lr", "scale"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_what_makes_no_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be >= 0 and finite, got {value}"):
        relu_1d(steps=1, **{name: value})
