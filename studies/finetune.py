"""Is a short phase of SAM enough, and at which end?

Question: With SAM only in the last eleventh of training, or in all but the last eleventh, how much
    of its gain over plain training is kept?
Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232, figure 9: 1000 epochs and 100 more, on
    CIFAR-10 and CIFAR-100, error 4.65 and 20.8 % plain, 4.2 and 19.8 % with SAM at the end, 3.9 and
    19.0 % with SAM at the beginning (read off the figure, ± 0.1 and ± 0.2 points).
Expected: both above plain training, SAM first more so.
Claim: A standard model fine-tuned with SAM gains much of what SAM gives.
Time: quick took 48 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
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
from flatminima.train import Member, Training, When

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="plain", label="Plain", baseline=True),
    Method(name="plain_sam", label="Plain, then SAM"),
    Method(name="sam_plain", label="SAM, then plain"),
    Method(name="sam", label="SAM"),
)
PUBLISHED = {
    ("CIFAR-10", "plain"): Published(value=95.35, half=0.1),
    ("CIFAR-10", "plain_sam"): Published(value=95.8, half=0.1),
    ("CIFAR-10", "sam_plain"): Published(value=96.1, half=0.1),
    ("CIFAR-100", "plain"): Published(value=79.2, half=0.2),
    ("CIFAR-100", "plain_sam"): Published(value=80.2, half=0.2),
    ("CIFAR-100", "sam_plain"): Published(value=81.0, half=0.2),
}
PUBLISHED |= {  # what stands in for them is compared by its side
    (case, name): Published(sign=1)
    for case in ("digits", "MNIST")
    for name in ("plain_sam", "sam_plain")
}
SWITCH = 10 / 11


def plan(tasks: dict[str, Training], *, rho: float, seeds: int) -> Plan:
    """One size of the study; the switch is within one run, with the momentum kept."""
    sam = Member(name="sam", rho=rho)
    rules = {
        "plain": None,
        "plain_sam": replace(sam, when=When(start=SWITCH)),
        "sam_plain": replace(sam, when=When(end=SWITCH)),
        "sam": sam,
    }
    arms = [
        Arm(method=name, case=case, training=replace(training, rule=rule))
        for case, training in tasks.items()
        for name, rule in rules.items()
    ]
    return Plan(arms=arms, seeds=seeds)


PRESETS = {
    "quick": plan({"digits": small_digits(noise=0.2, epochs=44)}, rho=0.2, seeds=5),
    "cpu": plan({"MNIST": mnist(noise=0.2, epochs=66)}, rho=0.1, seeds=5),
    "paper": plan(
        {
            "CIFAR-10": andriushchenko(epochs=1100),
            "CIFAR-100": andriushchenko(classes=100, epochs=1100),
        },
        rho=0.1,
        seeds=3,
    ),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits, 20 % of the labels wrong, 44 epochs.",),
    "cpu": ("A small network on 10 000 images of MNIST, 20 % of the labels wrong, 66 epochs.",),
    "paper": (
        "The source starts its last 100 epochs anew, with the momentum at 0 and its own schedule.",
        "Fine-tuning of EfficientNets, a table of Foret et al. 2021, is not here.",
    ),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracies by when SAM was followed."""
    return beside(
        study, LAST, PUBLISHED, case="Data", also=(BEST, TRAIN_LOSS), curves=study.cases[0]
    )
