"""Does SAM keep out of sharp minima, on surfaces that can be seen whole?

Question: On functions of two variables, from which starts does a descent end in a flat minimum,
    with SAM and without, and above which radius does SAM leave a sharp valley?
Source: seminar slides on Foret et al. 2021, arXiv:2010.01412, whose pictures show one descent of
    Adagrad and one of Adagrad with SAM on the functions of Easom and of Eggholder. They give no
    start, radius, step size or number.
Expected: SAM ends in sharp minima less often, the less the larger its radius; it leaves a valley
    above the closed form of its escape radius.
Claim: SAM does not let a descent fall into sharp minima.
Time: on 2 shared cores quick takes a minute and cpu 10 minutes; paper, not carried out, is
    estimated at 2 hours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from flatminima.report.doubts import Doubt, always
from flatminima.report.plate import Panel, Plate
from flatminima.report.reading import Reading
from flatminima.report.records import Run, Study
from flatminima.report.render import Cell, Table, runs_csv
from flatminima.report.style import PALETTE, faint, label_axes, legend, strokes, template
from flatminima.study.place import Place
from flatminima.study.run import Experiment
from flatminima.study.study import Method, Stages

Base = Literal["gradient", "momentum", "Adagrad", "Adam"]
Words = Mapping[str, Any]
Array = NDArray[Any]
Maps = Mapping[tuple[str, str, str], Run]  # by surface, optimizer and method
Pairs = Sequence[tuple[str, str]]

METHODS = (
    Method(name="plain", label="Without SAM", baseline=True),
    Method(name="sam", label="SAM"),
    Method(name="asam", label="ASAM"),
    Method(name="msam", label="m-SAM, m = 1"),
)
SURFACES = {
    "easom": "Easom",
    "eggholder": "Eggholder",
    "valleys": "Two valleys",
    "himmelblau": "Himmelblau",
    "rosenbrock": "Rosenbrock",
    "beale": "Beale",
    "ackley": "Ackley",
    "rastrigin": "Rastrigin",
}
RADII = (0.005, 0.01, 0.02, 0.05, 0.1)  # shares of the width of the box
OWN_SIZE = (
    4  # ASAM: the weights are a quarter of the box's width large, so this makes the same length
)
EXAMPLES = 4  # of m-SAM
WITHIN = 0.02  # of the width: so close to a minimum is in it
FILM_SIDE, FILM_STEPS = 4, 12
SCENES = 4  # as many as a page has room for
DRAWN = {"valleys": "gradient"}  # by Adagrad elsewhere
CURVATURES = (100.0, 4.0)  # of the two valleys
GROUND = ("#9fb4c8", "#c9d5df", "#eceff2")  # quiet, and no method's colour


@dataclass(frozen=True, kw_only=True)
class Map(Experiment):
    """Where every start of a grid ends, at every radius."""

    surface: str
    """Which surface."""
    base: Base
    """Which optimizer takes the steps."""
    shares: tuple[float, ...]
    """The radii, as shares of the box's width."""
    side: int
    """Starts along each axis."""
    steps: int
    """Steps of each descent."""
    seed: int = 0
    """Of what tells the examples of m-SAM apart."""

    def perform(self, place: Place, log: Callable[[Words], None]) -> Words:
        """Descend from all starts, radius by radius."""
        surface = _surface(self.surface)
        found = _minima(self.surface)
        sharpness = [float(value) for value in found.sharpness]
        rows = [self._at(share, surface, found, log) for share in self.shares]
        picture = surface.grid(61).double()
        flat = _flat(sharpness)
        said = "no minimum is flatter than another"
        if any(flat):
            best = max(100 * sum(np.array(row["counts"])[flat]) / self.side**2 for row in rows)
            said = f"at most {best:.0f} % of the starts end in a flat minimum"
        return {
            "minima": found.points.tolist(),
            "sharpness": _plain(found.sharpness),
            "values": found.values.tolist(),
            "box": surface.box,
            "rows": rows,
            "heights": _plain(surface.values(picture)) if self.method == "plain" else [],
            "lr": self._lr(sharpness),
            "said": said,
        }

    def _at(
        self,
        share: float,
        surface: Any,  # noqa: ANN401 - torch is loaded by runs, not by the report
        found: Any,  # noqa: ANN401
        log: Callable[[Words], None],
    ) -> Words:
        """One radius: the map, the shares, and a few paths."""
        import torch

        from flatminima.landscape import basins, descents, tilts

        rho = self._rho(share)
        slope = float(
            surface.gradients(surface.grid(50).double()).square().sum(-1).nan_to_num().mean().sqrt()
        )
        generator = torch.Generator().manual_seed(self.seed)
        many = (
            {"tilts": tilts(EXAMPLES, slope, generator).double(), "m": 1}
            if self.method == "msam"
            else {}
        )
        go_down = partial(
            descents,
            surface,
            optimizer=self._optimizer([float(value) for value in found.sharpness]),
            rule=_rule(self.method, rho),
            steps=self.steps,
            **many,
        )
        ended = go_down(surface.grid(self.side).double().reshape(-1, 2))
        where = basins(ended, found, within=WITHIN * self._width())
        film = go_down(surface.grid(FILM_SIDE).double().reshape(-1, 2), every=1)
        kept = _frames(self.steps)
        path = film.path[torch.tensor(kept)].transpose(0, 1)
        row = {
            "share": share,
            "rho": rho,
            "index": where.index.tolist(),
            "counts": [one.count for one in where.shares],
            "nowhere": where.nowhere.count,
            "diverged": where.diverged.count,
            "first_diverged": int(ended.diverged[ended.diverged > 0].min())
            if where.diverged.count
            else None,
            "kept": kept,
            "path": _plain(path),
            "path_heights": _plain(surface.values(path)),
            "diverged_at": film.diverged.tolist(),
        }
        log({"kind": "radius", "share": share, "counts": row["counts"], "nowhere": row["nowhere"]})
        return row

    def _width(self) -> float:
        (low, high), _ = _surface(self.surface).box
        return high - low

    def _rho(self, share: float) -> float:
        """The radius: a length, or for ASAM a multiple of the weights' own size."""
        return OWN_SIZE * share if self.method == "asam" else share * self._width()

    def _lr(self, sharpness: Sequence[float]) -> float:
        """One rule for all: 0.5 / the largest curvature of a minimum, or a share of the box."""
        known = [value for value in sharpness if math.isfinite(value)]
        curved = 0.5 / max(known, default=1000.0)
        width = self._width()
        return {"Adagrad": width / 20, "Adam": width / 100}.get(self.base, curved)

    def _optimizer(self, sharpness: Sequence[float]) -> Callable[..., Any]:
        from torch import optim

        lr = self._lr(sharpness)
        return {
            "gradient": partial(optim.SGD, lr=lr),
            "momentum": partial(optim.SGD, lr=lr, momentum=0.9),
            "Adagrad": partial(optim.Adagrad, lr=lr),
            "Adam": partial(optim.Adam, lr=lr),
        }[self.base]


@dataclass(frozen=True, kw_only=True)
class Edge(Experiment):
    """Radii and curvatures at which something tips over, beside their closed forms."""

    lr: float
    """The step size."""
    curvatures: tuple[float, ...]
    """Of the sharp valley."""
    flat: float
    """The curvature of the flat valley."""

    def perform(self, place: Place, log: Callable[[Words], None]) -> Words:
        """Find each by a scan of radii."""
        rows = [self._escape(curvature) for curvature in self.curvatures]
        off = max(abs(row["measured"] / row["closed"] - 1) for row in rows)
        return {"rows": rows, "off": off, "said": f"escape radii within {100 * off:.2f} %"}

    def _escape(self, sharp: float) -> Words:
        """The radius above which SAM, settled in the sharp valley, leaves it; and where it ends."""
        import torch

        from flatminima.landscape import stability

        ridge = 2 * math.sqrt(self.flat) / (math.sqrt(sharp) + math.sqrt(self.flat))
        closed = stability.escape_radius(sharp, self.lr, ridge)
        low, high = 0.02 * ridge, 1.5 * ridge
        for _ in range(2):  # a rough scan, and a fine one between two of its radii
            radii = torch.linspace(low, high, 200, dtype=torch.float64)
            settled = stability.bounce(sharp, self.lr, 1.0) * radii
            path = self._path(sharp, radii, -settled)
            # A cycle keeps its distance; what is carried out goes further, or beyond the ridge.
            left = path.amax(dim=0) > (1.001 * settled).clamp_max(ridge)
            first = int(left.int().argmax())
            low, high = float(radii[max(first - 1, 0)]), float(radii[first])
        far = torch.tensor([1.5 * ridge], dtype=torch.float64)
        rest = self._path(sharp, far, torch.full_like(far, 0.5 * ridge))[-100:].mean()
        return {
            "curvature": sharp,
            "ridge": ridge,
            "closed": closed,
            "measured": (low + high) / 2,
            "rest": float(rest) / ridge,
        }

    def _path(self, sharp: float, radii: Any, start: Any) -> Any:  # noqa: ANN401 - tensors
        """How far SAM is from the bottom of the sharp valley, step by step, for every radius."""
        import torch
        from torch import optim

        import flatminima as fm
        from flatminima.landscape import descents
        from flatminima.landscape.surfaces import two_valleys

        starts = torch.stack((start - 1, torch.zeros_like(start)), dim=-1)
        ended = descents(
            two_valleys(sharp, self.flat),
            starts,
            partial(optim.SGD, lr=self.lr),
            fm.sam(0.0),
            steps=400,
            rho=radii,
            every=1,
        )
        return ended.path[:, :, 0] + 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One size of the study."""

    pairs: tuple[tuple[str, Base], ...]
    """Surfaces and the optimizers on them; the first of each surface is drawn."""
    side: int
    """Starts along each axis."""
    steps: int
    """Steps of each descent."""


BASES: tuple[Base, ...] = ("Adagrad", "gradient", "momentum", "Adam")
FEW: tuple[tuple[str, Base], ...] = (
    ("easom", "Adagrad"),
    ("eggholder", "Adagrad"),
    ("valleys", "gradient"),
    ("valleys", "momentum"),
    ("valleys", "Adagrad"),
    ("valleys", "Adam"),
    ("himmelblau", "Adagrad"),
)
EVERY: tuple[tuple[str, Base], ...] = tuple((name, base) for name in SURFACES for base in BASES)
PRESETS = {
    "quick": Plan(pairs=FEW[:3], side=16, steps=300),
    "cpu": Plan(pairs=FEW, side=40, steps=500),
    "paper": Plan(pairs=EVERY, side=100, steps=1000),
}
OWN = (
    "The slides give no start, radius, step size or number of steps; here a grid of starts, five "
    "radii, and one rule for the step sizes of all methods.",
    "Examples of m-SAM are the surface with a tilt each, as large as its mean slope; they cancel.",
)
DIFFERENCES = {name: OWN for name in PRESETS}


def runs(plan: Plan) -> Stages:
    """Yield the maps and the edges."""
    yield [
        Edge(
            method="sam",
            label="SAM",
            lr=0.002,
            curvatures=(50.0, 100.0, 200.0, 400.0, 800.0),
            flat=4.0,
        ),
        *(
            Map(
                method=method.name,
                label=method.label,
                surface=surface,
                base=base,
                shares=(0.0,) if method.baseline else RADII,
                side=plan.side,
                steps=plan.steps,
            )
            for surface, base in plan.pairs
            for method in METHODS
        ),
    ]


def count(plan: Plan) -> int:
    """How many runs there are."""
    return 1 + len(plan.pairs) * len(METHODS)


def _surface(name: str) -> Any:  # noqa: ANN401 - torch is loaded by runs, not by the report
    from flatminima.landscape import surfaces

    return surfaces.two_valleys(*CURVATURES) if name == "valleys" else getattr(surfaces, name)


@lru_cache(maxsize=8)
def _minima(name: str) -> Any:  # noqa: ANN401 - torch is loaded by runs, not by the report
    from flatminima.landscape import minima

    return minima(_surface(name))


def _rule(method: str, rho: float) -> Any:  # noqa: ANN401 - a rule
    import flatminima as fm

    return {"plain": None, "sam": fm.sam(rho), "asam": fm.asam(rho), "msam": fm.sam(rho)}[method]


def _plain(values: Any) -> Any:  # noqa: ANN401 - a tensor, and nested lists
    """Numbers as JSON has them: None where they are not finite."""
    if values.dim():
        return [_plain(part) for part in values]
    return float(f"{float(values):.6g}") if math.isfinite(float(values)) else None


def _frames(steps: int) -> list[int]:
    """The steps of a film, close together at first."""
    return [0, *sorted({round(step) for step in np.geomspace(1, steps, FILM_STEPS - 1)})]


def _flat(sharpness: Sequence[float | None]) -> list[bool]:
    """Which minima are flat: below the geometric middle of the flattest and the sharpest."""
    known = [value for value in sharpness if value is not None and math.isfinite(value)]
    if not known or max(known) < 1.05 * min(known):
        return [False] * len(sharpness)
    middle = math.sqrt(min(known) * max(known))
    return [value is not None and value < middle for value in sharpness]


# ---- reading


def reading(study: Study) -> Reading:
    """What the records say."""
    maps = {
        (run.settings["surface"], run.settings["base"], run.method): run
        for run in study.select()
        if "surface" in run.settings
    }
    edges = next((run for run in study.select() if "curvatures" in run.settings), None)
    pairs = sorted({key[:2] for key in maps}, key=place)
    drawn = [pair for pair in pairs if pair[1] == DRAWN.get(pair[0], "Adagrad")]
    plates = [
        plate
        for number, pair in enumerate(drawn)
        for plate in (
            scene(study, maps, *pair) if number < SCENES else None,
            basin(study, maps, *pair),
        )
    ]
    plates += [by_radius(study, maps, pairs)] if pairs else []
    plates += [escapes(study, edges)] if edges else []
    starts = next((run.settings["side"] ** 2 for run in maps.values()), 0)
    return Reading(
        answer=answer(maps),
        table=table(study, maps, pairs),
        note="Share of the starts that end in a flat minimum, in percent, with its 95 % interval "
        "(Wilson). Flat: sharpness below the geometric middle of the flattest and the sharpest "
        "minimum. Radii are shares of the box’s width.",
        plates=[plate for plate in plates if plate is not None],
        doubts=[*always(study), *doubts(maps, pairs)],
        setting=f"preset {study.word('preset')}, {len({pair[0] for pair in pairs})} surfaces, "
        f"{len(pairs)} pairs with an optimizer, {starts:,} starts each",
        heading="Every surface, optimizer and radius",
        claims=claims(maps, edges),
        files={"runs": runs_csv(study, [])},
    )


def place(pair: tuple[str, str]) -> tuple[int, int]:
    """Where a pair stands: in the order of the surfaces, then of the optimizers."""
    return list(SURFACES).index(pair[0]), list(BASES).index(pair[1])


def row_at(run: Run, share: float) -> Words | None:
    """The results at a radius."""
    rows = (run.result or {})["rows"]
    return next((row for row in rows if row["share"] == share), None)


def tally(run: Run, row: Words) -> tuple[int, int]:
    """How many starts end in a flat minimum, and of how many."""
    flat = _flat((run.result or {})["sharpness"])
    counts = sum(count for count, is_flat in zip(row["counts"], flat, strict=True) if is_flat)
    return counts, run.settings["side"] ** 2


def ends(count: int, n: int) -> tuple[float, float, float]:
    """A share with its Wilson interval, in percent; once more here: reading loads no torch."""
    z, share = 1.959963984540054, count / n
    middle, half = (
        share + z**2 / (2 * n),
        z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)),
    )
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return 100 * share, 100 * max(low, 0.0), 100 * min(high, 1.0)


def spelled(count: int, n: int) -> str:
    """A share with its interval."""
    share, low, high = ends(count, n)
    return f"{share:.1f} [{low:.1f}, {high:.1f}]"


def table(study: Study, maps: Maps, pairs: Pairs) -> Table:
    """A row per surface, optimizer and method."""
    shares = (0.0, *RADII)
    header = ["Method", "Surface", "Optimizer", *(f"ρ = {100 * share:g} % (%)" for share in shares)]
    rows: list[list[Cell]] = []
    names: list[str] = []
    for surface, base in pairs:
        for method in study.methods:
            run = maps.get((surface, base, method.name))
            if run is None:
                continue
            level = not any(_flat((run.result or {})["sharpness"]))
            rates = [
                spelled(*tally(run, row)) if (row := row_at(run, share)) and not level else "–"
                for share in shares
            ]
            cells = [method.label, SURFACES[surface], base, *rates]
            rows.append([Cell(cell) for cell in cells])
            names.append(method.name)
    return Table(header=header, rows=rows, methods=names)


def hole(run: Run, row: Words) -> tuple[float, float, float]:
    """The share that ends in a minimum that is not flat."""
    total, n = sum(row["counts"]), run.settings["side"] ** 2
    return ends(total - tally(run, row)[0], n)


def answer(maps: Maps) -> str:
    """What SAM does to Adagrad on Easom and Eggholder, in one sentence."""
    said: dict[str, tuple[str, ...]] = {}
    for surface in ("easom", "eggholder"):
        plain, sam = (maps.get((surface, "Adagrad", name)) for name in ("plain", "sam"))
        if plain is None or sam is None or (row := row_at(sam, RADII[-1])) is None:
            return "No answer yet: not every run has finished."
        first = (plain.result or {})["rows"][0]
        without, within = (
            f"{share:.0f} % [{low:.0f}, {high:.0f}]"
            for share, low, high in (hole(plain, first), hole(sam, row))
        )
        away = 100 * row["nowhere"] / sam.settings["side"] ** 2
        level = [f"{ends(*tally(run, one))[0]:.0f} %" for run, one in ((plain, first), (sam, row))]
        said[surface] = (without, within, f"{away:.0f} %", *level)
    n = maps[("easom", "Adagrad", "sam")].settings["side"] ** 2
    easom, egg = said["easom"], said["eggholder"]
    return (
        f"On Easom, Adagrad ends in the sharp minimum from {easom[0]} of the starts, with SAM from "
        f"{easom[1]}; but with SAM {easom[4]} end in a flat one instead of {easom[3]}, and "
        f"{easom[2]} at no minimum at all. On Eggholder SAM ends in a "
        f"sharp one from {egg[1]} instead of {egg[0]}, and {egg[2]} at none "
        f"(ρ = {100 * RADII[-1]:g} % of the box, n = {n:,} starts)."
    )


def claims(maps: Maps, edges: Run | None) -> list[tuple[str, str]]:
    """What was claimed, and what was found."""
    said: list[tuple[str, str]] = []
    for surface in ("easom", "eggholder", "valleys"):
        base = "gradient" if surface == "valleys" else "Adagrad"
        plain, sam = (maps.get((surface, base, name)) for name in ("plain", "sam"))
        if plain is None or sam is None:
            continue
        first, n = (plain.result or {})["rows"][0], plain.settings["side"] ** 2
        rows = (sam.result or {})["rows"]
        radii = " / ".join(f"{100 * share:g}" for share in (0, *(row["share"] for row in rows)))
        sharp = [hole(plain, first)[0], *(hole(sam, row)[0] for row in rows)]
        away = [100 * row["nowhere"] / n for row in (first, *rows)]
        sharp, away = (" / ".join(f"{share:.1f}" for share in shares) for shares in (sharp, away))
        said.append(
            (
                f"SAM does not let a descent fall into sharp minima ({SURFACES[surface]}, {base}).",
                f"At ρ = {radii} % of the box, {sharp} % of the starts end in a sharp minimum, and "
                f"{away} % at no minimum at all.",
            )
        )
    if edges is not None and edges.result:
        rests = [row["rest"] for row in edges.result["rows"]]
        said.append(
            (
                "SAM leaves a valley of curvature a above ρ = c (1 − ηa/2), c the way to the "
                "ridge.",
                f"Measured radii agree within {100 * edges.result['off']:.1g} %. Above it, at "
                f"ρ = 1.5 c, SAM comes to rest {min(rests):.2f} to {max(rests):.2f} c from the "
                "bottom of the sharp valley, where it looks exactly at that bottom, and not in the "
                "flat one.",
            )
        )
    said.append(
        (
            "The slides’ own results with networks: no gain, or harm (0.46 with SAM, 0.88 "
            "without).",
            "Not tried here. Their conclusion, that SAM’s use for simple models is doubtful, rests "
            "on these and not on the surfaces.",
        )
    )
    return said


def doubts(maps: Maps, pairs: Pairs) -> list[Doubt]:
    """What ends nowhere, what diverged, and what the numbers depend on."""
    said = [
        Doubt(
            "At no minimum",
            f"Further than {100 * WITHIN:g} % of the box’s width from every minimum after the last "
            "step. A descent that goes on jumping across a minimum further than that, or has not "
            "arrived yet, is counted there too.",
        ),
        Doubt("Two variables", "A surface in the plane has none of the directions of a network."),
        Doubt(
            "Chance",
            "Starts are on a grid and nothing is drawn: the intervals are those of as many "
            "independent starts, and rather too wide.",
        ),
    ]
    for surface, base in pairs:
        for method in METHODS:
            run = maps.get((surface, base, method.name))
            if run is None:
                continue
            rows, n = (run.result or {})["rows"], run.settings["side"] ** 2
            worst = max(rows, key=lambda row: row["nowhere"])
            if worst["nowhere"] > 0.2 * n:
                text = (
                    f"{SURFACES[surface]}, {base}, {method.label}: up to "
                    f"{100 * worst['nowhere'] / n:.0f} % of the starts "
                    f"(ρ = {100 * worst['share']:g} %)."
                )
                said.append(Doubt("Ends at no minimum", text))
            lost = [row for row in rows if row["diverged"]]
            if lost:
                text = (
                    f"{SURFACES[surface]}, {base}, {method.label}: up to "
                    f"{max(row['diverged'] for row in lost)} of {n} starts, the first at step "
                    f"{min(row['first_diverged'] for row in lost)}."
                )
                said.append(Doubt("Diverged", text))
    return said


# ---- figures


def scene(study: Study, maps: Maps, surface: str, base: str) -> Plate | None:
    """The surface with the descents of a few starts, with SAM and without."""
    plain, sam = (maps.get((surface, base, name)) for name in ("plain", "sam"))
    if plain is None or sam is None or plain.result is None or sam.result is None:
        return None
    (left, right), (low, high) = plain.result["box"]
    z = np.asarray(plain.result["heights"], dtype=float)
    cells = (np.arange(len(z)) + 0.5) / len(z)
    ceiling = float(np.nanpercentile(z, 98))
    lift = 0.012 * (ceiling - float(z.min()))
    figure, flat = (go.Figure(layout={"template": template()}) for _ in range(2))
    ground = {
        "x": (left + cells * (right - left)).astype(np.float32),
        "y": (low + cells * (high - low)).astype(np.float32),
        "z": np.minimum(z, ceiling).astype(np.float32),
        "colorscale": list(GROUND),
        "showscale": False,
        "name": SURFACES[surface],
        "hovertemplate": "(%{x:.3g}, %{y:.3g})<br>height %{z:.4g}<extra></extra>",
    }
    light = {"ambient": 0.8, "diffuse": 0.4, "specular": 0.02, "roughness": 0.9}
    figure.add_surface(**ground, lighting=light)
    flat.add_contour(**ground, ncontours=18, line={"width": 0.6, "color": "rgba(255,255,255,0.8)"})
    for run, row in ((plain, plain.result["rows"][0]), (sam, row_at(sam, RADII[2]))):
        path = trail(row, FILM_STEPS, lift, ceiling) if row else {"x": [], "y": [], "z": []}
        ink = strokes(study)[run.method].colour
        look = {
            "mode": "lines+markers",
            "name": run.settings["label"],
            "legendgroup": run.method,
            "hovertemplate": "(%{x:.3g}, %{y:.3g})<extra>%{fullData.name}</extra>",
        }
        figure.add_scatter3d(
            **path, **look, line={"color": ink, "width": 5}, marker={"size": 2.6, "color": ink}
        )
        flat.add_scatter(
            x=path["x"], y=path["y"], **look, line={"color": ink, "width": 2},
            marker={"size": 4, "color": ink},
        )  # fmt: skip
    names = {share: [f"{share:g}/{place}" for place in range(1, FILM_STEPS + 1)] for share in RADII}

    def frames(kind: str, room: str) -> list[go.Frame]:
        """The paths up to every place, radius by radius."""
        return [
            go.Frame(
                name=names[share][place - 1],
                traces=[1, 2],
                data=[
                    {"type": kind} | {axis: line[axis] for axis in room}
                    for line in (
                        trail(plain.result["rows"][0], place, lift, ceiling),
                        trail(row, place, lift, ceiling),
                    )
                ],
            )
            for share in RADII
            if (row := row_at(sam, share))
            for place in range(1, FILM_STEPS + 1)
        ]

    figure.frames, flat.frames = frames("scatter3d", "xyz"), frames("scatter", "xy")
    figure.update_scenes(
        xaxis={"title_text": "a", "range": [left, right], "nticks": 5},
        yaxis={"title_text": "b", "range": [low, high], "nticks": 5},
        zaxis={"title_text": "height", "nticks": 5},
        aspectmode="manual",
        aspectratio={"x": 1, "y": 1, "z": 0.6},
        camera={"eye": {"x": 0.95, "y": -1.05, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.15}},
    )
    label_axes(flat, "a", "b")
    flat.update_xaxes(range=[left, right], constrain="domain", constraintoward="left")
    flat.update_yaxes(range=[low, high], scaleanchor="x", constrain="domain")
    every = [name for share in RADII for name in names[share]]
    for drawing, below, margin in (
        (figure, 4, {"l": 0, "r": 0, "t": 0, "b": 96}),
        (flat, 40, {"b": 124}),
    ):
        controls = {"sliders": [slider(names, below=below)], "updatemenus": [play(every, below)]}
        drawing.update_layout(margin=margin, **controls)
    return Plate(
        name=f"scene-{surface}",
        title=f"{SURFACES[surface]}: {base} with SAM and without",
        caption=f"{FILM_SIDE**2} starts, {plain.settings['steps']} steps. A radius on the slider "
        f"plays its descents; drag to turn. Heights above {ceiling:.3g} are cut.",
        panels=[Panel(figure=figure)],
        flat=[Panel(figure=flat)],
        legend=legend(study, ("plain", "sam")),
        wide=True,
    )


def trail(row: Words, places: int, lift: float, ceiling: float) -> dict[str, Any]:
    """The paths of all starts up to a place, with gaps between them."""
    path = np.asarray(row["path"], dtype=float)[:, :places]
    z = np.asarray(row["path_heights"], dtype=float)[:, :places]
    gap = np.full((len(path), 1), np.nan)
    x, y, z = (
        np.concatenate([part, gap], axis=1).ravel()
        for part in (path[..., 0], path[..., 1], np.minimum(z, ceiling) + lift)
    )
    lost = ~np.isfinite(x)
    return {
        name: np.where(lost, np.nan, part).astype(np.float32)
        for name, part in (("x", x), ("y", y), ("z", z))
    }


def basin(study: Study, maps: Maps, surface: str, base: str) -> Plate | None:
    """The maps of where each start ends, a panel per method, the radius on a slider."""
    found = [maps[key] for method in study.methods if (key := (surface, base, method.name)) in maps]
    if not found:
        return None
    panels = [
        Panel(figure=chart(run), title=run.settings["label"], method=run.method) for run in found
    ]
    result = found[0].result or {}
    few = len(result["minima"]) <= len(PALETTE)
    colours = (
        "Dots: minima, with their sharpness"
        if few
        else "Dots: minima; the brighter, the sharper is the end (log scale)"
    )
    return Plate(
        name=f"basins-{surface}",
        title=f"{SURFACES[surface]}: where each start ends, with {base}",
        caption=f"{colours}; white: at no minimum; black: diverged. The slider sets ρ as a share "
        f"of the box, in all panels. n = {found[0].settings['side'] ** 2:,} starts.",
        panels=panels,
    )


def chart(run: Run) -> go.Figure:
    """One map."""
    result, side = run.result or {}, run.settings["side"]
    sharpness = [math.inf if value is None else value for value in result["sharpness"]]
    few = len(sharpness) <= len(PALETTE)
    (left, right), (low, high) = result["box"]
    cells = (np.arange(side) + 0.5) / side
    bright = brightness(sharpness)

    def z(row: Words) -> Array:
        index = np.asarray(row["index"])
        shade = index if few else np.where(index < 0, 20 * index + 10, bright[np.maximum(index, 0)])
        return shade.reshape(side, side).astype(np.int8)

    rows, points = result["rows"], np.asarray(result["minima"], dtype=np.float32)
    words = [f"{value:.3g}" for value in sharpness]
    figure = go.Figure(layout={"template": template()})
    figure.add_heatmap(
        x=(left + cells * (right - left)).astype(np.float32),
        y=(low + cells * (high - low)).astype(np.float32),
        z=z(rows[len(rows) // 2]),
        zmin=-2.5 if few else -40,
        zmax=len(sharpness) - 0.5 if few else 100,
        colorscale=shades(len(sharpness)) if few else ramp(),
        showscale=False,
        name=run.settings["label"],
        hovertemplate="start (%{x:.3g}, %{y:.3g})<extra></extra>",
    )
    figure.add_scatter(
        x=points[:, 0],
        y=points[:, 1],
        mode="markers+text" if few else "markers",
        marker={
            "size": 7 if few else 3.5,
            "color": "white",
            "line": {"width": 1, "color": "black"},
        },
        text=words,
        textposition="top center",
        textfont={"color": "black", "size": 12},
        name="minima",
        hovertemplate="minimum (%{x:.4g}, %{y:.4g})<br>sharpness %{text}<extra></extra>",
    )
    label_axes(figure, "a", "b")
    figure.update_xaxes(range=[left, right], constrain="domain", nticks=5)
    scale = (right - left) / (high - low)
    figure.update_yaxes(range=[low, high], nticks=5, constrain="domain")
    figure.update_yaxes(scaleanchor="x", scaleratio=scale)
    figure.update_layout(margin={"b": 124, "r": 8})
    if len(rows) > 1:
        figure.frames = [
            go.Frame(name=f"{row['share']:g}", traces=[0], data=[{"type": "heatmap", "z": z(row)}])
            for row in rows
        ]
        frames = {row["share"]: [f"{row['share']:g}"] for row in rows}
        figure.update_layout(sliders=[slider(frames, x=0)])
    return figure


def brightness(sharpness: Sequence[float]) -> Array:
    """Where each minimum stands between the flattest, 0, and the sharpest, 100, by logarithms."""
    values = np.log(np.asarray(sharpness))
    known = values[np.isfinite(values)]
    low = known.min() if len(known) else 0.0
    high = known.max() if len(known) else 1.0
    return 100 * (np.minimum(values, high) - low) / max(high - low, 1e-9)


def shades(count: int) -> list[list[Any]]:
    """Flat colours: black diverged, white nowhere, then one per minimum."""
    colours = ["#000000", "#ffffff", *PALETTE[:count]]
    ends = [(place / len(colours), (place + 1) / len(colours)) for place in range(len(colours))]
    return [[end, colour] for pair, colour in zip(ends, colours, strict=True) for end in pair]


def ramp() -> list[list[Any]]:
    """Black, white, then dark blue to yellow; 0 of 1 stands at -0.4 of the values."""
    from plotly.colors import sample_colorscale

    at = [place / 10 for place in range(11)]
    bright = sample_colorscale("Cividis", at)
    first = [[0.0, "#000000"], [0.14, "#000000"], [0.14, "#ffffff"], [0.28, "#ffffff"]]
    return first + [[0.28 + 0.72 * place, colour] for place, colour in zip(at, bright, strict=True)]


def slider(
    frames: Mapping[float, list[str]], *, x: float = 0.12, below: int = 40
) -> dict[str, Any]:
    """A slider over the radii; where a radius has several frames, they are played."""
    shares = list(frames)
    steps = [
        {
            "label": f"{100 * share:g} %",
            "method": "animate",
            "args": [
                names,
                {
                    "mode": "immediate",
                    "frame": {"duration": 90 if len(names) > 1 else 0, "redraw": True},
                    "transition": {"duration": 0},
                },
            ],
        }
        for share, names in frames.items()
    ]
    return {
        "active": len(shares) // 2,
        "x": x,
        "len": 0.98 - x,
        "pad": {"t": below, "b": 0},
        "currentvalue": {"prefix": "radius ρ: ", "font": {"size": 13}, "xanchor": "left"},
        "steps": steps,
        "font": {"size": 12},
        "ticklen": 4,
        "minorticklen": 0,
    }


def play(frames: Sequence[str], below: int) -> dict[str, Any]:
    """A button that plays the radii one after another."""
    speed = {
        "frame": {"duration": 90, "redraw": True},
        "transition": {"duration": 0},
        "mode": "immediate",
    }
    return {
        "type": "buttons",
        "showactive": False,
        "buttons": [{"label": "▶ play all", "method": "animate", "args": [list(frames), speed]}],
        "x": 0,
        "y": 0,
        "xanchor": "left",
        "yanchor": "top",
        "pad": {"t": below + 4},
        "font": {"size": 13},
        "bgcolor": "rgba(0,0,0,0)",
    }


def by_radius(study: Study, maps: Maps, pairs: Pairs) -> Plate | None:
    """The share that ends in a flat minimum, along the radii, a panel per surface and optimizer."""
    panels: list[Panel] = []
    better = 0  # pairs in which the interval at some radius of SAM is above the one without
    for surface, base in pairs:
        known = {method.name: maps.get((surface, base, method.name)) for method in study.methods}
        plain = known["plain"]
        if (
            plain is None
            or known["sam"] is None
            or not any(_flat((plain.result or {})["sharpness"]))
        ):
            continue
        figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
        for name, run in known.items():
            if run is None:
                continue
            rows = (run.result or {})["rows"]
            shares = [100 * row["share"] for row in rows]
            values = np.array([ends(*tally(run, row)) for row in rows])
            if name == "plain":
                shares, values = [100 * RADII[0], 100 * RADII[-1]], np.repeat(values, 2, axis=0)
            stroke, label = strokes(study)[name], run.settings["label"]
            figure.add_scatter(
                x=shares + shares[::-1], y=[*values[:, 2], *values[::-1, 1]], fill="toself",
                fillcolor=faint(stroke.colour, 0.18), line={"width": 0}, mode="lines",
                hoverinfo="skip", legendgroup=name, name=f"{label}, 95 % band",
            )  # fmt: skip
            figure.add_scatter(
                x=shares, y=values[:, 0], mode="lines+markers", legendgroup=name, name=label,
                line={"color": stroke.colour, "dash": stroke.dash, "width": 2.2},
                customdata=values[:, 1:],
                hovertemplate=f"{label}, ρ = %{{x:g}} %: %{{y:.1f}} % "
                "[%{customdata[0]:.1f}, %{customdata[1]:.1f}]<extra></extra>",
            )  # fmt: skip
        label_axes(figure, "radius ρ (% of the box, log scale)", "ends in a flat minimum (%)")
        ticks = [100 * share for share in RADII]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
        figure.update_yaxes(range=[-3, 103])
        panels.append(Panel(figure=figure, title=f"{SURFACES[surface]}, {base}"))
        top = max(ends(*tally(known["sam"], row))[1] for row in known["sam"].result["rows"])
        better += top > ends(*tally(plain, plain.result["rows"][0]))[2]
    if not panels:
        return None
    n = next(iter(maps.values())).settings["side"] ** 2
    return Plate(
        name="flat-by-radius",
        title=f"With SAM more starts end in a flat minimum than without in {better} of "
        f"{len(panels)} pairs of surface and optimizer",
        caption=f"Shares with 95 % bands (Wilson), n = {n:,} starts. Grey: without SAM. ASAM’s "
        f"radius is {OWN_SIZE} times the share, a multiple of the weights’ own size.",
        panels=panels,
        legend=legend(study, [method.name for method in study.methods]),
        wide=True,
    )


def escapes(study: Study, edges: Run) -> Plate | None:
    """Escape radii beside their closed form."""
    rows = (edges.result or {}).get("rows", [])
    if not rows:
        return None
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    a = [row["curvature"] for row in rows]
    lr, flat = edges.settings["lr"], edges.settings["flat"]
    fine = np.geomspace(a[0], a[-1], 100)
    ridge = 2 * math.sqrt(flat) / (np.sqrt(fine) + math.sqrt(flat))
    figure.add_scatter(
        x=fine, y=ridge * (1 - lr * fine / 2), mode="lines", name="closed form c (1 − ηa/2)",
        line={"color": "#858585", "width": 2.2}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=a, y=[row["measured"] for row in rows], mode="markers", name="measured",
        legendgroup="sam",
        marker={"size": 10, "color": strokes(study)["sam"].colour},
        hovertemplate="a = %{x:g}: ρ = %{y:.4f}<extra></extra>",
    )  # fmt: skip
    label_axes(figure, "curvature a of the valley (log scale)", "radius ρ at which SAM leaves it")
    figure.update_xaxes(type="log", tickvals=a, ticktext=[f"{value:g}" for value in a])
    return Plate(
        name="escape",
        title="SAM leaves a valley at the radius of the closed form, within "
        f"{100 * (edges.result or {})['off']:.1g} %",
        caption=f"Two valleys, the flat one of curvature {flat:g}, step size {lr:g}. Dots: found "
        "by a scan. Line: c (1 − ηa/2), c the way to the ridge. n = 400 radii each.",
        panels=[Panel(figure=figure)],
        wide=True,
    )
