"""Observers see what the rule saw."""

from __future__ import annotations

import pytest
import torch
from nets import Counted, batches, gradients, loss_of, noisy, restored, same_bits, smooth, weights

import flatminima as fm
from flatminima import perturb
from flatminima.engine.observe import RegionShares, Step


def observed(rule: object, steps: int = 1, **keywords: object) -> list[dict[str, object]]:
    """What an observer saw of some steps, copied, and beside it what really happened."""
    model = smooth()
    rows: list[dict[str, object]] = []

    def observe(step: Step) -> None:
        vectors = {name: getattr(step, name) for name in ("w", "g", "p", "e", "d")}
        copies = {name: v and [part.clone() for part in v] for name, v in vectors.items()}
        rows.append({"step": step.step, "loss": step.loss, "count": len(step.seen), **copies})

    sharp = fm.SharpnessAware(model, rule, observe=[observe], **keywords)
    for batch in batches(steps):
        loss_fn = Counted(loss_of(model), look=lambda: weights(model))
        model.zero_grad()
        loss_of(model)(*batch).backward()
        plain = gradients(model)
        model.zero_grad()
        loss = sharp.backward(loss_fn, *batch)
        rows[-1].update(
            true={"w": weights(model), "g": plain, "d": gradients(model), "at": loss_fn.seen},
            returned=loss,
        )
    return rows


def test_an_observer_sees_the_letters_of_the_step():
    (row,) = observed(fm.gsam(rho=0.3, alpha=0.2))
    true = row["true"]
    assert same_bits(row["w"], true["w"]) and same_bits(row["g"], true["g"])
    assert same_bits(row["d"], true["d"]) and row["count"] == 2
    assert torch.equal(row["loss"], row["returned"])
    moved = [at - w for at, w in zip(true["at"][1], true["w"], strict=True)]
    torch.testing.assert_close(row["e"], moved)
    torch.testing.assert_close(fm.Vector(row["e"]).norm(), torch.tensor(0.3))
    g, p = fm.Vector(row["g"]), fm.Vector(row["p"])
    torch.testing.assert_close(list(p - 0.2 * (g - g.onto(p))), row["d"])


def test_what_plain_sam_descends_along_is_p():
    (row,) = observed(fm.sam(rho=0.3))
    assert same_bits(row["p"], row["d"])


def test_steps_are_counted():
    assert [row["step"] for row in observed(fm.sam(), steps=3)] == [0, 1, 2]


def test_every_group_is_a_conversation_of_its_own():
    model, (batch,) = smooth(), batches(1)
    seen: list[Step] = []
    sharp = fm.SharpnessAware(model, fm.sam(), m=2, observe=[seen.append])
    sharp.backward(loss_of(model), *batch)
    assert [step.step for step in seen] == [0, 0, 0]
    mean = (seen[0].d + seen[1].d + seen[2].d) / 3.0
    torch.testing.assert_close(list(mean), gradients(model))


def test_a_step_that_did_not_look_uphill_has_no_p_and_no_e():
    (row,) = observed(fm.sam(rho=0.0))
    assert row["p"] is None and row["e"] is None and same_bits(row["g"], row["d"])


def test_a_step_that_never_looked_here_has_no_g():
    (row,) = observed(fm.random_perturbation())
    assert row["g"] is None and same_bits(row["p"], row["d"])


def test_p_and_e_are_the_last_of_several():
    (row,) = observed(fm.multi_step(rho=0.3, steps=2, size=1.0))
    true = row["true"]
    assert row["count"] == 3 and same_bits(row["p"], row["d"])
    moved = [at - w for at, w in zip(true["at"][2], true["w"], strict=True)]
    torch.testing.assert_close(row["e"], moved)


def test_observers_see_unscaled_gradients():
    (plain,) = observed(fm.gsam())
    model, (batch,) = smooth(), batches(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    seen: list[Step] = []
    sharp = fm.SharpnessAware(model, fm.gsam(), observe=[seen.append])
    sharp.backward(loss_of(model), *batch, scaler=scaler)
    for name in ("g", "p", "d"):
        torch.testing.assert_close(list(getattr(seen[0], name)), plain[name])
    assert torch.equal(seen[0].loss, plain["loss"])


def rescaled(look: fm.Look):
    """A rule whose direction is a multiple that nobody has multiplied out."""
    g = yield fm.HERE
    p = yield perturb.normalized(look.w, g, 0.1)
    return p * torch.tensor(0.3)


@pytest.mark.parametrize("keywords", [{}, {"m": 4}], ids=["whole", "groups"])
@pytest.mark.parametrize("scale", [None, 3.7])
def test_reading_a_direction_does_not_round_it(keywords: dict[str, int], scale: float | None):
    found = []
    for observe in ([], [lambda step: step.d.parts]):
        model, (batch,) = noisy(torch.float32), batches(1, dtype=torch.float32)
        sharp = fm.SharpnessAware(model, rescaled, observe=observe, **keywords)
        scaler = scale and torch.amp.GradScaler("cpu", init_scale=scale)
        torch.manual_seed(3)
        sharp.backward(loss_of(model), *batch, scaler=scaler)
        found.append(gradients(model))
    assert same_bits(found[0], found[1])


def test_an_observer_that_raises_changes_nothing():
    model, (batch,) = noisy(), batches(1)
    for param in model.parameters():
        param.grad = torch.ones_like(param)

    def observe(step: Step) -> None:
        raise LookupError("an observer's own trouble")

    sharp = fm.SharpnessAware(model, fm.gsam(), observe=[observe])
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(LookupError, match="an observer's own trouble"),
    ):
        sharp.backward(loss_of(model), *batch)
    assert model[1].num_batches_tracked == 1


def test_the_shares_of_a_row_sum_to_one():
    model = smooth()
    recorder = RegionShares(every=2)
    sharp = fm.SharpnessAware(model, fm.sam(rho=0.5), observe=[recorder])
    for batch in batches(5):
        sharp.backward(loss_of(model), *batch)
    names = ("steeper", "gentler", "reversed_steeper", "reversed_gentler")
    assert [row["step"] for row in recorder.rows] == [0, 2, 4]
    for row in recorder.rows:
        assert sum(row[name] for name in names) == pytest.approx(1.0)
        assert 0.0 <= row["both_zero"] <= row["gentler"]
        assert row["coordinates"] == sum(param.numel() for param in model.parameters())


def test_shares_skip_steps_that_have_none():
    model, (batch,) = smooth(), batches(1)
    recorder = RegionShares()
    plain = fm.SharpnessAware(model, fm.sam(rho=0.0), observe=[recorder])
    plain.backward(loss_of(model), *batch)
    sharp = fm.SharpnessAware(model, fm.sam(), observe=[recorder])
    sharp.backward(lambda *batch: loss_of(model)(*batch) * torch.inf, *batch)
    assert recorder.rows == []


@pytest.mark.parametrize("every", [0, -1])
def test_shares_are_taken_every_so_many_steps(every: int):
    with pytest.raises(ValueError, match="every must be a positive whole number, got"):
        RegionShares(every=every)
