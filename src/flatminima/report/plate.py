"""One figure of the page: panels under a title, above a caption."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

__all__ = ["Entry", "Panel", "Plate"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One drawing of a plate."""

    figure: go.Figure
    """The drawing."""
    title: str = ""
    """What it shows of its plate; empty for an only one."""
    method: str = ""
    """The method that it is all about, or an empty string."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a legend."""

    group: str
    """The `legendgroup` of its traces."""
    label: str
    """What it says."""
    colour: str
    """The colour of its mark."""
    ring: bool = False
    """Whether the mark is hollow, as for lines that are not drawn through."""


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A figure."""

    name: str
    """The name of its files."""
    title: str
    """What is seen."""
    caption: str
    """How to read it, with n, in at most two lines."""
    panels: Sequence[Panel]
    """What is drawn."""
    legend: Sequence[Entry] = ()
    """What its colours mean."""
    flat: Sequence[Panel] = ()
    """The same data without depth: a second view, and the one for paper."""

    wide: bool = False
    """Whether it needs the whole width of the page, though it is a single drawing."""

    @property
    def single(self) -> bool:
        """Whether it is a single drawing, which half the width of a page holds."""
        return len(self.panels) == 1 and not self.wide
