"""Does SAM improve residual networks on ImageNet, and more so with more epochs?

Question: For ResNet-50, 101 and 152 and 100, 200 and 400 epochs, is the test accuracy with SAM
    above that of SGD?
Source: Foret et al. 2021, arXiv:2010.01412, the table of ImageNet: top-1 errors, as reprinted. The
    row of SGD for ResNet-101 at 400 epochs, 22.3, is almost that of ResNet-50 and looks misprinted.
Expected: SAM above SGD everywhere, by more with more epochs, where SGD overfits.
Claim: SAM keeps improving with training where SGD stops.
Time: quick, a stand-in on digits, took 40 s on 2 cores that others used as well. Not carried out:
    paper, 18 runs for each of 5 seeds; there is no preset cpu.
"""

from dataclasses import replace

from flatminima.data import Augment, ImageFolder
from flatminima.models import CifarResNet, Torchvision
from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST, TRAIN_LOSS
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import SGD, Loss, Member, Numerics, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="sam", label="SAM"),
)
ERRORS = {  # top-1 error in percent, SAM and SGD; the table prints ± 0.1
    ("ResNet-50", 100): (22.5, 22.9),
    ("ResNet-50", 200): (21.4, 22.3),
    ("ResNet-50", 400): (20.9, 22.3),
    ("ResNet-101", 100): (20.2, 21.2),
    ("ResNet-101", 200): (19.4, 20.9),
    ("ResNet-101", 400): (19.0, 22.3),
    ("ResNet-152", 100): (19.2, 20.4),
    ("ResNet-152", 200): (18.5, 20.3),
    ("ResNet-152", 400): (18.4, 20.9),
}
PUBLISHED = {
    (f"{network}, {epochs} epochs", method): Published(value=round(100 - error, 2), half=0.1)
    for (network, epochs), errors in ERRORS.items()
    for method, error in zip(("sam", "sgd"), errors, strict=True)
}


def plan(tasks: dict[str, Training], *, rho: float, seeds: int) -> Plan:
    """One size of the study."""
    rules = {"sgd": None, "sam": Member(name="sam", rho=rho)}
    arms = [
        Arm(method=name, case=case, training=replace(training, rule=rule))
        for case, training in tasks.items()
        for name, rule in rules.items()
    ]
    return Plan(arms=arms, seeds=seeds)


def source(network: str, epochs: int) -> Training:
    """The source's training of one network."""
    return Training(
        data=ImageFolder(),
        model=Torchvision(name=network.lower().replace("-", "")),
        optimizer=SGD(lr=1.6, momentum=0.9, weight_decay=1e-4, nesterov=True),
        loss=Loss(smoothing=0.1),
        epochs=epochs,
        batch_size=4096,
        augment=Augment(crop=0),
        numerics=Numerics(precision="bfloat16", channels_last=True),
    )


QUICK = replace(small_digits(), model=CifarResNet(depth=18, width=4, norm="group"))
PRESETS = {
    "quick": plan(
        {f"{epochs} epochs": replace(QUICK, epochs=epochs) for epochs in (5, 20)}, rho=0.05, seeds=3
    ),
    "paper": plan(
        {f"{network}, {epochs} epochs": source(network, epochs) for network, epochs in ERRORS},
        rho=0.05,
        seeds=5,
    ),
}
DIFFERENCES = {
    "quick": ("A residual network of 4 channels on 200 digits: a stand-in, no ImageNet.",),
    "paper": (
        "50 000 of the training images are the validation part; batches as they are, where the "
        "source perturbs on each accelerator apart.",
    ),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Top-1 accuracies by network and epochs."""
    return beside(study, LAST, PUBLISHED, case="Network", also=(BEST, TRAIN_LOSS))
