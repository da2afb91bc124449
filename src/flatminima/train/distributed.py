"""Several processes that train one network: whose examples are whose, and how weights are shared.

torchrun starts the processes; `processes` joins them; the loop finds that they are there.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Parallel", "Processes", "processes", "whole"]

Parallel = Literal["ddp", "fsdp2"]


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train one network."""

    rank: int = 0
    """Its number."""
    count: int = 1
    """How many there are."""

    @classmethod
    def now(cls) -> "Processes":
        """What torch was told; one process if nothing."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(rank=distributed.get_rank(), count=distributed.get_world_size())

    def mine(self, index: Tensor) -> Tensor:
        """This process's part of the positions of a batch."""
        return index[self.rank :: self.count]

    def share(self, index: Tensor) -> float:
        """This process's part of a batch, as a multiple of an equal part.

        The mean over the processes of `share` times their mean loss is the mean over the batch.

        Args:
            index: The positions of the whole batch.

        Returns:
            1 where every process has equally many examples.
        """
        return len(self.mine(index)) * self.count / len(index)

    def check(self, smallest: int) -> None:
        """Raise a ValueError if some batch is too small for every process to have an example."""
        if smallest < self.count:
            raise ValueError(
                f"batch_size must leave an example for each of {self.count} processes, got a "
                f"batch of {smallest}: drop_last=True leaves out the last one of an epoch."
            )

    def wrapped(self, net: nn.Module, parallel: Parallel, device: torch.device) -> nn.Module:
        """The network as all processes train it; FSDP2 shards it in place."""
        if self.count == 1:
            return net
        if parallel == "ddp":
            cards = [device] if device.type == "cuda" else None
            return DistributedDataParallel(net, device_ids=cards)
        from torch.distributed.fsdp import fully_shard  # takes long to load, and few need it

        mesh = init_device_mesh(device.type, (self.count,))
        for child in net.children():
            if any(True for _ in child.parameters()):
                fully_shard(child, mesh=mesh)
        fully_shard(net, mesh=mesh)
        return net

    def gathered(self, value: Any) -> list[Any]:  # noqa: ANN401 - whatever can be pickled
        """The value of every process."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found


@contextmanager
def processes() -> Generator[str]:
    """Join the processes that torchrun started; one process otherwise.

    Yields:
        This process's device: its GPU, or `cpu`.
    """
    if "RANK" not in os.environ:
        yield "cuda" if torch.cuda.is_available() else "cpu"
        return
    device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device != "cpu" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, on the CPU; every process must ask."""
    tensor = tensor.detach()
    full: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)  # a DTensor has it
    return (full() if full else tensor).cpu()
