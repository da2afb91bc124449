"""A whole step as one graph: both passes, the rule and all that is between them, for a compiler.

    (loss, d) = F(w, buffers, rho, batch)

The conversation is carried out once with tensors that have shapes and no values. What torch was
asked to do meanwhile is F, a pure function: the weights never move, and buffers move as they do in
the first pass. `torch.compile` makes of it what it can (fewer and larger kernels, CUDA graphs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from flatminima.engine.batched.coverage import eager
from flatminima.engine.buffers import SMALL
from flatminima.engine.functional import Bound, names
from flatminima.engine.passes import Body, check_loss, poisoned
from flatminima.perturb import Radius
from flatminima.rules.rule import HERE, Look, Probe, Rule, spelled
from flatminima.vector import Vector

__all__ = ["Whole"]

PLAIN = bool | int | float | complex | str | None
"""What a batch may hold beside tensors: it is part of what a graph is good for."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A step that is traced as a whole.

    Args:
        body: What the step acts on.
        model: The model that the loss calls.
        rule: The rule.
        loss_fn: The loss.
        options: What `torch.compile` is to know.
    """

    body: Body
    model: nn.Module
    rule: Probe
    loss_fn: Callable[..., Tensor]
    options: dict[str, Any]
    _graphs: dict[Any, _Graph] = field(default_factory=dict)

    @staticmethod
    def of(
        body: Body,
        model: nn.Module | None,
        rule: Rule,
        loss_fn: Callable[..., Tensor],
        options: dict[str, Any],
    ) -> Whole:
        """The step, if it can be traced.

        Args:
            body: What the step acts on.
            model: The model that the loss calls, where it is known.
            rule: The rule.
            loss_fn: The loss.
            options: What `torch.compile` is to know.

        Returns:
            The step, of which nothing is traced yet.

        Raises:
            ValueError: If the model is not known, or the rule is none that is the same every step.
            RuntimeError: If there are several processes.
        """
        if model is None:
            raise ValueError("compiled must be given the module, got parameters; hand over model=")
        if any(hasattr(module, "_orig_mod") for module in model.modules()):
            raise ValueError(
                "model must be as it was written, got one that is compiled already; "
                "hand over the module that torch.compile was given, and a loss that calls it"
            )
        strangers = {id(param) for param in body.parameters.tensors}
        strangers -= {id(param) for param in model.parameters()}
        if strangers:
            raise ValueError(
                f"model must hold the parameters, got one without {len(strangers)} of "
                f"{len(body.parameters)} of them"
            )
        if not isinstance(rule, Probe):
            raise ValueError(
                "rule must be a Probe to be compiled as a whole, the same in every step, "
                f"got {spelled(rule)}; compile the model instead: torch.compile(model)"
            )
        if distributed.is_available() and distributed.is_initialized():
            raise RuntimeError(
                "compiled must have the whole batch in one process, got several; use backward"
            )
        if body.weights.rounding is not None:
            raise ValueError("rounding must be 'nearest' to be compiled, got 'stochastic'")
        return Whole(body=body, model=model, rule=rule, loss_fn=loss_fn, options=options)

    def step(self, look: Look) -> tuple[Tensor, Vector]:
        """The loss and the direction for the batch of `look`; buffers move as in a first pass."""
        leaves, spec = tree_flatten(look.batch)
        for leaf in leaves:
            if not isinstance(leaf, Tensor | PLAIN):
                raise TypeError(
                    "batch must be of tensors and numbers, in lists, tuples and dictionaries, for "
                    f"a compiled step, got {type(leaf).__name__}; hand its items over as a dict"
                )
        look = look.within(self.rule.rho)
        radii, places = _radii(look.rho, self.body.parameters.tensors)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        buffers = dict(self.model.named_buffers())
        key = self._key(leaves, spec, look, buffers, places)
        if key not in self._graphs:
            self._graphs[key] = self._traced(leaves, spec, look, buffers, radii, places)
        graph = self._graphs[key]
        inputs = [*self.body.parameters.tensors, *buffers.values(), *radii, *tensors]
        kind = inputs[0].device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            loss, *rest = graph.run(*[tensor.detach() for tensor in inputs])
            moved = rest[: len(graph.moved)]
            for name, now in zip(graph.moved, moved, strict=True):
                buffers[name].copy_(now)
            parts = rest[len(graph.moved) :]
            if kind == "cuda":  # a CUDA graph's next run writes to the same memory
                loss, *parts = [tensor.clone() for tensor in (loss, *parts)]
        found = iter(parts)
        return loss, Vector(next(found) if there else None for there in graph.present)

    def _key(
        self,
        leaves: list[Any],
        spec: Any,  # noqa: ANN401 - torch's own
        look: Look,
        buffers: dict[str, Tensor],
        places: tuple[int | None, ...],
    ) -> tuple[Any, ...]:
        """What a graph is good for."""
        params = self.body.parameters.tensors
        kind = params[0].device.type
        batch = [_kind(leaf) if isinstance(leaf, Tensor) else (type(leaf), leaf) for leaf in leaves]
        return (
            str(spec),
            tuple(batch),
            tuple((*_kind(param), param.requires_grad) for param in params),
            tuple((name, *_kind(buffer)) for name, buffer in buffers.items()),
            bytes(module.training for module in self.model.modules()),
            (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)),
            (places, look.weight_decay),
        )

    def _traced(
        self,
        leaves: list[Any],
        spec: Any,  # noqa: ANN401 - torch's own
        look: Look,
        buffers: dict[str, Tensor],
        radii: list[Tensor],
        places: tuple[int | None, ...],
    ) -> _Graph:
        """F, and in which order its inputs and results are."""
        from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415 - slow to import

        params = self.body.parameters.tensors
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        counts = [len(params), len(buffers), len(radii), len(tensors)]
        moved: list[str] = []
        present: list[bool] = []

        def whole(*inputs: Tensor) -> tuple[Tensor, ...]:
            here, kept, lengths, data = _divided(inputs, counts)
            given = iter(data)
            batch = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            losses = _Losses(
                module=Bound(self.model, self.loss_fn),
                names=names(self.model, params),
                wanted=[param.requires_grad for param in params],
                buffers={f"model.{name}": part for name, part in zip(buffers, kept, strict=True)},
                batch=tree_unflatten(batch, spec),
            )
            own = tuple(0.0 if place is None else lengths[place] for place in places)
            talking = replace(look, w=Vector(here), own=own, batch=losses.batch)
            direction = _conversed(self.rule, talking, here, losses)
            moved[:] = [name.removeprefix("model.") for name in losses.moved]
            present[:] = [part is not None for part in direction.parts]
            parts = [part for part in direction.parts if part is not None]
            return losses.loss, *losses.moved.values(), *parts

        inputs = [*(param.detach() for param in params), *buffers.values(), *radii, *tensors]
        with eager(), torch.no_grad():
            try:
                traced = make_fx(whole, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
            except RuntimeError as error:
                raise RuntimeError(
                    "loss_fn must be one that torch can trace without values to be compiled, got: "
                    f"{str(error).strip().splitlines()[0]} Compile the model instead: "
                    "torch.compile(model)"
                ) from error
        _check_random(traced)
        run = torch.compile(traced, dynamic=False, fullgraph=True, **self.options)
        return _Graph(run=run, moved=moved, present=present)


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """F for batches of one kind."""

    run: Callable[..., tuple[Tensor, ...]]
    moved: list[str]  # buffers that are among the results
    present: list[bool]  # whether the direction has a part, parameter by parameter


@dataclass(kw_only=True)
class _Losses:
    """The loss at any weights, with the buffers as they were; what the first pass moves is kept."""

    module: Bound
    names: list[str]
    wanted: list[bool]
    buffers: dict[str, Tensor]
    batch: tuple[Any, ...]
    moved: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    loss: Tensor = field(init=False)

    def gradient(self, at: Sequence[Tensor]) -> Vector:
        """The gradient at some weights."""
        leaves = [
            part.detach().requires_grad_(wanted)
            for part, wanted in zip(at, self.wanted, strict=True)
        ]
        copies = {name: buffer.clone() for name, buffer in self.buffers.items()}
        state = {**dict(zip(self.names, leaves, strict=True)), **copies}
        with torch.enable_grad():
            loss = functional_call(self.module, state, self.batch)
            check_loss(loss)
            inputs = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(loss, inputs, allow_unused=True))
        if not hasattr(self, "loss"):
            self.loss = loss.detach()
            # Kernels move running statistics without a trace, so small ones go by suspicion.
            self.moved = {
                name: state[name]
                for name, copy in copies.items()
                if copy.numel() <= SMALL or state[name] is not copy or copy._version
            }
        return Vector(next(found) if wanted else None for wanted in self.wanted)


def _conversed(rule: Probe, look: Look, w: Sequence[Tensor], losses: _Losses) -> Vector:
    """The direction; non-finite if a gradient that was seen is not finite."""
    talk = replace(rule, rho=0.0)(look)  # the radii are in `look.own`
    question: Any = next(talk)
    finite = torch.ones((), dtype=torch.bool, device=w[0].device)
    while True:
        at = [part.clone() for part in w]
        if question is not HERE:
            question.add_to(at)
        gradient = losses.gradient(at)
        try:
            question = talk.send(gradient)
        except StopIteration as end:
            if end.value is not gradient:
                finite = finite & gradient.norm().isfinite()
            return poisoned(end.value, finite)
        finite = finite & gradient.norm().isfinite()


def _radii(rho: Radius, params: Sequence[Tensor]) -> tuple[list[Tensor], tuple[int | None, ...]]:
    """The radii as tensors, so that a schedule needs no graph for every value.

    Args:
        rho: One radius, or one for each parameter.
        params: The parameters.

    Returns:
        The radii, and for each parameter the place of its own among them, or `None` where it does
        not move.
    """
    found: dict[float | Tensor, int] = {}
    places: list[int | None] = []
    for radius in rho if isinstance(rho, tuple) else (rho,) * len(params):
        still = not isinstance(radius, Tensor) and radius == 0.0
        places.append(None if still else found.setdefault(radius, len(found)))
    wide = torch.float64 if params[0].dtype == torch.float64 else torch.float32
    radii = [
        radius
        if isinstance(radius, Tensor)
        else torch.full((), radius, dtype=wide, device=params[0].device)  # asks no host to wait
        for radius in found
    ]
    return radii, tuple(places)


def _divided(inputs: Sequence[Tensor], counts: list[int]) -> list[list[Tensor]]:
    rest = iter(inputs)
    return [[next(rest) for _ in range(count)] for count in counts]


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _check_random(traced: torch.fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise RuntimeError(
                "the step must draw no random numbers to be compiled as a whole, since both passes "
                f"have the same masks, got {node.target}; set dropout to 0, or compile the model "
                "instead: torch.compile(model)"
            )
