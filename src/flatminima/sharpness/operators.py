"""Symmetric matrices that are known only by their products with vectors.

An operator is called with a `Vector` and returns one. Used as a context it keeps what its products
have in common, for the Hessian the graph of the gradient; every algorithm of this package opens it
so, and it may be opened again inside.

A further operator (a preconditioned Hessian, say) is a subclass with one method, `prepared`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Literal, Self, TypeAlias

from flatminima.objective import Objective
from flatminima.vector import Vector

__all__ = [
    "GGN",
    "EmpiricalFisher",
    "FromFunction",
    "Hessian",
    "HessianKind",
    "Operator",
    "Product",
]

Product: TypeAlias = Callable[[Vector], Vector]
HessianKind = Literal["double_backward", "forward_over_reverse", "compiled", "finite_differences"]


class Operator(ABC):
    """A symmetric matrix A, as the function v -> A v on vectors shaped like the weights.

    Args:
        like: A vector of the shapes, dtypes and devices that the operator takes and returns. Not
            copied.

    Attributes:
        like: The same.
        products: How many products were made so far.

    Cost: nothing until it is called.
    """

    def __init__(self, like: Vector) -> None:
        self.like = like
        self.products = 0
        self._product: Product | None = None
        self._depth = 0
        self._open = ExitStack()

    @abstractmethod
    def prepared(self) -> AbstractContextManager[Product]:
        """A context in which many products share their common work; it yields v -> A v."""

    @property
    def size(self) -> int:
        """The number of rows of the matrix: the coordinates of `like`."""
        return sum(part.numel() for part in self.like.tensors)

    def __call__(self, v: Vector) -> Vector:
        """The product A v.

        Args:
            v: A vector with as many parts as `like`.

        Returns:
            A v, shaped like `v` and without a graph.

        Raises:
            ValueError: If `v` has another number of parts.
        """
        if len(v) != len(self.like):
            raise ValueError(f"v must have {len(self.like)} parts like the weights, got {len(v)}")
        with self:
            assert self._product is not None
            self.products += 1
            return self._product(v).detach()

    def __enter__(self) -> Self:
        if self._depth == 0:
            self._product = self._open.enter_context(self.prepared())
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._product = None
            self._open.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size {self.size:,}, {self.products} products so far)"


class Hessian(Operator):
    """The Hessian of an objective at a point: the matrix of second derivatives.

        (H v)_i = sum_j d^2 f / dw_i dw_j v_j

    Args:
        objective: The function f.
        w: The point, not copied: an operator on a model's own weights moves with them.
        kind: How products are made; see `Objective.linearized`.
        graphs: For how many batches the graph of the gradient is kept.

    Cost: 0 passes over the data to build. A product is about 3 gradients within `with hessian:` on
    one batch, about 5 otherwise; the graph that is kept takes about twice the memory of a training
    step on that batch.

    Example:
        >>> import torch
        >>> f = Objective(lambda w: 0.5 * (w * w).dot(Vector([torch.tensor([3.0, 1.0])])))
        >>> hessian = Hessian(f, Vector([torch.tensor([1.0, 1.0])]))
        >>> hessian(Vector([torch.tensor([1.0, 2.0])])).parts[0]
        tensor([3., 2.])
        >>> hessian
        Hessian(size 2, 1 products so far)
    """

    def __init__(
        self,
        objective: Objective,
        w: Vector,
        *,
        kind: HessianKind = "double_backward",
        graphs: int = 1,
    ) -> None:
        super().__init__(like=w)
        self.objective = objective
        self.kind: HessianKind = kind
        self.graphs = graphs

    def prepared(self) -> AbstractContextManager[Product]:
        """The graph of the gradient, kept over many products where there are few batches."""
        return self.objective.linearized(self.like, self.kind, graphs=self.graphs)


class GGN(Operator):
    """The generalised Gauss-Newton matrix: the Hessian without the curvature of the network.

        G = (1/n) sum_i J_i' B_i J_i,   J_i = dz_i / dw,   B_i = d^2 loss_i / dz_i^2

    Positive semidefinite where the loss is convex in the outputs z, and equal to the Hessian where
    z is linear in w or the loss is at its least. B is exact: diag(p) - p p' for cross-entropy, and
    (2 / C) Id for the squared error averaged over C outputs.

    Args:
        objective: Its loss calls `cross_entropy`, `mse_loss` or `binary_cross_entropy_with_logits`
            of torch once, or marks the network's outputs with `sharpness.outputs`.
        w: The point, not copied.
        graphs: For how many batches the graph is kept.

    Raises:
        ValueError: On use, if the outputs are not found, or the loss depends on the weights beside
            them.

    Cost: 0 passes over the data to build; a product is two backward passes on a kept graph.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
        >>> f = Objective(lambda w: torch.nn.functional.mse_loss(x @ w.parts[0], y))
        >>> w = Vector([torch.tensor([[3.0]])])
        >>> GGN(f, w)(w).parts[0]
        tensor([[15.]])
    """

    def __init__(self, objective: Objective, w: Vector, *, graphs: int = 1) -> None:
        super().__init__(like=w)
        self.objective = objective
        self.graphs = graphs

    def prepared(self) -> AbstractContextManager[Product]:
        """The graph of the outputs, kept over many products where there are few batches."""
        return self.objective.linearized(self.like, "gauss_newton", graphs=self.graphs)


class EmpiricalFisher(Operator):
    """The mean outer product of the examples' gradients at their given labels.

        F = (1/n) sum_i g_i g_i'

    Another matrix than the Fisher information, which draws the labels from the model and equals the
    `GGN` for cross-entropy. An example is a row of the outputs, so a mean over tokens has an outer
    product for each row of what its loss is handed. Norms that use the batch's statistics couple
    the examples: choose another policy.

    Args:
        objective: As for `GGN`.
        w: The point, not copied.
        graphs: For how many batches the graph is kept.

    Raises:
        ValueError: On use, as for `GGN`.

    Cost: as `GGN`.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
        >>> f = Objective(lambda w: torch.nn.functional.mse_loss(x @ w.parts[0], y))
        >>> w = Vector([torch.tensor([[1.0]])])  # the gradients are 2 and 8
        >>> EmpiricalFisher(f, w)(w).parts[0]
        tensor([[34.]])
    """

    def __init__(self, objective: Objective, w: Vector, *, graphs: int = 1) -> None:
        super().__init__(like=w)
        self.objective = objective
        self.graphs = graphs

    def prepared(self) -> AbstractContextManager[Product]:
        """The graph of the outputs, kept over many products where there are few batches."""
        return self.objective.linearized(self.like, "empirical_fisher", graphs=self.graphs)


class FromFunction(Operator):
    """The operator that a function of a vector defines.

    Args:
        function: v -> A v, for a symmetric A. Symmetry is not checked; the residuals of
            `top_eigenpairs` show it.
        like: A vector of the shapes that `function` takes and returns.

    Example:
        >>> import torch
        >>> double = FromFunction(lambda v: 2.0 * v, like=Vector([torch.zeros(3)]))
        >>> double(Vector([torch.ones(3)])).parts[0]
        tensor([2., 2., 2.])
    """

    def __init__(self, function: Product, like: Vector) -> None:
        super().__init__(like)
        self.function = function

    def prepared(self) -> AbstractContextManager[Product]:
        """Nothing to prepare: the function itself."""
        return nullcontext(self.function)
