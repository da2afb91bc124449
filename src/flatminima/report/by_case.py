"""One quantity of every method under every condition: as dots, lines or a table of colours."""

from collections.abc import Sequence
from typing import TypeAlias

import plotly.graph_objects as go

from flatminima.report.interval import Interval
from flatminima.report.plate import Panel, Plate
from flatminima.report.quantity import Quantity
from flatminima.report.records import Method, Study
from flatminima.report.style import faint, label_axes, legend, strokes, template

__all__ = ["Cells", "heat", "lines", "points"]

Cells: TypeAlias = Sequence[tuple[str, Method, Interval | None]]


def points(study: Study, cells: Cells, quantity: Quantity) -> Plate:
    """A dot with its interval for every method."""
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    known = [(method, value) for _, method, value in reversed(cells) if value is not None]
    for place, (method, value) in enumerate(known):
        colour = strokes(study)[method.name].colour
        figure.add_trace(
            go.Scatter(
                x=[value.mean],
                y=[place],
                error_x={
                    "array": [value.half or 0.0],
                    "width": 0,
                    "thickness": 5,
                    "color": faint(colour, 0.5),
                },
                mode="markers",
                marker={"size": 11, "color": colour},
                name=method.label,
                legendgroup=method.name,
                showlegend=False,
                hovertemplate=f"{method.label}: {value} {quantity.unit}<extra></extra>",
            )
        )
    figure.update_yaxes(
        tickvals=list(range(len(known))),
        ticktext=[method.label for method, _ in known],
        range=[-0.6, len(known) - 0.4],
        showgrid=False,
        tickfont_size=14,
        automargin=True,
    )
    figure.update_xaxes(title_text=_axis(quantity), showgrid=True)
    _scale(figure, quantity, "x", known)
    figure.update_layout(margin_t=8)
    return _plate(study, cells, quantity, figure)


def lines(study: Study, cells: Cells, quantity: Quantity, case: str) -> Plate:
    """A line through the conditions for every method."""
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    cases = list(dict.fromkeys(name for name, _, _ in cells if name))
    methods = [method for method in study.methods if any(one is method for _, one, _ in cells)]
    for place, method in enumerate(methods):
        aside = 0.05 * (place - (len(methods) - 1) / 2)  # else one interval hides another
        mine = {name: value for name, one, value in cells if one is method and value is not None}
        if "" in mine:  # the same under every condition
            mine = dict.fromkeys(cases, mine[""])
        known = [(cases.index(name) + aside, name, mine[name]) for name in cases if name in mine]
        stroke = strokes(study)[method.name]
        figure.add_trace(
            go.Scatter(
                x=[x for x, _, _ in known],
                y=[value.mean for _, _, value in known],
                error_y={
                    "array": [value.half or 0.0 for _, _, value in known],
                    "width": 0,
                    "thickness": 1.4,
                },
                mode="lines+markers",
                line={"color": stroke.colour, "dash": stroke.dash, "width": 2.2},
                marker={"size": 7, "color": stroke.colour},
                text=[f"{method.label}, {name}: {value}" for _, name, value in known],
                name=method.label,
                legendgroup=method.name,
                hovertemplate=f"%{{text}} {quantity.unit}<extra></extra>",
            )
        )
    label_axes(figure, case, _axis(quantity))
    figure.update_xaxes(
        tickvals=list(range(len(cases))), ticktext=cases, range=[-0.4, len(cases) - 0.6]
    )
    known = [(method, value) for _, method, value in cells if value is not None]
    _scale(figure, quantity, "y", known)
    return _plate(study, cells, quantity, figure)


def heat(study: Study, cells: Cells, quantity: Quantity, case: str) -> Plate:
    """A table of colours: a row for every method, a column for every condition."""
    cases = list(dict.fromkeys(name for name, _, _ in cells if name))
    methods = [method for method in study.methods if any(one is method for _, one, _ in cells)]
    value = {(name, method.name): ours for name, method, ours in cells}
    table = [
        [value.get((name, method.name)) or value.get(("", method.name)) for name in cases]
        for method in methods
    ]
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    figure.add_trace(
        go.Heatmap(
            z=[[one and one.mean for one in line] for line in table],
            x=cases,
            y=[method.label for method in methods],
            text=[[f"{one.mean:.1f}" if one else "" for one in line] for line in table],
            texttemplate="%{text}",
            customdata=[[str(one) if one else "–" for one in line] for line in table],
            hovertemplate="%{y}, %{x}: %{customdata}<extra></extra>",
            colorscale="Cividis",
            reversescale=not quantity.larger,
            xgap=2,
            ygap=2,
            colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": quantity.unit}},
        )
    )
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, type="category")
    figure.update_xaxes(title_text=case, type="category")
    figure.update_layout(height=max(320, 60 + 26 * len(methods)), margin_t=8)
    return _plate(study, cells, quantity, figure)


def _axis(quantity: Quantity) -> str:
    """The name of the quantity's axis."""
    name = quantity.words
    parts = [quantity.unit, "log scale" if quantity.log else ""]
    told = ", ".join(filter(None, parts))
    return f"{name} ({told})" if told else name


def _scale(
    figure: go.Figure,
    quantity: Quantity,
    axis: str,
    known: Sequence[tuple[Method, Interval]],
) -> None:
    """A logarithmic axis where every mean is above 0 and the quantity asks for one."""
    if quantity.log and known and all(value.mean > 0 for _, value in known):
        figure.update_layout({f"{axis}axis": {"type": "log", "tickformat": "~g", "dtick": "D2"}})


def _plate(study: Study, cells: Cells, quantity: Quantity, figure: go.Figure) -> Plate:
    """The figure with its legend and caption."""
    counts = sorted({value.n for _, _, value in cells if value is not None})
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0] if counts else 0}"
    heated = any(isinstance(trace, go.Heatmap) for trace in figure.data)
    shown = "Means over seeds" if heated else "Means over seeds with 95 % intervals"
    return Plate(
        name="quantity",
        title=quantity.label,
        caption=f"{shown}, n = {n}.",
        panels=[Panel(figure=figure)],
        legend=[] if heated else legend(study, (method.name for _, method, _ in cells)),
        wide=heated,
    )
