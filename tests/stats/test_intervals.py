"""Intervals, tests and power agree with closed forms, exact counts and simulated truth."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint

from svdlab.errors import InputError
from svdlab.stats import intervals as iv


def test_permutation_p_is_scipys_where_sign_patterns_tie_and_near_a_t_tests_beyond_counting() -> None:
    for x in np.round(np.random.default_rng(0).normal(0.5, 1, (7, 8)), 1):
        want = sps.permutation_test((x,), lambda v, axis: v.mean(axis), permutation_type="samples", vectorized=True)
        assert iv.permutation_p(x) == pytest.approx(want.pvalue)
    x = np.random.default_rng(0).normal(0.3, 1, 60)
    assert iv.permutation_p(x) == pytest.approx(sps.ttest_1samp(x, 0).pvalue, abs=0.01)
    assert iv.permutation_p(np.ones(30)) == pytest.approx(2 / 2**30)  # however many tests a study has


@pytest.mark.parametrize("n", [14, 18])
def test_permutation_p_of_more_pairs_is_that_of_all_patterns(n: int) -> None:
    """By halves: the sums of all patterns of one half against those of the other."""
    signs = 1 - 2 * (np.arange(2 ** (n // 2))[:, None] >> np.arange(n // 2) & 1)
    for x in (np.random.default_rng(n).normal(0.6, 1, n), np.array([1.0, 2, 3] * n)[:n] * ([1, 1, -1, 1] * n)[:n]):
        sums = np.add.outer(signs @ x[: n // 2], signs @ x[n // 2 :])
        want = 2 * (sums >= x.sum() - 1e-9).mean()
        assert want <= iv.permutation_p(x) <= 1.02 * want


def test_the_seeds_part_is_that_of_the_mean_squares_also_where_cells_are_missing() -> None:
    """var(mean) = (MS_image + MS_seed - F MS_rest) / clips, with statsmodels' mean squares."""
    rng = np.random.default_rng(1)
    grid = rng.normal(size=(12, 1)) + 2 * rng.normal(size=(1, 4)) + rng.normal(size=(12, 4))
    table = pd.DataFrame(grid).stack().rename("y").rename_axis(["image", "seed"]).reset_index()
    ms = anova_lm(ols("y ~ C(image) + C(seed)", table).fit())["mean_sq"]
    found, factor = iv.sample(pd.DataFrame(grid)), sps.f.ppf(0.375, 3, 33)
    assert found.sd**2 / 12 == pytest.approx(ms["C(image)"] / 48)
    assert (found.seeds, found.df) == (pytest.approx((ms["C(seed)"] - factor * ms["Residual"]) / 48), 3)
    assert found.ease == 1.5  # 1 + 2 / seeds
    holed = grid.copy()
    holed[[0, 5, 7], [1, 2, 3]] = np.nan
    assert iv.sample(pd.DataFrame(holed)).seeds == pytest.approx(found.seeds, rel=0.3)
    assert iv.mean_interval(np.full(25, 2.0)).low == 2


def test_none_of_so_many_is_exact_and_the_number_that_it_takes_is_known() -> None:
    """Case F17: none of 72 clips of 12 images. Clips of an image count as one, and 12 images cannot reach 15 %."""
    none = iv.clustered_proportion([0.0] * 12, 72)
    assert (none.low, none.high) == (0, pytest.approx(1 - 0.025 ** (1 / 12))) and none.method == "Clopper-Pearson"
    for threshold, tests in ((0.15, 1), (0.15, 8), (0.05, 1)):
        n = iv.images_needed(threshold, tests=tests)
        p = [iv.p_of(iv.clustered_proportion([0.0] * k, 6 * k), [0.0] * k, threshold) for k in (n - 1, n)]
        assert p[1] < 0.05 / tests <= p[0]
    assert iv.images_needed(0.15) == 23


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
