"""Groups compared pair by pair: how clips become pairs, margins, families and sentences. For statistics see test_effects."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from svdlab.errors import InputError
from svdlab.probes.bias import compare
from svdlab.probes.bias.differences import can_show
from svdlab.stats.effects import EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW
from svdlab.stats.intervals import detectable


def manifest(pairs: int, schemes: str = "x", flip: str = "") -> pd.DataFrame:
    every = [(s, i, g) for s in schemes for i in range(pairs) for g in "ab"]
    rows = [dict(path=f"{s}-{i}-{g}", pair_id=str(i), group=g, group_scheme=s) for s, i, g in every]
    return pd.DataFrame(rows).assign(flip_noise=[flip if g == "b" else "" for _, _, g in every])


def clips(per_row: Any, seeds: int = 1, noise: float = 0.0) -> pd.DataFrame:
    """A clip for each row of a manifest and seed, of the row's own value and some noise."""
    table = pd.DataFrame({"label_row": np.repeat(np.arange(len(per_row)), seeds), "seed": list(range(seeds)) * len(per_row)})
    drawn = noise * np.random.default_rng(0).normal(size=len(table))
    return table.assign(speed=np.repeat(np.asarray(per_row, float), seeds) + drawn)


def apart(differences: Any) -> np.ndarray:
    """Values of the rows a, b, a, b ... whose pair differences are given."""
    base = 5 + np.random.default_rng(1).normal(size=len(differences))
    return np.stack([base + np.asarray(differences, float), base], 1).ravel()


def one(clips: pd.DataFrame, pairs: int, **options: Any) -> Any:
    return compare(clips, manifest(pairs), ["speed"], **options).iloc[0]


def test_group_a_minus_group_b_over_the_pairs() -> None:
    d = np.array([1.0, 2.0, 1.5, 0.5, 2.5, 1.0])
    row, limits = one(clips(apart(d)), 6), sps.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (row.value, row.low, row.high) == pytest.approx((d.mean(), limits.low, limits.high))
    assert (row.d, row.p, row.q) == pytest.approx((d.mean() / d.std(ddof=1), 2 / 2**6, 2 / 2**6))
    assert (row.n, row.verdict, row.contrast) == (6, EFFECT, "x, a minus b")
    assert row.mean_a - row.mean_b == pytest.approx(row.value)


def test_seeds_are_averaged_before_pairs_are_counted() -> None:
    """Eight seeds of four pairs are four units, not 32, and their averages are what is compared."""
    table = clips(apart([1, 1.1, 0.9, 1.2]), seeds=8, noise=0.5)
    row = one(table, 4)
    means = table.groupby("label_row").speed.mean().to_numpy().reshape(-1, 2)
    assert (row.n, row.seeds, row.verdict) == (4, 8, TOO_FEW)
    assert (row.value, row.p) == pytest.approx(((means[:, 0] - means[:, 1]).mean(), 2 / 2**4))


def test_the_whole_study_is_one_family_and_a_measure_without_numbers_is_not_in_it() -> None:
    rng = np.random.default_rng(3)
    results = clips(rng.normal(size=48)).assign(other=rng.normal(size=48), silent=np.nan)
    table = compare(results, manifest(12, "xy"), ["speed", "other", "silent"])
    assert len(table) == 6
    assert sps.false_discovery_control(table.p.dropna()) == pytest.approx(table.q.dropna())
    silent = table[table.measure == "silent"]
    assert (set(silent.verdict), silent.left_out.tolist(), silent.p.notna().any()) == ({TOO_FEW}, [12, 12], False)
    assert table.detectable[0] == pytest.approx(detectable(12, alpha=0.05 / 4) * table.sd[0])


def test_pairs_without_a_number_are_counted_not_hidden() -> None:
    results = clips(apart(np.linspace(1, 2, 9)))
    results.loc[[0, 5], "speed"] = np.nan
    row = one(results, 9)
    assert (row.n, row.left_out) == (7, 2)
    assert "7 pairs, 1 seed" in row.sentence
    assert "2 pairs have no number." in row.sentence


def test_clips_minus_round_trips_is_the_value_also_where_a_round_trip_has_no_number() -> None:
    results = clips(apart(np.linspace(1, 2, 9))).assign(speed_round_trip=np.linspace(0, 0.4, 18) ** 2)
    results.loc[4, "speed_round_trip"] = np.nan  # the instrument abstained on it
    row = one(results, 9)
    assert row.n == 8 and row.clip_value - row.round_trip_value == pytest.approx(row.value)


def test_equivalence_is_shown_only_inside_a_margin() -> None:
    results = clips(apart(np.random.default_rng(2).normal(0, 0.05, 30)))
    rows = [one(results, 30, margins=margins) for margins in ({}, {"speed": 0.001}, {"speed": 0.2})]
    assert [row.verdict for row in rows] == [INCONCLUSIVE, INCONCLUSIVE, EQUIVALENT]
    assert f"An effect below {rows[0].detectable:.3g} would mostly be missed." in rows[0].sentence


def test_what_is_promised_of_unpaired_images_is_what_their_comparison_does() -> None:
    """Three images a side have a verdict, four about the power that is promised; two of one side have none."""
    smallest, rng = float(can_show(4, 4, False, 0.05).split("from ")[1].split()[0]), np.random.default_rng(0)
    loose = manifest(4).assign(pair_id="")
    y = rng.normal(size=(8, 8)) + smallest * (loose.group == "a").to_numpy()
    found = [compare(clips(v).assign(seed=range(8)), loose, ["speed"]).verdict[0] for v in y]
    assert TOO_FEW not in found and 2 <= found.count(EFFECT) <= 7
    three = compare(clips(y[0]).assign(seed=range(8)), loose.drop(index=[0, 1]), ["speed"])
    assert "effects from" in can_show(3, 3, False, 0.05) and three.verdict[0] != TOO_FEW
    few = compare(clips(y[0]).assign(seed=range(8)), loose.drop(index=[1, 3]), ["speed"])
    assert "numbers only" in can_show(2, 4, False, 0.05) and few.verdict[0] == TOO_FEW


@pytest.mark.parametrize(
    ("flip", "turned"), [("left_right", [2, 0]), ("half_turn", [2, 2]), ("up_down", [0, 2]), ("", [0, 0])]
)
def test_directions_of_a_flipped_clip_are_turned_back(flip: str, turned: list[float]) -> None:
    """A model that always pans right and up, whatever it sees: the mirrored image's clip counts the other way."""
    results = clips(np.ones(24)).assign(pan_px=1.0, tilt_px=1.0)
    assert compare(results, manifest(12, flip=flip), ["pan_px", "tilt_px"]).value.tolist() == turned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(measures=["flow"]), "'flow'"),
        (dict(margins={"speed": -1}), "margin=-1"),
        (dict(margins={"speed": np.inf}), "margin=inf"),
        (dict(margins={"sped": 0.3}), "margins='sped': give one of speed"),
        (dict(margins=[0.3]), "give a Mapping"),
        (dict(alpha=2), "alpha=2"),
        (dict(measures=["speed", "speed"]), "more than once"),  # else counted as two tests
        (dict(measures="speed"), "give a list"),
        (dict(clips=clips(np.arange(12.0)).assign(speed="fast")), "'speed' holds no numbers"),
        (dict(manifest=manifest(6).drop(columns="group")), "'group'"),
        (dict(clips=clips(np.arange(11.0))), r"no clip of row 11 of the manifest \(x-5-b\)"),
        (dict(clips=clips(np.arange(12.0)).drop(columns="label_row")), "'label_row'"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(**{"clips": clips(np.arange(12.0)), "manifest": manifest(6), "measures": ["speed"], **options})
