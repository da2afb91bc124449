"""Two processes that train one model together, on the CPU."""

from __future__ import annotations

import datetime
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, multiprocessing

Case = Callable[[int], None]
RANKS = 2


def run_all(folder: Path, cases: dict[str, Case]) -> dict[str, str]:
    """Run every case on both ranks; returns for each what went wrong, an empty text if nothing.

    Starting two processes takes longer than most cases, so that one pair runs all of them.
    """
    multiprocessing.spawn(_work, (folder, cases), nprocs=RANKS)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]
    return {name: "\n".join(filter(None, (one[name] for one in found))) for name in cases}


def _work(rank: int, folder: Path, cases: dict[str, Case]) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),
    )
    wrong: dict[str, str] = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        try:
            case(rank)
            wrong[name] = ""
        except Exception:
            wrong[name] = f"on rank {rank}:\n{traceback.format_exc()}"
        distributed.barrier()
    torch.save(wrong, folder / f"{rank}.pt")
    distributed.barrier()  # after it no thread of gloo holds a tensor, and Python may end
    distributed.destroy_process_group()


def on_all_ranks(value: torch.Tensor) -> list[torch.Tensor]:
    """The value of every rank."""
    found = [torch.empty_like(value) for _ in range(RANKS)]
    distributed.all_gather(found, value.contiguous())
    return found
