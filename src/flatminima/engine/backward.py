"""The sharpness-aware gradient where `loss.backward()` was.

SAM replaces the gradient, not the optimizer. `SharpnessAware.backward` carries out a rule on a
batch, adds the direction to `.grad` as `Tensor.backward` would add the gradient, and leaves
everything else as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from flatminima.engine.buffers import Buffers
from flatminima.engine.groups import groups
from flatminima.engine.noise import Noise
from flatminima.engine.observe import Observer, Seen, Step
from flatminima.engine.parameters import Parameters, Target
from flatminima.rules.rule import Ask, Here, Look, Rule
from flatminima.vector import Vector

__all__ = ["SharpnessAware"]

LossFn = Callable[..., Tensor]
VERSION = 1


class Scaler(Protocol):
    """What is used of `torch.amp.GradScaler`: its public `scale`."""

    def scale(self, outputs: Tensor, /) -> Tensor: ...  # noqa: D102 - as in torch.amp.GradScaler


class SharpnessAware:
    """Carries out a rule on batches and puts the direction where the gradient would have been.

        .grad += d,   d = what `rule` returns for this batch

    Args:
        model_or_parameters: The module to train; or its parameters; or parameter groups as
            `torch.optim` takes them, each of which may set its own `rho` (0 leaves the group out of
            the perturbation, and out of its norm). Only these parameters get a gradient.
        rule: What to do: a member of the zoo such as `flatminima.sam()`, or any generator function
            of a `Look`.
        m: Examples per perturbation (m-SAM): the batch is cut into consecutive groups of `m`, each
            looks uphill from its own gradient, and the directions are averaged by size. `None`
            perturbs once for the whole batch.
        engine: How groups are carried out: `loop`, one after the other; `auto` chooses.
        sync: Over which examples the ascent gradient is taken when there are several processes:
            `global`, all.
        same_noise: Whether every pass draws the same dropout masks. The random state after a step
            is the same either way: that after one pass.
        ascent_weight_decay: Added to the ascent gradient as `weight_decay * w`, for sources whose
            loss includes it.
        observe: Functions of a `Step`, called after each conversation; they see what the rule saw.

    Raises:
        TypeError: If the parameters or the rule are of the wrong kind.
        ValueError: If there is no trainable parameter, or an option has no such value.

    Weights are restored by copying back what was saved, also when `loss_fn` raises; their storage
    never changes. Running statistics move in the first pass only.

    Cost: what the rule says, and one buffer of the size of the perturbed weights, kept from step to
        step.

    Example:
        >>> from flatminima.rules.zoo import sam
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> sharp = SharpnessAware(model, sam(rho=0.5))
        >>> sharp.backward(lambda x: 0.5 * model(x).square().mean(), torch.ones(4, 1))
        tensor(2.)
        >>> model.weight.grad, model.weight.data
        (tensor([[2.5000]]), tensor([[2.]]))
    """

    def __init__(
        self,
        model_or_parameters: Target,
        rule: Rule,
        *,
        m: int | None = None,
        engine: Literal["auto", "loop"] = "auto",
        sync: Literal["global"] = "global",
        same_noise: bool = True,
        ascent_weight_decay: float = 0.0,
        observe: Iterable[Observer] = (),
    ) -> None:
        if not callable(rule):
            raise TypeError(f"rule must be a rule such as flatminima.sam(), got {rule!r}")
        if m is not None and (not isinstance(m, int) or m < 1):
            raise ValueError(
                f"m must be a positive whole number or None, got {m!r}; it counts examples"
            )
        if engine not in ("auto", "loop"):
            raise ValueError(f"engine must be 'auto' or 'loop', got {engine!r}")
        if sync != "global":
            raise ValueError(f"sync must be 'global', got {sync!r}")
        if not ascent_weight_decay >= 0.0:
            raise ValueError(f"ascent_weight_decay must be >= 0, got {ascent_weight_decay}")
        self.rule = rule
        self.m = m
        self.same_noise = same_noise
        self.ascent_weight_decay = ascent_weight_decay
        self.observe = tuple(observe)
        self.parameters = Parameters.of(_listed(model_or_parameters))
        self._buffers = Buffers(
            model_or_parameters if isinstance(model_or_parameters, nn.Module) else None
        )
        self._copies: dict[int, Tensor] = {}
        self._step = 0
        self._memory: dict[str, Any] = {}
        self._generator = torch.Generator().manual_seed(torch.initial_seed())

    def backward(
        self,
        loss_fn: LossFn,
        *batch: Any,  # noqa: ANN401 - a batch is whatever the loss takes
        scaler: Scaler | None = None,
        backward_fn: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """Add the rule's direction for this batch to `.grad`.

        Args:
            loss_fn: `loss_fn(*batch)` returns the mean loss over the batch's examples, a 0-d
                tensor; called once for each gradient that the rule asks for.
            *batch: What `loss_fn` takes.
            scaler: A `torch.amp.GradScaler`: losses are scaled before each backward pass, the rule
                sees unscaled gradients, and `.grad` gets the scaled direction, for `scaler.step` as
                always. A first pass that overflows makes the direction non-finite, so that the
                scaler skips this step.
            backward_fn: What to call on the loss instead of `loss.backward()`, for frameworks that
                own that call.

        Returns:
            The loss at the weights, detached, unscaled; for a rule that never looks there, the loss
            where it looked first.

        Raises:
            TypeError: If `loss_fn` returns something other than a 0-d tensor with a graph, or the
                rule breaks the protocol. Weights, buffers and `.grad` are then as they were.
        """
        kept = [param.grad for param in self.parameters.tensors]
        try:
            with torch.enable_grad():
                loss, direction = self._mean(_Passes(self, loss_fn, scaler, backward_fn), batch)
        except BaseException:
            for param, grad in zip(self.parameters.tensors, kept, strict=True):
                param.grad = grad
            raise
        self._add(kept, direction)
        self._step += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides the model's and the optimizer's: never a copy of the
        weights.

        Returns:
            Counters, the random state, what the rule remembers, and how the rule is called.
        """
        return {
            "version": VERSION,
            "rule": repr(self.rule),
            "m": self.m,
            "step": self._step,
            "memory": _packed(self._memory),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Args:
            state: The state; tensors are moved to the parameters' devices.

        Raises:
            ValueError: If the state is not one of this class, or is of a later version.

        Warns of a rule or an `m` other than the one that the state was saved with.
        """
        missing = {"version", "rule", "m", "step", "memory", "generator"} - set(state)
        if missing:
            raise ValueError(
                f"state must be one that SharpnessAware.state_dict returned, got one without {sorted(missing)}"
            )
        if state["version"] > VERSION:
            raise ValueError(
                f"state must be of version {VERSION} or earlier, got {state['version']}; update flatminima"
            )
        for name, now in (("rule", repr(self.rule)), ("m", self.m)):
            if state[name] != now:
                warnings.warn(
                    f"the state was saved with {name} {state[name]}, and this run has {now}",
                    stacklevel=2,
                )
        self._memory = _unpacked(state["memory"], self.parameters.tensors)
        self._step = state["step"]
        self._generator.set_state(state["generator"].cpu())

    def __repr__(self) -> str:
        groups = "" if self.m is None else f", m={self.m}"
        size = sum(param.numel() for param in self.parameters.tensors)
        return f"SharpnessAware({len(self.parameters)} parameters, {size:,} coordinates, {self.rule!r}{groups})"

    # ------------------------------------------------------------------------------------- one step

    def _mean(self, passes: _Passes, batch: tuple[Any, ...]) -> tuple[Tensor, Vector]:
        """The loss and the direction, averaged over the groups by their sizes."""
        if self.m is None:
            return self._conversation(passes, batch)
        total: tuple[Tensor, Vector] | None = None
        count = 0
        for group, size in groups(batch, self.m):
            loss, direction = self._conversation(passes, group)
            count += size
            share = (
                size / count
            )  # a running mean: nothing is ever a sum that somebody forgets to divide
            total = (
                (loss, direction)
                if total is None
                else (
                    total[0] + share * (loss - total[0]),
                    total[1] * (1.0 - share) + direction * share,
                )
            )
        if total is None:
            raise ValueError("batch must hold at least one example, got none")
        return total

    def _conversation(self, passes: _Passes, batch: tuple[Any, ...]) -> tuple[Tensor, Vector]:
        """Let the rule ask, and answer it, until it returns a direction."""
        passes.begin(batch)
        w = Vector(param.detach() for param in self.parameters.tensors)
        look = Look(
            w=w,
            step=self._step,
            batch=batch,
            memory=None if self.m is not None else self._memory,
            generator=self._generator,
            weight_decay=self.ascent_weight_decay,
            own=self.parameters.radii,
        )
        talk = self.rule(look)
        try:
            with torch.no_grad():
                question = [next(talk)]
            while True:
                answer = passes.answer(
                    question.pop()
                )  # popped: a displacement is let go before the pass begins
                with torch.no_grad():
                    question.append(talk.send(answer))
                del answer
        except StopIteration as end:
            direction = end.value
        finally:
            talk.close()
            passes.end()
        if not isinstance(direction, Vector) or len(direction) != len(w):
            raise TypeError(f"rule must return a Vector of {len(w)} parts, got {direction!r}")
        loss = passes.loss
        for observer in self.observe:
            observer(Step(step=self._step, loss=loss, w=w, d=direction, seen=tuple(passes.seen)))
        return loss, passes.scaled(direction)

    @torch.no_grad()
    def _add(self, kept: Sequence[Tensor | None], direction: Vector) -> None:
        """`.grad += direction`, as `Tensor.backward` adds: in place where there is a gradient, else
        by reference."""
        remembered = {id(tensor) for tensor in _tensors(self._memory)}
        for param, grad, part in zip(self.parameters.tensors, kept, direction.parts, strict=True):
            if part is None or not param.requires_grad:
                param.grad = grad
            elif grad is not None:
                param.grad = grad.add_(part)
            else:
                param.grad = part.clone() if id(part) in remembered else part

    # ---------------------------------------------------------------------- weights, there and back

    @contextmanager
    def displaced(self, displacement: list[Vector | Here]) -> Iterator[None]:
        """Put the weights at the displacement, which is taken out of the list, and bring them back
        bit for bit."""
        e = displacement.pop()
        if isinstance(e, Here):
            yield
            return
        moved = [index for index in range(len(e)) if not e._is_absent(index)]
        weights = [self.parameters.tensors[index].detach() for index in moved]
        copies = [self._copy(index) for index in moved]
        with torch.no_grad():
            torch._foreach_copy_(copies, weights)
        try:
            e._added_to([param.detach() for param in self.parameters.tensors])
            del e
            torch.clear_autocast_cache()  # it holds casts of the weights by their address
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, copies)
            torch.clear_autocast_cache()

    def _copy(self, index: int) -> Tensor:
        """The buffer for parameter `index`, made when it is first needed."""
        param, copy = self.parameters.tensors[index], self._copies.get(index)
        if copy is None or (copy.shape, copy.dtype, copy.device) != (
            param.shape,
            param.dtype,
            param.device,
        ):
            copy = self._copies[index] = torch.empty_like(param, requires_grad=False)
        return copy


class _Passes:
    """The gradient evaluations of one step."""

    def __init__(
        self,
        owner: SharpnessAware,
        loss_fn: LossFn,
        scaler: Scaler | None,
        backward_fn: Callable[[Tensor], object] | None,
    ) -> None:
        self.owner = owner
        self.loss_fn = loss_fn
        self.scaler = scaler
        self.backward_fn = backward_fn

    def begin(self, batch: tuple[Any, ...]) -> None:
        """Start a conversation about `batch`."""
        self.batch = batch
        self.count = 0
        self.seen: list[Seen] = []
        self.scale: Tensor | None = None
        self.finite: Tensor | None = None
        self.raw: tuple[Vector, Vector] | None = None
        self._loss: tuple[int, Tensor] | None = None
        self.noise = Noise.now({param.device for param in self.owner.parameters.tensors})
        self.held: AbstractContextManager[None] = nullcontext()

    def answer(self, question: object) -> Vector:
        """The gradient where the rule wants to look."""
        at, batch = (
            (question.at, question.batch) if isinstance(question, Ask) else (question, self.batch)
        )
        if not isinstance(at, Vector | Here):
            raise TypeError(f"rule must yield HERE, a Vector or Ask, got {at!r}")
        remembered = at if self.owner.observe else None
        rank = (
            0 if isinstance(at, Here) and batch is self.batch else 1 if batch is self.batch else 2
        )
        where: list[Vector | Here] = [at]
        del at, question
        with self._pass(), self.owner.displaced(where):
            self._backward(batch, rank)
        gradient = self._collected()
        if remembered is not None:
            self.seen.append(Seen(at=remembered, gradient=gradient))
        return gradient

    def end(self) -> None:
        """Put back what only the first pass may move."""
        self.held.__exit__(None, None, None)

    @property
    def loss(self) -> Tensor:
        """The loss at the weights, or else the first one seen."""
        assert self._loss is not None
        return self._loss[1]

    def scaled(self, direction: Vector) -> Vector:
        """The direction in the units of `.grad`: times the loss scale, and non-finite if the first
        gradient was."""
        if self.scale is not None:
            is_last = self.raw is not None and direction is self.raw[0]
            direction = self.raw[1] if is_last and self.raw is not None else direction * self.scale
        self.raw = None
        return (
            direction
            if self.count < 2 or self.finite is None
            else _poisoned(direction, self.finite)
        )

    def _pass(self) -> AbstractContextManager[None]:
        """The circumstances of a pass: the first one is ordinary, the others leave no trace."""
        self.count += 1
        if self.count == 1:
            return self.owner._buffers.watched()
        if self.count == 2:
            self.held = self.owner._buffers.held()
            self.held.__enter__()
        return (
            self.noise.again()
            if self.owner.same_noise
            else self.noise.afresh(self.owner._generator)
        )

    def _backward(self, batch: tuple[Any, ...], rank: int) -> None:
        for param in self.owner.parameters.tensors:
            param.grad = None
        loss = self.loss_fn(*batch)
        _check_loss(loss)
        if self._loss is None or rank < self._loss[0]:
            self._loss = (rank, loss.detach())
        if self.scaler is not None:
            self.scale = self.scaler.scale(torch.ones((), device=loss.device))
            loss = self.scaler.scale(loss)
        if self.backward_fn is None:
            loss.backward(inputs=self.owner.parameters.trainable)
        else:
            self.backward_fn(loss)

    def _collected(self) -> Vector:
        gradient = Vector(_dense(param.grad) for param in self.owner.parameters.tensors)
        for param in self.owner.parameters.tensors:
            param.grad = None
        if self.scale is not None:
            unscaled = gradient * (1.0 / self.scale)
            self.raw = (unscaled, gradient)
            gradient = unscaled
        if self.finite is None:
            self.finite = gradient.norm().isfinite()
        return gradient


# -------------------------------------------------------------------------------------------- parts


def _listed(target: Target) -> Target:
    """Iterators are walked once, so that they can be looked at twice."""
    return target if isinstance(target, nn.Module) else list(target)  # type: ignore[arg-type]


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a 0-d tensor, got {type(loss).__name__}")
    if loss.dim() != 0:
        raise TypeError(
            f"loss_fn must return a 0-d tensor, got shape {tuple(loss.shape)}; take the mean over the examples"
        )
    if not loss.requires_grad:
        raise TypeError(
            "loss_fn must return a tensor that depends on the parameters, got one without a graph; "
            "is the model frozen, or the loss detached?"
        )


def _dense(grad: Tensor | None) -> Tensor | None:
    if grad is not None and grad.layout != torch.strided:
        raise TypeError(
            f"gradients must be dense, got {grad.layout} for a parameter of shape {tuple(grad.shape)}; "
            "make the embedding with sparse=False"
        )
    return grad


def _poisoned(direction: Vector, finite: Tensor) -> Vector:
    """`direction`, non-finite in its first coordinate where `finite` is false; decided on the
    device."""
    if finite.device.type == "cpu":
        return direction if bool(finite) else direction * torch.nan
    first, *rest = direction.parts
    index = 0
    parts = [first, *rest]
    while parts[index] is None:
        index += 1
    part = parts[index]
    assert part is not None
    parts[index] = torch.where(finite.to(part.device), part, torch.nan)
    return Vector(parts)


def _packed(value: Any) -> Any:  # noqa: ANN401 - rules remember what they like
    if isinstance(value, Vector):
        return {"vector": list(value.parts)}
    return (
        {name: _packed(item) for name, item in value.items()} if isinstance(value, dict) else value
    )


def _unpacked(value: Any, params: Sequence[Tensor]) -> Any:  # noqa: ANN401 - rules remember what they like
    if not isinstance(value, dict):
        return value
    if set(value) == {"vector"}:
        parts = zip(value["vector"], params, strict=True)
        return Vector(None if part is None else part.to(param.device) for part, param in parts)
    return {name: _unpacked(item, params) for name, item in value.items()}


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 - rules remember what they like
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Vector):
        yield from value.tensors
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
