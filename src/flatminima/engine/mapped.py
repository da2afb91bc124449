"""m-SAM by `torch.func.vmap`: all groups at once, each with weights of its own.

The conversations of all groups go in step. Whatever they ask is answered by one forward and one
backward pass, in which every parameter has an axis of groups. Any rule is carried out as the loop
does it; the price is as many copies of the weights and of the gradient as there are groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from flatminima.engine.batched.derived import over_groups
from flatminima.engine.groups import examples, groups
from flatminima.engine.passes import Body, Call
from flatminima.engine.pieces import cut
from flatminima.network import Bound, names
from flatminima.rules.rule import HERE, Here, Look, Rule
from flatminima.vector import Vector

__all__ = ["mapped"]

Answer: TypeAlias = tuple[Tensor, Vector]
COPIES = 3  # of the parameters for each group: where it looks, and two gradients


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """The groups of one piece of a batch, all of the same size, and their losses."""

    module: Bound
    names: list[str]  # of the parameters, in the order of a vector's parts
    params: tuple[Tensor, ...]
    parts: list[tuple[Any, ...]]

    def gradients(self, at: Mapping[int, Vector | Here]) -> tuple[Tensor, list[Vector]]:
        """The losses of some groups where each of them looks, and the gradients there."""
        stacked = [self._stacked(index, list(at.values())) for index in range(len(self.params))]
        flat = [tree_flatten(self.parts[group]) for group in at]
        spec, columns = flat[0][1], list(zip(*(leaves for leaves, _ in flat), strict=True))
        each = [isinstance(column[0], Tensor) for column in columns]
        batched = [
            torch.stack(column) for column, there in zip(columns, each, strict=True) if there
        ]

        def loss(weights: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
            mine = iter(tensors)
            leaves = [
                next(mine) if there else column[0]
                for column, there in zip(columns, each, strict=True)
            ]
            named = dict(zip(self.names, weights, strict=True))
            return functional_call(self.module, named, tree_unflatten(leaves, spec))

        with torch.enable_grad(), _Padding():
            losses = over_groups(loss)(stacked, batched)
            wanted = [weights for weights in stacked if weights.requires_grad]
            found = iter(torch.autograd.grad(losses.sum(), wanted, allow_unused=True))
        rows = [next(found) if weights.requires_grad else None for weights in stacked]
        vectors = [
            Vector(None if row is None else row[place] for row in rows) for place in range(len(at))
        ]
        return losses.detach(), vectors

    def _stacked(self, index: int, at: list[Vector | Here]) -> Tensor:
        """One parameter where each group looks, (groups, *shape)."""
        param = self.params[index]
        w = param.detach()
        moves = [None if isinstance(e, Here) else e.parts[index] for e in at]
        if all(e is None for e in moves):
            each = w.expand(len(at), *w.shape)
        else:
            each = torch.stack([w if e is None else w + e.to(w.dtype) for e in moves])
        return each.requires_grad_(param.requires_grad)


class _Padding(TorchFunctionMode):
    """Embeddings whose padding gets no gradient, in any group.

    Torch's own rule for them drops the gradient of that row in the first group only.
    """

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is functional.embedding:
            return _embedded(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _embedded(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    *rest: Any,  # noqa: ANN401 - torch's own options
    **options: Any,  # noqa: ANN401
) -> Tensor:
    y = functional.embedding(input, weight, None, *rest, **options)
    if padding_idx is None:
        return y
    padding = input == padding_idx % weight.shape[-2]
    return torch.where(padding[..., None], y.detach(), y)


def mapped(
    body: Body,
    model: nn.Module | None,
    rule: Rule,
    call: Call,
    batch: tuple[Any, ...],
    look: Look,
    m: int,
    memory_limit: float | None = None,
) -> Answer:
    """The loss and the direction of a batch, averaged over its groups by their sizes.

    Args:
        body: What a step acts on.
        model: The model that the loss calls.
        rule: The rule.
        call: The loss.
        batch: What the loss takes.
        look: What the rule knows at the start of this step.
        m: Examples per group.
        memory_limit: Bytes that the groups' weights and gradients may take.

    Returns:
        The loss at the weights, detached, and the direction.

    Raises:
        ValueError: If the model is not known, or there is a scaler, another backward pass or a
            batch that is no structure of torch's.
        RuntimeError: If there are several processes, or torch cannot map the model.
    """
    if model is None:
        raise ValueError("engine='vmap' must be given the module, got parameters")
    if call.scaler is not None or call.backward_fn is not None:
        raise ValueError("engine='vmap' must go backward by itself, got a scaler or a backward_fn")
    if distributed.is_available() and distributed.is_initialized():
        raise RuntimeError(
            "engine='vmap' must have the whole batch in one process, got several; leave engine out"
        )
    if any(isinstance(leaf, Mapping) for leaf in tree_leaves(batch)):
        raise ValueError(
            "batch must be of tensors, lists and dictionaries for engine='vmap', got another "
            "mapping; hand its items over as a dict"
        )
    params = body.parameters.tensors
    named = names(model, params)
    size = sum(param.numel() * param.element_size() for param in params)
    at_once = None if memory_limit is None else max(1, int(memory_limit / (COPIES * size)))
    loss, direction, count = torch.zeros(()), Vector(()), 0
    for piece, (number, few) in cut(batch, m, at_once):
        parts = [group for group, _ in groups(piece, few)]
        every = _Groups(module=Bound(model, call.loss_fn), names=named, params=params, parts=parts)
        try:
            with body.buffers.watched(), body.buffers.held():
                one_loss, one = _conversed(every, rule, look)
        except RuntimeError as error:
            raise RuntimeError(
                "engine='vmap' must be able to map the model over the groups, got this from torch: "
                f"{str(error).strip().splitlines()[0]} Leave engine out for the exact loop"
            ) from error
        count += number * few
        share = number * few / count
        first = share == 1.0
        loss = one_loss if first else loss + share * (one_loss - loss)
        direction = one if first else direction * (1.0 - share) + one * share
    assert count == examples(batch)
    return loss, direction


@torch.no_grad()
def _conversed(every: _Groups, rule: Rule, look: Look) -> Answer:
    """The means over the groups of their losses at the weights and of their directions."""
    talks = [rule(replace(look, batch=part)) for part in every.parts]
    asked: dict[int, Any] = {group: next(talk) for group, talk in enumerate(talks)}
    losses: dict[int, Tensor] = {}
    directions: dict[int, Vector] = {}
    while asked:
        for question in asked.values():
            if not isinstance(question, Vector | Here):
                raise TypeError(f"rule must ask HERE or at a Vector in a group, got {question!r}")
        values, gradients = every.gradients(asked)
        answers = dict(zip(asked, zip(values, gradients, strict=True), strict=True))
        for group, (value, gradient) in answers.items():
            if group not in losses or asked[group] is HERE:
                losses[group] = value
            try:
                asked[group] = talks[group].send(gradient)
            except StopIteration as end:
                directions[group] = end.value
                del asked[group]
    mean = directions[0]
    for group in range(1, len(talks)):
        mean = mean + directions[group]
    return torch.stack(list(losses.values())).mean(), mean * (1.0 / len(talks))
