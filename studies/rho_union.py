"""How much do the steeper sets at several radii have in common?

Question: On one batch at the end of training, what share of the coordinates has a steeper slope at
    one of three radii at least, beside what independent sets of these sizes would give; and does a
    larger share go with a better accuracy?
Source: lhchau/geometry-sam (2024), project 3: radii 0.01, 0.05 and 0.1. It was announced without
    code or result, so that there is nothing to compare with.
Expected: the sets of neighbouring radii are nearly the same, so their union is below chance.
Claim: A larger steeper region goes with better generalisation: a question, not a result.
Time: quick took 34 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from flatminima import perturb
from flatminima.objective import Objective
from flatminima.regions import union
from flatminima.report.beside import beside
from flatminima.report.quantity import LAST, Quantity, result
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.study.perform import loaded, summary
from flatminima.study.place import Place
from flatminima.study.run import TrainingExperiment
from flatminima.study.sources import geometry, mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import Member, Training, train

__all__ = ["METHODS", "PRESETS", "United", "count", "reading", "runs"]

RADII = (0.01, 0.05, 0.1)
METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    *(Method(name=f"sam{rho:g}", label=f"SAM, ρ = {rho:g}") for rho in RADII),
)


@dataclass(frozen=True, kw_only=True)
class United(TrainingExperiment):
    """A training, and its gradients at three radii afterwards."""

    def perform(self, place: Place, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Train, and compare the steeper sets on the first batch of the training part."""
        parts = loaded(self.training.data, place.data_root).to(place.device)
        trained = train(self.training, parts, device=place.device, log=log)
        batch = parts.train.take(slice(self.training.batch_size))

        def loss_fn(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(trained.model(x), y)

        objective, w = Objective.of_model(trained.model, loss_fn, [(batch.inputs(), batch.labels)])
        g = objective.gradient(w)
        perturbed = [objective.gradient(w + perturb.normalized(w, g, rho)) for rho in RADII]
        sets = union(g, perturbed)
        return summary(trained) | {
            "union": sets.union,
            "union_chance": sets.union_chance,
            "all": sets.intersection,
            "all_chance": sets.intersection_chance,
            "phi": sets.phi[0][2],
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One size of the study."""

    training: Training
    """What is trained."""
    seeds: int
    """Runs of each method."""


PRESETS = {
    "quick": Plan(training=small_digits(), seeds=4),
    "cpu": Plan(training=mnist(), seeds=5),
    "paper": Plan(training=geometry(), seeds=3),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits.",),
    "cpu": ("A small network on 10 000 images of MNIST.",),
    "paper": ("The source gives no network for this: that of its other experiments.",),
}


def runs(plan: Plan) -> Stages:
    """Every method in every seed."""
    rules = [None, *(Member(name="sam", rho=rho) for rho in RADII)]
    yield [
        United(
            method=method.name,
            label=method.label,
            training=replace(
                plan.training, rule=rule, seed=seed, data=replace(plan.training.data, seed=seed)
            ),
        )
        for seed in range(plan.seeds)
        for method, rule in zip(METHODS, rules, strict=True)
    ]


def count(plan: Plan) -> int:
    """How many runs there are."""
    return plan.seeds * len(METHODS)


def share(label: str, name: str) -> Quantity:
    """A share of the coordinates, in percent."""
    return Quantity(label=label, number=result(name, 100), unit="%", step="points")


def reading(study: Study) -> Reading:
    """The union beside its chance level and the accuracy."""
    return beside(
        study,
        share("Steeper at one radius", "union"),
        {},
        also=(
            share("Union by chance", "union_chance"),
            share("Steeper at all", "all"),
            share("All by chance", "all_chance"),
            Quantity(label="φ of 0.01 and 0.1", number=result("phi")),
            LAST,
        ),
    )
