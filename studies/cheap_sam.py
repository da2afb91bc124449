"""Which cheap forms of SAM keep its gain, also at equal cost?

Question: With as many epochs as SGD, and with as many gradients as SAM, how much of SAM's gain over
    SGD do late phases, periodic steps, momentum and LookSAM keep?
Source: Becker et al. 2024, "Momentum-SAM", tables 1 to 3, WideResNet-16-4 on CIFAR-100, test
    accuracy in percent at equal epochs; late phase: Zhou et al. 2025, "SAM Efficiently Selects
    Flatter Minima Late in Training"; every tenth step: mosaicml/composer.
Expected: all above SGD at equal epochs; at equal gradients the cheap forms close in on SAM.
Claim: Much of SAM's gain is to be had for little more than the cost of SGD.
Time: quick took 71 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.data import Cifar100
from flatminima.models import WideResNet
from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST, Quantity, result
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import foret, mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import SGD, Loss, Member, Training, When

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="sam", label="SAM"),
    Method(name="late", label="Last eighth"),
    Method(name="periodic", label="Every 5th step"),
    Method(name="looksam", label="LookSAM"),
    Method(name="momentum_sam", label="Momentum-SAM"),
)
GRADIENTS = {  # per step
    "sgd": 1.0,
    "sam": 2.0,
    "late": 1.125,
    "periodic": 1.2,
    "looksam": 1.2,
    "momentum_sam": 1.0,
}
EPOCHS, COST = "equal epochs", "equal gradients"
PUBLISHED = {
    (EPOCHS, "sgd"): Published(value=76.90, half=0.15),
    (EPOCHS, "sam"): Published(value=79.25, half=0.10),
    (EPOCHS, "looksam"): Published(value=79.00),
    (EPOCHS, "momentum_sam"): Published(value=79.11),
    (EPOCHS, "late"): Published(sign=1),
    (EPOCHS, "periodic"): Published(sign=1),
}
PACE = Quantity(
    label="Time per step", number=result("seconds_per_step", 1000), unit="ms", larger=False
)


def plan(training: Training, *, rho: float, momentum: float, seeds: int) -> Plan:
    """One size of the study; at equal gradients a run has as many as SAM's in the other case."""
    sam = Member(name="sam", rho=rho)
    rules = {
        "sgd": None,
        "sam": sam,
        "late": replace(sam, when=When(start=0.875)),
        "periodic": replace(sam, when=When(every=5)),
        "looksam": Member(name="looksam", rho=rho, settings={"every": 5}),
        "momentum_sam": Member(name="momentum_sam", rho=momentum),
    }
    arms = [
        Arm(
            method=name,
            case=case,
            training=replace(
                training,
                rule=rule,
                epochs=round(training.epochs * (1 if case == EPOCHS else 2 / GRADIENTS[name])),
            ),
        )
        for case in (EPOCHS, COST)
        for name, rule in rules.items()
    ]
    return Plan(arms=arms, seeds=seeds)


SOURCE = replace(
    foret(Cifar100(), WideResNet(depth=16, width=4)),
    optimizer=SGD(lr=0.5, momentum=0.9, weight_decay=5e-4),
    loss=Loss(smoothing=0.1),
)
PRESETS = {
    "quick": plan(small_digits(noise=0.2), rho=0.2, momentum=0.6, seeds=3),
    "cpu": plan(mnist(noise=0.2), rho=0.1, momentum=0.3, seeds=5),
    "paper": plan(SOURCE, rho=0.2, momentum=3.0, seeds=5),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits, 20 % of the labels wrong; no radius was tuned.",),
    "cpu": ("A small network on 10 000 images of MNIST, 20 % of the labels wrong.",),
    "paper": ("The source compares at equal epochs; equal gradients are ours.",),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracies at equal epochs and at equal gradients."""
    return beside(
        study,
        LAST,
        PUBLISHED,
        case="Budget",
        also=(BEST, PACE),
        curves=EPOCHS,
        headline=(EPOCHS, "late"),
    )
