"""Objectives against closed forms, dense derivatives and the full batch; and what they leave."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatminima import Objective, Vector

SPLITS = {"whole": [23], "two": [16, 7], "ragged": [1, 5, 2, 8, 3, 3, 1]}


def long(v: Vector) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in v.tensors])


def random_like(w: Vector, seed: int = 0) -> Vector:
    return w.randn_like(torch.Generator().manual_seed(seed))


def dense(hvp, w: Vector) -> torch.Tensor:
    """The matrix of a product, column by column."""
    sizes = [part.numel() for part in w.tensors]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=w.tensors[0].dtype):
        rows = unit.split(sizes)
        parts = [row.view(part.shape) for row, part in zip(rows, w.tensors, strict=True)]
        columns.append(long(hvp(Vector(parts))))
    return torch.stack(columns, dim=1)


def batches(x, y, sizes=(23,)):
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def linear_model(features: int, outputs: int):
    model = nn.Linear(features, outputs, bias=False)
    return model, torch.randn(23, features)


def tanh_net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


class Everything(nn.Module):
    """A network with everything that could be disturbed: buffers, masks, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.attend = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.attend(self.drop(self.norm(x)).unflatten(0, (-1, 2))).flatten(0, 1))


# ---------------------------------------------------------------------------------- closed forms


def test_a_quadratic_has_its_value_gradient_and_hessian() -> None:
    matrix = torch.randn(5, 5)
    matrix = matrix + matrix.T
    slope, w, v = torch.randn(5), torch.randn(5), torch.randn(5)
    f = Objective(lambda w: 0.5 * w.parts[0] @ matrix @ w.parts[0] + slope @ w.parts[0])
    point = Vector([w])
    torch.testing.assert_close(f.value(point), 0.5 * w @ matrix @ w + slope @ w)
    torch.testing.assert_close(f.gradient(point).parts[0], matrix @ w + slope)
    torch.testing.assert_close(f.hvp(point, Vector([v])).parts[0], matrix @ v)


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS)
def test_linear_regression_has_the_hessian_of_its_data(sizes) -> None:
    model, x = linear_model(4, 1)
    y = torch.randn(23, 1)
    f, w = Objective.of_model(
        model, lambda x, y: 0.5 * (model(x) - y).square().mean(), batches(x, y, sizes)
    )
    torch.testing.assert_close(dense(lambda v: f.hvp(w, v), w), x.T @ x / 23)


def test_logistic_regression_has_the_hessian_of_its_data() -> None:
    model, x = linear_model(4, 1)
    y = torch.randint(2, (23, 1)).double()
    f, w = Objective.of_model(
        model, lambda x, y: F.binary_cross_entropy_with_logits(model(x), y), batches(x, y)
    )
    share = model(x).sigmoid().detach()
    expected = x.T @ (share * (1 - share) * x) / 23
    torch.testing.assert_close(dense(lambda v: f.hvp(w, v), w), expected)


def test_softmax_regression_has_the_hessian_of_its_data() -> None:
    model, x = linear_model(4, 3)
    y = torch.randint(3, (23,))
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches(x, y))
    shares = model(x).softmax(1).detach()
    expected = sum(
        torch.kron(torch.diag(share) - torch.outer(share, share), torch.outer(row, row))
        for share, row in zip(shares, x, strict=True)
    )
    torch.testing.assert_close(dense(lambda v: f.hvp(w, v), w), expected / 23)


def test_a_network_has_the_derivatives_of_the_function_it_computes() -> None:
    model, x, y = tanh_net(), torch.randn(23, 3), torch.randint(2, (23,))
    f, w = Objective.of_model(
        model, lambda x, y: F.cross_entropy(model(x), y), batches(x, y, [10, 13])
    )
    shapes = [part.shape for part in w.tensors]

    def loss(flat):
        a, b, c, d, e, g = (
            row.view(shape)
            for row, shape in zip(
                flat.split([shape.numel() for shape in shapes]), shapes, strict=True
            )
        )
        hidden = ((x @ a.T + b).tanh() @ c.T + d).tanh()
        return F.cross_entropy(hidden @ e.T + g, y)

    flat = long(w)
    torch.testing.assert_close(f.value(w), loss(flat))
    expected = torch.autograd.functional.hessian(loss, flat)
    torch.testing.assert_close(dense(lambda v: f.hvp(w, v), w), expected)
    step = 1e-5 * random_like(w)
    slope = (f.value(w + step) - f.value(w - step)) / 2
    torch.testing.assert_close(f.gradient(w).dot(step), slope, rtol=1e-8, atol=0)


def test_products_are_symmetric_and_the_same_however_they_are_asked_for() -> None:
    model, x, y = tanh_net(), torch.randn(23, 3), torch.randint(2, (23,))
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches(x, y))
    u, v = random_like(w, 0), random_like(w, 1)
    with f.linearized(w) as product:
        first, second, again = product(u), product(v), product(u)
    torch.testing.assert_close(second.dot(u), first.dot(v))
    assert torch.equal(long(first), long(again))
    torch.testing.assert_close(long(first), long(f.hvp(w, u)))


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS)
def test_products_need_no_grad_mode(sizes) -> None:
    model, x = linear_model(4, 1)
    f, w = Objective.of_model(model, lambda x, y: model(x).square().mean(), batches(x, x, sizes))
    expected = f.hvp(w, w), f.gradient(w)
    with torch.no_grad():
        assert torch.equal(long(f.hvp(w, w)), long(expected[0]))
        assert torch.equal(long(f.gradient(w)), long(expected[1]))
    with f.linearized(w) as product, torch.no_grad():
        assert torch.equal(long(product(w)), long(expected[0]))


def test_a_linear_loss_has_no_curvature() -> None:
    f = Objective(lambda w: w.parts[0].sum())
    w = Vector([torch.ones(3), torch.ones(2)])
    assert f.gradient(w).parts[0].tolist() == [1, 1, 1]
    assert long(f.gradient(w)).tolist() == [1, 1, 1, 0, 0]  # the loss does not depend on the second
    assert not long(f.hvp(w, w)).any()


def test_absent_parts_stay_absent() -> None:
    f = Objective(lambda w: w.dot(w))
    w = Vector([torch.tensor([1.0, 2.0]), None])
    assert f.gradient(w).parts[0].tolist() == [2, 4] and f.gradient(w).parts[1] is None
    assert f.hvp(w, w).parts[0].tolist() == [2, 4] and f.hvp(w, w).parts[1] is None


def test_an_absent_direction_is_zero() -> None:
    f = Objective(lambda w: w.dot(w))
    w = Vector([torch.ones(2), torch.ones(3)])
    along = f.hvp(w, Vector([None, torch.ones(3)]))
    assert long(along).tolist() == [0, 0, 2, 2, 2]


# -------------------------------------------------------------------------------- many batches


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS)
def test_how_the_examples_are_split_changes_nothing(sizes) -> None:
    model, x, y = tanh_net(), torch.randn(23, 3), torch.randint(2, (23,))
    x[-3:] *= 5  # the last rows are unlike the others: an unweighted mean would show

    def loss_fn(x, y):
        return F.cross_entropy(model(x), y)

    whole, w = Objective.of_model(model, loss_fn, batches(x, y))
    split, _ = Objective.of_model(model, loss_fn, batches(x, y, sizes))
    v = random_like(w)
    exact = {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(split.value(w), whole.value(w), **exact)
    torch.testing.assert_close(long(split.gradient(w)), long(whole.gradient(w)), **exact)
    torch.testing.assert_close(long(split.hvp(w, v)), long(whole.hvp(w, v)), **exact)
    assert split.examples == 23


def test_the_count_is_what_the_mean_divides_by() -> None:
    model, x = linear_model(4, 3)
    y = torch.randint(3, (23,))
    y[:9] = -100  # ignored, so that the batches' means divide by other numbers than their lengths

    def loss_fn(x, y):
        return F.cross_entropy(model(x), y)

    f, w = Objective.of_model(
        model, loss_fn, batches(x, y, [10, 13]), count=lambda x, y: int((y != -100).sum())
    )
    torch.testing.assert_close(f.value(w), loss_fn(x, y).detach())
    assert f.examples == 14


def test_passes_over_the_data_are_counted() -> None:
    model, x = linear_model(4, 1)
    f, w = Objective.of_model(model, lambda x: model(x).square().mean(), [(x,)])
    assert f.passes == 0
    f.value(w)
    assert f.passes == 1
    f.gradient(w)
    assert f.passes == 3
    f.hvp(w, w)
    assert f.passes == 7


def test_an_objective_on_other_data_is_the_same_loss_there() -> None:
    model = tanh_net()
    x, y = torch.randn(9, 3), torch.randint(2, (9,))
    f, w = Objective.of_model(model, lambda x, y: F.cross_entropy(model(x), y), batches(x, y, [9]))
    part = f.on([(x[:2], y[:2]), (x[2:5], y[2:5])])
    torch.testing.assert_close(part.value(w), F.cross_entropy(model(x[:5]), y[:5]).detach())
    assert (part.examples, len(part.batches), f.passes) == (5, 2, 0.0)


def test_only_an_objective_of_a_model_has_other_data() -> None:
    with pytest.raises(TypeError, match="objective must be of a model on batches"):
        Objective(lambda w: w.dot(w)).on([(torch.zeros(1),)])


def test_the_loss_with_its_graph_has_the_gradient_of_the_objective() -> None:
    model = tanh_net()
    x, y = torch.randn(9, 3), torch.randint(2, (9,))
    f, w = Objective.of_model(
        model, lambda x, y: F.cross_entropy(model(x), y), batches(x, y, [7, 2])
    )
    point = Vector(part.clone().requires_grad_() for part in w.tensors)
    with f.differentiable() as loss:
        slopes = torch.autograd.grad(loss(point), point.tensors)
    torch.testing.assert_close(long(Vector(slopes)), long(f.gradient(w)))


def test_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False)
            self.two = nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    model, x = Tied(), torch.randn(5, 3)
    f, w = Objective.of_model(model, lambda x: model(x).square().mean(), [(x,)])
    assert len(w) == 1
    moved = w + 0.1 * random_like(w)
    expected = (x @ moved.parts[0].T @ moved.parts[0].T).square().mean()
    torch.testing.assert_close(f.value(moved), expected)


def test_frozen_parameters_are_not_among_the_weights() -> None:
    model = tanh_net()
    model[0].requires_grad_(False)
    f, w = Objective.of_model(model, lambda x: model(x).square().mean(), [(torch.randn(5, 3),)])
    assert len(w) == 4
    assert f.gradient(w).norm() > 0 and not model[0].weight.requires_grad


# --------------------------------------------------------------------------------- no side effects


def state_of(model) -> dict:
    return {
        "tensors": [t.detach().clone() for t in [*model.parameters(), *model.buffers()]],
        "modes": [module.training for module in model.modules()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "trainable": [param.requires_grad for param in model.parameters()],
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "fused attention": torch.backends.cuda.flash_sdp_enabled(),
    }


def assert_same(before: dict, after: dict) -> None:
    for name in ("modes", "trainable", "grad mode", "fused attention"):
        assert before[name] == after[name], name
    assert torch.equal(before["random"], after["random"])
    for a, b in zip(before["tensors"], after["tensors"], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(before["gradients"], after["gradients"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def everything(*, training: bool, batch_norm: str, fail_at: int = 0):
    model = Everything()
    model.train(training)
    model.attend.eval()  # a mode of its own, which must come back
    model.head.weight.grad = torch.ones_like(model.head.weight)
    calls = []

    def loss_fn(x, y):
        calls.append(1)
        loss = F.cross_entropy(model(x), y)
        if len(calls) == fail_at:
            raise KeyError("interrupted")
        return loss

    x, y = torch.randn(12, 8), torch.randint(2, (12,))
    f, w = Objective.of_model(model, loss_fn, batches(x, y, [8, 4]), batch_norm=batch_norm)
    return model, f, w


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_measuring_leaves_the_model_as_it_was(training, batch_norm) -> None:
    model, f, w = everything(training=training, batch_norm=batch_norm)
    before = state_of(model)
    f.value(w), f.gradient(w), f.hvp(w, random_like(w))
    with f.linearized(w) as product:
        product(random_like(w))
    assert_same(before, state_of(model))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("measure", ["value", "gradient", "hvp"])
def test_an_exception_leaves_the_model_as_it_was(training, measure) -> None:
    model, f, w = everything(training=training, batch_norm="batch", fail_at=2)
    before = state_of(model)
    arguments = (w, w) if measure == "hvp" else (w,)
    with pytest.raises(KeyError, match="interrupted"):
        getattr(f, measure)(*arguments)
    assert_same(before, state_of(model))


@pytest.mark.parametrize("sizes", [[12], [8, 4]], ids=["one batch", "two batches"])
def test_masks_and_statistics_are_the_same_at_every_evaluation(sizes) -> None:
    model = Everything()
    x, y = torch.randn(12, 8), torch.randint(2, (12,))
    f, w = Objective.of_model(
        model,
        lambda x, y: F.cross_entropy(model(x), y),
        batches(x, y, sizes),
        batch_norm="batch",
    )
    v = random_like(w)
    assert f.value(w) == f.value(w)
    with f.linearized(w) as product:
        first, second = product(v), product(v)
    assert torch.equal(long(first), long(second))
    step = 1e-5 * v
    change = (long(f.gradient(w + step)) - long(f.gradient(w - step))) / 2e-5
    torch.testing.assert_close(long(first), change, rtol=1e-4, atol=1e-4)


def test_the_policies_for_batch_norm_are_two_objectives() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    batch = (torch.randn(12, 3),)

    def loss_fn(x):
        return model(x).square().mean()

    (a, w), (b, _) = (
        Objective.of_model(model, loss_fn, [batch], batch_norm=policy)
        for policy in ("eval", "batch")
    )
    model.eval()
    torch.testing.assert_close(a.value(w), loss_fn(*batch).detach())
    model.train()
    torch.testing.assert_close(b.value(w), loss_fn(*batch).detach())
    assert abs(a.value(w) - b.value(w)) > 1e-3


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_attention_has_second_derivatives_without_more_ado(training) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
    layer.train(training)
    x = torch.randn(3, 5, 4)
    f, w = Objective.of_model(layer, lambda x: layer(x)[..., 0].square().mean(), [(x,)])
    v = random_like(w)
    change = (f.gradient(w + 1e-5 * v) - f.gradient(w - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(long(f.hvp(w, v)), long(change), rtol=1e-6, atol=1e-6)


def test_float32_stays_float32_and_is_summed_in_float64() -> None:
    model = nn.Linear(2, 1).float()
    x = torch.randn(20_000, 2).float()
    f, w = Objective.of_model(
        model, lambda x: model(x).square().mean(), [(row,) for row in x.split(40)]
    )
    exact = model.double()(x.double()).square().mean().item()
    model.float()
    value, gradient = f.value(w), f.gradient(w)
    assert value.dtype == torch.float32 == gradient.parts[0].dtype
    assert math.isclose(value.item(), exact, rel_tol=2e-7)


# -------------------------------------------------------------------------------------- errors


def test_a_model_must_have_something_to_train() -> None:
    with pytest.raises(ValueError, match="model must have a trainable parameter, got none"):
        Objective.of_model(nn.ReLU(), lambda x: x.mean(), [(torch.ones(1),)])


def test_there_must_be_a_batch() -> None:
    with pytest.raises(ValueError, match="batches must hold at least one batch, got none"):
        Objective.of_model(nn.Linear(1, 1), lambda x: x.mean(), [])


def test_a_batch_must_show_its_size() -> None:
    with pytest.raises(ValueError, match="batches must hold tensors with examples along the first"):
        Objective.of_model(nn.Linear(1, 1), lambda x: x.mean(), [(3.0,)])


@pytest.mark.parametrize(
    ("loss", "got"), [(torch.ones(2), r"shape \(2,\)"), (1.0, "float")], ids=["vector", "number"]
)
def test_an_objective_must_return_one_number(loss, got) -> None:
    with pytest.raises(TypeError, match=f"the objective must return a 0-d tensor, got {got}"):
        Objective(lambda w: loss).value(Vector([torch.ones(1)]))
