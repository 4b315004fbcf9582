"""Dose-response and variance components recover what was put in, and agree with statsmodels."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from svdlab.errors import InputError
from svdlab.stats import response as dose


def crossed(levels, images, seeds, *, of_level, of_image, of_rest, rng):
    """A whole cross of condition, image and seed, its value a function of the level plus image and cell effects."""
    image_effect = rng.normal(0, of_image, images)
    rows = [
        {"level": x, "image": i, "seed": s, "speed": of_level(x) + image_effect[i] + rng.normal(0, of_rest)}
        for x in levels
        for i in range(images)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_dose_response_recovers_a_saturating_curve():
    rng = np.random.default_rng(2)
    levels = [0, 50, 100, 150, 200, 250]
    table = crossed(levels, 24, 3, of_level=lambda x: min(x, 150) / 50, of_image=0.2, of_rest=0.1, rng=rng)
    found = dose.dose_response(table, "level", "speed")
    assert found.curve["mean"].to_numpy() == pytest.approx(np.minimum(levels, 150) / 50, abs=0.15)
    assert ((found.curve.low < found.curve["mean"]) & (found.curve["mean"] < found.curve.high)).all()
    assert found.spearman.low > 0.8
    assert found.trend_p < 0.001
    assert found.saturation == found.saturation_low == found.saturation_high == 150
    assert "rises with level" in found.sentence and "levels off from 150" in found.sentence and "24 images" in found.sentence


def test_dose_response_reports_no_change_where_there_is_none():
    rng = np.random.default_rng(3)
    table = crossed([1, 2, 3, 4], 20, 2, of_level=lambda x: 1.0, of_image=0.3, of_rest=0.3, rng=rng)
    found = dose.dose_response(table, "level", "speed")
    assert "no trend" in found.sentence
    assert found.monotone < 0.9


def test_dose_response_of_one_image_resamples_seeds():
    rng = np.random.default_rng(4)
    table = crossed([1, 2, 3], 1, 6, of_level=lambda x: -x, of_image=0, of_rest=0.1, rng=rng)
    found = dose.dose_response(table, "level", "speed")
    assert found.unit == "seed"
    assert "falls with level" in found.sentence and "6 seeds" in found.sentence


def test_mean_squares_are_those_of_statsmodels():
    rng = np.random.default_rng(5)
    table = crossed([1, 2, 3], 4, 5, of_level=lambda x: x, of_image=1, of_rest=1, rng=rng)
    ours = dose.mean_squares(table.speed.to_numpy().reshape(3, 4, 5), ["level", "image", "seed"])
    theirs = anova_lm(ols("speed ~ (C(level) + C(image) + C(seed)) ** 2", table).fit())["mean_sq"]
    for name, row in {
        "level": "C(level)",
        "image": "C(image)",
        "seed": "C(seed)",
        "level x image": "C(level):C(image)",
        "image x seed": "C(image):C(seed)",
        "rest": "Residual",
    }.items():
        assert ours[name] == pytest.approx(theirs[row])


def test_variance_shares_recover_what_was_mixed_in():
    rng = np.random.default_rng(6)
    # level variance of 0..7 counted over 7 degrees of freedom is 6; image 4; rest 1
    table = crossed(range(8), 40, 4, of_level=lambda x: x, of_image=2, of_rest=1, rng=rng)
    found = dose.variance_shares(table, "speed", ["level", "image", "seed"]).set_index("source")
    assert found.variance["level"] == pytest.approx(6, rel=0.05)
    assert found.variance["image"] == pytest.approx(4, rel=0.5)
    assert found.variance["rest"] == pytest.approx(1, rel=0.1)
    assert found.share.sum() == pytest.approx(1)
    assert found.low["image"] <= found.share["image"] <= found.high["image"]


def test_an_incomplete_cross_is_refused():
    table = crossed([1, 2], 3, 2, of_level=float, of_image=1, of_rest=1, rng=np.random.default_rng(7))
    with pytest.raises(InputError, match="missing"):
        dose.variance_shares(table.iloc[1:], "speed", ["level", "image", "seed"])
    with pytest.raises(InputError, match="no column"):
        dose.dose_response(table, "level", "sped")
    with pytest.raises(InputError, match="is no number"):
        dose.dose_response(table.assign(level="a"), "level", "speed")
