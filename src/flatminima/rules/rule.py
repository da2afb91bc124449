"""A rule is a conversation with the loss.

It is a generator: it yields where it wants to look (`HERE`, or a displacement of the weights), is
sent the gradient there, and returns the direction to descend.

    def sam(look):
        g = yield HERE                                      # the gradient where the weights are
        p = yield perturb.normalized(look.w, g, look.rho)   # and a little uphill
        return p                                            # descend along that

Rules do not touch weights, precision or devices; the engine that carries them out does.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, ParamSpec, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from flatminima.perturb import Radius
from flatminima.vector import Vector

__all__ = [
    "HERE",
    "Ask",
    "Conversation",
    "Here",
    "Look",
    "Probe",
    "Rule",
    "Talk",
    "check_radius",
    "member",
    "spelled",
    "resumed",
]


@dataclass(frozen=True)
class Here:
    """No displacement: the weights as they are."""

    def __repr__(self) -> str:
        return "HERE"


HERE: Final = Here()


@dataclass(frozen=True)
class Ask:
    """A question about another batch than the one at hand.

    Args:
        at: Where to look.
        batch: The batch to evaluate there, as `loss_fn` takes it.

    Example:
        >>> Ask(HERE, batch=(torch.zeros(1),)).at
        HERE
    """

    at: Vector | Here
    batch: tuple[Any, ...]


Question: TypeAlias = Vector | Here | Ask
Talk: TypeAlias = Generator[Question, Vector, Vector]
Schedule: TypeAlias = Callable[[int], float]
Length: TypeAlias = float | Tensor | Schedule
Parameters = ParamSpec("Parameters")
Made = TypeVar("Made", bound="Probe | Conversation")


class Rule(Protocol):
    """Anything that takes a `Look` and returns a conversation.

    A generator function is one, and so are a `Probe` and a `Conversation`.
    """

    def __call__(self, look: Look, /) -> Talk:
        """Begin the conversation of one step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a rule knows at the start of a step.

    Args:
        w: The weights; live while the conversation lasts, so copy what must be kept.
        radius: What `rho` says: a number, a 0-d tensor, or one of them per parameter.
        step: How many conversations there were before this one.
        batch: The batch at hand, or `None` where the loop does not show it.
        memory: What this rule wants to find again at its next step: tensors, vectors, numbers, by
            name. It is saved and loaded with the state. `None` where conversations are independent
            of one another (groups of `m`).
        generator: Random numbers, on the CPU; saved and loaded with the state.
        weight_decay: The optimizer's weight decay, where the ascent is to include it.
        own: The radius that each parameter's group sets; `None` where it sets none.

    Example:
        >>> look = Look(w=Vector([torch.ones(2)])).within(0.1)
        >>> look.moves, look.within(0.0).moves
        (True, False)
    """

    w: Vector
    radius: Radius | None = None
    step: int = 0
    batch: tuple[Any, ...] | None = None
    memory: dict[str, Any] | None = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)
    weight_decay: float = 0.0
    own: Sequence[Length | None] = ()

    @property
    def rho(self) -> Radius:
        """The radius of this step.

        Raises:
            RuntimeError: If nobody gave the rule one.
        """
        if self.radius is not None:
            return self.radius
        if self.own and None not in self.own:
            return self.within(0.0).rho
        raise RuntimeError(
            "rule must be given a radius to use look.rho, got none; "
            "wrap it: flatminima.Conversation(rule, rho=0.05)"
        )

    @property
    def moves(self) -> bool:
        """Whether any parameter has a radius other than the number 0."""
        if self.radius is None and (not self.own or None in self.own):
            return False  # nobody gave a radius
        radii = self.rho if isinstance(self.rho, tuple) else (self.rho,)
        return any(isinstance(radius, Tensor) or radius != 0.0 for radius in radii)

    def within(self, rho: Length) -> Look:
        """The same look with the radius `rho`, except where a parameter's group sets its own.

        Args:
            rho: A number, a 0-d tensor, or a schedule, which is asked for this step.

        Returns:
            The look, with one radius, or with one per parameter if any group sets its own.
        """
        if all(own is None for own in self.own):
            return replace(self, radius=self._now(rho))
        radii = tuple(self._now(rho if own is None else own) for own in self.own)
        return replace(self, radius=radii)

    def ascent(self, g: Vector) -> Vector:
        """The gradient to climb: `g`, with the weight decay added where it is to be included."""
        return g + self.weight_decay * self.w if self.weight_decay else g

    def remembered(self, name: str) -> dict[str, Any]:
        """The memory of the rule called `name`, empty at its first step.

        Args:
            name: The rule's name.

        Returns:
            The memory itself: what is put into it is found at the next step.

        Raises:
            RuntimeError: If conversations are independent of one another, so that nothing can be
                remembered.
        """
        if self.memory is None:
            raise RuntimeError(
                f"{name} must see one gradient per step, got groups of m examples; "
                "it remembers something between steps, which has no meaning for groups: leave m out"
            )
        return self.memory.setdefault(name, {})

    def inside(self, name: str) -> Look:
        """The look for a rule within the rule called `name`, with a memory of its own."""
        return replace(self, memory=self.remembered(name).setdefault("inside", {}))

    def _now(self, rho: Length) -> float | Tensor:
        if isinstance(rho, Tensor | float | int):
            return rho
        now = rho(self.step)
        check_radius(now)  # a number on the host: looking costs nothing
        return now


@dataclass(frozen=True, repr=False)
class Probe:
    """The usual conversation: look once uphill, and make something of the two gradients.

        g = grad f(w),   p = grad f(w + perturb(w, g, rho)),   d = combine(g, p)

    Args:
        perturb: Where to look: takes `w`, `g` and `rho`, returns a displacement.
        combine: What to do with what was seen: takes `g` and `p`, returns the direction to descend.
            `None` is "take p", and lets go of `g` before the second pass, which saves a buffer of
            the size of the weights.
        rho: The radius: a number, a 0-d tensor, or a schedule.

    While the radius is the number 0 there is no second pass, and the direction is `g`.

    Raises:
        ValueError: If `rho` is negative or not a number.

    Cost: two gradients; one buffer of the size of the weights, two with `combine`.

    Example:
        >>> from flatminima import perturb
        >>> Probe(perturb.unnormalized, rho=0.1)
        Probe(unnormalized, rho=0.1)
    """

    perturb: Callable[[Vector, Vector, Radius], Vector]
    combine: Callable[[Vector, Vector], Vector] | None = None
    rho: Length = 0.05
    title: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_radius(self.rho)

    def __call__(self, look: Look) -> Talk:
        """Ask for `g` and, where the radius is not 0, for `p`."""
        look = look.within(self.rho)
        g = yield HERE
        if not look.moves:
            return g
        displacement = [self.perturb(look.w, look.ascent(g), look.rho)]
        if self.combine is None:
            del g
            return (
                yield displacement.pop()
            )  # popped: this frame must not keep it alive during the second pass
        p = yield displacement.pop()
        return self.combine(g, p)

    def __repr__(self) -> str:
        combine = "" if self.combine is None else f", {spelled(self.combine)}"
        parts = f"Probe({spelled(self.perturb)}{combine}, rho={spelled(self.rho)})"
        return f"{self.title} = {parts}" if self.title else parts


@dataclass(frozen=True, repr=False)
class Conversation:
    """A rule written out as a generator function, with its radius.

    Args:
        talk: A generator function of a `Look`: it yields `HERE`, displacements or `Ask`, and
            returns a direction.
        rho: The radius that `look.rho` is made of: a number, a 0-d tensor, or a schedule; `None`
            where the rule has none of its own, because it passes on to another rule.

    Raises:
        ValueError: If `rho` is negative or not a number.

    Example:
        >>> from flatminima import perturb
        >>> def sam(look):
        ...     g = yield HERE
        ...     p = yield perturb.normalized(look.w, g, look.rho)
        ...     return p
        >>> Conversation(sam, rho=0.05)
        Conversation(sam, rho=0.05)
    """

    talk: Callable[[Look], Talk]
    rho: Length | None = None
    title: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.rho is not None:
            check_radius(self.rho)

    def __call__(self, look: Look) -> Talk:
        """Begin `talk`, with the radius filled in."""
        return self.talk(look if self.rho is None else look.within(self.rho))

    def __repr__(self) -> str:
        radius = "" if self.rho is None else f", rho={spelled(self.rho)}"
        return self.title or f"Conversation({spelled(self.talk)}{radius})"


def member(make: Callable[Parameters, Made]) -> Callable[Parameters, Made]:
    """Let the rule that `make` returns print as the call that made it.

    Args:
        make: A function of hyper-parameters that returns a rule.

    Returns:
        The same function; its rules carry the call as their title, before their parts.
    """

    @functools.wraps(make)
    def named(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Made:
        bound = inspect.signature(make).bind(*args, **kwargs)
        bound.apply_defaults()
        settings = ", ".join(f"{name}={spelled(value)}" for name, value in bound.arguments.items())
        return replace(make(*args, **kwargs), title=f"{make.__name__}({settings})")

    named.makes_rules = True  # pyright: ignore  # so that a member that nobody called is told apart
    return named


def resumed(talk: Talk, g: Vector) -> Talk:
    """The rest of a conversation whose first question, `HERE`, is answered by `g` already.

    Args:
        talk: A conversation that has not begun.
        g: The gradient at the weights.

    Returns:
        A conversation that begins with the second question.

    Raises:
        ValueError: If the first question is another one.
    """
    first = next(talk)
    if not isinstance(first, Here):
        raise ValueError(f"rule must look HERE first to be combined with this one, got {first!r}")
    try:
        question = [talk.send(g)]
        del g
        while True:  # popped: this frame must not keep a displacement alive during the pass
            question.append(talk.send((yield question.pop())))
    except StopIteration as end:
        return end.value


def check_radius(rho: Length) -> None:
    """Refuse a radius that is negative, not finite, or no number.

    Args:
        rho: A number, a 0-d tensor or a schedule; only numbers can be checked without asking a
            device.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is a number that is negative or not finite.
    """
    is_number = isinstance(rho, int | float) and not isinstance(rho, bool)
    if callable(rho) or (isinstance(rho, Tensor) and rho.dim() == 0):
        return
    if isinstance(rho, Tensor) or not is_number:
        raise TypeError(f"rho must be a number, a 0-d tensor or a schedule, got {rho!r}")
    if not 0.0 <= rho < math.inf:
        raise ValueError(f"rho must be >= 0 and finite, got {rho}")


def spelled(value: object) -> str:
    """A hyper-parameter, a part or a rule as it is called, without an address in memory."""
    if isinstance(value, functools.partial):
        settings = [spelled(item) for item in value.args] + [
            f"{k}={spelled(v)}" for k, v in value.keywords.items()
        ]
        return f"{spelled(value.func)}({', '.join(settings)})"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(spelled(item) for item in value)) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{spelled(k)}: {spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Probe | Conversation):
        return value.title or repr(value)
    return getattr(value, "__name__", None) or repr(value)
