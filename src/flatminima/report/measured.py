"""The page of one network that was measured: one HTML file that needs no network."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from flatminima.report.measured_figures import plates
from flatminima.report.page import (
    code_in_words,
    date_in_words,
    drawings,
    environment,
    machine_in_words,
    script,
    time_in_words,
)
from flatminima.report.style import INKS

__all__ = ["Line", "answer", "html", "lines", "write"]

Json = dict[str, Any]
NAMES = (
    *("hessian", "density", "trace", "sharpness"),
    *("m_sharpness", "regions", "landscape", "pac_bayes"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One number of the table."""

    measure: str
    """The measure that it is of."""
    quantity: str
    """Its name."""
    value: str
    """The number."""
    beside: str = ""
    """Its error, or the level that chance gives."""
    words: str
    """What it is."""


def write(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the page of one network.

    Args:
        folder: The folder that holds `target.json` and a file per measure.
        out: The file to write; `report.html` in that folder if None.

    Returns:
        The file.
    """
    out = Path(folder) / "report.html" if out is None else Path(out)
    out.write_text(html(Path(folder)), encoding="utf-8")
    return out


def html(folder: Path) -> str:
    """The page as text."""
    target, held = _read(folder)
    results = {name: told["result"] for name, told in held.items()}
    drawn = plates(results)
    table = list(lines(results))
    seconds = math.fsum(told["seconds"] for told in held.values())
    facts = {
        **target["about"],
        "Examples": f"{target['examples']} in batches of {target['batch_size']}",
        "Parameters": f"{target['parameters']:,}",
        "Batch norm": target["batch_norm"],
        "Date": date_in_words(target["date"]),
        "Time": time_in_words(seconds),
        "Machine": machine_in_words(target["machine"]),
        "Code": code_in_words(target["code"]),
    }
    return (
        environment()
        .get_template("measured.html.j2")
        .render(
            title=target["name"],
            answer=answer(target, results),
            facts=[(name, text) for name, text in facts.items() if text],
            settings={name: value for name, value in target["settings"].items() if name != "type"},
            lines=table,
            plates=drawn,
            doubts=list(_doubts(target, results)),
            inks=INKS,
            plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own text
            data=script(drawings(drawn) | {"files": {"numbers": _csv(table)}}),
        )
    )


def _read(folder: Path) -> tuple[Json, dict[str, Json]]:
    """What was measured, and each measure that is there."""
    try:
        target = json.loads((folder / "target.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(
            f"folder must hold a readable target.json, got {folder}: measure the network first."
        ) from None
    files = ((name, folder / f"{name}.json") for name in NAMES)
    return target, {
        name: json.loads(file.read_text(encoding="utf-8")) for name, file in files if file.exists()
    }


def answer(target: Json, results: Mapping[str, Json]) -> str:
    """The first thing to know: how curved the loss is, or else how high."""
    height = f"at a loss of {_short(target['loss'])}"
    if "hessian" not in results:
        return f"{target['name']} stands {height}"
    found = results["hessian"]
    first, error = found["values"][0], found["residuals"][0]
    return f"The largest curvature is {_short(first)} ± {_error(error)} {height}"


def lines(results: Mapping[str, Json]) -> Iterator[Line]:
    """Every number that the measures found, each with its error or its chance level."""
    for name in NAMES:
        if name in results and name in _LINES:
            yield from _LINES[name](results[name])


def _hessian(found: Json) -> Iterator[Line]:
    for place, (value, residual) in enumerate(
        zip(found["values"], found["residuals"], strict=True), start=1
    ):
        yield Line(
            measure="Hessian",
            quantity=f"λ{place}",
            value=_short(value),
            beside=f"± {_error(residual)}",
            words="an eigenvalue lies within the error" if place == 1 else "",
        )
    last = len(found["values"])
    yield Line(
        measure="Hessian",
        quantity=f"λ1 / λ{last}",
        value=_short(found["ratio"]),
        beside=f"± {_error(found['ratio_bound'])}",
        words="how far the first eigenvalue stands out",
    )


def _regions(found: Json) -> Iterator[Line]:
    share = found["shares"]["data set"]
    words = {
        "steeper": "of the coordinates have a larger slope uphill, of the same sign",
        "gentler": f"a smaller one; {_percent(share['both_zero'])} are 0 in both",
        "reversed_steeper": "a larger one of the opposite sign",
        "reversed_gentler": "a smaller one of the opposite sign",
    }
    for name, said in words.items():
        yield Line(
            measure="Regions",
            quantity=name.replace("_", ", "),
            value=_percent(share[name]),
            beside="chance 25 %",
            words=said,
        )
    seen = found["overlap"]
    yield Line(
        measure="Regions",
        quantity="first batch and all",
        value=_percent(seen["both"]),
        beside=f"chance {_percent(seen['chance'])}, φ = {_error(seen['phi'])}",
        words="of the coordinates are steeper for the first batch and for the whole data set",
    )
    for which, large in found["large"].items():
        yield Line(
            measure="Regions",
            quantity=f"large {which}",
            value=_percent(large["share"]),
            beside=f"chance {_percent(large['chance'])}, φ = {_error(large['phi'])}",
            words="of the steeper coordinates are among the as many largest of this gradient",
        )
    union = found["union"]
    yield Line(
        measure="Regions",
        quantity=f"union over {len(union['radii'])} radii",
        value=_percent(union["union"]),
        beside=f"chance {_percent(union['union_chance'])}",
        words=f"are steeper at ρ = {', '.join(f'{rho:g}' for rho in union['radii'])} or another",
    )


def _landscape(found: Json) -> Iterator[Line]:
    loss = [float(value) for value in found["line"]["loss"]]
    middle = loss[len(loss) // 2]
    yield Line(
        measure="Landscape",
        quantity="rise along the line",
        value=_short((loss[0] + loss[-1]) / 2 - middle),
        words="the loss at both ends of a filter-normalised line over that at the weights",
    )
    yield Line(
        measure="Landscape",
        quantity="cosine of the directions",
        value=_short(found["plane"]["cosine"]),
        beside="0 shows angles rightly",
        words="of the two random directions of the plane",
    )


def _sharpness(found: Json) -> Iterator[Line]:
    worst, average = found["worst_case"], found["average_case"]
    yield Line(
        measure="Sharpness",
        quantity="worst case",
        value=_short(worst["value"]),
        beside=f"gap {_error(worst['gap'])}",
        words=f"the largest rise found within ρ = {found['rho']:g}",
    )
    yield Line(
        measure="Sharpness",
        quantity="average case",
        value=_short(average["value"]),
        beside=f"± {_error(average['standard_error'])}",
        words="the mean rise under noise of that size per coordinate",
    )


def _m_sharpness(found: Json) -> Iterator[Line]:
    for name, words in (("one_step", "by one step uphill"), ("restarts", "by ascent, restarted")):
        if found.get(name):
            yield Line(
                measure="m-sharpness",
                quantity=f"m = {found['m']}, {name.replace('_', ' ')}",
                value=_short(found[name]["value"]),
                beside=f"± {_error(found[name]['standard_error'])}",
                words=f"mean over {found['groups']} groups, {words}",
            )


def _trace(found: Json) -> Iterator[Line]:
    yield Line(
        measure="Trace",
        quantity="tr H",
        value=_short(found["value"]),
        beside=f"± {_error(found['standard_error'])}",
        words="the sum of all eigenvalues of the Hessian",
    )


def _pac_bayes(found: Json) -> Iterator[Line]:
    for name in ("printed", "tight"):
        yield Line(
            measure="PAC-Bayes",
            quantity=f"bound, {name} form",
            value=_short(found[name]["value"]),
            beside="vacuous" if found[name]["vacuous"] else "",
            words="the bound of the SAM paper on the share of errors on new data",
        )


_LINES: dict[str, Callable[[Json], Iterator[Line]]] = {
    "hessian": _hessian,
    "trace": _trace,
    "sharpness": _sharpness,
    "m_sharpness": _m_sharpness,
    "regions": _regions,
    "landscape": _landscape,
    "pac_bayes": _pac_bayes,
}


def _doubts(target: Json, results: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """What a reader should doubt."""
    if "hessian" in results and not results["hessian"]["converged"]:
        yield (
            "Eigenvalues",
            "They have not converged within the products that were allowed; their errors say how "
            "far each may be off.",
        )
    diverged = results.get("landscape", {}).get("plane", {}).get("diverged", 0)
    if diverged:
        yield "Landscape", f"The loss is not finite at {diverged} of the plane's points: left open."
    if results.get("pac_bayes"):
        yield (
            "PAC-Bayes",
            "The theorem takes the largest error in the ball; it is taken here where the loss was "
            "found to be largest, which can only be smaller.",
        )
    if results.get("pac_bayes", {}).get("vacuous"):
        yield "PAC-Bayes", "The bound is vacuous: above 1, it says nothing about new data."
    if "regions" in results:
        yield (
            "Regions",
            "Overlaps and large slopes mean something only by their distance to chance. Layers "
            "differ in their shares, which lifts an overlap by itself: by layers, chance is "
            f"{_percent(results['regions']['overlap']['chance_by_part'])}.",
        )
    yield (
        "Scale",
        "Curvature and sharpness within a ball change when two layers are rescaled against each "
        "other, though the network computes the same. Compare networks of one architecture.",
    )
    yield (
        "Data",
        f"Everything is of {target['examples']} examples; batch norm used its "
        f"“{target['batch_norm']}” statistics. One network: n = 1.",
    )


def _csv(table: list[Line]) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["measure", "quantity", "value", "chance or error", "what it is"])
    rows.writerows([one.measure, one.quantity, one.value, one.beside, one.words] for one in table)
    return out.getvalue()


def _short(value: float | str) -> str:
    """A number with the four digits that matter; a word stays one."""
    return f"{float(value):.4g}"


def _error(value: float | str) -> str:
    """An error with the two digits that matter."""
    return f"{float(value):.2g}"


def _percent(share: float | str) -> str:
    return f"{100 * float(share):.1f} %"
