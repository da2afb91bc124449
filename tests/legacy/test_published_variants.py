"""The published variants, on gradients that were recorded once, with sums that were recorded too.

`gradients.json` holds 96 coordinates of a network's two gradients (SAM, rho 2.0), every one of them
with |g| > 1e-4, where the epsilon of the source (1e-8, on the ratio) decides nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from published import ALL, HYBRIDS, NONE, SPLITS, UNPUBLISHED, combined, region, rest, same
from talks import direction

import flatminima as fm
from flatminima import Region
from flatminima.rules.rule import Rule

RECORD = json.loads(Path(__file__).with_name("gradients.json").read_text(encoding="utf-8"))
G, P, SUMS = RECORD["g"], RECORD["p"], RECORD["sums"]
# The grid of the README, and a second number beside each.
GRID = [0.1, 0.3, 0.5, 0.667, 1.2, 1.5, 2.0, 3.0]
NUMBERS = list(zip(GRID, reversed(GRID), strict=True))


def found(rule: Rule) -> list[float]:
    g, p = torch.tensor(G, dtype=torch.float64), torch.tensor(P, dtype=torch.float64)
    return direction(rule, g, p).tolist()


def test_the_record_has_coordinates_of_every_region_and_none_at_an_edge():
    names = [region(g, p) for g, p in zip(G, P, strict=True)]
    assert min(names.count(name) for name in (1, 2, 3, 4)) >= 5
    assert min(map(abs, [*G, *P])) > 1e-4
    assert all(abs(abs(p / g) - 1.0) > 1e-3 for g, p in zip(G, P, strict=True))


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_is_its_row_of_coefficients(name):
    chosen = HYBRIDS[name]
    expected = combined(G, P, chosen, rest(chosen))
    names = {region for region, takes in zip(Region, chosen, strict=True) if takes}
    assert found(fm.hybrid(names)) == expected
    assert math.fsum(expected) == SUMS[name]


@pytest.mark.parametrize("name", [name for name in HYBRIDS if name not in UNPUBLISHED])
def test_away_from_the_edges_the_published_masks_are_the_same(name):
    chosen = HYBRIDS[name]
    names = {region for region, takes in zip(Region, chosen, strict=True) if takes}
    assert found(fm.legacy_hybrid(names)) == combined(G, P, chosen, rest(chosen))


def test_the_class_called_14_is_the_row_of_23():
    expected = combined(G, P, HYBRIDS["SAMCKPT14"], rest(HYBRIDS["SAMCKPT14"]))
    assert found(fm.legacy_ckpt14()) == expected
    assert found(fm.hybrid({Region.STEEPER, Region.REVERSED_GENTLER})) != expected


@pytest.mark.parametrize("name", same(1.0, 1.0))
@pytest.mark.parametrize(("c", "b"), NUMBERS)
def test_same_is_its_row_of_factors(name, c, b):
    factors = same(c, b)[name]
    expected = combined(G, P, factors, NONE)
    assert found(fm.same(dict(zip(Region, factors, strict=True)))) == expected
    assert math.fsum(expected) == SUMS[f"{name}, {c}"]


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_saner_is_the_row_with_one_minus_its_strength(strength):
    """The published code calls the factor itself alpha; the two agree at 0.5 alone."""
    expected = combined(G, P, (1.0, 1.0 - strength, 1.0, 1.0), NONE)
    assert found(fm.saner(strength=strength)) == expected
    published = combined(G, P, (1.0, strength, 1.0, 1.0), NONE)
    assert (expected == published) is (strength == 0.5)


@pytest.mark.parametrize(
    ("name", "rule"),
    [("SAMDIRECTION", fm.perturbed_magnitude()), ("SAMMAGNITUDE", fm.perturbed_direction())],
    ids=["SAMDIRECTION", "SAMMAGNITUDE"],
)
def test_the_classes_of_magnitude_and_direction_have_each_others_names(name, rule):
    expected = combined(G, P, *SPLITS[name])
    assert found(rule) == expected
    assert math.fsum(expected) == SUMS[name]


@pytest.mark.parametrize("times", [0.0, 1.0, 1.5, 10.0])
def test_the_clipping_class_bounds_each_coordinate(times):
    pairs = zip(G, P, strict=True)
    expected = [math.copysign(min(abs(p), times * abs(g)), p) for g, p in pairs]
    assert found(fm.clipped(times=times)) == expected


def test_every_variant_of_the_tables_is_recorded_and_no_other():
    names = {*HYBRIDS, *SPLITS, *(f"{name}, {c}" for name in same(1.0, 1.0) for c, _ in NUMBERS)}
    assert set(SUMS) == names
    assert SUMS["SAM"] == math.fsum(combined(G, P, ALL, NONE))
