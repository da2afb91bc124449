"""A loss over two directions, drawn as a surface or as lines of equal loss."""

import math

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from flatminima.report.style import label_axes, template

__all__ = ["SCALE", "contours", "surface"]

# Viridis without its darkest part, in which light and shade would drown.
SCALE = ("#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
CAMERA = {"eye": {"x": 1.35, "y": -1.45, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.18}}
LEVELS = 20

Array = NDArray[np.floating]


def surface(
    one: Array, two: Array, loss: Array, ends: tuple[float, float], *, name: str
) -> go.Figure:
    """A surface to turn.

    Args:
        one: The places along the first direction, (n,).
        two: The places along the second, (m,).
        loss: The loss, (m, n): a row for each place along `two`; nan is left open.
        ends: The lowest and the highest loss of the axis.
        name: What hovering says it is.

    Returns:
        The figure.
    """
    trace = go.Surface(
        x=one.astype(np.float32),
        y=two.astype(np.float32),
        z=loss.astype(np.float32),
        colorscale=list(SCALE),
        cmin=ends[0],
        cmax=ends[1],
        showscale=False,
        name=name,
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


def contours(
    one: Array, two: Array, loss: Array, ends: tuple[float, float], *, name: str
) -> go.Figure:
    """Lines of equal loss; the arguments are those of `surface`."""
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
        name=name,
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
