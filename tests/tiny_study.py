"""Do two epochs on sixty digits teach anything?

Question: Does a study of four short runs
    leave what it should?
Source: made for the tests.
Expected: a record of every run.
Time: seconds.
"""

from dataclasses import dataclass, replace

from flatminima.data import Digits
from flatminima.models import MLP
from flatminima.study.run import Run, chosen_rho
from flatminima.study.study import Method
from flatminima.train import SGD, Measure, Member, Training

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="sam", label="SAM"),
)
DIFFERENCES = {"quick": ("There is no source.",)}


@dataclass(frozen=True, kw_only=True)
class Failing(MLP):
    """A network that cannot be built; known only to this file."""

    def build(self, shape, classes):
        raise ArithmeticError("this network cannot be built")


TRAINING = Training(
    data=Digits(train=60, validation=30, test=30, noise=0.4),
    model=MLP(hidden=(8,)),
    optimizer=SGD(lr=0.1),
    epochs=2,
    batch_size=30,
)
PRESETS = {
    "quick": TRAINING,
    "longer": replace(TRAINING, epochs=600),
    "diverging": replace(TRAINING, optimizer=SGD(lr=1e200)),
    "failing": replace(TRAINING, model=Failing()),
}


def runs(training):
    if training is not PRESETS["quick"]:
        yield [run(training, "sgd", None, seed, "final") for seed in range(2)]
        return
    outcomes = yield [run(training, "sam", rho, 100, "grid") for rho in (0.05, 0.1)]
    radii = {"sgd": None, "sam": chosen_rho(outcomes, "sam")}
    yield [run(training, method, rho, 0, "final") for method, rho in radii.items()]


def count(training):
    return 4 if training is PRESETS["quick"] else 2


def run(training, method, rho, seed, stage):
    member = None if rho is None else Member(name=method, rho=rho)
    label = next(known.label for known in METHODS if known.name == method)
    quick = training is PRESETS["quick"]
    return Run(
        method=method,
        label=label,
        stage=stage,
        training=replace(training, rule=member, seed=seed),
        measure=Measure(points=3, surface_points=3) if quick and stage == "final" else None,
    )
