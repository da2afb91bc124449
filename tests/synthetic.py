"""Records of a study that never ran, made by a seeded generator to test what reads records."""

import json
from pathlib import Path

import numpy as np

LABELS = {"sgd": "SGD", "sam": "SAM", "asam": "ASAM"}
GAIN = {"sgd": 0.0, "sam": 0.021, "asam": 0.012}
SHARPNESS = {"sgd": 24.0, "sam": 5.0, "asam": 9.0}


def write_study(
    folder: Path,
    *,
    methods=("sgd", "sam", "asam"),
    seeds: int = 5,
    epochs: int = 20,
    radii=(0.02, 0.05, 0.1, 0.2),
    noisy: bool = True,
    side: int = 21,
    gain=GAIN,
    **about,
) -> Path:
    """Write a whole study; `gain` is the accuracy of each method above the first one's."""
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.004, size=seeds)  # shared by the methods, as a seed's data are
    for method in methods:
        for seed in range(seeds):
            surface = side if seed == 0 and method in ("sgd", "sam") else 0
            level = 0.9 + gain[method] + luck[seed] + rng.normal(0, 0.002)
            rho = None if method == "sgd" else 0.05
            write_run(
                folder,
                method,
                seed,
                rho=rho,
                level=level,
                epochs=epochs,
                rng=rng,
                noisy=noisy,
                surface=surface,
            )
        for rho in radii if method != "sgd" else ():
            level = 0.9 + gain[method] - 0.02 * abs(np.log2(rho / 0.05))
            for seed in range(2):
                write_run(
                    folder,
                    method,
                    seed,
                    rho=rho,
                    level=level + rng.normal(0, 0.003),
                    epochs=epochs,
                    rng=rng,
                    stage="grid",
                )
    write_json(folder / "study.json", description(methods) | about)
    return folder


def description(methods) -> dict:
    return {
        "name": "synthetic",
        "title": "Does SAM find flatter and better minima than SGD?",
        "question": "With equal epochs and a radius chosen on validation data, does SAM reach a "
        "higher test accuracy than SGD, and is the minimum it finds flatter?",
        "source": "made by a seeded generator for this test",
        "expected": "SAM above SGD by 1 to 3 points.",
        "preset": "quick",
        "claim": "SAM generalises better than SGD.",
        "methods": [
            {"name": name, "label": LABELS[name], "baseline": name == "sgd"} for name in methods
        ],
        "seconds": 754.0,
        "started": "2026-01-02T10:00:00+00:00",
        "finished": "2026-01-02T10:12:34+00:00",
        "code": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "machine": {"device": "cpu", "python": "3.11.0", "torch": "2.15.0"},
        "differences": ["A small network on small images, not the network of the source."],
    }


def write_run(
    folder, method, seed, *, rho, level, epochs, rng, stage="final", noisy=False, surface=0
):
    key = f"{stage[0]}{method}{seed}{rho or 0:g}".replace(".", "").ljust(12, "0")
    run = folder / "runs" / key
    settings = {
        "key": key,
        "study": "synthetic",
        "stage": stage,
        "method": method,
        "label": LABELS[method],
        "rho": rho,
        "seed": seed,
        "data": {"name": "digits", "classes": 10},
        "epochs": epochs,
    }
    write_json(run / "run.json", settings)
    rows = epoch_rows(method, level, epochs, rng, noisy and stage == "final")
    if method != "sgd" and stage == "final":
        rows += region_rows(method, epochs, rng)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(run / "result.json", result(rows, method, epochs, rng, stage, surface))
    return run


def epoch_rows(method, level, epochs, rng, noisy) -> list:
    rows = []
    for epoch in range(1, epochs + 1):
        rise = 1 - np.exp(-4 * epoch / epochs)
        accuracy = 0.1 + (level - 0.1) * rise + rng.normal(0, 0.004)
        row = {
            "kind": "epoch",
            "epoch": epoch,
            "step": 50 * epoch,
            "train_loss": float(2.3 * (1 - rise) + 0.02 * (1 + GAIN[method] * 40)),
            "train_accuracy": min(1.0, accuracy + 0.05),
            "validation_loss": 0.4,
            "validation_accuracy": accuracy - 0.003,
            "test_loss": 0.4,
            "test_accuracy": accuracy,
            "lr": 0.1,
            "seconds": 1.0,
        }
        if noisy:
            row |= {
                "clean_accuracy": min(1.0, accuracy + 0.04),
                "noisy_accuracy": 0.1 + (0.6 - 20 * GAIN[method]) * (epoch / epochs) ** 2,
            }
        rows.append(row)
    return rows


def region_rows(method, epochs, rng) -> list:
    rows = []
    for step in range(50, 50 * epochs + 1, 25):
        time = step / (50 * epochs)
        shares = np.array([0.45 + 0.1 * time, 0.35 - 0.1 * time, 0.11, 0.09]) + rng.normal(
            0, 0.004, 4
        )
        shares /= shares.sum()
        names = ("steeper", "gentler", "reversed_steeper", "reversed_gentler")
        rows.append(
            {"kind": "regions", "epoch": step / 50, "step": step, "both_zero": 0.1}
            | dict(zip(names, shares.tolist(), strict=True))
        )
    return rows


def result(rows, method, epochs, rng, stage, side) -> dict:
    curve = [row for row in rows if row["kind"] == "epoch"]
    top = max(curve, key=lambda row: row["validation_accuracy"])
    left = {
        "status": "done",
        "test_accuracy_last": curve[-1]["test_accuracy"],
        "test_accuracy_best": top["test_accuracy"],
        "best_epoch": top["epoch"],
        "train_loss_last": curve[-1]["train_loss"],
        "validation_accuracy_last": curve[-1]["validation_accuracy"],
        "validation_accuracy_best": top["validation_accuracy"],
        "seconds_per_step": (0.010 if method == "sgd" else 0.019) * rng.uniform(0.98, 1.02),
        "steps": 50 * epochs,
        "parameters": 12345,
    }
    if stage == "grid":
        return left
    sharp = SHARPNESS[method] * rng.uniform(0.85, 1.15)
    reach = np.linspace(-1, 1, 41)
    left["hessian"] = {
        "values": [sharp / (1 + 0.4 * k) for k in range(5)],
        "residuals": [1e-4 * sharp] * 5,
        "products": 60,
        "converged": True,
    }
    left["slice_1d"] = {"reach": reach.tolist(), "loss": (0.03 + sharp / 12 * reach**2).tolist()}
    if side:
        axis = np.linspace(-1, 1, side)
        one, two = np.meshgrid(axis, axis)
        loss = (
            0.03
            + sharp / 12 * (one**2 + 0.6 * two**2)
            + 0.1 * np.sin(4 * one) * np.sin(3 * two) ** 2
        )
        left["slice_2d"] = {"one": axis.tolist(), "two": axis.tolist(), "loss": loss.tolist()}
    return left


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
