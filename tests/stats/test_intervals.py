"""Intervals, tests and power agree with closed forms, exact counts and simulated truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats as sps
from statsmodels.stats.proportion import proportion_confint

from svdlab.errors import InputError
from svdlab.stats import intervals as iv


@pytest.mark.parametrize("n", [2, 6, 11])
def test_permutation_p_is_scipys_where_all_patterns_are_counted(n: int) -> None:
    values = np.round(np.random.default_rng(n).normal(0.5, 1, (7, n)), 1)  # rounded, so that sign patterns tie
    values[3] = 0
    for x in values:
        want = sps.permutation_test((x,), lambda v, axis: v.mean(axis), permutation_type="samples", vectorized=True)
        assert iv.permutation_p(x) == pytest.approx(want.pvalue)


def test_beyond_counting_permutation_p_is_that_of_a_t_test_within_its_own_error() -> None:
    x = np.random.default_rng(0).normal(0.3, 1, 60)
    assert iv.permutation_p(x) == pytest.approx(sps.ttest_1samp(x, 0).pvalue, abs=0.01)
    assert iv.permutation_p(np.ones(30)) == pytest.approx(2 / 10000)


def test_the_mean_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = [iv.mean_interval(rng.gamma(2, 1, 10)) for _ in range(400)]
    assert 0.88 <= np.mean([h.low <= 2 <= h.high for h in hits]) <= 0.98  # skewed values, and few of them
    assert str(iv.mean_interval(np.full(25, 2.0))) == "2 (2 to 2)"


def test_wilsons_centre_by_hand() -> None:
    found = iv.proportion(8, 10)  # (p + z^2/2n) / (1 + z^2/n)
    assert (found.low + found.high) / 2 == pytest.approx((0.8 + 1.959964**2 / 20) / (1 + 1.959964**2 / 10), rel=1e-6)


def test_a_rate_knows_how_many_clips_its_images_are_worth() -> None:
    alike = iv.clustered_proportion([0, 1] * 10, 80)
    assert (alike.low, alike.high) == pytest.approx(proportion_confint(10, 20, method="wilson"))
    independent = iv.clustered_proportion([0.5] * 20, 80)
    assert (independent.low, independent.high) == pytest.approx(proportion_confint(40, 80, method="wilson"))
    assert iv.clustered_proportion([0.0] * 8, 32).effective == 8


def test_false_discovery_by_hand() -> None:
    q = iv.fdr([0.01, np.nan, 0.02, 0.5])
    assert q[[0, 2, 3]] == pytest.approx([0.03, 0.03, 0.5])
    assert np.isnan(q[1])


def test_power_and_its_inverse() -> None:
    for n in (2, 3, 6, 16, 120, 2000):
        for alpha in (0.05, 0.05 / 66):
            assert iv.power(iv.detectable(n, alpha=alpha), n, alpha=alpha) == pytest.approx(0.8, abs=1e-6)
    assert iv.power(10.0, 10) == pytest.approx(1)


def test_power_is_how_often_a_t_test_finds_it() -> None:
    """Six pairs and a family of 55 tests, where a solver once promised 0.8 and half was true."""
    alpha, rng = 0.05 / 55, np.random.default_rng(0)
    pairs = iv.detectable(6, alpha=alpha) + rng.standard_normal((20_000, 6))
    assert (sps.ttest_1samp(pairs, 0, axis=1).pvalue < alpha).mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(
    ("pairs", "tests", "yes"), [(5, 1, False), (6, 1, True), (6, 2, False), (11, 60, False), (12, 60, True)]
)
def test_a_family_needs_more_pairs_to_be_decidable(pairs: int, tests: int, yes: bool) -> None:
    """2 / 2 ** n against 0.05 over the number of tests, by hand."""
    assert iv.decidable(pairs, tests=tests) is yes


def test_variation_recovers_what_was_put_in_also_with_unequal_repeats() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(400), rng.integers(1, 5, 400))
    values = rng.normal(0, 3, 400)[units] + rng.normal(0, 1.5, len(units))
    assert iv.variation(values, units) == pytest.approx((3, 1.5), rel=0.1)
    assert iv.variation([1.0, 2.0, 3.0], [0, 1, 2]) == pytest.approx((1, np.nan), nan_ok=True)
    assert iv.variation([1.0, 2.0, 3.0], [0, 0, 0]) == pytest.approx((np.nan, 1), nan_ok=True)


@pytest.mark.parametrize("n", [6, 24])
@pytest.mark.parametrize("odds", [(0.0, 0.0), (0.05, 0.05), (0.2, 0.05), (0.15, 0.0), (0.4, 0.3)])
def test_paired_shares_cover_the_truth_by_enumeration(n: int, odds: tuple[float, float]) -> None:
    """Every outcome of n yes-no pairs with its exact probability; (0, 0) is the one where a t interval has no width."""
    up, down = odds
    covered = false_none = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            chance = sps.multinomial.pmf([a, b, n - a - b], n, [up, down, 1 - up - down])
            found = iv.paired_shares([1.0] * a + [-1.0] * b + [0.0] * (n - a - b))
            covered += chance * (found.low <= up - down <= found.high)
            false_none += chance * (found.low > -0.15 and found.high < 0.15)
    assert covered > 0.94
    if abs(up - down) >= 0.15:
        assert false_none < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iv.permutation_p([1]), r"shape \(1,\): a list of at least 2"),
        (lambda: iv.t_interval([[1, 2], [3, 4]]), "a list"),
        (lambda: iv.t_interval([1, np.nan]), r"got nan at \[1\]: finite numbers"),
        (lambda: iv.paired_shares([0, 1.5]), r"got 1.5 at \[1\]: finite numbers from -1 to 1"),
        (lambda: iv.fdr([0.1, 1.2]), "from 0 to 1"),
        (lambda: iv.proportion(11, 10), "got 11 of 10"),
        (lambda: iv.power(1.0, 1), "two pairs"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
