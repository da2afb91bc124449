"""What hyper-parameters must be, said once."""

from __future__ import annotations

import math

__all__ = ["check_decay", "check_finite", "check_rule", "check_whole"]


def check_whole(**values: int) -> None:
    """Refuse what is not a positive whole number.

    Args:
        **values: The values, by name.

    Raises:
        ValueError: If one is something else.
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")


def check_decay(decay: float) -> None:
    """Refuse what is no weight of the past in a running mean.

    Args:
        decay: The weight.

    Raises:
        ValueError: If it is not within [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay must be within [0, 1), got {decay}")


def check_finite(**values: float) -> None:
    """Refuse what is not a finite number.

    Args:
        **values: The values, by name.

    Raises:
        ValueError: If one is something else.
    """
    for name, value in values.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_rule(rule: object) -> None:
    """Refuse what cannot begin a conversation.

    Args:
        rule: A rule.

    Raises:
        TypeError: If it cannot be called, or is a member of the zoo that nobody called.
    """
    if not callable(rule) or hasattr(rule, "makes_rules"):
        name = getattr(rule, "__name__", "")
        hint = f"; call it: {name}()" if hasattr(rule, "makes_rules") else ""
        raise TypeError(f"rule must be a rule such as flatminima.sam(), got {rule!r}{hint}")
