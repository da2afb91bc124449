"""How sharp a minimum is: eigenvalues of the Hessian, each with its error and its cost."""

from flatminima.sharpness import edge_of_stability, pac_bayes
from flatminima.sharpness.average_case import AverageCase, average_case
from flatminima.sharpness.lanczos import Eigenpairs, Ratio, top_eigenpairs
from flatminima.sharpness.logits import normalized_logits
from flatminima.sharpness.m_sharpness import MeanRise, MSharpness, m_sharpness
from flatminima.sharpness.operators import FromFunction, Hessian, Operator
from flatminima.sharpness.preconditioned import Preconditioned, adam_preconditioner
from flatminima.sharpness.worst_case import WorstCase, worst_case

__all__ = [
    "AverageCase",
    "Eigenpairs",
    "FromFunction",
    "Hessian",
    "MSharpness",
    "MeanRise",
    "Operator",
    "Preconditioned",
    "Ratio",
    "WorstCase",
    "adam_preconditioner",
    "average_case",
    "edge_of_stability",
    "m_sharpness",
    "normalized_logits",
    "pac_bayes",
    "top_eigenpairs",
    "worst_case",
]
