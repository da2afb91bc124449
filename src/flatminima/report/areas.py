"""The shares of the four regions through training, as areas."""

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from flatminima.report.curves import Curve, Series, compact, found, seeds
from flatminima.report.plate import Entry, Panel, Plate
from flatminima.report.records import Run, Study
from flatminima.report.style import INKS, REGIONS, label_axes, template

__all__ = ["CHANCE", "shares"]

CHANCE = 25  # percent: independent slopes of one symmetric law, by sign and by size
ROOM = 7  # percent: an area thinner than this has no room for its name


def shares(study: Study) -> Plate | None:
    """The region shares, a panel per method."""
    curves = {name: found(study, _share(name)) for name in REGIONS}
    panels = [dict(zip(curves, same, strict=True)) for same in zip(*curves.values(), strict=True)]
    if not panels:
        return None
    return Plate(
        name="regions",
        title=_largest(panels[0]),
        caption="Every coordinate of the gradient by its change a step uphill, means over seeds, "
        f"{seeds(curves['steeper'])}. Chance: {CHANCE} % each of what is not 0.",
        panels=[_panel(regions) for regions in panels],
        legend=[
            Entry(group=name, label=label, colour=colour)
            for name, (label, colour) in REGIONS.items()
        ],
    )


def _share(name: str) -> Curve:
    """The curve of one region, in percent; the records count `both_zero` as gentler as well."""

    def column(run: Run, name: str) -> NDArray[np.floating]:
        return np.nan_to_num(run.regions.column(name))  # absent is none

    def curve(run: Run) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        share = column(run, name)
        if name == "gentler":
            share = share - column(run, "both_zero")
        kept = ~np.isnan(run.regions.column("gentler"))
        return run.regions.column("epoch")[kept], 100 * share[kept]

    return curve


def _panel(regions: dict[str, Series]) -> Panel:
    """The areas of one method."""
    figure = go.Figure(layout={"template": template(), "hovermode": "x unified"})
    figure.add_traces([_area(name, one) for name, one in regions.items()])
    label_axes(figure, "epoch", "share of coordinates (%)")
    figure.update_yaxes(range=[0, 100], tickvals=[0, 25, 50, 75, 100], showgrid=False)
    _name(figure, regions)
    figure.update_xaxes(unifiedhovertitle_text="epoch %{x:.1f}")
    method = regions["steeper"].method
    return Panel(figure=figure, title=method.label, method=method.name)


def _area(name: str, one: Series) -> go.Scatter:
    """The mean share of one region, on top of those before it."""
    label, colour = REGIONS[name]
    return go.Scatter(
        x=compact(one.places),
        y=compact(_mean(one)),
        stackgroup="shares",
        mode="lines",
        line={"width": 0.6, "color": "rgba(255,255,255,0.8)"},
        fillcolor=colour,
        name=label,
        legendgroup=name,
        hovertemplate="%{y:.1f} %",
    )


def _name(figure: go.Figure, regions: dict[str, Series]) -> None:
    """Write the share at the end of training into each area that has room for it."""
    below = 0.0
    for name, one in regions.items():
        share = _late(one)
        if share >= ROOM:
            figure.add_annotation(
                text=f"{share:.0f} %",
                x=1,
                xref="paper",
                y=below + share / 2,
                xanchor="right",
                xshift=-6,
                showarrow=False,
                font_color="white" if name.endswith("steeper") else INKS["light"].text,
            )
        below += share


def _late(one: Series) -> float:
    """The mean share over the last quarter of training."""
    return float(np.mean(_mean(one)[-max(1, len(one.places) // 4) :]))


def _mean(one: Series) -> NDArray[np.floating]:
    """The mean over the runs that have a value."""
    return np.nanmean(one.values, axis=0)


def _largest(regions: dict[str, Series]) -> str:
    """Which region is the largest over the last quarter of training, of what is not 0."""
    late = {name: _late(one) for name, one in regions.items()}
    slopes = 100 - late.pop("both_zero")
    label = regions["steeper"].method.label
    if slopes < 1:
        return f"Under {label}, hardly a coordinate has a slope in the end"
    name = max(late, key=late.__getitem__)
    share = 100 * late[name] / slopes
    return f"Under {label}, {share:.0f} % of the slopes end {REGIONS[name][0]} uphill"
