"""Intervals, tests and power agree with closed forms, exact counts and simulated truth."""

import math

import numpy as np
import pytest
import scipy.stats

from svdlab.errors import InputError
from svdlab.stats import intervals as stats


@pytest.mark.parametrize("n", [2, 6, 11])
def test_permutation_p_is_scipys_where_all_patterns_are_counted(n: int) -> None:
    values = np.round(np.random.default_rng(n).normal(0.5, 1, (7, n)), 1)  # rounded, so that sign patterns tie
    values[3] = 0
    for x in values:
        want = scipy.stats.permutation_test((x,), lambda v, axis: v.mean(axis), permutation_type="samples", vectorized=True)
        assert stats.permutation_p(x) == pytest.approx(want.pvalue)


def test_beyond_counting_permutation_p_is_that_of_a_t_test_within_its_own_error() -> None:
    x = np.random.default_rng(0).normal(0.3, 1, 60)
    assert stats.permutation_p(x) == pytest.approx(scipy.stats.ttest_1samp(x, 0).pvalue, abs=0.01)
    assert stats.permutation_p(np.ones(30)) == pytest.approx(2 / 10000)


def test_five_pairs_have_no_permutation_interval() -> None:
    assert stats.permutation_interval([10, 11, 12, 13, 14]).low == -np.inf


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
    assert stats.equivalent_proportion(50, 100, 0.35, 0.65).equivalent
    assert not stats.equivalent_proportion(5, 10, 0.35, 0.65).equivalent


def test_false_discovery_by_hand():
    q = stats.fdr([0.01, np.nan, 0.02, 0.5])
    assert q[[0, 2, 3]] == pytest.approx([0.03, 0.03, 0.5])
    assert np.isnan(q[1])


def test_power_and_its_inverse():
    for n in (2, 3, 4, 5, 6, 7, 10, 16, 60, 120, 160, 2000):
        for alpha in (0.05, 0.01, 0.05 / 55, 0.05 / 66):
            effect = stats.detectable(n, alpha=alpha)
            assert stats.power(effect, n, alpha=alpha) == pytest.approx(0.8, abs=1e-6)
    assert stats.power(10.0, 10) == pytest.approx(1)


def test_power_is_how_often_a_t_test_finds_it():
    """Six pairs and a family of 55 tests, where a solver once promised 0.8 and half was true."""
    alpha, rng = 0.05 / 55, np.random.default_rng(0)
    pairs = stats.detectable(6, alpha=alpha) + rng.standard_normal((20_000, 6))
    assert (scipy.stats.ttest_1samp(pairs, 0, axis=1).pvalue < alpha).mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.permutation_p([1]),
        lambda: stats.power(1.0, 1),
        lambda: stats.detectable(10, power=0.01),
        lambda: stats.t_interval([1, np.nan]),
        lambda: stats.t_interval([1]),
        lambda: stats.equivalent_mean([1, 2], 0.2, -0.2),
        lambda: stats.proportion(11, 10),
        lambda: stats.fdr([0.1, 1.2]),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(InputError):
        call()


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
