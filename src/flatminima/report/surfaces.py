"""The loss over a plane of directions, side by side on the same axes."""

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from flatminima.report.planes import contours, surface
from flatminima.report.plate import Panel, Plate
from flatminima.report.records import Method, Run, Study

__all__ = ["surfaces"]

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
    return surface(one, two, loss, ends, name=f"{method.label}, seed {run.seed}, run {run.key}")


def _contours(plane: Plane, ends: tuple[float, float]) -> go.Figure:
    """Lines of equal loss."""
    method, run, one, two, loss = plane
    return contours(one, two, loss, ends, name=f"{method.label}, seed {run.seed}, run {run.key}")


def _title(planes: Sequence[Plane]) -> str:
    """How far each surface rises."""
    rises = [
        (method.label, float(np.nanmax(loss) - np.nanmin(loss))) for method, *_, loss in planes
    ]
    said = [f"{rise:.2g} around {label}" for label, rise in rises]
    where = "On the same square the" if len(said) > 1 else "The"
    return f"{where} loss rises by {' and by '.join(said)}"
