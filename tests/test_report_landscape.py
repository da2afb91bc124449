"""A slice is drawn where its coordinates say, with its holes and the way on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flatminima import Objective, Vector
from flatminima.landscape import Path2D, slice_1d, slice_2d
from flatminima.report.landscape import interactive, static


@pytest.fixture
def plane():
    f = Objective(lambda w: w.parts[0][0].log() + 2 * w.parts[0][1])
    w, one, two = (Vector([torch.tensor(x)]) for x in ([1.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    return slice_2d(f, w, one, two, reach=([-2.0, 2.0], 1.0), points=(5, 3))


@pytest.fixture
def way() -> Path2D:
    one, two, off = torch.tensor([[1.0, 0.5, 0.0], [-0.5, 0.2, 0.0], [0.0, 0.0, 0.0]])
    return Path2D(one=one, two=two, off=off, inside=1.0)


@pytest.mark.parametrize("deep", [False, True])
def test_the_axes_of_a_plane_are_not_mixed_up(plane, deep: bool) -> None:
    trace = interactive(plane, deep=deep).data[0]
    assert len(trace.x) == 5 and len(trace.y) == 3 and np.shape(trace.z) == (3, 5)
    loss = torch.where(plane.loss.isfinite(), plane.loss, torch.nan).numpy()
    np.testing.assert_allclose(trace.z, loss.T, rtol=1e-6)


def test_a_trajectory_lies_on_the_plane(plane, way) -> None:
    trace = interactive(plane, way).data[1]
    assert list(trace.x) == way.one.tolist() and list(trace.y) == way.two.tolist()


@pytest.mark.slow
def test_pictures_are_written_as_files(plane, way, tmp_path: Path) -> None:
    w = Vector([torch.tensor([1.0])])
    line = slice_1d(Objective(lambda w: w.dot(w)), w, w, reach=1.0, points=5)
    for found, name in ((plane, "plane"), (line, "line")):
        static(found, way if name == "plane" else None, file=tmp_path / f"{name}.png")
        interactive(found, file=tmp_path / f"{name}.html")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "plotly" in (tmp_path / f"{name}.html").read_text(encoding="utf-8").lower()


def test_what_is_not_finite_is_left_open(plane) -> None:
    drawn = static(plane).axes[0]
    assert plane.diverged > 0
    assert drawn.get_xlabel() == "direction 1" and drawn.get_aspect() == 1.0
