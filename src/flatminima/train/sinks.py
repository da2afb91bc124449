"""Where the rows of a training can go besides its record: TensorBoard, Weights & Biases."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["all_of", "tensorboard", "wandb"]

Row = dict[str, Any]
Log = Callable[[Row], None]


def all_of(*logs: Log) -> Log:
    """Something to log to that hands every row to several others."""

    def log(row: Row) -> None:
        for one in logs:
            one(row)

    return log


def tensorboard(folder: str | Path) -> Log:
    """Something to log to that writes event files for TensorBoard.

    Args:
        folder: Where; one for each run.

    Returns:
        A function of a row.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    writer: Any = SummaryWriter(str(folder))

    def log(row: Row) -> None:
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row["step"])
        writer.flush()

    return log


def wandb(project: str, settings: Mapping[str, Any] | None = None) -> Log:
    """Something to log to that sends the rows to Weights & Biases.

    Args:
        project: The project there.
        settings: What is kept beside them, such as the settings of the run.

    Returns:
        A function of a row.
    """
    import wandb as client  # pyright: ignore[reportMissingImports]

    run: Any = client.init(project=project, config=dict(settings or {}))

    def log(row: Row) -> None:
        run.log(_numbers(row), step=row["step"])

    return log


def _numbers(row: Row) -> dict[str, float]:
    """The numbers of a row, under its kind."""
    return {
        f"{row['kind']}/{name}": float(value)
        for name, value in row.items()
        if name not in ("kind", "step") and isinstance(value, int | float)
    }
