"""Sweeps: the same records from every executor, and nothing lost or repeated by a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from flatminima.study.executors.local import shares
from flatminima.study.launch import launch
from flatminima.study.perform import perform
from flatminima.study.place import Place
from flatminima.study.record import Record
from flatminima.study.study import Study

SWEEP = Study(Path(__file__).with_name("sweep_study.py"))
RUNS = next(SWEEP.stages("quick"))
SLOW = next(SWEEP.stages("slow"))


def swept(place: Place, preset: str = "quick") -> Path:
    return launch(SWEEP, preset, place, console=Console(quiet=True))


def table(folder: Path) -> bytes:
    """The results and the metrics of every run, as one text."""
    paths = sorted(folder.glob("runs/*/*"))
    return b"".join(
        path.name.encode() + path.read_bytes()
        for path in paths
        if path.name in ("result.json", "metrics.jsonl", "run.json")
    )


def journal(root: Path) -> Counter[str]:
    """How often each run came to its end."""
    path = root / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.split()[0] for line in lines)


def finished(root: Path, runs=RUNS) -> set[str]:
    return {run.key for run in runs if Record(root, SWEEP.name, run).ended}


# ---- one sweep, whatever carries it out


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("reference")
    swept(Place(folder=root, workers=0))
    assert set(journal(root).values()) == {1}
    return table(root / SWEEP.name)


@pytest.mark.slow
def test_the_local_pool_leaves_the_same_bytes_as_this_process(tmp_path, reference):
    assert table(swept(Place(folder=tmp_path, workers=2))) == reference


@pytest.mark.slow
def test_ray_leaves_the_same_bytes_as_this_process(tmp_path, reference):
    pytest.importorskip("ray")
    # Ray opens sockets and files that it leaves to the end of the process: a process of its own.
    program = (
        "from pathlib import Path\nfrom rich.console import Console\n"
        "from flatminima.study.launch import launch\nfrom flatminima.study.place import Place\n"
        "from flatminima.study.study import Study\n"
        f"study = Study(Path({str(SWEEP.path)!r}))\n"
        f"place = Place(folder=Path({str(tmp_path)!r}), workers=2, executor='ray')\n"
        "launch(study, 'quick', place, console=Console(quiet=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert table(tmp_path / SWEEP.name) == reference
    assert len({line.split()[1] for line in (tmp_path / "journal").read_text().splitlines()}) > 1


@pytest.mark.slow
def test_jobs_of_submitit_leave_the_same_bytes_as_this_process(tmp_path, reference):
    pytest.importorskip("submitit")
    place = Place(folder=tmp_path, workers=2, executor="slurm", address="local")
    assert table(swept(place)) == reference
    assert set(journal(tmp_path).values()) == {1}


# ---- several sweeps on one folder


def test_a_run_that_ended_is_not_carried_out_again(tmp_path):
    for _ in range(2):
        assert perform(RUNS[0], study=SWEEP.name, place=Place(folder=tmp_path, workers=0))
    assert journal(tmp_path) == {RUNS[0].key: 1}


def test_a_run_that_another_sweep_is_busy_with_is_left_to_it(tmp_path):
    place = Place(folder=tmp_path, workers=0)
    with Record(tmp_path, SWEEP.name, RUNS[0]).claimed(wait=False) as mine:
        assert mine
        assert not perform(RUNS[0], study=SWEEP.name, place=place, wait=False)
    assert perform(RUNS[0], study=SWEEP.name, place=place, wait=False)


@pytest.mark.slow
def test_two_sweeps_on_one_folder_carry_out_every_run_once(tmp_path):
    sweeps = [started(tmp_path, "slow") for _ in range(2)]
    for sweep in sweeps:
        assert sweep.wait(timeout=120) == 0
    assert journal(tmp_path) == {run.key: 1 for run in SLOW}
    assert finished(tmp_path, SLOW) == {run.key for run in SLOW}


# ---- sweeps and workers that are killed


def started(root: Path, preset: str) -> subprocess.Popen[bytes]:
    words = ["run", str(SWEEP.path), "--preset", preset, "--workers", "2", "--folder", str(root)]
    return subprocess.Popen(
        [sys.executable, "-m", "flatminima", *words],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.slow
def test_killing_sweeps_and_workers_loses_and_repeats_no_finished_run(tmp_path):
    """Twenty kills at random moments: the sweep itself, or one of its workers, in turn."""
    chance = random.Random(0)
    kills = 0
    ended: dict[str, int] = {}
    while kills < 20:
        sweep = started(tmp_path, "slow")
        begun = time.monotonic()
        while sweep.poll() is None and not children(sweep.pid):
            time.sleep(0.05)
        while sweep.poll() is None and kills < 20:
            time.sleep(chance.uniform(0.1, 1.5))
            workers = children(sweep.pid)
            target = chance.choice(workers) if workers and kills % 2 else sweep.pid
            if sweep.poll() is None:
                os.kill(target, signal.SIGKILL)
                kills += 1
            if target == sweep.pid:
                break
        sweep.wait(timeout=120)
        counts = journal(tmp_path)
        for key in finished(tmp_path, SLOW):  # what had ended before was not carried out again
            assert counts[key] == ended.setdefault(key, counts[key])
        assert set(ended) <= finished(tmp_path, SLOW)
        if len(ended) == 12:  # begin another folder's worth of work under the same kills
            for run in SLOW:
                (Record(tmp_path, SWEEP.name, run).folder / "result.json").unlink()
            (tmp_path / "journal").unlink()
            ended = {}
        assert time.monotonic() - begun < 120
    assert started(tmp_path, "slow").wait(timeout=120) == 0
    assert finished(tmp_path, SLOW) == {run.key for run in SLOW}


# ---- where workers sit


def test_workers_share_the_cores_evenly():
    assert shares([0, 1, 2, 3], 2) == [{0, 2}, {1, 3}]
    assert shares([0, 1], 1) == [{0, 1}]
    assert shares([4, 5], 3) == [{4}, {5}, {4}]
    assert shares([], 2) == [set(), set()]


@pytest.mark.slow
def test_a_worker_on_a_gpu_sees_that_one_alone(tmp_path, monkeypatch):
    from flatminima.study.executors.local import LocalPool

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with LocalPool(2, gpus=2) as pool:
        seen = {pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() for _ in range(8)}
    assert seen <= {"3", "5"} and seen


def test_an_executor_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ValueError, match="executor must be one of local, ray, slurm, got 'cloud'"):
        Place(executor="cloud")  # type: ignore[arg-type]


def test_an_address_needs_an_executor_that_has_one():
    with pytest.raises(ValueError, match="address must be left out with the local executor"):
        Place(address="auto")


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_executor_without_its_package_says_how_to_get_it(
    tmp_path, monkeypatch, executor, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=f"executor {executor} must have the package {package}"):
        swept(Place(folder=tmp_path, executor=executor))
