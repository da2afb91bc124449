"""Is the Hessian of SAM's networks smaller, and from when on?

Question: After the first epoch, after a sixth of training and at its end: how large is the largest
    eigenvalue of the Hessian under SGD and SAM, and how far is it above the fifth?
Source: Foret et al. 2021, arXiv:2010.01412, figure 3: a WideResNet-40-10 without normalisation on
    CIFAR-10, epochs 1, 50 and 300, one network each.
Expected: SAM's largest eigenvalue is far below SGD's, and at the end its ratio to the fifth is
    smaller too. The values themselves depend on the network.
Claim: SAM converges to minima with a lower curvature.
Time: quick took 77 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.data import Cifar10
from flatminima.models import WideResNet
from flatminima.report.beside import beside
from flatminima.report.quantity import LAST, RATIO, TOP, TRAIN_LOSS
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import foret, mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import Measure, Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="sam", label="SAM"),
)
CASES = {"first epoch": 0.0, "a sixth": 1 / 6, "the end": 1.0}
TABLE = {"sgd": (62.9, 12.5, 24.2), "sam": (18.6, 8.9, 1.0)}
PUBLISHED = {
    (case, method): Published(value=value)
    for method, values in TABLE.items()
    for case, value in zip(CASES, values, strict=True)
}


def plan(training: Training, *, rho: float, seeds: int, measure: Measure) -> Plan:
    """One size of the study; each time is a run of its own, which ends there."""
    per_epoch = training.steps_per_epoch(training.data.train)
    rules = {"sgd": None, "sam": Member(name="sam", rho=rho)}
    arms = [
        Arm(
            method=method,
            case=case,
            training=replace(
                training, rule=rule, steps=max(1, round(share * training.epochs)) * per_epoch
            ),
            measure=measure,
        )
        for case, share in CASES.items()
        for method, rule in rules.items()
    ]
    return Plan(arms=arms, seeds=seeds)


SOURCE = foret(Cifar10(), WideResNet(depth=40, width=10, norm="none"), epochs=300)
PRESETS = {
    "quick": plan(small_digits(), rho=0.1, seeds=5, measure=Measure(examples=200, points=5)),
    "cpu": plan(mnist(), rho=0.1, seeds=5, measure=Measure(points=5)),
    "paper": plan(SOURCE, rho=0.05, seeds=3, measure=Measure(points=5)),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits; radius 0.1.",),
    "cpu": ("A small network on 10 000 images of MNIST; radius 0.1.",),
    "paper": ("The Hessian is that of 1000 training images.",),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """The largest eigenvalue at three times, beside the source's."""
    return beside(
        study,
        TOP,
        PUBLISHED,
        case="When",
        also=(RATIO, TRAIN_LOSS, LAST),
        curves="the end",
        headline=("the end", "sam"),
    )
