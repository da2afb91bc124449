"""A slice of the loss by itself: a picture for paper, or a figure to turn and to read off.

Both take anything with the fields of a `Slice1D` or `Slice2D` (arrays or tensors of torch), and for
a plane the coordinates of a trajectory on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from flatminima.report.planes import SCALE, contours, surface
from flatminima.report.style import INKS, PALETTE, label_axes, template

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["interactive", "static"]

Array = NDArray[np.floating]


class Way(Protocol):
    """A trajectory on a plane: a `Path2D`, for one."""

    one: Any
    two: Any


def interactive(
    found: Any,  # noqa: ANN401 - a slice, without importing torch
    way: Way | None = None,
    *,
    deep: bool = False,
    file: Path | str | None = None,
) -> go.Figure:
    """A figure of plotly in the style of the reports.

    Args:
        found: A slice.
        way: A trajectory to draw on a plane.
        deep: Whether a plane is drawn as a surface rather than as lines of equal loss.
        file: Where to write it as an HTML file that needs no network.

    Returns:
        The figure.
    """
    if hasattr(found, "reach"):
        line = go.Scatter(
            x=_array(found.reach),
            y=_array(found.loss),
            mode="lines",
            line={"color": PALETTE[0], "width": 2.2},
            hovertemplate="%{y:.4g} at %{x:.3g}<extra></extra>",
        )
        figure = label_axes(go.Figure(line, layout={"template": template()}), "distance", "loss")
    else:
        one, two, loss = _array(found.one), _array(found.two), _finite(found.loss).T
        ends = float(np.nanmin(loss)), float(np.nanmax(loss))
        figure = (surface if deep else contours)(one, two, loss, ends, name="loss")
        if way is not None and not deep:
            figure.add_trace(
                go.Scatter(
                    x=_array(way.one),
                    y=_array(way.two),
                    mode="lines+markers",
                    line={"color": PALETTE[1], "width": 2},
                    marker={"size": 5},
                    name="trajectory",
                )
            )
    if file is not None:
        figure.write_html(file, include_plotlyjs=True)
    return figure


def static(
    found: Any,  # noqa: ANN401 - a slice, without importing torch
    way: Way | None = None,
    *,
    file: Path | str | None = None,
) -> Figure:
    """A figure of matplotlib: a line, or lines of equal loss.

    Args:
        found: A slice.
        way: A trajectory to draw on a plane.
        file: Where to write it: .pdf, .svg or .png.

    Returns:
        The figure, which belongs to no window.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    ink = INKS["light"]
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=ink.quiet)
    if hasattr(found, "reach"):
        axes.grid(axis="y", color=ink.grid)
        axes.plot(_array(found.reach), _array(found.loss), color=PALETTE[0], linewidth=2)
        axes.set_xlabel("distance", color=ink.quiet)
        axes.set_title("loss", loc="left", color=ink.quiet, fontsize="medium")
    else:
        one, two = _array(found.one), _array(found.two)
        loss = np.ma.masked_invalid(_finite(found.loss).T)
        colours = LinearSegmentedColormap.from_list("loss", list(SCALE))
        filled = axes.contourf(one, two, loss, levels=20, cmap=colours)
        axes.contour(one, two, loss, levels=20, colors="white", linewidths=0.5, alpha=0.7)
        axes.set_xlabel("direction 1", color=ink.quiet)
        axes.set_ylabel("direction 2", color=ink.quiet)
        axes.set_aspect("equal")
        bar = figure.colorbar(filled, ax=axes, shrink=0.8)
        bar.outline.set_visible(False)  # pyright: ignore
        bar.ax.tick_params(length=0, labelcolor=ink.quiet)
        bar.ax.set_title("loss", color=ink.quiet, fontsize="medium")
        if way is not None:
            axes.plot(
                _array(way.one),
                _array(way.two),
                "o-",
                color=PALETTE[1],
                markersize=3.5,
                linewidth=1.5,
            )
    if file is not None:
        figure.savefig(file, dpi=160)
    return figure


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=float)


def _finite(values: ArrayLike) -> Array:
    array = _array(values)
    return np.where(np.isfinite(array), array, np.nan)
