"""A member of the family by its name and settings, so that a run can be written down."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from flatminima.rules import zoo
from flatminima.rules.rule import Rule
from flatminima.rules.schedule import periodic, window
from flatminima.train.later import later

__all__ = ["Member", "When", "members"]


@dataclass(frozen=True, kw_only=True)
class When:
    """Settings of the steps at which a rule is followed; at the others the descent is plain."""

    start: float = 0.0
    """Where in training it begins, as a share of it."""
    end: float = 1.0
    """Where it ends; it is not within, except that 1 is the end of training."""
    every: int = 1
    """At every so many steps."""

    def __post_init__(self) -> None:
        self.applied(zoo.sam(), steps=1)  # the rules check the numbers

    def applied(self, rule: Rule, *, steps: int) -> Rule:
        """The rule at those steps only, of so many in the whole training."""
        if self.every != 1:
            rule = periodic(rule, self.every)
        if (self.start, self.end) != (0.0, 1.0):
            rule = window(rule, self.start, self.end, steps=steps)
        return rule


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
    when: When = later(When())
    """At which steps it is followed."""

    def __post_init__(self) -> None:
        if self.name not in members():
            raise ValueError(
                f"name must be one of the zoo's members {', '.join(members())}, got {self.name!r}."
            )
        self.build()  # the zoo checks the radius and the settings

    def build(self, steps: int = 1) -> Rule:
        """The rule, in a training of so many steps."""
        rule = getattr(zoo, self.name)(**self.settings, rho=self.rho)
        return self.when.applied(rule, steps=steps)


@cache  # asked for every run of a study
def members() -> tuple[str, ...]:
    """The names of the members that take a radius, in alphabetical order."""
    functions = inspect.getmembers(zoo, inspect.isfunction)
    return tuple(
        name
        for name, function in functions
        if name in zoo.__all__ and "rho" in inspect.signature(function).parameters
    )
