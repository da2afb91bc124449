"""The sharpness-aware gradient where `loss.backward()` was.

SAM replaces the gradient, not the optimizer. `SharpnessAware.backward` carries out a rule on a
batch, adds the direction to `.grad` as `Tensor.backward` would add the gradient, and leaves
everything else as it was.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from flatminima.engine.buffers import Buffers
from flatminima.engine.compiled import Whole
from flatminima.engine.distributed import Ranks, Sync
from flatminima.engine.groups import groups
from flatminima.engine.msam import Engine, Grouped
from flatminima.engine.observe import Observer, Step
from flatminima.engine.owners import check_owners
from flatminima.engine.parameters import Parameters, Target
from flatminima.engine.passes import Body, Call, LossFn, Passes, Scaler, Source
from flatminima.engine.state import check_state, copied, packed, tensors, unpacked
from flatminima.engine.weights import Weights
from flatminima.rules.checks import check_rule
from flatminima.rules.rule import Look, Rule, spelled
from flatminima.vector import Vector

__all__ = ["SharpnessAware"]

Rounding: TypeAlias = Literal["nearest", "stochastic"]
VERSION = 1
FIELDS = ("version", "rule", "m", "step", "memory", "generator")


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
        engine: How groups are carried out: `loop`, one after the other; `batched`, all at once, or
            an error where that cannot be proved exact; `vmap`, all at once with a copy of the
            weights for each, or an error where torch cannot map the model; `auto`, the loop or
            `batched`, whichever is faster by a trial at the first batch. They differ by rounding:
            name one of them where a run must be the same bit for bit.
        memory_limit: Bytes that `batched` may keep between its passes, or that the copies of `vmap`
            may take; they then take fewer groups at a time.
        sync: Over which examples the ascent gradient is taken when there are several processes:
            `global`, all; `replica`, each rank its own, with one reduction, of the direction (needs
            a model in `DistributedDataParallel`).
        same_noise: Whether every pass draws the same dropout masks. The random state after a step
            is the same either way: that after one pass.
        rounding: How displaced weights of bfloat16 are rounded: `nearest` swallows what is less
            than half the distance to a weight's neighbour; `stochastic` takes either neighbour by
            chance, so that the displacement is right in the mean, and longer.
        ascent_weight_decay: Added to the ascent gradient as `ascent_weight_decay * w`, for sources
            whose loss includes it.
        observe: Functions of a `Step`, called after each conversation; they see what the rule saw.

    Raises:
        TypeError: If the parameters or the rule are of the wrong kind, or belong to DeepSpeed or a
            pipeline, which own the passes.
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
        engine: Engine = "auto",
        memory_limit: float | None = None,
        sync: Sync = "global",
        same_noise: bool = True,
        rounding: Rounding = "nearest",
        ascent_weight_decay: float = 0.0,
        observe: Iterable[Observer] = (),
    ) -> None:
        check_rule(rule)
        if m is not None and (not isinstance(m, int) or isinstance(m, bool) or m < 1):
            raise ValueError(f"m must be a positive whole number or None, got {m!r}")
        if rounding not in ("nearest", "stochastic"):
            raise ValueError(f"rounding must be 'nearest' or 'stochastic', got {rounding!r}")
        if not isinstance(ascent_weight_decay, int | float):
            raise TypeError(f"ascent_weight_decay must be a number, got {ascent_weight_decay!r}")
        if not 0.0 <= ascent_weight_decay < math.inf:
            raise ValueError(
                f"ascent_weight_decay must be >= 0 and finite, got {ascent_weight_decay}"
            )
        observers = list(observe) if isinstance(observe, Iterable) else []
        if not isinstance(observe, Iterable) or not all(map(callable, observers)):
            raise TypeError(f"observe must be a list of functions of a Step, got {observe!r}")
        model = model_or_parameters if isinstance(model_or_parameters, nn.Module) else None
        check_owners("model", () if model is None else model.modules())
        parameters = Parameters.of(model_or_parameters)
        check_owners("parameters", parameters.tensors)
        self.rule = rule
        self.m = m
        self.ascent_weight_decay = ascent_weight_decay
        self.observe = tuple(observers)
        buffers = Buffers(model)
        self._ranks = Ranks(model, parameters.tensors, sync, buffers)
        generator = torch.Generator().manual_seed(torch.initial_seed())
        drawn = generator if rounding == "stochastic" else None
        self._body = Body(
            parameters=parameters,
            weights=Weights(parameters.tensors, self._ranks.reshard, drawn),
            buffers=buffers,
            generator=generator,
            same_noise=same_noise,
        )
        self._grouped = Grouped(
            body=self._body,
            model=model,
            rule=rule,
            m=m,
            engine=engine,
            memory_limit=memory_limit,
            observed=bool(self.observe),
        )
        self._step = 0
        self._memory: dict[str, Any] = {}

    @property
    def group_norms(self) -> Tensor | None:
        """The norm of each group's gradient in the last step, as the rule measures it, (groups,).

        `None` if the groups were carried out one after the other.
        """
        return self._grouped.group_norms

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
            TypeError: If `loss_fn` returns something other than a 0-d tensor with a graph, the rule
                breaks the protocol, or DeepSpeed or a pipeline owns the passes. Weights and `.grad`
                are then as they were.
        """
        check_owners("loss_fn", [loss_fn])
        check_owners("backward_fn", [backward_fn])
        call = Call(loss_fn=loss_fn, scaler=scaler, backward_fn=backward_fn)
        return self._carry_out(lambda: self._mean(call, batch))

    def compiled(
        self,
        loss_fn: LossFn,
        *,
        model: nn.Module | None = None,
        **options: Any,  # noqa: ANN401 - torch's own
    ) -> Callable[..., Tensor]:
        """The whole step as one compiled graph: `step(*batch)` for `backward(loss_fn, *batch)`.

            step = sharp.compiled(loss_fn);   .grad += d,   d as in `backward`, to rounding

        Args:
            loss_fn: `loss_fn(*batch)` returns the mean loss over the batch's examples, a 0-d
                tensor. It is read once for each kind of batch (shapes, modes of the modules, frozen
                parameters): Python numbers that it uses are then fixed, tensors are not.
            model: The module, where this object was made from parameters alone.
            **options: Passed on to `torch.compile`, such as `mode="reduce-overhead"`.

        Returns:
            A function of the batch that adds the direction to `.grad` and returns the loss.

        Raises:
            ValueError: If there are observers or `rounding="stochastic"`, the module is not known
                or another one, or the rule is not a `Probe` (with `m`: has no batched form).
            RuntimeError: If there are several processes; and on use, if the loss looks at values or
                draws random numbers (dropout), or `m` is not provably exact in its batched form.

        Cost: as `backward`, after the compiler's seconds or minutes for each kind of batch; no
            buffer of displaced weights that lasts. The radius may change from step to step.

        Example:
            >>> from flatminima.rules.zoo import sam
            >>> model = nn.Linear(1, 1, bias=False)
            >>> _ = nn.init.constant_(model.weight, 2.0)
            >>> sharp = SharpnessAware(model, sam(rho=0.5))
            >>> step = sharp.compiled(lambda x: 0.5 * model(x).square().mean(), backend="eager")
            >>> step(torch.ones(4, 1)), model.weight.grad
            (tensor(2.), tensor([[2.5000]]))
        """
        check_owners("loss_fn", [loss_fn])
        if self.observe:
            raise ValueError("compiled must have no observers, got some; use backward")
        model = model or self._grouped.model
        whole = Whole.of(self._body, model, self.rule, self.m, loss_fn, options)

        def step(*batch: Any) -> Tensor:  # noqa: ANN401 - a batch is whatever the loss takes
            return self._carry_out(lambda: taken(batch))

        def taken(batch: tuple[Any, ...]) -> tuple[Tensor, Vector]:
            loss, direction, self._grouped.group_norms = whole.step(self._look(batch))
            return loss, direction

        return step

    def _carry_out(
        self, conversed: Callable[[], tuple[Tensor, Vector]], *, add: bool = True
    ) -> Tensor:
        """One step: the direction goes into `.grad`, and an error leaves no trace."""
        params = self._body.parameters
        self._ranks.agree(self._body.generator)
        kept = params.grads
        memory, random = copied(self._memory), self._body.generator.get_state()
        try:
            with self._ranks.passes():
                loss, direction = conversed()
            direction = self._ranks.reduced(kept, direction)
        except BaseException:  # as if the step had not been
            params.put(kept)
            self._memory = memory
            self._body.generator.set_state(random)
            raise
        self._add(kept if add else [None] * len(params), direction)
        self._step += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides the model's state and the optimizer's.

        Returns:
            Counters, the random state, what the rule remembers, and how the rule was called; never
            a copy of the weights.
        """
        return {
            "version": VERSION,
            "rule": spelled(self.rule),
            "m": self.m,
            "step": self._step,
            "memory": packed(self._memory),
            "generator": self._body.generator.get_state(),
            "engines": dict(self._grouped.verdicts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Args:
            state: The state; tensors are moved to the parameters' devices. A rule or an `m` other
                than the one that it was saved with gives a warning.

        Raises:
            ValueError: If the state is not one of this class, or is of a later version.
        """
        check_state(state, FIELDS, VERSION)
        for name, now in (("rule", spelled(self.rule)), ("m", self.m)):
            if state[name] != now:
                warnings.warn(f"state has {name} {state[name]}, this run has {now}", stacklevel=2)
        memory = unpacked(state["memory"], self._body.parameters.tensors)
        self._body.generator.set_state(state["generator"].cpu())
        self._memory, self._step = memory, state["step"]
        self._ranks.forget()
        self._grouped.verdicts.update(state.get("engines", {}))

    def __repr__(self) -> str:
        params = self._body.parameters.tensors
        size = f"{len(params)} parameters, {sum(param.numel() for param in params):,} coordinates"
        m = "" if self.m is None else f", m={self.m}"
        return f"SharpnessAware({size}, {spelled(self.rule)}{m})"

    def _mean(self, call: Call, batch: tuple[Any, ...]) -> tuple[Tensor, Vector]:
        """The loss and the direction, averaged over the groups by their sizes."""
        if self.m is None:
            return self._conversation(call, batch)
        look = self._look(batch)
        return self._grouped.mean(call, batch, look, lambda piece: self._looped(call, piece))

    def _looped(self, call: Call, batch: tuple[Any, ...]) -> tuple[Tensor, Vector]:
        """The same, one group after the other."""
        loss, direction, count = torch.zeros(()), Vector(()), 0
        for group, size in groups(batch, self.m or 1):
            one_loss, one = self._conversation(call, group)
            count += size
            share = size / count  # a running mean: no sum that somebody could forget to divide
            first = count == size
            loss = one_loss if first else loss + share * (one_loss - loss)
            direction = one if first else direction * (1.0 - share) + one * share
        if not count:
            raise ValueError("batch must hold at least one example, got none")
        return loss, direction

    def _conversation(self, call: Source, batch: tuple[Any, ...] | None) -> tuple[Tensor, Vector]:
        """Let the rule ask, and answer it, until it returns a direction."""
        look = self._look(batch)
        with Passes(self._body, call, batch or (), record=bool(self.observe)) as passes:
            direction = passes.checked(_listened(self.rule(look), passes))
        seen = tuple(passes.seen)
        for observer in self.observe:
            observer(Step(step=self._step, loss=passes.loss, w=look.w, d=direction, seen=seen))
        return passes.loss, passes.delivered(direction)

    def _look(self, batch: tuple[Any, ...] | None) -> Look:
        """What the rule knows at the start of this step."""
        return Look(
            w=Vector(param.detach() for param in self._body.parameters.tensors),
            step=self._step,
            batch=batch,
            memory=self._memory if self.m is None else None,
            generator=self._body.generator,
            weight_decay=self.ascent_weight_decay,
            own=self._body.parameters.own,
        )

    @torch.no_grad()
    def _add(self, kept: Sequence[Tensor | None], direction: Vector) -> None:
        """`.grad += direction`: in place where there is a gradient, else by reference."""
        remembered = {id(tensor) for tensor in tensors(self._memory)}
        rows = zip(self._body.parameters.tensors, kept, direction.parts, strict=True)
        for param, grad, part in rows:
            if part is None or not param.requires_grad:
                param.grad = grad
            elif grad is not None:
                param.grad = grad.add_(part)
            else:  # clipping it must change neither what a rule remembers nor the weights
                shared = id(part) in remembered or part.data_ptr() == param.data_ptr()
                param.grad = part.clone() if shared else part


@torch.no_grad()
def _listened(talk: Any, passes: Passes) -> object:  # noqa: ANN401 - checked by the caller
    """What a conversation returns after all its questions are answered."""
    if not isinstance(talk, Generator):
        raise TypeError(f"rule must be a generator function of a Look, got one that gives {talk!r}")
    try:
        question = [next(talk)]
        while True:  # popped: nobody here keeps a displacement or a gradient alive during a pass
            question.append(talk.send(passes.answer(question.pop())))
    except StopIteration as end:
        return end.value
    finally:
        talk.close()
