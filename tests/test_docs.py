"""Every public name is documented, the code on the pages runs, the links lead somewhere.

A page's Python blocks run in order, in one namespace, as a reader would type them. A block that
opens with "```python no-run" is shown only; what a page needs but would bore its reader stands in
a comment that opens with "<!-- run", and runs with the rest.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import flatminima

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONG = {
    "sam_in_ten_lines.py",  # imports scikit-learn
    *("ddp.py", "fsdp2.py"),  # these start two processes
    *("two_valleys.py", "pac_bayes_of_a_small_net.py", "a_small_study.py"),
    *("surfaces.md", "worst-case-sharpness.md", "pac-bayes.md"),
    *("sharpness_of_a_checkpoint.py", "regions_of_a_step.py", "your_own_rule.py"),
}
BLOCK = re.compile(
    r"^```(?P<info>[^\n]*)\n(?P<code>.*?)^```$|^<!-- run\n(?P<hidden>.*?)^-->$", re.M | re.S
)
LINK = re.compile(r"\]\((?!\w+:|#)(?P<target>[^)#\s]+)")


@pytest.fixture(autouse=True)
def single_precision(double_precision: None) -> None:
    torch.set_default_dtype(torch.float32)  # the pages show what a reader would see


def modules() -> Iterator[ModuleType]:
    """Yield every module of the package that has a list of public names."""
    for found in pkgutil.walk_packages(flatminima.__path__, "flatminima."):
        if found.name.rpartition(".")[2] != "__main__":
            module = importlib.import_module(found.name)
            if hasattr(module, "__all__"):
                yield module


def documentable(names: dict[str, object]) -> dict[str, object]:
    """Return the classes and functions; a constant or a type alias has no docstring of its own."""
    return {
        path: thing
        for path, thing in names.items()
        if inspect.isclass(thing) or inspect.isroutine(thing)
    }


def listed() -> dict[str, object]:
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules()
        for name in module.__all__
    }


def promised() -> dict[str, object]:
    """Return the names at the top level, and those of the modules among them."""
    top = {name: getattr(flatminima, name) for name in flatminima.__all__}
    inner = {
        f"{name}.{part}": getattr(thing, part)
        for name, thing in top.items()
        if inspect.ismodule(thing)
        for part in thing.__all__
    }
    return top | inner


def words_on_the_pages() -> set[str]:
    written = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    code = re.findall(r"^```.*?^```|`[^`\n]+`", written, re.M | re.S)
    return set(re.findall(r"\w+", "\n".join(code)))


def documentation(thing: object) -> str:
    """Return a name's docstring, with those of its methods if it is a class."""
    members = vars(thing).values() if inspect.isclass(thing) else ()
    methods = (getattr(member, "__func__", member) for member in members)
    texts = [thing.__doc__, *(method.__doc__ for method in methods if inspect.isfunction(method))]
    return "\n".join(text for text in texts if text)


def test_every_listed_name_exists() -> None:
    lists = [flatminima, *modules()]
    missing = [
        f"{module.__name__}.{name}"
        for module in lists
        for name in module.__all__
        if not hasattr(module, name)
    ]
    assert not missing
    assert all(len(set(module.__all__)) == len(module.__all__) for module in lists)


def test_every_module_says_what_it_is_about() -> None:
    files = sorted(Path(flatminima.__file__).parent.rglob("*.py"))
    bare = [
        str(file)
        for file in files
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not bare


def test_every_public_name_has_a_docstring() -> None:
    # a dataclass without one gets its signature for a docstring
    bare = [
        path
        for path, thing in documentable(listed()).items()
        if not thing.__doc__ or thing.__doc__.startswith(f"{thing.__name__}(")
    ]
    assert not bare


def test_every_promised_name_has_an_example_or_is_on_a_page() -> None:
    shown = words_on_the_pages()
    bare = [
        path
        for path, thing in promised().items()
        if ">>>" not in documentation(thing) and path.rpartition(".")[2] not in shown
    ]
    assert not bare


def test_every_promised_name_is_in_the_reference() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    described = set(
        re.findall(
            r"automodule:: ([\w.]+)", "\n".join(page.read_text(encoding="utf-8") for page in pages)
        )
    )
    absent = {thing.__module__ for thing in documentable(promised()).values()} - described
    assert not absent, f"add to docs/reference: {sorted(absent)}"
    assert all(importlib.import_module(name) for name in described)


def test_the_page_of_members_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "members.py"))
    assert (ROOT / "docs" / "members.md").read_text(encoding="utf-8") == script["page"](), (
        "run: python docs/members.py"
    )


def test_the_table_in_the_readme_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "members.py"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script["readme"](text) == text, "run: python docs/members.py"


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.name in LONG else []) for page in PAGES],
    ids=page_name,
)
def test_the_code_on_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    written = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(written):
        info, code = block["info"], block["hidden"] or block["code"]
        if block["hidden"] is None and info.split() != ["python"]:
            continue
        first = written.count("\n", 0, block.start()) + 1
        if code.lstrip().startswith(">>>"):
            run_session(code, namespace, page, first)
        else:
            exec(
                compile("\n" * first + code, str(page), "exec"), namespace
            )  # so that errors name the page's lines


def run_session(code: str, namespace: dict[str, object], page: Path, first: int) -> None:
    session = doctest.DocTestParser().get_doctest(code, namespace, page.name, str(page), first)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(session, out=said.append, clear_globs=False)
    namespace.update(session.globs)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    dead = [
        link["target"]
        for link in LINK.finditer(text)
        if not (page.parent / link["target"]).exists()
    ]
    assert not dead


def test_every_page_is_in_the_table_of_contents() -> None:
    docs = ROOT / "docs"
    listed = {"index"}
    for page in docs.rglob("index.md"):
        for block in re.findall(
            r"^```\{toctree\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S
        ):
            entries = [
                line.strip()
                for line in block.splitlines()
                if line.strip() and not line.startswith(":")
            ]
            listed |= {(page.parent / entry).relative_to(docs).as_posix() for entry in entries}
    there = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")}
    assert listed == there


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, marks=[pytest.mark.slow] if script.name in LONG else [])
        for script in EXAMPLES
    ],
    ids=lambda script: script.name,
)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), f"{script.name} prints nothing"
    opening = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert f"python examples/{script.name}" in opening, f"{script.name} must open with its command"
