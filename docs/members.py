"""Write members.md, the table of the named methods: `python docs/members.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from flatminima.rules import schedule, zoo

HEAD = """# Members

Every named method, from its own docstring (`python docs/members.py` writes this page). The letters
are those of [the notation](notation.md). A cost is in gradients per step, of which plain training
takes 1, and in buffers of the size of the weights beyond the gradients.

"""
WHEN = """
## When

These take a rule, any of the above or your own, and follow it at some steps only.

"""


def paragraph(text: str, name: str) -> str:
    """Return the paragraph of a docstring that opens with `name:`, on one line."""
    found = re.search(rf"^{name}: (.*?)(?=^\s*$|^\w+: |^\w+:$|\Z)", text, re.M | re.S)
    return " ".join(found[1].split()).rstrip(".") if found else ""


def formula(text: str) -> str:
    """Return the indented equation at the top of a docstring, or nothing."""
    opening = text.partition("\nArgs:")[0]
    lines = [line.strip() for line in opening.splitlines() if line.startswith("    ")]
    equation = re.sub(r" {2,}", "  ", " ".join(lines)).replace("`", "")
    return f"`{equation}`".replace("|", "\\|") if equation else ""


def rows(members: list[Callable[..., object]]) -> str:
    """Return a table of the members, a row for each."""
    lines = ["| member | what it does | formula | cost | source |", "|---|---|---|---|---|"]
    for member in members:
        text = inspect.getdoc(member) or ""
        first = " ".join(text.partition("\n\n")[0].split()).rstrip(".")
        cost, source = paragraph(text, "Cost"), paragraph(text, "Source")
        lines.append(f"| `{member.__name__}` | {first} | {formula(text)} | {cost} | {source} |")
    return "\n".join(lines) + "\n"


def members(module: ModuleType) -> list[Callable[..., object]]:
    """Return the functions of a module's public names, in the order in which the file has them."""
    found = [inspect.unwrap(getattr(module, name)) for name in module.__all__]
    functions = [thing for thing in found if inspect.isfunction(thing)]
    return sorted(functions, key=lambda function: function.__code__.co_firstlineno)


def page() -> str:
    """Return the page."""
    return HEAD + rows(members(zoo)) + WHEN + rows(members(schedule))


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
