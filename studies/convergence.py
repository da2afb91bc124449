"""Does SAM fit the training examples in the end, wrong labels included?

Question: With ever more epochs, does the training loss of m-SAM go to 0 at a constant radius, and
    what becomes of the accuracy when labels are wrong?
Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232: m-SAM converges, to a global minimum
    in practice; figure 12, 60 % wrong labels on CIFAR-10 after 1000 epochs: error 49 % without SAM
    and 43 % with it (read off the figure, ± 2 points), 20 and 10 % at the best epoch.
Expected: the training loss of every m falls with more epochs; test accuracy with SAM falls as well,
    and stays above that without.
Claim: m-SAM converges to a global minimum, so that it too memorises wrong labels in the end.
Time: quick took 80 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST, MEMORISED, TRAIN_LOSS
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import andriushchenko, mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="sam", label="SAM"),
    Method(name="m16", label="m-SAM, m = 16"),
)
LONG, SHORT = "the whole run", "a quarter"
PUBLISHED = {
    (LONG, "sgd"): Published(value=51.0, half=2.0),
    (LONG, "sam"): Published(value=57.0, half=2.0),
}


def plan(training: Training, *, rho: float, seeds: int) -> Plan:
    """One size of the study: each method for a quarter of the epochs, and for all."""
    sam = replace(training, rule=Member(name="sam", rho=rho))
    settings = {
        "sgd": training,
        "sam": sam,
        "m16": replace(sam, m=16, engine="batched"),
    }
    arms = [
        Arm(method=name, case=case, training=replace(own, epochs=own.epochs // share))
        for case, share in {SHORT: 4, LONG: 1}.items()
        for name, own in settings.items()
    ]
    return Plan(arms=arms, seeds=seeds)


PRESETS = {
    "quick": plan(small_digits(noise=0.6, epochs=80), rho=0.1, seeds=3),
    "cpu": plan(mnist(noise=0.6, epochs=160), rho=0.1, seeds=5),
    "paper": plan(andriushchenko(noise=0.6, epochs=1000), rho=0.1, seeds=3),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits, a cosine schedule, 80 epochs.",),
    "cpu": ("A small network on 10 000 images of MNIST, a cosine schedule, 160 epochs.",),
    "paper": ("A post-activation ResNet-18; the source's is pre-activation.",),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracy and training loss after a quarter of the epochs and after all."""
    return beside(
        study,
        LAST,
        PUBLISHED,
        case="Length",
        also=(TRAIN_LOSS, MEMORISED, BEST),
        curves=LONG,
        headline=(LONG, "sam"),
    )
