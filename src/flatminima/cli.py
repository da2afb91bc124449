"""The command line: `flatminima list | run | table | report | doctor | measure`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, subcommand

from flatminima.study.place import ExecutorName, Place, cores
from flatminima.study.study import Study, find, studies

if TYPE_CHECKING:
    from flatminima.measure import Target

__all__ = ["VERBS", "main"]

RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class List:
    """List the studies: what each asks, and how long it takes."""

    def __call__(self) -> None:
        """Print every study's name, title, source and time."""
        for study in studies():
            print(f"{study.name}\n    {study.title}\n    Source: {study.field('source')}")
            print(f"    Time: {study.field('time')}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Carry out the runs of a study that are not done yet; end with its table and its report."""

    study: Positional[str]
    """A study that `flatminima list` names, or the path of a study's file."""
    preset: str = "quick"
    """The size of the study: quick, cpu or paper."""
    workers: int = cores()
    """Processes to use; 0 for this one alone."""
    executor: ExecutorName = "local"
    """What carries out the runs: workers here, Ray, or Slurm."""
    address: str | None = None
    """Of a Ray cluster (`auto`, or host:port), or submitit's name of a Slurm cluster."""
    folder: Path = RESULTS
    """Where records are kept; what is done there is not done again."""
    data_root: str | None = None
    """The folder of the data; without it, what the environment variable FLATMINIMA_DATA says."""
    download: bool = False
    """Fetch data that are missing."""
    device: str = "cpu"
    """Where to train, as torch names it."""
    dry_run: bool = False
    """Show what would be carried out, and carry out nothing."""

    def __call__(self) -> None:
        """Carry out the study, or show what would be."""
        study = find(self.study)
        place = Place(
            folder=self.folder,
            workers=self.workers,
            executor=self.executor,
            address=self.address,
            device=self.device,
            data_root=self.data_root,
        )
        if self.dry_run:
            return _show(study, self.preset, place)
        from flatminima.study.launch import launch

        _report(study, launch(study, self.preset, place, download=self.download), table=True)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print the table of a study."""

    study: Positional[str]
    """A study that was run."""
    format: Literal["text", "markdown", "latex", "csv"] = "text"
    """How to write it."""
    folder: Path = RESULTS
    """Where records are kept."""

    def __call__(self) -> None:
        """Print the table."""
        study = find(self.study)
        print(_table(study, self.folder / study.name, self.format))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report of a study: one HTML file that needs no network, and tables for papers."""

    study: Positional[str | None] = None
    """A study that was run; without one, only the page over all that were."""
    folder: Path = RESULTS
    """Where records are kept."""

    def __call__(self) -> None:
        """Write the report, or the page over all studies, and print where it is."""
        if self.study is None:
            from flatminima.report import index

            return print(index.write(self.folder))
        study = find(self.study)
        _report(study, self.folder / study.name, table=False)


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Try two steps on your own model and batch, and say what they do to it."""

    model: str | None = None
    """Where a function without arguments makes the model, as package.module:function; without it,
    a small network."""
    batch: str | None = None
    """Where a function without arguments makes a batch, a tuple; without it, random images of
    digits for the small network."""
    loss: str | None = None
    """Where a function of the model and the batch returns the mean loss; without it, the
    cross-entropy of model(x) and y."""
    rule: str = "sam"
    """A member of the family."""
    rho: float = 0.05
    """Its radius."""
    m: int | None = None
    """Examples per perturbation; without it, the whole batch."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    """Cast the model, and what is real in the batch, to this precision."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How displaced weights of bfloat16 are rounded."""

    def __call__(self) -> None:
        """Print the report."""
        from flatminima.train.consult import consulted
        from flatminima.train.member import Member

        print(
            consulted(
                model=self.model,
                batch=self.batch,
                loss=self.loss,
                member=Member(name=self.rule, rho=self.rho),
                m=self.m,
                dtype=self.dtype,
                rounding=self.rounding,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure a trained network, yours or one of a study; end with its page."""

    target: Positional[Path]
    """A file of weights (.safetensors, .pt), or the folder of a run of a study."""
    what: str = "hessian,regions,landscape"
    """Measures, with commas between them, or all."""
    model: str | None = None
    """What builds your network: package.module:factory."""
    model_args: str = "{}"
    """The factory's arguments by name, in JSON."""
    data: str | None = None
    """A .npz or .safetensors file with x and y, or package.module:function that returns batches."""
    loss: str = "cross_entropy"
    """cross_entropy, mse, or package.module:function of the network and a batch."""
    examples: int = 1000
    """How many examples at most: the first ones."""
    batch_size: int = 250
    """Examples per pass."""
    batch_norm: Literal["eval", "batch", "frozen_batch"] = "eval"
    """Statistics of batch norm: the running ones, or a batch's, as it is or at the weights."""
    rho: float = 0.05
    """The radius of everything that looks around the weights."""
    m: int = 16
    """Examples per group of m-sharpness."""
    points: int = 41
    """Points of the line; the plane has about a third of them along each side."""
    seed: int = 0
    """Decides every random number."""
    folder: Path = RESULTS / "measured"
    """Where results are kept; what is measured there is not measured again."""
    data_root: str | None = None
    """The folder of a study's data; without it, what the variable FLATMINIMA_DATA says."""
    device: str = "cpu"
    """Where to measure, as torch names it."""

    def __call__(self) -> None:
        """Measure what is not measured yet, and write the page."""
        from flatminima.measure import Settings, measure
        from flatminima.measure.progress import bars
        from flatminima.measure.table import chosen
        from flatminima.report import measured

        names = chosen(self.what)
        settings = Settings(
            rho=self.rho,
            m=self.m,
            points=self.points,
            surface_points=max(2, self.points * 3 // 8),
            seed=self.seed,
        )
        target = self._target()
        with bars() as progress:
            folder = measure(
                target,
                names,
                settings,
                self.folder,
                device=self.device,
                progress=progress,
                log=print,
            )
        print(f"\nReport: {measured.write(folder)}")

    def _target(self) -> "Target":
        """The network with its data."""
        from flatminima.measure import of_run, of_user

        if self.target.is_dir():
            return of_run(
                self.target,
                examples=self.examples,
                batch_size=self.batch_size,
                batch_norm=self.batch_norm,
                device=self.device,
                data_root=self.data_root,
                log=print,
            )
        if self.model is None or self.data is None:
            raise ValueError(
                "target must be the folder of a run, or weights with --model and --data, got "
                f"{self.target}."
            )
        return of_user(
            model=self.model,
            weights=self.target,
            data=self.data,
            loss=self.loss,
            model_args=self.model_args,
            examples=self.examples,
            batch_size=self.batch_size,
            batch_norm=self.batch_norm,
            device=self.device,
        )


Command: TypeAlias = List | Run | Table | Report | Doctor | Measure
VERBS = {
    "list": List,
    "run": Run,
    "table": Table,
    "report": Report,
    "doctor": Doctor,
    "measure": Measure,
}


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says; a mistake in it ends with code 2 and one sentence.

    Args:
        words: The words after `flatminima`; None takes them from the command line.

    Raises:
        SystemExit: With code 2 after a mistake, 1 if the study could not go on, 130 after Ctrl-C,
            and 0 after `--help`.
    """
    try:
        _parsed(sys.argv[1:] if words is None else words)()
    except ValueError as error:
        print(f"flatminima: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (RuntimeError, OSError) as error:
        print(f"flatminima: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("flatminima: stopped; the same command goes on from here.", file=sys.stderr)
        raise SystemExit(130) from None


def _parsed(words: Sequence[str]) -> Command:
    """The verb with its options."""
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        raise ValueError(f"verb must be one of {', '.join(VERBS)}, got {words[0]!r}.")
    command, unknown = tyro.cli(
        Annotated[List, subcommand("list")]
        | Annotated[Run, subcommand("run")]
        | Annotated[Table, subcommand("table")]
        | Annotated[Report, subcommand("report")]
        | Annotated[Doctor, subcommand("doctor")]
        | Annotated[Measure, subcommand("measure")],
        prog="flatminima",
        description="A library and laboratory for Sharpness-Aware Minimization.",
        args=words,
        return_unknown_args=True,
        config=(FlagCreatePairsOff,),
    )
    if unknown:
        raise ValueError(f"option must be one of {_options(command)}, got {unknown[0]!r}.")
    return command


def _options(command: Command) -> str:
    """The options of a verb, as they are typed."""
    names = [field.name for field in fields(command) if field.name not in {"study", "target"}]
    return ", ".join(f"--{name.replace('_', '-')}" for name in [*names, "help"])


def _show(study: Study, preset: str, place: Place) -> None:
    """Print the runs of a study as far as they are known."""
    from flatminima.study.cost import Cost, cost, in_words
    from flatminima.study.launch import planned

    known = done = 0
    costs: list[Cost] = []
    for stage in planned(study, preset, place):
        for record in stage:
            mark = "done" if record.ended else "    "
            print(f"{mark}  {record.run.key}  {record.run.stage:5}  {record.run.title}")
            costs += filter(None, [cost(record.run)])
        known += len(stage)
        done += sum(record.ended for record in stage)
    further = (study.count(preset) or known) - known
    later = f" Another {further} depend on how these come out." if further else ""
    print(f"{known} runs, {done} of them done.{later}")
    print(in_words(costs, max(known, study.count(preset) or 0)))


def _report(study: Study, folder: Path, *, table: bool) -> None:
    """Write the report of a study and the page over all, and print where it is."""
    from flatminima.report import index, page, render
    from flatminima.report.left import leave
    from flatminima.report.records import read

    records = read(folder)
    told = page.told(records, study.reader)
    if table:
        print(render.text(told.table))
    place = leave(records, told)
    index.write(folder.parent)
    print(f"\nReport: {place}" if table else place)


def _table(study: Study, folder: Path, form: Literal["text", "markdown", "latex", "csv"]) -> str:
    """The table of a study in some form."""
    from flatminima.report import render
    from flatminima.report.records import read

    records, reader = read(folder), study.reader
    if form == "csv" and reader is None:
        return render.main_csv(records)
    table = reader(records).table if reader else render.main_table(records)
    write = {
        "text": render.text,
        "markdown": render.markdown,
        "latex": render.latex,
        "csv": render.table_csv,
    }[form]
    return write(table)
