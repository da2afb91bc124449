"""The command line: its verbs and options, frozen, and what it says of mistakes."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from flatminima import cli
from flatminima.train.consult import consulted, named
from flatminima.train.member import Member

TINY = str(Path(__file__).with_name("tiny_study.py"))
OPTIONS = {
    "list": [],
    "run": [
        *("study", "preset", "workers", "executor", "address", "folder"),
        *("data_root", "download", "device", "dry_run"),
    ],
    "table": ["study", "format", "folder"],
    "report": ["study", "folder"],
    "doctor": ["model", "batch", "loss", "rule", "rho", "m", "dtype", "rounding"],
    "measure": [
        *("target", "what", "model", "model_args", "data", "loss", "examples", "batch_size"),
        *("batch_norm", "rho", "m", "points", "seed", "folder", "data_root", "device"),
    ],
}


def said(words, capsys):
    """The exit code and what was printed, to standard output and to standard error."""
    try:
        cli.main(words)
        code = 0
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def test_the_verbs_and_their_options_are_frozen():
    """A new option is a decision: write it here too."""
    known = {verb: [field.name for field in fields(kind)] for verb, kind in cli.VERBS.items()}
    assert known == OPTIONS


def test_the_list_names_every_study_with_its_question_and_its_time(capsys):
    code, out, _ = said(["list"], capsys)
    assert code == 0
    assert "\nsgd_vs_sam\n    Does SAM beat SGD" in out
    assert "Time: quick takes" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "verb must be one of list, run, table, report, doctor, measure, got 'fly'."),
        (["run", "nothing"], "study must be one of "),
        (["table", "nothing"], "study must be one of "),
        (["report", "nothing"], "study must be one of "),
        (["run", TINY, "--preset", "huge"], "preset must be one of quick, longer, diverging, "),
        (["run", TINY, "--fast"], "option must be one of --preset, --workers, --executor, "),
        (["run", TINY, "--workers", "-1"], "workers must be >= 0, got -1."),
        (["run", TINY, "--device", "tpu9"], "device must be one that torch can use here, "),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, list) else "",
)
def test_a_mistake_ends_with_code_2_and_one_sentence(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = said(words, capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"flatminima: {message}")
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_messages_of_the_command_line_have_the_form_of_the_house():
    with pytest.raises(ValueError, match="verb must be one of list, run, .*, got 'fly'"):
        cli._parsed(["fly"])
    with pytest.raises(ValueError, match="option must be one of --format, .*, got '--fast'"):
        cli._parsed(["table", "sgd_vs_sam", "--fast"])


def test_an_option_with_a_value_of_the_wrong_kind_ends_with_code_2(capsys):
    code, _, err = said(["run", TINY, "--workers", "two"], capsys)
    assert code == 2
    assert "--workers" in err


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_ends_with_code_0(words, capsys):
    code, out, _ = said(words, capsys)
    assert code == 0
    assert "run" in out


def test_a_dry_run_shows_the_runs_and_writes_nothing(capsys, tmp_path):
    folder = tmp_path / "results"
    code, out, _ = said(["run", TINY, "--dry-run", "--folder", str(folder)], capsys)
    assert code == 0
    assert out.count("grid") == 2
    *_, runs, cost = out.splitlines()
    assert runs == "2 runs, 0 of them done. Another 2 depend on how these come out."
    assert " GPU-hours in all, if a GPU does 20 TFLOP/s" in cost
    assert not folder.exists()


@pytest.mark.parametrize(
    ("preset", "said_last"),
    [
        ("quick", "Another 20 depend on how these come out."),
        ("cpu", "Another 20 depend on how these come out."),
        pytest.param("paper", "450 runs, 0 of them done.", marks=pytest.mark.slow),
    ],
)
def test_every_preset_of_the_main_study_can_be_shown(preset, said_last, capsys, tmp_path):
    words = ["run", "sgd_vs_sam", "--preset", preset, "--dry-run", "--folder", str(tmp_path)]
    code, out, _ = said(words, capsys)
    assert code == 0
    assert said_last in out


def test_a_run_ends_with_its_table_and_its_report_which_can_be_had_again(capsys, tmp_path):
    place = ["--folder", str(tmp_path)]
    code, out, _ = said(["run", TINY, "--workers", "0", *place], capsys)
    assert code == 0
    report = tmp_path / "tiny_study" / "report.html"
    assert out.endswith(f"Report: {report}\n")
    assert report.is_file()
    report.unlink()
    code, again, _ = said(["report", TINY, *place], capsys)
    assert (code, again) == (0, f"{report}\n")
    assert report.is_file()
    over_all = tmp_path / "index.html"
    over_all.unlink()
    assert said(["report", *place], capsys) == (0, f"{over_all}\n", "")
    assert "tiny_study/report.html" in over_all.read_text(encoding="utf-8")
    marks = {"text": "──", "markdown": "| --- |", "latex": r"\toprule", "csv": "method,n,"}
    for form, mark in marks.items():
        code, table, _ = said(["table", TINY, "--format", form, *place], capsys)
        assert code == 0
        assert mark in table
    assert said(["table", TINY, *place], capsys)[1] in out


def test_a_table_of_a_study_that_was_not_run_says_so(capsys, tmp_path):
    code, _, err = said(["table", TINY, "--folder", str(tmp_path)], capsys)
    assert code == 2
    assert err.startswith("flatminima: folder must hold a readable study.json, got ")


def test_a_study_that_cannot_go_on_ends_with_code_1(capsys, monkeypatch):
    def stuck(command):
        raise RuntimeError("sam must have a radius")

    monkeypatch.setattr(cli.List, "__call__", stuck)
    assert said(["list"], capsys) == (1, "", "flatminima: sam must have a radius\n")


def test_ctrl_c_ends_with_code_130_and_says_how_to_go_on(capsys, monkeypatch):
    def stopped(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.List, "__call__", stopped)
    code, _, err = said(["list"], capsys)
    assert code == 130
    assert "the same command goes on from here" in err


# A model and a batch of the user's own, in a module beside them.
MINE = """
import torch
from torch import nn

number = 3

def net():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

def batch():
    return torch.randn(6, 4), torch.randn(6, 3)

def loss(model, x, y):
    return (model(x) - y).square().mean()
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield ["doctor", "--model", "mine:net", "--batch", "mine:batch"]
    sys.modules.pop("mine", None)


def test_the_doctor_needs_no_option(capsys):
    code, out, err = said(["doctor"], capsys)
    assert (code, err) == (0, "")
    assert "rule          sam(rho=0.05, p=2): 2 gradients per step" in out
    assert "weights       come back bit for bit" in out
    assert "32 examples per perturbation" in out


def test_the_doctor_sees_a_model_of_ones_own(mine, capsys):
    words = [*mine, "--loss", "mine:loss", "--rule", "asam", "--rho", "0.5", "--m", "3"]
    code, out, err = said(words, capsys)
    assert (code, err) == (0, "")
    assert "asam(rho=0.5" in out and "3 examples per perturbation" in out
    assert "move once per step, as 1.running_mean" in out and "0.weight" in out


def test_the_doctor_says_how_much_of_a_displacement_low_precision_swallows(capsys):
    words = ["doctor", "--rho", "0.001", "--dtype", "bfloat16"]
    code, out, _ = said(words, capsys)
    assert code == 0
    assert "of the coordinates did not move: the displacement is too small for bfloat16" in out
    out = said([*words, "--rounding", "stochastic"], capsys)[1]
    assert "did not move" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "mine:net"], "batch must come with model, got model=mine:net"),
        (["--model", "net", "--batch", "mine:batch"], "place must be package.module:function, got"),
        (["--model", "nowhere:f", "--batch", "mine:batch"], "place must lead to a module, got 'no"),
        (["--model", "mine:nothing", "--batch", "mine:batch"], "place must lead to a function, go"),
        (["--model", "mine:number", "--batch", "mine:batch"], "place must lead to a function, go"),
        (["--model", "mine:batch", "--batch", "mine:batch"], "model must make a torch.nn.Module, "),
        (["--model", "mine:net", "--batch", "mine:net"], "batch must make a tuple, got Sequential"),
        (["--rule", "magic"], "name must be one of the zoo's members "),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_patient_that_cannot_be_found_is_a_mistake(words, message, mine, capsys):
    code, out, err = said(["doctor", *words], capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"flatminima: {message}") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mine:net"}, "batch must come with model, got model=mine:net"),
        ({"model": "mine:batch", "batch": "mine:batch"}, "model must make a torch.nn.Module, got"),
        ({"model": "mine:net", "batch": "mine:net"}, "batch must make a tuple, got Sequential"),
    ],
)
def test_what_the_doctor_is_told_has_the_form_of_the_house(settings, message, mine):
    with pytest.raises(ValueError, match=message):
        consulted(member=Member(name="sam", rho=0.05), **settings)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("net", "place must be package.module:function, got 'net'"),
        ("nowhere:f", "place must lead to a module, got 'nowhere:f'"),
        ("mine:nothing", "place must lead to a function, got 'mine:nothing', which has no 'nothi"),
    ],
)
def test_a_place_that_leads_nowhere_says_so(place, message, mine):
    with pytest.raises(ValueError, match=message):
        named(place)
