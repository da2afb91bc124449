"""The batched engine of m-SAM against the loop over the groups, in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import same_bits
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import flatminima as fm
from flatminima.engine.batched.cost import forced

EXAMPLES = 10
CLASSES = 3
EXACT = 1e-10


class Bag(nn.Module):
    """A bag of words."""

    def __init__(self, mode: str = "mean") -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(11, 5, mode=mode)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).tanh())


class Residual(nn.Module):
    """One module called twice, a layer scale, a class token and a positional table."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.places = nn.Parameter(torch.randn(1, 9, 6))
        self.scale = nn.Parameter(torch.rand(6))
        self.inner = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU())
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.places[:, : x.shape[1]]
        x = x + self.scale * self.inner(x)
        x = x + self.inner(x) * self.scale
        x = x + 0.1 * self.inner(x).relu_()
        return self.head(x[:, 0])


class Language(nn.Module):
    """A small language model with a head that shares the embedding's weights."""

    def __init__(self, layer: nn.Module | None = None, *, first: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8, padding_idx=0)
        self.places = nn.Embedding(7, 8)
        attention = nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, activation="gelu", batch_first=first, norm_first=True
        )
        self.layer = layer or attention
        self.first = first
        self.norm = nn.RMSNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        y = y if self.first else y.transpose(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        y = self.layer(y, src_mask=mask)
        y = y if self.first else y.transpose(0, 1)
        return self.head(self.norm(y))


class Cross(nn.Module):
    """Attention from learned queries: three weights packed in one, with inputs of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(2, 6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.other = nn.MultiheadAttention(6, 1, kdim=6, vdim=5, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(len(x), -1, -1)
        y, _ = self.attention(queries, x, x, need_weights=False)
        z, _ = self.other(y, x, x[..., :5])
        return self.head(z.mean(1))


class LowRank(nn.Module):
    """A frozen matrix with a product of two thin ones beside it, and a bare matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4), requires_grad=False)
        self.left, self.right = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 4))
        self.out = nn.Parameter(torch.randn(5, CLASSES))
        self.temperature = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.weight + self.left @ self.right).tanh()
        return (y @ self.out) * self.temperature.exp()


class Cell(nn.Module):
    """A recurrent net: two layers called once for every step of time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 6)
        for step in x.unbind(1):
            state = torch.tanh(self.inner(state) + self.outer(step))
        return self.head(state)


def images(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES))


def conv_nets(norm: Callable[[], nn.Module]) -> nn.Sequential:
    return images(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        norm(),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2, dilation=2, padding=2, groups=2),
        norm(),
        nn.SiLU(),
        nn.Conv2d(4, 4, 1),
        nn.Tanh(),
    )


SHAPES = {"rows": (6,), "sequence": (4, 6), "image": (3, 7, 6)}
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, CLASSES)), "rows"),
    "in place": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, CLASSES)),
        "rows",
    ),
    "conv, group norm": (lambda: conv_nets(lambda: nn.GroupNorm(2, 4)), "image"),
    "conv, batch norm": (lambda: conv_nets(lambda: nn.BatchNorm2d(4)), "image"),
    "conv, cumulative": (lambda: conv_nets(lambda: nn.BatchNorm2d(4, momentum=None)), "image"),
    "depthwise": (
        lambda: images(
            nn.Conv2d(3, 6, 3, groups=3, padding="same"), nn.Tanh(), nn.Conv2d(6, 5, (1, 2), (2, 1))
        ),
        "image",
    ),
    "even kernel": (
        lambda: images(
            nn.Conv2d(3, 4, 4, padding="same", padding_mode="reflect"),
            nn.InstanceNorm2d(4, affine=True),
        ),
        "image",
    ),
    "conv 1d": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 5, 3, stride=2, padding=1, dilation=2), nn.Tanh(), nn.Flatten(),
            nn.LazyLinear(CLASSES),
        ),
        "sequence",
    ),
    "conv 3d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, (2, 3, 3), (1, 2, 1), (1, 0, 1)), nn.Tanh(),
            nn.Conv3d(4, 3, 1, stride=2), nn.Flatten(), nn.LazyLinear(CLASSES),
        ),
        "image",
    ),
    "residual": (Residual, "sequence"),
    "bag of words": (Bag, "bag"),
    "sum of words": (lambda: Bag("sum"), "bag"),
    "language, tied": (Language, "tokens"),
    "language, time first": (lambda: Language(first=False), "tokens"),
    "cross attention": (Cross, "sequence"),
    "encoder": (
        lambda: nn.Sequential(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True), 2),
            nn.Flatten(), nn.LazyLinear(CLASSES),
        ),
        "sequence",
    ),
    "low rank": (LowRank, "rows4"),
    "recurrent": (Cell, "sequence"),
    "weight norm": (
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, CLASSES)
        ),
        "rows",
    ),
}  # fmt: skip


TRACEABLE = [name for name in ARCHITECTURES if name != "conv, cumulative"]


def batch_of(kind: str, examples: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    if kind == "tokens":
        x = torch.randint(11, (examples, 5))
        y = torch.where(torch.rand(examples, 5) < 0.3, -100, x.roll(-1, 1))
        return x, y
    if kind == "bag":
        return torch.randint(11, (examples, 4)), torch.randint(CLASSES, (examples,))
    shape = (4,) if kind == "rows4" else SHAPES[kind]
    return torch.randn(examples, *shape), torch.randint(CLASSES, (examples,))


def made(name: str, examples: int = EXAMPLES) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    build, kind = ARCHITECTURES[name]
    model, batch = build(), batch_of(kind, examples)
    model.eval()(batch[0])  # lazy layers learn their size
    return model.train(), batch


def loss_of(model: nn.Module) -> Callable[..., Tensor]:
    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        out = model(x)
        return functional.cross_entropy(out.flatten(0, -2), y.flatten())

    return loss_fn


def stepped(
    sharp: fm.SharpnessAware, model: nn.Module, batch: Any, steps: int = 2, *, whole: bool = False
) -> list[Any]:
    """What some steps give and leave: losses, directions, buffers; or some compiled steps."""
    seen: list[Any] = []
    loss_fn = loss_of(model)
    compiled = sharp.compiled(loss_fn, backend="eager") if whole else None
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        loss = compiled(*batch) if compiled else sharp.backward(loss_fn, *batch)
        seen.append((loss, [param.grad for param in model.parameters()]))
        with torch.no_grad():
            for param in model.parameters():
                if param.grad is not None:
                    param -= 0.1 * param.grad
    return [*seen, [buffer.clone() for buffer in model.buffers()]]


def assert_close(one: Any, two: Any, tolerance: float = EXACT) -> None:
    """Losses and buffers by themselves; gradients relative to the whole direction."""
    for (loss, grads), (other, others) in zip(one[:-1], two[:-1], strict=True):
        assert abs(loss - other) <= tolerance * abs(other)
        size = torch.stack([grad.norm() for grad in others if grad is not None]).norm()
        for grad, expected in zip(grads, others, strict=True):
            assert (grad is None) == (expected is None)
            if grad is not None:
                assert (grad - expected).norm() <= tolerance * size
    for buffer, expected in zip(one[-1], two[-1], strict=True):
        buffer = buffer.to(expected.dtype)
        assert torch.allclose(buffer, expected, rtol=tolerance, atol=tolerance)


def compare(name: str, m: int, rule: Any = None, examples: int = EXAMPLES, **options: Any) -> None:
    model, batch = made(name, examples)
    other = copy.deepcopy(model)
    rule = rule or fm.sam(0.3)
    sharp = fm.SharpnessAware(model, rule, m=m, engine="batched", **options)
    got = stepped(sharp, model, batch)
    expected = stepped(fm.SharpnessAware(other, rule, m=m, engine="loop"), other, batch)
    assert_close(got, expected)


def slow(value: Any) -> Any:
    """A value that is tried in the slow suite only."""
    return pytest.param(value, marks=pytest.mark.slow)


every_choice = pytest.mark.parametrize("choice", ["rows", slow("dense")])


@every_choice
@pytest.mark.parametrize("m", [1, slow(3), 4, slow(EXAMPLES)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_batched_engine_is_the_loop(name: str, m: int, choice: Any):
    with forced(choice):
        compare(name, m)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_large_groups_and_a_rest_are_the_loops(name: str):
    compare(name, 16, examples=35)


RULES = [
    fm.sam(0.3, p=float("inf")),
    fm.usam(0.3),
    *(fm.asam(0.3, scale=scale) for scale in ("element", "filter", "layer")),
    fm.asam(0.3, scale="filter", p=float("inf")),
]


@pytest.mark.parametrize("m", [1, slow(4)])
@pytest.mark.parametrize("name", [name if name == "mlp" else slow(name) for name in TRACEABLE])
def test_a_step_that_is_compiled_as_a_whole_is_the_loop(name: str, m: int):
    torch._dynamo.reset()
    model, batch = made(name)
    other = copy.deepcopy(model)
    got = stepped(sharp := fm.SharpnessAware(model, fm.sam(0.3), m=m), model, batch, whole=True)
    assert_close(
        got, stepped(fm.SharpnessAware(other, fm.sam(0.3), m=m, engine="loop"), other, batch)
    )
    assert sharp.group_norms is not None and len(sharp.group_norms) == -(-EXAMPLES // m)


@every_choice
@pytest.mark.parametrize("name", ["mlp", "residual", "conv, group norm", "language, tied"])
@pytest.mark.parametrize("m", [1, slow(4)])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule).partition(" =")[0])
def test_every_geometry_is_the_loops(rule: Any, m: int, name: str, choice: Any):
    with forced(choice):
        compare(name, m, rule)


@pytest.mark.parametrize("name", ["conv, batch norm", "language, tied"])
def test_a_memory_limit_changes_nothing(name: str):
    compare(name, 1, memory_limit=20000.0)
    compare(name, 3, memory_limit=1.0)


@pytest.mark.parametrize("name", ["mlp", "residual", "weight norm"])
def test_it_works_where_gradients_are_switched_off(name: str):
    found = []
    for switched_off in (False, True):
        model, batch = made(name)
        sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
        with torch.set_grad_enabled(not switched_off):
            sharp.backward(loss_of(model), *batch)
        found.append([param.grad for param in model.parameters()])
    assert same_bits(*found)


def test_an_input_that_was_written_to_is_computed_again():
    model, (x, y) = made("mlp")
    first = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            x.mul_(2.0).div_(2.0)  # the same numbers, for all that the engine may know
        return loss_of(model)(x, y)

    first.backward(loss_fn, x, y)
    got = [param.grad.clone() for param in model.parameters()]
    model.zero_grad()
    fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="loop").backward(loss_of(model), x, y)
    for param, grad in zip(model.parameters(), got, strict=True):
        assert torch.allclose(param.grad, grad, rtol=1e-10, atol=1e-14)


def test_a_schedule_and_radii_of_groups_are_followed():
    model, batch = made("residual")
    other = copy.deepcopy(model)
    seen = []
    for net, engine in ((model, "batched"), (other, "loop")):
        named = dict(net.named_parameters())
        groups = [
            {"params": [named.pop("scale"), named.pop("inner.1.weight")], "rho": 0.0},
            {"params": [named.pop("places")], "rho": 1.0},
            {"params": list(named.values())},
        ]
        rule = fm.sam(lambda step: 0.1 * (step + 1))
        seen.append(stepped(fm.SharpnessAware(groups, rule, m=3, engine=engine), net, batch))
    assert_close(*seen)


def test_norms_of_the_groups_are_those_of_their_gradients():
    model, batch = made("language, tied")
    sharp = fm.SharpnessAware(model, fm.sam(0.1), m=4, engine="batched")
    sharp.backward(loss_of(model), *batch)
    params = list(model.parameters())
    for j, norm in enumerate(sharp.group_norms):
        part = [tensor[4 * j : 4 * j + 4] for tensor in batch]
        grads = torch.autograd.grad(loss_of(model)(*part), params)
        assert torch.allclose(torch.stack([grad.norm() for grad in grads]).norm(), norm)


def test_the_loop_has_no_norms_to_hand_out():
    model, batch = made("mlp")
    sharp = fm.SharpnessAware(model, fm.sam(0.1), m=4, engine="loop")
    sharp.backward(loss_of(model), *batch)
    assert sharp.group_norms is None


def test_a_group_without_a_gradient_does_not_move():
    model, (x, y) = made("mlp")

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        losses = functional.cross_entropy(model(x), y, reduction="none")
        return (losses * (x[:, 0] != 0)).mean()

    x[2:4] = 0
    sharp = {
        engine: fm.SharpnessAware(model, fm.sam(0.3), m=2, engine=engine)
        for engine in ("batched", "loop")
    }
    grads = []
    for engine in sharp.values():
        model.zero_grad()
        engine.backward(loss_fn, x, y)
        grads.append(torch.cat([param.grad.flatten() for param in model.parameters()]))
    assert sharp["batched"].group_norms[1] == 0
    assert (grads[0] - grads[1]).norm() <= EXACT * grads[1].norm()


def test_a_gradient_that_is_not_finite_makes_the_direction_so():
    model, (x, y) = made("mlp")
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    sharp.backward(loss_of(model), x, y)
    model.zero_grad()
    before = [param.clone() for param in model.parameters()]
    x[0] = torch.inf
    sharp.backward(loss_of(model), x, y)
    assert not all(param.grad.isfinite().all() for param in model.parameters())
    assert same_bits(before, [param.detach() for param in model.parameters()])


def test_a_scaler_scales_the_direction_and_not_the_displacement():
    model, batch = made("conv, group norm")
    grads, norms = [], []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=256.0)):
        model.zero_grad()
        for rule in (fm.sam(0.3), fm.usam(0.3)):
            sharp = fm.SharpnessAware(model, rule, m=2, engine="batched")
            sharp.backward(loss_of(model), *batch, scaler=scaler)
            norms.append(sharp.group_norms)
        grads.append(torch.cat([param.grad.flatten() for param in model.parameters()]))
    assert all(torch.allclose(norm, norms[0]) for norm in norms)
    assert torch.allclose(256.0 * grads[0], grads[1])


SMOOTH = [
    *("mlp", "conv, group norm", "conv, batch norm", "depthwise", "conv 1d", "conv 3d"),
    *("residual", "bag of words", "language, tied", "cross attention", "weight norm"),
]


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("m", [1, slow(3), 4, slow(16)])
def test_single_precision_agrees_on_smooth_activations(name: str, m: int):
    model, batch = made(name, 35 if m == 16 else EXAMPLES)
    for layer in list(model.modules()):
        for key, child in layer.named_children():
            if isinstance(child, nn.ReLU):
                setattr(layer, key, nn.GELU())
    model = model.float()
    batch = tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in batch)
    double = copy.deepcopy(model).double()
    doubles = [tensor.double() if tensor.is_floating_point() else tensor for tensor in batch]
    sharp = fm.SharpnessAware(model, fm.sam(0.05), m=m, engine="batched")
    got = stepped(sharp, model, batch, steps=1)
    loop = fm.SharpnessAware(double, fm.sam(0.05), m=m, engine="loop")
    expected = stepped(loop, double, doubles, steps=1)
    assert_close(got, expected, 1e-5)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_normalisation_that_is_called_twice_sees_the_groups_in_order(momentum: float | None):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4, momentum=momentum)
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), norm, nn.Linear(4, CLASSES)).double()
    other = copy.deepcopy(model)
    batch = torch.randn(6, 4, dtype=torch.float64), torch.randint(CLASSES, (6,))
    got = stepped(fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched"), model, batch)
    loop = fm.SharpnessAware(other, fm.sam(0.3), m=2, engine="loop")
    assert_close(got, stepped(loop, other, batch))


@pytest.mark.parametrize("name", ["mlp", "conv, group norm", "residual"])
@pytest.mark.parametrize("choice", ["rows", "dense"])
def test_autocast_is_as_close_to_double_precision_as_the_loop(name: str, choice: Any):
    model, batch = made(name)
    model = model.float()
    batch = tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in batch)
    double = copy.deepcopy(model).double()
    doubles = [tensor.double() if tensor.is_floating_point() else tensor for tensor in batch]
    loop = fm.SharpnessAware(double, fm.sam(0.05), m=2, engine="loop")
    loop.backward(loss_of(double), *doubles)
    expected = torch.cat([param.grad.flatten() for param in double.parameters()])

    def autocast(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(model)(x, y)

    far = {}
    for engine in ("loop", "batched"):
        model.zero_grad()
        with forced(choice):
            fm.SharpnessAware(model, fm.sam(0.05), m=2, engine=engine).backward(autocast, *batch)
        got = torch.cat([param.grad.flatten() for param in model.parameters()])
        assert got.dtype == torch.float32
        far[engine] = float((got - expected).norm() / expected.norm())
    assert far["batched"] <= 2 * far["loop"] + 1e-3


def test_both_passes_drop_the_same_and_leave_the_random_state_of_one():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    batch = batch_of("rows")
    sharp = fm.SharpnessAware(model, fm.sam(0.1), m=2, engine="batched")
    sharp.backward(loss_of(model), *batch)
    masks: list[Tensor] = []
    model[1].register_forward_hook(lambda module, args, out: masks.append(out == 0))
    torch.manual_seed(5)
    sharp.backward(loss_of(model), *batch)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    model(batch[0])
    assert torch.equal(masks[0], masks[1]) and 0 < masks[0].sum() < masks[0].numel()
    assert torch.equal(after, torch.get_rng_state())


def test_a_rehearsal_leaves_no_trace():
    model, batch = made("conv, batch norm")
    model.append(nn.Dropout(0.5))
    buffers = [buffer.clone() for buffer in model.buffers()]
    torch.manual_seed(3)
    random = torch.get_rng_state()

    def refused(x: Tensor, y: Tensor) -> Tensor:
        loss_of(model)(x, y)
        raise ArithmeticError("no loss today")

    sharp = fm.SharpnessAware(model, fm.sam(0.1), m=2, engine="batched")
    with pytest.raises(ArithmeticError):
        sharp.backward(refused, *batch)
    assert same_bits(buffers, [buffer.clone() for buffer in model.buffers()])
    assert torch.equal(random, torch.get_rng_state())


def test_accumulation_adds_up():
    model, batch = made("conv, group norm")
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    whole = [tensor[:8] for tensor in batch]
    sharp.backward(loss_of(model), *whole)
    expected = [param.grad.clone() for param in model.parameters()]
    model.zero_grad()
    for half in ([tensor[:4] for tensor in whole], [tensor[4:] for tensor in whole]):
        sharp.backward(lambda x, y: 0.5 * loss_of(model)(x, y), *half)
    for param, grad in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(param.grad, grad, rtol=1e-10, atol=1e-14)


def test_only_one_backward_pass_reaches_the_parameters():
    model, batch = made("language, tied")
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    sharp.backward(loss_of(model), *batch)
    calls: list[int] = []
    for param in model.parameters():
        param.register_post_accumulate_grad_hook(lambda param: calls.append(id(param)))
    model.zero_grad()
    sharp.backward(loss_of(model), *batch)
    assert sorted(calls) == sorted(id(param) for param in model.parameters())


def test_a_compiled_model_is_seen_as_it_was_written():
    model, batch = made("mlp")
    compiled = torch.compile(model, backend="eager")
    sharp = fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="batched")
    sharp.backward(loss_of(compiled), *batch)
    got = [param.grad.clone() for param in model.parameters()]
    model.zero_grad()
    fm.SharpnessAware(model, fm.sam(0.3), m=2, engine="loop").backward(loss_of(model), *batch)
    for param, grad in zip(model.parameters(), got, strict=True):
        assert torch.allclose(param.grad, grad)
