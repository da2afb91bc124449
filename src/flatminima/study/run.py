"""A run: a frozen record of everything that determines a result, with a key made of it.

`Experiment` is what every run is; `Run` is the training of a network. A study that does something
else says in a class of its own what one of its runs is and how it is carried out, and begins with
`TrainingExperiment` if a network is trained all the same:

    @dataclass(frozen=True, kw_only=True)
    class Descent(Experiment):
        rho: float
        seed: int

        def perform(self, place, log):
            ...
            return {"steps": 100, "said": "100 steps"}
"""

import hashlib
import json
import math
from abc import ABC
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Literal

from flatminima.study.place import Place
from flatminima.train import Measure, Training
from flatminima.train.later import later

__all__ = [
    "CRITERION",
    "Experiment",
    "Outcome",
    "Run",
    "Stage",
    "TrainingExperiment",
    "as_json",
    "chosen_rho",
]

Stage = Literal["grid", "final"]
CRITERION = "validation_accuracy_last"  # after the last epoch, as what a study reports first


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """One run of a study, of whatever kind: its fields determine its result."""

    method: str
    """The name of the study's method that it belongs to."""
    label: str
    """How tables and figures call that method; the only field that the key leaves out."""
    stage: Stage = "final"
    """Whether it helps to choose a radius (`grid`) or is reported (`final`)."""
    case: str = later("")
    """Where methods are compared under several conditions, which: `40 %`; empty for one alone."""

    @cached_property
    def key(self) -> str:
        """The name of its folder: 12 hexadecimal digits that change with any setting.

        key = sha256(canonical JSON of every field but the label)[:12]
        """
        settings = {name: value for name, value in as_json(self).items() if name != "label"}
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """The run in a few words."""
        rho, seed = getattr(self, "rho", None), getattr(self, "seed", None)
        radius = "" if rho is None else f" rho={rho:g}"
        case = f", {self.case}," if self.case else ""
        return f"{self.label}{case}{radius}" + ("" if seed is None else f" seed {seed}")

    @property
    def about(self) -> Mapping[str, Any]:
        """What `run.json` says besides the fields, to be found there without knowing the kind."""
        return {"rho": getattr(self, "rho", None), "seed": getattr(self, "seed", 0)}

    def perform(self, place: Place, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Carry it out.

        Args:
            place: Where; it must not change the result.
            log: Appends a row to `metrics.jsonl`.

        Returns:
            What `result.json` says besides the status. `said` puts it in a few words.

        Raises:
            NotImplementedError: If the kind of run does not say how.
        """
        raise NotImplementedError(f"{type(self).__name__} must define perform to be carried out.")


@dataclass(frozen=True, kw_only=True)
class TrainingExperiment(Experiment):
    """A run that trains a network, whatever is looked at in it or afterwards."""

    training: Training
    """What is trained, on what, by what."""

    @property
    def rho(self) -> float | None:
        """The radius of the training; None for plain training."""
        return self.training.rule.rho if self.training.rule else None

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.training.seed


@dataclass(frozen=True, kw_only=True)
class Run(TrainingExperiment):
    """One training of a study, and what is measured after it."""

    measure: Measure | None = None
    """What is measured of the trained network; None for nothing."""
    rounds: int = later(1)
    """How often it is trained from scratch: from the second time on with the labels that the last
    network predicts for the training images. What Foret et al. 2021 call bootstrapping is read so
    here; how it was done there, we do not know."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}.")

    @property
    def about(self) -> Mapping[str, Any]:
        """The radius, the seed, and the number of classes, which gives chance level."""
        return {"rho": self.rho, "seed": self.seed, "classes": self.training.data.classes}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run with the result that it left."""

    run: Any
    """The run, of the study's own kind."""
    result: Mapping[str, Any]
    """What its `result.json` says."""

    @property
    def done(self) -> bool:
        """Whether the run ended well."""
        return self.result.get("status") == "done"


def chosen_rho(outcomes: Sequence[Outcome], method: str, case: str = "") -> float:
    """The radius with the best mean validation accuracy over the seeds of a grid.

    The accuracy is the one after the last epoch: with noisy labels the best epoch of nearly every
    radius is equally good. A radius of which some run failed or diverged is not chosen; of equals
    the smallest is.

    Args:
        outcomes: The grid, of any methods.
        method: The method to choose for.
        case: In which case.

    Returns:
        The radius.

    Raises:
        RuntimeError: If no radius has all of its runs done.
    """
    mine = [
        outcome for outcome in outcomes if outcome.run.method == method and outcome.run.case == case
    ]
    means: dict[float, float] = {}
    for rho in sorted({outcome.run.rho for outcome in mine if outcome.run.rho is not None}):
        group = [outcome for outcome in mine if outcome.run.rho == rho]
        if all(outcome.done for outcome in group):
            scores = [outcome.result[CRITERION] for outcome in group]
            means[rho] = math.fsum(scores) / len(scores)
    if not means:
        raise RuntimeError(
            f"{method} must have a radius whose grid runs are all done, got none of {len(mine)} "
            "runs: read the errors in their result.json."
        )
    return max(means, key=lambda rho: means[rho])


def as_json(value: Any) -> Any:  # noqa: ANN401 - settings have any shape
    """A settings value as plain JSON, the same text for equal values.

    A dataclass becomes an object that names its type, so that two components with the same fields
    are told apart; fields that were added later are left out at their default, so that the keys of
    older runs stay; a member of an enumeration its name in lower case; a set a sorted list; a whole
    number is written without a point; a non-finite number is a word.

    Args:
        value: Dataclasses, mappings, sequences, sets, enumeration members, numbers, text, None.

    Returns:
        What `json.dumps` takes.

    Raises:
        TypeError: If the value holds anything else.
    """
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: as_json(getattr(value, field.name)) for field in _told(value)}
        return {"type": type(value).__name__} | own
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(as_json(name)): as_json(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((as_json(item) for item in value), key=str)
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(
        "a setting must be a dataclass, mapping, sequence, set, enumeration member, number or "
        f"text, got {value!r}: a run is written down as JSON."
    )


def _told(value: Any) -> Iterator[Field[Any]]:  # noqa: ANN401 - any dataclass
    """The fields that are written down: those that came later only where they say something."""
    for known in fields(value):
        if not known.metadata.get("later") or getattr(value, known.name) != known.default:
            yield known


def _number(value: float) -> float | int | str:
    """A number as JSON has it: 1.0 as 1, and the non-finite ones as words."""
    if not math.isfinite(value):
        return str(value)
    return int(value) if value.is_integer() else value
