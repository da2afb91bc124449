"""Does SAM beat SGD, and are its minima flatter?

Question: Is the test accuracy after the last epoch higher with SAM than with plain SGD? In the
    small presets 40 % of the labels are flipped, the radius is chosen on validation data, and the
    Hessian's largest eigenvalue is compared too; the source's own size is network by augmentation
    by data set, with plain training at twice the epochs as well.
Source: Foret et al. 2021, arXiv:2010.01412: test errors of WideResNet, Shake-Shake and PyramidNet
    on CIFAR-10 and CIFAR-100, here as accuracies, and section 3.3, which reports 68.8 % for SGD and
    93.4 % for SAM on CIFAR-10 with 40 % of the labels wrong; ASAM: Kwon et al. 2021,
    arXiv:2102.11600; SAME with the gentler region damped: Luong et al. 2026, arXiv:2411.17132.
Expected: SAM and its relatives end above SGD, under label noise because they memorise flipped
    labels more slowly; at the best epoch the difference is small. Their largest eigenvalue is
    smaller.
Claim: SAM generalises better than SGD, also under label noise, and finds flatter minima.
Time: quick took 2 minutes on 2 cores. Estimated from single steps: cpu 2 hours on 2 cores. Not
    yet carried out: cpu, and paper.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

from flatminima.data import Augment, Cifar10, Cifar100, Digits, Mnist
from flatminima.models import MLP, Architecture, PyramidNet, ShakeShake, WideResNet
from flatminima.regions import Region
from flatminima.report.beside import beside, compared
from flatminima.report.comparison import comparison
from flatminima.report.quantity import BEST, LAST, TRAIN_LOSS
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published, tally
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import foret
from flatminima.study.study import Method, Stages
from flatminima.train import SGD, Measure, Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True, published="68.8 on CIFAR-10"),
    Method(name="twice", label="SGD, twice the epochs"),
    Method(name="sam", label="SAM", published="93.4 on CIFAR-10"),
    Method(name="asam", label="ASAM"),
    Method(name="same", label="SAME (gentler × 0.5)"),
)


def accuracy(error: float, half: float) -> Published:
    """An error in percent as the accuracy that it leaves."""
    return Published(value=round(100 - error, 1), half=half)


NOISY = {("", "sgd"): Published(value=68.8), ("", "sam"): Published(value=93.4)}
ERRORS = {  # percent: SAM and SGD on CIFAR-10, then on CIFAR-100; ±<0.1 is written ±0.1
    ("WRN-28-10, 200 epochs", "basic"): "2.7±0.1 3.5±0.1 16.5±0.2 18.8±0.2",
    ("WRN-28-10, 200 epochs", "cutout"): "2.3±0.1 2.6±0.1 14.9±0.2 16.9±0.1",
    ("WRN-28-10, 200 epochs", "AutoAugment"): "2.1±0.1 2.3±0.1 13.6±0.2 15.8±0.2",
    ("WRN-28-10, 1800 epochs", "basic"): "2.4±0.1 3.5±0.1 16.3±0.2 19.1±0.1",
    ("WRN-28-10, 1800 epochs", "cutout"): "2.1±0.1 2.7±0.1 14.0±0.1 17.4±0.1",
    ("WRN-28-10, 1800 epochs", "AutoAugment"): "1.6±0.1 2.2±0.1 12.8±0.2 16.1±0.2",
    ("Shake-Shake", "basic"): "2.3±0.1 2.7±0.1 15.1±0.1 17.0±0.1",
    ("Shake-Shake", "cutout"): "2.0±0.1 2.3±0.1 14.2±0.2 15.7±0.2",
    ("Shake-Shake", "AutoAugment"): "1.6±0.1 1.9±0.1 12.8±0.1 14.1±0.2",
    ("PyramidNet", "basic"): "2.7±0.1 4.0±0.1 14.6±0.4 19.7±0.3",
    ("PyramidNet", "cutout"): "1.9±0.1 2.5±0.1 12.6±0.2 16.4±0.1",
    ("PyramidNet", "AutoAugment"): "1.6±0.1 1.9±0.1 11.6±0.1 14.6±0.1",
    ("PyramidNet with ShakeDrop", "basic"): "2.1±0.1 2.5±0.1 13.3±0.2 14.5±0.1",
    ("PyramidNet with ShakeDrop", "cutout"): "1.6±0.1 1.9±0.1 11.3±0.1 11.8±0.2",
    ("PyramidNet with ShakeDrop", "AutoAugment"): "1.4±0.1 1.6±0.1 10.3±0.1 10.6±0.1",
}
COLUMNS = (("CIFAR-10", "sam"), ("CIFAR-10", "sgd"), ("CIFAR-100", "sam"), ("CIFAR-100", "sgd"))
PUBLISHED = {
    (f"{data}, {network}, {augment}", method): accuracy(*map(float, error.split("±")))
    for (network, augment), errors in ERRORS.items()
    for (data, method), error in zip(COLUMNS, errors.split(), strict=True)
}

RULES = {
    "sam": Member(name="sam", rho=0.05),
    "asam": Member(name="asam", rho=0.5),
    "same": Member(name="same", rho=0.05, settings={"factor": {Region.GENTLER: 0.5}}),
}


def plan(training: Training, *, radii: Mapping[str, tuple[float, ...]], grid_seeds: int) -> Plan:
    """One size of the study, from what every run shares and the grid of each method."""
    arms = [
        Arm(
            method=method.name,
            training=replace(training, rule=RULES.get(method.name)),
            radii=radii.get(method.name, ()),
            measure=Measure(),
            first=Measure(surface_points=25) if method.name in ("sgd", "sam") else None,
        )
        for method in METHODS
        if method.name != "twice"
    ]
    return Plan(arms=arms, seeds=5, grid_seeds=grid_seeds)


NETWORKS: Mapping[str, tuple[Architecture, int]] = {
    "WRN-28-10, 200 epochs": (WideResNet(), 200),
    "WRN-28-10, 1800 epochs": (WideResNet(), 1800),
    "Shake-Shake": (ShakeShake(), 1800),
    "PyramidNet": (PyramidNet(), 1800),
    "PyramidNet with ShakeDrop": (PyramidNet(shakedrop=True), 1800),
}
AUGMENTS = {
    "basic": Augment(),
    "cutout": Augment(cutout=16),
    "AutoAugment": Augment(policy="autoaugment_cifar10", cutout=16),
}
DATA = {"CIFAR-10": (Cifar10(), 0.05), "CIFAR-100": (Cifar100(), 0.1)}


def source() -> Plan:
    """The table of the source: every network, augmentation and data set."""
    arms: list[Arm] = []
    for (network, augment), (name, (data, rho)) in product(ERRORS, DATA.items()):
        model, epochs = NETWORKS[network]
        once = replace(foret(data, model, epochs=epochs), augment=AUGMENTS[augment])
        trainings = {
            "sgd": once,
            "twice": replace(once, epochs=2 * epochs),
            "sam": replace(once, rule=Member(name="sam", rho=rho)),
        }
        case = f"{name}, {network}, {augment}"
        arms += [Arm(method=method, case=case, training=trainings[method]) for method in trainings]
    return Plan(arms=arms, seeds=5)


PRESETS = {
    "quick": plan(
        Training(
            data=Digits(noise=0.4),
            model=MLP(hidden=(128, 128)),
            optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
            epochs=80,
            batch_size=50,
        ),
        radii={
            "sam": (0.2, 0.4, 0.8),
            "asam": (2.0, 4.0, 8.0),
            "same": (0.2, 0.4, 0.8),
        },
        grid_seeds=1,
    ),
    "cpu": plan(
        Training(
            data=Mnist(train=20_000, validation=5_000, test=10_000, noise=0.4),
            model=MLP(hidden=(512, 512)),
            optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
            epochs=60,
            batch_size=128,
        ),
        radii={
            "sam": (0.025, 0.05, 0.1, 0.2, 0.4),
            "asam": (0.25, 0.5, 1.0, 2.0, 4.0),
            "same": (0.025, 0.05, 0.1, 0.2, 0.4),
        },
        grid_seeds=2,
    ),
    "paper": source(),
}

SMALL = "A small network on images of digits, where the source has a residual one on CIFAR-10."
SHARED = "The learning rate is the same for every method and was not tuned for each."
ONCE = "One run of each radius decides which is taken."
TINY = "On a network this small a step is mostly overhead: its time says little about larger ones."
DIFFERENCES = {
    "quick": (SMALL, SHARED, "1000 training examples, 80 epochs, no augmentation.", ONCE, TINY),
    "cpu": (SMALL, SHARED, "20 000 training examples and 60 epochs, without augmentation."),
    "paper": (
        "The radius is the one that the source's reference runs have, 0.05 on CIFAR-10 and 0.1 on "
        "CIFAR-100; it was tuned for each cell there.",
        "The source prints the better of SGD and SGD at twice the epochs; here each has its row, "
        "and differences are to SGD at as many epochs as SAM.",
        "Shake-Shake and PyramidNet train for 1800 epochs, and AutoAugment is followed by cutout: "
        "the texts at hand say neither.",
    ),
}


def runs(plan: Plan) -> Stages:
    """The grid of radii, then the final runs at the best of them."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """The source's table beside ours; under label noise the usual comparison with a verdict."""
    if len(study.cases) > 1:
        return beside(study, LAST, PUBLISHED, case="Training", also=(BEST, TRAIN_LOSS))
    verdicts = (row.verdict for row in compared(study, LAST, NOISY))
    return replace(comparison(study), verdict=tally(verdicts))
