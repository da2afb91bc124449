"""What carries out the runs of a study: this process, a pool on this machine, Ray, or Slurm.

Anything else will do that has `submit(fn, run)` and returns something with `result()`; nothing
besides these two is used, because other libraries share no more.
"""

from flatminima.study.executors.local import LocalPool, ThisProcess
from flatminima.study.executors.task import Executor, Handle, one_thread

__all__ = ["Executor", "Handle", "LocalPool", "ThisProcess", "one_thread"]
