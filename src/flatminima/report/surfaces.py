"""The loss over a plane of directions, side by side on the same axes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from flatminima.report.plate import Panel, Plate
from flatminima.report.records import Method, Run, Study
from flatminima.report.style import label_axes, template

__all__ = ["surfaces"]

# Viridis without its darkest part, in which light and shade would drown.
SCALE = ("#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
CAMERA = {"eye": {"x": 1.35, "y": -1.45, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.18}}
LEVELS = 20

Array = NDArray[np.floating]
Plane = tuple[Method, Run, Array, Array, Array]


def surfaces(study: Study) -> Plate | None:
    """The surfaces that the records hold: the first of each method."""
    planes = [plane for method in study.methods if (plane := _plane(study, method)) is not None]
    if not planes:
        return None
    low = min(float(np.nanmin(loss)) for *_, loss in planes)
    high = max(float(np.nanmax(loss)) for *_, loss in planes)
    seeds = ", ".join(sorted({str(run.seed) for _, run, *_ in planes}))
    return Plate(
        name="landscape",
        title=_title(planes),
        caption="Training loss over two filter-normalised random directions, one run each "
        f"(seed {seeds}). Same axes and colours; drag to turn them together.",
        panels=[_panel(plane, _surface, (low, high)) for plane in planes],
        flat=[_panel(plane, _contours, (low, high)) for plane in planes],
    )


def _plane(study: Study, method: Method) -> Plane | None:
    """The first surface of a method: its run, both axes and the loss, `loss[two, one]`."""
    for run in study.select(method.name, stage="final"):
        held = (run.result or {}).get("slice_2d")
        if held:
            one, two, loss = (np.asarray(held[key], dtype=float) for key in ("one", "two", "loss"))
            return method, run, one, two, np.where(np.isfinite(loss), loss, np.nan)
    return None


def _panel(
    plane: Plane, draw: Callable[[Plane, tuple[float, float]], go.Figure], ends: tuple[float, float]
) -> Panel:
    """One surface under the name of its method."""
    return Panel(figure=draw(plane, ends), title=plane[0].label, method=plane[0].name)


def _surface(plane: Plane, ends: tuple[float, float]) -> go.Figure:
    """A surface to turn."""
    method, run, one, two, loss = plane
    trace = go.Surface(
        x=one.astype(np.float32),
        y=two.astype(np.float32),
        z=loss.astype(np.float32),
        colorscale=list(SCALE),
        cmin=ends[0],
        cmax=ends[1],
        showscale=False,
        name=f"{method.label}, seed {run.seed}, run {run.key}",
        hovertemplate="%{x:.2f}, %{y:.2f}<br>loss %{z:.3f}<extra>%{fullData.name}</extra>",
        lighting={"ambient": 0.75, "diffuse": 0.5, "specular": 0.05, "roughness": 0.9},
        contours_z={
            "show": True,
            "color": "rgba(255,255,255,0.55)",
            "start": ends[0],
            "end": ends[1],
            "size": _step(*ends),
        },
    )
    figure = go.Figure(trace, layout={"template": template()})
    reach = {"range": [float(one[0]), float(one[-1])], "nticks": 5}
    deep = {"range": [float(two[0]), float(two[-1])], "nticks": 5}
    figure.update_scenes(
        xaxis={"title_text": "direction 1"} | reach,
        yaxis={"title_text": "direction 2"} | deep,
        zaxis={"title_text": "loss", "range": [ends[0], ends[1]], "nticks": 6},
        aspectmode="manual",
        aspectratio={"x": 1, "y": 1, "z": 0.75},
        camera=CAMERA,
    )
    return figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0})


def _contours(plane: Plane, ends: tuple[float, float]) -> go.Figure:
    """Lines of equal loss."""
    method, run, one, two, loss = plane
    step = _step(*ends)
    trace = go.Contour(
        x=one.astype(np.float32),
        y=two.astype(np.float32),
        z=loss.astype(np.float32),
        colorscale=list(SCALE),
        zmin=ends[0],
        zmax=ends[1],
        autocontour=False,
        contours={
            "start": math.ceil(ends[0] / step) * step,
            "end": ends[1],
            "size": step,
            "showlabels": True,
            "labelfont": {"size": 11, "color": "white"},
        },
        line={"width": 0.7, "color": "rgba(255,255,255,0.7)"},
        showscale=False,
        name=f"{method.label}, seed {run.seed}, run {run.key}",
        hovertemplate="%{x:.2f}, %{y:.2f}<br>loss %{z:.3f}<extra>%{fullData.name}</extra>",
    )
    figure = label_axes(
        go.Figure(trace, layout={"template": template()}), "direction 1", "direction 2"
    )
    return figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(
        constrain="domain", constraintoward="left"
    )


def _step(low: float, high: float) -> float:
    """A round distance between about `LEVELS` levels."""
    raw = max(high - low, 1e-12) / LEVELS
    power = 10 ** math.floor(math.log10(raw))
    return power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)


def _title(planes: Sequence[Plane]) -> str:
    """How far each surface rises."""
    rises = [
        (method.label, float(np.nanmax(loss) - np.nanmin(loss))) for method, *_, loss in planes
    ]
    said = [f"{rise:.2g} around {label}" for label, rise in rises]
    where = "On the same square the" if len(said) > 1 else "The"
    return f"{where} loss rises by {' and by '.join(said)}"
