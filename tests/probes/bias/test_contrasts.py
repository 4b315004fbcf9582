"""Pairs of groups compared: how clips become pairs, margins, families, sentences. For the statistics see test_effects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from svdlab.errors import InputError
from svdlab.probes.bias import compare
from svdlab.stats.effects import EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW
from svdlab.study.pairs import Contrast


def manifest(pairs: int, schemes: tuple[str, ...] = ("light",), flip: str = "") -> pd.DataFrame:
    rows = [
        dict(path=f"{s}-{i}-{g}", pair_id=f"{i}", group=g, group_scheme=s, flip_noise=flip if g == "b" else "")
        for s in schemes
        for i in range(pairs)
        for g in ("a", "b")
    ]
    return pd.DataFrame(rows)


def clips(per_row: Any, seeds: int = 1, noise: float = 0.0, name: str = "speed") -> pd.DataFrame:
    """A clip for each row of a manifest and seed, of the row's own value and some noise."""
    rng = np.random.default_rng(0)
    values = np.asarray(per_row, float)
    return pd.DataFrame(
        [
            {"label_row": row, "seed": seed, name: value + noise * rng.normal()}
            for row, value in enumerate(values)
            for seed in range(seeds)
        ]
    )


def pairs_apart(differences: Any, level: float = 5.0) -> np.ndarray:
    """Values of the rows a, b, a, b ... whose pair differences are given."""
    d = np.asarray(differences, float)
    base = level + np.random.default_rng(1).normal(size=len(d))
    return np.stack([base + d, base], 1).ravel()


def test_the_numbers_are_those_of_scipys_paired_t_and_of_counting() -> None:
    differences = np.array([1.0, 2.0, 1.5, 0.5, 2.5, 1.0])
    row = compare(clips(pairs_apart(differences)), manifest(6), ["speed"]).iloc[0]
    reference = sps.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (row.low, row.high) == (pytest.approx(reference.low), pytest.approx(reference.high))
    assert row.value == pytest.approx(differences.mean()) and row.d == pytest.approx(
        differences.mean() / differences.std(ddof=1)
    )
    assert row.p == pytest.approx(2 / 2**6)  # all six point one way: of 64 sign patterns, two are as extreme
    assert row.q == row.p and row.verdict == EFFECT and row.n == 6


def test_seeds_are_averaged_before_pairs_are_counted() -> None:
    """Eight seeds of four pairs are four units, not 32, and their averages are what is compared."""
    table = clips(pairs_apart([1, 1.1, 0.9, 1.2]), seeds=8, noise=0.5)
    row = compare(table, manifest(4), ["speed"]).iloc[0]
    means = table.groupby("label_row").speed.mean().to_numpy().reshape(-1, 2)
    assert row.n == 4 and row.value == pytest.approx((means[:, 0] - means[:, 1]).mean())
    assert row.p == pytest.approx(2 / 2**4) and row.verdict == TOO_FEW


@pytest.mark.parametrize(("pairs", "contrasts", "verdict"), [(5, 1, TOO_FEW), (6, 1, EFFECT), (6, 2, TOO_FEW), (7, 2, EFFECT)])
def test_too_few_pairs_have_numbers_and_no_verdict(pairs: int, contrasts: int, verdict: str) -> None:
    """2 / 2 ** n against 0.05 over the number of contrasts: 1/16, 1/32, 1/32 > 0.025, 1/64."""
    schemes = tuple("xy"[:contrasts])
    values = np.concatenate([pairs_apart(np.linspace(1, 2, pairs))] * contrasts)
    table = compare(clips(values), manifest(pairs, schemes), ["speed"])
    assert set(table.verdict) == {verdict} and table.p.notna().all()


def test_the_whole_family_is_corrected_together() -> None:
    rng = np.random.default_rng(3)
    results = clips(rng.normal(size=2 * 2 * 12))
    for name in ("one", "two", "three"):
        results[name] = rng.normal(size=len(results))
    table = compare(results, manifest(12, ("x", "y")), ["speed", "one", "two", "three"])
    assert len(table) == 8
    assert table.q.to_numpy() == pytest.approx(sps.false_discovery_control(table.p))


def test_a_measure_without_numbers_takes_no_part_in_the_family() -> None:
    results = clips(pairs_apart(np.linspace(1, 2, 8))).assign(silent=np.nan)
    table = compare(results, manifest(8), ["speed", "silent"]).set_index("measure")
    assert table.q["speed"] == table.p["speed"]
    assert table.n["silent"] == 0 and table.left_out["silent"] == 8 and table.verdict["silent"] == TOO_FEW
    assert "8 pairs have no number" in table.sentence["silent"]


def test_pairs_without_a_number_are_counted_not_hidden() -> None:
    results = clips(pairs_apart(np.linspace(1, 2, 9)))
    results.loc[[0, 5], "speed"] = np.nan
    row = compare(results, manifest(9), ["speed"]).iloc[0]
    assert row.n == 7 and row.left_out == 2 and "7 pairs, 1 seed" in row.sentence and "2 pairs have no number" in row.sentence


def test_no_difference_is_said_only_inside_a_margin() -> None:
    rng = np.random.default_rng(2)
    results = clips(pairs_apart(rng.normal(0, 0.05, 30)))
    assert compare(results, manifest(30), ["speed"]).verdict[0] == INCONCLUSIVE
    inside = compare(results, manifest(30), ["speed"], margins={"speed": 0.2})
    assert inside.verdict[0] == EQUIVALENT and "Equivalent within the margin of 0.2" in inside.sentence[0]
    assert compare(results, manifest(30), ["speed"], margins={"speed": 0.001}).verdict[0] == INCONCLUSIVE


def test_a_margin_in_percent_is_of_the_mean_over_both_groups() -> None:
    results = clips(pairs_apart(np.random.default_rng(2).normal(0, 0.05, 30)))
    table = compare(results, manifest(30), ["speed"], margins={"speed": "15 %"})
    assert table.margin[0] == pytest.approx(0.15 * results.speed.mean())


def test_a_share_of_a_mean_of_nothing_is_no_margin() -> None:
    up_and_down = clips(np.tile([1.0, -1.0, -1.0, 1.0], 8))
    row = compare(up_and_down, manifest(16), ["speed"], margins={"speed": "15 %"}).iloc[0]
    assert row.margin == 0 and math.isnan(row.p_equivalent) and row.verdict == INCONCLUSIVE


@pytest.mark.parametrize(("pairs", "verdict"), [(12, INCONCLUSIVE), (40, EQUIVALENT)])
def test_shares_that_never_differ_prove_little_in_few_pairs(pairs: int, verdict: str) -> None:
    """Were a tenth of all pairs to differ, 12 pairs would show none of them once in four, 40 once in 68."""
    results = clips(np.zeros(2 * pairs)).rename(columns={"speed": "still"})
    row = compare(results, manifest(pairs), ["still"], margins={"still": 0.1}).iloc[0]
    assert row.p_equivalent == pytest.approx(0.9**pairs) and row.verdict == verdict


def test_ordinary_variation_stands_beside_the_difference() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(0, 3, 400)
    row = compare(clips(images, seeds=3, noise=0.5), manifest(200), ["speed"], resamples=99).iloc[0]
    assert row.sd_images == pytest.approx(3, rel=0.1) and row.sd_seeds == pytest.approx(0.5, rel=0.1)
    assert math.isnan(compare(clips(images), manifest(200), ["speed"], resamples=99).sd_seeds[0])


def test_a_family_makes_small_effects_harder_to_find() -> None:
    results = clips(pairs_apart(np.random.default_rng(2).normal(0, 1, 20)))
    more = results.assign(other=results.speed * 2)
    assert (
        compare(more, manifest(20), ["speed", "other"]).detectable[0] > compare(results, manifest(20), ["speed"]).detectable[0]
    )


@pytest.mark.parametrize("flip", ["left_right", "half_turn"])
def test_directions_of_a_flipped_clip_are_turned_back(flip: str) -> None:
    """A model without left or right answers a mirrored picture with the mirrored motion: no difference."""
    pan = np.random.default_rng(0).normal(0, 1, 12)
    fair = clips(np.stack([pan, -pan], 1).ravel(), name="pan_px")
    row = compare(fair, manifest(12, flip=flip), ["pan_px"]).iloc[0]
    assert row.value == 0 and row.p == 1
    right = clips(np.stack([pan * 0 + 1, pan * 0 + 1], 1).ravel(), name="pan_px")  # always to the right, whatever it sees
    assert compare(right, manifest(12, flip=flip), ["pan_px"]).value[0] == 2
    assert compare(right, manifest(12), ["pan_px"]).value[0] == 0  # and of two ordinary images nothing is turned


def test_a_flip_up_and_down_leaves_pans_alone() -> None:
    results = clips(np.ones(24), name="pan_px").assign(tilt_px=1.0)
    table = compare(results, manifest(12, flip="up_down"), ["pan_px", "tilt_px"])
    assert table.value.tolist() == [0, 2]


def test_truth_values_and_their_objects_are_shares() -> None:
    values = [True, False] * 8
    for column in (values, pd.array(values, dtype="object")):
        row = compare(clips(np.zeros(16)).assign(still=column), manifest(8), ["still"]).iloc[0]
        assert row.value == 1 and row.mean_a == 1 and row.d == math.inf and row.p == pytest.approx(2 / 2**8)


def test_only_the_contrasts_asked_for_are_compared() -> None:
    results, pairs = clips(np.arange(24.0)), manifest(6, ("x", "y"))
    assert compare(results, pairs, ["speed"], chosen=[Contrast("y", "b", "a")]).scheme.tolist() == ["y"]
    with pytest.raises(InputError, match="no group 'c'"):
        compare(results, pairs, ["speed"], chosen=[Contrast("y", "a", "c")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(measures="flow"), "a list of the results. columns"),
        (dict(measures=[]), "a list of the results. columns"),
        (dict(margins={"speed": -1}), "above 0"),
        (dict(margins={"speed": "a bit"}), "15 %"),
        (dict(interval="BCa"), '"t" or "permutation"'),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, Any], said: str) -> None:
    arguments = dict(measures=["speed"]) | change
    with pytest.raises(InputError, match=said):
        compare(clips(np.arange(12.0)), manifest(6), **arguments)


def test_results_that_lack_a_picture_of_the_manifest_are_refused() -> None:
    with pytest.raises(InputError, match=r"no clip of row 5 of the manifest \(light-2-b\)"):
        compare(clips(np.arange(5.0)), manifest(3), ["speed"])
    with pytest.raises(InputError, match="label_row"):
        compare(clips(np.arange(6.0)).drop(columns="label_row"), manifest(3), ["speed"])
