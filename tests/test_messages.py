"""Every `raise` is matched: each message in the source is covered by the `match=` of some test.

Both sides are read, not run. A message is a text with holes: the values in braces of an f-string.
A pattern is a text with holes too: whatever is not a plain character of the regular expression.
A pattern covers a message if some text fits both, and they agree on so many plain characters that
it is no accident.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import flatminima

SOURCE = Path(flatminima.__file__).parent
TESTS = Path(__file__).parent
HOLE = "\0"
ENOUGH = 12  # plain characters in common, or all of the message where it has fewer
COMMON = {
    "must",
    "be",
    "got",
    "the",
    "a",
    "an",
    "of",
    "in",
    "to",
    "is",
    "not",
    "or",
    "and",
    "at",
    "with",
    "one",
}
SPECIAL = re.compile(r"\\(?P<sign>[^A-Za-z0-9])|\\.|\[[^\]]*\]|\{[\d,]+\}|[.^$*+?()|]")


@dataclass(frozen=True)
class Raise:
    """One `raise` of the source; the message has holes, or is `None` if not written there."""

    where: str
    kind: str
    message: str | None


def text(node: ast.expr) -> str | None:
    """Return what a string says, with a hole for every value in it; `None` if it isn't one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) or HOLE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [text(node.left), text(node.right)]
        return None if sides == [None, None] else "".join(side or HOLE for side in sides)
    return None


def raises_in(tree: ast.AST, name: str) -> Iterator[Raise]:
    """Yield every `raise` that makes an exception with an argument, exit codes apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            first, kind = node.exc.args[0], ast.unparse(node.exc.func)
            if not (kind == "SystemExit" and text(first) is None):
                yield Raise(f"{name}:{node.lineno}", kind, text(first))


def patterns_in(tree: ast.Module) -> Iterator[str]:
    """Yield every pattern given as `match=`, there or by way of the test's parameters."""
    lists = {
        ast.unparse(node.targets[0]): node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        words = [
            word
            for node in ast.walk(function)
            if isinstance(node, ast.Call)
            for word in node.keywords
        ]
        for match in (word.value for word in words if word.arg == "match"):
            escaped = isinstance(match, ast.Call) and ast.unparse(match.func) == "re.escape"
            here = text(match.args[0] if escaped else match)
            if here is not None:
                yield here if escaped else plain(here)
                continue
            places = [match, *function.decorator_list]
            names = {
                node.id
                for place in places
                for node in ast.walk(place)
                if isinstance(node, ast.Name)
            }
            places += [lists[name] for name in sorted(names & set(lists))]
            there = (
                text(node)
                for place in places
                for node in ast.walk(place)
                if isinstance(node, ast.expr)
            )
            yield from (given if escaped else plain(given) for given in there if given)


def plain(pattern: str) -> str:
    """Return a regular expression as a text with holes."""
    return SPECIAL.sub(lambda found: found["sign"] or HOLE, pattern)


def agreement(pattern: str, message: str) -> int:
    """Return the most plain characters that both share in a text that fits both; -1 if none does.

    The pattern may begin and end anywhere in the message, as `re.search` has it. `row[j]` is the
    answer for what is left of the pattern against `message[j:]`.
    """
    end = len(message)
    row = [0] * (end + 1)
    for sign in reversed(pattern):
        row, after = [-1] * (end + 1), row
        row[end] = after[end] if sign == HOLE else -1
        for j in reversed(range(end)):
            if HOLE in (sign, message[j]):
                row[j] = max(after[j], row[j + 1])
            elif sign == message[j] and after[j + 1] >= 0:
                row[j] = after[j + 1] + 1
    return max(row)


@cache
def words(sentence: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]{3,}", sentence)) - COMMON


def covered(message: str, patterns: set[str]) -> bool:
    own = words(message)
    needed = min(ENOUGH, len(message.replace(HOLE, "")))
    near = {pattern: len(own & words(pattern)) for pattern in patterns}
    likely = sorted(near, key=near.__getitem__, reverse=True)  # mostly the first one covers it
    return any(
        agreement(pattern, message) >= needed for pattern in likely if near[pattern] or not own
    )


@cache
def every_raise() -> list[Raise]:
    files = sorted(SOURCE.rglob("*.py"))
    trees = ((path, ast.parse(path.read_text(encoding="utf-8"))) for path in files)
    return [
        found
        for path, tree in trees
        for found in raises_in(tree, str(path.relative_to(SOURCE.parent)))
    ]


def every_pattern() -> set[str]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob("*.py"))
    return {pattern for tree in trees for pattern in patterns_in(tree)}


def test_every_message_is_written_where_it_is_raised() -> None:
    hidden = [found.where for found in every_raise() if found.message is None]
    assert not hidden, f"write the message in the raise itself, so that it can be found: {hidden}"


def test_every_raise_is_matched_by_a_test() -> None:
    patterns = every_pattern()
    bare = [
        found for found in every_raise() if found.message and not covered(found.message, patterns)
    ]
    listed = "\n".join(
        f"{found.where}: {found.kind}: {found.message}".replace(HOLE, "{}") for found in bare
    )
    assert not bare, (
        f"no test has a match= for {len(bare)} of {len(every_raise())} messages:\n{listed}"
    )


def test_messages_about_a_value_name_the_rule_and_the_value() -> None:
    about_values = [
        found
        for found in every_raise()
        if found.kind in {"ValueError", "TypeError"} and found.message
    ]
    odd = [
        found
        for found in about_values
        if not re.search(r"\S must .*\S, got ", found.message, re.DOTALL)
    ]
    listed = "\n".join(f"{found.where}: {found.message}".replace(HOLE, "{}") for found in odd)
    assert not odd, f"the form is '<name> must <rule>, got <value>':\n{listed}"


@pytest.mark.parametrize(
    ("pattern", "message", "expected"),
    [
        ("rho must be >= 0", f"rho must be >= 0, got {HOLE}", True),
        (r"rho must be >= 0, got -0\.1", f"rho must be >= 0, got {HOLE}", True),
        (
            "k must be at most .* size 23, got 50",
            f"{HOLE} must be at most the operator's size {HOLE}, got {HOLE}",
            True,
        ),
        ("alpha must be >= 0", f"{HOLE} must be >= 0, got {HOLE}", True),
        ("alpha must be >= 0", f"rho must be >= 0, got {HOLE}", False),
        ("must be", f"rho must be >= 0, got {HOLE}", False),
        (".*", f"rho must be >= 0, got {HOLE}", False),
        ("rho must be finite", f"rho must be >= 0, got {HOLE}", False),
    ],
)
def test_a_pattern_covers_the_messages_it_fits(pattern: str, message: str, expected: bool) -> None:
    assert covered(message, {plain(pattern)}) is expected
