"""Does sharing a displacement among fewer examples make the solution sparser?

Question: In diagonal linear networks on sparse regression, does 1-SAM end nearer to the
    interpolator of least l1 norm than gradient descent, the more so the larger its radius, and
    n-SAM not?
Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232, whose notebook prints test losses for
    one data seed, among them 0.0157 for gradient descent and 1.6e-05 for 1-SAM.
Expected: the distance to the least l1 norm falls with the radius for 1-SAM up to an edge of
    stability, and rises slightly for n-SAM.
Claim: 1-SAM has a better implicit bias than gradient descent and n-SAM.
Time: quick takes a minute on 2 cores; cpu, not yet carried out, is estimated at ten to fifteen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from flatminima.report.doubts import Doubt, always
from flatminima.report.interval import Interval, band
from flatminima.report.plate import Panel, Plate
from flatminima.report.reading import Reading
from flatminima.report.records import Run, Study
from flatminima.report.render import Cell, Table, runs_csv
from flatminima.report.style import faint, label_axes, legend, strokes, template
from flatminima.study.place import Place
from flatminima.study.run import Experiment
from flatminima.study.study import Method, Stages
from flatminima.theory.diagonal_linear import Descent, diagonal_linear
from flatminima.theory.sparse_regression import (
    Array,
    Regression,
    entropic,
    minimum_l1,
    minimum_l2,
    sparse_regression,
)

Part = Literal["radii", "phase", "switch"]

METHODS = (
    Method(name="gd", label="Gradient descent", baseline=True),
    Method(name="one", label="1-SAM"),
    Method(name="five", label="5-SAM"),
    Method(name="all", label="n-SAM"),
    Method(name="derivative", label="1-SAM, loss derivative only"),
    Method(name="normalized", label="1-SAM, normalised"),
    Method(name="sgd", label="SGD, one example"),
    Method(name="noise", label="Gradient descent, label noise"),
)
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "gd": {},
    "one": {"m": 1},
    "five": {"m": 5},
    "all": {"m": 20},
    "derivative": {"m": 1, "loss_derivative_only": True},
    "normalized": {"m": 1, "normalized": True},
    "sgd": {"batch": 1},
    "noise": {"label_noise": 0.05},
}
RADII = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
NORMALIZED = (0.001, 0.003, 0.01, 0.03)  # a length, where the others are a factor of the slope
GROUPS = (1, 2, 5, 10, 20)
CLOSE = 1e-3  # a training loss below it counts as fitted
NOTHING = 1e-6  # coefficients whose l2 norm is below it have shrunk to 0, as has a start below it


@dataclass(frozen=True, kw_only=True)
class Grid(Experiment):
    """One method on a grid of radii and starts, over several data seeds at once."""

    part: Part
    """Which question it answers."""
    seeds: tuple[int, ...]
    """Data seeds."""
    rhos: tuple[float, ...]
    """The radius at every place of the grid."""
    alphas: tuple[float, ...]
    """The start at every place of the grid."""
    gamma: float
    """The step size."""
    steps: int
    """Updates, of each of two stages where there are two."""
    m: int | None = None
    """Examples per displacement."""
    batch: int | None = None
    """Examples per step; None for all."""
    normalized: bool = False
    """Whether a displacement has length rho."""
    loss_derivative_only: bool = False
    """Whether the displacement touches the residuals alone."""
    label_noise: float = 0.0
    """The standard deviation of fresh noise on the labels."""
    second: float | None = None
    """The radius of a second stage; None for a single stage."""

    def perform(self, place: Place, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Descend, and measure where it ends."""
        data = sparse_regression(self.seeds)
        keep = sorted({int(step) for step in np.geomspace(1, self.steps, 60)})
        end = self._descend(data, np.array(self.rhos), keep)
        path, kept = end.path, list(end.kept)
        if self.second is not None:
            end = self._descend(data, np.full(len(self.rhos), self.second), keep, end)
            path = np.concatenate([path, end.path])
            kept += [self.steps + step for step in end.kept]
        curves = [data.test_loss(beta).tolist() for beta in path]
        good = float(np.mean(end.diverged < 0))
        return {
            **measured(data, end, exact=self.part == "radii"),
            "kept": kept,
            "curves": curves,
            "said": f"{100 * good:.0f} % of {end.diverged.size} descents did not diverge",
        }

    def _descend(
        self, data: Regression, rho: Array, keep: Sequence[int], start: Descent | None = None
    ) -> Descent:
        """One stage."""
        return diagonal_linear(
            data,
            rho=rho,
            gamma=self.gamma,
            m=self.m,
            alpha=np.array(self.alphas),
            steps=self.steps,
            batch=self.batch,
            normalized=self.normalized,
            loss_derivative_only=self.loss_derivative_only,
            label_noise=self.label_noise,
            start=start,
            keep=keep if self.part == "switch" else (),
        )


def measured(data: Regression, end: Descent, *, exact: bool) -> dict[str, Any]:
    """Losses, distances to the exact interpolators, and the start that the end remembers."""
    beta = end.beta
    numbers: dict[str, Any] = {
        "test_loss": end.test_loss,
        "loss": end.loss,
        "norm": np.linalg.norm(beta, axis=-1),
        "diverged_at": end.diverged,
    }
    if exact:
        l1, l2 = minimum_l1(data)[:, None], minimum_l2(data)[:, None]
        alive = np.isfinite(beta).all(axis=-1)
        predicted = np.full_like(beta, np.nan)
        begun = np.maximum(end.alpha_predicted, 1e-8)  # smaller ones are as good as none
        for seed, place in np.argwhere(alive):
            one = Regression(
                x=data.x[[seed]], y=data.y[[seed]], x_test=data.x_test[[seed]],
                y_test=data.y_test[[seed]], beta=data.beta[[seed]], seeds=(int(seed),),
            )  # fmt: skip
            predicted[seed, place] = entropic(one, begun[[seed], place][:, None])[0, 0]
        numbers |= {
            "to_l1": np.linalg.norm(beta - l1, axis=-1),
            "to_l2": np.linalg.norm(beta - l2, axis=-1),
            "to_predicted": np.linalg.norm(beta - predicted, axis=-1),
            "alpha": np.median(end.alpha, axis=-1),
            "alpha_predicted": np.median(end.alpha_predicted, axis=-1),
        }
    return {name: np.asarray(value).tolist() for name, value in numbers.items()}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One size of the study."""

    seeds: int
    """Data seeds of the comparison; none of them is the source's."""
    steps: int
    """Updates."""
    phase_seeds: int
    """Data seeds of the phase diagram."""
    side: int
    """Points per side of the phase diagram."""


PRESETS = {
    "quick": Plan(seeds=20, steps=10_001, phase_seeds=2, side=6),
    "cpu": Plan(seeds=50, steps=30_001, phase_seeds=10, side=12),
}
GAMMA = 5 / 30
OWN = (
    "Fresh data seeds, from 1 on; the source has seed 0 alone, whose losses a test reproduces.",
    "The radius means the same for every m; the source's code doubles it in 1-SAM alone.",
)
DIFFERENCES = {"quick": OWN, "cpu": OWN}


def runs(plan: Plan) -> Stages:
    """Yield the comparison, the switches and the phase diagram."""
    yield [*compared(plan), *switched(plan), *phases(plan)]


def count(plan: Plan) -> int:
    """How many runs there are."""
    return len(METHODS) + 4 + len(GROUPS)


def compared(plan: Plan) -> list[Grid]:
    """Every method at every radius."""
    own = {"one": RADII, "five": RADII, "all": RADII, "derivative": RADII, "normalized": NORMALIZED}
    return [
        grid(plan, method, "radii", own.get(method.name, (0.0,)), **SETTINGS[method.name])
        for method in METHODS
    ]


def switched(plan: Plan) -> list[Grid]:
    """Gradient descent, 1-SAM, and each after the other, at twice the length."""
    gd, one = METHODS[:2]
    stages = ((gd, 0.0, 0.0), (gd, 0.0, 0.3), (one, 0.3, 0.0), (one, 0.3, 0.3))
    return [grid(plan, method, "switch", (rho,), m=1, second=then) for method, rho, then in stages]


def phases(plan: Plan) -> list[Grid]:
    """Radius against start, for groups of every size."""
    rhos, alphas = np.geomspace(0.02, 1.0, plan.side), np.geomspace(0.02, 0.5, plan.side)
    pairs = [(float(rho), float(alpha)) for alpha in alphas for rho in rhos]
    names = {1: "one", 5: "five", 20: "all"}
    return [
        grid(
            plan,
            next(one for one in METHODS if one.name == names.get(m, "one")),
            "phase",
            tuple(rho for rho, _ in pairs),
            alphas=tuple(alpha for _, alpha in pairs),
            seeds=tuple(range(1, 1 + plan.phase_seeds)),
            m=m,
        )
        for m in GROUPS
    ]


def grid(
    plan: Plan,
    method: Method,
    part: Part,
    rhos: tuple[float, ...],
    **settings: Any,  # noqa: ANN401 - fields of any kind
) -> Grid:
    """One run."""
    common: dict[str, Any] = {
        "seeds": tuple(range(1, 1 + plan.seeds)),
        "alphas": (0.1,) * len(rhos),
        "gamma": GAMMA,
        "steps": plan.steps,
    }
    return Grid(method=method.name, label=method.label, part=part, rhos=rhos, **(common | settings))


# ---- reading


def reading(study: Study) -> Reading:
    """What the records say."""
    found = {run.method: run for run in of_part(study, "radii")}
    plates = [
        *radii(study, found),
        switches(study),
        phase(study),
    ]
    return Reading(
        answer=answer(found),
        table=table(study, found),
        note="Over the data seeds: the mean distance ± half of its 95 % interval, and the "
        "geometric mean of the test losses with its interval. The radius is the one nearest to the "
        "least l1 norm at which no seed diverged.",
        plates=[plate for plate in plates if plate is not None],
        doubts=[*always(study), *doubts(found)],
        setting=f"preset {study.word('preset')}, {len(found)} methods, "
        f"{len(seeds(found))} data seeds",
        claims=claims(found),
        files={"runs": runs_csv(study, [])},
    )


def of_part(study: Study, part: Part) -> list[Run]:
    """The finished runs of a part."""
    return [run for run in study.select() if run.settings["part"] == part]


def seeds(found: Mapping[str, Run]) -> list[int]:
    """The data seeds of the comparison."""
    return next(iter(found.values())).settings["seeds"] if found else []


def numbers(run: Run, name: str) -> Array:
    """One measure of a run, (seeds, grid); nan where a descent diverged."""
    values = np.array((run.result or {})[name], dtype=float)
    return np.where(np.array((run.result or {})["diverged_at"]) >= 0, np.nan, values)


def best(run: Run) -> int | None:
    """The place of the radius nearest to the least l1 norm, of those where nothing diverged."""
    means = np.mean(numbers(run, "to_l1"), axis=0)
    return None if np.isnan(means).all() else int(np.nanargmin(means))


def at(run: Run, name: str, place: int) -> Interval | None:
    """A measure at one place."""
    return Interval.of(numbers(run, name)[:, place].tolist())


def gain(found: Mapping[str, Run], name: str, place: int) -> Interval | None:
    """The distance to the least l1 norm minus gradient descent's, seed by seed."""
    ours, theirs = numbers(found[name], "to_l1")[:, place], numbers(found["gd"], "to_l1")[:, 0]
    return Interval.of((ours - theirs).tolist())


def table(study: Study, found: Mapping[str, Run]) -> Table:
    """A row per method, at its best radius."""
    header = [
        "Method",
        "ρ",
        "Distance to least l1 norm",
        "Distance to least l2 norm",
        "Test loss",
        "Effective α, median",
        "Minus gradient descent’s distance",
    ]
    rows: list[list[Cell]] = []
    known = [method for method in study.methods if method.name in found]
    for method in known:
        run, place = found[method.name], best(found[method.name])
        if place is None:
            rows.append([Cell(method.label), *[Cell("–")] * (len(header) - 1)])
            continue
        rho = run.settings["rhos"][place]
        apart = gain(found, method.name, place) if method.name != "gd" and "gd" in found else None
        cells = [method.label, f"{rho:g}" if rho else "–"]
        cells += [spread(at(run, name, place)) for name in ("to_l1", "to_l2")]
        cells.append(logarithmic(numbers(run, "test_loss")[:, place]))
        cells.append(f"{np.median(numbers(run, 'alpha')[:, place]):.2g}")
        rows.append([Cell(cell) for cell in [*cells, "–" if apart is None else str(apart)]])
    return Table(header=header, rows=rows, methods=[method.name for method in known])


def spread(value: Interval | None) -> str:
    """A mean ± half of its interval."""
    if value is None:
        return "–"
    return f"{value.mean:.4f}" + ("" if value.half is None else f" ± {value.half:.4f}")


def logarithmic(values: Array) -> str:
    """A geometric mean with its interval."""
    value = Interval.of(np.log10(np.maximum(values, 1e-300)).tolist())
    if value is None:
        return "–"
    return f"{10**value.mean:.2g} [{10**value.low:.2g}, {10**value.high:.2g}]"


def answer(found: Mapping[str, Run]) -> str:
    """Whether the distance falls, in one sentence."""
    if not {"gd", "one", "all"} <= set(found) or (place := best(found["one"])) is None:
        return "No answer yet: not every run has finished."
    rho, value = found["one"].settings["rhos"][place], gain(found, "one", place)
    assert value is not None  # there is a seed
    side = best(found["all"])
    other = gain(found, "all", side) if side is not None else None
    if not value.decided:
        first = f"No difference between 1-SAM and gradient descent in distance: {value}"
    else:
        word = "nearer to" if value.mean < 0 else "farther from"
        size = value if value.mean > 0 else value.times(-1)
        first = f"1-SAM with ρ = {rho:g} ends {size} {word} the least l1 norm than gradient descent"
    return f"{first}, {value.n} data seeds; at its best radius, n-SAM differs by {other}."


def claims(found: Mapping[str, Run]) -> list[tuple[str, str]]:
    """What was claimed, and what was found."""
    said: list[tuple[str, str]] = []
    for name, claim in (
        ("one", "The larger the radius of 1-SAM, the nearer it ends to the least l1 norm."),
        ("all", "n-SAM gains nothing over gradient descent."),
    ):
        if name in found and "gd" in found:
            said.append((claim, along(found, name)))
    if "one" in found:
        off = numbers(found["one"], "to_predicted")
        size = numbers(found["one"], "to_l1")
        said.append(
            (
                "SAM acts as gradient flow from a smaller start, α exp(−∫B).",
                f"1-SAM ends within {np.nanmedian(off):.2g} of the interpolator that this predicts "
                f"(median over radii and seeds; the distance to the least l1 norm is "
                f"{np.nanmedian(size):.2g}). It is exact only for small steps and at the end.",
            )
        )
    return said


def along(found: Mapping[str, Run], name: str) -> str:
    """The distances along the radii, and how often a descent diverged."""
    run = found[name]
    distance, test = numbers(run, "to_l1"), numbers(run, "test_loss")
    base = numbers(found["gd"], "to_l1")[:, 0]
    parts = [f"0: {np.mean(base):.3f}"]
    for place, rho in enumerate(run.settings["rhos"]):
        lost = int(np.isnan(test[:, place]).sum())
        word = f" ({lost} of {len(test)} diverged)" if lost else ""
        values = distance[:, place]
        mean = "none left" if lost == len(test) else f"{np.nanmean(values):.3f}"
        parts.append(f"{rho:g}: {mean}{word}")
    return f"Mean distance by radius: {', '.join(parts)}; n = {len(test)} data seeds."


def doubts(found: Mapping[str, Run]) -> list[Doubt]:
    """Descents that diverged, or had not fitted yet."""
    said: list[Doubt] = []
    for run in found.values():
        gone = np.array((run.result or {})["diverged_at"])
        label = run.settings["label"]
        for place, rho in enumerate(run.settings["rhos"]):
            steps = gone[:, place][gone[:, place] >= 0]
            if len(steps):
                text = (
                    f"{label}, ρ = {rho:g}: {len(steps)} of {len(gone)} seeds, at steps "
                    f"{min(steps)} to {max(steps)}."
                )
                said.append(Doubt("Diverged", text))
        if parts := list(unfitted(run)):
            text = f"{label}: training loss above {CLOSE:g} {', '.join(parts)}."
            said.append(Doubt("Not fitted", text))
    return said


def unfitted(run: Run) -> Iterator[str]:
    """How many seeds have not fitted, radius by radius, and how many of these ended at 0."""
    late = numbers(run, "loss") > CLOSE
    shrunk = late & (numbers(run, "norm") < NOTHING)
    for place, rho in enumerate(run.settings["rhos"]):
        if many := int(late[:, place].sum()):
            word = f" ({zero} shrunk to 0)" if (zero := int(shrunk[:, place].sum())) else ""
            yield f"in {many} of {len(late)} seeds at ρ = {rho:g}{word}"


def radii(study: Study, found: Mapping[str, Run]) -> list[Plate]:
    """Distance and test loss by radius, and how well the prediction does."""
    pictures = (
        ("to_l1", "distance to the least l1 norm", "distance", "Nearer to the least l1 norm"),
        ("test_loss", "test loss (log scale)", "test-loss", "Test loss by radius"),
        ("alpha", "effective start α (log scale)", "alpha", "The start that the end remembers"),
    )
    return [by_radius(study, found, *picture) for picture in pictures if found]


def by_radius(
    study: Study, found: Mapping[str, Run], name: str, up: str, file: str, title: str
) -> Plate:
    """One measure along the radii, means over bands, gradient descent as a level line."""
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    shown = [word for word in ("gd", "one", "five", "all", "derivative") if word in found]
    for word in shown:
        run = found[word]
        rhos = np.array(run.settings["rhos"] if word != "gd" else [RADII[0], RADII[-1]])
        values = numbers(run, name)
        values = np.repeat(values, 2, axis=1) if word == "gd" else values
        values = np.maximum(values, NOTHING) if name == "alpha" else values
        add_band(figure, study, word, rhos, values, logarithm=name != "to_l1")
        if name == "alpha" and word != "gd":
            guess = np.maximum(numbers(run, "alpha_predicted"), NOTHING)
            told = np.exp(np.nanmean(np.log(guess), axis=0))
            figure.add_scatter(
                x=rhos, y=told, mode="markers", legendgroup=word, name=f"{word}, predicted",
                marker={"symbol": "x-thin", "size": 9,
                        "line": {"width": 2, "color": strokes(study)[word].colour}},
            )  # fmt: skip
    label_axes(figure, "radius ρ (log scale)", up)
    figure.update_xaxes(type="log", tickvals=RADII, ticktext=[f"{rho:g}" for rho in RADII])
    if name != "to_l1":
        figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    if name == "alpha":
        figure.update_yaxes(range=[-6.3, -0.5], dtick=2)
    cross = " Crosses: predicted by α exp(−γ ΣB). Below 1e-6 counts as 1e-6."
    cross = cross if name == "alpha" else ""
    caption = f"Means and 95 % bands over the seeds that did not diverge, n ≤ {len(seeds(found))}."
    return Plate(
        name=file,
        title=heading(found, title) if name == "to_l1" else title,
        caption=caption + cross,
        panels=[Panel(figure=figure)],
        legend=legend(study, shown),
        wide=name == "to_l1",
    )


def heading(found: Mapping[str, Run], title: str) -> str:
    """What the distances show."""
    place = best(found["one"]) if "one" in found and "gd" in found else None
    value = gain(found, "one", place) if place is not None else None
    if value is None or not value.decided:
        return "Distance to the least l1 norm by radius"
    return f"{title} with 1-SAM" if value.mean < 0 else "1-SAM ends farther from the least l1 norm"


def add_band(
    figure: go.Figure, study: Study, word: str, x: Array, values: Array, *, logarithm: bool
) -> None:
    """A mean over its band; of logarithms where the axis is one."""
    kept = ~np.isnan(values).all(axis=0)
    x, values = x[kept], values[:, kept]
    mean, half = band(np.log(np.maximum(values, 1e-300)) if logarithm else values)
    low, high = mean - half, mean + half
    if logarithm:
        low, mean, high = np.exp(low), np.exp(mean), np.exp(high)
    stroke = strokes(study)[word]
    label = next(method.label for method in study.methods if method.name == word)
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
        fillcolor=faint(stroke.colour, 0.16), line={"width": 0}, mode="lines", hoverinfo="skip",
        legendgroup=word, name=f"{label}, 95 % band",
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=mean, mode="lines+markers", legendgroup=word, name=label,
        line={"color": stroke.colour, "dash": stroke.dash, "width": 2.2},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate=f"{label}, ρ = %{{x:g}}: %{{y:.3g}} "
        "[%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>",
    )  # fmt: skip


ORDERS = {
    (0.0, 0.0): ("gradient descent throughout", "#858585", "solid"),
    (0.0, 0.3): ("then 1-SAM", "#858585", "dash"),
    (0.3, 0.0): ("1-SAM, then gradient descent", "#0072B2", "dash"),
    (0.3, 0.3): ("1-SAM throughout", "#0072B2", "solid"),
}


def switches(study: Study) -> Plate | None:
    """The test loss through training with a change of method half-way."""
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    found = of_part(study, "switch")
    for run in found:
        label, colour, dash = ORDERS[(run.settings["rhos"][0], run.settings["second"])]
        curves = np.array((run.result or {})["curves"], dtype=float)[..., 0]
        figure.add_scatter(
            x=(run.result or {})["kept"],
            y=np.exp(np.nanmean(np.log(curves), axis=1)),
            mode="lines",
            legendgroup=run.method,
            name=label,
            line={"color": colour, "dash": dash, "width": 2.2},
            hovertemplate=f"{label}, step %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    if not found:
        return None
    label_axes(figure, "step; the method changes half-way", "test loss (log scale)")
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return Plate(
        name="switches",
        title="Changing the method half-way",
        caption="Geometric means over data seeds, ρ = 0.3. Grey begins with gradient descent, blue "
        f"with 1-SAM; dashes change half-way. n = {len(found[0].settings['seeds'])}.",
        panels=[Panel(figure=figure)],
    )


def phase(study: Study) -> Plate | None:
    """Test loss over radius and start, a map per group size."""
    found = sorted(of_part(study, "phase"), key=lambda run: run.settings["m"])
    if not found:
        return None
    maps = [np.log10(np.maximum(np.mean(numbers(run, "test_loss"), axis=0), 1e-8)) for run in found]
    low, high = (end([end(z[np.isfinite(z)]) for z in maps]) for end in (np.min, np.max))
    panels: list[Panel] = []
    for run, z in zip(found, maps, strict=True):
        rhos, alphas = sorted(set(run.settings["rhos"])), sorted(set(run.settings["alphas"]))
        figure = go.Figure(layout={"template": template()})
        figure.add_heatmap(
            x=[f"{rho:.2g}" for rho in rhos],
            y=[f"{alpha:.2g}" for alpha in alphas],
            z=z.reshape(len(alphas), len(rhos)).astype(np.float32),
            zmin=low,
            zmax=high,
            colorscale="Cividis",
            colorbar={"title": "log₁₀", "thickness": 10},
            hovertemplate="ρ = %{x}, α = %{y}: 10^%{z:.2f}<extra></extra>",
        )
        label_axes(figure, "radius ρ", "start α")
        figure.update_xaxes(type="category").update_yaxes(type="category")
        panels.append(Panel(figure=figure, title=f"m = {run.settings['m']}"))
    n = len(found[0].settings["seeds"])
    return Plate(
        name="phase",
        title="Where the test loss is small, by radius, start and m",
        caption=f"Mean test loss of n = {n} data seeds, one scale for all maps; empty where a seed "
        "diverged.",
        panels=panels,
    )
