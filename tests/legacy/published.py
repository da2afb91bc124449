"""The published variants of lhchau/sam-hessian (commit 0c4c993) as tables of coefficients.

One primitive covers them: with the region of each coordinate,

    d = A[region] p + B[region] g

The letters c, b and a stand for the numbers that the class was configured with. Names are those of
the classes; where a class does something else than its name says, the row shows what it does.
"""

from __future__ import annotations

Row = tuple[float, float, float, float]

NONE: Row = (0.0, 0.0, 0.0, 0.0)
ALL: Row = (1.0, 1.0, 1.0, 1.0)


def rest(chosen: Row) -> Row:
    one, two, three, four = (1.0 - a for a in chosen)
    return one, two, three, four


# The perturbed gradient on a set of regions, the current one elsewhere. The last two have no class.
HYBRIDS: dict[str, Row] = {
    "SGD": NONE,
    "SAMCKPT1": (1.0, 0.0, 0.0, 0.0),
    "SAMCKPT2": (0.0, 1.0, 0.0, 0.0),
    "SAMCKPT3": (0.0, 0.0, 1.0, 0.0),
    "SAMCKPT4": (0.0, 0.0, 0.0, 1.0),
    "SAMCKPT12": (1.0, 1.0, 0.0, 0.0),
    "SAMCKPT13": (1.0, 0.0, 1.0, 0.0),
    "SAMCKPT14": (0.0, 1.0, 1.0, 0.0),  # inverted in the source: this is 23
    "SAMCKPT34": (0.0, 0.0, 1.0, 1.0),
    "SAMCKPT123": (1.0, 1.0, 1.0, 0.0),
    "SAMCKPT124": (1.0, 1.0, 0.0, 1.0),
    "SAMCKPT134": (1.0, 0.0, 1.0, 1.0),
    "SAMCKPT234": (0.0, 1.0, 1.0, 1.0),
    "SAM": ALL,
    "true 14": (1.0, 0.0, 0.0, 1.0),
    "24": (0.0, 1.0, 0.0, 1.0),
}
UNPUBLISHED = {"true 14", "24"}


def same(c: float, b: float) -> dict[str, Row]:
    """One factor per region on the perturbed gradient; `b` is the second number of the class."""
    return {
        "SAMECKPT1": (c, 1.0, 1.0, 1.0),
        "SAMECKPT2": (1.0, c, 1.0, 1.0),
        "SAMECKPT3": (1.0, 1.0, c, 1.0),
        "SAMECKPT4": (1.0, 1.0, 1.0, c),
        "SAMECKPT12": (c, c, 1.0, 1.0),
        "SAMECKPT13": (c, 1.0, c, 1.0),
        "SAMECKPT134": (c, 1.0 / c, c, c),
        "CUSTOMSAME234MUL": (1.0, c, c, c),
        "CUSTOMSAME2MUL34MUL": (1.0, c, b, b),
        "CUSTOMSAME": (1.0, 1.0, 0.0, 1.0),
        "CUSTOMSAME, 2024-07-05": (c, 1.0, 1.0 / c, 1.0),
        "CUSTOMSAME, 2024-07-15": (1.0, 1.0, 0.0, 0.0),
    }


# Magnitude of one gradient, direction of the other: where the signs agree nothing changes.
SPLITS: dict[str, tuple[Row, Row]] = {
    "SAMDIRECTION": ((1.0, 1.0, -1.0, -1.0), NONE),  # |p| sign(g)
    "SAMMAGNITUDE": (NONE, (1.0, 1.0, -1.0, -1.0)),  # sign(p) |g|
}


def region(g: float, p: float) -> int:
    """1 to 4, by the ratio; the recorded gradients stay away from the edges."""
    r = p / g
    return (1 if r > 1 else 2) if r > 0 else (3 if r < -1 else 4)


def combined(g: list[float], p: list[float], a: Row, b: Row) -> list[float]:
    """d = A[region] p + B[region] g, in plain numbers."""
    rows = zip(g, p, strict=True)
    return [a[region(one, two) - 1] * two + b[region(one, two) - 1] * one for one, two in rows]
