"""Two processes that train one network: the weights of one process, by DDP and by FSDP2."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import run_all

from flatminima.data import Digits
from flatminima.models import MLP
from flatminima.train import SGD, Average, Checkpoints, Loss, Member, Training, train
from flatminima.train.distributed import Processes, whole

DATA = Digits(train=91, validation=40, test=50, noise=0.4)
PLAIN = Training(
    data=DATA, model=MLP(hidden=(8,)), optimizer=SGD(lr=0.1), epochs=3, batch_size=40, seed=5
)
SAM = replace(PLAIN, rule=Member(name="sam", rho=0.1))


def agrees(training: Training, parallel: str, folder: Path, rank: int) -> None:
    expected = torch.load(folder / f"{'plain' if training.rule is None else 'sam'}.pt")
    rows = []
    trained = train(training, DATA.load(), parallel=parallel, log=rows.append)
    assert len(rows) == (0 if rank else 3)
    for ours, theirs in zip(trained.model.state_dict().values(), expected, strict=True):
        torch.testing.assert_close(whole(ours), theirs)


def resumes(folder: Path, rank: int) -> None:
    expected = weights(train(SAM, DATA.load()))
    checkpoints = Checkpoints(folder=folder / "checkpoints", every=2)
    train(replace(SAM, steps=4), DATA.load(), checkpoints=checkpoints)
    torch.distributed.barrier()
    resumed = train(SAM, DATA.load(), checkpoints=checkpoints)
    assert all(map(torch.equal, weights(resumed), expected))


def refuses(folder: Path, rank: int) -> None:
    sharded = partial(train, parts=DATA.load(), parallel="fsdp2")
    with pytest.raises(ValueError, match="average must be None and the loss's weight_decay 0 with"):
        sharded(replace(PLAIN, average=Average()))
    with pytest.raises(ValueError, match="average must be None and the loss's weight_decay 0 with"):
        sharded(replace(PLAIN, loss=Loss(weight_decay=0.1)))
    with pytest.raises(ValueError, match="checkpoints must be None with fsdp2, got"):
        sharded(PLAIN, checkpoints=Checkpoints(folder=folder))
    with pytest.raises(ValueError, match="checkpoints must have minutes=0 with several processes"):
        train(PLAIN, DATA.load(), checkpoints=Checkpoints(folder=folder, minutes=10.0))
    with pytest.raises(
        ValueError, match="batch_size must leave an example for each of 2 processes"
    ):
        train(replace(PLAIN, batch_size=45), DATA.load())


def weights(trained) -> list[torch.Tensor]:
    return [value.detach().clone() for value in trained.model.state_dict().values()]


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path):
    for name, training in (("plain", PLAIN), ("sam", SAM)):
        torch.save(weights(train(training, DATA.load())), tmp_path / f"{name}.pt")
    cases = {
        f"{parallel} {'plain' if training.rule is None else 'sam'}": partial(
            agrees, training, parallel, tmp_path
        )
        for parallel in ("ddp", "fsdp2")
        for training in (PLAIN, SAM)
    }
    cases |= {"resumes": partial(resumes, tmp_path), "refuses": partial(refuses, tmp_path)}
    wrong = run_all(tmp_path, cases)
    assert wrong == dict.fromkeys(cases, ""), "\n".join(wrong.values())


def test_every_process_has_its_own_examples_and_its_part_of_the_mean():
    index = torch.arange(7)
    everyone = [Processes(rank=rank, count=3) for rank in range(3)]
    together = torch.cat([one.mine(index) for one in everyone])
    assert sorted(together.tolist()) == list(range(7))
    values = torch.rand(7)
    mean = sum(one.share(index) * values[one.mine(index)].mean() for one in everyone) / 3
    torch.testing.assert_close(mean, values.mean())
