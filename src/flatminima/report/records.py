"""The records of a study, read from the folder it left."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from flatminima.report.rows import Json, Rows, decoded, logged

__all__ = ["Json", "Method", "Run", "Status", "Study", "opened", "read"]

Status = Literal["done", "diverged", "failed", "unfinished"]
Stage = Literal["final", "grid"]
NONE = Rows(())


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method that a study compares."""

    name: str
    """The word that runs refer to it by."""
    label: str
    """How tables and figures call it."""
    baseline: bool = False
    """Whether the others are compared with it."""
    published: str | None = None
    """The published figure, in the words of its source; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as its folder tells it."""

    key: str
    """The name of its folder."""
    stage: Stage
    """Whether the run chose a radius (`grid`) or is reported (`final`)."""
    method: str
    """The name of its method."""
    rho: float | None
    """The radius; None for plain training."""
    seed: int
    """The seed of everything random in it."""
    settings: Json
    """Everything that determines its result, as `run.json` has it."""
    result: Json | None
    """What it left when it ended; None while it is unfinished."""
    folder: Path
    """Where it was read."""

    @property
    def epochs(self) -> Rows:
        """One row per epoch."""
        return self._logged.get("epoch", NONE)

    @property
    def regions(self) -> Rows:
        """One row per observed step: the share of the coordinates in each region."""
        return self._logged.get("regions", NONE)

    @cached_property
    def _logged(self) -> Mapping[str, Rows]:
        """What it logged; read when it is first asked for, since a table needs none of it."""
        return logged(self.folder / "metrics.jsonl")

    @property
    def case(self) -> str:
        """Under which condition it was carried out, where a study has several; else empty."""
        return str(self.settings.get("case", ""))

    @property
    def model(self) -> str:
        """The network in a few words, such as `MLP hidden=64,64`; empty if none was trained."""
        told: Json = (self.settings.get("training") or {}).get("model") or {}
        sizes = (
            f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in told.items()
            if name != "type" and value is not None
        )
        return " ".join([str(told.get("type", "")), *sizes])

    @property
    def status(self) -> Status:
        """How the run ended, `unfinished` if no complete result says so."""
        return self.result["status"] if self.result else "unfinished"

    @property
    def error(self) -> str:
        """The last line of what went wrong, or an empty string."""
        lines = str((self.result or {}).get("error") or "").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def number(self, name: str) -> float | None:
        """A number of the result, or None where it is absent."""
        value = (self.result or {}).get(name)
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A study and all of its runs."""

    folder: Path
    """Where it was read."""
    methods: Sequence[Method]
    """What it compares, in its own order."""
    runs: Sequence[Run]
    """Every run of the study that left a folder, by key."""
    waiting: int = 0
    """How many runs of the study have left no folder yet."""
    strangers: int = 0
    """How many runs lie in the folder that the study does not name: left by an older plan."""
    about: Mapping[str, Any]
    """The other fields of `study.json`."""

    @cached_property
    def baseline(self) -> Method | None:
        """The method that the others are compared with, if the study names one."""
        return next((method for method in self.methods if method.baseline), None)

    @cached_property
    def cases(self) -> list[str]:
        """The conditions under which methods are compared, in the study's order; [""] if one."""
        keys: Sequence[str] = self.about.get("runs") or []
        places = {key: place for place, key in enumerate(keys)}
        runs = sorted(self.runs, key=lambda run: places.get(run.key, len(places)))
        return list(dict.fromkeys(run.case for run in runs)) or [""]

    def within(self, case: str) -> "Study":
        """The study with the runs of one case only."""
        return self._parts.get(case) or replace(self, runs=())

    @cached_property
    def _parts(self) -> Mapping[str, "Study"]:
        """The study by case."""
        parts: dict[str, list[Run]] = {}
        for run in self.runs:
            parts.setdefault(run.case, []).append(run)
        return {case: replace(self, runs=tuple(runs)) for case, runs in parts.items()}

    @cached_property
    def _groups(self) -> Mapping[tuple[str, Stage], Sequence[Run]]:
        """The runs of each method and stage, by seed."""
        groups: dict[tuple[str, Stage], list[Run]] = {}
        for run in sorted(self.runs, key=_place):
            groups.setdefault((run.method, run.stage), []).append(run)
        return groups

    @property
    def others(self) -> list[Method]:
        """Every method but the baseline."""
        return [method for method in self.methods if method is not self.baseline]

    def word(self, name: str) -> str:
        """A field of `study.json` as text, empty where it is absent."""
        value = self.about.get(name)
        return "" if value is None else str(value)

    def select(
        self, method: str | None = None, *, stage: Stage | None = None, done: bool = True
    ) -> list[Run]:
        """The runs of a method and stage in the order of their seeds.

        Args:
            method: The name of a method; None for every method.
            stage: `final` or `grid`; None for both.
            done: Whether to leave out runs that did not end well.

        Returns:
            The runs, by seed.
        """
        groups = [
            runs
            for (name, when), runs in self._groups.items()
            if method in (None, name) and stage in (None, when)
        ]
        chosen = [run for runs in groups for run in runs if not done or run.status == "done"]
        return chosen if len(groups) < 2 else sorted(chosen, key=_place)


def _place(run: Run) -> tuple[int, str]:
    """Where a run stands among others."""
    return run.seed, run.key


def read(folder: Path | str) -> Study:
    """Read a study from the folder it left, half-written runs included.

    A run without a complete result is `unfinished`, whatever else it wrote; a last line cut off
    in the middle is left out; a run folder without a readable `run.json` cannot be told apart
    from any other and is left out too. Where `study.json` lists its runs, only these are read:
    the folder may hold others, of an older plan or another preset.

    Args:
        folder: The folder that holds `study.json` and `runs/`.

    Returns:
        The study with its methods and runs.

    Raises:
        ValueError: If the folder holds no study.
    """
    folder = Path(folder)
    about = opened(folder / "study.json")
    if about is None:
        raise ValueError(
            f"folder must hold a readable study.json, got {str(folder)!r}: "
            "run the study first, or name the folder of a single study"
        )
    found = tuple(_runs(folder / "runs"))
    named = set(about.get("runs") or [run.key for run in found])
    runs = tuple(run for run in found if run.key in named)
    return Study(
        folder=folder,
        methods=_methods(about, runs),
        runs=runs,
        waiting=len(named) - len(runs),
        strangers=len(found) - len(runs),
        about=about,
    )


def _runs(folder: Path) -> Iterator[Run]:
    """Yield every run below a folder, by key."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for path in map(folder.joinpath, names):
        settings = opened(path / "run.json")
        if settings is not None and {"method", "seed"} <= settings.keys():
            yield _run(path, settings)


def _run(folder: Path, settings: Json) -> Run:
    """A run from its folder and its settings."""
    result = opened(folder / "result.json")
    return Run(
        key=str(settings.get("key", folder.name)),
        stage=settings.get("stage", "final"),
        method=settings["method"],
        rho=settings.get("rho"),
        seed=settings["seed"],
        settings=settings,
        result=result if result and "status" in result else None,
        folder=folder,
    )


def _methods(about: Json, runs: Sequence[Run]) -> tuple[Method, ...]:
    """The methods that the study names, then any that only its runs name."""
    methods = {
        entry["name"]: Method(
            name=entry["name"],
            label=entry.get("label", entry["name"]),
            baseline=bool(entry.get("baseline")),
            published=entry.get("published"),
        )
        for entry in about.get("methods", ())
    }
    for run in runs:
        if run.method not in methods:
            label = run.settings.get("label", run.method)
            methods[run.method] = Method(name=run.method, label=label)
    return tuple(methods.values())


def opened(path: Path) -> Json | None:
    """The JSON object in a file, or None if it is absent, cut off or something else."""
    try:
        value = decoded(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
