"""Does Adam with SAM resist 50 % wrong labels on CIFAR-10?

Question: With 50 % of the labels wrong and the radius chosen on validation data, is the test
    accuracy of Adam with SAM above that of Adam alone, and is the loss flatter around its weights?
Source: seminar slides on SAM (October 2021), practical part: a convolutional network on CIFAR-10,
    test accuracy 0.47 with Adam and 0.48 with SAM, one run each, called neutral there. Sizes,
    radius and epochs are not given.
Expected: the sources on label noise say the opposite: SAM above Adam.
Claim: SAM made no difference to a convolutional network on CIFAR-10 with 50 % wrong labels.
Time: quick took 28 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.data import Cifar10
from flatminima.models import CIFAR_NET, Architecture, SmallConv
from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST, MEMORISED, TOP
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import Adam, Measure, Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="adam", label="Adam", baseline=True),
    Method(name="adam_sam", label="Adam with SAM"),
)
PUBLISHED = {
    ("", "adam"): Published(value=47.0, half=1.0),
    ("", "adam_sam"): Published(value=48.0, half=1.0),
}


def plan(training: Training, model: Architecture, *, radii: tuple[float, ...], seeds: int) -> Plan:
    """One size of the study, with the loss around the first seed's weights."""
    adam = replace(training, model=model, optimizer=Adam(lr=1e-3))
    measure = Measure(examples=200, points=11)
    picture = replace(measure, surface_points=11)
    sam = replace(adam, rule=Member(name="sam", rho=radii[0]))
    arms = [
        Arm(method="adam", training=adam, measure=measure, first=picture),
        Arm(method="adam_sam", training=sam, radii=radii, measure=measure, first=picture),
    ]
    return Plan(arms=arms, seeds=seeds, grid_seeds=1)


PRESETS = {
    "quick": plan(small_digits(noise=0.5), SmallConv(width=4), radii=(0.05, 0.2), seeds=4),
    "cpu": plan(
        replace(mnist(noise=0.5), data=Cifar10(train=5_000, test=2_000, noise=0.5)),
        SmallConv(width=16),
        radii=(0.025, 0.05, 0.1, 0.2),
        seeds=5,
    ),
    "paper": plan(
        replace(mnist(noise=0.5), data=Cifar10(noise=0.5)),
        CIFAR_NET,
        radii=(0.01, 0.05, 0.1, 0.2),
        seeds=5,
    ),
}
UNKNOWN = "The slides give no sizes, radius or epochs: all of these are ours."
DIFFERENCES = {
    "quick": ("Digits of 8 by 8 pixels, and a small network.", UNKNOWN),
    "cpu": ("A part of the training images, and a small network.", UNKNOWN),
    "paper": (UNKNOWN,),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracies of Adam with SAM and without, beside those of the slides."""
    return beside(study, LAST, PUBLISHED, also=(BEST, MEMORISED, TOP))
