"""Symmetric matrices that are known only by their products with vectors.

An operator is called with a `Vector` and returns one. Used as a context it keeps what its products
have in common, for the Hessian the graph of the gradient; every algorithm of this package opens it
so, and it may be opened again inside.

A further operator (a Gauss-Newton matrix, a preconditioned Hessian) is a subclass with one method,
`prepared`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Self, TypeAlias

from flatminima.objective import Objective
from flatminima.vector import Vector

__all__ = ["FromFunction", "Hessian", "Operator", "Product"]

Product: TypeAlias = Callable[[Vector], Vector]


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

    def __init__(self, objective: Objective, w: Vector) -> None:
        super().__init__(like=w)
        self.objective = objective

    def prepared(self) -> AbstractContextManager[Product]:
        """The graph of the gradient, kept over many products where there is one batch."""
        return self.objective.linearized(self.like)


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
