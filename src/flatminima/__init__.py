"""Sharpness-Aware Minimization for PyTorch: train towards flat minima, and see how flat they are.

    sharp = flatminima.SharpnessAware(model, flatminima.sam(rho=0.05))
    loss = sharp.backward(loss_fn, x, y)      # was: loss = loss_fn(x, y); loss.backward()

The names are loaded when they are first used, so that reading a report loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatminima import landscape, observe, perturb, regions, schedule, sharpness, theory
    from flatminima.engine.backward import SharpnessAware
    from flatminima.engine.doctor import doctor
    from flatminima.engine.losses import FunctionalLoss, hardest
    from flatminima.engine.optimizer import SharpnessAwareOptimizer
    from flatminima.objective import Objective
    from flatminima.regions import Region
    from flatminima.rules.rule import HERE, Ask, Conversation, Look, Probe, Rule, Talk
    from flatminima.rules.schedule import periodic, while_large, window, with_probability
    from flatminima.rules.selection import groups
    from flatminima.rules.zoo import (
        asam,
        async_sam,
        awp,
        clipped,
        cr_sam,
        fisher_sam,
        forget_sam,
        friendly_sam,
        gcsam,
        gradient_norm_penalty,
        gsam,
        hybrid,
        le_sam,
        legacy_ckpt14,
        legacy_hybrid,
        looksam,
        lpf_sgd,
        momentum_sam,
        multi_step,
        perturbed_direction,
        perturbed_magnitude,
        previous_batch,
        random_perturbation,
        rwp,
        s2_sam,
        sagm,
        sam,
        same,
        saner,
        second_order_sam,
        ssam,
        stable_sam,
        usam,
        vasso,
        wsam,
        xsam,
        zsharp,
    )
    from flatminima.vector import Vector

__version__ = "0.1.0"

_HOMES = {
    "engine.backward": ("SharpnessAware",),
    "engine.doctor": ("doctor",),
    "engine.losses": ("FunctionalLoss", "hardest"),
    "engine.optimizer": ("SharpnessAwareOptimizer",),
    "vector": ("Vector",),
    "objective": ("Objective",),
    "regions": ("Region",),
    "rules.rule": ("HERE", "Ask", "Conversation", "Look", "Probe", "Rule", "Talk"),
    "rules.schedule": ("periodic", "while_large", "window", "with_probability"),
    "rules.selection": ("groups",),
    "rules.zoo": (
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
    ),
}
_MODULES = {
    "landscape": "landscape",
    "observe": "engine.observe",
    "perturb": "perturb",
    "regions": "regions",
    "schedule": "rules.schedule",
    "sharpness": "sharpness",
    "theory": "theory",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "HERE",
    "Ask",
    "Conversation",
    "FunctionalLoss",
    "Look",
    "Objective",
    "Probe",
    "Region",
    "Rule",
    "SharpnessAware",
    "SharpnessAwareOptimizer",
    "Talk",
    "Vector",
    "asam",
    "async_sam",
    "awp",
    "clipped",
    "cr_sam",
    "doctor",
    "fisher_sam",
    "forget_sam",
    "friendly_sam",
    "gcsam",
    "gradient_norm_penalty",
    "groups",
    "gsam",
    "hardest",
    "hybrid",
    "landscape",
    "le_sam",
    "legacy_ckpt14",
    "legacy_hybrid",
    "looksam",
    "lpf_sgd",
    "momentum_sam",
    "multi_step",
    "observe",
    "periodic",
    "perturb",
    "perturbed_direction",
    "perturbed_magnitude",
    "previous_batch",
    "random_perturbation",
    "regions",
    "rwp",
    "s2_sam",
    "sagm",
    "sam",
    "same",
    "saner",
    "second_order_sam",
    "schedule",
    "sharpness",
    "ssam",
    "stable_sam",
    "theory",
    "usam",
    "vasso",
    "while_large",
    "window",
    "with_probability",
    "wsam",
    "xsam",
    "zsharp",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name in _MODULES:
        value = import_module(f"flatminima.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(import_module(f"flatminima.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"flatminima has no name {name!r}; its names are {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
