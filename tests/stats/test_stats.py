"""The statistics say what closed forms, exact counts and simulated truth say."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from svdlab.errors import InputError
from svdlab.stats import intervals as stats
from svdlab.stats import response as dose


def test_permutation_p_counts_the_sign_patterns():
    # All six differences point one way: of 2^6 patterns only this one and its opposite are as extreme.
    found = stats.paired_test([3, 4, 5, 6, 5, 4], [1, 2, 4, 4, 3, 3])
    assert found.p == pytest.approx(2 / 64)
    assert found.effect == pytest.approx(10 / 6)
    assert found.decidable


def test_five_pairs_are_never_decided():
    found = stats.one_sample_test([10, 11, 12, 13, 14])
    assert stats.smallest_p(5) == found.p == 0.0625
    assert not found.decidable
    assert stats.one_sample_test([10, 11, 12, 13, 14], interval="permutation").low == -np.inf


def test_permutation_interval_holds_what_the_test_keeps():
    values = np.array([0.3, 1.1, 0.8, 1.9, 0.2, 1.4, 0.7, 1.0])
    found = stats.one_sample_test(values, interval="permutation")
    assert found.low < values.mean() < found.high
    assert stats.one_sample_test(values - found.low - 0.01).p > 0.05
    assert stats.one_sample_test(values - found.low + 0.01).p <= 0.05
    t = stats.t_interval(values)
    assert found.low == pytest.approx(t.low, abs=0.15)
    assert found.high == pytest.approx(t.high, abs=0.15)


def test_t_interval_by_hand():
    # mean 2, s = 1, t(0.975, 2) = 4.30265: half width 4.30265 / sqrt 3
    found = stats.t_interval([1, 2, 3])
    assert found.high - found.value == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)


def test_mean_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [stats.mean_interval(rng.gamma(2, 1, 10)) for _ in range(400)]
    share = np.mean([h.low <= 2 <= h.high for h in hits])
    assert 0.88 <= share <= 0.98  # skewed values and few of them: the t interval is nearly right


def test_bootstrap_of_equal_values_has_no_width():
    assert str(stats.bootstrap(np.full(5, 2.0))) == "2 (2 to 2)"


def test_wilson_by_hand():
    # Wilson's centre is (p + z^2/2n) / (1 + z^2/n); for 8 of 10 and z = 1.959964 that is 0.716740
    found = stats.proportion(8, 10)
    assert (found.low + found.high) / 2 == pytest.approx((0.8 + 1.959964**2 / 20) / (1 + 1.959964**2 / 10), rel=1e-6)


def test_tost_agrees_with_its_own_interval():
    rng = np.random.default_rng(1)
    for spread in (0.05, 0.3, 1.0):
        values = rng.normal(0.02, spread, 30)
        found = stats.equivalent_mean(values, -0.2, 0.2)
        assert found.equivalent == (found.low > -0.2 and found.high < 0.2)
    assert stats.equivalent_pairs([1.0, 2.0, 3.0], [1.01, 1.98, 3.0], -0.2, 0.2).equivalent
    assert stats.equivalent_proportion(50, 100, 0.35, 0.65).equivalent
    assert not stats.equivalent_proportion(5, 10, 0.35, 0.65).equivalent


def test_proportion_test_by_counting():
    assert stats.proportion_test(9, 10, 0.5) == pytest.approx(2 * 11 / 1024)


def test_false_discovery_by_hand():
    q = stats.fdr([0.01, np.nan, 0.02, 0.5])
    assert q[[0, 2, 3]] == pytest.approx([0.03, 0.03, 0.5])
    assert np.isnan(q[1])


def test_power_and_its_inverse():
    assert stats.pairs_needed(0.5) == 34
    for n in (2, 3, 4, 5, 6, 7, 10, 16, 60, 120, 160, 2000):
        for alpha in (0.05, 0.01, 0.05 / 55, 0.05 / 66):
            effect = stats.detectable(n, alpha=alpha)
            assert stats.power(effect, n, alpha=alpha) == pytest.approx(0.8, abs=1e-6)
            if n <= 160:
                assert abs(stats.pairs_needed(effect * 1.0001, alpha=alpha) - n) == 0
    assert stats.power(10.0, 10) == pytest.approx(1)


def test_power_is_how_often_a_t_test_finds_it():
    """Six pairs and a family of 55 tests, where a solver once promised 0.8 and half was true."""
    alpha, rng = 0.05 / 55, np.random.default_rng(0)
    pairs = stats.detectable(6, alpha=alpha) + rng.standard_normal((20_000, 6))
    assert (scipy.stats.ttest_1samp(pairs, 0, axis=1).pvalue < alpha).mean() == pytest.approx(0.8, abs=0.015)


def test_spearman_sees_order_only():
    x = np.arange(12.0)
    assert stats.spearman(x, x**3).value == pytest.approx(1)
    assert stats.spearman(x, -(x**3)).value == pytest.approx(-1)
    assert np.isnan(stats.spearman(x, np.ones(12)).value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.paired_test([1, 2], [1, 2, 3]),
        lambda: stats.t_interval([1, np.nan]),
        lambda: stats.t_interval([1]),
        lambda: stats.equivalent_mean([1, 2], 0.2, -0.2),
        lambda: stats.proportion(11, 10),
        lambda: stats.fdr([0.1, 1.2]),
        lambda: stats.one_sample_test([1, 2, 3], interval="magic"),
        lambda: stats.pairs_needed(0),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(InputError):
        call()


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
    assert "no steady change" in found.sentence
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
    with pytest.raises(InputError, match="no number"):
        dose.dose_response(table.assign(level="a"), "level", "speed")


@pytest.mark.parametrize(
    ("pairs", "tests", "yes"), [(5, 1, False), (6, 1, True), (6, 2, False), (11, 60, False), (12, 60, True)]
)
def test_a_family_needs_more_pairs_to_be_decidable(pairs: int, tests: int, yes: bool) -> None:
    """2 / 2 ** n against 0.05 over the number of tests, by hand."""
    assert stats.decidable(pairs, tests=tests) is yes


@pytest.mark.parametrize(("count", "n"), [(0, 20), (3, 20), (25, 500), (20, 20)])
def test_the_lower_bound_of_a_proportion_is_where_the_binomial_tail_is_five_percent(count: int, n: int) -> None:
    bound = stats.proportion_bound(count, n)
    tail = scipy.stats.binom.sf(count - 1, n, bound)
    assert bound == 0 if count == 0 else tail == pytest.approx(0.05, rel=1e-6)


def test_variation_is_the_textbook_anova() -> None:
    """Two units (means 2 and 6) of two repeats: within = 2, among = 2 * 8 = 16, between = (16 - 2) / 2 = 7 (variances)."""
    found = stats.variation([1, 3, 5, 7], ["a", "a", "b", "b"])
    assert found.within**2 == pytest.approx(2) and found.between**2 == pytest.approx(7)


def test_variation_recovers_what_was_put_in_also_with_unequal_repeats() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(400), rng.integers(1, 5, 400))
    values = rng.normal(0, 3, 400)[units] + rng.normal(0, 1.5, len(units))
    found = stats.variation(values, units)
    assert found.between == pytest.approx(3, rel=0.1) and found.within == pytest.approx(1.5, rel=0.1)


def test_variation_says_nan_where_nothing_was_repeated() -> None:
    alone = stats.variation([1.0, 2.0, 3.0], [0, 1, 2])
    assert alone.between == pytest.approx(1) and np.isnan(alone.within)
    assert np.isnan(stats.variation([1.0, 2.0], [0, 0]).between)
    with pytest.raises(InputError):
        stats.variation([1.0, 2.0], [0])


@pytest.mark.parametrize("n", [2, 6, 11])
def test_many_sign_flip_tests_at_once_are_scipys_one_by_one(n: int) -> None:
    rng = np.random.default_rng(n)
    values = np.round(rng.normal(0.5, 1, (7, n)), 1)  # rounded, so that sign patterns tie
    values[3] = 0
    one_by_one = [stats.one_sample_test(v).p for v in values]
    assert stats.sign_flip_p(values) == pytest.approx(one_by_one)


def test_beyond_counting_they_agree_within_their_own_error() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, (20, 30))
    one_by_one = np.array([stats.one_sample_test(v).p for v in values])
    assert np.abs(stats.sign_flip_p(values) - one_by_one).max() < 5 * 2 * 0.5 / np.sqrt(9999)
    assert stats.sign_flip_p(np.ones((1, 30)))[0] == pytest.approx(2 / 10000)
    with pytest.raises(InputError, match="two pairs or more"):
        stats.sign_flip_p([[1.0]])


@pytest.mark.parametrize("n", [6, 12, 24])
@pytest.mark.parametrize("odds", [(0.0, 0.0), (0.05, 0.05), (0.2, 0.05), (0.15, 0.0), (0.4, 0.3)])
def test_paired_shares_cover_the_truth_by_enumeration(n: int, odds: tuple[float, float]) -> None:
    """Every outcome of n yes-no pairs with its exact probability; (0, 0) is the one where a t interval has no width."""
    up, down = odds
    covered = false_none = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            chance = scipy.stats.multinomial.pmf([a, b, n - a - b], n, [up, down, 1 - up - down])
            found = stats.paired_shares([1.0] * a + [-1.0] * b + [0.0] * (n - a - b))
            covered += chance * (found.low <= up - down <= found.high)
            false_none += chance * (found.low > -0.15 and found.high < 0.15)
    assert covered > 0.94
    if abs(up - down) >= 0.15:
        assert false_none < 0.05


def test_paired_shares_that_agree_are_not_certain() -> None:
    found = stats.paired_shares([0] * 12)
    reach = 1.959964 * math.sqrt((2 / 14) / 14)  # Bonett and Price's (2012) formula by hand
    assert (found.value, found.low, found.high) == pytest.approx((0, -reach, reach), abs=1e-5)
    with pytest.raises(InputError, match=r"1\.5"):
        stats.paired_shares([0, 1.5])
