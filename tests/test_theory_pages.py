"""The pages of the two theory studies: what they say, and that a browser draws them offline."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, json_in, visit
from rich.console import Console

from flatminima.report import page, read
from flatminima.report.records import Study as Records
from flatminima.report.render import table_csv
from flatminima.study.launch import launch
from flatminima.study.place import Place
from flatminima.study.study import Study, find
from flatminima.theory import relu_1d

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to draw the page with")
PLANS = {
    "diagonal_networks": {"seeds": 3, "steps": 100, "phase_seeds": 2, "side": 3},
    "relu_networks": {"chunks": ((0, 1), (2,)), "steps": 60},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Study, Path]]:
    """Both studies, of seconds each, and where their records are."""
    found = {}
    for name, plan in PLANS.items():
        study = find(name)
        study.module.PRESETS["tiny"] = replace(study.plan("quick"), **plan)
        place = Place(folder=tmp_path_factory.mktemp(name), workers=0)
        found[name] = study, launch(study, "tiny", place, console=Console(quiet=True))
    return found


@pytest.fixture(params=list(PLANS))
def carried(request, folders) -> tuple[Study, Path]:
    return folders[request.param]


@pytest.fixture
def diagonal(folders) -> tuple[Study, Records]:
    study, folder = folders["diagonal_networks"]
    return study, read(folder)


@pytest.fixture
def relu(folders) -> tuple[Study, Records]:
    study, folder = folders["relu_networks"]
    return study, read(folder)


@pytest.mark.slow
def test_the_table_as_csv_has_the_cells_of_the_page(carried):
    study, folder = carried
    table = study.reader(read(folder)).table
    header, *lines = csv.reader(io.StringIO(table_csv(table)))
    assert header == list(table.header)
    assert [line[0] for line in lines] == [method.label for method in study.methods]
    assert lines == [[cell.text for cell in row] for row in table.rows]


def test_the_answer_and_the_claims_say_over_how_many_seeds(carried):
    study, folder = carried
    reading = study.reader(read(folder))
    assert "3 data seeds" in reading.answer or "3 seeds" in reading.answer
    assert reading.claims
    text = page.write(folder, folder / "page.html", reader=study.reader).read_text("utf-8")
    assert "Claimed and found" in text


def test_distances_in_the_table_are_means_over_the_seeds(diagonal):
    study, records = diagonal
    reading = study.reader(records)
    (run,) = (run for run in records.select("gd") if run.settings["part"] == "radii")
    row = next(row for row in reading.table.rows if row[0].text == "Gradient descent")
    assert row[2].text.startswith(f"{np.mean(run.result['to_l1']):.4f} ± ")
    claim, found = reading.claims[0]
    assert claim.startswith("The larger the radius of 1-SAM")
    assert f"0: {np.mean(run.result['to_l1']):.3f}, 0.02: " in found


def test_kinks_of_the_table_are_those_of_the_weights_whatever_the_chunks(relu):
    study, records = relu
    nets = relu_1d([0, 1, 2], rho=0.3, steps=60)
    row = next(row for row in study.reader(records).table.rows if row[0].text == "SAM")
    assert row[1].text == "3 of 3"
    assert row[3].text.startswith(f"{nets.kinks().mean():.1f} ± ")


def test_a_study_of_which_nothing_is_done_has_no_answer_yet(relu, diagonal):
    for study, records in (relu, diagonal):
        reading = study.reader(replace(records, runs=[]))
        assert reading.answer.startswith("No answer yet")
        assert reading.claims == [] and reading.table.rows == []


PLAYED = """<script>
requestAnimationFrame = (draw) => setTimeout(draw, 10);  // a browser without a window draws none
addEventListener("load", async () => {
  const pause = () => new Promise((next) => setTimeout(next, 50));
  while (!document.documentElement.dataset.drawn) await pause();
  const plot = document.querySelector("#functions .plot");
  const shown = () => Array.from(plot.data[0].y.slice(0, 5), (y) => y.toFixed(3)).join(" ");
  const [last, first] = [shown(), plot._transitionData._frames[0].name];
  const frame = { duration: 0, redraw: false };
  const now = { mode: "immediate", frame, transition: { duration: 0 } };
  await Plotly.animate(plot, [first], now);
  const begin = shown();
  await Plotly.animate(plot, null, { ...now, frame: { ...frame, duration: 1 } });
  const note = document.createElement("script");
  note.id = "told"; note.type = "application/json";
  note.textContent = JSON.stringify({
    moved: begin !== last, back: shown() === last, frames: plot._transitionData._frames.length,
    steps: plot._fullLayout.sliders[0].steps.length,
    button: plot.querySelector(".updatemenu-button text")?.textContent ?? "",
  });
  document.body.append(note);
});</script>"""


@pytest.mark.slow
@needs_chromium
def test_every_figure_is_drawn_without_a_network(carried, tmp_path):
    study, folder = carried
    expected = sum(len(plate.panels) for plate in study.reader(read(folder)).plates)
    seen = visit(page.write(folder, tmp_path / "page.html", reader=study.reader), tmp_path)
    assert seen.console == []
    assert seen.requested == set()
    assert seen.dom.count('data-drawn="true"') == expected >= 2


@pytest.mark.slow
@needs_chromium
def test_the_function_is_played_through_training(relu, tmp_path):
    study, records = relu
    out = tmp_path / "page.html"
    text = page.html(records, study.reader(records)).replace("</body>", f"{PLAYED}</body>")
    out.write_text(text, encoding="utf-8")
    seen = visit(out, tmp_path, until="#told")
    assert seen.console == []
    told = json_in(seen.dom, "told")
    assert told["button"] == "▶ play"
    assert told["frames"] == told["steps"] > 10
    assert told["moved"] and told["back"]
