"""The figures of a report, each under a title that says what is seen."""

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
)
from flatminima.report.interval import Interval
from flatminima.report.plate import Panel, Plate
from flatminima.report.points import differences, radii
from flatminima.report.records import Study
from flatminima.report.style import label_axes, legend
from flatminima.report.surfaces import surfaces
from flatminima.report.table import rows

__all__ = ["plates"]

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
    return _plate(study, curves, figure, name="test-accuracy", title=_ending(study))


def losses(study: Study) -> Plate | None:
    """Training loss through training."""
    curves = found(study, along_epochs("train_loss"))
    if not curves:
        return None
    title = lowest(
        [(one.method.label, one.last()) for one in curves],
        seen="{} ends with the lowest training loss",
        alike="No training loss ends below all others",
        single="Training loss through training",
    )
    figure = drawing(study, curves, place="epoch", form=".3f")
    label_axes(figure, "epoch", "training loss (log scale)").update_yaxes(type="log", dtick="D2")
    return _plate(study, curves, figure, name="training-loss", title=title)


def memorised(study: Study) -> Plate | None:
    """How many of the wrong labels the network has learnt."""
    curves = found(study, along_epochs("noisy_accuracy", 100))
    if not curves:
        return None
    title = lowest(
        [(one.method.label, one.last()) for one in curves],
        seen="{} memorises the fewest wrong labels",
        alike="No method memorises fewer wrong labels than all others",
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
    title = lowest(
        [(one.method.label, Interval.of(_rises(one))) for one in curves],
        seen="The loss rises least around {}",
        alike="The loss rises least around no single method",
        single="The loss along one direction",
    )
    figure = drawing(study, curves, place="distance", form=".3f")
    label_axes(figure, "distance along a filter-normalised direction", "training loss")
    note = "One random direction, from the same seed for all, scaled to the norm of each filter. "
    return _plate(study, curves, figure, name="slice", title=title, note=note)


def lowest(
    values: Sequence[tuple[str, Interval | None]], *, seen: str, alike: str, single: str
) -> str:
    """A title that names the lowest of some values, if its interval is apart from all others.

    Args:
        values: A label and its value, each.
        seen: The title with a place for the label.
        alike: The title if no value is apart.
        single: The title if there is nothing to compare, or no interval.

    Returns:
        The title.
    """
    known = [(label, value) for label, value in values if value and value.half is not None]
    if len(known) < 2 or len(known) < len(values):
        return single
    (label, first), *others = sorted(known, key=lambda pair: pair[1].mean)
    return seen.format(label) if all(first.apart(value) for _, value in others) else alike


def _plate(
    study: Study, curves: Sequence[Series], figure: go.Figure, *, name: str, title: str, note: str = ""
) -> Plate:
    """Curves with their legend and caption."""
    thin = f" Thinned to {POINTS} points." if any(len(one.places) == POINTS for one in curves) else ""
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
    decided = [row for row in known if row.verdict != "no difference"]
    if not decided:
        return f"No method ends apart from {base}"
    words = {"better": "above", "worse": "below"}
    return f"{decided[0].method.label} ends {words[decided[0].verdict]} {base} in test accuracy"


def _rises(one: Series) -> list[float]:
    """How far the loss of each run rises from the middle to the mean of both ends."""
    middle = int(np.argmin(np.abs(one.places)))
    return [float((row[0] + row[-1]) / 2 - row[middle]) for row in one.values]
