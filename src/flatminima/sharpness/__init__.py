"""How sharp a minimum is: eigenvalues, density and trace of the Hessian, with errors."""

from flatminima.outputs import outputs
from flatminima.sharpness.density import Density, density
from flatminima.sharpness.estimate import Estimate
from flatminima.sharpness.lanczos import Eigenpairs, Ratio, top_eigenpairs
from flatminima.sharpness.operators import (
    GGN,
    EmpiricalFisher,
    FromFunction,
    Hessian,
    Operator,
)
from flatminima.sharpness.trace import Trace, trace

__all__ = [
    "GGN",
    "Density",
    "Eigenpairs",
    "EmpiricalFisher",
    "Estimate",
    "FromFunction",
    "Hessian",
    "Operator",
    "Ratio",
    "Trace",
    "density",
    "outputs",
    "top_eigenpairs",
    "trace",
]
