"""Data sets in the forms they come in, wrong labels of every kind, and images changed at random."""

from __future__ import annotations

import lzma
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from flatminima.data import (
    Augment,
    Cifar10,
    Cifar100,
    Digits,
    FashionMnist,
    ImageFolder,
    Npz,
    Svhn,
    batches,
)
from flatminima.data.augment import by_policy, cropped, cut_out, flipped, mixed
from flatminima.data.cifar import COARSE
from flatminima.data.digits import digits
from flatminima.data.noise import asymmetric, from_file, instance, pairwise
from flatminima.data.packed import unpacked

ROOT = os.environ.get("FLATMINIMA_DATA")
needs_data = pytest.mark.skipif(not ROOT, reason="FLATMINIMA_DATA names no folder with CIFAR")
LABELS = torch.arange(10).repeat_interleave(30)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- wrong labels


def test_asymmetric_noise_flips_an_exact_share_of_what_can_be_mistaken_and_nothing_else():
    becomes = Cifar10.becomes
    noisy = asymmetric(LABELS, becomes, rate=0.4, seed=0)
    able = torch.isin(LABELS, torch.tensor(list(becomes)))
    assert int((noisy != LABELS).sum()) == round(0.4 * 150) == 60
    assert torch.equal(noisy[~able], LABELS[~able])
    changed = noisy != LABELS
    pairs = zip(LABELS[changed].tolist(), noisy[changed].tolist(), strict=True)
    assert {becomes[before] == after for before, after in pairs} == {True}


def test_a_label_of_a_class_that_has_no_other_never_counts_as_flipped():
    part = digits().take(slice(100))
    noisy = asymmetric(part.clean_labels, {1: 0}, rate=1.0, seed=0)
    ones = int((part.clean_labels == 1).sum())
    assert int((noisy != part.clean_labels).sum()) == ones < 100


def test_pairwise_noise_takes_the_next_class_and_after_the_last_the_first():
    noisy = pairwise(LABELS, 10, rate=1.0, seed=0)
    assert torch.equal(noisy, (LABELS + 1) % 10)
    assert int((pairwise(LABELS, 10, rate=0.3, seed=0) != LABELS).sum()) == 90


def test_noise_by_instance_has_its_rate_and_prefers_some_classes_to_others():
    images = digits().images[:1500]
    labels = torch.zeros(1500, dtype=torch.long)
    noisy = instance(images, labels, 10, rate=0.4, seed=0)
    flips = int((noisy != 0).sum())
    assert abs(flips - 600) < 5 * (1500 * 0.4 * 0.6) ** 0.5
    counts = noisy.bincount(minlength=10)[1:]
    assert counts.max() > 2 * counts.min() + 10  # symmetric noise would be even
    assert torch.equal(noisy, instance(images, labels, 10, rate=0.4, seed=0))
    assert torch.equal(instance(images, labels, 10, rate=0.0, seed=0), labels)


def test_noise_by_instance_depends_on_the_image():
    labels = torch.zeros(1500, dtype=torch.long)
    one = instance(digits().images[:1500], labels, 10, rate=1.0, seed=0)
    other = instance(digits().images[:1500].flip(0), labels, 10, rate=1.0, seed=0)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "pairwise", "instance"])
def test_every_kind_of_noise_is_in_training_and_validation_and_never_in_the_test_part(kind):
    parts = Digits(noise=0.4, noise_kind=kind).load()
    assert parts.train.flipped.float().mean() == pytest.approx(0.4, abs=0.07)
    assert parts.validation.flipped.float().mean() == pytest.approx(0.4, abs=0.1)
    assert not parts.test.flipped.any()
    clean = Digits().load().train
    assert torch.equal(parts.train.clean_labels, clean.labels)


def test_labels_of_a_file_are_given_and_the_true_ones_kept(tmp_path):
    true = digits().labels.numpy()
    np.save(tmp_path / "noisy.npy", (true + 1) % 10)
    np.savez(tmp_path / "noisy.npz", labels=(true + 1) % 10)
    for name in ("noisy.npy", "noisy.npz"):
        parts = Digits(noise_file=str(tmp_path / name)).load()
        assert parts.train.flipped.all()
        assert not parts.test.flipped.any()
        assert torch.equal(parts.train.labels, (parts.train.clean_labels + 1) % 10)


def test_a_file_of_labels_must_fit(tmp_path):
    np.save(tmp_path / "short.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="noise_file must hold 4 whole numbers from 0 to 9, got"):
        from_file(str(tmp_path / "short.npy"), 4, 10)
    with pytest.raises(ValueError, match="noise_file must be a file that exists, got"):
        from_file(str(tmp_path / "none.npy"), 4, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Digits(noise_kind="no"), "noise_kind must be one of symmetric, .*, got 'no'"),
        (lambda: Digits(noise=0.1, noise_file="x"), "noise must be 0 with a noise_file, got 0.1"),
        (
            lambda: asymmetric(LABELS, {1: 1}, 0.1, 0),
            "becomes must name another class for each, got",
        ),
        (lambda: Cifar100(labels="no"), "labels must be fine or coarse, got 'no'"),
        (lambda: ImageFolder(size=0), "size must be from 1 to resize 256, got 0"),
        (lambda: Augment(crop=-1), "crop and cutout must be >= 0 pixels, got -1 and 0"),
        (lambda: Augment(policy="no"), "policy must be one of autoaugment_cifar10, .*, got 'no'"),
        (lambda: Augment(scale=(0, 1)), r"scale must be two shares in \(0, 1\], got \(0, 1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- CIFAR


def packed(images):
    """The packed form by its definition, one pixel after the other."""
    red, green, blue = (images[:, channel].astype(int) for channel in range(3))
    planes = np.stack([green, red - green, blue - green]) % 256
    kept = np.zeros_like(planes)
    for row, column in np.ndindex(32, 32):
        left = planes[..., row, column - 1] if column else 0
        up = planes[..., row - 1, column] if row else 0
        both = row and column
        corner = planes[..., row - 1, column - 1] if both else 0
        guess = np.median([left, up, left + up - corner], axis=0) if both else left + up
        kept[..., row, column] = planes[..., row, column] - guess + 128
    return lzma.compress((kept % 256).astype(np.uint8).tobytes())


def test_a_packed_file_gives_back_its_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    assert np.array_equal(unpacked(packed(images)), images)


def write_packed(root, count=4):
    folder = root / "cifar-10"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        (folder / f"{name}.xz").write_bytes(packed(images))
    (folder / "labels.bin").write_bytes(bytes(k % 10 for k in range(6 * count)))
    return folder


SMALL = {"train": 12, "validation": 5, "test": 3}


def test_cifar_is_read_from_the_small_form(tmp_path):
    write_packed(tmp_path)
    parts = Cifar10(**SMALL).load(str(tmp_path))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [12, 5, 3]
    assert parts.train.shape == (3, 32, 32)
    raw = Cifar10(**SMALL, standardized=False).load(str(tmp_path)).train
    assert raw.inputs().max() <= 1
    mean = torch.tensor((0.4914, 0.4822, 0.4465)).view(3, 1, 1)
    deviation = torch.tensor((0.2470, 0.2435, 0.2616)).view(3, 1, 1)
    torch.testing.assert_close(parts.train.inputs(), (raw.inputs() - mean) / deviation)


def test_a_damaged_file_that_is_listed_is_named_and_so_is_a_missing_one(tmp_path):
    folder = write_packed(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  cifar-10/data_batch_2.xz\n")
    with pytest.raises(ValueError, match="data_batch_2.xz must have the SHA-256 0000"):
        Cifar10(**SMALL).load(str(tmp_path))
    (folder / "data_batch_2.xz").unlink()
    with pytest.raises(
        ValueError, match="data root must hold the file data_batch_2.xz, got none in .*--download"
    ):
        Cifar10(**SMALL).load(str(tmp_path))


def test_cifar_as_published_is_checked_by_torchvision(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({}))
    with pytest.raises(
        ValueError, match="data root must hold all of cifar-10-batches-py, .*--download"
    ):
        Cifar10(**SMALL).load(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (Cifar10(), "cifar-10-batches-py"),
        (Cifar100(), "cifar-100-python"),
        (FashionMnist(), "train-images-idx3-ubyte"),
        (Svhn(), "train_32x32.mat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_root_without_the_data_names_what_is_missing_and_the_flag_that_fetches_it(
    tmp_path, data, name
):
    with pytest.raises(ValueError, match=f"must hold the file {name}.*--download"):
        data.load(str(tmp_path))


def test_a_damaged_svhn_is_named(tmp_path):
    (tmp_path / "SVHN").mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / "SVHN" / name).write_bytes(b"no")
    with pytest.raises(ValueError, match="data root must hold SVHN as published, got"):
        Svhn().load(str(tmp_path))


def test_svhn_has_channels_first_and_digits_as_labels(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    (tmp_path / "SVHN").mkdir()
    monkeypatch.setattr(SVHN, "_check_integrity", lambda _: True)
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 40), dtype=np.uint8)
    labels = np.arange(1, 41) % 10 + 1  # as published: a ten stands for the digit 0
    for name in ("train", "test"):
        savemat(tmp_path / "SVHN" / f"{name}_32x32.mat", {"X": images, "y": labels[:, None]})
    parts = Svhn(train=20, validation=10, test=10).load(str(tmp_path))
    assert parts.train.shape == (3, 32, 32)
    assert sorted(parts.train.labels.unique().tolist()) == list(range(10))


@needs_data
@pytest.mark.slow
def test_cifar_100_has_its_known_counts_and_coarse_classes():
    fine, coarse = Cifar100().load(ROOT), Cifar100(labels="coarse").load(ROOT)
    assert fine.test.labels.bincount().tolist() == [100] * 100
    assert coarse.test.labels.bincount().tolist() == [500] * 20
    assert torch.equal(
        torch.tensor(COARSE)[fine.train.labels.sort().values].sort().values,
        coarse.train.labels.sort().values,
    )


@needs_data
@pytest.mark.slow
def test_half_of_cifar_10_has_no_class_to_be_mistaken_for():
    parts = Cifar10(noise=0.4, noise_kind="asymmetric").load(ROOT)
    assert parts.train.flipped.double().mean() == pytest.approx(0.2, abs=1e-3)
    assert parts.validation.flipped.double().mean() == pytest.approx(0.2, abs=1e-3)
    assert parts.train.inputs().mean((0, 2, 3)).abs().max() < 0.01


# ---- files of images, and arrays


def write_folder(root, parts=("train", "val"), classes=3, each=6):
    for part in parts:
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(each):
                pixels = np.full((40 + number, 50, 3), 40 * label + number, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


FOLDER = {"classes": 3, "train": 9, "validation": 6, "test": 6, "size": 16, "resize": 24}


def test_a_folder_of_images_is_read_when_it_is_needed(tmp_path):
    write_folder(tmp_path / "pets")
    parts = ImageFolder(path="pets", **FOLDER).load(str(tmp_path))
    assert parts.train.shape == (3, 16, 16)
    assert parts.train.labels.bincount().tolist() == [3, 3, 3]
    pixels = parts.train.images[torch.tensor([0, 8])]
    assert pixels.dtype == torch.uint8
    assert (pixels[:, 0, 0, 0] // 40).tolist() == [0, 2]
    assert parts.test.inputs(torch.tensor([0])).shape == (1, 3, 16, 16)


def test_without_val_all_parts_are_cut_from_train_and_share_no_image(tmp_path):
    write_folder(tmp_path / "pets", parts=("train",), each=9)
    parts = ImageFolder(path=str(tmp_path / "pets"), **FOLDER).load()
    paths = [
        path for part in (parts.train, parts.validation, parts.test) for path in part.images.paths
    ]
    assert len(set(paths)) == 21


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_of_files_are_the_same_with_any_number_of_workers(tmp_path, workers):
    write_folder(tmp_path / "pets")
    part = ImageFolder(path=str(tmp_path / "pets"), **FOLDER).load().train
    order = torch.arange(9).split(4)
    augment = Augment(policy="randaugment")
    seen = list(batches(part, order, augment, int, workers))
    again = list(batches(part, order[1:], augment, later_by_one, 0))
    assert [len(x) for x, _, _ in seen] == [4, 4, 1]
    assert torch.equal(seen[0][1], part.labels[:4])
    for (x, y, _), (same, label, _) in zip(seen[1:], again, strict=True):
        assert torch.equal(x, same)
        assert torch.equal(y, label)


def later_by_one(place):
    return place + 1


def test_a_folder_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match="data root must hold the file train, got none in"):
        ImageFolder(path="none").load(str(tmp_path))
    write_folder(tmp_path / "pets")
    with pytest.raises(ValueError, match="classes must be the number of folders in .*, 3, got 4"):
        ImageFolder(path="pets", **FOLDER | {"classes": 4}).load(str(tmp_path))
    for path in (tmp_path / "pets/train/class0").iterdir():
        path.write_bytes(b"no")
    part = ImageFolder(path="pets", **FOLDER).load(str(tmp_path)).train
    with pytest.raises(ValueError, match="data root must hold readable images, got"):
        part.images[slice(None)]


def test_an_npz_file_holds_two_parts_or_one_to_cut(tmp_path):
    images = np.arange(30 * 12, dtype=np.uint16).astype(np.uint8).reshape(30, 2, 2, 3)
    labels = np.arange(30) % 3
    np.savez(tmp_path / "one.npz", images=images, labels=labels)
    np.savez(
        tmp_path / "two.npz",
        train_images=images[..., 0], train_labels=labels,
        test_images=images[..., 0], test_labels=labels,
    )  # fmt: skip
    counts = {"classes": 3, "train": 15, "validation": 9, "test": 6}
    one = Npz(path="one.npz", **counts).load(str(tmp_path))
    two = Npz(path="two.npz", **counts).load(str(tmp_path))
    assert one.train.shape == (3, 2, 2)
    assert two.train.shape == (1, 2, 2)
    with pytest.raises(ValueError, match="one.npz must have the SHA-256 abc, got"):
        Npz(path="one.npz", **counts, sha256="abc").load(str(tmp_path))
    with pytest.raises(ValueError, match="labels must be from 0 to 1, got 0 to 2"):
        Npz(path="one.npz", **counts | {"classes": 2}).load(str(tmp_path))
    np.savez(tmp_path / "bad.npz", images=images / 255.0, labels=labels)
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \(n, height, width\) or"):
        Npz(path="bad.npz", **counts).load(str(tmp_path))
    np.savez(tmp_path / "odd.npz", x=images)
    with pytest.raises(ValueError, match="odd.npz must hold images and labels, got x"):
        Npz(path="odd.npz", **counts).load(str(tmp_path))


# ---- images changed at random


def test_a_crop_is_a_piece_of_the_padded_image_and_every_piece_occurs(device):
    images = torch.randint(0, 256, (400, 3, 5, 6), dtype=torch.uint8, device=device)
    wide = torch.nn.functional.pad(images, (1, 1, 1, 1))
    found = set()
    for image, pieces in zip(cropped(images, 1, random()), wide, strict=True):
        places = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if torch.equal(image, pieces[:, top : top + 5, left : left + 6])
        ]
        assert places
        found.update(places)
    assert len(found) == 9


def test_half_of_the_images_are_mirrored():
    images = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3).expand(1000, 1, 2, 3)
    changed = flipped(images, random())
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert abs(int(mirrored.sum()) - 500) < 5 * 250**0.5


def test_cutout_makes_a_square_of_zeros_that_may_reach_over_the_border():
    holes = (cut_out(torch.ones(200, 2, 8, 8), 4, random()) == 0).all(1)
    areas = holes.flatten(1).sum(1)
    assert areas.max() == 16
    assert 4 <= areas.min() < 16
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(areas, rows * columns)  # nothing but a rectangle


@pytest.mark.parametrize("policy", ["autoaugment_cifar10", "randaugment"])
def test_a_policy_changes_images_one_by_one_by_its_own_random_numbers(policy):
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    state = torch.get_rng_state()
    changed = by_policy(image.expand(8, 3, 16, 16), policy, random())
    assert torch.equal(changed, by_policy(image.expand(8, 3, 16, 16), policy, random()))
    assert len({tuple(one.flatten().tolist()) for one in changed}) > 4
    assert torch.equal(torch.get_rng_state(), state)


def test_mixup_mixes_inputs_and_labels_by_one_share():
    x, y = torch.arange(6.0)[:, None], torch.eye(6)
    mixed_x, mixed_y = mixed(x, y, 1.0, random(3))
    torch.testing.assert_close(mixed_y.sum(1), torch.ones(6))
    torch.testing.assert_close(mixed_x[:, 0], mixed_y @ x[:, 0])
    shares = torch.tensor([float(mixed(x, y, 1.0, random(k))[1][0, 0]) for k in range(400)])
    assert shares.std() > 0.2  # uniform but for the examples mixed with themselves


def test_nothing_asked_for_changes_nothing():
    x = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    still = Augment(crop=0, flip=False)
    assert torch.equal(still.numbers(still.pixels(x, random()), random()), x)
