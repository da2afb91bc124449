"""What a training that was stopped goes on from: the last step that was saved, bit for bit.

A folder holds

    step-N.safetensors    the weights and buffers after step N, for any library that reads them
    step-N.pt             everything else: optimizer, rule, random numbers, rows so far
    best.safetensors      the weights of the epoch with the best validation accuracy

Each file is written in one piece, `step-N.pt` last; so a checkpoint is complete if that is there,
and one that was cut short is not seen. Only the last complete one is kept.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Checkpoints", "save_weights"]

State = dict[str, Any]


@dataclass(kw_only=True)
class Checkpoints:
    """Where and how often a training is saved; does not change its result."""

    folder: Path
    """Where the files are."""
    every: int | None = None
    """Steps between two checkpoints; None saves after each epoch alone. The end is always saved."""
    minutes: float = 0.0
    """Time between two checkpoints at least; of a training that is shorter not even the end is
    saved. For one process, since clocks differ."""
    best: bool = True
    """Whether to keep the weights of the best epoch."""
    saved: bool = field(default=False, init=False)
    """Whether there is one."""
    _last: float = field(default_factory=time.monotonic, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be at least 1 step or None, got {self.every}.")
        if not self.minutes >= 0:
            raise ValueError(f"minutes must be >= 0, got {self.minutes}.")

    def due(self, step: int, *, epoch_ends: bool, ended: bool = False) -> bool:
        """Whether to save after a step."""
        waited = time.monotonic() - self._last >= 60 * self.minutes
        if ended:
            return waited or self.saved
        return waited and (epoch_ends if self.every is None else step % self.every == 0)

    def save(self, step: int, weights: Mapping[str, Tensor], state: State) -> None:
        """Save what there is after a step, and drop what was saved before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.folder / f"step-{step}.safetensors", weights)
        draft = self.folder / f".step-{step}.pt.{os.getpid()}"
        torch.save(state, draft)
        os.replace(draft, self.folder / f"step-{step}.pt")
        for path in self.folder.glob("step-*"):
            if path.stem != f"step-{step}":
                path.unlink(missing_ok=True)
        self.saved, self._last = True, time.monotonic()

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """Save the weights of the best epoch so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.folder / "best.safetensors", weights)

    def last(self) -> tuple[Mapping[str, Tensor], State] | None:
        """The weights and the rest of the last complete checkpoint; None if there is none."""
        from safetensors.torch import load_file

        steps = [int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.pt")]
        if not steps:
            return None
        path = self.folder / f"step-{max(steps)}.pt"
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.saved = True
        return load_file(path.with_suffix(".safetensors")), state


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights in one piece: a reader sees the old file or the new one.

    Args:
        path: The file, `.safetensors`.
        weights: Tensors by name.
    """
    from safetensors.torch import save_file

    draft = path.with_name(f".{path.name}.{os.getpid()}")
    # Copies: two names may share their numbers, which the format does not have.
    save_file({name: value.clone().contiguous() for name, value in weights.items()}, draft)
    os.replace(draft, path)
