"""Slices and trajectories as files for other programs: npz, HDF5, and VTP for ParaView."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatminima.landscape.slices import Slice1D, Slice2D
from flatminima.landscape.trajectory import Path2D

__all__ = ["load", "save"]

KINDS: Mapping[str, Callable[..., Slice1D | Slice2D | Path2D]] = {
    "Slice1D": Slice1D,
    "Slice2D": Slice2D,
    "Path2D": Path2D,
}
Array = NDArray[Any]


def save(found: Slice1D | Slice2D | Path2D, file: Path | str) -> Path:
    """Write a slice or a trajectory, in the form that the file's name ends in.

    Args:
        found: What to write.
        file: `.npz`, `.h5` (with h5py) or `.vtp`. The first two are read back by `load`, with nan
            where there is nan. A VTP file is a surface at the height of the loss, or a line; cells
            with a corner that is not finite are left out.

    Returns:
        The file.

    Raises:
        ValueError: If the name ends otherwise, or a trajectory is to be a surface.

    Example:
        >>> from flatminima.landscape import Slice1D
        >>> ones = torch.ones(2)
        >>> line = Slice1D(reach=ones, loss=ones, done=ones > 0)
        >>> save(line, "line.png")
        Traceback (most recent call last):
        ValueError: file must end in .npz, .h5 or .vtp, got line.png
    """
    file = Path(file)
    held = {field.name: _array(getattr(found, field.name)) for field in fields(found)}
    kind = type(found).__name__
    if file.suffix == ".npz":
        named: dict[str, Any] = {"kind": np.array(kind)} | held
        np.savez(file, **named)
    elif file.suffix == ".h5":
        _write_h5(file, kind, held)
    elif file.suffix == ".vtp":
        file.write_text(_vtp(found), encoding="utf-8")
    else:
        raise ValueError(f"file must end in .npz, .h5 or .vtp, got {file}")
    return file


def load(file: Path | str) -> Slice1D | Slice2D | Path2D:
    """Read what `save` wrote as npz or HDF5.

    Args:
        file: The file.

    Returns:
        The slice or trajectory, equal bit for bit.

    Raises:
        ValueError: If the name does not end in .npz or .h5.

    Example:
        >>> load("plane.vtp")
        Traceback (most recent call last):
        ValueError: file must end in .npz or .h5 to be read back, got plane.vtp
    """
    file = Path(file)
    if file.suffix == ".npz":
        with np.load(file) as read:
            held = dict(read)
        kind = str(held.pop("kind"))
    elif file.suffix == ".h5":
        kind, held = _read_h5(file)
    else:
        raise ValueError(f"file must end in .npz or .h5 to be read back, got {file}")
    parts = {name: _value(array) for name, array in held.items()}
    return KINDS[kind](**parts)


def _array(value: Tensor | float) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _value(array: Array) -> Tensor | float:
    return torch.from_numpy(np.ascontiguousarray(array)) if array.ndim else float(array)


def _write_h5(file: Path, kind: str, held: Mapping[str, Array]) -> None:
    import h5py  # pyright: ignore[reportMissingTypeStubs]

    with h5py.File(file, "w") as out:
        out.attrs["kind"] = kind
        for name, array in held.items():
            out[name] = array


def _read_h5(file: Path) -> tuple[str, dict[str, Array]]:
    import h5py  # pyright: ignore[reportMissingTypeStubs]

    with h5py.File(file) as held:
        return str(held.attrs["kind"]), {str(name): np.asarray(held[name]) for name in held}


# ---------------------------------------------------------------------------------------------- VTP


def _vtp(found: Slice1D | Slice2D | Path2D) -> str:
    """A polygonal data set in VTK's XML form."""
    if isinstance(found, Slice2D):
        points, numbers = list(_surface(found)), {"loss": found.loss.flatten().tolist()}
        return _poly_data(points, numbers, polygons=list(_faces(found)))
    if isinstance(found, Slice1D):
        at, loss = found.reach.tolist(), found.loss.tolist()
        points = [(x, 0.0, _height(z)) for x, z in zip(at, loss, strict=True)]
        return _poly_data(points, {"loss": loss}, lines=_runs([math.isfinite(z) for z in loss]))
    path = zip(found.one.tolist(), found.two.tolist(), strict=True)
    points = [(a, b, 0.0) for a, b in path]
    return _poly_data(points, {"off": found.off.tolist()}, lines=[list(range(len(points)))])


def _surface(plane: Slice2D) -> Iterator[tuple[float, float, float]]:
    for a, row in zip(plane.one.tolist(), plane.loss.tolist(), strict=True):
        for b, z in zip(plane.two.tolist(), row, strict=True):
            yield a, b, _height(z)


def _height(loss: float) -> float:
    """The height of a point that may be in no cell: VTK takes no nan for a place."""
    return loss if math.isfinite(loss) else 0.0


def _faces(plane: Slice2D) -> Iterator[list[int]]:
    """The quadrilaterals between neighbours, all of whose corners are finite."""
    finite = plane.loss.isfinite().flatten().tolist()
    rows, columns = plane.loss.shape
    for i in range(rows - 1):
        for j in range(columns - 1):
            start = i * columns + j
            corners = [start, start + 1, start + columns + 1, start + columns]
            if all(finite[corner] for corner in corners):
                yield corners


def _runs(finite: list[bool]) -> list[list[int]]:
    """Stretches of consecutive finite points, of two at least."""
    runs: list[list[int]] = [[]]
    for place, there in enumerate(finite):
        if there:
            runs[-1].append(place)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _poly_data(
    points: list[tuple[float, float, float]],
    numbers: Mapping[str, list[float]],
    *,
    lines: list[list[int]] | None = None,
    polygons: list[list[int]] | None = None,
) -> str:
    lines, polygons = lines or [], polygons or []
    data = "".join(_data_array("Float64", name, values) for name, values in numbers.items())
    places = _data_array("Float64", "points", [x for point in points for x in point], of=3)
    cells = "".join(
        f"<{name}>{_connected(kept)}</{name}>\n"
        for name, kept in (("Lines", lines), ("Polys", polygons))
    )
    counts = (
        f'NumberOfPoints="{len(points)}" NumberOfVerts="0" NumberOfStrips="0" '
        f'NumberOfLines="{len(lines)}" NumberOfPolys="{len(polygons)}"'
    )
    return (
        '<?xml version="1.0"?>\n<VTKFile type="PolyData" version="0.1" byte_order="LittleEndian">\n'
        f"<PolyData><Piece {counts}>\n<PointData>{data}</PointData>\n<Points>{places}</Points>\n"
        f"{cells}</Piece></PolyData>\n</VTKFile>\n"
    )


def _connected(cells: list[list[int]]) -> str:
    ends = list(accumulate(map(len, cells)))
    return _data_array("Int64", "connectivity", [i for cell in cells for i in cell]) + _data_array(
        "Int64", "offsets", ends
    )


def _data_array(kind: str, name: str, values: list[Any], *, of: int = 1) -> str:
    text = " ".join(map(repr, values))
    return (
        f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{of}" format="ascii">'
        f"{text}</DataArray>\n"
    )
