"""Records and report with as many runs as a large study has; how long they take, no test says."""

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from flatminima.report import page, read, render
from flatminima.report.curves import SINGLES
from flatminima.report.rows import Rows, logged
from flatminima.study.executors import ThisProcess
from flatminima.study.launch import launch
from flatminima.study.place import Place
from flatminima.study.study import Study

STUDY = Study(Path(__file__).parents[1] / "benchmarks" / "scale.py")


@pytest.fixture(
    scope="module", params=["several-400", pytest.param("one-400", marks=pytest.mark.slow)]
)
def few(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    STUDY.module.simulate(folder, request.param)
    return folder, request.param


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["one-10000", "several-10000"])
def test_ten_thousand_runs_are_all_counted_on_a_page_small_enough_to_mail(preset, tmp_path):
    STUDY.module.simulate(tmp_path, preset)
    _check(tmp_path / STUDY.name, 10_000)


def test_every_run_is_counted_on_a_page_small_enough_to_mail(few):
    _check(few[0] / STUDY.name, 400)


def _check(folder, total):
    study = read(folder)
    reading = STUDY.module.reading(study)
    assert len(study.runs) == total
    assert len(list(csv.DictReader(io.StringIO(render.runs_csv(study))))) == total
    finals = study.select(stage="final", done=False)
    counts = [row[reading.table.header.index("n")].text for row in reading.table.rows]
    pairs = [(count.split(" of ") * 2)[:2] for count in counts]  # "8", or "7 of 8"
    ended, planned = zip(*(map(int, pair) for pair in pairs), strict=True)
    assert sum(planned) == len(finals) == 4 * total // 10
    assert sum(ended) == sum(run.status == "done" for run in finals) < len(finals)
    text = page.html(study, reading)
    assert len(text.encode()) < 8e6
    drawn = [plate for plate in page.drawings(reading.plates)["plates"].values()]
    for panel in (panel for plate in drawn for panel in plate["views"]["deep"]):
        single = [one for one in panel["data"] if (one.get("meta") or {}).get("single")]
        assert len(single) <= SINGLES


def test_a_launch_that_finds_everything_done_carries_out_nothing(few):
    folder, preset = few
    carried: list[object] = []

    class Watched(ThisProcess):
        def submit(self, fn, run):
            carried.append(run)
            return super().submit(fn, run)

    before = (folder / STUDY.name / "study.json").read_text()
    launch(STUDY, preset, Place(folder=folder), executor=Watched(), console=Console(quiet=True))
    assert carried == []
    assert (folder / STUDY.name / "study.json").read_text() == before


# ---- rows as columns


def test_rows_come_back_as_they_were():
    rows = [{"epoch": 1, "loss": 0.5}, {"loss": 0.25, "epoch": 2}]
    assert list(Rows(rows)) == rows
    assert Rows(rows)[-1:] == rows[-1:]
    assert Rows(rows).column("loss").tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    "rows",
    [
        [{"epoch": 1}, {"epoch": 2, "loss": 0.5}],
        [{"epoch": 1, "loss": None}, {"epoch": 2, "loss": 0.5}],
        [{"epoch": 1, "loss": "low"}, {"epoch": 2, "loss": 0.5}],
        [{"epoch": 1, "loss": [1.0]}, {"epoch": 2, "loss": 0.5}],
        [{"epoch": 1, "loss": [1, 2]}, {"epoch": 2, "loss": [3, 4]}],
    ],
    ids=["absent", "none", "word", "ragged", "lists"],
)
def test_rows_that_are_no_table_are_kept_and_their_columns_have_gaps(rows):
    kept = Rows(rows)
    assert list(kept) == rows and len(kept) == 2
    assert kept.column("epoch").tolist() == [1, 2]
    known = [isinstance(row.get("loss"), float) for row in rows]
    assert [value == value for value in kept.column("loss")] == known


def test_no_rows_are_an_empty_sequence():
    assert list(Rows(())) == [] and not Rows(())
    assert Rows(()).column("loss").tolist() == []


def test_a_log_is_read_by_kind_and_without_its_cut_off_end(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "epoch", "loss": "nan"}\n{"kind": "regions", "a": 1}\n{"kind": "ep')
    read_rows = logged(file)
    assert list(read_rows) == ["epoch", "regions"]
    assert read_rows["epoch"].column("loss").tolist() != [0]  # nan differs from everything
    assert list(read_rows["regions"]) == [{"a": 1}]
    assert logged(tmp_path / "absent.jsonl") == {}
