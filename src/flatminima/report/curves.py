"""Curves of the final runs: the mean of each method over its 95 % band."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from flatminima.report.interval import Interval, band
from flatminima.report.records import Json, Method, Run, Study
from flatminima.report.style import Stroke, faint, strokes, template

__all__ = [
    "POINTS",
    "SINGLES",
    "Curve",
    "Series",
    "along_epochs",
    "along_result",
    "compact",
    "drawing",
    "found",
    "seeds",
    "shown",
    "thinned",
]

Array = NDArray[np.floating]
Curve = Callable[[Run], tuple[ArrayLike, ArrayLike]]
POINTS = 400  # as many as a screen shows along a curve
SINGLES = 100  # runs that a figure draws one by one, which is more than an eye can tell apart


@dataclass(frozen=True, kw_only=True)
class Series:
    """The curves of the final runs of one method on common places."""

    method: Method
    """The method."""
    runs: Sequence[Run]
    """The runs, one per row of `values`."""
    places: Array
    """Where the values are: epochs, or distances."""
    values: Array
    """One row per run; nan where a run has no value."""

    @property
    def pairs(self) -> list[tuple[Run, Array]]:
        """Every run with its values."""
        return list(zip(self.runs, self.values, strict=True))

    def last(self) -> Interval | None:
        """The last value of each run."""
        return Interval.of([row[~np.isnan(row)][-1] for row in self.values])


def along_epochs(name: str, factor: float = 1.0) -> Curve:
    """The curve of one number per epoch, times a factor for its unit."""

    def curve(run: Run) -> tuple[Array, Array]:
        values = factor * run.epochs.column(name)
        known = ~np.isnan(values)
        return run.epochs.column("epoch")[known], values[known]

    return curve


def along_result(name: str, across: str, up: str) -> Curve:
    """The curve that a result holds under a name."""

    def curve(run: Run) -> tuple[ArrayLike, ArrayLike]:
        held: Json = (run.result or {}).get(name) or {}
        return held.get(across, []), held.get(up, [])

    return curve


def found(study: Study, curve: Curve) -> list[Series]:
    """The curves of every method that has any, in the order of the study."""
    every = [(method, study.select(method.name, stage="final")) for method in study.methods]
    return [one for method, runs in every if (one := _series(method, runs, curve)) is not None]


def _series(method: Method, runs: Sequence[Run], curve: Curve) -> Series | None:
    """The curves of some runs on the union of their places."""
    curves = [(run, *map(np.asarray, curve(run))) for run in runs]
    curves = [(run, x, y) for run, x, y in curves if np.isfinite(y).any()]
    if not curves:
        return None
    places = np.unique(np.concatenate([x for _, x, _ in curves])).astype(float)
    values = np.full((len(curves), len(places)), np.nan)
    for row, (_, x, y) in zip(values, curves, strict=True):
        row[np.searchsorted(places, x)] = np.where(np.isfinite(y), y, np.nan)
    kept = thinned(len(places))
    runs = [run for run, *_ in curves]
    return Series(method=method, runs=runs, places=places[kept], values=values[:, kept])


def thinned(count: int) -> NDArray[np.integer]:
    """The places of at most `POINTS` of so many values, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def shown(groups: Sequence[object]) -> int:
    """How many runs of each group, from its first on, a figure has room to draw one by one."""
    return max(1, SINGLES // len(groups))


def seeds(curves: Sequence[Series]) -> str:
    """How many seeds the curves are of, as in a caption."""
    counts = sorted({len({run.seed for run in one.runs}) for one in curves})
    many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"n = {many} seed{'' if counts == [1] else 's'}"


def drawing(study: Study, curves: Sequence[Series], *, place: str, form: str) -> go.Figure:
    """The means of some curves over their bands, the single runs hidden behind them.

    Args:
        study: The study, which gives each method its stroke.
        curves: What to draw.
        place: What a place is, for the hover text: `epoch`.
        form: How a value is written there, in d3's language: `.1f`.

    Returns:
        The figure, its axes still without names.
    """
    drawn, few = strokes(study), shown(curves)
    figure = go.Figure(layout={"template": template(), "hovermode": "x unified"})
    figure.add_traces([_band(one, drawn[one.method.name]) for one in curves])
    for one in curves:
        figure.add_traces(_singles(one, drawn[one.method.name], form, few))
    figure.add_traces([_mean(one, drawn[one.method.name], form) for one in curves])
    return figure.update_xaxes(unifiedhovertitle_text=f"{place} %{{x:~g}}")


def _band(one: Series, stroke: Stroke) -> go.Scatter:
    """The 95 % band of a method; nothing where there is a single run."""
    mean, half = band(one.values)
    known = ~np.isnan(half)
    x, low, high = one.places[known], (mean - half)[known], (mean + half)[known]
    return go.Scatter(
        x=compact(np.concatenate([x, x[::-1]])),
        y=compact(np.concatenate([high, low[::-1]])),
        fill="toself",
        fillcolor=faint(stroke.colour, 0.16),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=one.method.name,
        name=f"{one.method.label}, 95 % band",
    )


def _mean(one: Series, stroke: Stroke, form: str) -> go.Scatter:
    """The mean of a method, with the ends of its interval to read off."""
    mean, half = band(one.values)
    ends = (
        "" if np.isnan(half).all() else f" [%{{customdata[0]:{form}}}, %{{customdata[1]:{form}}}]"
    )
    return go.Scatter(
        x=compact(one.places),
        y=compact(mean),
        customdata=compact(np.stack([mean - half, mean + half], axis=1)),
        mode="lines" if len(one.places) > 1 else "markers",
        line={"color": stroke.colour, "dash": stroke.dash, "width": 2.2},
        legendgroup=one.method.name,
        name=one.method.label,
        hovertemplate=f"%{{y:{form}}}{ends}",
    )


def _singles(one: Series, stroke: Stroke, form: str, few: int) -> list[go.Scatter]:
    """A faint line for each of the first few runs, hidden until it is asked for."""
    return [
        go.Scatter(
            x=compact(one.places),
            y=compact(row),
            mode="lines",
            line={"color": faint(stroke.colour, 0.55), "dash": stroke.dash, "width": 1},
            visible=False,
            showlegend=False,
            legendgroup=one.method.name,
            name=f"{one.method.label}, seed {run.seed}, run {run.key}",
            hovertemplate=f"%{{y:{form}}}",
            meta={"single": True},
        )
        for run, row in one.pairs[:few]
    ]


def compact(values: Array) -> NDArray[np.float32]:
    """Values with the seven digits that a drawing can use."""
    return values.astype(np.float32)
