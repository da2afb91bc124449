"""Carry on a conversation with a rule, giving answers that are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flatminima import Vector
from flatminima.rules.rule import Look, Rule


def vector(*parts: Tensor | Sequence[float] | None) -> Vector:
    """A vector of float64 numbers, or of tensors as they are."""
    return Vector(
        part if part is None or isinstance(part, Tensor) else torch.tensor(part).double()
        for part in parts
    )


def talk(rule: Rule, *answers: Vector, **look: Any) -> tuple[list[Any], Vector]:
    """What the rule asked, and the direction that it returned; it must ask for every answer."""
    start = Look(**{"w": answers[0].zeros_like(), **look})
    conversation, questions = rule(start), []
    questions.append(next(conversation))
    try:
        for answer in answers:
            questions.append(conversation.send(answer))
    except StopIteration as end:
        assert len(questions) == len(answers), "the rule asked for less than there is"
        return questions, end.value
    raise AssertionError("the rule asked for more than there is")


def direction(rule: Rule, *gradients: Tensor, **look: Any) -> Tensor:
    """What a rule of one parameter makes of these gradients, which it is given in turn."""
    _, d = talk(rule, *(Vector([gradient]) for gradient in gradients), **look)
    (part,) = d.parts
    assert part is not None
    return part
