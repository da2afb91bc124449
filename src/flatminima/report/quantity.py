"""The numbers of a run that studies compare, each with its unit."""

from collections.abc import Callable
from dataclasses import dataclass

from flatminima.report.records import Run

__all__ = ["BEST", "LAST", "MEMORISED", "RATIO", "TOP", "TRAIN_LOSS", "Quantity", "result"]

Number = Callable[[Run], float | None]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number of a run, by its name and unit."""

    label: str
    """What it is: "Test accuracy, last epoch"."""
    number: Number
    """The number of a run, in the unit; None where the run does not say."""
    unit: str = ""
    """The unit, such as "%"."""
    step: str = ""
    """The unit of differences, such as "points"."""
    larger: bool = True
    """Whether more is better."""
    log: bool = False
    """Whether it is drawn on a logarithmic axis."""

    said: str = ""
    """The same within a sentence; empty for the label in lower case."""

    @property
    def words(self) -> str:
        """What it is within a sentence."""
        return self.said or (self.label if self.label[:1] == "λ" else self.label.lower())

    @property
    def header(self) -> str:
        """The name with the unit in brackets."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def result(name: str, factor: float = 1.0) -> Number:
    """A number of the result of a run, times a factor for its unit."""

    def number(run: Run) -> float | None:
        value = run.number(name)
        return None if value is None else factor * value

    return number


def _memorised(run: Run) -> float | None:
    """The share of wrong labels that the network gives in the end, in percent."""
    share = run.epochs[-1].get("noisy_accuracy") if run.epochs else None
    return None if share is None else 100 * share


def _eigenvalue(run: Run, place: int) -> float | None:
    """One of the largest eigenvalues of the Hessian, the largest first."""
    values = ((run.result or {}).get("hessian") or {}).get("values", ())
    return values[place] if place < len(values) else None


def _ratio(run: Run) -> float | None:
    """The largest eigenvalue over the fifth, where that is above 0."""
    top, fifth = _eigenvalue(run, 0), _eigenvalue(run, 4)
    return top / fifth if top is not None and fifth is not None and fifth > 0 else None


LAST = Quantity(
    label="Test accuracy, last epoch",
    said="test accuracy after the last epoch",
    number=result("test_accuracy_last", 100),
    unit="%",
    step="points",
)
BEST = Quantity(
    label="Test accuracy, best epoch",
    said="test accuracy at the best epoch",
    number=result("test_accuracy_best", 100),
    unit="%",
    step="points",
)
MEMORISED = Quantity(
    label="Wrong labels memorised", number=_memorised, unit="%", step="points", larger=False
)
TRAIN_LOSS = Quantity(
    label="Training loss", number=result("train_loss_last"), larger=False, log=True
)
TOP = Quantity(label="λ₁", number=lambda run: _eigenvalue(run, 0), larger=False, log=True)
RATIO = Quantity(label="λ₁/λ₅", number=_ratio, larger=False)
