"""Whether our runs say what the source says: one word for each comparison, by a fixed rule.

Sources differ from a re-run in seeds, machines and often in size, so levels are shown and
differences are judged: what a method gains over the study's baseline under the same condition.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from flatminima.report.interval import Interval

__all__ = ["Published", "Verdict", "claimed", "tally", "verdict"]

Verdict = Literal["agrees", "differs", "no difference", "not comparable"]
WORDS: dict[Verdict, tuple[str, str]] = {
    "agrees": ("agrees", "agree"),
    "differs": ("differs", "differ"),
    "no difference": ("shows no difference", "show no difference"),
    "not comparable": ("is not comparable", "are not comparable"),
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a source prints of one method under one condition, or says of it in words."""

    value: float | None = None
    """The figure, in the unit of the study's quantity."""
    half: float = 0.0
    """What it prints after ±, or the spread between its own repetitions; 0 if it has neither."""
    sign: int | None = None
    """Where it only says it: 1 above the baseline, -1 below, 0 no different."""

    def __str__(self) -> str:
        if self.value is None:
            return {1: "above", -1: "below", 0: "no difference"}.get(self.sign or 0, "")
        return f"{self.value:g}" + (f" ± {self.half:g}" if self.half else "")


def claimed(ours: Published | None, baseline: Published | None) -> Interval | None:
    """The published difference to the baseline, with half the width of its range.

        d = a - b  ±  sqrt(a_half^2 + b_half^2)

    A difference that the source says in words has the size 1 or 0.

    Args:
        ours: What is published of a method.
        baseline: What is published of the baseline.

    Returns:
        The difference; None if the source does not give it.
    """
    if ours is not None and ours.sign is not None:
        return Interval(mean=float(ours.sign), half=0.0, n=1)
    if ours is None or baseline is None or ours.value is None or baseline.value is None:
        return None
    half = math.hypot(ours.half, baseline.half)
    return Interval(mean=ours.value - baseline.value, half=half, n=1)


def verdict(published: Interval | None, ours: Interval | None) -> Verdict:
    """What our difference says of the published one.

    Args:
        published: The published difference with its range, as `claimed` gives it.
        ours: Our mean difference by seed with its 95 % interval.

    Returns:
        `not comparable` if the source gives no difference, or we have no interval, that is fewer
        than two seeds; `no difference` if our interval holds 0, whatever the source says; `agrees`
        if it lies on the side of 0 on which the published range lies; `differs` if it lies on the
        other side, or the published range holds 0.

    Example:
        >>> verdict(claimed(Published(sign=1), None), Interval(mean=2.0, half=0.5, n=5))
        'agrees'
    """
    if published is None or ours is None or ours.half is None:
        return "not comparable"
    if not ours.decided:
        return "no difference"
    side = (published.low > 0) - (published.high < 0)
    return "agrees" if side * ours.mean > 0 else "differs"


def tally(words: Iterable[Verdict]) -> str:
    """How many comparisons came to which verdict, in words; those that say nothing left out."""
    counts = Counter(word for word in words if word != "not comparable")
    if not counts:
        return "nothing to compare with the source"
    told = [f"{counts[word]} {WORDS[word][counts[word] != 1]}" for word in WORDS if counts[word]]
    return ", ".join(told)
