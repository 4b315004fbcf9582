"""Two checkpoints compared: known differences come back at their size, absent ones do not, and the image is the unit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.study.compare import compare, slope_against
from svdlab.study.plans import grid


def made(
    images: int = 10, seeds: int = 3, *, gain: float = 1.0, shift: float = 0.0, wobble: float = 0.1, rng: int = 0
) -> pd.DataFrame:
    """Results as a sweep would give them: speed = gain * bucket / 100 + image + wobble over seeds + shift."""
    names = [f"scene-{i}" for i in range(images)]
    table = grid(image=names, motion_bucket_id=[40, 120], fps=[7], seed=range(seeds))
    own = np.random.default_rng(99).normal(0, 1, images)  # an image is what it is in both tables
    noise = np.random.default_rng(rng).normal(0, wobble, len(table))
    speed = gain * table.motion_bucket_id / 100 + own[[names.index(p) for p in table.image]] + noise + shift
    return table.assign(object_px=speed)


def test_a_known_shift_is_found_at_its_size_in_every_cell() -> None:
    table = compare({"a": made(), "b": made(shift=0.5, rng=1)}, ["object_px"], by=["motion_bucket_id"])
    assert table.motion_bucket_id.tolist() == [40, 120] and (table.verdict == "effect").all()
    assert ((table.low < 0.5) & (table.high > 0.5)).all() and (table.n == 10).all() and (table.seeds == 3).all()
    assert np.allclose(table.second - table["first"], table.value)


def test_nothing_is_found_where_nothing_is_and_a_margin_makes_it_equivalent() -> None:
    same = {"a": made(), "b": made(rng=1)}
    assert (compare(same, ["object_px"]).verdict == "inconclusive").all()
    assert (compare(same, ["object_px"], margins={"object_px": 0.3}).verdict == "equivalent within the margin").all()
    assert (compare(same, ["object_px"], margins={"object_px": 0.001}).verdict == "inconclusive").all()
    small = compare(
        {"a": made(wobble=0.01), "b": made(wobble=0.01, shift=0.05, rng=1)}, ["object_px"], margins={"object_px": 0.3}
    )
    assert (small.q < 0.05).all() and small.verdict.tolist() == ["equivalent within the margin"]


def test_false_alarms_stay_at_their_rate() -> None:
    """100 comparisons of equals: at alpha 0.05 more than 12 would be 1 in 700."""
    verdicts = [
        compare({"a": made(seeds=1, rng=2 * i), "b": made(seeds=1, rng=2 * i + 1)}, ["object_px"], resamples=1999).verdict[0]
        for i in range(1, 101)
    ]
    assert verdicts.count("effect") <= 12


def test_a_spread_over_seeds_is_compared_apart_from_the_mean() -> None:
    tables = {"a": made(seeds=6, wobble=0.4), "b": made(seeds=6, wobble=0.1, rng=1)}
    spread = compare(tables, ["object_px"], by=["motion_bucket_id"], within="spread")
    assert (spread.value < -0.2).all() and (spread.verdict == "effect").all() and (spread.within == "spread").all()
    assert not (compare(tables, ["object_px"]).verdict == "effect").any()


def test_the_slope_of_the_response_is_compared() -> None:
    table = compare(
        {"a": made(wobble=0.01), "b": made(gain=0.5, wobble=0.01, rng=1)},
        ["object_px"],
        within=slope_against("motion_bucket_id"),
    )
    assert table["first"][0] == pytest.approx(0.01, rel=0.05) and table.second[0] == pytest.approx(0.005, rel=0.05)
    assert table.verdict[0] == "effect" and table.within[0] == "slope against motion_bucket_id"


def test_five_images_can_never_be_a_verdict() -> None:
    table = compare({"a": made(images=5), "b": made(images=5, shift=9)}, ["object_px"])
    assert table.verdict[0] == "too few" and table.p[0] == 2 / 2**5 and table.value[0] == pytest.approx(9, abs=0.2)


def test_images_without_a_number_are_counted_and_left_out() -> None:
    holed = made(shift=0.5, rng=1)
    holed.loc[holed.image == "scene-3", "object_px"] = np.nan
    table = compare({"a": made(), "b": holed}, ["object_px"])
    assert (table.n[0], table.left_out[0]) == (9, 1)


@pytest.mark.parametrize(
    ("tables", "arguments", "said"),
    [
        ({"a": made()}, {}, r"1 tables \(a\).*give two"),
        ({"a": made(), "b": made().drop(columns="object_px")}, {}, "'b' has no column object_px"),
        ({"a": made(), "b": made(images=9)}, {}, r"6 runs have no partner.*scene-9.*only in 'a'"),
        ({"a": made(), "b": pd.concat([made(), made()])}, {}, "'b' holds a run twice"),
        ({"a": made(), "b": made()}, {"within": "median"}, "within='median'"),
        ({"a": made(), "b": made()}, {"margins": {"flow_px": 1}}, "margins for flow_px"),
        ({"a": made(), "b": made()}, {"within": slope_against("strength")}, "no condition 'strength'"),
    ],
)
def test_what_cannot_be_compared_is_said(tables: dict, arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(tables, ["object_px"], **arguments)


def test_a_row_says_what_was_compared_where() -> None:
    tables = {"organism": made(), "organism-fixed": made(shift=0.5, rng=1)}
    table = compare(tables, ["object_px"], by=["fps", "motion_bucket_id"])
    assert table.label.tolist() == ["fps 7, motion bucket 40", "fps 7, motion bucket 120"]
    assert table.sentence[0].startswith("Subject speed, organism-fixed minus organism at fps 7, motion bucket 40: 0.")
    assert " px/frame (95 % CI " in table.sentence[0] and "; 10 images, 3 seeds). Effect: " in table.sentence[0]
