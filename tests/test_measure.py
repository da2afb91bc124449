"""Networks that nobody here defined are measured by name, once, and shown on a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import foreign
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_cli import said
from torch import nn

from flatminima import Objective, cli, regions
from flatminima.measure import MEASURES, Settings, measure, of_run, of_user
from flatminima.measure.table import chosen
from flatminima.measure.target import found
from flatminima.report import measured
from flatminima.report.measured_figures import plates
from flatminima.sharpness import Hessian, top_eigenpairs

TINY = Settings(points=5, surface_points=3, eigenvalues=2)


@pytest.fixture(autouse=True)
def single_precision(double_precision: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return saved(foreign.tiny_net(), tmp_path / "net.safetensors")


def saved(model: nn.Module, file: Path) -> Path:
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, file)
    return file


def tiny(weights: Path, **keywords):
    return of_user(model="foreign:tiny_net", weights=weights, data="foreign:points", **keywords)


def read(folder: Path, name: str):
    return json.loads((folder / f"{name}.json").read_text())["result"]


# --------------------------------------------------------------------- networks of other libraries


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("timm:create_model", {"model_name": "test_resnet", "num_classes": 4}),
        pytest.param(
            "torchvision.models:shufflenet_v2_x0_5", {"num_classes": 4}, marks=pytest.mark.slow
        ),
    ],
    ids=["timm", "torchvision"],
)
def test_a_network_of_another_library_is_measured_from_its_weights(
    model: str, arguments: dict, tmp_path: Path, capsys
) -> None:
    file = saved(found("model", model)(**arguments), tmp_path / "net.safetensors")
    words = [
        *("measure", str(file), "--model", model, "--model-args", json.dumps(arguments)),
        *("--data", "foreign:images", "--examples", "4", "--batch-size", "2"),
        *("--what", "regions,landscape", "--points", "6", "--folder", str(tmp_path / "measured")),
    ]
    code, out, err = said(words, capsys)
    assert (code, err) == (0, "")
    page = Path(out.rsplit("Report: ", 1)[1].strip())
    assert page.is_file() and "<h1>" in page.read_text(encoding="utf-8")
    names = [line.partition(":")[0] for line in out.splitlines()[:2]]
    assert names == ["regions", "landscape"]
    told = json.loads((page.parent / "target.json").read_text())
    assert told["about"]["Model"].startswith(model) and told["examples"] == 4
    shares = read(page.parent, "regions")["shares"]["data set"]
    four = ("steeper", "gentler", "reversed_steeper", "reversed_gentler")
    assert sum(shares[name] for name in four) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------ what is found


def test_what_is_measured_is_what_the_measures_say(weights: Path, tmp_path: Path) -> None:
    target = tiny(weights, batch_size=25)
    folder = measure(target, ["hessian", "regions", "landscape"], TINY, tmp_path / "measured")
    x, y = foreign.points()
    f, w = Objective.of_model(
        target.model,
        lambda x, y: nn.functional.cross_entropy(target.model(x), y),
        [(x[:25], y[:25]), (x[25:], y[25:])],
    )
    pairs = top_eigenpairs(Hessian(f, w), k=2)
    assert read(folder, "hessian")["values"] == pairs.values.tolist()
    g = f.gradient(w)
    p = f.gradient(w + 0.05 / g.norm() * g)
    shares = read(folder, "regions")["shares"]["data set"]
    assert shares["steeper"] == pytest.approx(regions.shares(g, p).steeper, abs=0.05)
    line = read(folder, "landscape")["line"]
    assert line["loss"][2] == pytest.approx(float(f.value(w)), rel=1e-6)
    assert json.loads((folder / "target.json").read_text())["loss"] == float(f.value(w))


def test_measuring_leaves_the_network_as_it_was(weights: Path, tmp_path: Path) -> None:
    target = tiny(weights)
    target.model.train()
    before = {name: part.clone() for name, part in target.model.state_dict().items()}
    measure(target, chosen("hessian,regions,landscape"), TINY, tmp_path)
    after = target.model.state_dict()
    assert target.model.training and all(torch.equal(before[name], after[name]) for name in after)
    assert all(param.grad is None for param in target.model.parameters())


def test_how_long_the_eigenvalues_take_is_said_before(weights: Path, tmp_path: Path) -> None:
    told: list[str] = []
    measure(tiny(weights), ["hessian"], TINY, tmp_path, log=told.append)
    assert re.fullmatch(r"hessian: about .* s: .* s for each of 40 to 120 products", told[0])
    assert len(told) == 2


def test_what_was_measured_is_not_measured_again(weights: Path, tmp_path: Path) -> None:
    told: list[str] = []
    folder = measure(tiny(weights), ["regions"], TINY, tmp_path, log=told.append)
    before = (folder / "regions.json").read_bytes()
    again = tiny(weights)
    assert measure(again, ["regions", "hessian"], TINY, tmp_path, log=told.append) == folder
    assert (folder / "regions.json").read_bytes() == before
    assert [line.partition(",")[0] for line in told[1:2]] == ["regions: measured before"]
    assert told[2].startswith("hessian: ")


@pytest.mark.parametrize("changed", ["weights", "data", "settings", "batch_norm"])
def test_another_network_or_setting_is_measured_anew(
    changed: str, weights: Path, tmp_path: Path
) -> None:
    first = measure(tiny(weights), ["regions"], TINY, tmp_path)
    if changed == "weights":
        weights = saved(foreign.tiny_net(), tmp_path / "other.safetensors")
    keywords = {"data": {"examples": 39}, "batch_norm": {"batch_norm": "batch"}}.get(changed, {})
    settings = Settings(rho=0.1) if changed == "settings" else TINY
    assert measure(tiny(weights, **keywords), ["regions"], settings, tmp_path) != first


def test_a_landscape_that_was_stopped_goes_on_where_it_was(weights: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop(name: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(tiny(weights), ["landscape"], TINY, tmp_path, progress=stop)
    target = tiny(weights)
    folder = measure(target, ["landscape"], TINY, tmp_path)
    whole = measure(tiny(weights), ["landscape"], TINY, tmp_path / "whole")
    assert read(folder, "landscape") == read(whole, "landscape")
    assert (folder / "line.npz").read_bytes() == (whole / "line.npz").read_bytes()


# ------------------------------------------------------------------------------------ what is given


def test_data_come_from_files_and_from_functions(weights: Path, tmp_path: Path) -> None:
    x, y = foreign.points()
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    save_file({"x": x, "y": y}, tmp_path / "data.safetensors")
    given = [str(tmp_path / "data.npz"), str(tmp_path / "data.safetensors")]
    given += ["foreign:points", "foreign:batches"]
    losses = [
        of_user(model="foreign:tiny_net", weights=weights, data=data).objective.value(
            tiny(weights).w
        )
        for data in given
    ]
    for loss in losses:
        torch.testing.assert_close(loss, losses[0])


def test_weights_may_be_a_file_of_torch_and_the_loss_your_own(tmp_path: Path) -> None:
    model = foreign.tiny_net()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    target = tiny(tmp_path / "net.pt", loss="foreign:margin")
    expected = foreign.margin(model.eval(), *foreign.points())
    torch.testing.assert_close(target.objective.value(target.w), expected.detach())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"model": "nowhere:net"}, "model must be package.module:name that can be imported, got"),
        ({"model": "foreign"}, "model must be package.module:name that can be imported, got"),
        ({"weights": Path("no.safetensors")}, "weights must be a file, got no.safetensors"),
        ({"model_args": '{"classes": 5}'}, "weights must fit the model in name and shape, got 2"),
        ({"data": "no.npz"}, "data must be a file or package.module:function, got no.npz"),
        ({"loss": "hinge"}, "loss must be package.module:name that can be imported, got 'hinge'"),
    ],
)
def test_what_is_not_there_is_named(keywords, message: str, weights: Path) -> None:
    given = {"model": "foreign:tiny_net", "weights": weights, "data": "foreign:points"}
    with pytest.raises(ValueError, match=message):
        of_user(**(given | keywords))


def test_data_need_x_and_y(weights: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=np.ones(3))
    with pytest.raises(ValueError, match="data must hold x and y, got images in"):
        of_user(model="foreign:tiny_net", weights=weights, data=str(tmp_path / "data.npz"))


def test_a_bound_on_errors_needs_a_loss_that_has_errors(weights: Path) -> None:
    target = tiny(weights)
    x, y = foreign.points()
    errors = float((target.model.eval()(x).argmax(1) != y).float().mean())
    assert float(target.errors.value(target.w)) == pytest.approx(errors)
    with pytest.raises(ValueError, match="loss must be cross_entropy for a bound on the errors"):
        _ = tiny(weights, loss="foreign:margin").errors


def test_every_measure_of_the_table_is_carried_out_and_has_its_place_on_the_page(
    weights: Path, tmp_path: Path
) -> None:
    small = Settings(points=3, surface_points=2, eigenvalues=2, samples=2, steps=4, m=10)
    target = tiny(weights, examples=20)
    folder = measure(target, chosen("all"), small, tmp_path)
    page = measured.write(folder).read_text(encoding="utf-8")
    assert {file.stem for file in folder.glob("*.json")} == {"target", *MEASURES}
    for name in ("Hessian", "Trace", "Sharpness", "m-sharpness", "PAC-Bayes"):
        assert f"<span>{name}</span>" in page
    assert read(folder, "pac_bayes")["vacuous"] and "The bound is vacuous" in page


def test_a_measure_is_one_of_the_table() -> None:
    assert chosen("regions, hessian") == ["hessian", "regions"]
    assert chosen("all") == list(MEASURES)
    for what in ("speed", ","):
        with pytest.raises(ValueError, match="what must be some of hessian, .* or all, got"):
            chosen(what)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rho": 0.0}, "rho and reach must be > 0, got 0.0 and 1.0"),
        ({"m": 0}, "m, eigenvalues, samples and steps must be at least 1, got 0, 5"),
        ({"points": 1}, "points and surface_points must be at least 2, got 1 and 15"),
    ],
)
def test_settings_are_checked(keywords, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**keywords)


# --------------------------------------------------------------------------------- runs of a study


@pytest.mark.slow
def test_a_run_of_a_study_is_measured_and_its_weights_are_kept(tmp_path: Path, capsys) -> None:
    from test_cli import TINY as STUDY

    said(["run", STUDY, "--workers", "0", "--folder", str(tmp_path)], capsys)
    run = next((tmp_path / "tiny_study" / "runs").iterdir())
    told: list[str] = []
    first = of_run(run, examples=20, log=told.append)
    again = of_run(run, examples=20, log=told.append)
    assert told == [f"{run.name} left no weights: it is trained again from its record"]
    assert first.mark == again.mark and (run / "weights.safetensors").is_file()
    epochs = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    last = [row["train_loss"] for row in epochs if row["kind"] == "epoch"][-1]
    whole = of_run(run, examples=10**6)
    assert float(whole.objective.value(whole.w)) == pytest.approx(last, rel=1e-5)
    code, out, _ = said(
        [
            *("measure", str(run), "--what", "regions", "--examples", "20"),
            *("--folder", str(tmp_path / "measured")),
        ],
        capsys,
    )
    assert code == 0 and "Report: " in out


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must hold a readable run.json, got"):
        of_run(tmp_path)


def test_weights_alone_do_not_make_a_network(weights: Path, capsys) -> None:
    code, _, err = said(["measure", str(weights)], capsys)
    assert code == 2
    assert err.startswith("flatminima: target must be the folder of a run, or weights with --model")
    with pytest.raises(ValueError, match="target must be the folder of a run, or weights with"):
        cli.Measure(target=weights)()


# ----------------------------------------------------------------------------------------- the page


def test_the_page_shows_every_number_beside_its_error_or_chance(
    weights: Path, tmp_path: Path
) -> None:
    folder = measure(tiny(weights), ["hessian", "regions", "landscape"], TINY, tmp_path)
    page = measured.write(folder).read_text(encoding="utf-8")
    hessian, seen = read(folder, "hessian"), read(folder, "regions")
    assert f"{hessian['values'][0]:.4g} ± {hessian['residuals'][0]:.2g}" in page
    assert f"{100 * seen['overlap']['chance']:.1f}" in page and "chance 25" in page
    for name in ("eigenvalues", "line", "landscape", "regions", "ratios", "chance", "layers"):
        assert f'id="{name}"' in page
    own = page.partition("<script>")[0]  # what follows is the library that draws
    assert not re.search(r'(?:src|href)="https?://', own)


def test_a_plane_with_diverged_points_is_drawn_with_holes(weights: Path, tmp_path: Path) -> None:
    folder = measure(tiny(weights), ["landscape"], TINY, tmp_path)
    told = json.loads((folder / "landscape.json").read_text())
    told["result"]["plane"]["loss"][0][0] = "nan"
    told["result"]["plane"]["diverged"] = 1
    (folder / "landscape.json").write_text(json.dumps(told))
    assert "The loss is not finite at 1 of the plane" in measured.html(folder)


def test_results_of_every_other_measure_have_their_line() -> None:
    mean = {"value": 0.25, "standard_error": 0.125}
    results = {
        "trace": mean,
        "sharpness": {"rho": 0.05, "worst_case": {"value": 0.5, "gap": 1e-3}, "average_case": mean},
        "m_sharpness": {"m": 16, "groups": 3, "one_step": mean, "restarts": None},
        "pac_bayes": {
            "printed": {"value": 99.6, "vacuous": True},
            "tight": {"value": 0.576, "vacuous": False},
        },
    }
    told = [(line.measure, line.value, line.beside) for line in measured.lines(results)]
    assert told == [
        ("Trace", "0.25", "± 0.12"),
        ("Sharpness", "0.5", "gap 0.001"),
        ("Sharpness", "0.25", "± 0.12"),
        ("m-sharpness", "0.25", "± 0.12"),
        ("PAC-Bayes", "99.6", "vacuous"),
        ("PAC-Bayes", "0.576", ""),
    ]


def test_a_density_is_drawn_with_the_weights_of_its_nodes() -> None:
    found = {"nodes": [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], "weights": [[0.8, 0.1, 0.1]] * 2}
    (plate,) = plates({"density": found})
    assert plate.title.startswith("80 % of the eigenvalues are within 1 % of 0")
    assert sum(plate.panels[0].figure.data[0].y) == pytest.approx(100)


def test_a_folder_in_which_nothing_was_measured_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must hold a readable target.json, got"):
        measured.html(tmp_path)
