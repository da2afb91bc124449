"""SAM on two processes with DDP: one displacement for all of them, or one for each.

python examples/ddp.py
torchrun --nproc-per-node 2 examples/ddp.py
"""

import os
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import flatminima as fm


def train(sync: str) -> float:
    torch.manual_seed(0)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = DistributedDataParallel(Sequential(Linear(64, 64), ReLU(), Linear(64, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sharp = fm.SharpnessAware(model, fm.sam(rho=0.1), sync=sync)  # the wrapped model
    for _ in range(5):
        for index in torch.randperm(1500).split(50):
            mine = index[rank::world]  # each rank takes its own examples of the batch
            optimizer.zero_grad()
            sharp.backward(lambda x, y: cross_entropy(model(x), y), x[mine], y[mine])
            optimizer.step()
    with torch.no_grad():
        return float((model(x[1500:]).argmax(1) == y[1500:]).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    for sync in ("global", "replica"):
        accuracy = train(sync)
        if distributed.get_rank() == 0:
            print(f"sync={sync!r}: accuracy on 297 digits that were not trained on: {accuracy:.3f}")
    distributed.barrier()  # after it no thread of gloo holds a tensor, and Python may end
    distributed.destroy_process_group()


def spawned(rank: int, store: str) -> None:
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    main()


if __name__ == "__main__":
    if "RANK" in os.environ:  # torchrun started us
        distributed.init_process_group("gloo")
        main()
    else:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(spawned, (f"file://{folder}/store",), nprocs=2)
