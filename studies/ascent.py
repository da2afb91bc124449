"""Does a better ascent make a better SAM?

Question: Do other norms, more ascent steps, random directions, another batch's gradient or the
    gradient through the ascent change what SAM gains over SGD?
Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232, figure 1: ResNet-18 on CIFAR-10, where
    a random direction and the gradient of another batch gain nothing over SGD (read off the figure,
    ± 0.1 points). Norms, and the second-order term that SAM drops: Foret et al. 2021,
    arXiv:2010.01412. Several steps: both, without figures.
Expected: SAM is above SGD; random and previous-batch ascents are not; more steps, other norms and
    the second-order term are about SAM.
Claim: One ascent step along the batch's own gradient is what matters; a better maximiser adds
    nothing.
Time: quick took 100 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST, TRAIN_LOSS
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
    Method(name="l_inf", label="SAM, largest coordinate bounded"),
    Method(name="l_1", label="SAM, sum of coordinates bounded"),
    Method(name="three", label="Three ascent steps"),
    Method(name="second", label="SAM with its second-order term"),
    Method(name="random", label="Random direction"),
    Method(name="previous", label="Previous batch"),
)
READ = 0.1  # how exactly the figure can be read
PUBLISHED = {
    ("", "sgd"): Published(value=94.86, half=READ),
    ("", "sam"): Published(value=95.7, half=READ),
    ("", "l_inf"): Published(sign=1),
    ("", "three"): Published(sign=1),
    ("", "random"): Published(value=94.9, half=READ),
    ("", "previous"): Published(value=94.9, half=READ),
}
RULES = {
    "sam": Member(name="sam", rho=0.1),
    "l_inf": Member(name="sam", rho=0.1, settings={"p": float("inf")}),
    "l_1": Member(name="sam", rho=0.1, settings={"p": 1}),
    "three": Member(name="multi_step", rho=0.1, settings={"steps": 3}),
    "second": Member(name="second_order_sam", rho=0.1),
    "random": Member(name="random_perturbation", rho=0.1),
    "previous": Member(name="previous_batch", rho=0.1),
}


def plan(
    training: Training, *, radii: tuple[float, ...], bounded: tuple[float, ...], seeds: int
) -> Plan:
    """One size of the study; `bounded` are the radii of the largest coordinate, far smaller."""
    arms = [Arm(method="sgd", training=training)] + [
        Arm(
            method=name,
            training=replace(training, rule=rule),
            radii=bounded if name == "l_inf" else radii,
        )
        for name, rule in RULES.items()
    ]
    return Plan(arms=arms, seeds=seeds, grid_seeds=1)


PRESETS = {
    "quick": plan(small_digits(noise=0.2), radii=(0.05, 0.2), bounded=(5e-4, 2e-3), seeds=3),
    "cpu": plan(
        mnist(noise=0.2), radii=(0.05, 0.1, 0.2, 0.4), bounded=(1e-4, 3e-4, 1e-3, 3e-3), seeds=5
    ),
    "paper": plan(
        andriushchenko(),
        radii=(0.025, 0.05, 0.1, 0.2, 0.4),
        bounded=(1e-5, 3e-5, 1e-4, 3e-4),
        seeds=5,
    ),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits, 20 % of the labels wrong.",),
    "cpu": ("A small network on 10 000 images of MNIST, 20 % of the labels wrong.",),
    "paper": ("A post-activation ResNet-18; the source's is pre-activation.",),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracies with every ascent, each at its own radius."""
    return beside(study, LAST, PUBLISHED, also=(BEST, TRAIN_LOSS), headline=("", "sam"))
