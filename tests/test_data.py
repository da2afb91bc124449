"""The data: what is in which part, which labels are wrong, and what is said of missing files."""

from __future__ import annotations

import gzip
import os
import struct

import pytest
import torch

from flatminima.data import Digits, Mnist, Part
from flatminima.data.digits import digits
from flatminima.data.noise import symmetric
from flatminima.data.split import stratified

LABELS = torch.arange(10).repeat_interleave(30)


def test_the_parts_of_a_split_are_disjoint_and_of_the_size_asked_for():
    parts = stratified(LABELS, (100, 50, 30), seed=0)
    together = torch.cat(parts)
    assert [len(part) for part in parts] == [100, 50, 30]
    assert len(together.unique()) == len(together)


def test_every_part_of_a_split_holds_the_classes_in_proportion():
    for part in stratified(LABELS, (101, 53, 30), seed=0):
        counts = LABELS[part].bincount(minlength=10)
        assert (counts - len(part) / 10).abs().max() <= 1


def test_a_seed_decides_the_split():
    one, again, other = (stratified(LABELS, (100,), seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_split_cannot_hold_more_than_there_is():
    with pytest.raises(
        ValueError, match=r"counts must add up to at most .* 300, got 200 \+ 101 = 301"
    ):
        stratified(LABELS, (200, 101), seed=0)
    with pytest.raises(ValueError, match="counts must be >= 0, got"):
        stratified(LABELS, (-1,), seed=0)


@pytest.mark.parametrize("rate", [0.0, 0.29, 0.4, 1.0])
def test_exactly_the_share_asked_for_is_flipped_and_a_flipped_label_is_wrong(rate):
    noisy = symmetric(LABELS, classes=10, rate=rate, seed=0)
    assert int((noisy != LABELS).sum()) == round(rate * 300)
    assert noisy.min() >= 0
    assert noisy.max() <= 9


def test_a_flipped_label_is_equally_likely_to_become_any_other_class():
    zeros = torch.zeros(9000, dtype=torch.long)
    counts = symmetric(zeros, classes=10, rate=1.0, seed=0).bincount(minlength=10)
    assert counts[0] == 0
    assert (counts[1:] - 1000).abs().max() < 5 * 1000**0.5


def test_noise_leaves_its_argument_alone():
    labels = LABELS.clone()
    symmetric(labels, classes=10, rate=1.0, seed=0)
    assert torch.equal(labels, LABELS)


def test_noise_needs_a_rate_and_two_classes():
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.1"):
        symmetric(LABELS, classes=10, rate=1.1, seed=0)
    with pytest.raises(ValueError, match="classes must be at least 2 to flip labels, got 1"):
        symmetric(LABELS, classes=1, rate=0.5, seed=0)


def test_the_digits_are_bytes_in_memory_and_numbers_from_0_to_1_on_the_device(device):
    part = Digits().load().to(device).train
    assert part.images.dtype == torch.uint8
    assert part.shape == (1, 8, 8)
    x = part.inputs(torch.tensor([0, 1], device=device))
    assert x.device.type == device.type
    assert x.dtype == torch.get_default_dtype()
    assert (part.inputs().min(), part.inputs().max()) == (0, 1)


def test_the_digits_are_the_ones_of_scikit_learn():
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    assert torch.equal(digits().images.flatten(1), torch.as_tensor(pixels).to(torch.uint8))
    assert torch.equal(digits().labels, torch.as_tensor(target))


def test_training_and_validation_labels_are_noisy_and_test_labels_are_clean():
    parts = Digits(noise=0.4).load()
    assert [int(part.flipped.sum()) for part in (parts.train, parts.validation)] == [400, 119]
    assert not parts.test.flipped.any()


def test_the_true_labels_are_kept_beside_the_noisy_ones():
    noisy, clean = Digits(noise=0.4).load().train, Digits().load().train
    assert torch.equal(noisy.clean_labels, clean.labels)
    assert torch.equal(noisy.images, clean.images)


def test_the_seed_of_the_noise_leaves_the_split_alone():
    one, other = (Digits(noise=0.4, seed=seed).load() for seed in (0, 1))
    assert torch.equal(one.train.images, other.train.images)
    assert not torch.equal(one.train.labels, other.train.labels)


@pytest.mark.parametrize("settings", [Digits, Mnist])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="train must be at least 1 example, got 0"):
        settings(train=0)
    with pytest.raises(ValueError, match=r"noise must be in \[0, 1\], got -0.1"):
        settings(noise=-0.1)


def test_images_and_labels_belong_together():
    with pytest.raises(ValueError, match="images and labels must be equally many, got 2, 3 and 3"):
        Part(images=torch.zeros(2, 1, 1, 1), labels=LABELS[:3], clean_labels=LABELS[:3], peak=1)


# ---- MNIST, from small files in its own form


def write_idx(path, values, packed):
    shape = struct.pack(f">{values.dim()}I", *values.shape)
    raw = bytes([0, 0, 8, values.dim()]) + shape + values.to(torch.uint8).numpy().tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def write_mnist(root, packed, count=40):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = torch.arange(count)[:, None, None].expand(count, 28, 28)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", images, packed)
        write_idx(raw / f"{part}-labels-idx1-ubyte", torch.arange(count) % 10, packed)
    return raw


SMALL = Mnist(train=20, validation=10, test=10)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_packed_or_not(tmp_path, packed):
    write_mnist(tmp_path, packed)
    parts = SMALL.load(str(tmp_path))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [20, 10, 10]
    for part in (parts.train, parts.validation, parts.test):
        assert part.shape == (1, 28, 28)
        assert torch.equal(part.images[:, 0, 0, 0] % 10, part.labels.to(torch.uint8))


def test_reading_mnist_writes_nothing(tmp_path):
    raw = write_mnist(tmp_path, packed=True)
    before = sorted(tmp_path.rglob("*"))
    SMALL.load(str(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before
    assert len(list(raw.iterdir())) == 4


def test_the_data_root_may_come_from_the_environment(tmp_path, monkeypatch):
    write_mnist(tmp_path, packed=False)
    monkeypatch.setenv("FLATMINIMA_DATA", str(tmp_path))
    assert len(SMALL.load().train) == 20


def test_without_a_data_root_the_message_says_how_to_give_one(monkeypatch):
    monkeypatch.delenv("FLATMINIMA_DATA", raising=False)
    with pytest.raises(
        ValueError, match="data root must be given, got none: pass --data-root PATH or set"
    ):
        SMALL.load()


def test_a_missing_file_is_named_with_the_flag_that_would_fetch_it(tmp_path):
    raw = write_mnist(tmp_path, packed=True)
    (raw / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        ValueError, match=r"must hold the file train-labels-idx1-ubyte .* --download to fetch it"
    ):
        SMALL.load(str(tmp_path))


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_is_named(tmp_path, packed):
    name = "train-images-idx3-ubyte" + ".gz" * packed
    raw = write_mnist(tmp_path, packed)
    (raw / name).write_bytes((raw / name).read_bytes()[:50])
    with pytest.raises(
        ValueError, match=f"data root must hold readable files, got .*{name}.*--download"
    ):
        SMALL.load(str(tmp_path))


def test_a_root_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match="data root must be a folder that MNIST can be downloaded into, got"
    ):
        SMALL.load(str(tmp_path / "file"), download=True)


def test_mnist_as_published_has_its_known_counts():
    if not os.environ.get("FLATMINIMA_DATA"):
        pytest.skip("FLATMINIMA_DATA names no folder with MNIST")
    parts = Mnist(noise=0.4).load()
    assert int(parts.train.flipped.sum()) == 20_000
    zeros_to_nines = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the test set
    assert parts.test.labels.bincount().tolist() == zeros_to_nines
