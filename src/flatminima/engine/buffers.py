"""Buffers move in the first pass only, not at perturbed weights.

So running statistics see every batch once. It holds for any buffer of any module, not for batch
normalisation by name: whatever the first pass left is put back after each further one.
"""

# torch keeps a module's buffers in `_buffers`, and has no public way to put another tensor there.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

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
    _versions: dict[tuple[nn.Module, str], tuple[Tensor, int]] = field(default_factory=dict)

    @property
    def called(self) -> list[nn.Module]:
        """The modules that the last step called, where no model is known."""
        return list(self._called)

    @contextmanager
    def watched(self) -> Generator[None]:
        """Note, during the first pass, which modules there are and what of them moves."""
        self._called.clear()
        self._versions.clear()
        if self.model is not None:
            for module in self.model.modules():
                self._note(module)
            yield
            return
        with _before_forward(self._note):
            yield

    def saved(self) -> Callable[[], None]:
        """What puts the buffers back as they are now."""
        saved = self._saved()
        return lambda: _put_back(saved)

    @contextmanager
    def held(self) -> Generator[None]:
        """Whatever moves inside is put back on the way out."""
        saved = self._saved()
        known = {buffer.module for buffer in saved} | set(self._called)

        def save(module: nn.Module) -> None:
            """A module that the first pass did not call."""
            if module not in known:
                known.add(module)
                names = [name for name, buffer in module._buffers.items() if buffer is not None]
                saved.extend(_Saved.of(module, name, moved=True) for name in names)

        try:
            with _before_forward(save) if self.model is None else nullcontext():
                yield
        finally:
            _put_back(saved)

    def _saved(self) -> list[_Saved]:
        return [
            _Saved.of(module, name, moved=self._moved(module, name))
            for module in (self._called if self.model is None else self.model.modules())
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def _note(self, module: nn.Module) -> None:
        if module not in self._called:
            self._called[module] = None
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    self._versions[module, name] = (buffer, buffer._version)

    def _moved(self, module: nn.Module, name: str) -> bool:
        """Whether the first pass changed a buffer, as far as torch saw it."""
        tensor, version = self._versions.get((module, name), (None, -1))
        buffer = module._buffers[name]
        return buffer is not tensor or (buffer is not None and buffer._version != version)


_KEY = -1  # no handle of torch's has it
_listeners: list[Callable[[nn.Module], None]] = []


def _hook(module: nn.Module, _: Any) -> None:  # noqa: ANN401 - whatever it is called with
    """Tell the listener which module is called; within compiled code nobody can listen."""
    if not torch.compiler.is_compiling():
        for part in module.modules() if hasattr(module, "_orig_mod") else [module]:
            for listener in list(_listeners):
                listener(part)


@contextmanager
def _before_forward(note: Callable[[nn.Module], None]) -> Generator[None]:
    """Call `note` with every module that is called inside."""
    _listeners.append(note)
    # As `register_module_forward_pre_hook` does, but always under the same key: compiled code is
    # guarded by the keys, and would be compiled anew for every pass.
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    hooks[_KEY] = _hook
    try:
        yield
    finally:
        _listeners.pop()
        if not _listeners:
            del hooks[_KEY]


@dataclass(frozen=True)
class _Saved:
    """One buffer: which tensor it was, and what was in it."""

    module: nn.Module
    name: str
    tensor: Tensor
    copy: Tensor | None

    @staticmethod
    def of(module: nn.Module, name: str, *, moved: bool) -> _Saved:
        tensor = module._buffers[name]
        assert tensor is not None
        kept = moved or tensor.numel() <= SMALL
        return _Saved(module, name, tensor, tensor.clone() if kept else None)

    def put_back(self) -> None:
        self.module._buffers[self.name] = self.tensor  # a module may have put another in its place
        if self.copy is not None:
            self.tensor.copy_(self.copy)


@torch.no_grad()
def _put_back(saved: list[_Saved]) -> None:
    for buffer in saved:
        buffer.put_back()
