"""The study of surfaces, small, and its page in a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, json_in, visit

from flatminima.report import page
from flatminima.report.records import Study, read
from flatminima.study.launch import launch
from flatminima.study.place import Place
from flatminima.study.study import find

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, and there is none")
STUDY = find("surfaces")
pytestmark = pytest.mark.slow  # a small study and a browser: half a minute


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 36 starts and 12 steps: a surface of few minima, and one of many."""
    plan = replace(
        STUDY.plan("quick"),
        pairs=(("easom", "Adagrad"), ("eggholder", "Adagrad"), ("valleys", "gradient")),
        side=6,
        steps=12,
    )
    STUDY.module.PRESETS["tiny"] = plan
    return launch(STUDY, "tiny", Place(folder=tmp_path_factory.mktemp("runs"), workers=0))


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return read(folder)


def test_every_run_ends_well(study):
    assert [run.status for run in study.runs] == ["done"] * 13


def test_the_counts_are_those_of_the_map(study):
    for run in study.select():
        for row in run.result.get("rows", []):
            if "index" in row:
                counts = [row["index"].count(k) for k in range(len(row["counts"]))]
                assert counts == row["counts"]
                assert row["index"].count(-1) == row["nowhere"]
                assert sum(counts) + row["nowhere"] + row["diverged"] == 36


def test_the_escape_radii_agree_with_the_closed_form(study):
    edge = next(run for run in study.select() if "curvatures" in run.settings)
    assert edge.result["off"] < 0.01
    for row in edge.result["rows"]:
        assert row["rest"] == pytest.approx(1.5)  # of the ridge, as is the radius


def test_shares_in_the_table_are_wilsons():
    from flatminima.landscape import wilson

    for count, n in [(0, 36), (7, 36), (36, 36)]:
        share = wilson(count, n)
        told = STUDY.module.ends(count, n)
        assert told == pytest.approx([100 * x for x in (share.value, share.low, share.high)])


def test_the_reading_answers_and_says_what_ends_nowhere(study):
    reading = STUDY.reader(study)
    assert reading.answer.startswith("On Easom, Adagrad ends in the sharp minimum from ")
    assert len(reading.table.rows) == 12
    assert {"Ends at no minimum", "Chance"} <= {doubt.subject for doubt in reading.doubts}
    assert [plate.name for plate in reading.plates] == [
        "scene-easom",
        "basins-easom",
        "scene-eggholder",
        "basins-eggholder",
        "scene-valleys",
        "basins-valleys",
        "flat-by-radius",
        "escape",
    ]


def test_a_page_without_results_says_so(tmp_path, folder):
    study = replace(read(folder), runs=[])
    assert STUDY.reader(study).answer == "No answer yet: not every run has finished."


CLICKS = """<script>
addEventListener("load", async () => {
  const soon = () => new Promise((next) => setTimeout(next, 50));
  const until = async (test) => { while (!test()) await soon(); };
  const now = { mode: "immediate", frame: { duration: 0, redraw: true } };
  const plots = (figure) => [...document.querySelectorAll(`#${figure} .plot`)];
  await until(() => document.documentElement.dataset.drawn);
  const [, sam, asam] = plots("basins-easom");
  const before = asam.layout.sliders[0].active;
  const step = sam._fullLayout.sliders[0]._visibleSteps[4];
  await Plotly.animate(sam, ...step.args);
  sam.emit("plotly_sliderchange", { step, interaction: true });
  await until(() => asam.layout.sliders[0].active === 4);
  const frame = asam._transitionData._frameHash["0.1"].data[0].z;
  const same = () => frame.every((row, j) => row.every((z, i) => z === asam.data[0].z[j][i]));
  await until(same);
  const [deep] = plots("scene-valleys");
  await Plotly.animate(deep, ["0.1/3"], now);
  const short = deep.data[2].x.length;
  await Plotly.animate(deep, ["0.1/9"], now);
  let saved = "";
  HTMLAnchorElement.prototype.click = function () { saved = this.download; };
  document.querySelector("#scene-valleys [data-rows]").click();
  const told = { before, same: same(), longer: deep.data[2].x.length > short, saved };
  const note = document.createElement("script");
  note.id = "told"; note.type = "application/json"; note.textContent = JSON.stringify(told);
  document.body.append(note);
});
</script>"""


@needs_chromium
def test_the_page_works_without_a_network(folder, tmp_path):
    out = page.write(folder, tmp_path / "report.html", reader=STUDY.reader)
    assert out.stat().st_size < 8_000_000
    text = out.read_text(encoding="utf-8").replace("</body>", f"{CLICKS}</body>")
    out.write_text(text, encoding="utf-8")
    seen = visit(out, tmp_path, until="#told")
    assert seen.console == []
    assert seen.requested == set()
    panels = sum(len(plate.panels) for plate in STUDY.reader(read(folder)).plates)
    assert f'data-drawn="{panels}"' in seen.dom
    assert json_in(seen.dom, "told") == {
        "before": 2,
        "same": True,
        "longer": True,
        "saved": "scene-valleys.csv",
    }
