"""Which parameters are perturbed, and how far: groups of parameters by the modules they are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from flatminima.rules.rule import Length, check_radius

__all__ = ["groups"]

Kind: TypeAlias = type[nn.Module] | Callable[[nn.Module], bool]


def groups(
    model: nn.Module, radii: Mapping[Kind, Length], *, otherwise: Length | None = 0.0
) -> list[dict[str, Any]]:
    """The parameters of a model in groups with a radius each, by the kind of module they are in.

    Args:
        model: The model.
        radii: The radius of each kind of module: a class, or a function that says of a module
            whether it is meant. It holds for all parameters inside; of nested modules the inner one
            decides, of several kinds that fit the first.
        otherwise: The radius of all other parameters. The default leaves them unperturbed; `None`
            gives them the rule's own.

    Returns:
        Groups as `torch.optim` takes them, each with `params` and `rho`, for `SharpnessAware`; an
        optimizer takes them as well. `{nn.LayerNorm: 0.1}` is SAM-ON; a radius for each layer, by
        its width, say, is one entry per layer.

    Raises:
        TypeError: If a kind is neither a class nor a function.
        ValueError: If a kind fits no module that has parameters and is not decided otherwise, or a
            radius is negative.

    Source: Mueller et al., NeurIPS 2023, "Normalization Layers Are All That Sharpness-Aware
        Minimization Needs".
    Differs: the authors' code goes by the names of the layers.
    Cost: none; what is not perturbed takes no memory either.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        >>> [(len(group["params"]), group["rho"]) for group in groups(model, {nn.LayerNorm: 0.1})]
        [(2, 0.1), (2, 0.0)]
    """
    for kind, rho in radii.items():
        if not callable(kind):
            raise TypeError(f"a kind must be a class of modules or a function, got {kind!r}")
        check_radius(rho)
    chosen: dict[Tensor, Kind | None] = dict.fromkeys(model.parameters())
    for module in model.modules():  # outer ones first
        kind = next((kind for kind in radii if _is(module, kind)), None)
        if kind is not None:
            chosen.update(dict.fromkeys(module.parameters(), kind))
    missing = [kind for kind in radii if kind not in chosen.values()]
    if missing:
        names = ", ".join(getattr(kind, "__name__", repr(kind)) for kind in missing)
        raise ValueError(f"radii must name kinds of modules that the model has, got {names}")
    kinds: dict[Kind | None, Length | None] = {**radii, None: otherwise}
    return [
        {"params": params} if rho is None else {"params": params, "rho": rho}
        for kind, rho in kinds.items()
        if (params := [param for param, its in chosen.items() if its is kind])
    ]


def _is(module: nn.Module, kind: Kind) -> bool:
    return isinstance(module, kind) if isinstance(kind, type) else kind(module)
