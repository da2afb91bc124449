"""What a comparison of trainings says: accuracies by method, and by seed against the baseline."""

from flatminima.report.doubts import doubts
from flatminima.report.figures import plates
from flatminima.report.reading import Marks, Reading
from flatminima.report.records import Study
from flatminima.report.render import main_csv, main_table, radius_csv, runs_csv
from flatminima.report.table import answer, rows

__all__ = ["comparison"]

PARTS = ("low", "mean", "high")
NOTE = (
    "Means over seeds ± half of the 95 % interval (Student’s t). Differences are taken seed by "
    "seed. The best epoch is the one of the best validation accuracy. Bold: best, its interval "
    "apart from all others."
)


def comparison(study: Study) -> Reading:
    """The reading of a study whose runs are trainings."""
    return Reading(
        answer=answer(study),
        table=main_table(study),
        note=NOTE,
        plates=plates(study),
        doubts=doubts(study),
        setting=_setting(study),
        files={
            "methods": main_csv(study),
            "radii": radius_csv(study),
            "runs": runs_csv(study),
        },
        marks=_marks(study),
    )


def _marks(study: Study) -> Marks:
    """Where the interval of each method stands between the smallest and the largest, in percent."""
    known = {row.method.name: row.last for row in rows(study) if row.last is not None}
    if not known:
        return {}
    low = min(value.low for value in known.values())
    width = (max(value.high for value in known.values()) - low) or 1.0
    return {
        name: {part: round(100 * (getattr(value, part) - low) / width, 1) for part in PARTS}
        for name, value in known.items()
    }


def _setting(study: Study) -> str:
    """The preset, and how many seeds and methods."""
    seeds = {run.seed for run in study.select(stage="final", done=False)}
    preset = f"preset {study.word('preset')}, " if study.word("preset") else ""
    methods = len(study.methods)
    return (
        f"{preset}{methods} method{'' if methods == 1 else 's'}, "
        f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}"
    )
