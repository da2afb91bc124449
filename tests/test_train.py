"""One run: what it computes, what it writes down, and when it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flatminima.data import Digits
from flatminima.models import MLP, SmallConv
from flatminima.objective import Objective
from flatminima.regions import Region
from flatminima.train import SGD, AdamW, Diverged, Measure, Member, Training, measured, train
from flatminima.train.evaluate import evaluate
from flatminima.train.schedule import schedule

DATA = Digits(train=90, validation=40, test=50, noise=0.4)
PLAIN = Training(
    data=DATA, model=MLP(hidden=(8,)), optimizer=SGD(lr=0.1), epochs=3, batch_size=40, seed=5
)
SAM = replace(PLAIN, rule=Member(name="sam", rho=0.1))


@pytest.fixture
def parts():
    return DATA.load()


def numbers(rows):
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


def weights(trained):
    return [param.detach() for param in trained.model.parameters()]


@pytest.mark.parametrize(
    "training",
    [PLAIN, SAM, replace(SAM, model=SmallConv(width=4, norm="batch"), optimizer=AdamW())],
    ids=["plain", "sam", "sam, conv, batch norm, adam"],
)
def test_the_same_seed_gives_the_same_result_bit_for_bit(parts, training):
    one, two = (train(training, parts) for _ in range(2))
    assert numbers(one.epochs) == numbers(two.epochs)
    assert all(map(torch.equal, weights(one), weights(two)))


def test_another_seed_gives_another_result(parts):
    one, two = (train(replace(PLAIN, seed=seed), parts) for seed in (0, 1))
    assert not torch.equal(weights(one)[0], weights(two)[0])


def test_plain_training_is_the_loop_one_would_write(parts):
    torch.manual_seed(PLAIN.seed)
    model = PLAIN.model.build((1, 8, 8), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    order = torch.Generator().manual_seed(PLAIN.seed)
    for _ in range(3):
        for index in torch.randperm(90, generator=order).split(40):
            optimizer.zero_grad()
            x = parts.train.images[index].double() / 16
            F.cross_entropy(model(x), parts.train.labels[index]).backward()
            optimizer.step()
            scheduler.step()
    assert all(map(torch.equal, weights(train(PLAIN, parts)), model.parameters()))


def test_a_radius_of_0_is_plain_training(parts):
    still = train(replace(PLAIN, rule=Member(name="sam", rho=0.0)), parts)
    assert all(map(torch.equal, weights(train(PLAIN, parts)), weights(still)))


def test_a_rule_changes_the_result(parts):
    assert not torch.equal(weights(train(PLAIN, parts))[0], weights(train(SAM, parts))[0])


def test_training_leaves_the_random_state_of_the_caller_alone(parts):
    before = torch.get_rng_state()
    train(PLAIN, parts)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_is_logged_when_it_ends(parts):
    logged = []
    trained = train(PLAIN, parts, log=logged.append)
    assert logged == trained.epochs
    assert [(row["epoch"], row["step"]) for row in logged] == [(1, 3), (2, 6), (3, 9)]
    assert set(logged[0]) == {
        *("kind", "epoch", "step", "lr", "seconds"),
        *("train_loss", "train_accuracy", "clean_accuracy", "noisy_accuracy"),
        *("validation_loss", "validation_accuracy", "test_loss", "test_accuracy"),
    }


def test_the_shares_of_the_regions_are_logged_under_a_rule(parts):
    logged = []
    train(SAM, parts, log=logged.append)
    rows = [row for row in logged if row["kind"] == "regions"]
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 0), (1, 3), (2, 6)]
    names = ("steeper", "gentler", "reversed_steeper", "reversed_gentler")
    assert all(sum(row[name] for name in names) == pytest.approx(1) for row in rows)
    assert all(row["rho"] == 0.1 for row in logged if row["kind"] == "epoch")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(parts):
    hot = replace(PLAIN, optimizer=SGD(lr=1e200))
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) at step \d of run 3f9c: lower"):
        train(hot, parts, name="run 3f9c")


def test_weights_that_are_lost_in_the_last_step_stop_the_run_too(parts):
    one_step = replace(PLAIN, optimizer=SGD(lr=1e200), epochs=1, batch_size=90)
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) at step 1 of run: lower"):
        train(one_step, parts)


def test_memorising_shows_as_accuracy_on_flipped_labels(parts):
    long = replace(PLAIN, model=MLP(hidden=(64,)), epochs=120, schedule="constant")
    last = train(long, parts).epochs[-1]
    assert last["noisy_accuracy"] > 0.9
    assert last["test_accuracy"] < last["train_accuracy"]


def test_accuracies_are_counted_on_clean_and_flipped_labels_apart(parts):
    part = parts.train

    class Oracle(torch.nn.Module):
        def forward(self, x):
            return F.one_hot(part.clean_labels, 10).double()

    score = evaluate(Oracle(), part)
    assert (score.clean_accuracy, score.noisy_accuracy) == (1, 0)
    assert score.accuracy == pytest.approx(54 / 90)
    assert evaluate(Oracle(), replace(part, labels=part.clean_labels)).noisy_accuracy is None


def test_evaluation_leaves_the_model_alone_and_does_not_depend_on_its_batches(parts):
    model = SmallConv(width=4, norm="batch").build((1, 8, 8), 10).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert evaluate(model, parts.train, batch_size=7).loss == pytest.approx(
        evaluate(model, parts.train).loss, rel=1e-12
    )
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_cosine_ends_at_0_and_the_constant_stays():
    for name, end in (("cosine", 0.0), ("constant", 0.5)):
        optimizer = SGD(lr=0.5).build([torch.nn.Parameter(torch.zeros(1))])
        scheduler = schedule(name, optimizer, steps=10)
        for _ in range(10):
            optimizer.step()
            scheduler.step()
        assert scheduler.get_last_lr() == [pytest.approx(end)]


def test_a_member_is_built_by_its_name():
    member = Member(name="same", rho=0.1, settings={"factor": {Region.GENTLER: 0.5}})
    assert repr(member.build()).startswith("same(factor={GENTLER: 0.5}, rho=0.1)")


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(
        ValueError, match="name must be one of the zoo's members .*, sam, .*, got 'sma'"
    ):
        Member(name="sma", rho=0.1)
    with pytest.raises(ValueError, match="rho must be >= 0"):
        Member(name="sam", rho=-0.1)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        replace(PLAIN, epochs=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1 example, got 0"):
        replace(PLAIN, batch_size=0)
    with pytest.raises(ValueError, match="schedule must be one of cosine, .*, got 'step'"):
        replace(PLAIN, schedule="step")
    with pytest.raises(ValueError, match="schedule must be one of cosine, .*, got 'step'"):
        schedule("step", SGD().build([torch.nn.Parameter(torch.zeros(1))]), 3)
    for optimizer in (SGD, AdamW):
        with pytest.raises(ValueError, match="lr must be > 0, got 0"):
            optimizer(lr=0)
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        Measure(examples=0)
    with pytest.raises(ValueError, match="eigenvalues must be at least 1, got 0"):
        Measure(eigenvalues=0)
    with pytest.raises(ValueError, match="reach must be > 0, got 0"):
        Measure(reach=0)
    with pytest.raises(
        ValueError, match="points and surface_points must be at least 2, got 1 and None"
    ):
        Measure(points=1)


def test_what_is_measured_agrees_with_the_training_loss_and_the_whole_hessian(parts):
    trained = train(replace(PLAIN, model=MLP(hidden=())), parts)
    result = measured(
        trained.model, parts.train, Measure(eigenvalues=3, points=5, surface_points=3)
    )
    loss = trained.epochs[-1]["train_loss"]
    assert result["slice_1d"]["reach"] == [-1, -0.5, 0, 0.5, 1]
    assert result["slice_1d"]["loss"][2] == pytest.approx(loss)
    assert result["slice_2d"]["loss"][1][1] == pytest.approx(loss)
    whole = full_hessian(trained.model, parts.train)
    expected = torch.linalg.eigvalsh(whole).flip(0)[:3]
    assert result["hessian"]["values"] == pytest.approx(expected.tolist(), rel=1e-2)
    assert result["hessian"]["converged"]


def full_hessian(model, part):
    def loss_fn(x, y):
        return F.cross_entropy(model(x), y)

    objective, w = Objective.of_model(model, loss_fn, [(part.inputs(), part.labels)])
    columns = []
    for parameter, values in enumerate(w.parts):
        for place in range(values.numel()):
            v = w.zeros_like()
            v.parts[parameter].view(-1)[place] = 1
            columns.append(torch.cat([part.flatten() for part in objective.hvp(w, v).parts]))
    return torch.stack(columns)
