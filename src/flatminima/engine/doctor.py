"""What a sharpness-aware step does to the user's own model on their own batch, measured.

The weights must be displaced as the rule wants (low precision may swallow the displacement), and
come back; running statistics must see the batch once, and the random state must be that after one
pass. Two steps are tried without the optimizer's, and nothing of them stays.
"""

# It looks into the engine, which is its business.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flatminima.engine.backward import SharpnessAware
from flatminima.engine.groups import examples, groups
from flatminima.engine.noise import Noise
from flatminima.engine.observe import Step
from flatminima.engine.optimizer import SharpnessAwareOptimizer
from flatminima.engine.passes import Call, LossFn
from flatminima.rules.rule import Here, spelled
from flatminima.vector import Vector

__all__ = ["Displaced", "Findings", "doctor"]

ENOUGH = 0.99  # of the coordinates: below, somebody should know
TINY = 1e-6  # of the largest displacement: what is to move by less does not count
STEPS = 2
ROUNDED = ", or hand over rounding='stochastic'"


@dataclass(frozen=True, kw_only=True)
class Displaced:
    """How one parameter was displaced.

    `wanted` and `realised` are norms, in the unit of the weights; `moved` is the share of the
    coordinates to be moved that did move, `None` if there were none. Those that are to move by less
    than a millionth of the largest displacement do not count.
    """

    name: str
    dtype: str
    size: int
    wanted: float
    realised: float
    moved: float | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What `doctor` found; it prints as a report.

    Args:
        rule: The rule, as it is called.
        gradients: Gradients per step.
        parameters: How each parameter was displaced; empty if the rule did not look uphill.
        moved: The share of the coordinates to be moved that moved; `None` without displacement.
        cosine: Between the displacement that was wanted and that which the weights made of it.
        length: The norm of what was realised, as a multiple of what was wanted.
        weights_return: Whether the weights came back bit for bit.
        buffers_moved: The buffers that a plain pass changes, such as running statistics.
        buffers_once: Whether a step changes buffers as one plain pass does.
        draws_noise: Whether the loss draws random numbers, as dropout does.
        same_noise: Whether all passes draw the same ones.
        random_state_once: Whether a step leaves the random state that one plain pass leaves.
        m: Examples per perturbation.
        batch: Examples in the batch; `None` if nobody can tell.
        seconds: Of the quickest step.
        plain_seconds: Of the quickest plain forward and backward pass.
        kept_bytes: Copies of weights that are kept from step to step.
        peak_bytes: The most memory allocated during a step, beyond what was there before; `None`
            where that is not counted (on the CPU).
        plain_peak_bytes: The same of a plain pass.
        doubts: What should be looked at, in sentences; empty if all is well.
    """

    rule: str
    gradients: float
    parameters: tuple[Displaced, ...]
    moved: float | None
    cosine: float | None
    length: float | None
    weights_return: bool
    buffers_moved: tuple[str, ...]
    buffers_once: bool
    draws_noise: bool
    same_noise: bool
    random_state_once: bool
    m: int | None
    batch: int | None
    seconds: float
    plain_seconds: float
    kept_bytes: int
    peak_bytes: int | None
    plain_peak_bytes: int | None
    doubts: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            ("rule", f"{self.rule}: {self.gradients:g} gradients per step"),
            ("displacement", _of_displacement(self)),
            ("weights", "come back bit for bit" if self.weights_return else "DO NOT COME BACK"),
            ("buffers", _of_buffers(self)),
            ("noise", _of_noise(self)),
            ("m", _of_m(self)),
            ("time", f"{self.seconds / self.plain_seconds:.2f} times a plain pass"),
            ("memory", _of_memory(self)),
        ]
        lines = [f"{name:13} {text}" for name, text in rows]
        lines += [f"{'DOUBT':13} {doubt}" for doubt in self.doubts]
        if not self.parameters:
            return "\n".join(lines)
        width = max(len(row.name) for row in self.parameters)
        lines += ["", f"{'parameter':{width}}  {'wanted':>9}  {'realised':>9}  moved"]
        for row in self.parameters:
            moved = "-" if row.moved is None else f"{row.moved:.1%}"
            lines.append(f"{row.name:{width}}  {row.wanted:9.3g}  {row.realised:9.3g}  {moved}")
        return "\n".join(lines)


def doctor(
    model: nn.Module,
    sharp_or_optimizer: SharpnessAware | SharpnessAwareOptimizer,
    loss_fn: LossFn,
    batch: tuple[Any, ...],
) -> Findings:
    """Try two steps on a batch, and say what they do to the model; nothing of them stays.

    Args:
        model: The model; for the names of its parameters, and for its buffers.
        sharp_or_optimizer: What is to be examined. An optimizer takes no step.
        loss_fn: As for `SharpnessAware.backward`.
        batch: What `loss_fn` takes, a tuple. With `m`, its first m examples are used.

    Returns:
        The findings; print them.

    Raises:
        TypeError: If `sharp_or_optimizer` or `batch` is of the wrong kind.

    Warns if part of the displacement is lost, which happens to weights in low precision.

    Cost: two steps and three plain passes; one copy of the weights and buffers.

    Example:
        >>> from flatminima.rules.zoo import sam
        >>> model = nn.Linear(2, 1)
        >>> findings = doctor(
        ...     model,
        ...     SharpnessAware(model, sam(rho=0.05)),
        ...     lambda x: model(x).square().mean(),
        ...     (torch.randn(4, 2),),
        ... )
        >>> findings.weights_return, findings.moved, findings.doubts
        (True, 1.0, ())
    """
    sharp = getattr(sharp_or_optimizer, "_sharp", sharp_or_optimizer)
    if not isinstance(sharp, SharpnessAware):
        raise TypeError(
            "sharp_or_optimizer must be a SharpnessAware or a SharpnessAwareOptimizer, got "
            f"{type(sharp).__name__}"
        )
    if not isinstance(batch, tuple):
        raise TypeError(f"batch must be a tuple of what loss_fn takes, got {type(batch).__name__}")
    count = _count(batch)
    if sharp.m is not None:
        batch = next(groups(batch, sharp.m))[0]
    with ExitStack() as stack:
        if isinstance(sharp_or_optimizer, SharpnessAwareOptimizer):
            stack.enter_context(sharp_or_optimizer._recorder.paused())
            sharp_or_optimizer._follow_groups()
        stack.enter_context(_without_trace(model, sharp))
        findings = _examined(_Patient(model, sharp, loss_fn, batch), count)
    for doubt in findings.doubts:
        warnings.warn(doubt, stacklevel=2)
    return findings


@dataclass(frozen=True)
class _Patient:
    """A model, and how it is trained."""

    model: nn.Module
    sharp: SharpnessAware
    loss_fn: LossFn
    batch: tuple[Any, ...]

    @property
    def params(self) -> tuple[Tensor, ...]:
        return self.sharp._body.parameters.tensors

    def plain(self) -> None:
        """A plain forward and backward pass."""
        self.loss_fn(*self.batch).backward()

    def step(self, loss_fn: LossFn) -> None:
        """A step of the rule."""
        call = Call(loss_fn=loss_fn)
        self.sharp._carry_out(lambda: self.sharp._conversation(call, self.batch), add=False)


def _examined(patient: _Patient, count: int | None) -> Findings:
    buffers = _buffers(patient.model)
    drawn = Noise.now(_devices(patient.params))
    plain = _measured(patient, patient.plain, repeats=3)
    weights = [param.detach().clone() for param in patient.params]
    looks, seen = _Looks(patient.params), list[Step]()
    patient.sharp.observe = (seen.append,)
    step = _measured(
        patient,
        lambda: patient.step(looks.watched(patient.loss_fn)),
        repeats=STEPS,
    )
    rows = _displaced(patient, weights, looks.last, seen)
    total = _total(rows) if rows else None
    moved = None if total is None else total[0]
    buffers_once = all(map(_same_bits, plain.buffers.values(), step.buffers.values()))
    random_state_once = torch.equal(plain.noise.cpu, step.noise.cpu)
    doubts = _doubts(
        moved=moved,
        weights_return=step.weights_return,
        buffers_once=buffers_once,
        random_state_once=random_state_once,
        dtypes={row.dtype for row, _ in rows},
        by_chance=patient.sharp._body.weights.rounding is not None,
    )
    copies = patient.sharp._body.weights._copies.values()
    return Findings(
        rule=spelled(patient.sharp.rule),
        gradients=looks.count / STEPS,
        parameters=tuple(row for row, _ in rows),
        moved=moved,
        cosine=None if total is None else total[1],
        length=None if total is None else total[2],
        weights_return=step.weights_return,
        buffers_once=buffers_once,
        random_state_once=random_state_once,
        buffers_moved=tuple(
            name for name in buffers if not _same_bits(buffers[name], plain.buffers[name])
        ),
        draws_noise=not torch.equal(drawn.cpu, plain.noise.cpu),
        same_noise=patient.sharp._body.same_noise,
        m=patient.sharp.m,
        batch=count,
        seconds=step.seconds,
        plain_seconds=plain.seconds,
        kept_bytes=sum(copy.numel() * copy.element_size() for copy in copies),
        peak_bytes=step.peak,
        plain_peak_bytes=plain.peak,
        doubts=tuple(doubts),
    )


class _Looks:
    """Notes where the weights are at each call of the loss."""

    def __init__(self, params: tuple[Tensor, ...]) -> None:
        self.params = params
        self.count = 0
        self.last: dict[int, list[Tensor]] = {}  # of the last call with each number in its step

    def watched(self, loss_fn: LossFn) -> LossFn:
        """The loss, each call of which is noted, also where it is another one uphill."""

        def called(*batch: Any) -> Tensor:  # noqa: ANN401 - whatever the loss takes
            return self.at(loss_fn, batch)

        displaced = getattr(loss_fn, "displaced", None)
        if displaced is not None:
            called.__dict__["displaced"] = lambda *batch: self.at(displaced, batch)
        return called

    def at(self, loss_fn: LossFn, batch: tuple[Any, ...]) -> Tensor:
        self.count += 1
        self.last[self.count] = [param.detach().clone() for param in self.params]
        self.last.pop(self.count - 8, None)  # enough for the calls of a step
        return loss_fn(*batch)


@dataclass(frozen=True)
class _Trial:
    """What was measured of some trials: the quickest, and what the first one left."""

    seconds: float
    peak: int | None
    buffers: dict[str, Tensor]
    noise: Noise
    weights_return: bool


def _measured(patient: _Patient, carry_out: Callable[[], None], *, repeats: int) -> _Trial:
    """Carry it out a few times, each from the same state."""
    device = patient.params[0].device
    cuda = device.type == "cuda"
    seconds, peaks = list[float](), list[int]()
    buffers, noise, weights_return = dict[str, Tensor](), None, True
    weights = [param.detach().clone() for param in patient.params]
    for _ in range(repeats):
        with _without_trace(patient.model, None):
            for param in patient.params:
                param.grad = None
            before = torch.cuda.memory_allocated(device) if cuda else 0
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            carry_out()
            if cuda:
                torch.cuda.synchronize(device)
                peaks.append(torch.cuda.max_memory_allocated(device) - before)
            seconds.append(time.perf_counter() - start)
            weights_return &= all(map(_same_bits, patient.params, weights))
            if noise is None:
                noise, buffers = Noise.now(_devices(patient.params)), _buffers(patient.model)
    assert noise is not None
    return _Trial(min(seconds), max(peaks, default=None), buffers, noise, weights_return)


@contextmanager
def _without_trace(model: nn.Module, sharp: SharpnessAware | None) -> Generator[None]:
    """Weights, gradients, buffers, random state and the rule's memory are put back."""
    params = {id(param): param for param in model.parameters()}
    if sharp is not None:
        params |= {id(param): param for param in sharp._body.parameters.tensors}
    tensors = [*params.values(), *model.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    grads = [param.grad for param in params.values()]
    for param in params.values():
        param.grad = None
    state = None if sharp is None else (sharp.state_dict(), sharp.observe)
    if sharp is not None:
        sharp._body.weights.looked = True  # what they would say is said here, and need not be twice
    try:
        with Noise.now(_devices(params.values())).again():
            yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                if not _same_bits(tensor, copy):
                    tensor.copy_(copy)
        for param, grad in zip(params.values(), grads, strict=True):
            param.grad = grad
        if sharp is not None and state is not None:
            sharp.load_state_dict(state[0])
            sharp.observe = state[1]


def _displaced(
    patient: _Patient, weights: list[Tensor], calls: dict[int, list[Tensor]], steps: list[Step]
) -> list[tuple[Displaced, tuple[float, ...]]]:
    """The last displacement that was asked for, by parameter, with the sums for all together."""
    number, found = 0, None
    for step in steps:
        for seen in step.seen:
            number += 1
            if not isinstance(seen.at, Here) and number in calls:
                found = (seen.at, calls[number])
    if found is None:
        return []
    wanted: Vector = found[0]
    names = {id(param): name for name, param in patient.model.named_parameters()}
    rows: list[tuple[Displaced, tuple[float, ...]]] = []
    least = TINY * max(
        (float(part.abs().max()) for part in wanted.tensors if part.numel()), default=0.0
    )
    columns = zip(patient.params, wanted.parts, found[1], weights, strict=True)
    for index, (param, part, there, here) in enumerate(columns):
        e = torch.zeros_like(here) if part is None else part
        e, moved = e.double(), there.double() - here.double()
        counts = e.abs() > least
        asked, done = int(counts.sum()), int((counts & (moved != 0)).sum())
        sums = (asked, done, float(e.square().sum()), float(moved.square().sum()))
        row = Displaced(
            name=names.get(id(param), f"parameter {index}"),
            dtype=str(param.dtype).removeprefix("torch."),
            size=param.numel(),
            wanted=sums[2] ** 0.5,
            realised=sums[3] ** 0.5,
            moved=done / asked if asked else None,
        )
        rows.append((row, (*sums, float((e * moved).sum()))))
    return rows


def _total(rows: list[tuple[Displaced, tuple[float, ...]]]) -> tuple[float, float, float] | None:
    """The share that moved, the cosine and the length; `None` if nothing was to move."""
    asked, done, wanted, realised, product = (
        sum(sums) for sums in zip(*(sums for _, sums in rows), strict=True)
    )
    if not asked or not wanted:
        return None
    cosine = product / (wanted * realised) ** 0.5 if realised else 0.0
    return done / asked, cosine, (realised / wanted) ** 0.5


def _doubts(
    *,
    moved: float | None,
    weights_return: bool,
    buffers_once: bool,
    random_state_once: bool,
    dtypes: set[str],
    by_chance: bool,
) -> Generator[str]:
    if moved is None:
        yield "the rule did not displace the weights in two steps: is its radius 0?"
    elif moved < ENOUGH and not by_chance:  # which is right in the mean
        yield (
            f"{1 - moved:.1%} of the coordinates did not move: the displacement is too small for "
            f"{' and '.join(sorted(dtypes))}; keep the weights in float32, and use autocast"
            f"{ROUNDED if 'bfloat16' in dtypes else ''}"
        )
    if not weights_return:
        yield "the weights did not come back: does the loss change them?"
    if not buffers_once:
        yield "buffers moved otherwise than in one plain pass: does the loss depend on its calls?"
    if not random_state_once:
        yield "the random state is not that after one pass: does the loss draw elsewhere?"


def _of_displacement(findings: Findings) -> str:
    if findings.moved is None or findings.cosine is None or findings.length is None:
        return "none"
    return (
        f"{findings.moved:.1%} of the coordinates moved, cosine {findings.cosine:.4f} to what was "
        f"wanted, {findings.length:.3f} times its length"
    )


def _of_buffers(findings: Findings) -> str:
    if not findings.buffers_moved:
        return "none that a pass changes"
    once = "once per step" if findings.buffers_once else "OTHERWISE THAN ONCE PER STEP"
    return f"{len(findings.buffers_moved)} move {once}, as {findings.buffers_moved[0]}"


def _of_noise(findings: Findings) -> str:
    if not findings.draws_noise:
        return "none is drawn"
    return f"{'the same' if findings.same_noise else 'afresh'} in every pass"


def _of_m(findings: Findings) -> str:
    batch = "the whole batch" if findings.batch is None else f"the whole batch, {findings.batch}"
    return f"{batch if findings.m is None else findings.m} examples per perturbation"


def _of_memory(findings: Findings) -> str:
    kept = f"{findings.kept_bytes / 2**20:.2f} MiB of copies are kept"
    if findings.peak_bytes is None or findings.plain_peak_bytes is None:
        return kept
    peak, plain = findings.peak_bytes / 2**20, findings.plain_peak_bytes / 2**20
    return f"{kept}; peak {peak:.1f} MiB, of a plain pass {plain:.1f} MiB"


def _count(batch: tuple[Any, ...]) -> int | None:
    try:
        return examples(batch)
    except ValueError:
        return None


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def _devices(tensors: Any) -> set[torch.device]:  # noqa: ANN401 - any iterable of tensors
    return {tensor.device for tensor in tensors}


def _same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors of one kind agree in every bit, NaN included."""
    ones, twos = (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, two)
    )
    return torch.equal(ones, twos)
