"""What stopping early would have given."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["early_stopping"]


def early_stopping(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The test accuracy of the epoch that validation would choose, had the run ended there.

    Args:
        rows: The epochs of a run, as `train` returns them.

    Returns:
        For each of them its number, the best epoch so far by validation accuracy (the first of
        equals), and the test accuracy of that one.

    Example:
        >>> row = {"epoch": 1, "validation_accuracy": 0.5, "test_accuracy": 0.4}
        >>> early_stopping([row])
        [{'epoch': 1, 'best_epoch': 1, 'test_accuracy': 0.4}]
    """
    curve: list[dict[str, Any]] = []
    best: Mapping[str, Any] | None = None
    for row in rows:
        if best is None or row["validation_accuracy"] > best["validation_accuracy"]:
            best = row
        curve.append(
            {
                "epoch": row["epoch"],
                "best_epoch": best["epoch"],
                "test_accuracy": best["test_accuracy"],
            }
        )
    return curve
