"""The figures of a report, each under a title that says what is seen."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from flatminima.report.areas import shares
from flatminima.report.curves import (
    POINTS,
    Series,
    along_epochs,
    along_result,
    drawing,
    found,
    seeds,
    shown,
)
from flatminima.report.interval import Interval
from flatminima.report.plate import Panel, Plate
from flatminima.report.points import differences, radii
from flatminima.report.records import Study
from flatminima.report.style import label_axes, legend
from flatminima.report.surfaces import surfaces
from flatminima.report.table import listed, rows

__all__ = ["plates", "standing_out"]

BANDS = "Lines are means over seeds, bands 95 % intervals"


def plates(study: Study) -> list[Plate]:
    """Every figure that the records allow, in the order of the page."""
    draws = (differences, accuracies, losses, memorised, slices, surfaces, shares, radii)
    return [plate for draw in draws if (plate := draw(study)) is not None]


def accuracies(study: Study) -> Plate | None:
    """Test accuracy through training."""
    curves = found(study, along_epochs("test_accuracy", 100))
    if not curves:
        return None
    figure = drawing(study, curves, place="epoch", form=".1f")
    label_axes(figure, "epoch", "test accuracy (%)")
    floor = _floor(curves)
    note = ""
    if floor is not None:
        figure.update_yaxes(range=[floor, _ceiling(curves)])
        note = f"The axis begins at {floor:g} %, above the first epochs. "
    title = _ending(study)
    return _plate(study, curves, figure, name="test-accuracy", title=title, note=note)


def losses(study: Study) -> Plate | None:
    """Training loss through training."""
    curves = found(study, along_epochs("train_loss"))
    if not curves:
        return None
    title = standing_out(
        [(one.method.label, one.last()) for one in curves],
        low="{} ends with the lowest training loss",
        high="{} ends with the highest training loss",
        alike="No training loss ends apart from all others",
        single="Training loss through training",
    )
    figure = drawing(study, curves, place="epoch", form=".3f")
    label_axes(figure, "epoch", "training loss (log scale)")
    figure.update_yaxes(type="log", tickvals=_ticks(curves), tickformat="~g")
    return _plate(study, curves, figure, name="training-loss", title=title)


def memorised(study: Study) -> Plate | None:
    """How many of the wrong labels the network has learnt."""
    curves = found(study, along_epochs("noisy_accuracy", 100))
    if not curves:
        return None
    title = standing_out(
        [(one.method.label, one.last()) for one in curves],
        low="{} memorises the fewest wrong labels",
        high="{} memorises the most wrong labels",
        alike="No method stands apart in the wrong labels it memorises",
        single="Wrong labels memorised through training",
    )
    figure = drawing(study, curves, place="epoch", form=".1f")
    label_axes(figure, "epoch", "wrong labels memorised (%)")
    return _plate(study, curves, figure, name="wrong-labels", title=title)


def slices(study: Study) -> Plate | None:
    """The loss along a filter-normalised direction, every method on the same axes."""
    curves = found(study, along_result("slice_1d", "reach", "loss"))
    if not curves:
        return None
    title = standing_out(
        [(one.method.label, Interval.of(_rises(one))) for one in curves],
        low="The loss rises least around {}",
        high="The loss rises most around {}",
        alike="No method stands apart in how the loss rises around it",
        single="The loss along one direction",
    )
    figure = drawing(study, curves, place="distance", form=".3f")
    label_axes(figure, "distance along a filter-normalised direction", "training loss")
    note = "One random direction, from the same seed for all, scaled to the norm of each filter. "
    return _plate(study, curves, figure, name="slice", title=title, note=note)


def _floor(curves: Sequence[Series]) -> float | None:
    """Where the axis may begin so that the second half of training fills it, if that helps."""
    late = min(float(np.nanmin(one.values[:, len(one.places) // 2 :])) for one in curves)
    first = min(float(np.nanmin(one.values)) for one in curves)
    top = _ceiling(curves)
    floor = math.floor((late - 0.05 * (top - late)) / 5) * 5.0
    return floor if top - floor < 0.6 * (top - first) else None


def _ceiling(curves: Sequence[Series]) -> float:
    """A little above the highest value."""
    high = max(float(np.nanmax(one.values)) for one in curves)
    low = min(float(np.nanmin(one.values[:, len(one.places) // 2 :])) for one in curves)
    return high + 0.05 * (high - low)


def _ticks(curves: Sequence[Series]) -> list[float]:
    """Round numbers along a logarithmic axis: 1, 2, 5, or powers of ten if these are many."""
    values = np.concatenate([one.values.ravel() for one in curves])
    values = values[values > 0]
    if not len(values):
        return []
    powers = range(math.floor(np.log10(values.min())), math.ceil(np.log10(values.max())) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if 0.8 * values.min() <= tick <= 1.25 * values.max()]
    return (
        inside
        if len(inside) <= 9
        else [tick for tick in inside if tick in {10.0**power for power in powers}]
    )


def standing_out(
    values: Sequence[tuple[str, Interval | None]], *, low: str, high: str, alike: str, single: str
) -> str:
    """A title that names the lowest of some values, or else the highest, if it is apart.

    Args:
        values: A label and its value, each.
        low: The title if the lowest is apart from all others, with a place for its label.
        high: The title if only the highest is.
        alike: The title if neither is.
        single: The title if there is nothing to compare, or no interval.

    Returns:
        The title.
    """
    known = [(label, value) for label, value in values if value and value.half is not None]
    if len(known) < 2 or len(known) < len(values):
        return single
    ranked = sorted(known, key=lambda pair: pair[1].mean)
    for title, (label, end), others in (
        (low, ranked[0], ranked[1:]),
        (high, ranked[-1], ranked[:-1]),
    ):
        if all(end.apart(value) for _, value in others):
            return title.format(label)
    return alike


def _plate(
    study: Study,
    curves: Sequence[Series],
    figure: go.Figure,
    *,
    name: str,
    title: str,
    note: str = "",
) -> Plate:
    """Curves with their legend and caption."""
    few = shown(curves)
    thin = (
        f" Thinned to {POINTS} points." if any(len(one.places) == POINTS for one in curves) else ""
    ) + (f" Single runs: {few} each." if any(len(one.runs) > few for one in curves) else "")
    return Plate(
        name=name,
        title=title,
        caption=f"{note}{BANDS}, {seeds(curves)}.{thin}",
        panels=[Panel(figure=figure)],
        legend=legend(study, (one.method.name for one in curves)),
    )


def _ending(study: Study) -> str:
    """The title of the accuracies: the first decided difference to the baseline."""
    known = [row for row in rows(study) if row.difference and row.difference.half is not None]
    if study.baseline is None or not known:
        return "Test accuracy through training"
    base = study.baseline.label
    sides = {
        side: [row.method.label for row in known if row.verdict == verdict]
        for side, verdict in (("above", "better"), ("below", "worse"))
    }
    if not any(sides.values()):
        return f"No method ends apart from {base} in test accuracy"
    many = sum(map(len, sides.values())) > 3
    said = [
        f"{f'{len(labels)} methods' if many else listed(labels)} {side}"
        for side, labels in sides.items()
        if labels
    ]
    verb = "ends" if sum(map(len, sides.values())) == 1 else "end"
    first, *others = said
    words, side = first.rsplit(" ", 1)
    return ", ".join([f"{words} {verb} {side} {base} in test accuracy", *others])


def _rises(one: Series) -> list[float]:
    """How far the loss of each run rises from the middle to the mean of both ends."""
    middle = int(np.argmin(np.abs(one.places)))
    return [float((row[0] + row[-1]) / 2 - row[middle]) for row in one.values]
