"""Training a network, one run at a time, and measuring what came out.

What a run consists of is `Training`, with the settings of its parts beside those parts.
"""

from flatminima.train.loop import Diverged, Trained, Training, train
from flatminima.train.measure import Measure, measured
from flatminima.train.member import Member
from flatminima.train.optimizer import SGD, AdamW

__all__ = [
    "SGD",
    "AdamW",
    "Diverged",
    "Measure",
    "Member",
    "Trained",
    "Training",
    "measured",
    "train",
]
