'''A study is a Python file: a docstring that says what is asked, and a generator of runs.

    """Does SAM beat SGD?

    Question: With the radius chosen on validation data, is the test accuracy higher?
    Source: Foret et al. 2021, arXiv:2010.01412.
    Expected: SAM above SGD.
    Claim: SAM generalises better than SGD.
    Time: quick about a minute on 2 cores.
    """

    METHODS = (Method(name="sgd", label="SGD", baseline=True), Method(name="sam", label="SAM"))
    PRESETS = {"quick": Plan(seeds=5), "paper": Plan(seeds=10)}

    def runs(plan):
        outcomes = yield [...]      # a stage: a list of runs; sent back are their outcomes
        yield [...]                 # the next stage, which may depend on them

A study is found by its file, so nothing needs registering: the words before the colons are read
without running the file.
'''

import ast
import importlib.util
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # listing the studies loads no torch
    from flatminima.study.run import Experiment, Outcome

__all__ = ["FOLDERS", "Method", "Stages", "Study", "find", "studies"]

Stages: TypeAlias = "Generator[Sequence[Experiment], list[Outcome] | None, None]"

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "studies", PACKAGE.parents[1] / "studies")  # installed, or in a checkout


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method that a study compares."""

    name: str
    """The word that its runs refer to it by."""
    label: str
    """How tables and figures call it."""
    baseline: bool = False
    """Whether the others are compared with it."""
    published: str | None = None
    """The published figure, in the words of its source; None if there is none."""


@dataclass(frozen=True)
class Study:
    """A study, found by its file."""

    path: Path
    """The file."""

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return self.path.stem

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self._text.partition("\n")[0]

    def field(self, name: str) -> str:
        """What the docstring says after a word such as `Question:`, on one line; else empty."""
        return self._fields.get(name.lower(), "")

    @property
    def presets(self) -> Mapping[str, Any]:
        """The plans of the study, by name."""
        return self.module.PRESETS

    @property
    def methods(self) -> Sequence[Method]:
        """What it compares, in its own order."""
        return self.module.METHODS

    def plan(self, preset: str) -> Any:  # noqa: ANN401 - a study's plan is its own
        """The plan of a preset.

        Args:
            preset: A name in `presets`.

        Returns:
            The plan, of the study's own kind.

        Raises:
            ValueError: If there is no preset of that name.
        """
        if preset not in self.presets:
            raise ValueError(f"preset must be one of {', '.join(self.presets)}, got {preset!r}.")
        return self.presets[preset]

    def stages(self, preset: str) -> Stages:
        """The generator of a preset's runs, stage by stage."""
        return self.module.runs(self.plan(preset))

    def count(self, preset: str) -> int | None:
        """How many runs a preset has in all its stages; None if the study does not say."""
        count = getattr(self.module, "count", None)
        return count(self.plan(preset)) if count else None

    def compared(self, preset: str) -> Sequence[Method]:
        """The methods that a preset compares: those of its arms, if it is a list of arms."""
        arms = getattr(self.plan(preset), "arms", None)
        named = None if arms is None else {arm.method for arm in arms}
        return [method for method in self.methods if named is None or method.name in named]

    def differences(self, preset: str) -> Sequence[str]:
        """How a preset differs from the setting of the source."""
        return getattr(self.module, "DIFFERENCES", {}).get(preset, ())

    @property
    def reader(self) -> Callable[[Any], Any] | None:
        """The study's own reading of its records; None leaves that to the report.

        A file that defines no function `reading` is not run to know this.
        """
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        return self.module.reading if "reading" in names else None

    @cached_property
    def module(self) -> ModuleType:
        """The file as a module, known by name so that what it defines can be sent to workers."""
        name = f"flatminima_study_{self.name}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        assert spec is not None and spec.loader is not None  # the name ends with .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        if missing := [
            word for word in ("METHODS", "PRESETS", "runs") if not hasattr(module, word)
        ]:
            raise ValueError(
                f"study must define METHODS, PRESETS and runs, got {self.path} "
                f"without {', '.join(missing)}."
            )
        return module

    def load(self) -> None:
        """Run the file, as every worker must before it is sent a run of it."""
        _ = self.module

    @cached_property
    def _text(self) -> str:
        return ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))) or ""

    @cached_property
    def _fields(self) -> Mapping[str, str]:
        """The paragraphs that begin with one word and a colon."""
        found: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in self._text.splitlines()[1:]:
            word, colon, rest = line.partition(":")
            if colon and word.isalpha():
                lines = found.setdefault(word.lower(), [])
                line = rest
            elif not line.strip():
                lines = []
            lines.append(line.strip())
        return {word: " ".join(lines).strip() for word, lines in found.items()}


def studies() -> list[Study]:
    """Every study that comes with the package, by name."""
    found = {path.stem: path for folder in reversed(FOLDERS) for path in folder.glob("[!_]*.py")}
    return [Study(found[name]) for name in sorted(found)]


def find(name: str) -> Study:
    """A study by its name, or by the path of a file.

    Args:
        name: The name of a study that comes with the package, or a path that ends with `.py`.

    Returns:
        The study; its file has not been run yet.

    Raises:
        ValueError: If there is none.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"study must be a file that exists, got {name!r}.")
        return Study(Path(name).resolve())
    known = {study.name: study for study in studies()}
    if name not in known:
        raise ValueError(
            f"study must be one of {', '.join(known)}, or a path that ends with .py, got {name!r}."
        )
    return known[name]
