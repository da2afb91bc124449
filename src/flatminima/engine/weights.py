"""Weights, there and back: displaced for a pass, and restored bit for bit.

They are restored by copying back what was saved, never by subtracting; their storage never changes.
The copies are kept from step to step, and only of parameters that move.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flatminima.rules.rule import Here
from flatminima.vector import Vector, copy_each, local

__all__ = ["Weights"]

MUCH = 0.1  # of the squared length: from there on it is another method than was asked for


@dataclass
class Weights:
    """Parameters that can be somewhere else for the time of a pass.

    Args:
        params: The parameters, in the order of the vectors' parts.
        moved: Called whenever the weights have moved, for whoever keeps a gathered copy of them.
        rounding: Draws the rounding of displaced bfloat16 weights; `None` rounds to the nearest.
        looked: Whether somebody looked already how much of a displacement low precision swallows.

    Example:
        >>> weight = torch.tensor([1.0])
        >>> with Weights([weight]).displaced([Vector([torch.tensor([0.5])])]):
        ...     print(weight)
        tensor([1.5000])
        >>> weight
        tensor([1.])
    """

    params: Sequence[Tensor]
    moved: Callable[[], None] = lambda: None
    rounding: torch.Generator | None = None
    looked: bool = False
    _copies: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    @contextmanager
    def displaced(self, displacement: list[Vector | Here]) -> Generator[None]:
        """Put the weights at a displacement, and bring them back on the way out.

        Args:
            displacement: Holds the displacement, which is taken out of it: once it is added nobody
                needs it, and its memory is free for the pass.

        Yields:
            With the weights displaced.
        """
        e = displacement.pop()
        if isinstance(e, Here):
            yield
            return
        away = [index for index in range(len(e)) if not e.is_absent(index)]
        weights = [self.params[index].detach() for index in away]
        copies = [self._copy(index) for index in away]
        with torch.no_grad():
            copy_each(copies, weights)
        try:
            e.add_to([param.detach() for param in self.params], self.rounding)
            if self.rounding is None and not self.looked:
                self._look(e, dict(zip(away, copies, strict=True)))
            del e
            torch.clear_autocast_cache()  # it holds casts of the weights by their address
            self.moved()
            yield
        finally:
            with torch.no_grad():
                copy_each(weights, copies)
            torch.clear_autocast_cache()
            self.moved()

    def _look(self, e: Vector, copies: dict[int, Tensor]) -> None:
        """Warn, at the first displacement, if weights of low precision swallowed much of it."""
        self.looked = True
        narrow = [i for i in copies if self.params[i].dtype in (torch.bfloat16, torch.float16)]
        if not narrow or self.params[narrow[0]].is_meta or _is_recorded():
            return
        asked = stayed = 0
        wanted = lost = 0.0
        for index in narrow:
            part, now, before = map(local, (e.parts[index], self.params[index], copies[index]))
            stays = (now == before) & (part != 0)
            asked, stayed = asked + int((part != 0).sum()), stayed + int(stays.sum())
            squares = part.float().square()
            wanted, lost = wanted + float(squares.sum()), lost + float(squares[stays].sum())
        if lost > MUCH * wanted:
            warnings.warn(
                f"{stayed / asked:.1%} of the coordinates did not move: the displacement is too "
                f"small for {self.params[narrow[0]].dtype}; keep the weights in float32 and use "
                "autocast, or hand over rounding='stochastic' (bfloat16); flatminima.doctor "
                "measures it",
                stacklevel=2,
            )

    def _copy(self, index: int) -> Tensor:
        """The copy's place for one parameter, made when it is first needed."""
        param, copy = self.params[index], self._copies.get(index)
        if copy is None or _kind(copy) != _kind(param):
            copy = self._copies[index] = torch.empty_like(param, requires_grad=False)
        return copy


def _is_recorded() -> bool:
    """Whether a compiler or a CUDA graph looks on now, where nobody may look at a value."""
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    return capturing or torch.compiler.is_compiling()


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device
