"""Studies: how they are found, what a run's key depends on, how stages follow one another."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from flatminima.data import Mnist
from flatminima.models import SmallConv
from flatminima.regions import Region
from flatminima.study.grid import Arm, Plan, count, final_runs, grid_runs, stages
from flatminima.study.launch import launch, planned
from flatminima.study.perform import perform
from flatminima.study.place import Place
from flatminima.study.progress import duration
from flatminima.study.record import Record, read_json
from flatminima.study.run import Experiment, Outcome, Run, as_json, chosen_rho
from flatminima.study.study import Study, find, studies
from flatminima.train import SGD, Diverged, Measure, Member

TINY = Study(Path(__file__).with_name("tiny_study.py"))
RUN = next(TINY.stages("quick"))[0]
KEYS = ("fbe3a1d3c801", "650611519d75", "2bd4b17578c2")


def silent():
    return Console(quiet=True)


def here(folder):
    return Place(folder=folder, workers=0)


# ---- finding


def test_the_studies_that_come_with_the_package_are_found_by_their_files():
    assert "sgd_vs_sam" in [study.name for study in studies()]
    assert find("sgd_vs_sam").path.name == "sgd_vs_sam.py"


def test_a_study_of_ones_own_is_found_by_its_path():
    assert find(str(TINY.path)).title == "Do two epochs on sixty digits teach anything?"


def test_a_study_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ValueError, match="study must be one of .*sgd_vs_sam.*, or a path .*'sgd'"):
        find("sgd")
    with pytest.raises(ValueError, match="study must be a file that exists, got 'mine.py'"):
        find("mine.py")


def test_a_file_that_is_no_study_is_told_what_it_lacks(tmp_path):
    (tmp_path / "half.py").write_text('"""Half a study."""\n\nMETHODS = ()\n')
    with pytest.raises(
        ValueError,
        match="study must define METHODS, PRESETS and runs, got .* without PRESETS, runs",
    ):
        find(str(tmp_path / "half.py")).plan("quick")


def test_the_docstring_says_what_is_asked():
    assert TINY.field("question") == "Does a study of four short runs leave what it should?"
    assert TINY.field("source") == "made for the tests."
    assert TINY.field("claim") == ""


def test_every_study_that_comes_with_the_package_says_what_it_is_about():
    for study in studies():
        assert study.title.endswith("?")
        for field in ("question", "source", "expected", "claim", "time"):
            assert study.field(field), f"{study.name} does not state its {field}"


def test_listing_the_studies_loads_no_torch():
    program = (
        "import sys; from flatminima.study.study import studies; "
        "print([study.title for study in studies()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done.stderr


# ---- keys


def test_the_key_of_a_run_stays_what_it_was():
    assert RUN.key == "e587999899f3"


def test_the_key_does_not_depend_on_the_label():
    assert replace(RUN, label="another word").key == RUN.key


@pytest.mark.parametrize(
    "change",
    [
        {"method": "other"},
        {"stage": "final"},
        {"training": replace(RUN.training, seed=7)},
        {"training": replace(RUN.training, rule=None)},
        {"training": replace(RUN.training, rule=Member(name="sam", rho=0.06))},
        {"training": replace(RUN.training, rule=Member(name="usam", rho=0.05))},
        {"training": replace(RUN.training, optimizer=SGD(lr=0.2))},
        {"training": replace(RUN.training, model=SmallConv())},
        {"training": replace(RUN.training, data=Mnist(train=60, validation=30, test=30))},
    ],
    ids=str,
)
def test_the_key_depends_on_everything_else(change):
    assert replace(RUN, **change).key != RUN.key


def test_equal_settings_have_equal_keys_however_they_are_written():
    def key(**settings):
        member = Member(name="same", settings=settings, rho=1)
        return replace(RUN, training=replace(RUN.training, rule=member)).key

    factor = {Region.GENTLER: 0.5, Region.STEEPER: 1.0}
    turned = dict(reversed(factor.items())) | {Region.STEEPER: 1}
    assert key(factor=factor) == key(factor=turned)


def test_settings_are_written_as_plain_json():
    assert as_json({Region.GENTLER: (1.0, {"b", "a"}), "x": float("nan")}) == {
        "gentler": [1, ["a", "b"]],
        "x": "nan",
    }
    with pytest.raises(TypeError, match="a setting must be a dataclass, .* got <object object"):
        as_json(object())


# ---- choosing a radius


def outcome(rho, accuracy, status="done", seed=0):
    training = replace(RUN.training, rule=Member(name="sam", rho=rho), seed=seed)
    result = {"status": status, "validation_accuracy_last": accuracy}
    return Outcome(run=replace(RUN, training=training), result=result)


def test_the_radius_with_the_best_mean_validation_accuracy_is_chosen():
    grid = [outcome(0.1, 0.8), outcome(0.1, 0.7, seed=1)]
    grid += [outcome(0.2, 0.95), outcome(0.2, 0.5, seed=1)]
    assert chosen_rho(grid, "sam") == 0.1


def test_of_equal_radii_the_smallest_is_chosen():
    assert chosen_rho([outcome(0.2, 0.5), outcome(0.1, 0.5)], "sam") == 0.1


def test_a_radius_with_a_run_that_went_wrong_is_not_chosen():
    grid = [outcome(0.1, 0.5), outcome(0.2, 0.9), outcome(0.2, None, "diverged", seed=1)]
    assert chosen_rho(grid, "sam") == 0.1


def test_a_grid_in_which_nothing_went_well_is_an_error():
    with pytest.raises(RuntimeError, match="sam must have a radius whose grid runs are all done"):
        chosen_rho([outcome(0.1, None, "failed")], "sam")


# ---- launching


def test_the_stages_of_a_study_follow_one_another(tmp_path):
    folder = launch(TINY, "quick", here(tmp_path), console=silent())
    about = read_json(folder / "study.json")
    records = [read_json(path) for path in sorted(folder.glob("runs/*/run.json"))]
    assert sorted(about["runs"]) == [record["key"] for record in records]
    assert len(records) == TINY.count("quick")
    by_stage = {
        stage: [run for run in records if run["stage"] == stage] for stage in ("grid", "final")
    }
    assert sorted(run["rho"] for run in by_stage["grid"]) == [0.05, 0.1]
    assert {run["method"] for run in by_stage["final"]} == {"sgd", "sam"}
    assert about["finished"] >= about["started"]
    assert about["seconds"] > 0
    assert about["differences"] == ["There is no source."]


def test_launching_again_carries_out_nothing(tmp_path):
    folder = launch(TINY, "quick", here(tmp_path), console=silent())
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")}
    about = read_json(folder / "study.json")
    launch(TINY, "quick", here(tmp_path), executor=Forbidden(), console=silent())
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")} == before
    assert read_json(folder / "study.json") == about


class Forbidden:
    def submit(self, fn, run):
        raise AssertionError(f"{run.title} was carried out again")


def test_the_plan_of_a_study_shows_the_later_stages_when_the_earlier_are_done(tmp_path):
    place = here(tmp_path)
    assert [len(stage) for stage in planned(TINY, "quick", place)] == [2]
    launch(TINY, "quick", place, console=silent())
    assert [len(stage) for stage in planned(TINY, "quick", place)] == [2, 2]


def test_final_runs_leave_what_was_measured(tmp_path):
    folder = launch(TINY, "quick", here(tmp_path), console=silent())
    for path in folder.glob("runs/*/result.json"):
        result = read_json(path)
        final = read_json(path.with_name("run.json"))["stage"] == "final"
        assert ("hessian" in result) is final
        assert result["steps"] == 4
        assert result["best_epoch"] in (1, 2)


def test_a_preset_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match="preset must be one of quick, .*, got 'huge'"):
        launch(TINY, "huge", here(tmp_path), console=silent())
    assert not list(tmp_path.iterdir())


def test_a_place_that_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="workers must be >= 0, got -1"):
        Place(workers=-1)
    with pytest.raises(ValueError, match="device must be one that torch can use here, .*'tpu9'"):
        launch(TINY, "quick", Place(folder=tmp_path, device="tpu9"), console=silent())


def test_missing_data_stop_a_launch_before_any_run(tmp_path):
    study = find("sgd_vs_sam")
    place = Place(folder=tmp_path / "results", workers=0, data_root=str(tmp_path))
    with pytest.raises(ValueError, match="data root must hold the file train-images"):
        launch(study, "cpu", place, console=silent())
    assert not list((tmp_path / "results").glob("*/runs/*"))


def test_where_there_is_no_terminal_progress_is_a_line_every_few_runs(tmp_path, capsys):
    launch(TINY, "quick", here(tmp_path), console=Console(force_terminal=False))
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("1 of 4 runs, about ")
    assert last.startswith("4 of 4 runs, about 0 s left; SAM rho=")


def test_at_a_terminal_progress_is_a_bar(tmp_path, capsys):
    launch(TINY, "quick", here(tmp_path), console=Console(force_terminal=True, width=100))
    shown = capsys.readouterr().out
    assert "4/4" in shown
    assert "of 4 runs" not in shown


def test_a_time_is_as_exact_as_one_wants_to_read_it():
    assert [duration(time) for time in (4.4, 99, 119, 7000)] == ["4 s", "99 s", "2 min", "1.9 h"]


# ---- the main study


@pytest.mark.parametrize("preset", ["quick", "cpu"])
def test_a_small_preset_of_the_main_study_builds_its_grid_and_its_final_runs(preset):
    study = find("sgd_vs_sam")
    grid = next(study.stages(preset))
    final = final_runs(study.plan(preset), study.methods, [])
    keys = {run.key for run in [*grid, *final]}
    assert len(keys) == len(grid) + len(final) == study.count(preset)
    assert not {run.seed for run in grid} & {run.seed for run in final}
    assert {run.method for run in final} == {method.name for method in study.compared(preset)}


def test_the_main_study_trains_what_the_source_trained():
    study = find("sgd_vs_sam")
    (final,) = study.stages("paper")
    epochs = {(run.case, run.method): run.training.epochs for run in final}
    assert (
        len(final) == study.count("paper") == 450
    )  # 15 trainings, 2 data sets, 3 methods, 5 seeds
    assert set(study.module.PUBLISHED) == {key for key in epochs if key[1] != "twice"}
    assert all(2 * epochs[case, "sgd"] == epochs[case, "twice"] for case, _ in epochs)
    accuracies = study.module.PUBLISHED["CIFAR-100, WRN-28-10, 1800 epochs, cutout", "sam"]
    assert str(accuracies) == "86 ± 0.1"
    radii = {run.training.rule.rho for run in final if run.training.rule}
    assert radii == {0.05, 0.1}


def test_the_methods_of_the_main_study_differ_in_their_rule_alone():
    study = find("sgd_vs_sam")
    final = final_runs(study.plan("quick"), study.methods, [])
    first = [replace(run.training, rule=None) for run in final if run.seed == 0]
    assert len(first) == 4
    assert all(training == first[0] for training in first)


def test_only_the_first_seed_of_sgd_and_sam_gets_a_surface():
    study = find("sgd_vs_sam")
    final = final_runs(study.plan("quick"), study.methods, [])
    drawn = [(run.method, run.seed) for run in final if run.measure.surface_points]
    assert drawn == [("sgd", 0), ("sam", 0)]


def test_a_record_is_where_its_key_says(tmp_path):
    assert Record(tmp_path, "tiny", RUN).folder == tmp_path / "tiny" / "runs" / RUN.key
    assert isinstance(RUN, Run)


def test_the_keys_of_the_main_study_stay_what_they_were():
    study = find("sgd_vs_sam")
    grid = next(study.stages("quick"))
    final = final_runs(study.plan("quick"), study.methods, [])
    assert (grid[0].key, final[0].key, final[-1].key) == KEYS


# ---- the usual study: a grid, then the final runs


def arm(method, *, radii=(), case=""):
    rule = None if method == "sgd" else Member(name=method, rho=0.3)
    return Arm(method=method, case=case, radii=radii, training=replace(RUN.training, rule=rule))


def test_every_arm_has_its_own_grid_and_its_final_runs_take_the_best_of_it():
    plan = Plan(
        arms=[
            arm("sgd", case="a"),
            arm("sam", radii=(0.1, 0.2), case="a"),
            arm("sam", radii=(0.1, 0.2), case="b"),
        ],
        seeds=2,
        grid_seeds=1,
    )
    both = stages(plan, TINY.methods)
    grid = next(both)
    assert [(run.case, run.rho, run.seed) for run in grid] == [
        ("a", 0.1, 1000),
        ("a", 0.2, 1000),
        ("b", 0.1, 1000),
        ("b", 0.2, 1000),
    ]
    best = {"a": 0.2, "b": 0.1}
    final = both.send(
        [
            Outcome(
                run=run,
                result={
                    "status": "done",
                    "validation_accuracy_last": float(best[run.case] == run.rho),
                },
            )
            for run in grid
        ]
    )
    told = [(run.case, run.method, run.rho) for run in final]
    assert told == [("a", "sgd", None), ("a", "sam", 0.2), ("b", "sam", 0.1)] * 2
    assert [run.seed for run in final] == [0, 0, 0, 1, 1, 1]
    assert len(grid) + len(final) == count(plan)


def test_a_single_radius_needs_no_grid():
    plan = Plan(arms=[arm("sam", radii=(0.7,)), arm("sam", case="its own")], seeds=1)
    assert grid_runs(plan, TINY.methods) == []
    assert [run.rho for run in next(stages(plan, TINY.methods))] == [0.7, 0.3]


def test_a_grid_of_radii_needs_a_rule():
    with pytest.raises(ValueError, match=r"radii must be none without a rule, got \(0.1,\)"):
        arm("sgd", radii=(0.1,))


def test_what_is_measured_of_the_first_seed_may_be_more():
    less, more = Measure(points=3), Measure(points=5)
    one = replace(arm("sgd"), measure=less, first=more)
    final = final_runs(Plan(arms=[one], seeds=3), TINY.methods, [])
    assert [run.measure for run in final] == [more, less, less]


def test_training_anew_on_predicted_labels_forgets_which_were_flipped(tmp_path):
    run = replace(RUN, training=replace(RUN.training, rule=None), rounds=2)
    perform(run, study="tiny", place=here(tmp_path))
    rows = (tmp_path / "tiny" / "runs" / run.key / "metrics.jsonl").read_text()
    assert rows.count('"epoch"') == 2 * 2  # of the last round: the kind and the number, twice
    assert "noisy_accuracy" not in rows
    once = replace(run, rounds=1)
    perform(once, study="tiny", place=here(tmp_path))
    assert "noisy_accuracy" in (tmp_path / "tiny/runs" / once.key / "metrics.jsonl").read_text()


def test_a_run_is_trained_at_least_once():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        replace(RUN, rounds=0)


# ---- runs that train no network


@dataclass(frozen=True, kw_only=True)
class Halving(Experiment):
    """A run that is no training."""

    rho: float
    steps: int = 3

    def perform(self, place, log):
        value = self.rho
        for step in range(self.steps):
            value /= 2
            log({"kind": "step", "step": step, "value": value})
        if value < 1e-3:
            raise Diverged(f"the value became {value:g}")
        return {"value": value, "said": f"ended at {value:g}"}


HALVING = Halving(method="half", label="Halving", rho=1.0)


def test_a_run_of_another_kind_leaves_the_same_records(tmp_path):
    place = Place(folder=tmp_path, workers=0)
    perform(HALVING, study="other", place=place)
    record = Record(tmp_path, "other", HALVING)
    assert record.result == {"status": "done", "value": 0.125, "said": "ended at 0.125"}
    about = read_json(record.folder / "run.json")
    assert (about["key"], about["type"], about["rho"], about["seed"]) == (
        HALVING.key,
        "Halving",
        1,
        0,
    )
    assert len((record.folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_of_another_kind_may_diverge(tmp_path):
    run = replace(HALVING, rho=1e-3)
    perform(run, study="other", place=Place(folder=tmp_path, workers=0))
    assert Record(tmp_path, "other", run).result == {
        "status": "diverged",
        "error": "the value became 0.000125",
    }


def test_a_kind_of_run_that_does_not_say_how_it_is_carried_out_is_told_so():
    with pytest.raises(NotImplementedError, match="Experiment must define perform to be carried"):
        Experiment(method="a", label="A").perform(Place(), print)
