"""The rows that a run logged, kept as columns: a tenth of the room that dictionaries take.

Ten thousand runs of a hundred epochs have two million rows, which would not fit otherwise.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import orjson
from numpy.typing import NDArray

__all__ = ["Json", "Rows", "decoded", "logged"]

Json = dict[str, Any]

# JSON has no such numbers, so records write them as words.
NUMBERS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class Rows(Sequence[Json]):
    """Rows in the order in which they were logged.

    Where all have the same names and hold numbers alone they are one array, and whole numbers come
    back as floats; any others are kept as they are.

    Args:
        rows: One object per row.

    Example:
        >>> rows = Rows([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
        >>> rows.column("loss"), rows[-1]
        (array([0.5 , 0.25]), {'epoch': 2.0, 'loss': 0.25})
    """

    def __init__(self, rows: Sequence[Json]) -> None:
        self._names = tuple(rows[0]) if rows else ()
        self._table = _table(rows, self._names)
        self._rows = rows if self._table is None else ()

    def __len__(self) -> int:
        return len(self._rows) if self._table is None else len(self._table)

    @overload
    def __getitem__(self, place: int) -> Json: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Json]: ...
    def __getitem__(self, place: int | slice) -> Json | Sequence[Json]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if self._table is None:
            return self._rows[place]
        return dict(zip(self._names, self._table[place].tolist(), strict=True))

    def column(self, name: str) -> NDArray[np.float64]:
        """One number of every row; nan where a row has none of that name."""
        if self._table is None:
            found = (row.get(name) for row in self._rows)
            numbers = [one if isinstance(one, int | float) else np.nan for one in found]
            return np.array(numbers, dtype=float)
        if name not in self._names:
            return np.full(len(self), np.nan)
        return self._table[:, self._names.index(name)]


def _table(rows: Sequence[Json], names: Sequence[str]) -> NDArray[np.float64] | None:
    """The rows as one array, if they have the same names and hold numbers alone."""
    if any(tuple(row) != names for row in rows):
        return None
    try:
        table = np.array([tuple(row.values()) for row in rows])
    except ValueError:  # lists that differ in length
        return None
    return table.astype(float) if table.ndim == 2 and table.dtype.kind in "fi" else None


def logged(path: Path) -> dict[str, Rows]:
    """The complete rows of a file of JSON objects, by their `kind`; none if there is no file."""
    kinds: dict[str, list[Json]] = {}
    for row in _complete(path):
        if isinstance(row, dict):
            kinds.setdefault(str(row.pop("kind", "")), []).append(row)
    return {kind: Rows(rows) for kind, rows in kinds.items()}


def _complete(path: Path) -> Iterable[Any]:
    """What the complete lines of a file say in JSON."""
    try:
        text = path.read_bytes().rstrip(b"\n")
    except OSError:
        return ()
    try:
        return decoded(b"[" + text.replace(b"\n", b",") + b"]")  # faster than line by line
    except ValueError:
        return map(_line, text.splitlines())


def _line(text: bytes) -> Any:  # noqa: ANN401 - JSON has any shape
    """What a line says; None if it was cut off while it was written."""
    try:
        return decoded(text)
    except ValueError:
        return None


def decoded(text: bytes) -> Any:  # noqa: ANN401 - JSON has any shape
    """What a text in JSON says, the words `nan` and `inf` as the numbers they stand for."""
    value = orjson.loads(text)
    return _number(value) if b'nan"' in text or b'inf"' in text else value


def _number(value: Any) -> Any:  # noqa: ANN401 - JSON has any shape
    """A value with non-finite words turned into numbers, inside objects and lists too."""
    if isinstance(value, dict):
        return {name: _number(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    return NUMBERS.get(value, value) if isinstance(value, str) else value
