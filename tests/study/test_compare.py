"""Two checkpoints compared: known differences come back at their size, absent ones do not, and the image is the unit."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.stats.effects import EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW
from svdlab.study.compare import compare, slope_against
from svdlab.study.plans import grid


def made(
    images: int = 10, seeds: int = 3, *, gain: float = 1, shift: float = 0, sd: float = 0.1, rng: int = 0
) -> pd.DataFrame:
    """Results as a sweep would give them: speed = gain * bucket / 100 + image + shift, and noise."""
    names = [f"scene-{i}" for i in range(images)]
    table = grid(image=names, motion_bucket_id=[40, 120], fps=[7], seed=range(seeds))
    own = np.random.default_rng(99).normal(0, 1, images)  # an image is what it is in both tables
    noise = np.random.default_rng(rng).normal(0, sd, len(table))
    return table.assign(
        object_px=gain * table.motion_bucket_id / 100 + own[[names.index(p) for p in table.image]] + noise + shift
    )


def against(b: pd.DataFrame, a: pd.DataFrame | None = None, **how: Any) -> pd.DataFrame:
    return compare({"a": made() if a is None else a, "b": b}, ["object_px"], **how)


def test_a_known_shift_is_found_at_its_size_in_every_cell() -> None:
    table = against(made(shift=0.5, rng=1), by=["fps", "motion_bucket_id"])
    assert table.motion_bucket_id.tolist() == [40, 120]
    assert table.label.tolist() == ["fps 7, motion bucket 40", "fps 7, motion bucket 120"]
    assert ((table.low < 0.5) & (table.high > 0.5) & (table.verdict == EFFECT) & (table.n == 10) & (table.seeds == 3)).all()
    assert np.allclose(table.second - table["first"], table.value)
    assert table.sentence[0].startswith("Subject speed, b minus a at fps 7, motion bucket 40: 0.")


@pytest.mark.parametrize(
    ("b", "how", "verdict"),
    [
        (made(rng=1), {}, INCONCLUSIVE),
        (made(rng=1), dict(margins={"object_px": 0.3}), EQUIVALENT),
        (made(rng=1), dict(margins={"object_px": 0.001}), INCONCLUSIVE),
        (made(shift=0.1, rng=1), dict(margins={"object_px": 0.3}), EQUIVALENT),  # there, and small
        (made(seeds=3, sd=0.9, rng=1), dict(within="spread"), EFFECT),
        (made(gain=0.5, rng=1), dict(within=slope_against("motion_bucket_id")), EFFECT),
    ],
)
def test_verdicts(b: pd.DataFrame, how: dict[str, Any], verdict: str) -> None:
    assert against(b, **how).verdict.tolist() == [verdict]


def test_a_spread_over_seeds_and_a_slope_have_their_own_size() -> None:
    spread = against(made(seeds=6, rng=1), made(seeds=6, sd=0.4), by=["motion_bucket_id"], within="spread")
    assert (spread.value < -0.2).all()
    slope = against(made(gain=0.5, sd=0.01, rng=1), made(sd=0.01), within=slope_against("motion_bucket_id"))
    assert (slope["first"][0], slope.second[0]) == pytest.approx((0.01, 0.005), rel=0.05)
    assert slope.within[0] == "slope against motion_bucket_id"


def test_a_label_that_the_plan_carried_along_splits_the_runs() -> None:
    light = lambda table: table.assign(label_light=np.where(table.image < "scene-5", "day", "night"))
    table = against(light(made(shift=0.5, rng=1)), light(made()).set_index("seed", drop=False), by=["label_light"])
    assert table.label_light.tolist() == ["day", "night"] and table.n.tolist() == [5, 5]


def test_false_alarms_stay_at_their_rate() -> None:
    """100 comparisons of equals: at alpha 0.05 more than 12 would be 1 in 700."""
    verdicts = [against(made(seeds=1, rng=2 * i), made(seeds=1, rng=2 * i + 1)).verdict[0] for i in range(1, 101)]
    assert verdicts.count(EFFECT) <= 12


def test_five_images_have_no_verdict_and_images_without_a_number_are_left_out() -> None:
    table = against(made(images=5, shift=9), made(images=5))
    assert (table.verdict[0], table.p[0], table.value[0]) == (TOO_FEW, 2 / 2**5, pytest.approx(9, abs=0.2))
    holed = made()
    holed.loc[holed.image == "scene-3", "object_px"] = np.nan
    assert against(holed)[["n", "left_out"]].to_numpy().tolist() == [[9, 1]]


@pytest.mark.parametrize(
    ("tables", "arguments", "said"),
    [
        ({"a": made()}, {}, r"1 tables \(a\).*give two"),
        ({"a": made(), "b": made().drop(columns="object_px")}, {}, "no column 'object_px'"),
        ({"a": made(), "b": made(images=9)}, {}, r"6 runs have no partner.*scene-9.*only in 'a'"),
        ({"a": made(), "b": pd.concat([made(), made()])}, {}, "'b' holds a run twice"),
        ({"a": made(), "b": made()}, {"within": "median"}, "within='median'"),
        ({"a": made(), "b": made()}, {"margins": {"flow_px": 1}}, "margins='flow_px'"),
        ({"a": made(), "b": made()}, {"within": slope_against("strength")}, "no column 'strength'"),
        ({"a": made(), "b": made()}, {"within": slope_against("image")}, "'image' holds no numbers"),
        ({"a": made(), "b": made()}, {"within": lambda runs, measure: None}, "gave None: give a function"),
        ({"a": made(), "b": made()}, {"by": ["object_px"]}, "'object_px' is no measure"),
    ],
)
def test_what_cannot_be_compared_is_refused(tables: dict, arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(tables, ["object_px"], **arguments)
