"""How many buffers of the size of the weights a step needs, counted, each ceiling with its reason.

Every operation of a step is watched, and the storage of each result is counted for as long as it
lives. The network's activations and its loss are small beside its weights, so that whatever is as
large as the weights belongs to the step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import flatminima as fm

WIDE = 4096
GROUPS = 8  # parameters of a large network, none of which is much of the whole


class Watch(TorchDispatchMode):
    """The bytes of the tensors that were made inside and are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.references: dict[int, weakref.ref[Any]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(s) for s in map(storage, tensors((args, kwargs or {}))) if s is not None}
        result = func(*args, **(kwargs or {}))
        for tensor in tensors(result):
            made = storage(tensor)
            if made is not None and id(made) not in known and id(made) not in self.alive:
                self.count(made)
        self.peak = max(self.peak, self.now)
        return result

    def count(self, made: torch.UntypedStorage) -> None:
        key = id(made)
        self.alive[key] = made.nbytes()

        def forget(_: Any) -> None:
            self.alive.pop(key, None)
            self.references.pop(key, None)

        self.references[key] = weakref.ref(made, forget)

    @property
    def now(self) -> int:
        return sum(self.alive.values())


def tensors(tree: Any) -> Iterable[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from tensors(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors(item)


def storage(tensor: Tensor) -> torch.UntypedStorage | None:
    return tensor.untyped_storage() if tensor.layout == torch.strided else None


class Long(nn.Module):
    """Several long vectors; the forward pass makes nothing that is as long as they are."""

    def __init__(self, sizes: Iterable[int]) -> None:
        super().__init__()
        self.rows = nn.ParameterList(torch.randn(1, size) for size in sizes)
        self.x = [torch.randn(2, row.shape[1]) / row.shape[1] for row in self.rows]

    def loss(self) -> Tensor:
        rows = zip(self.x, self.rows, strict=True)
        return sum((x @ row.T).tanh().square().mean() for x, row in rows)


def buffers(
    rule: object,
    *,
    sizes: Iterable[int] = (WIDE,) * GROUPS,
    target: Callable[[Long], Any] = lambda model: model,
    scaler: torch.amp.GradScaler | None = None,
    **keywords: Any,
) -> tuple[float, float]:
    """The most that a step holds besides `.grad`: during its further passes, and at any time.

    Both are in multiples of the weights. Within a pass, `.grad` is what the pass makes; at any
    other time it is the direction that will be put there. The copy of the weights, which is kept
    from step to step, counts at any time.
    """
    model = Long(sizes)
    size = sum(param.numel() * param.element_size() for param in model.parameters())
    sharp = fm.SharpnessAware(target(model), rule, **keywords)
    passes: list[int] = []

    def loss_fn() -> Tensor:
        passes.append(watch.now)
        return model.loss()

    with Watch() as watch:
        sharp.backward(loss_fn, scaler=scaler)
        for param in model.parameters():
            param.grad = None
        passes.clear()
        watch.peak = watch.now  # the second step is measured: buffers that are kept are there
        sharp.backward(loss_fn, scaler=scaler)
    assert len(passes) > 1 and watch.now >= size  # it did watch, and it saw the gradients
    return max(passes) / size, (watch.peak - size) / size


SLACK = 0.01  # numbers and activations


@pytest.mark.parametrize(
    "rule",
    [
        fm.sam(0.1),
        fm.usam(0.1),
        fm.periodic(fm.sam(0.1), every=1),
        fm.window(fm.sam(0.1), steps=1),
        fm.with_probability(fm.sam(0.1), 1.0),
        fm.while_large(fm.sam(0.1)),
    ],
    ids=str,
)
def test_plain_sam_needs_one_buffer_beyond_the_gradients(rule: object):
    """The copy of the weights. The first gradient is let go of before the second pass makes its
    own, and the displacement is a multiple of it that is never written out."""
    during, ever = buffers(rule)
    assert during <= 1.0 + SLACK
    assert ever <= 1.0 + SLACK


@pytest.mark.parametrize(
    "rule", [fm.asam(0.1), fm.sam(0.1, p=1.5), fm.previous_batch(0.1)], ids=str
)
def test_a_displacement_of_another_shape_is_let_go_of_before_the_pass(rule: object):
    """During the pass, the copy of the weights. Before it, when there is no graph and there are no
    activations, the displacement, what it is made of besides the gradient, and two temporaries of
    one parameter."""
    during, ever = buffers(rule)
    assert during <= 1.0 + SLACK
    assert ever <= 3.0 + 2.0 / GROUPS + SLACK


@pytest.mark.parametrize(
    "rule",
    [
        fm.gsam(0.1),
        fm.gradient_norm_penalty(0.1),
        fm.hybrid({fm.Region.STEEPER}, 0.1),
        fm.same({fm.Region.GENTLER: 0.5}, 0.1),
        fm.saner(0.1),
        fm.perturbed_magnitude(0.1),
        fm.perturbed_direction(0.1),
        fm.clipped(0.1),
    ],
    ids=str,
)
def test_a_combination_needs_two_buffers_beyond_the_gradients(rule: object):
    """During the pass, the copy of the weights and the first gradient. After it, when the graph and
    the activations are gone, the second gradient beside the direction, and one vector in between
    (the part of `g` that is orthogonal to `p`, the factors)."""
    during, ever = buffers(rule)
    assert during <= 2.0 + SLACK
    assert ever <= 4.0 + SLACK


def test_a_loss_scale_needs_no_further_buffer():
    """The scaled gradient of the first pass is of no use in the second one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    during, ever = buffers(fm.sam(0.1), scaler=scaler)
    assert during <= 1.0 + SLACK
    assert ever <= 1.0 + SLACK


@pytest.mark.parametrize("steps", [2, 5])
def test_several_steps_uphill_need_two_buffers_however_many(steps: int):
    """The copy of the weights and the displacement so far."""
    during, _ = buffers(fm.multi_step(0.1, steps=steps))
    assert during <= 2.0 + SLACK


def test_the_second_order_term_needs_four_buffers():
    """The copy of the weights, SAM's gradient, where the Hessian is applied, and one side of it."""
    during, _ = buffers(fm.second_order_sam(0.1))
    assert during <= 4.0 + SLACK


@pytest.mark.parametrize("rule", [fm.sam(0.1), fm.asam(0.1), fm.sam(0.1, p=1.5)], ids=str)
def test_what_is_not_displaced_is_not_copied(rule: object):
    """A thousandth of the weights moves: a thousandth is stored, besides the gradients."""
    large = WIDE * 256
    sizes = (large, large // 1000)
    during, ever = buffers(
        rule,
        sizes=sizes,
        target=lambda model: [
            {"params": [model.rows[0]], "rho": 0.0},
            {"params": [model.rows[1]]},
        ],
    )
    assert during <= 0.001 + 0.001
    assert ever <= 0.005


@pytest.mark.parametrize(
    "rule", [fm.sam(0.1), fm.asam(0.1), fm.gsam(0.1), fm.sam(0.1, p=1.5)], ids=str
)
def test_what_is_frozen_is_not_copied(rule: object):
    """A small head on a large frozen network costs what the head costs."""
    large = WIDE * 256
    model = Long((large, large // 1000))
    model.rows[0].requires_grad_(False)
    sharp = fm.SharpnessAware(model, rule)
    with Watch() as watch:
        sharp.backward(model.loss)
    assert 0 < watch.peak <= 0.01 * large * model.rows[0].element_size()


def test_the_copy_is_kept_from_step_to_step_and_nothing_else():
    """A buffer that is made anew at every step costs more time than room."""
    model = Long((WIDE,) * GROUPS)
    size = sum(param.numel() * param.element_size() for param in model.parameters())
    sharp = fm.SharpnessAware(model, fm.gsam(0.1))
    with Watch() as watch:
        for _ in range(3):
            sharp.backward(model.loss)
            for param in model.parameters():
                param.grad = None
            kept = watch.now / size
            assert 1.0 <= kept <= 1.0 + SLACK


def test_the_count_counts():
    with Watch() as watch:
        one = torch.zeros(100, dtype=torch.float32)
        two = one.view(10, 10) + 1.0
        two.add_(1.0)
        assert watch.now == 800
        del one
        assert watch.now == 400 and watch.peak == 800
