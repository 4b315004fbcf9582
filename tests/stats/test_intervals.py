"""Intervals, tests and power agree with closed forms, exact counts and simulated truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats as sps
from statsmodels.stats.proportion import proportion_confint

from svdlab.errors import InputError
from svdlab.stats import intervals as iv


def test_permutation_p_is_scipys_where_sign_patterns_tie_and_near_a_t_tests_beyond_counting() -> None:
    for x in np.round(np.random.default_rng(0).normal(0.5, 1, (7, 8)), 1):
        want = sps.permutation_test((x,), lambda v, axis: v.mean(axis), permutation_type="samples", vectorized=True)
        assert iv.permutation_p(x) == pytest.approx(want.pvalue)
    x = np.random.default_rng(0).normal(0.3, 1, 60)
    assert iv.permutation_p(x) == pytest.approx(sps.ttest_1samp(x, 0).pvalue, abs=0.01)
    assert iv.permutation_p(np.ones(30)) == pytest.approx(2 / 10000)


def test_the_mean_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = [iv.mean_interval(rng.gamma(2, 1, 10)) for _ in range(400)]
    assert 0.88 <= np.mean([h.low <= 2 <= h.high for h in hits]) <= 0.98  # skewed values, and few of them
    assert str(iv.mean_interval(np.full(25, 2.0))) == "2 (2 to 2)"


def test_a_rate_knows_how_many_clips_its_images_are_worth() -> None:
    alike = iv.clustered_proportion([0, 1] * 10, 80)
    assert (alike.low, alike.high) == pytest.approx(proportion_confint(10, 20, method="wilson"))
    independent = iv.clustered_proportion([0.5] * 20, 80)
    assert (independent.low, independent.high) == pytest.approx(proportion_confint(40, 80, method="wilson"))
    assert iv.clustered_proportion([0.0] * 8, 32).effective == 8


@pytest.mark.parametrize(("pairs", "alpha"), [(6, 0.05 / 55), (34, 0.05), (120, 0.05 / 66)])
def test_a_detectable_effect_is_found_four_times_in_five(pairs: int, alpha: float) -> None:
    """Also where a solver once promised 0.8 and half was true: six pairs and a family of 55 tests."""
    rng = np.random.default_rng(0)
    found = sps.ttest_1samp(iv.detectable(pairs, alpha=alpha) + rng.standard_normal((20_000, pairs)), 0, axis=1)
    assert (found.pvalue < alpha).mean() == pytest.approx(0.8, abs=0.015)


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
        (lambda: iv.permutation_p([1]), r"got \[1\]: a list of at least 2"),
        (lambda: iv.t_interval([1, np.nan]), "got nan at 1"),
        (lambda: iv.paired_shares([0, 1.5]), "got 1.5 at 1"),
        (lambda: iv.fdr([0.1, 1.2]), "from 0 to 1"),
        (lambda: iv.proportion(11, 10), "got 11 of 10"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
