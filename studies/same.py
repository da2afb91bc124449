"""Does damping or amplifying one region of the perturbed gradient improve SAM?

Question: With the perturbed gradient times a factor in one region or three, is test accuracy above
    SAM's at the same radius?
Source: lhchau/geometry-sam (2024), its tables of SAME: ResNet-18 on CIFAR-100, one run per cell
    (and Luong et al. 2026, arXiv:2411.17132). Regions are 1 steeper, 2 gentler, 3 reversed and
    steeper, 4 reversed and gentler. Runs of one configuration differ by 0.3 points there, so most
    cells are within its noise.
Expected: damping region 2, or 2, 3 and 4, helps at small radii; damping 3 to 0.1 helps at 0.4.
Claim: Damping the region where the slope shrank improves SAM by up to a point.
Time: quick took 57 s on 2 cores that others used as well. Not yet carried out: cpu, and paper.
"""

from dataclasses import replace

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

SETS = {
    "1": (Region.STEEPER,),
    "2": (Region.GENTLER,),
    "3": (Region.REVERSED_STEEPER,),
    "4": (Region.REVERSED_GENTLER,),
    "234": (Region.GENTLER, Region.REVERSED_STEEPER, Region.REVERSED_GENTLER),
}
FACTORS = (0.1, 0.3, 0.5, 0.667, 1.2, 1.5, 2.0, 3.0)
METHODS = (
    Method(name="sam", label="SAM", baseline=True),
    *(
        Method(name=f"r{name}x{factor:g}", label=f"Region {name} × {factor:g}")
        for name in SETS
        for factor in FACTORS
    ),
)
NOISE = 0.3  # the source's runs of one configuration differ by so many points
SAM = {0.05: 78.75, 0.1: 79.35, 0.2: 79.55, 0.4: 79.21, 0.6: 77.98, 0.8: 74.26}
TABLE: dict[tuple[str, float], dict[float, float]] = {  # by region and radius: factor, accuracy
    ("1", 0.05): {0.5: 78.74, 0.667: 78.63, 1.2: 78.32, 1.5: 78.86, 2.0: 78.66},
    ("1", 0.1): {0.5: 78.98, 0.667: 79.17, 1.5: 79.33, 2.0: 78.78},
    ("1", 0.2): {0.5: 79.28, 0.667: 79.36, 1.2: 79.29, 2.0: 78.50},
    ("1", 0.4): {0.5: 78.76, 1.2: 79.31, 1.5: 79.05, 2.0: 79.09},
    ("2", 0.05): {0.1: 78.93, 0.3: 79.65, 0.5: 79.47, 0.667: 79.57, 1.5: 78.15},
    ("2", 0.1): {0.1: 79.27, 0.3: 80.01, 0.5: 79.94, 0.667: 79.73, 1.5: 78.35},
    ("2", 0.2): {0.1: 78.58, 0.3: 79.78, 0.5: 80.02, 0.667: 79.58, 1.5: 79.23},
    ("2", 0.4): {0.667: 78.70, 1.5: 79.88, 2.0: 79.32},  # factor 3 repeats a cell of 1: a slip
    ("2", 0.6): {1.5: 79.33, 2.0: 78.87, 3.0: 78.48},
    ("2", 0.8): {2.0: 78.99, 3.0: 79.43},
    ("3", 0.1): {0.1: 79.39, 0.5: 79.1, 1.5: 78.99, 2.0: 78.98},
    ("3", 0.2): {0.1: 79.76, 0.5: 79.41, 1.5: 79.26, 2.0: 79.16},
    ("3", 0.4): {0.1: 80.46, 0.5: 79.57, 1.5: 79.54, 2.0: 78.81},
    ("3", 0.6): {0.1: 79.64},
    ("4", 0.1): {0.1: 79.01, 0.5: 79.4, 1.5: 79.64, 2.0: 79.46},
    ("4", 0.2): {0.1: 79.17, 0.5: 79.54, 0.667: 79.27, 1.5: 79.82, 2.0: 78.9},
    ("4", 0.4): {0.667: 79.22, 1.5: 79.24, 2.0: 79.21},
    ("234", 0.05): {0.1: 79.66, 0.3: 79.92, 0.5: 79.59},
    ("234", 0.1): {0.3: 79.61, 0.5: 79.95},
    ("234", 0.2): {0.3: 79.66, 0.5: 80.16},
}
PUBLISHED = {
    (f"ρ = {rho:g}", f"r{name}x{factor:g}"): Published(value=value, half=NOISE)
    for (name, rho), cells in TABLE.items()
    for factor, value in cells.items()
} | {(f"ρ = {rho:g}", "sam"): Published(value=value, half=NOISE) for rho, value in SAM.items()}


def plan(
    training: Training, *, radii: tuple[float, ...], factors: tuple[float, ...], seeds: int
) -> Plan:
    """One size of the study: every region, factor and radius."""
    arms: list[Arm] = []
    for rho in radii:
        case = f"ρ = {rho:g}"
        sam = replace(training, rule=Member(name="sam", rho=rho))
        arms.append(Arm(method="sam", case=case, training=sam))
        for name, regions in SETS.items():
            for factor in factors:
                settings = {"factor": dict.fromkeys(regions, factor)}
                own = replace(training, rule=Member(name="same", rho=rho, settings=settings))
                arms.append(Arm(method=f"r{name}x{factor:g}", case=case, training=own))
    return Plan(arms=arms, seeds=seeds)


PRESETS = {
    "quick": plan(small_digits(epochs=40), radii=(0.1, 0.4), factors=(0.1, 1.5), seeds=3),
    "cpu": plan(mnist(), radii=(0.05, 0.2, 0.4), factors=(0.1, 0.5, 1.5), seeds=3),
    "paper": plan(geometry(), radii=tuple(SAM), factors=FACTORS, seeds=3),
}
DIFFERENCES = {
    "quick": ("A small network on 200 digits, two radii and two factors.",),
    "cpu": ("A small network on 10 000 images of MNIST, three radii and three factors.",),
    "paper": (
        "Cutout always, where the source has it half of the time; validation is not augmented.",
        "The last epoch is compared; the source tests its best epoch by validation.",
        "Its larger networks, of which one loses everywhere, are not here.",
    ),
}


def runs(plan: Plan) -> Stages:
    """The grids of radii, if there are any, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Study) -> Reading:
    """Every region, factor and radius, against SAM at the same radius."""
    headline = (study.cases[-1], "r3x0.1")
    return beside(study, LAST, PUBLISHED, case="Radius", also=(BEST,), headline=headline)
