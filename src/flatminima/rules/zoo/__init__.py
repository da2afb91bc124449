"""The named members of the family: where to look, and what to make of what was seen.

A member is a function of its hyper-parameters that returns a rule. A new one needs a paper, a
formula, a law in `tests/test_laws.py` and a line in `tests/family.py`.
"""

from __future__ import annotations

from flatminima.rules.zoo.chance import (
    lpf_sgd,
    random_perturbation,
    rwp,
)
from flatminima.rules.zoo.cheaper import (
    async_sam,
    looksam,
    momentum_sam,
    s2_sam,
)
from flatminima.rules.zoo.combining import (
    clipped,
    cr_sam,
    gradient_norm_penalty,
    gsam,
    perturbed_direction,
    perturbed_magnitude,
    sagm,
    second_order_sam,
    stable_sam,
    wsam,
    xsam,
)
from flatminima.rules.zoo.regional import (
    forget_sam,
    hybrid,
    legacy_ckpt14,
    legacy_hybrid,
    same,
    saner,
)
from flatminima.rules.zoo.remembering import (
    fisher_sam,
    friendly_sam,
    previous_batch,
    vasso,
)
from flatminima.rules.zoo.uphill import (
    asam,
    awp,
    gcsam,
    le_sam,
    multi_step,
    sam,
    ssam,
    usam,
    zsharp,
)

__all__ = [
    "asam",
    "async_sam",
    "awp",
    "clipped",
    "cr_sam",
    "fisher_sam",
    "forget_sam",
    "friendly_sam",
    "gcsam",
    "gradient_norm_penalty",
    "gsam",
    "hybrid",
    "le_sam",
    "legacy_ckpt14",
    "legacy_hybrid",
    "looksam",
    "lpf_sgd",
    "momentum_sam",
    "multi_step",
    "perturbed_direction",
    "perturbed_magnitude",
    "previous_batch",
    "random_perturbation",
    "rwp",
    "s2_sam",
    "sagm",
    "sam",
    "same",
    "saner",
    "second_order_sam",
    "ssam",
    "stable_sam",
    "usam",
    "vasso",
    "wsam",
    "xsam",
    "zsharp",
]
