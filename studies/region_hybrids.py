"""In which regions does the perturbed gradient help?

Question: With the perturbed gradient in some of the four regions and the current one elsewhere, for
    all 16 sets of regions and every radius: which hybrids are above SAM in test accuracy?
Source: lhchau/geometry-sam (2024), its table of hybrids: ResNet-18 on CIFAR-100, one run per cell.
    Regions are 1 steeper, 2 gentler, 3 reversed and steeper, 4 reversed and gentler. Its column
    "14" is inverted: the class computes 23, so its figures stand beside 23 here, and 14 has none.
Expected: most hybrids are within the noise of ± 0.3 points of SAM at small radii; 12, 13 and 123
    are above SAM at the largest.
Claim: Keeping the perturbed gradient where the slope grew is as good as SAM, and safer at large
    radii.
Time: quick took 62 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace
from itertools import combinations

from flatminima.regions import Region
from flatminima.report.beside import beside
from flatminima.report.quantity import BEST, LAST
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.verdict import Published
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.sources import geometry, mnist, small_digits
from flatminima.study.study import Method, Stages
from flatminima.train import Member, Training

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs"]

NUMBERS = {
    "1": Region.STEEPER,
    "2": Region.GENTLER,
    "3": Region.REVERSED_STEEPER,
    "4": Region.REVERSED_GENTLER,
}
SETS = ["".join(chosen) for k in (1, 2, 3) for chosen in combinations(NUMBERS, k)]
METHODS = (
    Method(name="sam", label="SAM, 1234", baseline=True),
    Method(name="sgd", label="SGD, none"),
    *(Method(name=f"s{name}", label=f"Hybrid {name}") for name in SETS),
)
RADII = {"ρ = 0.1": 0.1, "ρ = 0.2": 0.2, "ρ = 0.4": 0.4, "ρ = 0.6": 0.6, "ρ = 0.8": 0.8}
NOISE = 0.3  # the source's runs of one configuration differ by so many points
TABLE = {  # test accuracy in percent at the five radii; None where the source has none or two
    "sam": (78.84, 79.55, 79.21, 77.98, 74.26),
    "sgd": (77.36,) * 5,
    "s1": (79.06, 79.31, 79.58, 78.58, 78.79),
    "s2": (78.26, 78.27, 77.99, 78.16, 77.38),
    "s3": (78.38, 78.15, None, 77.72, 76.98),
    "s4": (78.60, 78.30, 77.84, 77.48, 77.56),
    "s12": (79.46, 79.78, 79.79, 79.09, 78.60),
    "s13": (79.64, 79.81, 79.29, 79.23, 79.36),
    "s23": (78.58, 78.68, 78.91, 77.21, 75.86),  # printed as 14
    "s34": (77.29, 78.14, 78.51, None, None),  # the last two cells repeat one of 4: a slip
    "s123": (79.44, 79.85, 79.73, 79.27, 78.18),
    "s134": (79.41, 78.94, 78.86, 79.72, 78.72),
    "s234": (None, 78.82, 78.40, 76.79, None),
}
PUBLISHED = {
    (case, method): Published(value=value, half=NOISE)
    for method, values in TABLE.items()
    for case, value in zip(RADII, values, strict=True)
    if value is not None
}


def plan(training: Training, *, cases: tuple[str, ...], seeds: int) -> Plan:
    """One size of the study: every set of regions at every radius."""

    def member(name: str, rho: float) -> Member:
        if name == "sam":
            return Member(name="sam", rho=rho)
        chosen = frozenset(NUMBERS[number] for number in name[1:])
        return Member(name="hybrid", rho=rho, settings={"regions": chosen})

    arms = [
        Arm(
            method=method.name,
            case=case,
            training=training
            if method.name == "sgd"
            else replace(training, rule=member(method.name, RADII[case])),
        )
        for case in cases
        for method in METHODS
    ]
    return Plan(arms=arms, seeds=seeds)


PRESETS = {
    "quick": plan(small_digits(epochs=40), cases=("ρ = 0.2", "ρ = 0.8"), seeds=3),
    "cpu": plan(mnist(), cases=tuple(RADII), seeds=3),
    "paper": plan(geometry(), cases=tuple(RADII), seeds=5),
}
OTHER = (
    "Every coordinate has a region; the source leaves a few, with a ratio of -1, 0 or 1, in none."
)
DIFFERENCES = {
    "quick": ("A small network on 200 digits, two of the five radii.", OTHER),
    "cpu": ("A small network on 10 000 images of MNIST.", OTHER),
    "paper": (
        OTHER,
        "Cutout always, where the source has it half of the time; validation is not augmented.",
        "The last epoch is compared; the source tests its best epoch by validation.",
    ),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Every set of regions at every radius, against SAM at the same radius."""
    headline = (study.cases[-1], "s13")
    return beside(study, LAST, PUBLISHED, case="Radius", also=(BEST,), headline=headline)
