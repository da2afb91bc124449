"""The losses of a grid, one cell after the other: kept on disk, shared out, and put together again.

A cell that is not computed yet is nan and not `done`; one that is `done` and nan is a loss that is
no number. So nothing a loss can be means "missing", and a grid that was killed goes on where it
was. What is written depends on the cells alone, so that it comes to the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from flatminima.vector import Vector

__all__ = ["Cells", "Progress", "Share", "evaluated"]

Progress: TypeAlias = Callable[[int, int], None]
Share: TypeAlias = tuple[int, int]
PAUSE = 5.0  # seconds between two writes of the file


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The losses of a grid and which of them are there."""

    loss: Tensor  # any shape, float64; nan where not done
    done: Tensor  # the same shape, bool


def evaluated(
    loss: Callable[[tuple[int, ...]], float | Tensor],
    shape: tuple[int, ...],
    *,
    share: Share = (0, 1),
    file: Path | str | None = None,
    about: Mapping[str, Tensor | Vector] | None = None,
    progress: Progress | None = None,
) -> Cells:
    """Evaluate the cells of a grid that are not done yet.

    Args:
        loss: The loss of a cell, given its place in the grid.
        shape: The shape of the grid.
        share: (i, n) computes the i-th of n shares only: the cells whose number leaves i when
            divided by n. The others stay nan.
        file: Where to keep the cells, as npz; what is done there already is not done again. The
            file is written every few seconds, and always in one piece.
        about: What determines the grid. A file that was written about something else is refused.
        progress: Called with (cells done, cells of this share) after each.

    Returns:
        The cells.

    Raises:
        ValueError: If the share is none, or the file is about another grid.
    """
    index, count = share
    if not 0 <= index < count:
        raise ValueError(
            f"share must be (i, n) with 0 <= i < n, got {share}; for example (rank, world_size)"
        )
    mark = _mark(about or {}, shape)
    cells = _read(Path(file), mark, shape) if file is not None and Path(file).exists() else None
    if cells is None:
        cells = Cells(
            loss=torch.full(shape, torch.nan, dtype=torch.float64, device="cpu"),
            done=torch.zeros(shape, dtype=torch.bool, device="cpu"),
        )
    mine = range(index, cells.loss.numel(), count)
    written = time.monotonic()
    flat, done = cells.loss.view(-1), cells.done.view(-1)
    for number, cell in enumerate(mine, start=1):
        if not done[cell]:
            place = tuple(int(i) for i in np.unravel_index(cell, shape))
            flat[cell] = loss(place)
            done[cell] = True
            if file is not None and time.monotonic() - written > PAUSE:
                _write(Path(file), cells, mark)
                written = time.monotonic()
        if progress is not None:
            progress(number, len(mine))
    if file is not None:
        _write(Path(file), cells, mark)
    return cells


def _mark(about: Mapping[str, Tensor | Vector], shape: tuple[int, ...]) -> str:
    """A name that two grids share only if everything that determines them is equal."""
    digest = hashlib.sha256(repr(shape).encode())
    for name, value in about.items():
        digest.update(name.encode())
        for part in [value] if isinstance(value, Tensor) else value.tensors:
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            flat = part.detach().contiguous().cpu().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(file: Path, mark: str, shape: tuple[int, ...]) -> Cells:
    """The cells that a file holds."""
    with np.load(file) as held:
        if str(held["mark"]) != mark:
            raise ValueError(
                f"file must hold this very grid {shape}, got another one in {file}; other weights, "
                "directions, points or data: give a new file or delete the old one"
            )
        return Cells(loss=torch.from_numpy(held["loss"]), done=torch.from_numpy(held["done"]))


def _write(file: Path, cells: Cells, mark: str) -> None:
    """Write the cells in one piece: a reader sees the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.npz")
    np.savez(draft, loss=cells.loss.numpy(), done=cells.done.numpy(), mark=np.array(mark))
    os.replace(draft, file)
