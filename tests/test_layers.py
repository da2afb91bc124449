"""Imports run downhill, the report imports no torch, and `import flatminima` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flatminima

LAYERS = [
    {"vector", "models", "data"},
    {"norms", "outputs"},
    {"curvature", "network"},
    {"objective", "perturb", "regions"},
    {"rules"},
    {"engine"},
    {"sharpness", "landscape", "theory"},
    {"integrations", "train"},
    {"study"},
    {"measure"},
    {"report"},
    {"cli"},
    {"__main__"},
]
ALONE = {"models", "data", "report"}  # these import nothing of ours
ROOT = Path(flatminima.__file__).parent
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

OPTIONAL = [
    "torchvision",
    "timm",
    "sklearn",
    "tyro",
    "rich",
    "plotly",
    "jinja2",
    "matplotlib",
    "pandas",
]
OPTIONAL += [
    "safetensors",
    "tensorboard",
    "ray",
    "submitit",
    "lightning",
    "transformers",
    "accelerate",
]


def imported(path: Path) -> Iterator[str]:
    """Yield every dotted name that a file imports, relative ones resolved."""
    here = ["flatminima", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def test_imports_run_downhill() -> None:
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).with_suffix("").parts[0]
        if here == "__init__":  # the list of public names may import anything
            continue
        assert here in RANK, f"{path}: give {here} a place in LAYERS"
        for name in imported(path):
            top, _, rest = name.partition(".")
            there = rest.partition(".")[0]
            if here == "report":
                assert top != "torch", f"{path} imports torch"
            if top != "flatminima" or there == here:
                continue
            assert there in RANK, f"{path} imports {name}: name the module that defines it"
            assert here not in ALONE, f"{path} imports {name}: {here} stands alone"
            assert RANK[there] < RANK[here], f"{path} imports {name}, which is not below it"


def loaded_by(program: str, *, after: str = "") -> set[str]:
    """Return the top-level names of what a program loads in a process that did `after` first."""
    whole = f"""
import sys
{after}
before = set(sys.modules)
{program}
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
"""
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import flatminima").isdisjoint({"torch", "numpy", *OPTIONAL})


def test_the_public_names_load_nothing_optional() -> None:
    # torch itself takes along what it finds of a few; the question is what we add to it
    program = "for name in flatminima.__all__: getattr(flatminima, name)"
    assert loaded_by(program, after="import torch, flatminima").isdisjoint(OPTIONAL)


def test_reading_a_report_loads_no_torch() -> None:
    program = """
import importlib, pkgutil, flatminima.report
for module in pkgutil.walk_packages(flatminima.report.__path__, "flatminima.report."):
    importlib.import_module(module.name)
"""
    assert "torch" not in loaded_by(program)
