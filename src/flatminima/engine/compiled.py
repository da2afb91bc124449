"""A whole step as one graph: both passes, the rule and all that is between them, for a compiler.

The conversation is carried out once with tensors that have shapes and no values. What torch was
asked to do meanwhile is a pure function (`traced`), of which `torch.compile` makes what it can:
fewer and larger kernels, CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from flatminima.engine.batched.coverage import eager
from flatminima.engine.batched.geometry import Geometry
from flatminima.engine.batched.tape import NotCovered
from flatminima.engine.groups import examples
from flatminima.engine.passes import Body, Call
from flatminima.engine.pieces import Facts, Step
from flatminima.engine.traced import Groups, Losses, conversed
from flatminima.network import Bound, names
from flatminima.perturb import Radius
from flatminima.rules.rule import Look, Probe, Rule, spelled
from flatminima.vector import Vector

__all__ = ["Whole"]

PLAIN = bool | int | float | complex | str | None
"""What a batch may hold beside tensors: it is part of what a graph is good for."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A step that is compiled as a whole.

    Args:
        body: What the step acts on.
        model: The model that the loss calls.
        rule: The rule.
        m: Examples per perturbation, in the batched form; `None` for the whole batch.
        loss_fn: The loss.
        options: What `torch.compile` is to know.
    """

    body: Body
    model: nn.Module
    rule: Probe
    m: int | None
    loss_fn: Callable[..., Tensor]
    options: dict[str, Any]
    _graphs: dict[Any, _Graph] = field(default_factory=dict)

    @staticmethod
    def of(
        body: Body,
        model: nn.Module | None,
        rule: Rule,
        m: int | None,
        loss_fn: Callable[..., Tensor],
        options: dict[str, Any],
    ) -> Whole:
        """The step, if it can be compiled.

        Args:
            body: What the step acts on.
            model: The model that the loss calls, where it is known.
            rule: The rule.
            m: Examples per perturbation.
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
        geometry = Geometry.of(rule)
        if m is not None and isinstance(geometry, str):
            raise ValueError(
                f"rule must {geometry} to be compiled with m, got {spelled(rule)}; use backward"
            )
        if distributed.is_available() and distributed.is_initialized():
            raise RuntimeError(
                "compiled must have the whole batch in one process, got several; use backward"
            )
        if body.weights.rounding is not None:
            raise ValueError("rounding must be 'nearest' to be compiled, got 'stochastic'")
        return Whole(body=body, model=model, rule=rule, m=m, loss_fn=loss_fn, options=options)

    def step(self, look: Look) -> tuple[Tensor, Vector, Tensor | None]:
        """The loss, the direction and the norms of groups; buffers move as in a first pass."""
        leaves, _ = tree_flatten(look.batch)
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
        key = self._key(look, buffers, places)
        if key not in self._graphs:
            self._graphs[key] = self._traced(look, buffers, radii, places)
        graph = self._graphs[key]
        inputs = [*self.body.parameters.tensors, *buffers.values(), *radii, *tensors]
        kind = inputs[0].device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            results = graph.run(*[tensor.detach() for tensor in inputs])
            count = len(graph.moved)
            for name, now in zip(graph.moved, results[:count], strict=True):
                buffers[name].copy_(now)
            loss, norms, *parts = results[count:]
            if kind == "cuda":  # a CUDA graph's next run writes to the same memory
                loss, norms, *parts = [tensor.clone() for tensor in (loss, norms, *parts)]
        found = iter(parts)
        direction = Vector(next(found) if there else None for there in graph.present)
        return loss, direction, norms if len(norms) else None

    def _key(
        self, look: Look, buffers: dict[str, Tensor], places: tuple[int | None, ...]
    ) -> tuple[Any, ...]:
        """What a graph is good for."""
        leaves, spec = tree_flatten(look.batch)
        params = self.body.parameters.tensors
        kind = params[0].device.type
        batch = [
            _kind(leaf) if isinstance(leaf, Tensor) else (type(leaf), leaf)  # 1 is not True
            for leaf in leaves
        ]
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
        look: Look,
        buffers: dict[str, Tensor],
        radii: list[Tensor],
        places: tuple[int | None, ...],
    ) -> _Graph:
        """The pure function, as a graph, and what its results are."""
        from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415 - slow to import

        leaves, spec = tree_flatten(look.batch)
        params = self.body.parameters.tensors
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        counts = [len(params), len(buffers), len(radii), len(tensors)]
        groups = self._groups(look)
        moved: list[str] = []
        present: list[bool] = []

        def whole(*inputs: Tensor) -> tuple[Tensor, ...]:
            w, kept, lengths, data = _divided(inputs, counts)
            given = iter(data)
            flat = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            own = tuple(0.0 if place is None else lengths[place] for place in places)
            here = replace(look, w=Vector(w), own=own, batch=tree_unflatten(flat, spec))
            losses = Losses(
                module=Bound(self.model, self.loss_fn),
                names=names(self.model, params),
                wanted=[param.requires_grad for param in params],
                buffers={f"model.{name}": part for name, part in zip(buffers, kept, strict=True)},
            )
            if groups is None:
                loss, direction = conversed(self.rule, here, w, losses)
                norms = loss.new_zeros(0)
            else:
                loss, direction, norms = groups.conversed(here, w, losses)
            moved[:] = [name.removeprefix("model.") for name in losses.moved]
            present[:] = [part is not None for part in direction.parts]
            parts = [part for part in direction.parts if part is not None]
            return *(losses.buffers[name] for name in losses.moved), loss, norms, *parts

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

    def _groups(self, look: Look) -> Groups | None:
        """How groups are carried out; `None` if there is only one, or nothing moves."""
        batch, geometry = look.batch or (), Geometry.of(self.rule)
        if self.m is None or isinstance(geometry, str) or not look.moves:
            return None
        if examples(batch) <= self.m:
            return None
        facts = Facts.of(self.model, self.body.parameters.tensors)
        call = Call(loss_fn=self.loss_fn)
        step = Step(self.body, facts, self.m, geometry, call, look)
        try:
            if examples(batch) < 2 * self.m:
                raise NotCovered(f"the batch must hold two whole groups, got {examples(batch)}")
            if facts.cumulative:
                raise NotCovered("running statistics must have a momentum, got None")
            sights = step.rehearsed(batch)
        except NotCovered as error:
            raise RuntimeError(
                f"a step with m={self.m} must be provably exact in one pair of passes to be "
                f"compiled, got this: {error}; use backward"
            ) from error
        return Groups(m=self.m, geometry=geometry, names=facts.names, sights=sights)


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """The pure function for batches of one kind."""

    run: Callable[..., tuple[Tensor, ...]]
    moved: list[str]  # buffers that are among the results
    present: list[bool]  # whether the direction has a part, parameter by parameter


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
        if _draws(node):
            raise RuntimeError(
                "the step must draw no random numbers to be compiled as a whole, since both passes "
                f"have the same masks, got {node.target}; set dropout to 0, or compile the model "
                "instead: torch.compile(model)"
            )


def _draws(node: torch.fx.Node) -> bool:
    """Whether a call draws random numbers; attention is one that may, and says how likely."""
    operator: Any = node.target
    if torch.Tag.nondeterministic_seeded not in getattr(operator, "tags", ()):
        return False
    for place, argument in enumerate(operator._schema.arguments):
        if argument.name == "dropout_p":
            default = node.kwargs.get("dropout_p", argument.default_value)
            return bool(node.args[place] if place < len(node.args) else default)
    return True
