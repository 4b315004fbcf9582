"""Unpaired groups, clusters and covariates: against scipy's, statsmodels' and textbook values."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from svdlab.errors import InputError
from svdlab.stats.effects import EFFECT, EQUIVALENT, TOO_FEW, corrected, paired
from svdlab.stats.linear import contrast, estimable, joint

RNG = np.random.default_rng(0)


def dummies(*counts: int) -> np.ndarray:
    return np.repeat(np.eye(len(counts)), counts, axis=0)


def test_of_one_group_it_is_the_t_test() -> None:
    y = RNG.normal(0.4, 1, 15)
    e, t = contrast("k", "k", y, np.ones((15, 1)), range(15), [1], unit=""), stats.ttest_1samp(y, 0)
    limits = t.confidence_interval(0.95)
    assert (e.value, e.low, e.high) == pytest.approx((y.mean(), limits.low, limits.high))
    assert e.p >= t.pvalue - 1e-12 and e.p == pytest.approx(paired("k", "k", y, unit="").p, rel=0.3)


def test_of_two_groups_it_is_welchs_variance() -> None:
    a, b = RNG.normal(0, 1, 12), RNG.normal(1, 3, 20)
    e = contrast("k", "k", [*a, *b], dummies(12, 20), range(32), [1, -1], unit="")
    assert e.value == pytest.approx(a.mean() - b.mean())
    assert (e.sd / np.sqrt(32)) ** 2 == pytest.approx(a.var(ddof=1) / 12 + b.var(ddof=1) / 20)


def test_with_covariates_the_coefficient_is_statsmodels_and_the_variance_hc2() -> None:
    x = np.column_stack([dummies(10, 14), RNG.normal(size=24)])
    y = x @ [1, 2, 3] + RNG.normal(size=24)
    e, ols = contrast("k", "k", y, x, range(24), [1, -1, 0], unit=""), sm.OLS(y, x).fit(cov_type="HC2")
    t = ols.t_test([1, -1, 0])
    assert e.value == pytest.approx(float(t.effect[0])) and e.sd / np.sqrt(24) == pytest.approx(float(t.sd[0, 0]))


def test_poses_of_one_identity_are_one_unit() -> None:
    """Eight poses of six identities a side, all alike within an identity: as if each had one image."""
    own = RNG.normal(size=12)
    many = contrast("k", "k", np.repeat(own, 8), np.repeat(dummies(6, 6), 8, 0), np.repeat(range(12), 8), [1, -1], unit="")
    one = contrast("k", "k", own, dummies(6, 6), range(12), [1, -1], unit="")
    assert (many.value, many.low, many.high, many.n) == pytest.approx((one.value, one.low, one.high, 12))


def test_the_joint_test_of_pairs_is_hotellings_and_of_groups_like_anova() -> None:
    y = RNG.normal(size=(14, 2)) + np.array([0.5, 0])
    f, q, df, p = joint(y.T.ravel(), dummies(14, 14), list(range(14)) * 2, np.eye(2))
    t2 = 14 * y.mean(0) @ np.linalg.solve(np.cov(y.T), y.mean(0))
    assert (q, df) == (2, pytest.approx(12)) and f == pytest.approx(12 / (2 * 13) * t2)
    assert p == pytest.approx(stats.f.sf(f, 2, 12))
    groups = [RNG.normal(m, 1, 15) for m in (0, 0.5, 1)]
    joined = joint(np.concatenate(groups), dummies(15, 15, 15), range(45), [[1, -1, 0], [0, 1, -1]])
    assert np.log(joined[3]) == pytest.approx(np.log(stats.f_oneway(*groups).pvalue), rel=0.25)


def test_seeds_that_all_images_share_widen_the_interval_only_where_they_move_the_difference() -> None:
    a = RNG.normal(size=(24, 1)) + 0.05 * RNG.normal(size=(24, 4))
    shared = a + np.array([0, 5, -5, 2])  # moves both groups alike: not their difference
    apart = a + np.outer(np.repeat([1, 0], 12), [0, 3, -3, 2])
    of = lambda table: contrast("k", "k", pd.DataFrame(table), dummies(12, 12), range(24), [1, -1], unit="")
    alone = of(a)
    assert of(shared).high - of(shared).low == pytest.approx(alone.high - alone.low, rel=0.02)
    assert of(apart).high - of(apart).low > 2 * (alone.high - alone.low)


def test_verdicts() -> None:
    x, y = dummies(20, 20), RNG.normal(0, 1, 40)
    verdict = lambda y, **how: corrected([contrast("k", "k", y, x, range(40), [1, -1], unit="", **how)])[0].verdict
    y[:20] -= y[:20].mean() - y[20:].mean()
    assert verdict(y, margin=1.5) == EQUIVALENT and verdict(y + 3 * x[:, 0]) == EFFECT
    few = contrast("k", "k", y[17:23], x[17:23], range(6), [1, -1], unit="")
    assert few.verdict == TOO_FEW or few.n == 6
    assert contrast("k", "k", y[18:25], x[18:25], range(7), [1, -1], unit="").verdict == TOO_FEW  # two of one group


def test_a_covariate_that_is_the_group_leaves_no_value() -> None:
    x = np.column_stack([dummies(6, 6), np.repeat([1, 2], 6)])
    assert not estimable(x, [1, -1, 0])
    found = contrast("k", "k", range(12), x, range(12), [1, -1, 0], unit="")
    assert np.isnan(found.value) and found.verdict == TOO_FEW
    one_each = contrast("k", "k", [1.0, 3.0], dummies(1, 1), range(2), [1, -1], unit="")
    assert (one_each.value, one_each.verdict) == (-2, TOO_FEW) and np.isnan(one_each.low)
    with pytest.raises(InputError, match="one row each"):
        contrast("k", "k", range(12), x[:3], range(12), [1, -1, 0], unit="")
