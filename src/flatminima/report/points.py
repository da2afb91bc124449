"""What is drawn as points: the difference of every seed, the accuracy at every radius."""

from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from flatminima.report.curves import shown
from flatminima.report.interval import Interval
from flatminima.report.plate import Panel, Plate
from flatminima.report.records import Method, Run, Study
from flatminima.report.style import GREY, faint, label_axes, legend, strokes, template
from flatminima.report.table import Radius, Row, accuracy, grid, listed, rows

__all__ = ["differences", "radii"]


def differences(study: Study) -> Plate | None:
    """The difference to the baseline, a dot per seed."""
    drawn = [row for row in rows(study) if row.difference is not None]
    if not drawn or study.baseline is None:
        return None
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    few = shown(drawn)
    for place, row in enumerate(reversed(drawn)):
        figure.add_traces([_interval(study, row, place), _dots(study, row, place, few)])
    _rule(figure, [row.method.label for row in reversed(drawn)])
    counts = [row.difference.n for row in drawn if row.difference]
    n = _range(counts) + (f", of which {few} are drawn" if max(counts) > few else "")
    caption = (
        "A dot is one seed, trained both ways; the bar is the 95 % interval of their mean. "
        f"{study.baseline.label} is the line at 0. n = {n}."
    )
    return Plate(
        name="differences",
        title=_wins(study, drawn[0]),
        caption=caption,
        panels=[Panel(figure=figure)],
        legend=legend(study, (row.method.name for row in drawn)),
    )


def _rule(figure: go.Figure, labels: list[str]) -> None:
    """Axes with a row per method and a line at 0 for the baseline."""
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        range=[-0.6, len(labels) - 0.4],
        showgrid=False,
        tickfont_size=14,
        automargin=True,
    )
    figure.update_xaxes(
        title_text="difference in test accuracy (points)",
        showgrid=True,
        zeroline=True,
        zerolinewidth=2,
        zerolinecolor=GREY,
        rangemode="tozero",
    )
    figure.update_layout(margin_t=8)


def _interval(study: Study, row: Row, place: int) -> go.Scatter:
    """The mean of a method's differences and its interval, as a bar with a notch."""
    assert row.difference is not None  # the caller has looked
    colour, value = strokes(study)[row.method.name].colour, row.difference
    return go.Scatter(
        x=[value.low, value.mean, value.high],
        y=[place + 0.14] * 3,
        mode="lines+markers",
        marker={
            "size": [0, 14, 0],
            "symbol": "line-ns",
            "line": {"width": 4, "color": colour},
            "opacity": 1,
        },
        line={"color": faint(colour, 0.7), "width": 6},
        name=row.method.label,
        legendgroup=row.method.name,
        showlegend=False,
        hovertemplate=f"{row.method.label}: {value} points<extra></extra>",
    )


def _dots(study: Study, row: Row, place: int, few: int) -> go.Scatter:
    """A dot for each of the first few seeds, which tells its two runs."""
    colour = strokes(study)[row.method.name].colour
    pairs = _pairs(study, row.method)[:few]
    return go.Scatter(
        x=[100 * ((accuracy(one) or 0.0) - (accuracy(other) or 0.0)) for one, other in pairs],
        y=[place - 0.16] * len(pairs),
        mode="markers",
        marker={"size": 9, "color": faint(colour, 0.8)},
        text=[_told(one, other) for one, other in pairs],
        name=f"{row.method.label}, seeds",
        legendgroup=row.method.name,
        showlegend=False,
        hovertemplate="%{x:+.2f} points<br>%{text}<extra></extra>",
    )


def _pairs(study: Study, method: Method) -> list[tuple[Run, Run]]:
    """The final runs of a method with the baseline's of the same seed."""
    assert study.baseline is not None  # the caller has looked
    ours, theirs = (
        {run.seed: run for run in study.select(name, stage="final") if accuracy(run) is not None}
        for name in (method.name, study.baseline.name)
    )
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _told(one: Run, other: Run) -> str:
    """Two runs in words."""
    return "<br>".join(
        [f"seed {one.seed}"]
        + [
            f"{run.method} {100 * (accuracy(run) or 0):.2f} %, run {run.key}"
            for run in (one, other)
        ]
    )


def _wins(study: Study, row: Row) -> str:
    """In how many seeds a method is above the baseline."""
    assert study.baseline is not None  # the caller has looked
    pairs = _pairs(study, row.method)
    above = sum((accuracy(one) or 0.0) > (accuracy(other) or 0.0) for one, other in pairs)
    seeds = f"{len(pairs)} seed{'' if len(pairs) == 1 else 's'}"
    return f"{row.method.label} is above {study.baseline.label} in {above} of {seeds}"


def _range(counts: Iterable[int]) -> str:
    """Some counts, as in a caption."""
    low, *_, high = [*sorted(counts)] * 2
    return f"{low}" if low == high else f"{low} to {high}"


def radii(study: Study) -> Plate | None:
    """Validation accuracy at every radius of the grid."""
    entries = [entry for entry in grid(study) if entry.accuracy is not None]
    if not entries:
        return None
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    methods = [
        method for method in study.methods if any(entry.method is method for entry in entries)
    ]
    for place, method in enumerate(methods):
        mine = [entry for entry in entries if entry.method is method]
        aside = 1.025 ** (place - (len(methods) - 1) / 2)  # else one interval hides another
        figure.add_trace(_radius_line(study, mine, aside))
    label_axes(figure, "radius ρ (log scale)", "validation accuracy (%)")
    figure.update_yaxes(range=_range_of([entry.accuracy for entry in entries if entry.accuracy]))
    ticks = sorted({entry.rho for entry in entries})
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{rho:g}" for rho in ticks])
    n = _range(entry.accuracy.n for entry in entries if entry.accuracy)
    return Plate(
        name="radius",
        title=_chosen(entries),
        caption="Means over the grid's runs with 95 % intervals; a ring marks the radius of the "
        f"final runs. n = {n} per radius.",
        panels=[Panel(figure=figure)],
        legend=legend(study, (method.name for method in methods)),
    )


def _range_of(values: Sequence[Interval]) -> list[float]:
    """The ends of an axis of percentages: an interval may leave them, a percentage cannot."""
    low, high = min(value.low for value in values), max(value.high for value in values)
    room = 0.05 * (high - low)
    return [max(0.0, low - room), min(100.0, high + room)]


def _radius_line(study: Study, entries: list[Radius], aside: float) -> go.Scatter:
    """The accuracies of one method, the chosen radius ringed."""
    stroke, method = strokes(study)[entries[0].method.name], entries[0].method
    known = [(entry, entry.accuracy) for entry in entries if entry.accuracy is not None]
    return go.Scatter(
        x=[aside * entry.rho for entry, _ in known],
        y=[value.mean for _, value in known],
        error_y={"array": [value.half or 0.0 for _, value in known], "width": 0, "thickness": 1.4},
        mode="lines+markers",
        line={"color": stroke.colour, "dash": stroke.dash, "width": 2.2},
        marker={
            "size": [13 if entry.chosen else 7 for entry, _ in known],
            "color": stroke.colour,
            "symbol": ["circle-open" if entry.chosen else "circle" for entry, _ in known],
            "line": {"width": [3 if entry.chosen else 0 for entry, _ in known]},
            "opacity": 1,
        },
        text=[
            f"{method.label}, ρ = {entry.rho:g}: {value} %, n = {value.n}" for entry, value in known
        ],
        name=method.label,
        legendgroup=method.name,
        hovertemplate="%{text}<extra></extra>",
    )


def _chosen(entries: list[Radius]) -> str:
    """Which radii the final runs have."""
    chosen: dict[float, list[str]] = {}
    for entry in entries:
        if entry.chosen:
            chosen.setdefault(entry.rho, []).append(entry.method.label)
    if not chosen:
        return "Validation accuracy by radius"
    if sum(map(len, chosen.values())) > 3:
        low, high = min(chosen), max(chosen)
        between = f"is {low:g}" if low == high else f"lies between {low:g} and {high:g}"
        return f"The chosen radius {between}, by method"
    said = [f"{rho:g} for {listed(labels)}" for rho, labels in chosen.items()]
    return f"Chosen radius: {', '.join(said)}"
