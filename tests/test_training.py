"""What a training can be told besides the usual: each setting against the loop one would write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_datasets import write_folder

import flatminima as fm
from flatminima.data import Augment, Cifar10, Digits, ImageFolder, Mnist
from flatminima.models import MLP, CifarResNet, ShakeShake, SmallConv, Timm, ViT, WideResNet
from flatminima.models.shake import Shake
from flatminima.train import (
    SGD,
    Adam,
    Average,
    Checkpoints,
    Evaluation,
    Loss,
    Member,
    Numerics,
    Training,
    early_stopping,
    train,
)
from flatminima.train.checkpoint import save_weights
from flatminima.train.evaluate import evaluate
from flatminima.train.loop import step_seed
from flatminima.train.optimizer import AdamW
from flatminima.train.schedule import schedule
from flatminima.train.sinks import all_of, tensorboard, wandb

DATA = Digits(train=90, validation=40, test=50, noise=0.4)
PLAIN = Training(
    data=DATA, model=MLP(hidden=(8,)), optimizer=SGD(lr=0.1), epochs=3, batch_size=40, seed=5
)
SAM = replace(PLAIN, rule=Member(name="sam", rho=0.1))
CONV = SmallConv(width=4, norm="batch")


@pytest.fixture
def parts():
    return DATA.load()


def weights(trained):
    return [value.detach() for value in trained.model.state_dict().values()]


def same(one, two):
    return all(map(torch.equal, one, two))


def hand_written(training, parts, step):
    """The loop one would write, with `step` for a batch."""
    torch.manual_seed(training.seed)
    model = training.model.build((1, 8, 8), 10)
    optimizer = training.optimizer.build(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * training.epochs)
    order = torch.Generator().manual_seed(training.seed)
    for _ in range(training.epochs):
        for index in torch.randperm(90, generator=order).split(40):
            optimizer.zero_grad()
            step(model, parts.train.images[index].double() / 16, parts.train.labels[index])
            optimizer.step()
            scheduler.step()
    return [value.detach() for value in model.state_dict().values()]


# ---- the loss


def test_weight_decay_in_the_loss_is_in_the_ascent_too(parts):
    def step(model, x, y):
        def loss_fn(x, y):
            squares = sum(param.square().sum() for param in model.parameters())
            return F.cross_entropy(model(x), y) + 0.5 * 0.01 * squares

        fm.SharpnessAware(model, fm.sam(rho=0.1)).backward(loss_fn, x, y)

    inside = train(replace(SAM, loss=Loss(weight_decay=0.01)), parts)
    for ours, theirs in zip(weights(inside), hand_written(SAM, parts, step), strict=True):
        torch.testing.assert_close(ours, theirs)
    outside = train(replace(SAM, optimizer=SGD(lr=0.1, weight_decay=0.01)), parts)
    assert not same(weights(inside), weights(outside))


def test_without_a_rule_weight_decay_in_the_loss_is_that_of_sgd(parts):
    inside = train(replace(PLAIN, loss=Loss(weight_decay=0.01)), parts)
    outside = train(replace(PLAIN, optimizer=SGD(lr=0.1, weight_decay=0.01)), parts)
    for one, two in zip(weights(inside), weights(outside), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (Loss(smoothing=0.1), lambda y, out: 0.9 * y + 0.01),
        (Loss(bootstrap="soft", trust=0.7), lambda y, out: 0.7 * y + 0.3 * out.softmax(1)),
        (
            Loss(bootstrap="hard"),
            lambda y, out: 0.8 * y + 0.2 * F.one_hot(out.argmax(1), 10).double(),
        ),
    ],
    ids=["smoothing", "soft bootstrap", "hard bootstrap"],
)
def test_the_loss_is_cross_entropy_with_a_changed_target(loss, target):
    outputs = torch.randn(6, 10, requires_grad=True)
    labels = torch.arange(6)
    wanted = target(F.one_hot(labels, 10).double(), outputs.detach())
    expected = -(wanted * outputs.log_softmax(1)).sum(1).mean()
    value = loss.value(outputs, labels, [])
    torch.testing.assert_close(value, expected)
    (ours,) = torch.autograd.grad(value, outputs)  # the prediction is taken as given
    (theirs,) = torch.autograd.grad(expected, outputs)
    torch.testing.assert_close(ours, theirs)


def test_mixup_trains_on_mixtures_that_a_seed_decides(parts):
    mixup = replace(PLAIN, loss=Loss(mixup=1.0))
    one, two, other = train(mixup, parts), train(mixup, parts), train(PLAIN, parts)
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


# ---- the learning rate


def rates(name, steps=40):
    optimizer = SGD(lr=1.0).build([torch.nn.Parameter(torch.zeros(1))])
    scheduler = schedule(name, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("piecewise", [1] * 20 + [0.1] * 10 + [0.01] * 10),
        ("piecewise_02", [1] * 8 + [0.1] * 22 + [0.01] * 10),
        ("piecewise_03", [1] * 12 + [0.1] * 18 + [0.01] * 10),
        ("piecewise_04", [1] * 16 + [0.1] * 14 + [0.01] * 10),
        ("piecewise_fifth", [1] * 12 + [0.2] * 12 + [0.04] * 8 + [0.008] * 8),
        ("cyclic", [t / 16 for t in range(1, 17)] + [(40 - t) / 24 for t in range(17, 41)]),
    ],
)
def test_a_schedule_is_the_one_of_its_source(name, expected):
    assert rates(name) == pytest.approx(expected)


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_almost_nothing():
    found = rates("one_cycle")
    assert found[0] == pytest.approx(1 / 25)
    assert max(found) == pytest.approx(1, abs=0.01)
    assert found.index(max(found)) in (11, 12)
    assert found[-1] < 0.01


# ---- averages


@pytest.mark.parametrize("average", [Average(decay=0.9), Average(decay=None, start=0.5, every=2)])
def test_the_mean_of_the_weights_is_the_one_of_its_definition(parts, average):
    seen = []
    model = []

    def step(net, x, y):
        model[:] = [net]
        seen.append([param.detach().clone() for param in net.parameters()])
        F.cross_entropy(net(x), y).backward()

    hand_written(PLAIN, parts, step)
    after = [*seen[1:], [param.detach() for param in model[0].parameters()]]
    due = [k for k in range(1, 10) if average.due(k, 9)]
    mean = after[due[0] - 1]
    for count, k in enumerate(due[1:], start=2):
        share = 1 - average.decay if average.decay else 1 / count
        mean = [
            (1 - share) * old + share * new for old, new in zip(mean, after[k - 1], strict=True)
        ]
    trained = train(replace(PLAIN, average=average), parts)
    for ours, theirs in zip(trained.average.parameters(), mean, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert "average_test_accuracy" in trained.epochs[-1]


def test_the_mean_has_the_batch_statistics_of_its_own_weights(parts):
    trained = train(replace(PLAIN, model=CONV, average=Average(decay=0.5)), parts)
    x = parts.train.inputs()
    first = trained.average[0](x)
    torch.testing.assert_close(trained.average[1].running_mean, first.mean((0, 2, 3)))
    assert not same(weights(train(replace(PLAIN, model=CONV), parts)), trained.average.parameters())


def test_averaging_leaves_the_training_itself_alone(parts):
    averaged = train(replace(PLAIN, model=CONV, average=Average()), parts)
    assert same(weights(averaged), weights(train(replace(PLAIN, model=CONV), parts)))


# ---- numbers


def test_channels_last_and_bfloat16_change_rounding_and_little_else(parts):
    sam = replace(SAM, model=CONV)
    full = train(sam, parts)
    turned = train(replace(sam, numerics=Numerics(channels_last=True)), parts)
    for one, two in zip(weights(full), weights(turned), strict=True):
        torch.testing.assert_close(one, two)
    assert turned.model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_computes_in_it_and_keeps_the_weights_full(precision):
    torch.set_default_dtype(torch.float32)
    parts = DATA.load()
    kinds = set()

    class Watching(MLP):
        def build(self, shape, classes):
            net = super().build(shape, classes)
            net.register_forward_hook(lambda net, x, out: kinds.add((net.training, out.dtype)))
            return net

    full = train(replace(SAM, epochs=20), parts)
    less = train(
        replace(
            SAM, model=Watching(hidden=(8,)), epochs=20, numerics=Numerics(precision=precision)
        ),
        parts,
    )
    assert kinds == {(True, getattr(torch, precision)), (False, torch.float32)}
    assert {value.dtype for value in weights(less)} == {torch.float32}
    assert less.epochs[-1]["train_loss"] == pytest.approx(full.epochs[-1]["train_loss"], rel=0.1)


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_numbers(parts):
    torch.set_default_dtype(torch.float32)
    parts = DATA.load()
    sam = replace(SAM, model=CONV)
    compiled = train(replace(sam, numerics=Numerics(compile=True)), parts)
    for one, two in zip(weights(train(sam, parts)), weights(compiled), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


# ---- rules


def test_m_is_the_size_of_the_groups_and_all_of_the_batch_is_plain_sam(parts):
    whole = train(replace(SAM, m=40, drop_last=True), parts)
    assert same(weights(whole), weights(train(replace(SAM, drop_last=True), parts)))
    small = train(replace(SAM, m=8), parts)

    def step(model, x, y):
        fm.SharpnessAware(model, fm.sam(rho=0.1), m=8, engine="loop").backward(
            lambda x, y: F.cross_entropy(model(x), y), x, y
        )

    assert same(weights(small), hand_written(SAM, parts, step))
    batched = train(replace(SAM, m=8, engine="batched"), parts)
    for one, two in zip(weights(small), weights(batched), strict=True):
        torch.testing.assert_close(one, two)


def test_the_ascent_of_shake_shake_has_a_true_gradient_and_the_descent_its_own(parts):
    calls = []

    class Watched(ShakeShake):
        def build(self, shape, classes):
            net = super().build(shape, classes)
            shake = next(part for part in net.modules() if isinstance(part, Shake))
            shake.register_forward_hook(
                lambda shake, x, out: shake.training and calls.append(shake.true_gradient)
            )
            return net

    shaken = replace(SAM, model=Watched(depth=8, width=4), epochs=1, steps=2)
    train(shaken, parts)
    assert calls == [True, False, True, False]
    calls.clear()
    train(replace(shaken, m=20), parts)
    assert calls == [True, False] * 4
    calls.clear()
    train(replace(shaken, rule=None), parts)
    assert calls == [False, False]


def test_adam_has_its_weight_decay_in_the_gradient_and_adamw_has_not(parts):
    one, two = (
        train(replace(PLAIN, optimizer=kind(weight_decay=0.1)), parts) for kind in (Adam, AdamW)
    )
    assert not same(weights(one), weights(two))


# ---- how long, and what is said of it


def test_a_run_of_a_few_steps_is_the_beginning_of_the_whole_run(parts):
    few = train(replace(PLAIN, steps=4), parts)
    assert [row["step"] for row in few.epochs] == [3, 4]
    whole = train(PLAIN, parts)
    assert few.epochs[0]["train_loss"] == whole.epochs[0]["train_loss"]
    assert few.epochs[1]["lr"] == whole.epochs[1]["lr"]


def test_the_last_examples_of_an_epoch_can_be_left_out(parts):
    assert train(replace(PLAIN, drop_last=True), parts).epochs[-1]["step"] == 6


def test_evaluation_can_be_rare_and_of_a_few_examples(parts):
    trained = train(replace(PLAIN, evaluation=Evaluation(every=2, examples=10)), parts)
    assert [row["epoch"] for row in trained.epochs] == [2, 3]
    assert trained.epochs[-1]["test_accuracy"] * 10 % 1 == pytest.approx(0)
    score = evaluate(trained.model, parts.test.take(slice(10)))
    assert trained.epochs[-1]["test_loss"] == score.loss
    assert same(weights(trained), weights(train(PLAIN, parts)))


def test_further_parts_are_evaluated_by_their_names(parts):
    trained = train(PLAIN, parts, also={"shifted": parts.validation})
    row = trained.epochs[-1]
    assert row["shifted_accuracy"] == row["validation_accuracy"]
    assert row["shifted_loss"] == row["validation_loss"]


def test_with_many_classes_the_five_best_guesses_are_counted(parts):
    part = replace(parts.test, labels=torch.arange(50) * 2, clean_labels=torch.arange(50) * 2)

    class Guess(torch.nn.Module):
        def forward(self, x):  # the true class comes second for the even examples, else last
            outputs = torch.linspace(1, 0, 100).expand(50, 100).clone()
            place = torch.arange(50)
            outputs[place, part.labels] = torch.where(place % 2 == 0, 0.995, -1.0)
            return outputs

    assert evaluate(Guess(), part).top5_accuracy == 0.5
    assert evaluate(torch.nn.Flatten(), parts.test).top5_accuracy is None


def test_augmented_training_is_decided_by_the_seed_and_not_plain(parts):
    augmented = replace(PLAIN, augment=Augment(crop=1, cutout=2))
    one, two = (train(augmented, parts) for _ in range(2))
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(train(PLAIN, parts)))


def test_every_step_and_process_has_random_numbers_of_its_own():
    seeds = {
        step_seed(seed, first, rank, place)
        for seed in range(3)
        for first in (0, 10)
        for rank in range(2)
        for place in range(10)
    }
    assert len(seeds) == 3 * 20 * 2


def test_the_curve_of_early_stopping_follows_the_best_validation_epoch_so_far():
    scores = [(0.5, 0.4), (0.7, 0.6), (0.6, 0.9), (0.7, 0.8)]
    rows = [
        {"epoch": epoch, "validation_accuracy": chosen, "test_accuracy": told}
        for epoch, (chosen, told) in enumerate(scores, start=1)
    ]
    curve = early_stopping(rows)
    assert [row["best_epoch"] for row in curve] == [1, 2, 2, 2]
    assert [row["test_accuracy"] for row in curve] == [0.4, 0.6, 0.6, 0.6]


def test_rows_go_to_tensorboard_and_elsewhere(parts, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent = []
    client = types.SimpleNamespace(
        init=lambda project, config: types.SimpleNamespace(
            log=lambda row, step: sent.append((project, step, row))
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", client)
    trained = train(PLAIN, parts, log=all_of(tensorboard(tmp_path), wandb("study", {"lr": 0.1})))
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("epoch/test_accuracy")
    expected = [row["test_accuracy"] for row in trained.epochs]
    assert [event.value for event in events] == pytest.approx(expected)
    assert [event.step for event in events] == [3, 6, 9]
    assert [row["epoch/test_accuracy"] for _, _, row in sent] == expected
    assert {(project, step) for project, step, _ in sent} == {("study", k) for k in (3, 6, 9)}


# ---- going on


EVERYTHING = replace(
    SAM,
    rule=Member(name="momentum_sam", rho=0.1),
    model=ViT(width=12, depth=1, heads=3, drop_path=0.1),
    optimizer=AdamW(),
    average=Average(decay=0.9),
    augment=Augment(crop=1),
    loss=Loss(mixup=0.2),
)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "training",
    [
        SAM,
        replace(PLAIN, schedule="one_cycle", model=CONV),
        pytest.param(EVERYTHING, marks=pytest.mark.slow),
    ],
    ids=["sam", "one cycle", "everything"],
)
def test_a_run_that_was_stopped_at_any_step_goes_on_bit_for_bit(
    parts, tmp_path, monkeypatch, training, stop
):
    whole = []
    expected = train(training, parts, log=whole.append)
    checkpoints = Checkpoints(folder=tmp_path, every=1)
    save = Checkpoints.save

    def save_and_stop(self, step, *rest):
        save(self, step, *rest)
        if step == stop:
            raise Stopped

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(Stopped):
        train(training, parts, checkpoints=checkpoints)
    monkeypatch.setattr(Checkpoints, "save", save)
    logged = []
    resumed = train(training, parts, checkpoints=checkpoints, log=logged.append)
    assert same(weights(resumed), weights(expected))
    assert untimed(logged) == untimed(whole)
    if training.average:
        assert same(resumed.average.parameters(), expected.average.parameters())


@pytest.mark.parametrize("ended", [False, True])
def test_a_short_training_leaves_no_checkpoint(tmp_path, ended):
    checkpoints = Checkpoints(folder=tmp_path, every=1, minutes=10.0)
    assert not checkpoints.due(7, epoch_ends=True, ended=ended)


def test_the_end_is_saved_where_something_was(tmp_path, monkeypatch):
    checkpoints = Checkpoints(folder=tmp_path, every=1, minutes=10.0)
    late = time.monotonic() + 601.0
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert checkpoints.due(7, epoch_ends=False)
    checkpoints.save(7, {}, {})
    assert not checkpoints.due(8, epoch_ends=False)
    assert checkpoints.due(9, epoch_ends=True, ended=True)


def test_the_best_epoch_need_not_be_kept(parts, tmp_path):
    train(PLAIN, parts, checkpoints=Checkpoints(folder=tmp_path, best=False))
    assert not (tmp_path / "best.safetensors").exists()


def test_a_run_on_files_goes_on_bit_for_bit_too(tmp_path):
    torch.set_default_dtype(torch.float32)
    write_folder(tmp_path / "pets")
    data = ImageFolder(path="pets", classes=3, train=12, validation=6, test=6, size=16, resize=20)
    training = replace(
        EVERYTHING, data=data, loss=Loss(), augment=Augment(), epochs=2, batch_size=4
    )
    files = data.load(str(tmp_path))
    expected = train(training, files)
    checkpoints = Checkpoints(folder=tmp_path / "run")
    train(replace(training, steps=2), files, checkpoints=checkpoints)
    assert same(weights(train(training, files, checkpoints=checkpoints)), weights(expected))


def untimed(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads({threads})  # another number sums in another order
sys.path.insert(0, {tests!r})
from test_training import EVERYTHING, long
from flatminima.train import Checkpoints, train
training = long(EVERYTHING)
checkpoints = Checkpoints(folder=Path({folder!r}), every=1)
train(training, training.data.load(), checkpoints=checkpoints)
"""


def long(training):
    return replace(training, epochs=60)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_bit_for_bit(parts, tmp_path):
    expected = train(long(EVERYTHING), parts)
    program = KILLED.format(
        tests=str(Path(__file__).parent), folder=str(tmp_path), threads=torch.get_num_threads()
    )
    killed = 0
    for wanted in (5, 40, 90):
        process = subprocess.Popen([sys.executable, "-c", program], env=os.environ.copy())
        while process.poll() is None and last_step(tmp_path) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 3
    assert 90 <= last_step(tmp_path) < 180
    resumed = train(long(EVERYTHING), parts, checkpoints=Checkpoints(folder=tmp_path, every=1))
    assert same(weights(resumed), weights(expected))
    assert untimed(resumed.epochs) == untimed(expected.epochs)


def last_step(folder):
    return max(
        (int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt")), default=0
    )


def test_the_best_and_the_last_weights_are_kept_and_no_others(parts, tmp_path):
    from safetensors.torch import load_file

    trained = train(replace(PLAIN, epochs=8), parts, checkpoints=Checkpoints(folder=tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.safetensors", "step-24.pt", "step-24.safetensors"]
    best = max(trained.epochs, key=lambda row: row["validation_accuracy"])
    net = PLAIN.model.build((1, 8, 8), 10)
    net.load_state_dict(load_file(tmp_path / "best.safetensors"))
    assert evaluate(net, parts.validation).loss == best["validation_loss"]
    net.load_state_dict(load_file(tmp_path / "step-24.safetensors"))
    assert same([value.detach() for value in net.state_dict().values()], weights(trained))


def test_the_end_is_saved_however_often_the_rest_is(parts, tmp_path):
    train(PLAIN, parts, checkpoints=Checkpoints(folder=tmp_path, every=4))
    assert last_step(tmp_path) == 9


def test_a_checkpoint_that_was_cut_short_is_not_seen(parts, tmp_path):
    checkpoints = Checkpoints(folder=tmp_path)
    train(replace(PLAIN, steps=3), parts, checkpoints=checkpoints)
    save_weights(tmp_path / "step-6.safetensors", {"0": torch.zeros(1)})  # and no step-6.pt
    (tmp_path / ".step-6.pt.1").write_bytes(b"half")
    assert checkpoints.last()[1]["step"] == 3


def test_a_run_of_a_few_steps_can_be_continued_to_the_whole_run(parts, tmp_path):
    checkpoints = Checkpoints(folder=tmp_path)
    train(replace(SAM, steps=4), parts, checkpoints=checkpoints)
    resumed = train(SAM, parts, checkpoints=checkpoints)
    assert same(weights(resumed), weights(train(SAM, parts)))


def test_a_run_that_has_ended_trains_no_further(parts, tmp_path):
    checkpoints = Checkpoints(folder=tmp_path)
    one = train(PLAIN, parts, checkpoints=checkpoints)
    two = train(PLAIN, parts, checkpoints=checkpoints)
    assert same(weights(one), weights(two))
    assert two.seconds_per_step == one.seconds_per_step


# ---- keys


def test_settings_that_came_later_leave_the_keys_of_older_runs_alone():
    from flatminima.study.run import as_json
    from flatminima.study.study import find

    keys = {name: next(find("sgd_vs_sam").stages(name))[0].key for name in ("quick", "cpu")}
    assert keys == {"quick": "fbe3a1d3c801", "cpu": "3b3697595eb6"}
    assert "m" not in as_json(PLAIN)
    assert as_json(replace(SAM, m=8))["m"] == 8
    assert as_json(Digits(noise_kind="pairwise"))["noise_kind"] == "pairwise"


# ---- the first steps of large trainings on real data


def first_steps(training, root=None):
    few = replace(training, steps=3, evaluation=Evaluation(examples=4, batch_size=4))
    trained = train(few, few.data.load(root))
    assert trained.epochs[-1]["step"] == 3
    assert np.isfinite(trained.epochs[-1]["train_loss"])
    return trained


needs_data = pytest.mark.skipif(
    not os.environ.get("FLATMINIMA_DATA"), reason="FLATMINIMA_DATA names no folder with CIFAR"
)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [
        Training(
            data=Cifar10(noise=0.4),
            model=CifarResNet(depth=18, width=16),
            optimizer=SGD(lr=0.1, nesterov=True, weight_decay=5e-4),
            rule=Member(name="sam", rho=0.05),
            augment=Augment(cutout=16, policy="autoaugment_cifar10"),
            batch_size=32,
        ),
        Training(
            data=Mnist(noise=0.8),
            model=MLP(hidden=(512, 512)),
            optimizer=Adam(),
            rule=Member(name="sam", rho=0.05),
            batch_size=128,
        ),
    ],
    ids=["cifar-10", "mnist"],
)
def test_the_first_steps_of_a_run_on_real_data(training):
    torch.set_default_dtype(torch.float32)
    first_steps(training)


@pytest.mark.parametrize("model", [Timm(name="resnet10t"), WideResNet(depth=10, width=1)], ids=str)
def test_the_first_steps_of_a_run_on_a_folder_of_images(tmp_path, model):
    torch.set_default_dtype(torch.float32)
    write_folder(tmp_path / "imagenet")
    data = ImageFolder(classes=3, train=12, validation=6, test=6, size=32, resize=36)
    training = Training(
        data=data,
        model=model,
        optimizer=SGD(lr=0.01),
        rule=Member(name="sam", rho=0.05),
        augment=Augment(),
        batch_size=4,
    )
    first_steps(training, str(tmp_path))


# ---- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: replace(PLAIN, m=4), "m must be at least 1, and None without a rule, got 4"),
        (
            lambda: replace(SAM, engine="no"),
            "engine must be one of auto, loop, vmap, batched, got 'no'",
        ),
        (lambda: replace(PLAIN, steps=0), "steps must be at least 1 or None, got 0"),
        (
            lambda: replace(PLAIN, drop_last=True, batch_size=91),
            "batch_size must be at most the 90 training examples with drop_last, got 91",
        ),
        (lambda: Loss(smoothing=2), r"smoothing must be in \[0, 1\], got 2"),
        (lambda: Loss(mixup=-1), "weight_decay and mixup must be >= 0, got 0.0 and -1"),
        (lambda: Loss(bootstrap="no"), "bootstrap must be soft, hard or None, got 'no'"),
        (lambda: Average(decay=1), r"decay must be in \[0, 1\) or None, got 1"),
        (lambda: Average(start=1), r"start must be in \[0, 1\), got 1"),
        (lambda: Average(every=0), "every must be at least 1 step, got 0"),
        (lambda: Numerics(precision="no"), "precision must be one of full, bfloat16, float16, got"),
        (lambda: Evaluation(every=0), "every must be at least 1, got 0"),
        (
            lambda: Checkpoints(folder=Path(), every=0),
            "every must be at least 1 step or None, got 0",
        ),
        (lambda: Checkpoints(folder=Path(), minutes=-1.0), "minutes must be >= 0, got -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
