"""SAM with parameters that are sharded over two processes by FSDP2: nothing changes.

python examples/fsdp2.py
torchrun --nproc-per-node 2 examples/fsdp2.py
"""

import os
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing
from torch.distributed.fsdp import fully_shard
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy

import flatminima as fm


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = Sequential(Linear(64, 64), ReLU(), Linear(64, 10))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)  # after sharding
    local = sum(param.to_local().numel() for param in model.parameters())
    total = sum(param.numel() for param in model.parameters())
    lengths = []
    sharp = fm.SharpnessAware(
        model, fm.sam(rho=0.1), observe=[lambda step: lengths.append(float(step.e.norm()))]
    )
    for _ in range(5):
        for index in torch.randperm(1500).split(50):
            mine = index[rank::world]
            optimizer.zero_grad()
            sharp.backward(lambda x, y: cross_entropy(model(x), y), x[mine], y[mine])
            optimizer.step()
    with torch.no_grad():
        accuracy = (model(x[1500:]).argmax(1) == y[1500:]).float().mean()
    if rank == 0:
        print(f"this rank holds {local} of {total} weights")
        print(f"length of the whole displacement: {min(lengths):.4f} to {max(lengths):.4f}")
        print(f"accuracy on 297 digits that were not trained on: {accuracy:.3f}")
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
