"""What a report leaves beside the records, and the page over all studies."""

import json
import re

import pytest
from synthetic import write_study

from flatminima.report import index, page, read, render
from flatminima.report.left import leave

SMALL = {"methods": ("sgd", "sam"), "seeds": 2, "epochs": 3, "side": 0, "radii": ()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_study(folder / "one", **SMALL)
    write_study(folder / "two", **SMALL, title="Is <this> the second?")
    (folder / "three").mkdir()
    study = read(folder / "one")
    leave(study, page.told(study, None))
    return folder


def test_a_report_leaves_its_page_its_table_for_papers_and_its_rows(results):
    study = read(results / "one")
    table = render.main_table(study)
    left = {path.name: path.read_text(encoding="utf-8") for path in study.folder.glob("*.*")}
    assert left["table.md"] == render.markdown(table)
    assert left["table.tex"] == render.latex(table) and r"\toprule" in left["table.tex"]
    assert left["runs.csv"].count("\n") == 1 + len(study.runs)
    assert "<html" in left["report.html"]
    assert json.loads(left["report.json"])["done"] == 4


def test_the_page_over_all_studies_says_what_each_asked_and_what_came_out(results):
    text = index.write(results).read_text(encoding="utf-8")
    assert "<h1>2 studies</h1>" in text
    assert json.loads((results / "one" / "report.json").read_text())["answer"][:12] in text
    assert "Is &lt;this&gt; the second?" in text and "flatminima report two" in text
    links = set(re.findall(r'href="([^"]+)"', text)) - {"data:,"}
    assert links == {f"one/{name}" for name in ("report.html", "table.md", "table.tex", "runs.csv")}
    assert all((results / link).is_file() for link in links)
    assert "<script" not in text and "://" not in text


def test_a_folder_without_studies_has_no_page(tmp_path):
    with pytest.raises(ValueError, match="folder must hold a study that was run, got .*: run one"):
        index.write(tmp_path)


def test_rows_name_the_network_and_the_condition_where_there_are_any(tmp_path):
    write_study(tmp_path, **SMALL)
    assert render.runs_csv(read(tmp_path)).startswith("key,stage,method,rho,seed,status,")
    for path in tmp_path.glob("runs/*/run.json"):
        told = json.loads(path.read_text()) | {"case": "40 %"}
        model = {"type": "MLP", "hidden": [8, 4], "norm": None}
        path.write_text(json.dumps(told | {"training": {"model": model}}))
    header, first, *_ = render.runs_csv(read(tmp_path)).splitlines()
    assert header.startswith("key,stage,method,case,model,rho,seed,status,")
    assert ',40 %,"MLP hidden=8,4",' in first
