"""Which part of SAM resists wrong labels, and does bootstrapping add to it?

Question: With 20 to 80 % of the labels flipped, which methods end above SGD in test accuracy, and
    how many wrong labels do they memorise?
Source: Foret et al. 2021, arXiv:2010.01412, section 3.3 and its table of CIFAR-10, for SGD, mixup,
    SAM and bootstrapping; 1-SAM and J-SAM: Baek et al. 2024, "Why is SAM Robust to Label Noise?";
    SANER: Luong et al. 2026, arXiv:2411.17132. Bootstrapping is training anew on the labels that
    the first network predicts, which is our reading of the source's word; the loss of Reed et al.
    2015 with the same name is another method.
Expected: every method ends above SGD, SAM above mixup, and bootstrapping adds a little; at the best
    epoch the differences are smaller.
Claim: SAM's largest gains are under label noise, on par with methods made for it.
Time: quick took 58 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from collections.abc import Sequence
from dataclasses import replace

from flatminima.data import Cifar10
from flatminima.models import CifarResNet
from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST, MEMORISED
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import foret, mnist, small_digits, with_noise
from flatminima.study.study import Method, Stages
from flatminima.train import SGD, Loss, Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="mixup", label="Mixup"),
    Method(name="bootstrap", label="Bootstrapping"),
    Method(name="sam", label="SAM"),
    Method(name="bootstrap_sam", label="Bootstrapping, SAM"),
    Method(name="one_sam", label="1-SAM"),
    Method(name="j_sam", label="J-SAM"),
    Method(name="saner", label="SANER"),
)
RATES = {"20 %": 0.2, "40 %": 0.4, "60 %": 0.6, "80 %": 0.8}
TABLE = {  # test accuracy in percent, at the four rates
    "sgd": (84.8, 68.8, 48.2, 26.2),
    "mixup": (93.0, 90.0, 83.8, 70.2),
    "sam": (95.1, 93.4, 90.5, 77.9),
    "bootstrap_sam": (95.4, 94.2, 91.8, 79.9),
}
PUBLISHED = {
    (case, method): Published(value=value)
    for method, values in TABLE.items()
    for case, value in zip(RATES, values, strict=True)
} | {
    (case, method): Published(sign=1) for method in ("one_sam", "j_sam", "saner") for case in RATES
}


def plan(
    training: Training,
    *,
    radii: tuple[float, ...],
    single: tuple[float, ...],
    alpha: float,
    m: int,
    seeds: int,
    grid: int,
    rates: Sequence[str] = tuple(RATES),
) -> Plan:
    """One size of the study; `single` are 1-SAM's radii, `m` is J-SAM's, which has no batches."""
    sam = replace(training, rule=Member(name="sam", rho=radii[0]))
    one = replace(sam, m=1, engine="batched")
    saner = Member(name="saner", rho=radii[0], settings={"strength": 0.5})
    settings = {
        "sgd": training,
        "mixup": replace(training, loss=Loss(mixup=alpha)),
        "bootstrap": training,
        "sam": sam,
        "bootstrap_sam": sam,
        "one_sam": one,
        "j_sam": replace(sam, m=m, loss=Loss(functional=True)),
        "saner": replace(training, rule=saner),
    }
    arms = [
        Arm(
            method=name,
            case=case,
            training=with_noise(own, RATES[case]),
            radii=() if own.rule is None else single if name == "one_sam" else radii,
            rounds=2 if name.startswith("bootstrap") else 1,
        )
        for case in rates
        for name, own in settings.items()
    ]
    return Plan(arms=arms, seeds=seeds, grid_seeds=grid)


SOURCE = replace(
    foret(Cifar10(), CifarResNet(depth=32, width=16)),
    batch_size=128,
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
)
RADII = (0.05, 0.1, 0.2)
PRESETS = {
    "quick": plan(
        small_digits(),
        radii=(0.1,),
        single=(0.02,),
        alpha=1.0,
        m=10,
        seeds=3,
        grid=0,
        rates=("20 %", "60 %"),
    ),
    "cpu": plan(mnist(), radii=RADII, single=(0.01, 0.02, 0.05), alpha=1.0, m=16, seeds=3, grid=1),
    "paper": plan(SOURCE, radii=RADII, single=RADII, alpha=8.0, m=1, seeds=5, grid=1),
}
DIFFERENCES = {
    "quick": (
        "A small network on 200 digits, where the source has a ResNet-32 on CIFAR-10.",
        "Two of the four rates.",
        "One radius, 0.1, for every rule and rate, 0.02 for 1-SAM; nothing was tuned.",
        "J-SAM perturbs groups of 10 examples, not single ones.",
    ),
    "cpu": (
        "A small network on 10 000 images of MNIST, where the source has a ResNet-32 on CIFAR-10.",
        "J-SAM perturbs groups of 16 examples, not single ones.",
    ),
    "paper": (
        "The source's batch size, learning rate and weight decay are not known to us: these are "
        "usual ones.",
        "Mixup has alpha 8, where the source takes the best of 1, 8, 16 and 32.",
        "1-SAM on a network with BatchNorm takes the statistics of one example at a time.",
    ),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Published accuracies beside ours, at every rate."""
    return beside(
        study,
        LAST,
        PUBLISHED,
        case="Wrong labels",
        also=(BEST, MEMORISED),
        curves="60 %",
        headline=("60 %", "sam"),
    )
