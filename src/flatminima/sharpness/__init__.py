"""How sharp a minimum is: eigenvalues of the Hessian, each with its error and its cost."""

from flatminima.sharpness.lanczos import Eigenpairs, Ratio, top_eigenpairs
from flatminima.sharpness.operators import FromFunction, Hessian, Operator

__all__ = ["Eigenpairs", "FromFunction", "Hessian", "Operator", "Ratio", "top_eigenpairs"]
