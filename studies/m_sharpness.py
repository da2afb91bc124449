"""Is a perturbation for fewer examples better, each m at its own best radius?

Question: With the radius chosen on validation data for every m, does test accuracy rise as fewer
    examples share one perturbation?
Source: Foret et al. 2021, arXiv:2010.01412, figure 3, a small residual network on CIFAR-10 with m
    from 1 to 256 and radii up to 0.15: a smaller m gives a lower error and a wider range of useful
    radii. Only curves are published, so the claim is compared by its side.
Expected: accuracy falls from m = 1 to the whole batch.
Claim: The fewer examples share a perturbation, the better SAM generalises.
Time: quick took 74 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

from flatminima.data import Cifar10
from flatminima.models import CifarResNet
from flatminima.report.beside import beside
from flatminima.report.quantity import LAST, TRAIN_LOSS
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import foret, mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="whole", label="SAM, whole batch", baseline=True),
    Method(name="sgd", label="SGD"),
    Method(name="m64", label="m = 64"),
    Method(name="m16", label="m = 16"),
    Method(name="m4", label="m = 4"),
    Method(name="m1", label="m = 1"),
)
PUBLISHED = {("", f"m{m}"): Published(sign=1) for m in (64, 16, 4, 1)} | {
    ("", "sgd"): Published(sign=-1)
}


def plan(
    training: Training, *, ms: tuple[int, ...], radii: tuple[float, ...], seeds: int, grid: int
) -> Plan:
    """One size of the study."""
    sam = replace(training, rule=Member(name="sam", rho=radii[0]))
    arms = [
        Arm(method="sgd", training=training),
        Arm(method="whole", training=sam, radii=radii),
        *(
            Arm(method=f"m{m}", training=replace(sam, m=m, engine="batched"), radii=radii)
            for m in ms
        ),
    ]
    return Plan(arms=arms, seeds=seeds, grid_seeds=grid)


SOURCE = foret(Cifar10(), CifarResNet(depth=18, width=16, norm="group"))
FEW = replace(small_digits(noise=0.2), batch_size=64)
PRESETS = {
    "quick": plan(FEW, ms=(16, 4, 1), radii=(0.02, 0.1), seeds=3, grid=1),
    "cpu": plan(mnist(), ms=(64, 16, 4, 1), radii=(0.01, 0.02, 0.05, 0.1, 0.2), seeds=5, grid=1),
    "paper": plan(SOURCE, ms=(64, 16, 4, 1), radii=(0.01, 0.02, 0.05, 0.1, 0.15), seeds=5, grid=1),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits, 20 % of the labels wrong; two radii for each m.",),
    "cpu": ("A small network on 10 000 images of MNIST, batches of 128.",),
    "paper": (
        "The source names its network only as a small residual one: here ResNet-18, width 16, with "
        "GroupNorm, so that groups of examples change nothing but the perturbation.",
    ),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Accuracies at every m, each at its own radius."""
    return beside(study, LAST, PUBLISHED, also=(TRAIN_LOSS,), headline=("", "m1"))
