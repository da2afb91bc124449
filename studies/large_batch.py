"""Do large batches have smaller gradients, and does a larger step make up for them?

Question: With batches four times as large, is the gradient smaller in the end and accuracy lower,
    and does twice the learning rate close the gap?
Source: lhchau/geometry-sam (2024), experiment 4: SGD, ResNet-18 on CIFAR-100, batches of 256 and
    1024, learning rates 0.1 and 0.2; no figures are published, so claims are compared by side.
Expected: accuracy is lower with the large batch at the small learning rate, and less so at the
    large one; SAM, which is not in the source, gains with both.
Claim: A larger learning rate recovers what a large batch loses.
Time: quick took 65 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.report.beside import beside
from flatminima.report.quantity import LAST, TRAIN_LOSS, Quantity, result
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import digits, geometry, mnist
from flatminima.study.study import Method, Stages
from flatminima.train import SGD, Measure, Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="small", label="Small batch", baseline=True),
    Method(name="large", label="Large batch"),
    Method(name="small_sam", label="Small batch, SAM"),
    Method(name="large_sam", label="Large batch, SAM"),
)
RATES = {"lr 0.1": 0.1, "lr 0.2": 0.2}
PUBLISHED = {("lr 0.1", "large"): Published(sign=-1), ("lr 0.2", "large"): Published(sign=0)}
SLOPE = Quantity(label="Gradient norm", number=result("gradient_norm"), larger=False, log=True)


def plan(training: Training, *, rho: float, seeds: int, measure: Measure) -> Plan:
    """One size of the study: two batch sizes and two learning rates, with SAM and without."""
    arms = [
        Arm(
            method=size + name,
            case=case,
            training=replace(
                training,
                batch_size=training.batch_size * times,
                optimizer=replace(training.optimizer, lr=lr),
                rule=rule,
            ),
            measure=measure,
        )
        for case, lr in RATES.items()
        for name, rule in {"": None, "_sam": Member(name="sam", rho=rho)}.items()
        for size, times in {"small": 1, "large": 4}.items()
    ]
    return Plan(arms=arms, seeds=seeds)


PRESETS = {
    "quick": plan(
        replace(digits(train=800), epochs=20),
        rho=0.1,
        seeds=5,
        measure=Measure(points=3, eigenvalues=1),
    ),
    "cpu": plan(mnist(), rho=0.1, seeds=5, measure=Measure(points=3)),
    "paper": plan(
        replace(geometry(), optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-3)),
        rho=0.1,
        seeds=5,
        measure=Measure(points=3),
    ),
}
DIFFERENCES = {
    "quick": ("A small network on 800 digits, batches of 50 and 200.",),
    "cpu": ("A small network on 10 000 images of MNIST, batches of 128 and 512.",),
    "paper": ("The gradient is that of 1000 training images, without augmentation.",),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracies by batch size and learning rate."""
    return beside(study, LAST, PUBLISHED, case="Learning rate", also=(SLOPE, TRAIN_LOSS))
