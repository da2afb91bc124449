"""Carry out measures of one network, one after the other, and keep each as soon as it is known."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flatminima.measure.settings import Settings
from flatminima.measure.table import MEASURES, Job
from flatminima.measure.target import Target
from flatminima.study.provenance import code, machine
from flatminima.study.record import read_json, write_json
from flatminima.study.run import as_json

__all__ = ["measure"]

Json = dict[str, Any]
Told = Callable[[str, int, int], None]


def measure(
    target: Target,
    names: Sequence[str],
    settings: Settings,
    folder: Path,
    *,
    device: str = "cpu",
    progress: Told = lambda name, done, total: None,
    log: Callable[[str], None] = lambda _: None,
) -> Path:
    """Measure what is not measured yet.

    Each measure leaves `NAME.json` with its result, its time and its passes over the data. A file
    that was written for the same weights, data and settings is left as it is, and a slice that was
    stopped half way goes on.

    Args:
        target: The network and its data.
        names: Which measures.
        settings: How.
        folder: Where results of this network are kept.
        device: Where it is measured, for the record.
        progress: Called with a measure's name, how far it is, and of how much (0 if not known).
        log: Told one line per measure, and before a long one how long it will take.

    Returns:
        The folder with the results: one below `folder`, named by the network and the settings.
    """
    mark = hashlib.sha256(json.dumps([target.mark, as_json(settings)]).encode()).hexdigest()[:12]
    folder = folder / mark
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "target.json", _about(target, settings, device))
    for name in names:
        file = folder / f"{name}.json"
        if (read_json(file) or {}).get("result") is not None:
            log(f"{name}: measured before")
            continue
        before, began = target.objective.passes, time.perf_counter()
        job = Job(
            target=target,
            settings=settings,
            folder=folder,
            progress=lambda done, total, name=name: progress(name, done, total),
            log=log,
        )
        result = MEASURES[name](job)
        seconds = time.perf_counter() - began
        # A measure that evaluates objectives of its own counts their passes itself.
        passes = result.get("passes", target.objective.passes - before)
        write_json(file, {"result": result, "seconds": seconds, "passes": passes})
        log(f"{name}: {seconds:.1f} s, {passes:.0f} passes over the data")
    return folder


def _about(target: Target, settings: Settings, device: str) -> Json:
    objective, w = target.objective, target.w
    return {
        "name": target.name,
        "about": dict(target.about),
        "batch_norm": target.batch_norm,
        "parameters": sum(part.numel() for part in w.tensors),
        "examples": objective.examples,
        "batch_size": len(target.batches[0][0]),
        "loss": float(objective.value(w)),
        "norm": float(w.norm()),
        "settings": as_json(settings),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code(),
        "machine": machine(device),
    }
