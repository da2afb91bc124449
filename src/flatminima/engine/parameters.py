"""Which parameters a step is about, and the radius that each parameter's group sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from flatminima.rules.rule import Length, check_radius
from flatminima.vector import is_sharded

__all__ = ["Parameters", "Target"]

Target: TypeAlias = nn.Module | Iterable[Tensor] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Parameters:
    """The parameters in order, and for each the radius of its group, or `None`.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> Parameters.of([{"params": [layer.weight]}, {"params": [layer.bias], "rho": 0.0}]).radii
        (None, 0.0)
    """

    tensors: tuple[Tensor, ...]
    radii: tuple[Length | None, ...]

    @staticmethod
    def of(target: Target) -> Parameters:
        """The parameters of a model, of a list of tensors, or of groups as in `torch.optim`.

        Args:
            target: A module; tensors; or dictionaries with `params` and, if the group is to have a
                radius of its own, `rho`: a number, a 0-d tensor or a schedule; 0 leaves the group
                out of the perturbation.

        Returns:
            The parameters.

        Raises:
            TypeError: If something else is handed over.
            ValueError: If there is no trainable parameter, or one appears twice.
        """
        items = _items(target)
        tensors: list[Tensor] = []
        radii: list[Length | None] = []
        for group in (item if isinstance(item, Mapping) else {"params": [item]} for item in items):
            members = _members(group)
            tensors.extend(members)
            radii.extend([_radius(group)] * len(members))
        _check(tensors)
        return Parameters(tuple(tensors), tuple(radii))

    def __len__(self) -> int:
        return len(self.tensors)

    def clear(self) -> None:
        """Set every `.grad` to `None`."""
        for tensor in self.tensors:
            tensor.grad = None

    def put(self, grads: Sequence[Tensor | None]) -> None:
        """Set every `.grad`."""
        for tensor, grad in zip(self.tensors, grads, strict=True):
            tensor.grad = grad

    @property
    def own(self) -> tuple[Length | None, ...]:
        """The radius that each parameter has now: what is frozen does not move."""
        rows = zip(self.tensors, self.radii, strict=True)
        return tuple(radius if tensor.requires_grad else 0.0 for tensor, radius in rows)

    @property
    def trainable(self) -> list[Tensor]:
        """Those that want a gradient now."""
        return [tensor for tensor in self.tensors if tensor.requires_grad]

    @property
    def sharded(self) -> bool:
        """Whether there are `DTensor`s among them."""
        return any(map(is_sharded, self.tensors))

    @property
    def inputs(self) -> list[Tensor] | None:
        """Whom a backward pass gives gradients; `None` is everybody in the graph.

        Sharded parameters are not found there: FSDP2 puts gathered ones in their place.
        """
        return None if self.sharded else self.trainable

    @property
    def grads(self) -> list[Tensor | None]:
        """Every `.grad`, in memory of its own: DDP's buckets are written again by the next pass."""
        return [
            grad.clone() if grad is not None and grad._is_view() else grad
            for grad in (tensor.grad for tensor in self.tensors)
        ]


def _items(target: Target) -> list[Any]:
    if isinstance(target, nn.Module):
        return list(target.parameters())
    if isinstance(target, Tensor | Mapping) or not isinstance(target, Iterable):
        raise TypeError(
            "parameters must be a module, tensors, or groups of tensors, "
            f"got {type(target).__name__}"
        )
    items: list[Any] = list(target)
    return [item[1] if isinstance(item, tuple) else item for item in items]  # named_parameters()


def _members(group: Mapping[str, Any]) -> list[Tensor]:
    if "params" not in group:
        raise ValueError(f"a parameter group must have 'params', got the keys {sorted(group)}")
    params = group["params"]
    return [params] if isinstance(params, Tensor) else list(params)


def _radius(group: Mapping[str, Any]) -> Length | None:
    rho: Length | None = group.get("rho")
    if rho is not None:
        check_radius(rho)
    return rho


def _check(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(
                "parameters must be a module, tensors, or groups of tensors, "
                f"got {type(tensor).__name__}"
            )
        if not tensor.is_leaf:
            raise ValueError(
                f"parameters must be leaves, got a tensor that {tensor.grad_fn} computed; "
                "detach it, or hand over what it was computed from"
            )
    if len({id(tensor) for tensor in tensors}) < len(tensors):
        raise ValueError("parameters must be distinct, got one of them twice")
    if not any(tensor.requires_grad for tensor in tensors):
        found = f"{len(tensors)} frozen ones" if tensors else "none at all"
        raise ValueError(
            f"parameters must include a trainable one, got {found}; set requires_grad on some"
        )
