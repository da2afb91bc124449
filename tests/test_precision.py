"""Half precision, compiled models, no waiting for the host; with a GPU, loss scales and graphs too.

On the CPU "no waiting" is shown on the meta device, where a tensor has no values: whoever asks for
one raises.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from family import Case
from members import every_case
from nets import batches, gradients, loss_of, noisy, restored, same_bits, smooth, weights
from torch import Tensor, nn

import flatminima as fm
from flatminima.vector import Vector

gpu = pytest.mark.gpu

RULES = [fm.sam(0.3), fm.usam(0.3), fm.asam(0.3), fm.gsam(0.3), fm.hybrid({fm.Region.STEEPER}, 0.3)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule).partition("(")[0])


def distance(found: list[Any], wanted: list[Any]) -> float:
    """How far apart two vectors are, as a share of the length of the second."""
    one, two = (Vector(part.double().cpu() for part in parts) for parts in (found, wanted))
    return float((one - two).norm() / two.norm())


def to(batch: tuple[Tensor, Tensor], where: Any) -> tuple[Tensor, Tensor]:
    x, y = batch
    return x.to(where), y.to(where) if isinstance(where, str) else y


# ------------------------------------------------------------------------------ other weights


# Weights of 8 bits (bfloat16) or 11 bits (float16) are themselves 4e-3 and 5e-4 off, and so is
# every product; through two layers and two passes that adds up to some ten times as much at most.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 0.0), (torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
    ids=str,
)
@pytest.mark.parametrize("rule", RULES[:4], ids=lambda rule: repr(rule).partition("(")[0])
def test_weights_of_any_precision_get_nearly_the_gradient_of_the_finest(
    rule: object, dtype: torch.dtype, tolerance: float
):
    found = []
    for kind in (dtype, torch.float64):
        model, (batch,) = smooth(kind), batches(1, size=12, dtype=kind)
        with restored(model.parameters()):
            fm.SharpnessAware(model, rule).backward(loss_of(model), *batch)
        assert all(grad.dtype == kind for grad in gradients(model))
        found.append(gradients(model))
    assert distance(*found) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_norm_that_half_precision_cannot_hold_is_right(dtype: torch.dtype):
    v = Vector([torch.full((1000,), 300.0, dtype=dtype)])
    assert v.norm().dtype == torch.float32
    assert v.norm().item() == pytest.approx(300.0 * 1000**0.5, rel=1e-3)
    assert (0.05 / v.norm() * v).norm().item() == pytest.approx(0.05, rel=1e-5)


@pytest.mark.parametrize(
    ("half", "scaled", "tolerance"),
    [(torch.bfloat16, False, 3e-2), (torch.float16, True, 4e-3)],
    ids=["bfloat16", "float16 with a loss scale"],
)
@pytest.mark.parametrize("rule", RULES[:4], ids=lambda rule: repr(rule).partition("(")[0])
def test_training_with_autocast_follows_that_without(
    rule: object, half: torch.dtype, scaled: bool, tolerance: float
):
    assert distance(*trained_twice(rule, half, scaled, "cpu")) <= tolerance


def trained_twice(
    rule: object, half: torch.dtype, scaled: bool, device: str
) -> tuple[list[Tensor], list[Tensor]]:
    """How far the weights went in eight clipped steps with autocast, and without."""
    moved = []
    for cast in (True, False):
        model = smooth(torch.float32).to(device)
        before = weights(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scaler = torch.amp.GradScaler(device, init_scale=2.0**12, enabled=cast and scaled)
        sharp = fm.SharpnessAware(model, rule)

        def loss_fn(x: Tensor, y: Tensor, model: nn.Module = model, cast: bool = cast) -> Tensor:
            with torch.autocast(device, dtype=half) if cast else nullcontext():
                return loss_of(model)(x, y)

        for batch in batches(8, size=12, dtype=torch.float32):
            optimizer.zero_grad()
            sharp.backward(loss_fn, *to(batch, device), scaler=scaler)
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert not (cast and scaled) or scaler.get_scale() == 2.0**12
        moved.append([now - then for now, then in zip(weights(model), before, strict=True)])
    return moved[0], moved[1]


# -------------------------------------------------------------------------------- compiled models


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # of the hook
def test_a_model_that_is_trained_and_evaluated_in_turn_is_compiled_once_for_each():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    inner, data = noisy(), batches(4)
    inner[3].p = 0.0  # a compiled network draws other masks
    eager = copy.deepcopy(inner)
    compiled = torch.compile(inner, backend=counter)
    found = []
    for model in (eager, compiled):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sharp = fm.SharpnessAware(model, fm.gsam(0.3))
        for _ in range(3):
            model.train()
            for batch in data:
                optimizer.zero_grad()
                sharp.backward(loss_of(model), *batch)
                optimizer.step()
            model.eval()
            with torch.no_grad():
                loss_of(model)(*data[0])
        found.append(weights(model))
    torch.testing.assert_close(found[1], found[0])
    assert counter.frame_count == 2


# --------------------------------------------------------------------------- no word from the host

# They decide on the host by what they see, and say so.
ASKING = ("while_large",)


@every_case
def test_no_step_asks_for_a_value(case: Case):
    if case.name.startswith(ASKING):
        pytest.skip(f"{case.name} decides by a value")
    keywords = dict(case.keywords)
    if "m" in keywords:  # `auto` tries both engines on the first batch of a shape, and looks
        keywords["engine"] = "loop"
    model = smooth() if "m" in keywords else noisy()  # normalisation wants more than one example
    model, (batch,) = model.to("meta"), batches(1, size=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sharp = fm.SharpnessAware(model, case.rule(optimizer), **keywords)
    for _ in range(2):  # the second step has a memory
        sharp.backward(loss_of(model), *to(batch, "meta"))
    assert all(grad is not None and grad.is_meta for grad in gradients(model))


def test_the_meta_device_tells_who_asks():
    def asking(look: fm.Look) -> Any:
        g = yield fm.HERE
        return g if g.norm() > 0 else -g

    model, (batch,) = smooth().to("meta"), batches(1)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        fm.SharpnessAware(model, asking).backward(loss_of(model), *to(batch, "meta"))


# --------------------------------------------------------------------------------- with a GPU


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whoever waits for the device inside raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@every_rule
def test_the_host_never_waits_for_the_device(rule: object):
    model, data = noisy(torch.float32).cuda(), batches(3, dtype=torch.float32)
    sharp = fm.SharpnessAware(model, rule)
    on_device = [to(batch, "cuda") for batch in data]
    sharp.backward(loss_of(model), *on_device[0])
    with no_waiting():
        for batch in on_device[1:]:
            sharp.backward(loss_of(model), *batch)


@gpu
@every_rule
def test_a_step_on_the_device_is_that_on_the_cpu(rule: object):
    found = []
    for device in ("cuda", "cpu"):
        model, (batch,) = smooth().to(device), batches(1, size=12)
        with restored(model.parameters()):
            fm.SharpnessAware(model, rule).backward(loss_of(model), *to(batch, device))
        found.append(gradients(model))
    assert distance(*found) <= 1e-10  # float64: the order of the sums differs


@gpu
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_training_with_a_loss_scale_on_the_device_follows_float32(half: torch.dtype):
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 5e-2}[half]
    scaled = half == torch.float16
    assert distance(*trained_twice(fm.sam(0.3), half, scaled, "cuda")) <= tolerance


@gpu
@pytest.mark.parametrize("at", [1, 2])
@every_rule
def test_an_overflow_on_the_device_skips_once_and_halves_once(rule: object, at: int):
    model, (batch,) = noisy(torch.float32).cuda(), batches(1, dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    sharp, calls = fm.SharpnessAware(model, rule), list[int]()

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return loss_of(model)(x, y) * (torch.inf if len(calls) == at else 1.0)

    with restored(model.parameters()):
        sharp.backward(loss_fn, *to(batch, "cuda"), scaler=scaler)
        scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 128.0 and not optimizer.state_dict()["state"]
    optimizer.zero_grad()
    sharp.backward(loss_fn, *to(batch, "cuda"), scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 128.0 and optimizer.state_dict()["state"]


@gpu
@every_rule
def test_a_whole_step_can_be_captured_in_a_graph(rule: object):
    (batch,) = batches(1, size=12, dtype=torch.float32)
    x, y = to(batch, "cuda")
    found = []
    for captured in (True, False):
        model = smooth(torch.float32).cuda()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, capturable=True)
        sharp = fm.SharpnessAware(model, rule)

        def step(
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            sharp: fm.SharpnessAware = sharp,
        ) -> None:
            optimizer.zero_grad(set_to_none=False)
            sharp.backward(loss_of(model), x, y)
            optimizer.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # a warm-up, as capture wants it
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        run: Callable[[], None] = step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            run = graph.replay
        for _ in range(5):
            run()
        found.append(weights(model))
    assert distance(*found) <= 1e-5


@gpu
@pytest.mark.parametrize("rule", RULES[:4], ids=lambda rule: repr(rule).partition("(")[0])
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_model_that_is_compiled_for_the_device_gives_the_same_gradients(rule: object):
    torch._dynamo.reset()
    eager, data = smooth(torch.float32).cuda(), batches(3, size=12, dtype=torch.float32)
    found = []
    for model in (eager, torch.compile(copy.deepcopy(eager))):
        sharp = fm.SharpnessAware(model, rule)
        with restored(model.parameters()):
            for batch in data:
                sharp.backward(loss_of(model), *to(batch, "cuda"))
        found.append(gradients(model))
    assert distance(*found) <= 1e-4  # float32, in another order


@gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_step_that_is_compiled_for_the_device_gives_the_same_gradients(mode: str):
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        model, data = smooth(torch.float32).cuda(), batches(3, dtype=torch.float32)
        sharp = fm.SharpnessAware(model, fm.gsam(0.3))
        step = sharp.compiled(loss_of(model), mode=mode) if compiled else None
        for batch in data:
            moved = to(batch, "cuda")
            step(*moved) if step else sharp.backward(loss_of(model), *moved)
        found.append(gradients(model))
    assert distance(*found) <= 1e-4  # float32, in another order


class Long(nn.Module):
    """Eight long vectors; the forward pass makes nothing that is as long as they are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.rows = nn.ParameterList(torch.randn(1, size) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        return sum(((x @ row.T).square().mean() for row in self.rows), start=x.new_zeros(()))


@gpu
def test_plain_sam_on_the_device_needs_the_copy_and_one_gradient():
    """Beside the weights: their copy, and `g` until it is added, then `p`; and some of a part."""
    model = Long(2**20).float().cuda()
    x = torch.randn(2, 2**20, device="cuda", dtype=torch.float32) / 2**20
    size = sum(param.nbytes for param in model.parameters())
    sharp = fm.SharpnessAware(model, fm.sam(0.1))
    sharp.backward(model, x)  # what is kept from step to step, and the library's own memory
    model.zero_grad()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    sharp.backward(model, x)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= 1.5 * size


@gpu
def test_parts_on_several_devices_have_one_norm():
    one, two = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    v = Vector([one, two.cuda()])
    assert v.norm().item() == 5.0 and v.dot(v).item() == 25.0 and v.dot(v + v).item() == 50.0
    assert (0.1 / v.norm() * v).norm().item() == pytest.approx(0.1)
    assert [part.device.type for part in (v / v.norm()).parts] == ["cpu", "cuda"]


@gpu
def test_a_multiple_by_zero_on_the_device_is_zero():
    w = torch.tensor([1.0, 2.0], device="cuda")
    v = Vector([torch.tensor([torch.inf, torch.nan], device="cuda")])
    nothing = torch.zeros((), device="cuda") * v
    assert same_bits(nothing.parts[0], torch.zeros(2, device="cuda"))
    (torch.zeros((), device="cuda") * v).add_to([w])
    assert w.tolist() == [1.0, 2.0]
