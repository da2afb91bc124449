"""A trajectory in a plane is found there again; what lies off a plane is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import flatminima as fm
from flatminima import Vector
from flatminima.landscape import Trajectory, principal, projected

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def shaped(flat: torch.Tensor) -> Vector:
    return Vector([flat[:6].reshape(2, 3), None, flat[6:]])


def in_a_plane(count: int = 7) -> tuple[torch.Tensor, torch.Tensor, list[Vector]]:
    """Orthonormal axes, coordinates on them, and a trajectory that ends at neither axis."""
    axes = torch.linalg.qr(torch.randn(10, 2)).Q.T
    places = torch.randn(count, 2) * torch.tensor([5.0, 1.0])
    start = torch.randn(10)
    return axes, places, [shaped(start + place @ axes) for place in places]


def test_a_trajectory_in_a_plane_is_explained_by_two_directions() -> None:
    _, _, path = in_a_plane()
    found = principal(path)
    assert float(found.explained.sum()) == pytest.approx(1.0, abs=1e-12)
    assert found.explained[0] > found.explained[1]
    one, two = found.directions
    assert float(one.norm()) == pytest.approx(1.0) and float(two.norm()) == pytest.approx(1.0)
    assert abs(float(one.dot(two))) < 1e-10


def test_the_directions_are_the_singular_vectors_of_the_differences_to_the_end() -> None:
    path = [shaped(torch.randn(10)) for _ in range(6)]
    rows = torch.stack([torch.cat([t.flatten() for t in (w - path[-1]).tensors]) for w in path])
    _, values, axes = torch.linalg.svd(rows)
    found = principal(path, k=3)
    torch.testing.assert_close(found.explained, values[:3] ** 2 / (values**2).sum(), **EXACT)
    for direction, axis in zip(found.directions, axes, strict=False):
        flat = torch.cat([t.flatten() for t in direction.tensors])
        assert abs(float(flat @ axis)) == pytest.approx(1.0)


def test_the_coordinates_of_a_trajectory_in_a_plane_are_recovered() -> None:
    axes, places, path = in_a_plane()
    w, (one, two) = path[-1], map(shaped, axes)
    found = projected(path, w, one, two)
    expected = places - places[-1]
    torch.testing.assert_close(found.one, expected[:, 0], **EXACT)
    torch.testing.assert_close(found.two, expected[:, 1], **EXACT)
    assert float(found.off.max()) < 1e-6 and found.inside == pytest.approx(1.0)


def test_coordinates_are_those_of_a_slice_along_oblique_directions_of_any_length() -> None:
    axes, _, path = in_a_plane()
    one, two = shaped(3.0 * axes[0]), shaped(axes[0] - 0.2 * axes[1])
    w = path[0]
    found = projected(path, w, one, two)
    for a, b, at in zip(found.one, found.two, path, strict=True):
        assert float((w + a * one + b * two - at).norm()) < 1e-10


def test_what_lies_off_the_plane_is_measured() -> None:
    axes = torch.linalg.qr(torch.randn(10, 3)).Q.T
    w = shaped(torch.randn(10))
    one, two, up = map(shaped, axes)
    found = projected([w + 3.0 * one, w + 4.0 * up], w, one, two)
    torch.testing.assert_close(found.off, torch.tensor([0.0, 4.0]), rtol=0, atol=1e-6)
    assert found.inside == pytest.approx(9 / 25)


def test_parallel_directions_span_no_plane() -> None:
    w = shaped(torch.randn(10))
    with pytest.raises(ValueError, match="one and two must span a plane, got directions of cosine"):
        projected([w], w, w, 2.0 * w)
    with pytest.raises(ValueError, match="one and two must span a plane"):
        projected([w], w, w, w.zeros_like())


def test_a_straight_trajectory_has_one_direction_and_a_single_point_none() -> None:
    line = [shaped(t * torch.ones(10)) for t in (0.0, 1.0, 2.0)]
    assert principal(line, k=1).explained.tolist() == pytest.approx([1.0])
    with pytest.raises(ValueError, match="k must be between 1 and the 1 directions .* got 2"):
        principal(line, k=2)
    with pytest.raises(ValueError, match="k must be between 1 and the 0 directions"):
        principal(line[:1], k=1)


@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_training_is_recorded_and_changed_by_nothing(kept: str, tmp_path: Path) -> None:
    def trained(*observers):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        x, y = torch.randn(9, 3), torch.randint(2, (9,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        sharp = fm.SharpnessAware(model, fm.sam(rho=0.1), observe=observers)
        weights = []
        for _ in range(6):
            weights.append(model.weight.detach().clone())
            optimizer.zero_grad()
            sharp.backward(lambda x, y: nn.functional.cross_entropy(model(x), y), x, y)
            optimizer.step()
        return model, weights

    path = Trajectory(every=2, folder=tmp_path / "path" if kept == "folder" else None)
    model, weights = trained(path)
    path.record(6, Vector(model.parameters()))
    plain, _ = trained()
    assert torch.equal(model.weight, plain.weight)
    assert path.steps == [0, 2, 4, 6] and len(path) == 4
    for snapshot, expected in zip(path, [*weights[::2], model.weight], strict=True):
        assert torch.equal(snapshot.parts[0], expected)
    found = projected(path, path[3], *principal(path).directions)
    assert found.one[3] == found.two[3] == 0.0
    assert len(list(tmp_path.rglob("*.pt"))) == (4 if kept == "folder" else 0)


def test_a_trajectory_is_recorded_every_so_often() -> None:
    with pytest.raises(ValueError, match="every must be a positive whole number, got 0"):
        Trajectory(every=0)
