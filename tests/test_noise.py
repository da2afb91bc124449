"""Random masks are equal in every pass, or fresh, and the random state afterwards is the same."""

from __future__ import annotations

import pytest
import torch
from members import BUSY, MEMBERS, sharpness_aware
from nets import Counted, batches, loss_of, noisy, same_bits
from torch import Tensor, nn

import flatminima as fm
from flatminima.engine.noise import Noise


class Masked(nn.Module):
    """A network that remembers the dropout masks of its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.into, self.drop, self.out = nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        mask = self.drop(torch.ones(len(x), 50))
        self.masks.append(mask)
        return self.out(self.into(x) * mask)


def masks(same_noise: bool, m: int | None = None, rule: object = None) -> list[Tensor]:
    model, (batch,) = Masked(), batches(1)
    rule = rule or fm.sam(rho=0.5)
    sharp = fm.SharpnessAware(model, rule, m=m, same_noise=same_noise, engine="loop")
    torch.manual_seed(2)
    sharp.backward(loss_of(model), *batch)
    return model.masks


@pytest.mark.parametrize("rule", [fm.sam(0.5), fm.multi_step(0.5), fm.previous_batch(0.5)], ids=str)
def test_every_pass_draws_the_same_masks(rule: object):
    first, *further = masks(same_noise=True, rule=rule)
    assert further and all(torch.equal(mask, first) for mask in further)


def test_every_pass_draws_masks_of_its_own_on_request():
    drawn = masks(same_noise=False, rule=fm.multi_step(0.5))
    pairs = [(a, b) for i, a in enumerate(drawn) for b in drawn[:i]]
    assert len(drawn) == 4 and not any(torch.equal(a, b) for a, b in pairs)


def test_groups_draw_masks_of_their_own_equal_in_both_passes():
    a, b, c, d = masks(same_noise=True, m=3)
    assert torch.equal(a, b) and torch.equal(c, d) and not torch.equal(a, c)


def test_the_first_pass_draws_what_a_plain_step_draws():
    model, (batch,) = Masked(), batches(1)
    torch.manual_seed(2)
    loss_of(model)(*batch)
    for same_noise in (True, False):
        assert torch.equal(masks(same_noise)[0], model.masks[0])


@pytest.mark.parametrize("case", MEMBERS, ids=str)
@pytest.mark.parametrize("same_noise", [True, False])
def test_the_random_state_afterwards_is_that_of_a_plain_step(case, same_noise: bool):
    model, (batch,) = noisy(), batches(1)
    sharp = sharpness_aware(case, model, step=BUSY, same_noise=same_noise)
    torch.manual_seed(3)
    loss_of(model)(*batch).backward()
    plain = torch.get_rng_state()
    torch.manual_seed(3)
    sharp.backward(loss_of(model), *batch)
    assert torch.equal(torch.get_rng_state(), plain)


@pytest.mark.parametrize("same_noise", [True, False])
def test_the_random_state_is_that_of_one_pass_when_the_second_one_raises(same_noise: bool):
    model, (batch,) = noisy(), batches(1)
    torch.manual_seed(3)
    loss_of(model)(*batch)
    plain = torch.get_rng_state()
    torch.manual_seed(3)
    sharp = fm.SharpnessAware(model, fm.sam(), same_noise=same_noise)
    with pytest.raises(ArithmeticError, match="pass 2"):
        sharp.backward(Counted(loss_of(model), raise_at=2), *batch)
    assert torch.equal(torch.get_rng_state(), plain)


def test_fresh_masks_differ_from_step_to_step():
    model, (batch,) = Masked(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(rho=0.5), same_noise=False)
    for _ in range(2):
        torch.manual_seed(2)
        sharp.backward(loss_of(model), *batch)
    first, fresh, again, fresher = model.masks
    assert torch.equal(first, again) and not torch.equal(fresh, fresher)


def test_the_same_seed_gives_the_same_fresh_masks():
    assert same_bits(masks(same_noise=False), masks(same_noise=False))


def test_noise_is_put_back_when_the_block_raises():
    noise = Noise.now([])
    torch.rand(3)
    after = torch.get_rng_state()
    for block in (noise.again, lambda: noise.afresh(torch.Generator())):
        with pytest.raises(ArithmeticError, match="inside"), block():
            torch.rand(5)
            raise ArithmeticError("inside")
        assert torch.equal(torch.get_rng_state(), after)
