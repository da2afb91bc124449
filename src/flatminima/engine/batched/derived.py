"""Tensors that depend on parameters and on no example: slices, sums, products, casts of weights.

The calls that make them are kept as a little program F of the parameters. It runs once for all
groups by `torch.func.vmap`: backwards, to take gradients of its results to the parameters,

    g_j = (dF / dw)^T g'_j

and forwards at w + e_j, to give every group its own results. So a positional table that is cut to
length, a weight that is normalised or the sum of a matrix and a low-rank product are exact, at the
price of one such result per group.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Key", "Program", "over_groups"]

Key: TypeAlias = int | tuple[int, int]  # a parameter by its index; or (call, place in its results)


@dataclass(frozen=True)
class _Step:
    function: Callable[..., Any]
    args: Any
    kwargs: Any


@dataclass
class Program:
    """The calls that made tensors from parameters alone, in order."""

    steps: list[_Step] = field(default_factory=list[_Step])

    def add(
        self,
        function: Callable[..., Any],
        args: Any,  # noqa: ANN401 - any arguments
        kwargs: Any,  # noqa: ANN401
        keys: Mapping[int, Key],
    ) -> int:
        """Keep a call.

        Args:
            function: What was called.
            args: Its arguments.
            kwargs: Its keyword arguments.
            keys: The key of each tensor of the program, by its id.

        Returns:
            The number of the call.
        """

        def keyed(leaf: Any) -> Any:  # noqa: ANN401 - any argument
            key = keys.get(id(leaf)) if isinstance(leaf, Tensor) else None
            return leaf if key is None else _Ref(key)

        self.steps.append(_Step(function, *tree_map(keyed, (args, kwargs))))
        return len(self.steps) - 1

    def results(self, wanted: Sequence[Key], values: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        """Some of the tensors, from values of the parameters."""
        known: dict[Key, Tensor] = dict(values.items())

        def filled(leaf: Any) -> Any:  # noqa: ANN401 - any argument
            return known[leaf.key] if isinstance(leaf, _Ref) else leaf

        for number, step in enumerate(self.steps):
            args, kwargs = tree_map(filled, (step.args, step.kwargs))
            for place, tensor in enumerate(tree_leaves(step.function(*args, **kwargs))):
                known[number, place] = tensor
        return tuple(known[key] for key in wanted)

    def pulled_back(
        self, gradients: Mapping[Key, Tensor], params: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """The gradients of the groups, taken from the program's results to its parameters.

        Args:
            gradients: The gradient in each group of some of the results, (groups, *shape).
            params: The parameters, by index.

        Returns:
            The gradient in each group of every parameter that they depend on.
        """
        wanted, indices = list(gradients), sorted(self.reached(gradients))
        values = tuple(params[index].detach() for index in indices)

        def forward(*values: Tensor) -> tuple[Tensor, ...]:
            return self.results(wanted, dict(zip(indices, values, strict=True)))

        pull: Callable[..., Any] = torch.func.vjp(forward, *values)[1]
        each = over_groups(pull)(tuple(gradients[key] for key in wanted))
        return dict(zip(indices, each, strict=True))

    def spread(self, wanted: Sequence[Key], each: Mapping[int, Tensor]) -> dict[Key, Tensor]:
        """The results in each group, from the parameters' values in each group."""
        indices = sorted(each)

        def forward(*values: Tensor) -> tuple[Tensor, ...]:
            return self.results(wanted, dict(zip(indices, values, strict=True)))

        values = over_groups(forward)(*(each[index] for index in indices))
        return dict(zip(wanted, values, strict=True))

    def reached(self, keys: Iterable[Key]) -> set[int]:
        """The parameters that some of the results depend on."""
        found: set[int] = set()
        for key in keys:
            if isinstance(key, int):
                found.add(key)
                continue
            step = self.steps[key[0]]
            refs = [
                leaf for leaf in tree_leaves((step.args, step.kwargs)) if isinstance(leaf, _Ref)
            ]
            found |= self.reached([ref.key for ref in refs])
        return found


def over_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.func.vmap`, which is silent about functions that it takes one by one."""

    def mapped(*args: Any) -> Any:  # noqa: ANN401 - any arguments
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return torch.func.vmap(function)(*args)

    return mapped


@dataclass(frozen=True)
class _Ref:
    key: Key
