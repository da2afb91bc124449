"""How the slope changed uphill: the four regions, what they hold, and what chance would give.

`g` is the gradient at the weights and `p` the one a step uphill; each function takes both. Whatever
compares sets of coordinates reports its chance level beside the figure.
"""

from flatminima.regions.counts import Shares, shares, shares_by_part
from flatminima.regions.kinds import Region, factors, mask, region, where
from flatminima.regions.legacy import LegacyShares, legacy_mask, legacy_shares
from flatminima.regions.ratios import PUBLISHED_EDGES, RatioBins, ratio_bins
from flatminima.regions.sets import (
    FrozenOverlap,
    Overlap,
    Persisted,
    Persistence,
    Union,
    overlap,
    union,
)
from flatminima.regions.sizes import LargeShare, Norms, large_share, norms

__all__ = [
    "PUBLISHED_EDGES",
    "FrozenOverlap",
    "LargeShare",
    "LegacyShares",
    "Norms",
    "Overlap",
    "Persisted",
    "Persistence",
    "RatioBins",
    "Region",
    "Shares",
    "Union",
    "factors",
    "large_share",
    "legacy_mask",
    "legacy_shares",
    "mask",
    "norms",
    "overlap",
    "ratio_bins",
    "region",
    "shares",
    "shares_by_part",
    "union",
    "where",
]
