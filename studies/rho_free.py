"""Does one radius serve every task?

Question: With each method at its authors' default radius, how much of the gain of a SAM whose
    radius was tuned for the task is kept?
Source: Kwon et al. 2021, arXiv:2102.11600 (ASAM is less sensitive to the radius), and Wang et al.
    2026, "Fix the Loss, Not the Radius" (LE-SAM). Neither has these tasks: sides are compared.
Expected: the tuned SAM is above SGD on every task; ASAM at its default comes close to it.
Claim: A radius in another metric than SAM's needs no tuning.
Time: quick took 53 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.data import Cifar10, Cifar100, Digits
from flatminima.models import MLP, SmallConv
from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import foret, mnist, small_digits, with_noise
from flatminima.study.study import Method, Stages
from flatminima.train import Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="tuned", label="SAM, tuned"),
    Method(name="sam", label="SAM, ρ = 0.05"),
    Method(name="asam", label="ASAM, ρ = 0.5"),
    Method(name="le_sam", label="LE-SAM, default"),
    Method(name="friendly_sam", label="Friendly SAM, ρ = 0.05"),
)
RULES = {
    "tuned": Member(name="sam", rho=0.05),
    "sam": Member(name="sam", rho=0.05),
    "asam": Member(name="asam", rho=0.5),
    "le_sam": Member(name="le_sam", rho=0.5),
    "friendly_sam": Member(name="friendly_sam", rho=0.05),
}


def plan(tasks: dict[str, Training], *, radii: tuple[float, ...], seeds: int) -> Plan:
    """One size of the study: every method on every task."""
    arms: list[Arm] = []
    for case, training in tasks.items():
        arms.append(Arm(method="sgd", case=case, training=training))
        arms += [
            Arm(
                method=name,
                case=case,
                training=replace(training, rule=rule),
                radii=radii if name == "tuned" else (),
            )
            for name, rule in RULES.items()
        ]
    return Plan(arms=arms, seeds=seeds, grid_seeds=1)


FEW = small_digits(epochs=40)
TASKS = {
    "quick": {
        "few digits": FEW,
        "wrong labels": with_noise(FEW, 0.4),
        "convolutional": replace(
            FEW, model=SmallConv(width=8), data=Digits(train=100, validation=297, test=500)
        ),
    },
    "cpu": {
        "MNIST": mnist(),
        "wrong labels": mnist(noise=0.4),
        "wide": replace(mnist(), model=MLP(hidden=(1024,))),
    },
    "paper": {"CIFAR-10": foret(Cifar10()), "CIFAR-100": foret(Cifar100())},
}
PUBLISHED = {
    (case, name): Published(sign=1) for tasks in TASKS.values() for case in tasks for name in RULES
}
PRESETS = {
    "quick": plan(TASKS["quick"], radii=(0.05, 0.2), seeds=3),
    "cpu": plan(TASKS["cpu"], radii=(0.025, 0.05, 0.1, 0.2, 0.4), seeds=5),
    "paper": plan(TASKS["paper"], radii=(0.02, 0.05, 0.1, 0.2), seeds=5),
}
DIFFERENCES = {
    "quick": ("Small networks on 100 or 200 digits: three tasks of one kind.",),
    "cpu": ("Small networks on 10 000 images of MNIST: three tasks of one kind.",),
    "paper": ("Two tasks; the sources have others.",),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracies on every task."""
    return beside(study, LAST, PUBLISHED, case="Task", also=(BEST,))
