"""What the figures of a report look like: one colour per method, quiet axes, light and dark."""

from collections.abc import Iterable
from typing import NamedTuple

import plotly.graph_objects as go

from flatminima.report.plate import Entry
from flatminima.report.records import Study

__all__ = [
    "GREY",
    "INKS",
    "PALETTE",
    "REGIONS",
    "Stroke",
    "faint",
    "label_axes",
    "legend",
    "strokes",
    "template",
]

# Okabe and Ito 2008, told apart by colour-blind eyes; yellow last, for it is faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
GREY = "#858585"
LEFT = 46  # pixels; the same for all, so that axes stand below one another
DASHES = ("solid", "dash", "dot", "dashdot")
FONT = '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

# Regions are no methods: two quiet hues for the sign, two depths for the size.
REGIONS = {
    "steeper": ("steeper", "#3f5f8a"),
    "gentler": ("gentler", "#a9bdd6"),
    "reversed_gentler": ("reversed, gentler", "#e3bdb2"),
    "reversed_steeper": ("reversed, steeper", "#9d5348"),
    "both_zero": ("both slopes 0", "#d9d9d9"),
}


class Ink(NamedTuple):
    """The colours of everything that is not data."""

    text: str
    quiet: str
    grid: str
    paper: str


INKS = {
    "light": Ink(text="#1f2328", quiet="#5b626a", grid="#e7e8ea", paper="#ffffff"),
    "dark": Ink(text="#e6e6e6", quiet="#a3a8ae", grid="#33373c", paper="#16181b"),
}


class Stroke(NamedTuple):
    """How the lines of a method are drawn, everywhere."""

    colour: str
    dash: str


def strokes(study: Study) -> dict[str, Stroke]:
    """The stroke of every method by name: the baseline grey, then the palette, then dashes."""
    drawn = {method.name: Stroke(GREY, "solid") for method in study.methods if method.baseline}
    others = [method for method in study.methods if not method.baseline]
    for place, method in enumerate(others):
        turn, colour = divmod(place, len(PALETTE))
        drawn[method.name] = Stroke(PALETTE[colour], DASHES[turn % len(DASHES)])
    return drawn


def faint(colour: str, share: float) -> str:
    """A colour that lets through what lies below it."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def template(theme: str = "light") -> go.layout.Template:
    """The template of every figure.

    Args:
        theme: `light` or `dark`.

    Returns:
        The template.
    """
    ink = INKS[theme]
    axis = {
        "gridcolor": ink.grid,
        "zeroline": False,
        "linecolor": ink.grid,
        "ticks": "",
        "tickfont": {"color": ink.quiet, "size": 13},
        "title": {"font": {"color": ink.quiet, "size": 13}, "standoff": 10},
        "automargin": True,
    }
    space = {key: axis[key] for key in ("gridcolor", "tickfont")} | {
        "backgroundcolor": "rgba(0,0,0,0)",
        "showspikes": False,
        "zerolinecolor": ink.grid,
        "title": {"font": {"color": ink.quiet, "size": 13}},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 14, "color": ink.text},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(PALETTE),
            "margin": {"l": LEFT, "r": 12, "t": 34, "b": 46},
            "xaxis": axis | {"showgrid": False},
            "yaxis": axis | {"automargin": False},
            "scene": {"xaxis": space, "yaxis": space, "zaxis": space},
            "hoverlabel": {
                "bgcolor": ink.paper,
                "bordercolor": ink.grid,
                "font": {"color": ink.text, "size": 13},
                "namelength": -1,
            },
            "annotationdefaults": {"font": {"color": ink.quiet, "size": 13}},
            "shapedefaults": {"line": {"color": ink.quiet}},
            "legend": {"orientation": "h", "x": 0, "y": -0.2},
        }
    )


def label_axes(figure: go.Figure, across: str, up: str) -> go.Figure:
    """Name both axes; the upright one above itself, where it reads without turning the head."""
    figure.update_xaxes(title_text=across)
    figure.add_annotation(
        text=up,
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        xshift=-LEFT,
        yshift=10,
        showarrow=False,
    )
    return figure


def legend(study: Study, names: Iterable[str]) -> list[Entry]:
    """The entries of some methods, in the order of the study."""
    drawn, names = strokes(study), set(names)
    return [
        Entry(
            group=method.name,
            label=method.label,
            colour=drawn[method.name].colour,
            ring=drawn[method.name].dash != "solid",
        )
        for method in study.methods
        if method.name in names
    ]
