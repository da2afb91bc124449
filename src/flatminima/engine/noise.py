"""Random state of a step: equal dropout masks in every pass, or fresh ones.

The state afterwards is the same either way. While a CUDA graph is captured the states of that
device cannot be read; the graph's replays then draw fresh masks in every pass.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

__all__ = ["Noise"]


@dataclass(frozen=True)
class Noise:
    """The state of torch's random generators, on the CPU and on the devices of the parameters.

    Example:
        >>> noise = Noise.now([])
        >>> one = torch.rand(2)
        >>> with noise.again():
        ...     two = torch.rand(2)
        >>> torch.equal(one, two)
        True
    """

    cpu: torch.Tensor
    cuda: dict[torch.device, torch.Tensor]

    @staticmethod
    def now(devices: Iterable[torch.device]) -> Noise:
        """The state as it is now."""
        on_cuda = [device for device in devices if device.type == "cuda"]
        if on_cuda and torch.cuda.is_current_stream_capturing():
            on_cuda = []
        cuda = {device: torch.cuda.get_rng_state(device) for device in on_cuda}
        return Noise(torch.get_rng_state(), cuda)

    @contextmanager
    def again(self) -> Generator[None]:
        """Draw the same numbers as after `now`, and leave no trace of it."""
        after = Noise.now(self.cuda)
        self.restore()
        try:
            yield
        finally:
            after.restore()

    @contextmanager
    def afresh(self, generator: torch.Generator) -> Generator[None]:
        """Draw other numbers, seeded by `generator`, and leave torch's generators as they were."""
        after = Noise.now(self.cuda)
        seed = int(torch.randint(2**62, (), generator=generator)) + _rank()
        torch.default_generator.manual_seed(seed)
        for device in self.cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            after.restore()

    def restore(self) -> None:
        """Put torch's generators into this state."""
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)


def _rank() -> int:
    """Which of several processes this is: they draw the same numbers, but not the same masks."""
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if there else 0
