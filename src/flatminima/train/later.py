"""Settings that came later: absent from the record of a run as long as they say nothing new."""

from dataclasses import field
from typing import TypeVar

__all__ = ["later"]

T = TypeVar("T")


def later(default: T) -> T:
    """The default of a field that was added after runs had been recorded.

    At its default such a field is left out of the JSON that a run's key is made of, so that the
    keys of older runs stay what they were.

    Args:
        default: The value that says nothing new.

    Returns:
        A field of a dataclass.
    """
    return field(default=default, metadata={"later": True})
