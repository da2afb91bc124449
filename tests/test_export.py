"""What is written for other programs is read back bit for bit, or as its format says."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from flatminima import Objective, Vector
from flatminima.landscape import Path2D, load, save, slice_1d, slice_2d

F = Objective(lambda w: w.parts[0].sum().log())


def plane():
    w, one, two = (Vector([torch.tensor(x)]) for x in ([0.5, 0.5], [1.0, 0.0], [0.0, 1.0]))
    return slice_2d(F, w, one, two, reach=([-1.0, 1.0], 0.6), points=(4, 3))


def line():
    w = Vector([torch.tensor([1.0])])
    return slice_1d(F, w, w, reach=[-3.0, -1.0, 0.0, 1.0, 2.0])


def path():
    one, two, off = torch.randn(3, 4)
    return Path2D(one=one, two=two, off=off, inside=0.25)


@pytest.mark.parametrize("ending", [".npz", ".h5"])
@pytest.mark.parametrize("make", [plane, line, path], ids=lambda make: make.__name__)
def test_what_is_saved_is_loaded_bit_for_bit(make, ending: str, tmp_path: Path) -> None:
    if ending == ".h5":
        pytest.importorskip("h5py")
    found = make()
    again = load(save(found, tmp_path / f"found{ending}"))
    assert type(again) is type(found)
    for field in fields(found):
        one, two = getattr(found, field.name), getattr(again, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == two.dtype
            torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == two


def arrays(file: Path) -> tuple[dict[str, str], dict[str, list[float]]]:
    """The counts and the arrays of a VTP file."""
    piece = ElementTree.parse(file).getroot().find("PolyData/Piece")
    assert piece is not None
    found = {
        f"{section.tag}.{array.get('Name')}": [float(x) for x in (array.text or "").split()]
        for section in piece
        for array in section
    }
    return piece.attrib, found


def test_a_surface_for_paraview_has_a_face_where_all_corners_are_finite(tmp_path: Path) -> None:
    found = plane()
    counts, held = arrays(save(found, tmp_path / "plane.vtp"))
    finite = found.loss.isfinite()
    whole = finite[:-1, :-1] & finite[1:, :-1] & finite[:-1, 1:] & finite[1:, 1:]
    assert 0 < int(whole.sum()) < whole.numel()
    assert counts["NumberOfPoints"] == "12" and counts["NumberOfPolys"] == str(int(whole.sum()))
    assert held["Polys.offsets"] == [4.0 * (k + 1) for k in range(int(whole.sum()))]
    points = torch.tensor(held["Points.points"]).reshape(4, 3, 3)
    assert torch.equal(points[..., 0], found.one[:, None].expand(4, 3))
    assert torch.equal(points[..., 1], found.two.expand(4, 3))
    assert torch.equal(points[..., 2][finite], found.loss[finite])
    assert all(bool(finite.flatten()[int(corner)]) for corner in held["Polys.connectivity"])
    assert sum(map(math.isnan, held["PointData.loss"])) == int(found.loss.isnan().sum())


def test_a_line_for_paraview_is_broken_where_the_loss_is_no_number(tmp_path: Path) -> None:
    counts, held = arrays(save(line(), tmp_path / "line.vtp"))
    assert counts["NumberOfLines"] == "1"
    assert held["Lines.connectivity"] == [2.0, 3.0, 4.0]  # nan at -3, -inf at -1


def test_a_trajectory_for_paraview_is_one_line(tmp_path: Path) -> None:
    found = path()
    counts, held = arrays(save(found, tmp_path / "path.vtp"))
    assert counts["NumberOfLines"] == "1" and held["Lines.offsets"] == [4.0]
    assert held["PointData.off"] == found.off.tolist()


def test_files_have_one_of_three_endings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"file must end in .npz, .h5 or .vtp, got"):
        save(line(), tmp_path / "line.csv")
    with pytest.raises(ValueError, match=r"file must end in .npz or .h5 to be read back, got"):
        load(tmp_path / "line.vtp")
