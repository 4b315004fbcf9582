"""Dose-response and variance components recover what was put in, and agree with statsmodels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from svdlab.errors import InputError
from svdlab.stats import dose_response, variance_shares


def crossed(levels: Any, images: int, seeds: int, of_level: Callable, image_sd: float, rest_sd: float) -> pd.DataFrame:
    """A whole cross of condition, image and seed, its value a function of the level plus image and cell effects."""
    rng = np.random.default_rng(2)
    own = rng.normal(0, image_sd, images)
    rows = [
        (x, i, s, of_level(x) + own[i] + rng.normal(0, rest_sd)) for x in levels for i in range(images) for s in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["level", "image", "seed", "speed"])


def test_dose_response_recovers_a_saturating_curve() -> None:
    levels = [0, 50, 100, 150, 200, 250]
    found = dose_response(crossed(levels, 24, 3, lambda x: min(x, 150) / 50, 0.2, 0.1), "level", "speed")
    assert found.curve["mean"].to_numpy() == pytest.approx(np.minimum(levels, 150) / 50, abs=0.15)
    assert ((found.curve.low < found.curve["mean"]) & (found.curve["mean"] < found.curve.high)).all()
    assert found.spearman.low > 0.8
    assert (found.saturation.value, found.saturation.low, found.saturation.high) == (150, 150, 150)
    for text in ("rises with level", "levels off from 150 (150 to 150)", "24 images"):
        assert text in found.sentence


@pytest.mark.parametrize(
    ("table", "text", "units"),
    [
        (crossed([1, 2, 3, 4], 20, 2, lambda x: 1.0, 0.3, 0.3), "shows no trend with level", "20 images"),
        (crossed([1, 2, 3], 1, 6, lambda x: -x, 0, 0.1), "falls with level", "6 seeds"),  # one image: seeds are resampled
    ],
)
def test_dose_response_states_what_it_found(table: pd.DataFrame, text: str, units: str) -> None:
    sentence = dose_response(table, "level", "speed").sentence
    assert text in sentence and units in sentence


def test_a_trend_is_two_sided_and_needs_six_units() -> None:
    """Two units whose three values rise: one of four such tables does that, or falls, by chance."""
    few = dose_response(crossed([1, 2, 3], 3, 1, lambda x: x, 0.1, 0.1), "level", "speed")
    assert "too few images for a trend" in few.sentence and np.isnan(few.p)
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        table = crossed([1, 2, 3, 4], 8, 2, lambda x: 0.0, 0, 0).assign(speed=rng.normal(size=64))
        found.append(dose_response(table, "level", "speed"))
    assert sum(f.p < 0.05 for f in found) <= 8  # at 0.05, more would be one in 280
    assert {"rises", "falls", "shows"} >= {f.sentence.split()[1] for f in found}


def test_a_rank_correlation_is_at_most_1_and_seeds_that_differ_between_levels_are_allowed() -> None:
    table = crossed([1, 2, 3, 4], 8, 1, float, 1, 0.5)
    random = table.assign(seed=[0 if i == 0 else 9 + k for k, i in enumerate(table.image)])  # image 0 alone has one for all
    for found in (dose_response(table, "level", "speed"), dose_response(random, "level", "speed")):
        assert found.spearman.value > 0.8 and found.spearman.high == 1 and found.p < 0.05


def test_variance_components_are_those_of_statsmodels_mean_squares() -> None:
    """Of the crossed random model: MS(level) = rest + 5 level x image + 4 level x seed + 20 level, and so on."""
    table = crossed([1, 2, 3], 4, 5, lambda x: 3 * x, 4, 1)
    ms = anova_lm(ols("speed ~ (C(level) + C(image) + C(seed)) ** 2", table).fit())["mean_sq"]
    found = variance_shares(table, "speed", ["level", "image", "seed"]).set_index("source").variance
    rest, by_image, by_seed = ms["Residual"], ms["C(level):C(image)"], ms["C(level):C(seed)"]
    assert found["rest"] == pytest.approx(rest)
    assert found["level x image"] == pytest.approx(max(0, (by_image - rest) / 5))
    assert found["level"] == pytest.approx((ms["C(level)"] - by_image - by_seed + rest) / 20)


def test_variance_shares_recover_what_was_mixed_in() -> None:
    # level variance of 0..7 counted over 7 degrees of freedom is 6; image 4; rest 1
    found = variance_shares(crossed(range(8), 40, 4, float, 2, 1), "speed", ["level", "image", "seed"]).set_index("source")
    assert found.variance[["level", "image", "rest"]].tolist() == pytest.approx([6, 4, 1], rel=0.5)
    assert found.share.sum() == pytest.approx(1)
    assert found.low["image"] <= found.share["image"] <= found.high["image"]


WHOLE = crossed([1, 2], 3, 2, float, 1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: variance_shares(WHOLE.iloc[1:], "speed", ["level", "image", "seed"]), "1 of 12 cells are missing"),
        (
            lambda: variance_shares(WHOLE.query("image != 2 or seed != 1"), "speed", ["level", "image", "seed"]),
            "2 of 12 cells are missing",  # one image lacks a seed
        ),
        (lambda: variance_shares(WHOLE[WHOLE.level == 1], "speed", ["level", "image"]), "two levels at least"),
        (lambda: variance_shares(WHOLE, "speed", ["level"]), "two or three"),
        (lambda: dose_response(WHOLE, "level", "sped"), "no column 'sped'"),
        (lambda: dose_response(WHOLE.assign(level="a"), "level", "speed"), "is no number"),
        (lambda: dose_response(WHOLE[WHOLE.level == 1], "level", "speed"), "two each"),
    ],
)
def test_bad_input_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong()
