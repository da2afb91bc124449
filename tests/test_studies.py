"""Every study: its presets, what it takes, its quick preset to the report, its first real steps."""

from __future__ import annotations

import os
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from test_datasets import write_folder

from flatminima.data import ImageFolder
from flatminima.models import MLP, Timm
from flatminima.report import page
from flatminima.report.records import Study, read
from flatminima.study.cost import Cost, cost, gradients, in_words
from flatminima.study.grid import Plan, final_runs
from flatminima.study.launch import launch
from flatminima.study.place import Place
from flatminima.study.run import Run
from flatminima.study.sources import digits
from flatminima.study.study import find, studies
from flatminima.train import Evaluation, Member, When, train

ROOT = Path(__file__).parents[1]
THEORY = {"diagonal_networks", "relu_networks", "surfaces"}  # their runs train no network
NAMES = [study.name for study in studies() if study.name not in THEORY]
needs_data = pytest.mark.skipif(
    "FLATMINIMA_DATA" not in os.environ, reason="needs the data that FLATMINIMA_DATA names"
)


def every_run(study, preset):
    """All runs of a preset, those of later stages at the first radius of their grids."""
    plan = study.plan(preset)
    first = list(next(study.stages(preset)))
    if not isinstance(plan, Plan) or first[0].stage == "final":
        return first
    return first + final_runs(plan, study.methods, [])


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_builds_as_many_runs_as_it_says(name):
    study = find(name)
    assert {"quick", "paper"} <= set(study.presets)
    for preset in study.presets:
        runs = every_run(study, preset)
        assert len({run.key for run in runs}) == len(runs) == study.count(preset)
        assert {run.method for run in runs} <= {method.name for method in study.methods}
        assert study.differences(preset)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_published_figure_has_its_runs(name):
    study = find(name)
    published = getattr(study.module, "PUBLISHED", {})
    runs = [run for preset in study.presets for run in every_run(study, preset)]
    there = {(run.case, run.method) for run in runs}
    cases = {case for case, _ in there}
    if name == "region_shares":  # its figures are of statistics
        return
    for case, method in published:
        assert (case, method) in there or (case in cases and ("", method) in there)


# ---------------------------------------------------------------- what it takes


def test_gradients_per_step_are_counted_as_the_rules_say():
    sam = Member(name="sam", rho=0.1)
    assert gradients(None) == 1
    assert gradients(sam) == 2
    assert gradients(replace(sam, when=When(every=5))) == pytest.approx(1.2)
    assert gradients(replace(sam, when=When(start=0.75))) == pytest.approx(1.25)
    assert gradients(Member(name="multi_step", rho=0.1, settings={"steps": 3})) == 4


def test_the_cost_of_a_linear_network_by_hand():
    training = replace(digits(train=100, epochs=3), model=MLP(hidden=()))
    run = Run(method="sgd", label="SGD", training=training)
    found = cost(run)
    assert found is not None
    assert found.operations == 3 * (2 * 64 * 10) * 100 * 3  # two operations a weight
    sam = cost(replace(run, training=replace(training, rule=Member(name="sam", rho=0.1))))
    assert sam is not None and sam.operations == 2 * found.operations
    assert sam.memory - found.memory == 2 * 4 * (64 * 10 + 10)
    stopped = cost(replace(run, training=replace(training, steps=1)))
    assert stopped is not None and stopped.operations == found.operations / 6
    assert cost(replace(run, rounds=2)).operations == 2 * found.operations


def test_the_cost_is_said_in_words():
    assert "no estimate" in in_words([], 3)
    words = in_words([Cost(operations=7.2e16, memory=2**30)], 30)
    assert words.startswith("About 30 GPU-hours in all, if a GPU does 20 TFLOP/s")
    assert "1 GiB" in words


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_paper_preset_has_a_cost(name):
    assert all(cost(run).hours > 0 for run in every_run(find(name), "paper"))


def test_the_cost_of_a_network_with_weights_needs_no_file_of_them():
    training = replace(digits(), model=Timm(name="resnet18", weights="absent.safetensors"))
    run = Run(method="sgd", label="SGD", training=training)
    random = replace(training, model=Timm(name="resnet18"))
    assert cost(run) == cost(replace(run, training=random))


# ---------------------------------------------------------------- quick, to the report


def mean(study: Study, method, number, case=""):
    """The mean of a number of the final runs."""
    values = [
        number(run) if callable(number) else run.number(number)
        for run in study.within(case).select(method, stage="final")
    ]
    return sum(values) / len(values)


def last(name):
    return lambda run: run.epochs[-1][name]


def label_noise(study):
    """SGD memorises wrong labels, SAM fewer; mixup is above SGD."""
    wrong = last("noisy_accuracy")
    assert mean(study, "sgd", wrong, "20 %") > mean(study, "sam", wrong, "20 %") > 0.05
    accuracy = "test_accuracy_last"
    assert mean(study, "mixup", accuracy, "20 %") > mean(study, "sgd", accuracy, "20 %") > 0.5


def region_shares(study):
    """Shares sum to 1, the bins to the steeper share, and sets are not above 1."""
    for run in study.select():
        for row in run.regions:
            names = ("steeper", "gentler", "reversed_steeper", "reversed_gentler")
            assert sum(row[name] for name in names) == pytest.approx(1)
        for row, bins in zip(run.regions, run.result["bins"], strict=True):
            assert sum(bins["disjoint"]) == pytest.approx(row["steeper"], abs=1e-3)
        left = [row["left"] for row in run.result["persisted"]]
        assert left == sorted(left, reverse=True) and len(left) == 6


def rho_union(study):
    """A union holds each of its sets, and an intersection is in all."""
    for run in study.select():
        assert 0 < run.number("all") <= run.number("union") <= 1


def pac_bayes(study):
    """The theorem's bound is vacuous, its tight form below it, the certificate a share."""
    for run in study.select():
        assert run.number("printed") >= run.number("tight") > 1
        assert 0 < run.number("certificate") <= 1


def convergence(study):
    """Four times the epochs leave a smaller training loss, with SAM as without."""
    for method in ("sgd", "sam", "m16"):
        short = mean(study, method, "train_loss_last", "a quarter")
        assert mean(study, method, "train_loss_last", "the whole run") < short


def hessian_spectrum(study):
    """Eigenvalues descend, and SAM's largest is below SGD's in the end."""
    for run in study.select():
        values = run.result["hessian"]["values"]
        assert values == sorted(values, reverse=True)
    top = lambda run: run.result["hessian"]["values"][0]  # noqa: E731
    assert mean(study, "sam", top, "the end") < mean(study, "sgd", top, "the end")


def sgd_vs_sam(study):
    """SGD memorises the wrong labels and ends below SAM, in a sharper minimum."""
    accuracy, wrong = "test_accuracy_last", last("noisy_accuracy")
    assert mean(study, "sam", accuracy) > mean(study, "sgd", accuracy) + 0.1
    assert mean(study, "sgd", wrong) > 0.9 > 0.3 > mean(study, "sam", wrong)
    top = lambda run: run.result["hessian"]["values"][0]  # noqa: E731
    assert mean(study, "sam", top) < mean(study, "sgd", top)


def diagonal_networks(study):
    """A radius of 0.2 brings 1-SAM nearer to the interpolator of least l1 norm than 0.02."""
    (run,) = (run for run in study.select("one") if run.settings["part"] == "radii")
    distance = np.array(run.result["to_l1"], dtype=float).mean(0)
    rhos = run.settings["rhos"]
    assert distance[rhos.index(0.2)] < 0.95 * distance[rhos.index(0.02)]


def relu_networks(study):
    """Networks fit their points, and SAM's functions bend less."""
    bent = {
        method: np.mean(
            [
                np.abs(np.diff(run.result["functions"][-1], n=2)).sum()
                for run in study.select(method)
            ]
        )
        for method in ("gd", "sam")
    }
    assert bent["sam"] < bent["gd"]
    assert all(np.median(run.result["loss"]) < 0.2 for run in study.select())


def surfaces(study):
    """The radius at which SAM escapes a valley is the one of the closed form."""
    off = [run.result["off"] for run in study.select() if "off" in run.result]
    assert off and max(off) < 0.01


def learns(study):
    """Every method of the study is above chance in some case."""
    for method in study.methods:
        runs = study.select(method.name, stage="final")
        if runs:
            assert max(run.number("test_accuracy_last") for run in runs) > 0.15


HOLDS = {
    check.__name__: check
    for check in (
        label_noise,
        region_shares,
        rho_union,
        pac_bayes,
        convergence,
        hessian_spectrum,
        sgd_vs_sam,
        diagonal_networks,
        relu_networks,
        surfaces,
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *sorted(THEORY)])
def test_the_quick_preset_runs_to_its_report(name, tmp_path):
    study = find(name)
    folder = launch(study, "quick", Place(folder=tmp_path), console=Console(quiet=True))
    records = read(folder)
    assert {run.status for run in records.runs} <= {"done", "diverged"}
    assert sum(run.status == "done" for run in records.runs) > 0.9 * len(records.runs)
    if name not in THEORY:
        learns(records)
    HOLDS.get(name, learns)(records)
    told = study.reader(records)
    assert not told.answer.startswith("No answer")
    assert told.plates and told.table.rows and (told.verdict or told.claims)
    assert page.write(folder, reader=study.reader).stat().st_size < 8e6


# ---------------------------------------------------------------- the source's setting, three steps


def begun(run, parts):
    """Three steps of a run, and their rows."""
    short = replace(run.training, steps=3, epochs=1, evaluation=Evaluation(examples=4))
    return train(short, parts).epochs


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "imagenet"])
def test_three_steps_of_a_paper_preset_on_batches_of_two_real_images(name):
    runs = [run for run in every_run(find(name), "paper") if run.training.rule]
    run = min(runs, key=lambda run: cost(run).operations / run.training.epochs)
    training = replace(run.training, batch_size=2)  # else a core takes an hour for some
    (row,) = begun(replace(run, training=training), training.data.load())
    assert row["step"] == 3 and row["train_loss"] > 0


@pytest.mark.slow
def test_three_steps_of_imagenet_on_a_small_folder_of_images(tmp_path):
    run = next(run for run in every_run(find("imagenet"), "paper") if run.training.rule)
    assert isinstance(run.training.data, ImageFolder)
    write_folder(tmp_path / "small")
    data = ImageFolder(path="small", classes=3, train=12, validation=6, test=6, size=32, resize=36)
    training = replace(run.training, data=data, batch_size=2)
    (row,) = begun(replace(run, training=training), data.load(str(tmp_path)))
    assert row["step"] == 3 and torch.tensor(row["train_loss"]).isfinite()


# ---------------------------------------------------------------- the pages


def test_the_pages_of_the_studies_are_up_to_date():
    script = runpy.run_path(str(ROOT / "docs" / "studies.py"))
    for path, text in script["pages"]().items():
        assert path.read_text(encoding="utf-8") == text, "run: python docs/studies.py"
