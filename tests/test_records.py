"""What runs leave on disk, and what becomes of those that are killed, fail or diverge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from flatminima.study.executors import LocalPool, ThisProcess
from flatminima.study.launch import launch
from flatminima.study.perform import perform
from flatminima.study.place import Place
from flatminima.study.record import Record, read_json, write_json
from flatminima.study.study import Study
from flatminima.train import Checkpoints
from flatminima.train.work import Work

TINY = Study(Path(__file__).with_name("tiny_study.py"))
RUN = next(TINY.stages("quick"))[0]
TIMES = {"seconds", "seconds_per_step"}


def silent():
    return Console(quiet=True)


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def left(folder):
    """Everything that a run left, the times aside."""
    result = {k: v for k, v in read_json(folder / "result.json").items() if k not in TIMES}
    return rows(folder), result, read_json(folder / "run.json")


def done(root, run=RUN):
    perform(run, study="tiny", place=Place(folder=root, workers=0))
    return Record(root, "tiny", run)


# ---- one run


def test_a_run_leaves_its_settings_its_metrics_its_result_its_code_and_its_machine(tmp_path):
    record = done(tmp_path)
    names = ["code.txt", "machine.json", "metrics.jsonl", "result.json", "run.json"]
    assert sorted(path.name for path in record.folder.iterdir()) == names
    about = read_json(record.folder / "run.json")
    assert (about["key"], about["study"], about["stage"]) == (RUN.key, "tiny", "grid")
    assert (about["method"], about["label"], about["rho"], about["seed"]) == (
        "sam",
        "SAM",
        0.05,
        100,
    )
    assert about["training"]["optimizer"]["lr"] == 0.1
    assert read_json(record.folder / "machine.json")["torch"] == torch.__version__
    assert (record.folder / "code.txt").read_text().startswith("version: ")


def test_the_best_epoch_is_chosen_by_validation_accuracy(tmp_path):
    record = done(tmp_path)
    epochs = [row for row in rows(record.folder) if row["kind"] == "epoch"]
    best = max(epochs, key=lambda row: row["validation_accuracy"])
    result = record.result
    assert result["status"] == "done"
    assert result["best_epoch"] == best["epoch"]
    assert result["test_accuracy_best"] == best["test_accuracy"]
    assert result["test_accuracy_last"] == epochs[-1]["test_accuracy"]


def test_the_same_run_leaves_the_same_numbers(tmp_path):
    one, two = done(tmp_path / "one"), done(tmp_path / "two")
    assert left(one.folder) == left(two.folder)


def test_a_half_written_run_is_not_trusted_and_begins_again(tmp_path):
    whole = left(done(tmp_path / "whole").folder)
    record = Record(tmp_path / "half", "tiny", RUN)
    record.begin("cpu")
    record.log({"kind": "epoch", "epoch": 1, "train_loss": 123.0})
    (record.folder / "result.json").write_text('{"status": "do')
    assert not record.ended
    assert left(done(tmp_path / "half").folder) == whole


@pytest.fixture
def saving(monkeypatch):
    """Lets every step save a checkpoint; at those of `stops` the run then breaks off.

    Yields the stops and the steps that were taken."""
    stops, taken = [], []
    save, take_step = Checkpoints.save, Work.take_step

    def save_and_stop(self, step, *rest):
        save(self, step, *rest)
        if (self.folder.name, step) in stops:
            raise KeyboardInterrupt

    def noted(self, *rest):
        taken.append(self.step)
        return take_step(self, *rest)

    monkeypatch.setattr("flatminima.study.perform.MINUTES", 0.0)
    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    monkeypatch.setattr(Work, "take_step", noted)
    return stops, taken


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_run_that_takes_long_goes_on_from_its_last_checkpoint(tmp_path, saving, rounds):
    stops, taken = saving
    run = replace(RUN, rounds=rounds)
    whole = done(tmp_path / "whole", run)
    every = taken.copy()
    stops.append((str(rounds), 3))
    with pytest.raises(KeyboardInterrupt):
        done(tmp_path / "half", run)
    stops.clear()
    taken.clear()
    half = done(tmp_path / "half", run)
    assert taken == every[-len(taken) :] and taken[0] == 3
    assert left(half.folder) == left(whole.folder)
    assert not half.checkpoints.exists()
    one, two = (load_file(record.folder / "weights.safetensors") for record in (whole, half))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_other_code_is_not_used(tmp_path, saving):
    stops, taken = saving
    stops.append(("1", 3))
    with pytest.raises(KeyboardInterrupt):
        done(tmp_path)
    stops.clear()
    taken.clear()
    (Record(tmp_path, "tiny", RUN).folder / "code.txt").write_text("version: another")
    assert done(tmp_path).ended and taken[0] == 0


def test_numbers_that_are_not_finite_are_written_as_words(tmp_path):
    write_json(tmp_path / "x.json", {"loss": [float("nan"), float("inf"), -float("inf"), 0.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"loss": ["nan", "inf", "-inf", 0.5]}


def test_a_file_is_replaced_in_one_piece(tmp_path):
    write_json(tmp_path / "x.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"x": object()})
    assert read_json(tmp_path / "x.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


# ---- runs that go wrong


def test_a_run_that_fails_is_recorded_with_its_traceback_and_stops_no_other(tmp_path, capsys):
    folder = launch(TINY, "failing", Place(folder=tmp_path, workers=0))
    results = [read_json(path) for path in folder.glob("runs/*/result.json")]
    assert [result["status"] for result in results] == ["failed", "failed"]
    assert "Traceback" in results[0]["error"]
    assert "ArithmeticError: this network cannot be built" in results[0]["error"]
    assert "failed: ArithmeticError: this network cannot be built" in capsys.readouterr().out


def test_a_run_that_diverges_is_recorded_with_the_step(tmp_path):
    folder = launch(TINY, "diverging", Place(folder=tmp_path, workers=0), console=silent())
    paths = list(folder.glob("runs/*/result.json"))
    assert len(paths) == 2
    for path in paths:
        result = read_json(path)
        assert result["status"] == "diverged"
        assert f"of run {path.parent.name}: lower lr or rho." in result["error"]


def test_a_failed_run_is_tried_again_and_a_diverged_one_is_not(tmp_path):
    record = Record(tmp_path, "tiny", RUN)
    record.begin("cpu")
    for status, ended in {"done": True, "diverged": True, "failed": False}.items():
        record.end({"status": status})
        assert record.ended is ended


def test_a_result_that_exists_is_not_replaced_by_the_failure_to_fetch_it(tmp_path):
    record = done(tmp_path)
    before = record.result
    record.fail(RuntimeError("the connection broke"), "cpu")
    assert record.result == before


# ---- this process


def test_this_process_hands_on_what_a_task_raised():
    def broken(run):
        raise KeyError(run)

    handle = ThisProcess().submit(broken, "x")
    with pytest.raises(KeyError, match="x"):
        handle.result()


def test_this_process_carries_out_a_task_once_and_when_it_is_asked():
    done = []
    handle = ThisProcess().submit(done.append, "x")
    assert done == []
    handle.result()
    handle.result()
    assert done == ["x"]


def test_this_process_uses_one_thread_for_a_task_and_puts_the_number_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    assert ThisProcess().submit(lambda _: torch.get_num_threads(), None).result() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


# ---- workers


def die_once(marker):
    """Kill this worker in the middle of its first attempt."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def die_always(_):
    os.kill(os.getpid(), signal.SIGKILL)


def one_more(number):
    return number + 1


def test_a_pool_needs_a_worker():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        LocalPool(0)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_run(tmp_path):
    with LocalPool(1) as pool:
        first = pool.submit(die_once, str(tmp_path / "died"))
        others = [pool.submit(one_more, number) for number in range(3)]
        assert first.result() == "survived"
        assert [handle.result() for handle in others] == [1, 2, 3]


@pytest.mark.slow
def test_a_run_that_kills_every_worker_fails_alone_and_is_recorded(tmp_path):
    with LocalPool(1) as pool:
        deadly = Deadly(pool, RUN.key)
        folder = launch(TINY, "quick", Place(folder=tmp_path), executor=deadly, console=silent())
    results = {path.parent.name: read_json(path) for path in folder.glob("runs/*/result.json")}
    assert results[RUN.key]["status"] == "failed"
    assert "BrokenProcessPool" in results[RUN.key]["error"]
    others = [result["status"] for key, result in results.items() if key != RUN.key]
    assert others == ["done"] * 3


class Deadly:
    """Sends one run to its death, and carries out the others here."""

    def __init__(self, pool, key):
        self.pool, self.key = pool, key

    def submit(self, fn, run):
        if run.key == self.key:
            return self.pool.submit(die_always, None)
        return ThisProcess().submit(fn, run)


@pytest.mark.slow
def test_a_worker_and_this_process_leave_the_same_numbers(tmp_path):
    torch.set_default_dtype(torch.float32)  # as in a fresh process
    run = replace(RUN, training=replace(RUN.training, seed=11))
    here = done(tmp_path / "here", run)
    task = partial(perform, study="tiny", place=Place(folder=tmp_path / "there"))
    with LocalPool(1, setup=Study(TINY.path).load) as pool:
        pool.submit(task, run).result()
    there = Record(tmp_path / "there", "tiny", run)
    assert left(here.folder) == left(there.folder)


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-m", "flatminima", "run", str(TINY.path), "--preset", "longer"]
    command += ["--workers", "1", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    metrics = first_metrics(tmp_path)
    process.kill()
    process.wait()
    time.sleep(0.2)
    killed = metrics.read_text()
    time.sleep(0.5)
    assert metrics.read_text() == killed, "the worker outlived the study"
    run = next(run for run in next(TINY.stages("longer")) if run.key == metrics.parent.name)
    record = Record(tmp_path, TINY.name, run)
    assert not record.ended
    torch.set_default_dtype(torch.float32)  # as in the process that was killed
    launch(TINY, "longer", Place(folder=tmp_path, workers=0), console=silent())
    assert [row["epoch"] for row in rows(record.folder)] == list(range(1, 601))
    assert record.result["status"] == "done"


def first_metrics(root):
    """The metrics of the first run that has begun to write them."""
    for _ in range(6000):
        for path in root.glob("*/runs/*/metrics.jsonl"):
            if path.stat().st_size:
                return path
        time.sleep(0.01)
    raise AssertionError("no run has begun")
