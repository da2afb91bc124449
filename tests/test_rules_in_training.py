"""When a rule is followed in a training, and what its second gradient sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flatminima.data import Digits
from flatminima.models import MLP
from flatminima.train import SGD, Loss, Member, Training, When, train


def after(training):
    parts = training.data.load()
    return torch.cat([param.flatten() for param in train(training, parts).model.parameters()])


SMALL = Training(
    data=Digits(train=60, validation=30, test=30),
    model=MLP(hidden=(8,)),
    optimizer=SGD(lr=0.1),
    epochs=2,
    batch_size=30,
)
SAM = Member(name="sam", rho=0.5)


def test_before_its_time_a_rule_leaves_the_descent_plain():
    late = replace(SMALL, rule=replace(SAM, when=When(start=0.5)), steps=2)
    assert torch.equal(after(late), after(replace(SMALL, steps=2)))
    assert not torch.equal(after(replace(late, steps=3)), after(replace(SMALL, steps=3)))


def test_a_rule_at_every_second_step_is_said_in_its_words():
    rule = replace(SAM, when=When(every=2, end=0.5)).build(steps=100)
    assert repr(rule) == (
        "window(rule=periodic(rule=sam(rho=0.5, p=2), every=2), start=0.0, end=0.5, steps=100)"
    )
    assert repr(SAM.build(100)) == repr(SAM.build())


def test_a_functional_loss_makes_sam_of_a_linear_network_plain_descent():
    plain = replace(SMALL, model=MLP(hidden=()))
    functional = replace(plain, rule=SAM, loss=Loss(functional=True))
    torch.testing.assert_close(after(functional), after(plain))
    assert not torch.allclose(after(replace(plain, rule=SAM)), after(plain))


def test_a_functional_loss_has_no_weight_decay():
    with pytest.raises(ValueError, match="weight_decay must be 0 in a functional loss, got 0.1"):
        Loss(functional=True, weight_decay=0.1)
