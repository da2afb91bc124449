"""The figures of one network that was measured."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from flatminima.report.planes import contours, surface
from flatminima.report.plate import Entry, Panel, Plate
from flatminima.report.style import GREY, INKS, PALETTE, REGIONS, label_axes, template

__all__ = ["plates"]

Json = dict[str, Any]
ROOM = 0.09  # a share thinner than this has no room for its name
LAYERS = 24  # as many as a screen shows one below the other
ORDER = ("steeper", "gentler", "both_zero", "reversed_gentler", "reversed_steeper")


def plates(results: Mapping[str, Json]) -> list[Plate]:
    """Every figure that the results allow, in the order of the page."""
    drawn = (draw(results[name]) for name, draw in _DRAWS if name in results)
    return [plate for plate in drawn if plate is not None]


def _eigenvalues(found: Json) -> Plate:
    """The largest eigenvalues with their errors."""
    values, errors = _numbers(found["values"]), _numbers(found["residuals"])
    places = np.arange(1, len(values) + 1)
    figure = _figure()
    figure.add_trace(
        go.Scatter(
            x=places,
            y=values,
            error_y={"type": "data", "array": errors, "color": PALETTE[0], "thickness": 1.5},
            mode="markers",
            marker={"color": PALETTE[0], "size": 10},
            name="eigenvalue",
            hovertemplate="λ%{x}: %{y:.4g} ± %{error_y.array:.1g}<extra></extra>",
        )
    )
    label_axes(figure, "rank", "eigenvalue of the Hessian")
    figure.update_xaxes(tickvals=places, range=[0.5, len(values) + 0.5])
    figure.update_yaxes(rangemode="tozero")
    converged = "converged" if found["converged"] else "NOT converged"
    return Plate(
        name="eigenvalues",
        title=f"The first eigenvalue is {found['ratio']:.3g} times the last of {len(values)}",
        caption="Errors are residuals, mostly smaller than the dots; "
        f"{found['products']} products, {converged}.",
        panels=[Panel(figure=figure)],
    )


def _density(found: Json) -> Plate:
    """How the eigenvalues are spread, from the nodes and weights of each run."""
    nodes, weights = _numbers(found["nodes"]), _numbers(found["weights"])
    shares, edges = np.histogram(nodes, bins=61, weights=weights / len(nodes))
    middles = (edges[1:] + edges[:-1]) / 2
    kept = shares > 0
    figure = _figure()
    figure.add_trace(
        go.Bar(
            x=middles[kept],
            y=100 * shares[kept],
            width=edges[1] - edges[0],
            marker={"color": PALETTE[0], "line": {"width": 0}},
            name="share",
            hovertemplate="around %{x:.3g}: %{y:.3g} %<extra></extra>",
        )
    )
    label_axes(figure, "eigenvalue of the Hessian", "share of eigenvalues (%, log scale)")
    figure.update_yaxes(type="log", tickformat="~g")
    near = np.abs(nodes) <= 0.01 * np.abs(nodes).max()
    share = float(weights[near].sum() / len(nodes))
    return Plate(
        name="density",
        title=f"{100 * share:.0f} % of the eigenvalues are within 1 % of 0",
        caption=f"Of the largest in size; {len(nodes)} random vectors, {nodes.shape[1]} steps of "
        "Lanczos each, in bins: no smoothing.",
        panels=[Panel(figure=figure)],
    )


def _line(found: Json) -> Plate:
    """The loss along a line."""
    reach, loss = _numbers(found["line"]["reach"]), _numbers(found["line"]["loss"])
    figure = _figure()
    figure.add_trace(
        go.Scatter(
            x=reach,
            y=loss,
            mode="lines",
            line={"color": PALETTE[0], "width": 2.2},
            name="loss",
            hovertemplate="%{y:.4g} at %{x:.2f}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[0],
            y=[loss[len(loss) // 2]],
            mode="markers",
            marker={"color": PALETTE[1], "size": 9},
            name="the weights",
            hovertemplate="the weights: %{y:.4g}<extra></extra>",
        )
    )
    label_axes(figure, "distance along a filter-normalised direction", "loss")
    rise = (loss[0] + loss[-1]) / 2 - loss[len(loss) // 2]
    return Plate(
        name="line",
        title=f"The loss rises by {rise:.3g} within reach",
        caption="One random direction, as large in every filter as the weights: 1 is their own "
        "length.",
        panels=[Panel(figure=figure)],
    )


def _plane(found: Json) -> Plate | None:
    """The loss on a plane."""
    held = found["plane"]
    one, two, loss = (_numbers(held[key]) for key in ("one", "two", "loss"))
    loss = np.where(np.isfinite(loss), loss, np.nan)
    if np.isnan(loss).all():
        return None
    ends = float(np.nanmin(loss)), float(np.nanmax(loss))
    open_cells = f" {held['diverged']} points have no finite loss." if held["diverged"] else ""
    return Plate(
        name="landscape",
        title=f"On the plane the loss rises by {ends[1] - ends[0]:.3g}",
        caption=f"Two filter-normalised directions of cosine {held['cosine']:.2g}; drag to turn."
        f"{open_cells}",
        panels=[Panel(figure=surface(one, two, loss, ends, name="loss"))],
        flat=[Panel(figure=contours(one, two, loss, ends, name="loss"))],
    )


def _shares(found: Json) -> Plate:
    """The region shares of the data set and of one batch, as bars of 100 %."""
    rows = {name: _parts(share) for name, share in found["shares"].items()}
    figure = _bars(rows)
    figure.update_yaxes(autorange="reversed")
    share = found["shares"]["data set"]
    slopes = 1 - share["both_zero"]
    largest = max(
        (name for name in ORDER if name != "both_zero"),
        key=lambda name: rows["data set"][name],
    )
    size = rows["data set"][largest] / slopes if slopes else 0.0
    return Plate(
        name="regions",
        title=f"{100 * size:.0f} % of the slopes are {REGIONS[largest][0]} uphill",
        caption=f"Coordinates by the change of their slope a step of ρ = {found['rho']:g} uphill. "
        "Chance: 25 % each of what is not 0.",
        panels=[Panel(figure=figure)],
        legend=_legend(),
    )


def _layers(found: Json) -> Plate:
    """The region shares of every layer."""
    named = list(found["layers"].items())
    large = sorted(named, key=lambda pair: -pair[1]["coordinates"])[:LAYERS]
    kept = [pair for pair in named if pair in large]
    figure = _bars({name: _parts(share) for name, share in kept}, thin=True)
    figure.update_yaxes(autorange="reversed", tickfont_size=11)
    spread = [share["steeper"] for _, share in kept]
    note = f"The {LAYERS} largest of {len(named)}. " if len(named) > LAYERS else ""
    return Plate(
        name="layers",
        title=f"Between layers the steeper share goes from {100 * min(spread):.0f} to "
        f"{100 * max(spread):.0f} %",
        caption=f"{note}Parameters in the order of the network, of the whole data set.",
        panels=[Panel(figure=figure.update_layout(height=max(220, 60 + 22 * len(kept))))],
        legend=_legend(),
    )


def _ratios(found: Json) -> Plate:
    """How much steeper the steeper coordinates are."""
    edges, shares = found["bins"]["edges"], _numbers(found["bins"]["disjoint"])
    labels = [_range(low, high) for low, high in zip(edges, edges[1:], strict=False)]
    figure = _figure()
    figure.add_trace(
        go.Bar(
            x=labels,
            y=100 * shares,
            marker_color=REGIONS["steeper"][1],
            name="share",
            hovertemplate="%{x}: %{y:.2f} %<extra></extra>",
        )
    )
    label_axes(figure, "ratio of the perturbed to the current slope", "share of coordinates (%)")
    figure.update_layout(bargap=0.25)
    largest = labels[int(np.argmax(shares))]
    return Plate(
        name="ratios",
        title=f"Steeper slopes have most often grown by a factor of {largest}",
        caption="Disjoint bins of the ratio within the region steeper, in percent of all "
        "coordinates.",
        panels=[Panel(figure=figure)],
    )


def _beside_chance(found: Json) -> Plate:
    """Overlap and large slopes against what chance gives."""
    overlap = found["overlap"]
    rows = [("steeper in batch and data set", overlap["both"], overlap["chance"])]
    rows += [
        (f"steeper among large {which}", large["share"], large["chance"])
        for which, large in found["large"].items()
    ]
    union = found["union"]
    rows.append(("union over radii", union["union"], union["union_chance"]))
    labels = [label for label, *_ in rows]
    seen, chance = (100 * _numbers([row[place] for row in rows]) for place in (1, 2))
    figure = _figure()
    figure.add_trace(
        go.Scatter(
            x=np.stack([chance, seen, np.full(len(rows), np.nan)], axis=1).ravel(),
            y=[label for label in labels for _ in range(3)],
            mode="lines",
            line={"color": GREY, "width": 1.2},
            hoverinfo="skip",
            name="distance to chance",
        )
    )
    for values, name, colour in ((chance, "chance", GREY), (seen, "found", PALETTE[1])):
        figure.add_trace(
            go.Scatter(
                x=values,
                y=labels,
                mode="markers",
                marker={"color": colour, "size": 11},
                name=name,
                legendgroup=name,
                hovertemplate="%{x:.1f} %<extra>" + name + "</extra>",
            )
        )
    figure.update_layout(xaxis_title_text="share (%)", margin={"l": 216, "t": 10})
    figure.update_xaxes(range=[0, 104], tickvals=[0, 25, 50, 75, 100])
    figure.update_yaxes(autorange="reversed", showgrid=False, ticksuffix="  ")
    phis = [overlap["phi"], *(large["phi"] for large in found["large"].values())]
    strongest = max((float(phi) for phi in phis), key=abs)
    return Plate(
        name="chance",
        title=f"Against chance, the strongest relation has φ = {strongest:.2f}",
        caption="φ is 0 by chance and 1 for the same set of coordinates.",
        panels=[Panel(figure=figure)],
        legend=[
            Entry(group="found", label="found", colour=PALETTE[1]),
            Entry(group="chance", label="chance", colour=GREY),
        ],
    )


_DRAWS: tuple[tuple[str, Callable[[Json], Plate | None]], ...] = (
    ("hessian", _eigenvalues),
    ("density", _density),
    ("landscape", _line),
    ("landscape", _plane),
    ("regions", _shares),
    ("regions", _ratios),
    ("regions", _beside_chance),
    ("regions", _layers),
)


def _figure() -> go.Figure:
    return go.Figure(layout={"template": template()})


def _bars(rows: Mapping[str, Mapping[str, float]], *, thin: bool = False) -> go.Figure:
    """A bar of 100 % for each row, divided by region."""
    figure = _figure().update_layout(barmode="stack", bargap=0.35, hovermode="closest")
    for name in ORDER:
        label, colour = REGIONS[name]
        shares = [parts[name] for parts in rows.values()]
        said = [f"{100 * share:.0f} %" if share >= ROOM and not thin else "" for share in shares]
        figure.add_trace(
            go.Bar(
                x=[100 * share for share in shares],
                y=list(rows),
                orientation="h",
                marker={"color": colour, "line": {"width": 0}},
                text=said,
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont_color="white" if name.endswith("steeper") else INKS["light"].text,
                name=label,
                legendgroup=name,
                hovertemplate="%{y}: %{x:.1f} %<extra>" + label + "</extra>",
            )
        )
    longest = max(map(len, rows))
    figure.update_xaxes(
        title_text="share of coordinates (%)", range=[0, 100], tickvals=[0, 25, 50, 75, 100]
    )
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    return figure.update_layout(margin={"l": min(60 + 6 * longest, 260), "t": 10})


def _parts(share: Mapping[str, float]) -> dict[str, float]:
    """The shares with those that are 0 in both apart from the gentler ones."""
    return {name: share[name] for name in ORDER} | {
        "gentler": share["gentler"] - share["both_zero"]
    }


def _legend() -> list[Entry]:
    return [Entry(group=name, label=REGIONS[name][0], colour=REGIONS[name][1]) for name in ORDER]


def _range(low: float | str, high: float | str) -> str:
    low, high = float(low), float(high)
    return f"over {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def _numbers(values: Any) -> NDArray[np.floating]:  # noqa: ANN401 - nested lists, words for nan
    return np.asarray(values, dtype=float)
