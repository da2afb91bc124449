"""A member of the family by its name and settings, so that a run can be written down."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flatminima.rules import zoo
from flatminima.rules.rule import Rule

__all__ = ["Member", "members"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """Settings of a rule: a function of the zoo with its arguments.

    Example:
        >>> Member(name="sam", rho=0.05).build()
        sam(rho=0.05, p=2) = Probe(normalized(p=2.0), rho=0.05)
    """

    name: str
    """The name of a function in `flatminima.rules.zoo`, such as `sam`."""
    rho: float
    """The radius."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The other arguments of that function, by name."""

    def __post_init__(self) -> None:
        if self.name not in members():
            raise ValueError(
                f"name must be one of the zoo's members {', '.join(members())}, got {self.name!r}."
            )
        self.build()  # the zoo checks the radius and the settings

    def build(self) -> Rule:
        """The rule."""
        return getattr(zoo, self.name)(**self.settings, rho=self.rho)


def members() -> list[str]:
    """The names of the members that take a radius, in alphabetical order."""
    functions = inspect.getmembers(zoo, inspect.isfunction)
    return [
        name
        for name, function in functions
        if name in zoo.__all__ and "rho" in inspect.signature(function).parameters
    ]
