"""Does a PAC-Bayes bound explain why SAM generalises?

Question: How large is the bound from which SAM was derived, and a certificate by optimisation, for
    networks trained with SGD and SAM; and do they rank the two as the test error does?
Source: Foret et al. 2021, arXiv:2010.01412, theorem 2; the certificate: Dziugaite and Roy 2017,
    arXiv:1703.11008. Andriushchenko and Flammarion 2022, arXiv:2206.06232, say that the bound does
    not explain SAM. No source prints a figure for these networks.
Expected: the bound of the theorem is far above 1, which says nothing; the certificate is below 1.
Claim: The PAC-Bayes bound does not explain SAM's success.
Time: quick took 30 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flatminima.objective import Objective
from flatminima.report.beside import beside, compared
from flatminima.report.quantity import Quantity, result
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.sharpness import pac_bayes, worst_case
from flatminima.study.perform import loaded, summary
from flatminima.study.place import Place
from flatminima.study.run import TrainingExperiment
from flatminima.study.sources import andriushchenko, digits, mnist
from flatminima.study.study import Method, Stages
from flatminima.train import Member, Training, train
from flatminima.vector import Vector

__all__ = ["METHODS", "PRESETS", "Bounded", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="sam", label="SAM"),
)


@dataclass(frozen=True, kw_only=True)
class Bounded(TrainingExperiment):
    """A training, and bounds on the error of what came out."""

    radius: float = 0.05
    """Of the ball of the theorem."""
    steps: int = 200
    """Of the optimisation of the certificate."""
    draws: int = 200
    """Networks that the certificate draws."""

    def perform(self, place: Place, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Train, then bound the error by the theorem and by a certificate."""
        parts = loaded(self.training.data, place.data_root).to(place.device)
        trained = train(self.training, parts, device=place.device, log=log)
        model, batch = trained.model, (parts.train.inputs(), parts.train.labels)

        def loss_fn(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y)

        def error_fn(x: Tensor, y: Tensor) -> Tensor:
            return (model(x).argmax(1) != y).to(x.dtype).mean()

        loss, w = Objective.of_model(model, loss_fn, [batch])
        error, _ = Objective.of_model(model, error_fn, [batch])
        k, n = sum(part.numel() for part in w.tensors), len(parts.train)
        worst = min(1.0, float(loss.value(w)) + worst_case(loss, w, self.radius, restarts=2).value)
        bound = pac_bayes.sam_bound(
            worst_loss=worst, norm=float(w.norm()), k=k, n=n, rho=self.radius
        )
        posterior = pac_bayes.train_posterior(loss, w, self.start(parts), steps=self.steps)
        proof = pac_bayes.certificate(error, posterior, draws=self.draws)
        return summary(trained) | {
            "printed": bound.printed.value,
            "tight": bound.tight.value,
            "certificate": proof.value,
            "kl": proof.kl,
        }

    def start(self, parts: Any) -> Vector:  # noqa: ANN401 - data.Parts
        """The weights at the start of the training, which no data have touched."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net = self.training.model.build(parts.train.shape, parts.classes)
        return Vector([param.detach() for param in net.to(parts.train.labels.device).parameters()])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One size of the study."""

    training: Training
    """What is trained."""
    rho: float
    """SAM's radius."""
    seeds: int
    """Runs of each method."""


PRESETS = {
    "quick": Plan(training=digits(train=1000, epochs=20), rho=0.1, seeds=3),
    "cpu": Plan(training=mnist(), rho=0.1, seeds=5),
    "paper": Plan(training=andriushchenko(), rho=0.1, seeds=3),
}
DIFFERENCES = {
    "quick": ("A small network on 1000 digits.",),
    "cpu": ("A small network on 10 000 images of MNIST.",),
    "paper": ("The theorem's own paper computes no bound; the network is that of its critics.",),
}
CERTIFICATE = Quantity(
    label="Certificate",
    said="the certified error",
    number=result("certificate", 100),
    unit="%",
    step="points",
    larger=False,
)


def runs(plan: Plan) -> Stages:
    """Every method in every seed."""
    rules = {"sgd": None, "sam": Member(name="sam", rho=plan.rho)}
    yield [
        Bounded(
            method=method.name,
            label=method.label,
            training=replace(
                plan.training,
                rule=rules[method.name],
                seed=seed,
                data=replace(plan.training.data, seed=seed),
            ),
        )
        for seed in range(plan.seeds)
        for method in METHODS
    ]


def count(plan: Plan) -> int:
    """How many runs there are."""
    return plan.seeds * len(METHODS)


def reading(study: Study) -> Reading:
    """The bounds beside the test error."""
    test = Quantity(
        label="Test error",
        number=lambda run: 100 - 100 * (run.number("test_accuracy_last") or 0),
        unit="%",
        larger=False,
    )
    printed = Quantity(label="Bound as printed", number=result("printed"), larger=False)
    tight = Quantity(label="Bound, tight form", number=result("tight"), larger=False)
    told = [row.ours for row in compared(study, tight, {}) if row.ours is not None]
    smallest = min((value.mean for value in told), default=0.0)
    return beside(
        study,
        CERTIFICATE,
        {},
        also=(test, printed, tight),
        claims=[
            (
                "The bound of the theorem does not explain SAM",
                f"Its tighter form is {smallest:.1f} at least, "
                + ("above 1 and therefore vacuous." if smallest > 1 else "below 1."),
            )
        ],
    )
