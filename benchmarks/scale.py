"""Do table, report and a second launch stay quick with ten thousand runs?

    python benchmarks/scale.py [--runs 10000] [--folder FOLDER]

Writes simulated records in the format of real ones (100 epochs each; a tenth of the final runs
diverged), to a temporary folder or where they stay, then runs the commands of a user, each in a
process of its own, and reports their wall-clock time, the most memory they held, and the size of
the page. `one` is a study of four methods under one condition, `several` one of four methods under
five; `run` finds everything done. This file is the study.

The last table (2026-11-27, commit 44e5044; n = 1; AMD EPYC, 2 cores, shared machine):

    torch 2.15.0+cu132, 2 cores, 1 run of each command
    study        runs  command  seconds    CPU     GB  page, MB
    one         10000  table       13.7   13.6   0.81
    one         10000  report      13.4   13.4   0.82      7.30
    one         10000  run         17.7   17.7   0.82      7.30
    several     10000  table       11.0   10.8   0.80
    several     10000  report      10.8   10.8   0.81      7.36
    several     10000  run         20.0   20.0   0.82      7.36

Question: Does a study of ten thousand runs stay readable?
Source: made by a seeded generator.
Expected: under 20 s, 2 GB, and 8 MB of page.
Claim: none.
Time: nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatminima.report.beside import beside
from flatminima.report.comparison import comparison
from flatminima.report.quantity import BEST, LAST, MEMORISED
from flatminima.report.reading import Reading
from flatminima.report.records import Study as Records
from flatminima.study.grid import Arm, Plan, count, stages
from flatminima.study.record import Record, StudyRecord
from flatminima.study.run import Experiment, Outcome, Run
from flatminima.study.sources import digits, with_noise
from flatminima.study.study import Method, Stages, Study
from flatminima.train import Measure, Member

__all__ = ["METHODS", "PRESETS", "count", "reading", "runs", "simulate"]

METHODS = (
    Method(name="sgd", label="SGD", baseline=True),
    Method(name="sam", label="SAM"),
    Method(name="asam", label="ASAM"),
    Method(name="gsam", label="GSAM"),
)
GAIN = {"sgd": 0.0, "sam": 0.02, "asam": 0.01, "gsam": 0.0}
CASES = {"one": ("",), "several": ("0 %", "20 %", "40 %", "60 %", "80 %")}
SIZES = (400, 10_000)
EPOCHS = 100
KINDS = 50  # curves that differ; the results of all runs do
REGIONS = ("steeper", "gentler", "reversed_steeper", "reversed_gentler")


def plan(cases: tuple[str, ...], size: int) -> Plan:
    """So many runs: six tenths in the grids, the others final."""
    training = replace(digits(epochs=EPOCHS), evaluation=replace(digits().evaluation, every=1))
    arms = [
        Arm(
            method=method.name,
            case=case,
            training=replace(
                with_noise(training, 0.2 * place),
                rule=None if method.baseline else Member(name=method.name, rho=0.1),
            ),
            radii=() if method.baseline else (0.05, 0.1, 0.2, 0.4),
            measure=Measure(),
        )
        for place, case in enumerate(cases)
        for method in METHODS
    ]
    share = size // (20 * len(cases))
    return Plan(arms=arms, seeds=2 * share, grid_seeds=share)


PRESETS = {f"{name}-{size}": plan(cases, size) for name, cases in CASES.items() for size in SIZES}


def runs(plan: Plan) -> Stages:
    """The grids of radii, then the final runs."""
    yield from stages(plan, METHODS)


def reading(study: Records) -> Reading:
    """As the studies of either kind read theirs."""
    if len(study.cases) == 1:
        return comparison(study)
    return beside(study, LAST, {}, case="Wrong labels", also=(BEST, MEMORISED), curves="40 %")


def simulate(folder: Path, preset: str) -> int:
    """Write the records of a study that never ran, and return how many runs there are."""
    study = Study(Path(__file__).resolve())
    rng = np.random.default_rng(0)
    logs = ["".join(json.dumps(row) + "\n" for row in rows(rng)) for _ in range(KINDS)]
    steps, outcomes, total = study.stages(preset), None, 0
    with StudyRecord(folder, study, preset, "cpu") as about:
        while (planned := _next(steps, outcomes)) is not None:
            about.add([run.key for run in planned], worked=True)
            outcomes = []
            for place, run in enumerate(planned):
                record = Record(folder, study.name, run)
                record.begin("cpu")
                log = logs[place % KINDS]
                (record.folder / "metrics.jsonl").write_text(log, encoding="utf-8")
                assert isinstance(run, Run)  # every run of a grid is
                record.end(result(run, rng))
                outcomes.append(Outcome(run=run, result=record.result or {}))
            total += len(planned)
        about.finished = True
    return total


def _next(steps: Stages, outcomes: list[Outcome] | None) -> Sequence[Experiment] | None:
    """The next stage, or None after the last."""
    try:
        return steps.send(outcomes)
    except StopIteration:
        return None


def rows(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What a run of a rule logs."""
    noise = rng.normal(0, 0.01, size=(EPOCHS, 8))
    for epoch in range(1, EPOCHS + 1):
        rise = 1 - np.exp(-4 * epoch / EPOCHS)
        one = noise[epoch - 1]
        accuracies = [0.1 + 0.8 * rise + float(value) for value in one[:5]]
        names = ("train_accuracy", "validation_accuracy", "test_accuracy", "clean_accuracy")
        yield {
            "kind": "epoch",
            "epoch": epoch,
            "step": 10 * epoch,
            "train_loss": float(2.3 - 2.2 * rise + abs(one[5])),
            "validation_loss": float(2.4 - 2.1 * rise + abs(one[6])),
            "test_loss": float(2.4 - 2.1 * rise + abs(one[7])),
            **dict(zip(names, accuracies, strict=False)),
            "noisy_accuracy": 0.5 * accuracies[4],
            "lr": 0.1,
            "seconds": 0.05 + abs(float(one[0])),
            "rho": 0.1,
        }
        shares = rng.dirichlet((30, 40, 10, 10)).tolist()
        told = dict(zip(REGIONS, shares, strict=True))
        yield {"kind": "regions", "epoch": epoch - 1, "step": 10 * (epoch - 1), **told} | {
            "both_zero": 0.1,
            "coordinates": 26_122,
        }


def result(run: Run, rng: np.random.Generator) -> dict[str, Any]:
    """What a run comes to; a tenth of the final ones diverges."""
    if run.stage == "final" and rng.random() < 0.1:
        return {"status": "diverged", "error": "the loss became nan at step 12: lower lr or rho."}
    away = abs(np.log2((run.rho or 0.1) / 0.1))
    score = 0.9 + GAIN[run.method] - 0.02 * away + float(rng.normal(0, 0.004))
    told: dict[str, Any] = {
        "status": "done",
        "test_accuracy_last": score,
        "test_accuracy_best": score + 0.003,
        "best_epoch": int(rng.integers(50, EPOCHS)),
        "train_loss_last": float(rng.uniform(0.02, 0.03)),
        "validation_accuracy_last": score,
        "validation_accuracy_best": score + 0.003,
        "seconds_per_step": float(rng.uniform(0.001, 0.002)),
        "steps": 10 * EPOCHS,
        "parameters": 26_122,
    }
    if run.stage == "grid":
        return told
    top, reach = float(rng.uniform(5, 10)), np.linspace(-1, 1, 41)
    told["hessian"] = {
        "values": [top / (1 + place) for place in range(5)],
        "residuals": [1e-4] * 5,
        "products": 60,
        "converged": True,
    }
    told["slice_1d"] = {"reach": reach.tolist(), "loss": (0.03 + top * reach**2).tolist()}
    return told


def command(words: list[str], folder: Path) -> tuple[float, float, float]:
    """Run one command of the user; seconds, those of the processor, and the most GB it held."""
    code = "from flatminima.cli import main; main()"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--folder", str(folder)], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with code {process.returncode}")
    gigabytes = used.ru_maxrss * 1024 / 1e9  # it is in kilobytes, on Linux
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, gigabytes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=SIZES[-1], choices=SIZES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    size = options.runs
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, 1 run of each command")
    print(
        f"{'study':<10}{'runs':>7}  {'command':<8}{'seconds':>8}{'CPU':>7}{'GB':>7}{'page, MB':>10}"
    )
    here = str(Path(__file__).resolve())
    for name in CASES:
        with tempfile.TemporaryDirectory() as at:
            folder, preset = (options.folder or Path(at)) / name, f"{name}-{size}"
            study = folder / Path(here).stem
            if not (study / "study.json").exists():
                simulate(folder, preset)
            for words in (["table", here], ["report", here], ["run", here, "--preset", preset]):
                seconds, work, memory = command(words, folder)
                told = "" if words[0] == "table" else f"{_megabytes(study / 'report.html'):.2f}"
                line = f"{name:<10}{size:>7}  {words[0]:<8}{seconds:>8.1f}{work:>7.1f}"
                print(f"{line}{memory:>7.2f}{told:>10}", flush=True)


def _megabytes(file: Path) -> float:
    """The size of a file."""
    return file.stat().st_size / 1e6


if __name__ == "__main__":
    main()
