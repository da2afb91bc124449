"""The report says what the records say, in every case, and the page draws it without a network."""

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, json_in, visit
from synthetic import description, write_json, write_study

from flatminima.report import answer, page, read, render
from flatminima.report.doubts import doubts
from flatminima.report.figures import plates, standing_out
from flatminima.report.interval import Interval, band, t_quantile
from flatminima.report.records import Study
from flatminima.report.style import GREY, PALETTE, strokes
from flatminima.report.table import grid, rows

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to draw the page with")


def study(folder: Path, results: dict[str, list], methods=None, **about) -> Study:
    """A study with these results of final runs: a test accuracy or a dict, by seed."""
    for method, group in results.items():
        for seed, result in enumerate(group):
            if result is not None:
                final(folder, method, seed, result)
    write_json(folder / "study.json", description(methods or results) | about)
    return read(folder)


def final(folder: Path, method: str, seed: int, result, *, stage="final", rho=0.05, **settings):
    run = folder / "runs" / f"{stage}-{method}-{seed}-{rho}"
    told = {
        "key": run.name,
        "stage": stage,
        "method": method,
        "seed": seed,
        "rho": None if method == "sgd" else rho,
    }
    write_json(run / "run.json", told | settings)
    if not isinstance(result, dict):
        result = {"test_accuracy_last": result, "test_accuracy_best": result}
    if result:
        write_json(run / "result.json", {"status": "done"} | result)
    return run


def row(found: Study, method: str):
    return next(row for row in rows(found) if row.method.name == method)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # of a printed table
    [
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (9, 2.262),
        (10, 2.228),
        (30, 2.042),
        (120, 1.980),
    ],
)
def test_quantiles_are_those_of_the_printed_table(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


def test_there_is_no_quantile_without_freedom():
    assert math.isnan(t_quantile(0))


def test_an_interval_by_hand():
    value = Interval.of([1.0, 2.0, 3.0])
    assert value is not None
    assert value.mean == 2.0
    assert value.half == pytest.approx(4.302653 / math.sqrt(3))  # t times s = 1 over root n
    assert str(value) == "2.0 [-0.5, 4.5]"


def test_one_value_has_no_interval():
    value = Interval.of([0.5])
    assert value is not None and value.half is None and not value.decided
    assert str(value) == "0.5"
    assert Interval.of([]) is None


def test_a_band_uses_the_runs_that_have_a_value():
    mean, half = band(np.array([[1.0, 1.0], [3.0, math.nan]]))
    assert mean.tolist() == [2.0, 1.0]
    assert half[0] == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), rel=1e-5)
    assert math.isnan(half[1])


# ---------------------------------------------------------------- reading


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"folder must hold a readable study\.json, got .*: run the study first"
    ):
        read(tmp_path)


def test_a_study_cut_off_while_written_is_refused(tmp_path):
    (tmp_path / "study.json").write_text('{"name": "hal')
    with pytest.raises(ValueError, match=r"folder must hold a readable study\.json"):
        page.write(tmp_path)


def test_half_written_runs_are_unfinished_and_in_no_mean(tmp_path):
    found = study(tmp_path, {"sgd": [0.9, 0.9], "sam": [0.95, 0.95, {}]})
    cut = final(tmp_path, "sam", 3, {})
    (cut / "result.json").write_text('{"status": "done", "test_accuracy_last": 0.1')
    (tmp_path / "runs" / "empty").mkdir()
    found = read(tmp_path)
    assert [run.status for run in found.select("sam", done=False)] == [
        "done",
        "done",
        "unfinished",
        "unfinished",
    ]
    assert (row(found, "sam").n, row(found, "sam").planned) == (2, 4)
    assert row(found, "sam").last.mean == pytest.approx(95)
    assert "(2 of 6 final runs not done)" in answer(found)


def test_the_last_line_may_be_cut_off(tmp_path):
    study(tmp_path, {"sgd": [0.9]})
    run = next((tmp_path / "runs").iterdir())
    (run / "metrics.jsonl").write_text(
        '{"kind": "epoch", "epoch": 1, "test_accuracy": 0.5}\n{"kind": "epo'
    )
    assert [line["epoch"] for line in read(tmp_path).runs[0].epochs] == [1]


def test_words_for_non_finite_numbers_become_numbers(tmp_path):
    found = study(
        tmp_path,
        {"sgd": [{"train_loss_last": "nan", "hessian": {"values": ["inf"], "residuals": [0]}}]},
    )
    assert math.isnan(found.runs[0].number("train_loss_last"))
    assert found.runs[0].result["hessian"]["values"] == [math.inf]


# ---------------------------------------------------------------- the table


def test_the_numbers_of_a_row_by_hand(tmp_path):
    values = [8.0, 4.0, 3.0, 2.5, 2.0]
    hessian = {"values": values, "residuals": [8e-4, 0, 0, 0, 1e-3]}
    slow = {"train_loss_last": 0.5, "seconds_per_step": 0.03, "hessian": hessian}
    fast = {"train_loss_last": 0.25, "seconds_per_step": 0.01}
    found = study(
        tmp_path,
        {
            "sgd": [
                fast | {"test_accuracy_last": 0.90, "test_accuracy_best": 0.91},
                fast | {"test_accuracy_last": 0.92, "test_accuracy_best": 0.93},
            ],
            "sam": [
                slow | {"test_accuracy_last": 0.93, "test_accuracy_best": 0.95},
                slow | {"test_accuracy_last": 0.94, "test_accuracy_best": 0.95},
            ],
        },
    )
    sam = row(found, "sam")
    assert sam.last.mean == pytest.approx(93.5)
    assert sam.last.half == pytest.approx(12.7062 * 0.5, rel=1e-4)  # s / root n = 0.5
    assert sam.best.mean == pytest.approx(95)
    assert sam.difference.mean == pytest.approx(2.5)  # 3 and 2
    assert sam.difference.half == pytest.approx(12.7062 * 0.5, rel=1e-4)
    assert sam.verdict == "no difference"
    assert (sam.top.mean, sam.ratio.mean, sam.train_loss.mean) == (8.0, 4.0, 0.5)
    assert sam.residual == pytest.approx(5e-4)  # of the fifth: 1e-3 / 2
    assert sam.pace == pytest.approx(3)
    assert row(found, "sgd").difference is None


def test_differences_are_paired_by_seed(tmp_path):
    luck = [0.0, 0.05, 0.1]  # far larger than the gain, and common to both
    found = study(
        tmp_path,
        {
            "sgd": [0.80 + shift for shift in luck],
            "sam": [0.81 + shift for shift in luck],
        },
    )
    assert row(found, "sam").verdict == "better"
    assert not row(found, "sam").last.apart(row(found, "sgd").last)


def test_the_best_is_marked_only_where_intervals_are_apart(tmp_path):
    near = study(tmp_path / "near", {"sgd": [0.80, 0.90], "sam": [0.82, 0.92]})
    far = study(tmp_path / "far", {"sgd": [0.800, 0.801], "sam": [0.90, 0.901]})
    assert not any(cell.best for line in render.main_table(near).rows for cell in line)
    marked = [
        (line[0].text, place)
        for line in render.main_table(far).rows
        for place, cell in enumerate(line)
        if cell.best
    ]
    assert marked == [("SAM", 3), ("SAM", 4)]


def test_diverged_runs_are_in_no_mean_and_in_the_doubts(tmp_path):
    found = study(
        tmp_path,
        {"sgd": [0.9, 0.9], "sam": [0.95, {"status": "diverged", "test_accuracy_last": 0.1}]},
    )
    assert row(found, "sam").last.mean == pytest.approx(95)
    assert render.main_table(found).rows[1][1].text == "1 of 2"
    assert "1 diverged of 4" in doubts(found)[0].text


def test_the_grid_marks_the_chosen_radius(tmp_path):
    for rho, accuracy in ((0.1, 0.8), (0.05, 0.9), (0.2, 0.7)):
        final(tmp_path, "sam", 0, {"validation_accuracy_best": accuracy}, stage="grid", rho=rho)
    found = study(tmp_path, {"sgd": [0.9], "sam": [0.9]})
    assert [(entry.rho, entry.chosen) for entry in grid(found)] == [
        (0.05, True),
        (0.1, False),
        (0.2, False),
    ]
    assert [entry.accuracy.mean for entry in grid(found)] == pytest.approx([90, 80, 70])
    assert [line[-1].text for line in render.radius_table(found).rows] == ["✓", "", ""]
    assert "Radius at the edge" in {doubt.subject for doubt in doubts(found)}


def test_the_grid_is_told_by_what_the_study_chooses_by(tmp_path):
    scores = {"validation_accuracy_best": 0.9, "validation_accuracy_last": 0.7}
    final(tmp_path, "sam", 0, scores, stage="grid", rho=0.1)
    found = study(tmp_path, {"sam": [0.9]}, chosen_by="validation_accuracy_last")
    assert grid(found)[0].accuracy.mean == pytest.approx(70)
    assert "Validation accuracy after the last epoch" in page.html(found)


def test_runs_that_the_study_does_not_name_are_left_out(tmp_path):
    named = [run.key for run in study(tmp_path, {"sgd": [0.9, 0.9, 0.1]}).runs[:2]]
    found = study(tmp_path, {"sgd": [0.9, 0.9, 0.1]}, runs=[*named, "not begun"])
    assert row(found, "sgd").last.mean == pytest.approx(90)
    assert (len(found.runs), found.waiting, found.strangers) == (2, 1, 1)
    assert {"Not finished", "Other runs"} <= {doubt.subject for doubt in doubts(found)}


def test_final_runs_with_different_settings_are_told(tmp_path):
    study(tmp_path, {"sgd": [0.9, 0.9]})
    final(tmp_path, "sgd", 2, 0.9, training={"lr": 0.1, "seed": 2})
    final(tmp_path, "sgd", 3, 0.9, training={"lr": 0.3, "seed": 3})
    told = [doubt.text for doubt in doubts(read(tmp_path)) if doubt.subject == "Mixed settings"]
    assert told == ["The final runs of SGD differ in training.lr: 0.1, 0.3."]


# ---------------------------------------------------------------- renderers


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


def test_text_is_aligned(whole):
    lines = render.text(render.main_table(read(whole))).splitlines()
    rule = next(line for line in lines if line.startswith("─"))
    ends = [found.end() for found in re.finditer("─+", rule)]
    for line in lines[lines.index(rule) + 1 :]:
        assert len(line) <= len(rule)
        assert all(line[end - 1] != " " and line[end : end + 2].strip() == "" for end in ends[1:])


def test_markdown_has_a_cell_per_column(whole):
    lines = render.markdown(render.main_table(read(whole))).splitlines()
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {12}
    assert "**" in lines[3]


def test_latex_escapes_and_uses_booktabs(whole):
    text = render.latex(render.main_table(read(whole)))
    assert r"Test accuracy, last epoch (\%)" in text
    assert r"$\lambda_1$/$\lambda_5$" in text
    assert r"$\pm$" in text and r"\toprule" in text and r"\textbf{" in text
    assert not re.search(r"(?<!\\)%", text) and "±" not in text


def test_csv_holds_unrounded_numbers(whole):
    found = read(whole)
    lines = list(csv.DictReader(io.StringIO(render.main_csv(found))))
    assert [line["method"] for line in lines] == ["SGD", "SAM", "ASAM"]
    assert float(lines[1]["difference mean"]) == row(found, "sam").difference.mean
    assert lines[0]["difference mean"] == ""
    assert len(list(csv.DictReader(io.StringIO(render.runs_csv(found))))) == len(found.runs)
    assert len(list(csv.DictReader(io.StringIO(render.radius_csv(found))))) == len(grid(found)) == 8


# ---------------------------------------------------------------- the answer

BASE, GOOD = [0.80, 0.81, 0.82], [0.82, 0.831, 0.839]  # apart by 2.0, 2.1 and 1.9 points


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"sgd": BASE, "sam": GOOD}, r"SAM beats SGD by 2\.0 points \[1\.8, 2\.2\], 3 seeds\."),
        (
            {"sgd": [0.8, 0.8], "sam": [0.9, 0.92]},
            r"No difference between SAM and SGD: 11\.0 points \[-1\.7, 23\.7\], 2 ",
        ),
        (
            {"sgd": [0.8, 0.81, 0.8], "sam": [0.7, 0.7, 0.7]},
            r"SAM loses to SGD by 10\.3 points \[8\.9, 11\.8\], 3 seeds\.",
        ),
        (
            {"sgd": [0.8], "sam": [0.9]},
            "Undecided: SAM is 10.0 points above SGD in the only seed they share, which ",
        ),
        ({"sgd": [0.9], "sam": [0.8]}, "Undecided: SAM is 10.0 points below SGD"),
        (
            {"sgd": [0.9, None], "sam": [None, 0.8]},
            "No answer yet: SAM and SGD share no finished seed.",
        ),
        ({"sgd": [{}], "sam": [{}]}, "No answer yet: none of 2 final runs has finished."),
        ({"sgd": [{}], "sam": [0.9]}, "No answer yet: no final run of SGD has finished."),
        ({"sgd": [0.9], "sam": [{}]}, "No answer yet: no final run of SAM has finished."),
        ({"sgd": [0.9]}, "No answer yet: there is nothing to compare SGD with."),
        ({"sam": [0.9], "asam": [0.9]}, "No answer yet: the study names no baseline"),
        ({}, "No answer yet: there is no final run."),
        (
            {"sgd": BASE, "sam": GOOD, "asam": BASE},
            r"3 seeds; also against SGD: ASAM no different\.",
        ),
        (
            {"sgd": BASE, "sam": BASE, "asam": GOOD},
            r"No difference .*; also against SGD: ASAM better\.",
        ),
    ],
)
def test_the_answer_is_honest(tmp_path, results, expected):
    assert re.search(expected, answer(study(tmp_path, results)))


# ---------------------------------------------------------------- figures


def test_a_method_has_one_colour_everywhere(whole):
    found = read(whole)
    drawn = strokes(found)
    assert drawn["sgd"].colour == GREY
    assert (drawn["sam"].colour, drawn["asam"].colour) == PALETTE[:2]
    for plate in plates(found):
        for entry in plate.legend:
            assert entry.group not in drawn or entry.colour == drawn[entry.group].colour
        for trace in (trace for panel in plate.panels for trace in panel.figure.data):
            if trace.type == "scatter" and trace.legendgroup in drawn and trace.line.color:
                rgb = tuple(int(drawn[trace.legendgroup].colour[i : i + 2], 16) for i in (1, 3, 5))
                assert trace.line.color.startswith(
                    (drawn[trace.legendgroup].colour, "rgba({},{},{},".format(*rgb))
                )


def test_many_methods_are_told_apart(tmp_path):
    methods = [{"name": f"m{place}", "label": f"M{place}"} for place in range(10)]
    write_json(tmp_path / "study.json", {"name": "many", "methods": methods})
    assert len(set(strokes(read(tmp_path)).values())) == 10


def test_every_figure_has_a_short_caption_with_its_n(whole):
    drawn = plates(read(whole))
    assert [plate.name for plate in drawn] == [
        "differences",
        "test-accuracy",
        "training-loss",
        "wrong-labels",
        "slice",
        "landscape",
        "regions",
        "radius",
    ]
    for plate in drawn:
        assert len(plate.caption) <= 180
        assert re.search(r"n = \d|one run each", plate.caption)


def test_compared_surfaces_share_axes_colours_and_camera(whole):
    plate = next(plate for plate in plates(read(whole)) if plate.name == "landscape")
    one, other = (panel.figure for panel in plate.panels)
    assert one.layout.scene == other.layout.scene
    assert (one.data[0].cmin, one.data[0].cmax) == (other.data[0].cmin, other.data[0].cmax)
    assert [panel.title for panel in plate.panels] == ["SGD", "SAM"]
    flat, flat_other = (panel.figure.data[0] for panel in plate.flat)
    assert (flat.zmin, flat.zmax, flat.contours) == (
        flat_other.zmin,
        flat_other.zmax,
        flat_other.contours,
    )


def test_coordinates_without_a_slope_are_drawn_apart_from_gentler(whole):
    plate = next(plate for plate in plates(read(whole)) if plate.name == "regions")
    areas = {trace.legendgroup: trace.y for trace in plate.panels[0].figure.data}
    assert areas["both_zero"] == pytest.approx(10)
    assert sum(areas.values()) == pytest.approx(100, abs=1e-4)
    rows = [run.regions[0]["gentler"] for run in read(whole).select("sam", stage="final")]
    assert areas["gentler"][0] == pytest.approx(100 * sum(rows) / len(rows) - 10, abs=1e-4)


@pytest.mark.parametrize(
    ("means", "title"),
    [((1, 5, 5), "a least"), ((1, 1, 5), "c most"), ((1, 5, 9), "a least"), ((1, 1, 1), "alike")],
)
def test_a_title_names_what_stands_out(means, title):
    values = [
        (label, Interval(mean=mean, half=0.5, n=3))
        for label, mean in zip("abc", means, strict=True)
    ]
    words = {"low": "{} least", "high": "{} most", "alike": "alike", "single": "single"}
    assert standing_out(values, **words) == title
    assert standing_out([*values, ("d", Interval(mean=9, half=None, n=1))], **words) == "single"


def test_titles_say_only_what_intervals_allow(tmp_path):
    write_study(tmp_path, methods=("sgd", "sam"), seeds=1, epochs=4, side=0, noisy=False, radii=())
    titles = {plate.name: plate.title for plate in plates(read(tmp_path))}
    assert titles["test-accuracy"] == "Test accuracy through training"
    assert titles["training-loss"] == "Training loss through training"
    assert titles["slice"] == "The loss along one direction"
    assert "wrong-labels" not in titles and "landscape" not in titles and "radius" not in titles


def test_long_curves_are_thinned_and_said_to_be(tmp_path):
    write_study(tmp_path, methods=("sgd",), seeds=2, epochs=900, side=0, radii=())
    plate = next(plate for plate in plates(read(tmp_path)) if plate.name == "training-loss")
    assert max(len(trace.x) for trace in plate.panels[0].figure.data) <= 2 * 400
    assert "Thinned to 400 points" in plate.caption


# ---------------------------------------------------------------- the page


def test_the_page_stands_alone(whole, tmp_path):
    out = page.write(whole, tmp_path / "deep" / "report.html")
    text = out.read_text(encoding="utf-8")
    assert out.stat().st_size < 8_000_000
    assert text.count("plotly.js v") == 1
    outside = re.sub(r"<script>/\*\*\s*\* plotly\.js.*?</script>", "", text, flags=re.DOTALL)
    assert len(outside) < 1_000_000
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|https?://""", outside)


def test_the_page_is_written_into_the_study_by_default(tmp_path):
    write_study(tmp_path, methods=("sgd", "sam"), seeds=2, epochs=3, side=0, radii=())
    assert page.write(tmp_path) == tmp_path / "report.html"


FAILED = {"status": "failed", "error": "Traceback\nRuntimeError: <b>boom</b>"}


@pytest.mark.parametrize(
    "results", [{}, {"sgd": [{}]}, {"sgd": [0.9], "sam": [0.8]}, {"sam": [FAILED]}]
)
def test_a_page_is_written_whatever_is_missing(tmp_path, results):
    found = study(tmp_path, results)
    text = page.write(tmp_path).read_text(encoding="utf-8")
    assert "What to doubt" in text
    for run in found.runs:
        if run.status != "done":
            assert f"<code>{run.key}</code>" in text
    assert "<b>boom</b>" not in text


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"seconds": 59}, "59 s"),
        ({"seconds": 754}, "12 min 34 s"),
        ({"seconds": 7320}, "2 h 2 min"),
        (
            {"code": {"commit": "0123456789abcdef", "dirty": True}},
            "commit 0123456789, with changes",
        ),
        ({"code": {"version": "0.1.0"}}, "version 0.1.0"),
        (
            {"machine": {"device_name": "CPU", "cores": 4, "torch": "2.15.0"}},
            "CPU, 4 cores, torch 2.15.0",
        ),
        ({"finished": "2026-01-02T10:12:34+00:00"}, "2 January 2026"),
    ],
)
def test_the_facts_are_written_for_people(tmp_path, about, said):
    study(tmp_path, {"sgd": [0.9]}, **about)
    assert f"<dd>{said}</dd>" in page.write(tmp_path).read_text(encoding="utf-8")


@needs_chromium
@pytest.mark.slow
def test_every_figure_is_drawn_without_a_network(whole, tmp_path):
    seen = visit(page.write(whole, tmp_path / "report.html"), tmp_path)
    assert seen.console == []
    assert seen.requested == set()
    expected = sum(len(plate.panels) for plate in plates(read(whole)))
    assert f'data-drawn="{expected}"' in seen.dom
    assert seen.dom.count('data-drawn="true"') == expected == 10


CLICKS = Path(__file__).with_name("clicks.js")


@needs_chromium
@pytest.mark.slow
def test_the_controls_work(whole, tmp_path):
    out = page.write(whole, tmp_path / "report.html")
    reader = f"<script>{CLICKS.read_text(encoding='utf-8')}</script>"
    text = out.read_text(encoding="utf-8").replace("</body>", f"{reader}</body>")
    out.write_text(text, encoding="utf-8")
    seen = visit(out, tmp_path, until="#told")
    assert seen.console == []
    assert json_in(seen.dom, "told") == {
        "before": 2,  # a line and its band
        "hiddenRuns": 0,
        "singles": 5,
        "filtered": 0,
        "others": 2,
        "row": True,
        "legend": [0, 2],
        "camera": 0.4,
        "flat": True,
        # of 31 runs: SAM's, those of them with the final radius, any with it, all
        "picks": [["method", "rho", "stage"], 13, 7, 14, 31],
        "saved": [
            ["methods.csv", "blob"],
            ["slice.csv", "blob"],
            ["runs.csv", "blob"],
            ["slice.svg", "data"],
        ],
    }


@needs_chromium
def test_the_browser_would_tell(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text('<html><body><img src="https://example.org/a.png"><script>absent()</script>')
    seen = visit(broken, tmp_path, until="img")
    assert any("absent is not defined" in line for line in seen.console)
    assert seen.requested == {"https://example.org/a.png"}
