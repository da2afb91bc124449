"""Training a network, one run at a time, and measuring what came out.

What a run consists of is `Training`, with the settings of its parts beside those parts.
"""

from flatminima.train.average import Average
from flatminima.train.checkpoint import Checkpoints
from flatminima.train.distributed import processes
from flatminima.train.early import early_stopping
from flatminima.train.evaluate import Evaluation
from flatminima.train.loop import Diverged, Trained, train
from flatminima.train.loss import Loss
from flatminima.train.measure import Measure, measured
from flatminima.train.member import Member, When
from flatminima.train.numerics import Numerics
from flatminima.train.optimizer import SGD, Adam, AdamW
from flatminima.train.training import Training

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Average",
    "Checkpoints",
    "Diverged",
    "Evaluation",
    "Loss",
    "Measure",
    "Member",
    "Numerics",
    "Trained",
    "Training",
    "When",
    "early_stopping",
    "measured",
    "processes",
    "train",
]
