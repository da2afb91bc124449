"""Buffers move in the first pass only, not at perturbed weights.

So running statistics see every batch once. It holds for any buffer of any module, not for batch
normalisation by name: whatever the first pass left is put back after each further one.
"""

# torch keeps a module's buffers in `_buffers`, and has no public way to put another tensor there.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["Buffers"]

SMALL = 65536
"""Coordinates up to which a buffer is copied at every step. Kernels move running statistics without
a trace, so small buffers are copied on suspicion; large ones (masks, tables) only if torch saw the
first pass change them."""


@dataclass
class Buffers:
    """The buffers of a model, or of every module that the first pass calls where no model is known.

    Args:
        model: The model; `None` watches which modules are called.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> buffers = Buffers(norm)
        >>> with buffers.watched():
        ...     _ = norm(torch.tensor([[1.0], [3.0]]))
        >>> with buffers.held():
        ...     _ = norm(torch.tensor([[9.0], [9.0]]))
        >>> norm.num_batches_tracked
        tensor(1)
    """

    model: nn.Module | None
    _called: dict[nn.Module, None] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Generator[None]:
        """Note, during the first pass, which modules there are."""
        if self.model is not None:
            yield
            return
        self._called.clear()

        def note(module: nn.Module, _: Any) -> None:  # noqa: ANN401 - whatever the module is called with
            if module._buffers:
                self._called[module] = None

        handle = register_module_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def held(self) -> Generator[None]:
        """Whatever moves inside is put back on the way out."""
        saved = [_Saved.of(module, name) for module, name in self._named()]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer in saved:
                    buffer.put_back()

    def _named(self) -> Iterable[tuple[nn.Module, str]]:
        modules = self._called if self.model is None else self.model.modules()
        return [
            (module, name)
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]


@dataclass(frozen=True)
class _Saved:
    """One buffer: which tensor it was, and what was in it."""

    module: nn.Module
    name: str
    tensor: Tensor
    version: int
    copy: Tensor | None

    @staticmethod
    def of(module: nn.Module, name: str) -> _Saved:
        tensor = module._buffers[name]
        assert tensor is not None
        return _Saved(
            module,
            name,
            tensor,
            tensor._version,
            tensor.clone() if tensor.numel() <= SMALL else None,
        )

    def put_back(self) -> None:
        self.module._buffers[self.name] = (
            self.tensor
        )  # a module may have put another tensor in its place
        if self.copy is not None:
            self.tensor.copy_(self.copy)
