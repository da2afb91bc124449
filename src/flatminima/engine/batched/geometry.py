"""From the gradients of the groups to their displacements: what a rule's `perturb` does, for all.

    normalized    e_j = rho g_j / ||g_j||             p = inf:  e_j = rho sign(g_j)
    unnormalized  e_j = rho g_j
    adaptive      e_j = rho t^2 g_j / ||t g_j||       p = inf:  e_j = rho t sign(g_j)

A factor t that is one number per output row, or one in all, goes through outer products as it is;
so does a sign where there is one outer product. Anything else needs the dense form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatminima import perturb
from flatminima.engine.batched import forms
from flatminima.engine.batched.forms import Dense, Form
from flatminima.perturb import Scaling
from flatminima.rules.rule import Probe, Rule

__all__ = ["Geometry"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The ball in which each group looks for its worst point.

    Args:
        p: The order of its norm, 2 or inf.
        scale: What a weight is measured by; `None` for plain SAM.
        eta: Added to the size of a weight.
        normalized: Whether the displacement has the length of the radius.

    Example:
        >>> from flatminima.rules.zoo import asam, gsam
        >>> Geometry.of(asam(scale="filter"))
        Geometry(p=2.0, scale='filter', eta=0.01, normalized=True)
        >>> Geometry.of(gsam())
        'take the perturbed gradient as it is'
    """

    p: float = 2.0
    scale: Scaling | None = None
    eta: float = 0.0
    normalized: bool = True

    @staticmethod
    def of(rule: Rule) -> Geometry | str:
        """The geometry of a rule, or what it would have to do to have one."""
        if not isinstance(rule, Probe):
            return "look uphill once"
        if rule.combine is not None:
            return "take the perturbed gradient as it is"
        function, options = _unwrapped(rule.perturb)
        if options.get("p", 2.0) not in (2.0, math.inf):
            return "have a norm of order 2 or inf"
        if function is perturb.normalized:
            return Geometry(**options)
        if function is perturb.unnormalized:
            return Geometry(normalized=False)
        if function is perturb.adaptive:
            scale, eta = options.pop("scale", "element"), options.pop("eta", 0.01)
            return Geometry(scale=scale, eta=eta, **options)
        return "have a displacement that is normalized, unnormalized or adaptive"

    def t(self, param: Tensor) -> Tensor | None:
        """The size of the weights, shaped to multiply them; `None` for 1."""
        if self.scale is None:
            return None
        return perturb.size(param.detach(), self.scale, self.eta)

    def keeps_rows(self, n: int) -> bool:
        """Whether outer products, `n` to a group, stay outer products."""
        return self.scale != "element" and (self.p == 2.0 or n == 1)

    def displacements(
        self,
        gradients: Mapping[int, Form],
        params: Mapping[int, Tensor],
        radii: Mapping[int, float | Tensor],
        unit: float | Tensor,
    ) -> tuple[dict[int, Form], Tensor]:
        """How far each group moves each parameter, and the norms of the groups' gradients.

        Args:
            gradients: The gradients of the groups, times `unit`, by the parameter's index.
            params: The parameters.
            radii: The radius of each.
            unit: The scale of the loss.

        Returns:
            The displacements, and ||t g_j||, (groups,). A group whose norm is 0 or not finite does
            not move; nobody asks the host.
        """
        sizes = {index: self.t(params[index]) for index in gradients}
        measured = {index: None if self.p == math.inf else t for index, t in sizes.items()}
        lengths = [_norms(form, measured[index]) for index, form in gradients.items()]
        raw = torch.linalg.vector_norm(torch.stack(lengths), dim=0)
        usable = (raw > 0) & (raw < math.inf)
        length = raw if self.normalized and self.p == 2.0 else unit
        if self.p == math.inf:
            length = 1.0
        factors = {
            radius: torch.where(usable, radius / length, 0.0).to(raw.dtype)
            for radius in {radii[index] for index in gradients}
        }
        moved = {
            index: self._moved(form, factors[radii[index]], sizes[index])
            for index, form in gradients.items()
        }
        return moved, raw / unit

    def _moved(self, form: Form, c: Tensor, t: Tensor | None) -> Form:
        if self.p == math.inf:
            form = form.signs() if isinstance(form, Dense) else tuple(row.signs() for row in form)
        elif t is not None:
            t = t * t
        if isinstance(form, Dense):
            return form.times(c, t)
        return tuple(row.scaled(c, t) for row in form)


def _norms(form: Form, t: Tensor | None) -> Tensor:
    return form.norms(t) if isinstance(form, Dense) else forms.norms(form, t)


def _unwrapped(function: Any) -> tuple[object, dict[str, Any]]:  # noqa: ANN401 - any callable
    """A function and the options that were fixed by `functools.partial`."""
    options: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        if function.args:
            return function, {}
        options = {**function.keywords, **options}
        function = function.func
    return function, options
