"""Which form a parameter's group gradients take: a choice of time and memory, never of the result.

With n outer products of lengths p and d in a group, outer products cost 6 n^2 (p + d) operations
beside the work of plain training, 6 n d p. The dense form costs 2 n d p, and passes over tensors of
d p numbers for each group, which take longer than that as long as n is below some hundreds. So

    outer products  iff  n (p + d) < p d

which for square layers is n < d / 2.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

__all__ = ["forced", "prefers_rows"]

Choice = Literal["rows", "dense"]

_forced: ContextVar[Choice | None] = ContextVar("forced", default=None)


def prefers_rows(n: int, p: int, d: int) -> bool:
    """Whether outer products cost less than the dense form.

    Args:
        n: Outer products in a group.
        p: Their length along the parameter's first axis.
        d: Their length along the others.

    Returns:
        The verdict; with `n = 1` always true, since a single product is smaller than what it makes.

    Example:
        >>> prefers_rows(128, 512, 512), prefers_rows(256, 512, 512)
        (True, False)
    """
    choice = _forced.get()
    if choice is not None:
        return choice == "rows"
    return n == 1 or n * (p + d) < p * d


@contextmanager
def forced(choice: Choice) -> Generator[None]:
    """Take one form wherever it is possible: for tests, and for measuring both."""
    token = _forced.set(choice)
    try:
        yield
    finally:
        _forced.reset(token)
