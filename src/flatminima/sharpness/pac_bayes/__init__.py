"""Bounds on the error on new data, with every term that goes into them.

`sam_bound` is the bound from which SAM was derived, in the form of its paper and in the tighter one
before the last relaxation; at the size of a network both are vacuous. `certificate` is the kind
that need not be: the kl bound of a distribution over weights that was trained to make it small
(`train_posterior`).
"""

from flatminima.sharpness.pac_bayes.certificate import (
    Certificate,
    Posterior,
    certificate,
    complexity,
    train_posterior,
)
from flatminima.sharpness.pac_bayes.divergence import binary_kl, gaussian_kl, kl_inverse
from flatminima.sharpness.pac_bayes.sam_bound import (
    Form,
    SamBound,
    mcallester,
    noise_for,
    noisy_bound,
    sam_bound,
)

__all__ = [
    "Certificate",
    "Form",
    "Posterior",
    "SamBound",
    "binary_kl",
    "certificate",
    "complexity",
    "gaussian_kl",
    "kl_inverse",
    "mcallester",
    "noise_for",
    "noisy_bound",
    "sam_bound",
    "train_posterior",
]
