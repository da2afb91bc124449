"""Does SAM learn a simpler function than gradient descent, with fewer kinks?

Question: Of the functions that fit twelve points on a line, does SAM find one with fewer kinks than
    gradient descent, when both have the same step sizes?
Source: Andriushchenko and Flammarion 2022, arXiv:2206.06232, which shows the functions of networks
    with 100 hidden units and no number; there, SAM's step size falls to 0 and that of gradient
    descent does not.
Expected: fewer kinks and a smaller sharpness for SAM.
Claim: SAM gives visibly simpler interpolants than gradient descent.
Time: quick takes a minute and a half on 2 cores that others use as well (130 s of one core); cpu,
    not yet carried out, is estimated at 20 minutes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from flatminima.report.doubts import Doubt, always
from flatminima.report.interval import Interval
from flatminima.report.plate import Panel, Plate
from flatminima.report.reading import Reading
from flatminima.report.records import Study
from flatminima.report.render import Cell, Table, runs_csv
from flatminima.report.style import faint, label_axes, legend, strokes, template
from flatminima.study.place import Place
from flatminima.study.run import Experiment
from flatminima.study.study import Method, Stages
from flatminima.theory.relu_1d import POINTS, TARGETS, ReluNets, Schedule, relu_1d, values

METHODS = (
    Method(name="gd", label="Gradient descent", baseline=True),
    Method(name="sam", label="SAM"),
    Method(name="gd_constant", label="Gradient descent, constant step"),
)
RADIUS = 0.3
LINE = np.linspace(-1.6, 1.7, 331)
SEEN = {"share": 0.01, "apart": 0.01}  # what the eye tells apart


@dataclass(frozen=True, kw_only=True)
class Networks(Experiment):
    """Networks of several seeds, trained together."""

    seeds: tuple[int, ...]
    """One network for each."""
    steps: int
    """The most steps."""
    schedule: Schedule = "linear"
    """How the step size goes."""
    rho: float | None = None
    """The radius; None for gradient descent."""

    @property
    def seed(self) -> int:
        """The first of the seeds."""
        return self.seeds[0]

    def perform(self, place: Place, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Train them, and keep the weights."""
        keep = sorted({int(step) for step in np.geomspace(1, self.steps, 48)})
        nets = relu_1d(
            self.seeds,
            rho=self.rho or 0.0,
            schedule=self.schedule,
            steps=self.steps,
            keep=keep,
        )
        for step, weights in zip(nets.kept, nets.path, strict=True):
            log({"kind": "function", "step": step, "values": values(weights[:1], LINE)[0].tolist()})
        return {
            "weights": nets.weights.tolist(),
            "loss": nets.loss.tolist(),
            "stopped": nets.stopped.tolist(),
            "diverged_at": nets.diverged.tolist(),
            "functions": [values(weights[0], LINE).round(5).tolist() for weights in nets.path],
            "steps_kept": list(nets.kept),
            "said": f"median loss {np.nanmedian(nets.loss):.1e}, "
            f"median of {np.median(nets.kinks(**SEEN)):.0f} kinks",
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One size of the study."""

    chunks: tuple[tuple[int, ...], ...]
    """The seeds of each run."""
    steps: int
    """The most steps of each network."""


CHUNKS = (tuple(range(13)), tuple(range(13, 25)))
PRESETS = {
    "quick": Plan(chunks=CHUNKS, steps=60_000),
    "cpu": Plan(chunks=CHUNKS, steps=1_000_000),
}
OWN = (
    "The random numbers of the start are our own, of the source's distributions.",
    "Both methods have step sizes that fall to 0; the source's constant one is a row of its own.",
)
DIFFERENCES = {
    "quick": (*OWN, "60 000 steps, not the source's million, so that the fit is not complete."),
    "cpu": OWN,
}


def runs(plan: Plan) -> Stages:
    """Yield every method on every chunk of seeds."""
    yield [run(method, seeds, plan.steps) for seeds in plan.chunks for method in METHODS]


def count(plan: Plan) -> int:
    """How many runs there are."""
    return len(plan.chunks) * len(METHODS)


def run(method: Method, seeds: tuple[int, ...], steps: int) -> Networks:
    """One method on one chunk of seeds."""
    return Networks(
        method=method.name,
        label=method.label,
        seeds=seeds,
        steps=steps,
        schedule="constant" if method.name == "gd_constant" else "linear",
        rho=RADIUS if method.name == "sam" else None,
    )


# ---- reading


def reading(study: Study) -> Reading:
    """What the records say."""
    nets = {
        method.name: found for method in study.methods if (found := networks(study, method.name))
    }
    return Reading(
        answer=answer(nets),
        table=table(study, nets),
        note="Means over seeds ± half of the 95 % interval (Student’s t). Kinks seen: bends closer "
        "than 0.01 are one, and those below 1 % of the total bending are none. Sharpness: largest "
        "eigenvalue of J′J.",
        plates=[functions(study), per_seed(study, nets)] if nets else [],
        doubts=[*always(study), *doubts(nets)],
        setting=f"preset {study.word('preset')}, {len(study.methods)} methods, "
        f"{len(next(iter(nets.values())).loss) if nets else 0} seeds",
        heading="Every method",
        claims=claims(nets),
        files={"runs": runs_csv(study, [])},
    )


def networks(study: Study, method: str) -> ReluNets | None:
    """All networks of a method, by seed."""
    results = [run.result for run in study.select(method) if run.result]
    if not results:
        return None
    weights = np.concatenate([np.array(result["weights"]) for result in results])
    return ReluNets(
        weights=weights,
        loss=np.concatenate([result["loss"] for result in results]).astype(float),
        stopped=np.concatenate([result["stopped"] for result in results]),
        diverged=np.concatenate([result["diverged_at"] for result in results]),
        kept=(),
        path=np.empty((0, *weights.shape)),
    )


MEASURES: Mapping[str, Callable[[ReluNets], Any]] = {
    "Kinks seen": lambda nets: nets.kinks(**SEEN),
    "Kinks, exact": lambda nets: nets.kinks(),
    "Total bending": lambda nets: nets.bending,
    "Sharpness": lambda nets: nets.sharpness,
    "Loss": lambda nets: nets.loss,
}


def interval(value: Any, good: Any) -> Interval | None:  # noqa: ANN401 - an array
    """The mean over the networks that did not diverge."""
    return Interval.of(np.asarray(value, dtype=float)[good].tolist())


def table(study: Study, nets: Mapping[str, ReluNets]) -> Table:
    """A row per method."""
    header = ["Method", "n", *MEASURES, "Kinks seen, minus gradient descent's"]
    rows: list[list[Cell]] = []
    for name, mine in nets.items():
        good = mine.diverged < 0
        label = next(method.label for method in study.methods if method.name == name)
        cells = [label, f"{good.sum()} of {len(good)}"]
        cells += [spread(interval(measure(mine), good)) for measure in MEASURES.values()]
        gain = difference(nets, name, "Kinks seen") if name != "gd" else None
        cells.append("–" if gain is None else str(gain))
        rows.append([Cell(cell) for cell in cells])
    return Table(header=header, rows=rows, methods=list(nets))


def spread(value: Interval | None) -> str:
    """A mean ± half of its interval, to three figures."""
    if value is None:
        return "–"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value.mean) or 1))))
    half = "" if value.half is None else f" ± {value.half:.{digits}f}"
    return f"{value.mean:.{digits}f}{half}"


def difference(nets: Mapping[str, ReluNets], name: str, measure: str) -> Interval | None:
    """A measure minus gradient descent's, seed by seed."""
    if name not in nets or "gd" not in nets:
        return None
    mine, base = nets[name], nets["gd"]
    good = (mine.diverged < 0) & (base.diverged < 0)
    gap = np.asarray(MEASURES[measure](mine), float) - np.asarray(MEASURES[measure](base), float)
    return interval(gap, good)


def answer(nets: Mapping[str, ReluNets]) -> str:
    """The number of kinks, seen and exact, in one sentence."""
    names = ("Kinks seen", "Kinks, exact", "Sharpness")
    seen, exact, sharp = (difference(nets, "sam", name) for name in names)
    if seen is None or exact is None or sharp is None:
        return "No answer yet: no run has finished."
    return (
        f"SAM’s functions show {more(seen)} kinks than gradient descent’s, and have {more(exact)} "
        f"by the exact count, {seen.n} seeds; the sharpness differs by {spread(sharp)}."
    )


def more(difference: Interval) -> str:
    """A difference in words: how many more or fewer, or that it is not decided."""
    if not difference.decided:
        return f"neither more nor fewer (by {difference})"
    size = difference if difference.mean > 0 else difference.times(-1)
    return f"{size} {'more' if difference.mean > 0 else 'fewer'}"


def claims(nets: Mapping[str, ReluNets]) -> list[tuple[str, str]]:
    """What was claimed, and what was found."""
    said: list[tuple[str, str]] = []
    if (seen := difference(nets, "sam", "Kinks seen")) is not None:
        exact, bent = (difference(nets, "sam", name) for name in ("Kinks, exact", "Total bending"))
        said.append(
            (
                "SAM’s interpolants are visibly simpler than gradient descent’s.",
                f"With equal step sizes, SAM minus gradient descent: {seen} kinks seen, {exact} "
                f"exact kinks, {bent} in total bending; {seen.n} seeds.",
            )
        )
    if (unequal := difference(nets, "gd_constant", "Kinks seen")) is not None:
        said.append(
            (
                "The source compares with a constant step size for gradient descent.",
                f"That alone changes the kinks seen by {unequal}: read SAM’s difference beside it.",
            )
        )
    return said


def doubts(nets: Mapping[str, ReluNets]) -> list[Doubt]:
    """What the numbers do not say."""
    found = [
        Doubt(
            "Exact kinks",
            "Nearly every hidden unit bends the function somewhere, if only a little: the exact "
            "count says how many units bend between the outer points, not what one sees.",
        )
    ]
    for name, mine in nets.items():
        label = next(method.label for method in METHODS if method.name == name)
        late = int(np.sum((mine.stopped < 0) & (mine.diverged < 0)))
        if late:
            text = f"{label}: {late} of {len(mine.loss)} networks end above a loss of 1e-5."
            found.append(Doubt("Not fitted", text))
        lost = [int(step) for step in mine.diverged if step >= 0]
        if lost:
            found.append(Doubt("Diverged", f"{label}: at steps {', '.join(map(str, lost))}."))
    return found


def functions(study: Study) -> Plate:
    """The function of the first seed through training."""
    drawn = strokes(study)
    films = {
        method.name: study.select(method.name)[0].result or {}
        for method in study.methods
        if study.select(method.name)
    }
    steps = sorted({step for film in films.values() for step in film["steps_kept"]})
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    for name, film in films.items():
        label = next(method.label for method in study.methods if method.name == name)
        figure.add_scatter(
            x=LINE.astype(np.float32),
            y=np.float32(film["functions"][-1]),
            mode="lines",
            name=label,
            legendgroup=name,
            line={
                "color": drawn[name].colour,
                "dash": drawn[name].dash,
                "width": 4.5 if name == "gd" else 2.2,  # seen under one that agrees with it
            },
        )
    figure.add_scatter(
        x=POINTS,
        y=TARGETS,
        mode="markers",
        name="the twelve points",
        marker={"size": 9, "symbol": "circle-open", "line": {"width": 2}, "color": "#858585"},
    )
    figure.frames = [
        go.Frame(
            name=f"{step}",
            traces=list(range(len(films))),
            data=[{"y": np.float32(at(film, step))} for film in films.values()],
        )
        for step in steps
    ]
    label_axes(figure, "x", "f(x)")
    figure.update_yaxes(range=[-3.2, 4.2])
    figure.update_layout(sliders=[slider(steps)], margin={"b": 110}, updatemenus=[play()])
    return Plate(
        name="functions",
        title="What the first seed learns, from the first step to the last",
        caption="One network per method, all from the same start. Play it, or move the slider; "
        "steps are spaced by their logarithm. n = 1.",
        panels=[Panel(figure=figure)],
        legend=legend(study, films),
        wide=True,
    )


def at(film: Mapping[str, Any], step: int) -> Any:  # noqa: ANN401 - a list of numbers
    """The function at a step, the last one before it."""
    places = [place for place, kept in enumerate(film["steps_kept"]) if kept <= step]
    return film["functions"][places[-1] if places else 0]


def slider(steps: list[int]) -> dict[str, Any]:
    """A slider over the steps, at its end."""
    move = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}
    return {
        "active": len(steps) - 1,
        "x": 0.12,
        "len": 0.88,
        "pad": {"t": 34},
        "currentvalue": {"prefix": "step ", "font": {"size": 13, "color": "#858585"}},
        "steps": [
            {"label": f"{step:,}", "method": "animate", "args": [[f"{step}"], move]}
            for step in steps
        ],
        "ticklen": 0,
        "minorticklen": 0,
        "font": {"size": 1, "color": "rgba(0,0,0,0)"},
    }


def play() -> dict[str, Any]:
    """A button that plays the frames."""
    speed = {"frame": {"duration": 120, "redraw": False}, "fromcurrent": False}
    button = {"label": "▶ play", "method": "animate", "args": [None, speed]}
    return {
        "type": "buttons",
        "showactive": False,
        "buttons": [button],
        "x": 0,
        "y": -0.2,
        "xanchor": "left",
        "yanchor": "top",
        "font": {"size": 13},
        "bgcolor": "rgba(0,0,0,0)",
    }


def per_seed(study: Study, nets: Mapping[str, ReluNets]) -> Plate:
    """Sharpness over kinks, a dot per network."""
    drawn = strokes(study)
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    for name, mine in nets.items():
        good = mine.diverged < 0
        figure.add_scatter(
            x=mine.kinks(**SEEN)[good],
            y=mine.sharpness[good],
            mode="markers",
            legendgroup=name,
            name=next(method.label for method in study.methods if method.name == name),
            marker={
                "size": 13 if name == "gd" else 8,
                "color": faint(drawn[name].colour, 0.75),
            },
            text=[f"seed {seed}" for seed in np.flatnonzero(good)],
            hovertemplate="%{text}: %{x} kinks, sharpness %{y:.3g}<extra></extra>",
        )
    label_axes(figure, "kinks seen", "sharpness (log scale)")
    ticks = [base * 10**power for power in range(1, 7) for base in (1, 2, 5)]
    figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    n = max(len(mine.loss) for mine in nets.values())
    return Plate(
        name="kinks",
        title="Kinks and sharpness, network by network",
        caption=f"A dot is one network. n = {n} seeds per method.",
        panels=[Panel(figure=figure)],
        legend=legend(study, nets),
    )
