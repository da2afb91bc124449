"""The Hessian as an optimizer with a step of its own for each weight sees it.

Adam divides every coordinate by a number of its own, P. Its steps are gradient descent in the
weights sqrt(P) w, where the Hessian is P^-1/2 H P^-1/2: symmetric, with the eigenvalues of P^-1 H.
The largest of them is what the edge of stability is about.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flatminima.sharpness.operators import Operator, Product
from flatminima.vector import Vector

__all__ = ["Preconditioned", "adam_preconditioner"]


class Preconditioned(Operator):
    """An operator between two factors: P^-1/2 A P^-1/2.

    Args:
        operator: A, a `Hessian` say.
        preconditioner: P, one positive number for each weight.

    Raises:
        ValueError: If a number in `preconditioner` is not positive.

    Cost: that of a product with A.

    Example:
        >>> from flatminima.sharpness import FromFunction, top_eigenpairs
        >>> P = Vector([torch.tensor([4.0, 1.0])])
        >>> A = FromFunction(lambda v: Vector([torch.tensor([8.0, 1.0])]) * v, like=P)
        >>> top_eigenpairs(Preconditioned(A, P), k=1).values
        tensor([2.], dtype=torch.float64)
    """

    def __init__(self, operator: Operator, preconditioner: Vector) -> None:
        super().__init__(operator.like)
        smallest = min(float(part.min()) for part in preconditioner.tensors if part.numel())
        if not smallest > 0:
            raise ValueError(f"preconditioner must be positive everywhere, got {smallest}")
        self.operator = operator
        self.factor = preconditioner.map(torch.rsqrt)

    @contextmanager
    def prepared(self) -> Generator[Product, None, None]:
        """What the operator prepares."""
        with self.operator:
            yield lambda v: self.factor * self.operator(self.factor * v)


def adam_preconditioner(optimizer: torch.optim.Optimizer, params: Iterable[Tensor]) -> Vector:
    """What Adam divides the gradient by, beside the learning rate, at its present step.

        P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        optimizer: An Adam, AdamW or NAdam of torch, after a step at least.
        params: The parameters in the order of the objective's weights: the trainable ones, as
            `model.parameters()` has them.

    Returns:
        P, shaped like the weights.

    Raises:
        ValueError: If the optimizer keeps no squares for a parameter.

    Source: Cohen et al. 2022, "Adaptive gradient methods at the edge of stability",
    arXiv:2207.14484.
    Cost: one pass over the parameters.

    Example:
        >>> param = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = torch.optim.Adam([param], betas=(0.9, 0.999), eps=0.0)
        >>> param.grad = torch.tensor([3.0])
        >>> optimizer.step()
        >>> adam_preconditioner(optimizer, [param]).parts[0]  # (1 - 0.9) 3
        tensor([0.3000])
    """
    groups: dict[int, dict[str, Any]] = {
        id(param): group for group in optimizer.param_groups for param in group["params"]
    }
    return Vector(_divisor(optimizer, groups, param) for param in params)


def _divisor(
    optimizer: torch.optim.Optimizer, groups: dict[int, dict[str, Any]], param: Tensor
) -> Tensor:
    state, group = optimizer.state.get(param, {}), groups.get(id(param), {})
    square = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
    if square is None or "betas" not in group:
        raise ValueError(
            "optimizer must be an Adam that has made a step with every parameter, got "
            f"{type(optimizer).__name__} without squares for one of shape {tuple(param.shape)}"
        )
    (first, second), step = group["betas"], float(state["step"])
    return (1.0 - first**step) * ((square / (1.0 - second**step)).sqrt() + group["eps"])
