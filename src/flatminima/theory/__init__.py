"""Models so small that SAM's effect can be seen whole and checked to many digits.

`diagonal_linear` trains diagonal linear networks on sparse regression, `relu_1d` networks with one
hidden layer on twelve points of a line.
"""

from flatminima.theory.diagonal_linear import Descent, diagonal_linear
from flatminima.theory.relu_1d import ReluNets, relu_1d
from flatminima.theory.sparse_regression import (
    Regression,
    entropic,
    minimum_l1,
    minimum_l2,
    sparse_regression,
)

__all__ = [
    "Descent",
    "Regression",
    "ReluNets",
    "diagonal_linear",
    "entropic",
    "minimum_l1",
    "minimum_l2",
    "relu_1d",
    "sparse_regression",
]
