"""Is a short phase of SAM enough, and at which end?

Question: With SAM only in the last eleventh of training, or in all but the last eleventh, how much
    of its gain over plain training is kept? And what does it gain where a network that was trained
    elsewhere is fine-tuned?
Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232, figure 9: 1000 epochs and 100 more, on
    CIFAR-10 and CIFAR-100, error 4.65 and 20.8 % plain, 4.2 and 19.8 % with SAM at the end, 3.9 and
    19.0 % with SAM at the beginning (read off the figure, ± 0.1 and ± 0.2 points). Preset
    efficientnet: Foret et al. 2021, arXiv:2010.01412, the table of fine-tuned EfficientNets.
Expected: both above plain training, SAM first more so.
Claim: A standard model fine-tuned with SAM gains much of what SAM gives.
Time: quick took 48 s on 2 cores that others used as well. Not yet carried out: cpu, paper, and
    efficientnet.
"""

from dataclasses import replace

from flatminima.data import Augment, ImageFolder
from flatminima.models import Timm
from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST, TRAIN_LOSS
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import andriushchenko, mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import SGD, Loss, Member, Numerics, Training, When

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
ERRORS = {  # percent: with SAM and without, EfficientNet-B7, then L2; 0 where there is no ±
    "Aircraft": ((6.80, 0.06), (8.15, 0.08), (4.82, 0.08), (5.80, 0.1)),
    "Flowers": ((0.63, 0.02), (1.16, 0.05), (0.35, 0.01), (0.40, 0.02)),
    "Pets": ((3.97, 0.04), (4.24, 0.09), (2.90, 0.04), (3.08, 0.04)),
    "Cars": ((5.18, 0.02), (5.94, 0.06), (4.04, 0.03), (4.93, 0.04)),
    "CIFAR-10": ((0.88, 0.02), (0.95, 0.03), (0.30, 0.01), (0.34, 0.02)),
    "CIFAR-100": ((7.44, 0.06), (7.68, 0.06), (3.92, 0.06), (4.07, 0.08)),
    "Birdsnap": ((13.64, 0.15), (14.30, 0.18), (9.93, 0.15), (10.31, 0.15)),
    "Food101": ((7.02, 0.02), (7.17, 0.03), (3.82, 0.01), (3.97, 0.03)),
    "ImageNet": ((15.14, 0.03), (15.3, 0.0), (11.39, 0.02), (11.8, 0.0)),
}
COLUMNS = (("B7", "sam"), ("B7", "plain"), ("L2", "sam"), ("L2", "plain"))
PUBLISHED |= {
    (f"{data}, {network}", method): Published(value=round(100 - error, 2), half=half)
    for data, errors in ERRORS.items()
    for (network, method), (error, half) in zip(COLUMNS, errors, strict=True)
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


EXAMPLES = {  # classes, images to learn from, images to test on
    "Aircraft": (100, 6_667, 3_333),
    "Flowers": (102, 2_040, 6_149),
    "Pets": (37, 3_680, 3_669),
    "Cars": (196, 8_144, 8_041),
    "CIFAR-10": (10, 50_000, 10_000),
    "CIFAR-100": (100, 50_000, 10_000),
    "Birdsnap": (500, 47_386, 2_443),
    "Food101": (101, 75_750, 25_250),
    "ImageNet": (1000, 1_281_167, 50_000),
}
PIXELS = {"B7": 600, "L2": 475}


def tuned(data: str, network: str) -> Training:
    """An EfficientNet from a file of weights, on a folder of images."""
    classes, learn, test = EXAMPLES[data]
    held, name, size = learn // 10, f"tf_efficientnet_{network.lower()}", PIXELS[network]
    folder = ImageFolder(
        path=data.lower(),
        classes=classes,
        train=learn - held,
        validation=held,
        test=test,
        size=size,
        resize=size,
    )
    return Training(
        data=folder,
        model=Timm(name=name, weights=f"{name}.safetensors", new_head=True),
        optimizer=SGD(lr=0.016, momentum=0.9, weight_decay=1e-5),
        loss=Loss(smoothing=0.1),
        epochs=50,
        batch_size=256,
        augment=Augment(crop=0),
        numerics=Numerics(precision="bfloat16", channels_last=True),
    )


def table() -> Plan:
    """Every data set with either network, plain and with SAM."""
    trainings = {
        f"{data}, {network}": tuned(data, network) for data in ERRORS for network in PIXELS
    }
    arms = [
        Arm(method=method, case=case, training=replace(training, rule=rule))
        for case, training in trainings.items()
        for method, rule in (("plain", None), ("sam", Member(name="sam", rho=0.05)))
    ]
    return Plan(arms=arms, seeds=5)


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
    "efficientnet": table(),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits, 20 % of the labels wrong, 44 epochs.",),
    "cpu": ("A small network on 10 000 images of MNIST, 20 % of the labels wrong, 66 epochs.",),
    "paper": (
        "The source starts its last 100 epochs anew, with the momentum at 0 and its own schedule.",
    ),
    "efficientnet": (
        "Learning rate, epochs, batches, radius and augmentation are ours: the texts at hand do "
        "not give them.",
        "Weights are what the user's files tf_efficientnet_b7.safetensors and "
        "tf_efficientnet_l2.safetensors hold; every data set is a folder of images, and a tenth of "
        "its training images the validation part.",
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
