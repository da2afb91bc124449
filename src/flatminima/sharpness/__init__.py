"""How sharp a minimum is: its spectrum, the worst and the mean rise nearby, what they prove."""

from flatminima.outputs import outputs
from flatminima.sharpness import edge_of_stability, pac_bayes
from flatminima.sharpness.along import AlongTraining
from flatminima.sharpness.average_case import AverageCase, average_case
from flatminima.sharpness.density import Density, density
from flatminima.sharpness.eigenpairs import Eigenpairs, Ratio
from flatminima.sharpness.estimate import Estimate
from flatminima.sharpness.forecast import Forecast, forecast
from flatminima.sharpness.lanczos import top_eigenpairs
from flatminima.sharpness.logits import normalized_logits
from flatminima.sharpness.m_sharpness import MeanRise, MSharpness, m_sharpness
from flatminima.sharpness.operators import GGN, EmpiricalFisher, FromFunction, Hessian, Operator
from flatminima.sharpness.preconditioned import Preconditioned, adam_preconditioner
from flatminima.sharpness.trace import Trace, trace
from flatminima.sharpness.worst_case import WorstCase, worst_case

__all__ = [
    "AlongTraining",
    "AverageCase",
    "Density",
    "Eigenpairs",
    "EmpiricalFisher",
    "Estimate",
    "Forecast",
    "FromFunction",
    "GGN",
    "Hessian",
    "MSharpness",
    "MeanRise",
    "Operator",
    "Preconditioned",
    "Ratio",
    "Trace",
    "WorstCase",
    "adam_preconditioner",
    "average_case",
    "density",
    "edge_of_stability",
    "forecast",
    "m_sharpness",
    "normalized_logits",
    "outputs",
    "pac_bayes",
    "top_eigenpairs",
    "trace",
    "worst_case",
]
