"""Published figures beside ours: one word for each comparison, by a fixed rule."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic import description, write_json

from flatminima.report import page, read, render
from flatminima.report.beside import beside, compared
from flatminima.report.interval import Interval
from flatminima.report.quantity import LAST, RATIO, TOP
from flatminima.report.table import grid
from flatminima.report.verdict import Published, claimed, tally, verdict

SGD, SAM = Published(value=68.8, half=0.3), Published(value=93.4, half=0.4)


def ours(low, high):
    return Interval(mean=(low + high) / 2, half=(high - low) / 2, n=5)


# ---------------------------------------------------------------- the rule


def test_a_published_difference_has_the_range_of_both_figures():
    difference = claimed(SAM, SGD)
    assert difference is not None
    assert difference.mean == pytest.approx(24.6)
    assert difference.half == pytest.approx(math.hypot(0.3, 0.4))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(1.0, 3.0, "agrees"), (-3.0, -1.0, "differs"), (-1.0, 3.0, "no difference")],
)
def test_the_side_of_zero_decides_and_an_interval_with_zero_says_nothing(low, high, word):
    assert verdict(claimed(SAM, SGD), ours(low, high)) == word


def test_where_the_source_sees_no_difference_a_decided_one_differs():
    for none in (
        claimed(Published(value=69.0, half=0.3), SGD),
        claimed(Published(sign=0), None),
    ):
        assert verdict(none, ours(1.0, 3.0)) == "differs"
        assert verdict(none, ours(-1.0, 3.0)) == "no difference"


def test_without_a_figure_or_an_interval_nothing_is_compared():
    assert claimed(None, SGD) is None
    assert claimed(SAM, None) is None
    assert verdict(None, ours(1.0, 3.0)) == "not comparable"
    assert verdict(claimed(SAM, SGD), None) == "not comparable"
    assert verdict(claimed(SAM, SGD), Interval(mean=3.0, half=None, n=1)) == "not comparable"


def test_a_claim_in_words_is_compared_by_its_side():
    assert verdict(claimed(Published(sign=-1), None), ours(-3.0, -1.0)) == "agrees"
    assert [str(Published(sign=sign)) for sign in (1, 0, -1)] == ["above", "no difference", "below"]


def test_verdicts_are_counted_in_words():
    assert tally(["agrees", "agrees", "differs", "not comparable"]) == "2 agree, 1 differs"
    assert tally(["not comparable"]) == "nothing to compare with the source"


# ---------------------------------------------------------------- the table


PUBLISHED = {("20 %", "sgd"): SGD, ("20 %", "sam"): SAM}


@pytest.fixture
def study(tmp_path):
    """SAM 20 points above SGD at 20 %, 10 below at 40 %, three seeds; a grid at 20 %."""
    keys = [
        *(final(tmp_path, "20 %", method, seed) for seed in range(3) for method in ("sgd", "sam")),
        *(final(tmp_path, "40 %", method, seed) for seed in range(3) for method in ("sgd", "sam")),
        *(final(tmp_path, "20 %", "sam", 0, rho=rho, stage="grid") for rho in (0.05, 0.1)),
    ]
    about = description(("sgd", "sam")) | {"runs": keys, "preset": "quick"}
    write_json(tmp_path / "study.json", about)
    return read(tmp_path)


def final(folder: Path, case, method, seed, *, rho=0.05, stage="final"):
    gain = {"sgd": 0.0, "sam": 0.2 if case == "20 %" else -0.1}[method]
    key = f"{case[:2]}-{stage}-{method}-{seed}-{rho}"
    told = {"key": key, "stage": stage, "method": method, "seed": seed, "case": case}
    told["rho"] = None if method == "sgd" else rho
    accuracy = 0.7 + 0.01 * seed + gain
    result = {
        "status": "done",
        "test_accuracy_last": accuracy,
        "validation_accuracy_last": accuracy,
        "hessian": {"values": [8.0, 4.0, 3.0, 2.5, 2.0], "residuals": [0.0] * 5},
    }
    write_json(folder / "runs" / key / "run.json", told)
    write_json(folder / "runs" / key / "result.json", result)
    return key


def test_differences_are_taken_by_seed_under_the_same_condition(study):
    rows = compared(study, LAST, PUBLISHED, (TOP, RATIO))
    assert [(row.case, row.method.name) for row in rows] == [
        ("20 %", "sgd"),
        ("20 %", "sam"),
        ("40 %", "sgd"),
        ("40 %", "sam"),
    ]
    assert rows[1].difference.mean == pytest.approx(20)
    assert rows[3].difference.mean == pytest.approx(-10)
    assert rows[1].difference.half == pytest.approx(0, abs=1e-9)  # the seeds shift both alike
    assert [row.verdict for row in rows] == ["not comparable", "agrees", "not comparable"] + [
        "not comparable"
    ]
    assert [value.mean for value in rows[0].also] == pytest.approx([8, 4])


def test_the_reading_has_published_ours_n_interval_and_verdict(study):
    reading = beside(study, LAST, PUBLISHED, case="Wrong labels")
    assert reading.answer == (
        "SAM is 20.0 points [20.0, 20.0] above SGD in test accuracy after the last epoch "
        "(wrong labels: 20 %), 3 seeds; of the comparisons with the source 1 agrees."
    )
    lines = list(map(str.split, render.markdown(reading.table).splitlines()))
    assert "Verdict" in lines[0]
    sam = [cell.text for cell in reading.table.rows[1]]
    assert sam[0:4] == ["SAM", "20 %", "0.05", "93.4 ± 0.4"]
    assert sam[6:] == ["+24.6 ± 0.5", "+20.0 [20.0, 20.0]", "agrees"]


def test_the_radii_of_a_condition_are_told_with_it(study):
    assert [(entry.case, entry.rho, entry.chosen) for entry in grid(study)] == [
        ("20 %", 0.05, True),
        ("20 %", 0.1, False),
    ]
    assert render.radius_table(study).rows[0][0].text == "SAM, 20 %"


def test_a_baseline_without_a_condition_serves_all(study, tmp_path):
    for run in study.select("sgd"):
        folder = tmp_path / "runs" / run.key
        write_json(folder / "run.json", dict(run.settings) | {"case": ""})
    rows = compared(read(tmp_path), LAST, {})
    sam = {row.case: row.difference for row in rows if row.method.name == "sam"}
    assert sam["20 %"].mean == pytest.approx(20)
    assert sam["40 %"].mean == pytest.approx(-10)


def test_the_page_is_written_with_lines_or_colours(study, tmp_path):
    few = beside(study, LAST, PUBLISHED)
    assert [trace.type for trace in few.plates[0].panels[0].figure.data] == ["scatter", "scatter"]
    many = [{"name": f"m{place}", "label": f"M{place}"} for place in range(9)]
    about = dict(study.about) | {"methods": description(("sgd", "sam"))["methods"] + many}
    write_json(tmp_path / "study.json", about)
    heated = beside(read(tmp_path), LAST, PUBLISHED)
    assert [trace.type for trace in heated.plates[0].panels[0].figure.data] == ["heatmap"]
    text = page.html(read(tmp_path), heated)
    assert "1 agrees" in text
    alone = beside(study.within("20 %"), LAST, PUBLISHED)
    assert alone.plates[0].panels[0].figure.data[0].error_x.array is not None


def test_without_a_pair_of_runs_there_is_no_answer(study):
    assert beside(study.within("60 %"), LAST, {}).answer.startswith("No answer yet")
