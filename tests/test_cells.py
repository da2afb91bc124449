"""A grid goes on where it was stopped, is shared among processes, and comes to the same bytes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from flatminima import Objective, Vector
from flatminima.landscape import cells, merged, slice_1d, slice_2d
from flatminima.landscape.cells import evaluated


@pytest.fixture(autouse=True)
def write_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "PAUSE", 0.0)


class Counted:
    """A loss that counts how often it is asked, and stops after some."""

    def __init__(self, stop: int | None = None) -> None:
        self.asked: list[float] = []
        self.stop = stop

    def __call__(self, w: Vector) -> torch.Tensor:
        if self.stop is not None and len(self.asked) >= self.stop:
            raise KeyboardInterrupt
        x = w.parts[0]
        self.asked.append(x.tolist())
        return (x.square().sum() - 1).log()  # negative, zero, -inf and nan among them


def plane(loss: Counted | None = None, **keywords):
    f = Objective(loss or Counted())
    w, one, two = (Vector([torch.tensor(x)]) for x in ([0.0, 0.0], [1.0, 0.0], [0.5, 1.0]))
    return slice_2d(f, w, one, two, reach=([-2.0, 2.0], 1.5), points=(5, 4), **keywords)


def test_a_plane_that_was_stopped_goes_on_and_comes_to_the_same_bytes(tmp_path: Path) -> None:
    whole = plane(file=tmp_path / "whole.npz")
    stopped = Counted(stop=8)
    with pytest.raises(KeyboardInterrupt):
        plane(stopped, file=tmp_path / "part.npz")
    again = Counted()
    found = plane(again, file=tmp_path / "part.npz")
    assert (
        len(stopped.asked) == 8 and len(again.asked) == 20 - 7 + 1
    )  # once for the loss at w, each
    torch.testing.assert_close(found.loss, whole.loss, rtol=0, atol=0, equal_nan=True)
    assert (tmp_path / "part.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def kill_after(points: int, file: Path) -> None:
    torch.set_default_dtype(torch.float64)
    cells.PAUSE = 0.0

    def progress(done: int, _: int) -> None:
        if done == points:
            os.kill(os.getpid(), signal.SIGKILL)

    plane(file=file, progress=progress)


@pytest.mark.slow
def test_a_plane_whose_process_was_killed_comes_to_the_same_bytes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=kill_after, args=(11, tmp_path / "part.npz"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    counted = Counted()
    plane(counted, file=tmp_path / "part.npz")
    assert len(counted.asked) == 20 - 11 + 1
    plane(file=tmp_path / "whole.npz")
    assert (tmp_path / "part.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_finished_slice_is_read_and_not_computed(tmp_path: Path) -> None:
    first = plane(file=tmp_path / "plane.npz")
    before = (tmp_path / "plane.npz").read_bytes()
    counted = Counted()
    again = plane(counted, file=tmp_path / "plane.npz")
    assert len(counted.asked) == 1  # the loss at w, which tells that the file is about this slice
    torch.testing.assert_close(again.loss, first.loss, rtol=0, atol=0, equal_nan=True)
    assert (tmp_path / "plane.npz").read_bytes() == before


def test_a_diverged_cell_is_done_and_not_computed_again(tmp_path: Path) -> None:
    found = plane(file=tmp_path / "plane.npz")
    assert found.done.all() and found.diverged == int((~found.loss.isfinite()).sum()) > 0
    assert bool((found.loss <= 0).any())  # and a loss below zero is a loss
    counted = Counted()
    plane(counted, file=tmp_path / "plane.npz")
    assert len(counted.asked) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_disjoint_and_merge_into_the_whole(count: int) -> None:
    shares = [plane(share=(index, count)) for index in range(count)]
    assert sum(share.done.int() for share in shares).tolist() == [[1] * 4] * 5
    assert all(share.loss[~share.done].isnan().all() for share in shares)
    torch.testing.assert_close(merged(shares).loss, plane().loss, rtol=0, atol=0, equal_nan=True)
    assert merged(shares).done.all()


def compute_share(index: int, folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    plane(share=(index, 2), file=folder / f"{index}.npz")


@pytest.mark.slow
def test_two_processes_share_a_plane_and_merge_it_into_the_same_bytes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=compute_share, args=(index, tmp_path)) for index in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    counted = Counted()
    shares = [plane(counted, share=(i, 2), file=tmp_path / f"{i}.npz") for i in range(2)]
    assert len(counted.asked) == 2  # all read: the losses at w only
    alone = plane()
    assert merged(shares).loss.numpy().tobytes() == alone.loss.numpy().tobytes()


def test_a_line_is_shared_and_kept_like_a_plane(tmp_path: Path) -> None:
    f, w = Objective(Counted()), Vector([torch.tensor([0.5, 0.5])])
    whole = slice_1d(f, w, w, reach=2.0, points=7)
    shares = [
        slice_1d(f, w, w, reach=2.0, points=7, share=(i, 2), file=tmp_path / f"{i}.npz")
        for i in range(2)
    ]
    torch.testing.assert_close(merged(shares).loss, whole.loss, rtol=0, atol=0, equal_nan=True)


def test_progress_counts_the_cells_of_the_share() -> None:
    seen: list[tuple[int, int]] = []
    plane(share=(1, 3), progress=lambda *at: seen.append(at))
    assert seen == [(n, 7) for n in range(1, 8)]


@pytest.mark.parametrize("what", ["points", "w", "loss"])
def test_a_file_about_another_slice_is_refused(what: str, tmp_path: Path) -> None:
    f, w = Objective(Counted()), Vector([torch.tensor([2.0])])
    slice_1d(f, w, w, reach=2.0, points=5, file=tmp_path / "line.npz")
    points = 4 if what == "points" else 5
    w = Vector([torch.tensor([3.0])]) if what == "w" else w
    f = Objective(lambda w: w.parts[0].sum()) if what == "loss" else f
    with pytest.raises(ValueError, match="file must hold this very grid .* got another one in"):
        slice_1d(f, w, w, reach=2.0, points=points, file=tmp_path / "line.npz")


@pytest.mark.parametrize("share", [(0, 0), (2, 2), (-1, 2)])
def test_a_share_is_one_of_several(share) -> None:
    with pytest.raises(ValueError, match=r"share must be \(i, n\) with 0 <= i < n, got"):
        evaluated(lambda cell: 0.0, (2,), share=share)


def test_only_shares_of_one_slice_can_be_merged() -> None:
    f, w = Objective(Counted()), Vector([torch.tensor([2.0])])
    lines = [slice_1d(f, w, w, reach=reach, points=3) for reach in (1.0, 2.0)]
    with pytest.raises(ValueError, match="slices must be shares of one slice, got different"):
        merged(lines)
    with pytest.raises(ValueError, match="slices must be shares of one slice, got different"):
        merged([plane(), lines[0]])
    with pytest.raises(ValueError, match="slices must hold at least one share, got none"):
        merged([])


def test_memory_does_not_grow_with_the_grid() -> None:
    alive: list[int] = []
    f = Objective(lambda w: w.parts[0].sum())
    w = Vector([torch.zeros(1000)])

    def count(*_: int) -> None:
        tensors = (x for x in gc.get_objects() if type(x) is torch.Tensor)
        alive.append(sum(x.numel() == 1000 for x in tensors))

    slice_1d(f, w, w, reach=1.0, points=9, progress=count)
    assert max(alive[1:]) <= alive[0]
