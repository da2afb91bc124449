"""Do twelve short runs end once each, whatever carries them out?

Question: Is every run carried out once?
Source: made for the tests.
Expected: one line in the journal for each.
Time: seconds.
"""

import os
import time
from dataclasses import dataclass

import torch

from flatminima.study.run import Experiment
from flatminima.study.study import Method

METHODS = (Method(name="sum", label="Sum", baseline=True),)
PRESETS = {"quick": 0.05, "slow": 0.4}


@dataclass(frozen=True, kw_only=True)
class Sum(Experiment):
    """A sum that depends on nothing but its seed, written into a journal beside the records."""

    seed: int
    seconds: float

    def perform(self, place, log):
        time.sleep(self.seconds)
        total = torch.randn(10_000, generator=torch.Generator().manual_seed(self.seed)).sum()
        with (place.folder / "journal").open("a") as journal:
            journal.write(f"{self.key} {os.getpid()}\n")
        log({"kind": "sum", "total": float(total)})
        return {"total": float(total), "threads": torch.get_num_threads()}


def runs(seconds):
    yield [Sum(method="sum", label="Sum", seed=seed, seconds=seconds) for seed in range(12)]


def count(seconds):
    return 12
