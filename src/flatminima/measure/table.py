"""The measures by their names on the command line: each takes a job and returns plain numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flatminima import landscape, perturb, regions, sharpness
from flatminima.measure.settings import Settings
from flatminima.measure.target import Target
from flatminima.objective import Objective
from flatminima.regions import Region
from flatminima.sharpness.estimate import stream
from flatminima.vector import Vector

__all__ = ["MEASURES", "Job", "chosen"]

Json = dict[str, Any]
RADII = (0.2, 1.0, 2.0)  # times rho: 0.01, 0.05 and 0.1 at the default, as published
EDGES = (1.0, 1.2, 1.5, 2.0, 4.0, 8.0, 16.0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a measure is handed."""

    target: Target
    settings: Settings
    folder: Path
    """Where a measure may keep what is half done."""
    progress: Callable[[int, int], None]
    """Called with (done, of how many); how many is 0 where it is not known."""
    log: Callable[[str], None] = lambda _: None
    """Told how long it will take."""

    @property
    def point(self) -> tuple[Objective, Vector]:
        """The objective and the weights."""
        return self.target.objective, self.target.w


def hessian(job: Job) -> Json:
    """The largest eigenvalues, each with its residual, and the ratio of the first to the last."""
    operator = sharpness.Hessian(*job.point)
    with operator:
        job.log(f"hessian: {sharpness.forecast(operator)}")
        pairs = sharpness.top_eigenpairs(
            operator,
            k=min(job.settings.eigenvalues, operator.size),
            seed=job.settings.seed,
            progress=lambda products, *_: job.progress(products, 0),
        )
    ratio = pairs.ratio(1, len(pairs.values))
    return {
        "values": pairs.values.tolist(),
        "residuals": pairs.residuals.tolist(),
        "ratio": ratio.value,
        "ratio_bound": ratio.bound,
        "products": pairs.products,
        "converged": bool(pairs.converged),
    }


def regions_of(job: Job) -> Json:
    """The regions of a step of `rho`, for the whole data and for the first batch alone."""
    f, w = job.point
    first = Objective.of_model(
        job.target.model,
        job.target.loss_fn,
        job.target.batches[:1],
        batch_norm=job.target.batch_norm,
    )[0]
    job.progress(0, 5)
    g = f.gradient(w)
    radii = [factor * job.settings.rho for factor in RADII]
    perturbed: list[Vector] = []
    for number, rho in enumerate(radii, start=1):
        perturbed.append(f.gradient(w + perturb.normalized(w, g, rho)))
        job.progress(number, 5)
    a = first.gradient(w)
    b = first.gradient(w + perturb.normalized(w, a, job.settings.rho))
    p = perturbed[1]
    names = [name for name, part in job.target.model.named_parameters() if part.requires_grad]
    parts = zip(names, regions.shares_by_part(g, p), strict=True)
    steeper = regions.mask(g, p, {Region.STEEPER})
    return {
        "rho": job.settings.rho,
        "shares": {
            "data set": asdict(regions.shares(g, p)),
            "first batch": asdict(regions.shares(a, b)),
        },
        "overlap": _told(regions.overlap(steeper, regions.mask(a, b, {Region.STEEPER}))),
        "large": {
            "g, data set": asdict(regions.large_share(g, steeper)),
            "p, data set": asdict(regions.large_share(p, steeper)),
            "g, first batch": asdict(_large(a, a, b)),
            "p, first batch": asdict(_large(b, a, b)),
        },
        "bins": asdict(regions.ratio_bins(g, p, EDGES)),
        "norms": {
            letter: {name.name.lower(): value for name, value in by_region.items()}
            for letter, by_region in asdict(regions.norms(g, p)).items()
        },
        "union": {"radii": radii} | asdict(regions.union(g, perturbed)),
        "layers": {name: asdict(seen) for name, seen in parts if seen is not None},
        "legacy": asdict(regions.legacy_shares(g, p)),
    }


def _large(gradient: Vector, g: Vector, p: Vector) -> regions.LargeShare:
    return regions.large_share(gradient, regions.mask(g, p, {Region.STEEPER}))


def _told(seen: regions.Overlap) -> Json:
    return asdict(seen) | {"lift": seen.lift, "phi": seen.phi}


def landscape_of(job: Job) -> Json:
    """The loss along a line and on a plane of filter-normalised directions; both resume."""
    f, w = job.point
    s = job.settings
    generator = stream(s.seed)
    filters = landscape.filters_of(job.target.model)
    one, two = (landscape.filter_normalized(w, generator, filters=filters) for _ in range(2))
    total = s.points + s.surface_points**2
    line = landscape.slice_1d(
        f,
        w,
        one,
        s.reach,
        s.points,
        file=job.folder / "line.npz",
        progress=lambda done, _: job.progress(done, total),
    )
    plane = landscape.slice_2d(
        f,
        w,
        one,
        two,
        s.reach,
        s.surface_points,
        file=job.folder / "plane.npz",
        progress=lambda done, _: job.progress(s.points + done, total),
    )
    return {
        "line": {"reach": line.reach.tolist(), "loss": line.loss.tolist()},
        "plane": {
            "one": plane.one.tolist(),
            "two": plane.two.tolist(),
            "loss": plane.loss.T.tolist(),  # a row for each place along `two`, as plotly has it
            "cosine": plane.cosine,
            "diverged": plane.diverged,
        },
    }


def density(job: Job) -> Json:
    """The density of the Hessian's eigenvalues, by its nodes and weights."""
    return plain(
        sharpness.density(
            sharpness.Hessian(*job.point), runs=4, steps=job.settings.steps, seed=job.settings.seed
        )
    )


def trace(job: Job) -> Json:
    """The trace of the Hessian with its standard error."""
    return plain(
        sharpness.trace(
            sharpness.Hessian(*job.point), samples=job.settings.samples, seed=job.settings.seed
        )
    )


def sharpness_of(job: Job) -> Json:
    """Worst-case and average-case sharpness within rho."""
    s = job.settings
    worst = sharpness.worst_case(*job.point, s.rho, seed=s.seed)
    average = sharpness.average_case(*job.point, s.rho, samples=s.samples, seed=s.seed)
    return {"rho": s.rho, "worst_case": plain(worst), "average_case": plain(average)}


def m_sharpness(job: Job) -> Json:
    """The sharpness of groups of m examples, by one step and by ascent."""
    s = job.settings
    found = sharpness.m_sharpness(*job.point, s.rho, min(s.m, _examples(job)), seed=s.seed)
    return {"rho": s.rho} | plain(found)


def pac_bayes(job: Job) -> Json:
    """The bound of the SAM paper on the share of errors: it is about a loss in [0, 1]."""
    # The errors at the worst displacement of the loss: the most within the radius can be more.
    s, (f, w) = job.settings, job.point
    errors = job.target.errors
    worst = sharpness.worst_case(f, w, s.rho, seed=s.seed)
    there = float(errors.value(w + worst.displacement))
    bound = sharpness.pac_bayes.sam_bound(
        worst_loss=max(there, float(errors.value(w))),
        norm=float(w.norm()),
        k=sum(part.numel() for part in w.tensors),
        n=_examples(job),
        rho=s.rho,
    )
    told = {"rho": s.rho, "vacuous": bound.vacuous, "errors": there} | plain(bound)
    for name, form in (("printed", bound.printed), ("tight", bound.tight)):
        told[name] |= {"value": form.value, "vacuous": form.vacuous}
    return told


def _examples(job: Job) -> int:
    return int(job.target.objective.examples or 1)


MEASURES: Mapping[str, Callable[[Job], Json]] = {
    "hessian": hessian,
    "density": density,
    "trace": trace,
    "sharpness": sharpness_of,
    "m_sharpness": m_sharpness,
    "regions": regions_of,
    "landscape": landscape_of,
    "pac_bayes": pac_bayes,
}


def chosen(what: str) -> Sequence[str]:
    """The names in a comma-separated list, in the order of the table.

    Args:
        what: The list; `all` is every measure.

    Returns:
        The names.

    Raises:
        ValueError: If one is not known.
    """
    known = list(MEASURES)
    names = known if what == "all" else [name.strip() for name in what.split(",") if name.strip()]
    odd = [name for name in names if name not in known]
    if odd or not names:
        raise ValueError(
            f"what must be some of {', '.join(known)}, or all, got {', '.join(odd) or 'nothing'!r}."
        )
    return [name for name in known if name in names]


def plain(value: Any) -> Any:  # noqa: ANN401 - a result has any shape
    """A result as plain JSON: vectors are left out, for they are as large as the weights."""
    if isinstance(value, Tensor):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        held = {name: getattr(value, name) for name in value.__dataclass_fields__}
        return {name: plain(part) for name, part in held.items() if not isinstance(part, Vector)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value if not isinstance(part, Vector)]
    return value
