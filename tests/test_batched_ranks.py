"""m-SAM in one pair of passes on two processes: the same direction, by one reduction."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import flatminima as fm

RANKS, SIZE, PARTS = 2, 16, 4


def model_of() -> nn.Module:
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)  # in the processes as well
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))


def batch_of() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SIZE, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (SIZE,), generator=generator)


def trained(
    net: nn.Module, inner: nn.Module, batch: Any, steps: int = 3, parts: int = 1
) -> list[Tensor]:
    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(net(x), y) / parts

    sharp = fm.SharpnessAware(inner, fm.sam(0.3), m=2, engine="batched")
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        for part in zip(*(tensor.chunk(parts) for tensor in batch), strict=True):
            sharp.backward(loss_fn, *part)
        optimizer.step()
    return [param.detach().clone() for param in inner.parameters()]


def ranked(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=RANKS)
    inner = model_of()
    reductions: list[int] = []
    net = DistributedDataParallel(inner)

    def counted(state, bucket):  # DDP reads annotations, which are texts here
        reductions.append(1)
        work = distributed.all_reduce(bucket.buffer().div_(RANKS), async_op=True).get_future()
        return work.then(lambda future: future.value()[0])

    net.register_comm_hook(None, counted)
    part = [tensor.chunk(RANKS)[rank] for tensor in batch_of()]
    weights = trained(net, inner, part)
    torch.save((weights, len(reductions)), Path(folder) / f"{rank}.pt")
    distributed.barrier()  # after it no thread of gloo holds a tensor, and Python may end
    distributed.destroy_process_group()


def test_accumulation_gives_the_weights_of_whole_batches():
    inner, other = model_of(), model_of()
    expected = trained(inner, inner, batch_of())
    for weight, alone in zip(trained(other, other, batch_of(), parts=PARTS), expected, strict=True):
        assert torch.allclose(weight, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_two_ranks_give_the_weights_of_one_by_one_reduction_a_step(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(ranked, (port, str(tmp_path)), nprocs=RANKS)
    inner = model_of()
    expected = trained(inner, inner, batch_of())
    for rank in range(RANKS):
        weights, reductions = torch.load(tmp_path / f"{rank}.pt")
        assert reductions == 3
        for weight, alone in zip(weights, expected, strict=True):
            assert torch.allclose(weight, alone, rtol=1e-10, atol=1e-12)
