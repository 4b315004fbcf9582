"""Intervals, tests and power by name: thin calls of scipy.stats and statsmodels, with checked input.

    >>> print(t_interval([1, 2, 3]), proportion(8, 10), sep=", ")
    2 (-0.484 to 4.48), 0.8 (0.49 to 0.943)

The unit is what was sampled independently, most often the image: average seeds over it first. Intervals are two-sided with
confidence 0.95 unless told otherwise. `seed` makes resampling repeatable. InputError is raised for empty or non-finite input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.proportion import binom_tost, proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from svdlab.errors import InputError

FEW = 20  # units: below that a BCa bootstrap interval covers too little, and a t interval is given


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, the number of units, and how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    method: str
    effective: float = math.nan

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Equivalence(Estimate):
    """Two one-sided tests: the interval of confidence 1 - 2 alpha, p, and whether p is below alpha."""

    p: float = math.nan
    equivalent: bool = False


# --- means ------------------------------------------------------------------------------------------------------------


def t_interval(values: Any, *, confidence: float = 0.95) -> Estimate:
    """The mean with its t interval."""
    x = finite(values, "values", least=2)
    low, high = DescrStatsW(x).tconfint_mean(alpha=1 - confidence)
    return Estimate(float(x.mean()), float(low), float(high), len(x), "t")


def bootstrap(
    values: Any, statistic: Callable[..., Any] = np.mean, *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Estimate:
    """Any statistic of one sample with its BCa bootstrap interval (scipy.stats.bootstrap).

    >>> print(bootstrap(np.arange(40.0), np.median, seed=1))
    19.5 (13.5 to 25.5)

    BCa covers too little below 20 units: prefer `t_interval` for a mean of fewer.
    """
    x = finite(values, "values", least=2)
    value = float(statistic(x))
    if np.ptp(x) == 0:  # no spread to resample; scipy would give NaN
        return Estimate(value, value, value, len(x), "BCa")
    how: dict[str, Any] = dict(confidence_level=confidence, n_resamples=resamples, rng=np.random.default_rng(seed))
    limits = stats.bootstrap((x,), statistic, method="BCa", **how).confidence_interval
    return Estimate(value, float(limits.low), float(limits.high), len(x), "BCa")


def mean_interval(values: Any, *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0) -> Estimate:
    """The mean with a BCa bootstrap interval from 20 units up, and a t interval below.

    >>> mean_interval([1, 2, 3]).method
    't'
    """
    x = finite(values, "values", least=2)
    if len(x) < FEW:
        return t_interval(x, confidence=confidence)
    return bootstrap(x, confidence=confidence, resamples=resamples, seed=seed)


def permutation_p(differences: Any, *, resamples: int = 9999, seed: int = 0) -> float:
    """p of the paired two-sided permutation test of a mean of 0: the signs of the differences are flipped.

    >>> permutation_p([2, 2, 1, 2, 2, 1])
    0.03125

    Exact where 2 ** n is at most `resamples`; the smallest p is then 2 / 2 ** n, so that five pairs never reach 0.05. Else
    by resampling (Phipson and Smyth 2010). The result is that of scipy.stats.permutation_test for samples, as one product
    of matrices, for the thousands of tests of a validation.
    """
    x = finite(differences, "differences", least=2)
    signs, extra = _signs(len(x), resamples, seed)
    null, observed = signs @ x / len(x), x.mean()
    slack = 1e-12 * np.abs(x).max()  # of rounding: patterns that tie with the observed one count as extreme
    tails = min((null >= observed - slack).sum(), (null <= observed + slack).sum())
    return float(min(1.0, 2 * (tails + extra) / (len(signs) + extra)))


def permutation_interval(differences: Any, *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0) -> Estimate:
    """The mean with the shifts that `permutation_p` does not reject, by bisection; infinite where it can reject nothing.

    >>> permutation_interval([2, 2, 1, 2, 2, 1]).low > 0
    True
    """
    x = finite(differences, "differences", least=2)
    mean, reach = float(x.mean()), float(np.ptp(x)) or 1.0
    if smallest_p(len(x)) > 1 - confidence:
        return Estimate(mean, -math.inf, math.inf, len(x), "permutation")
    ends = []
    for sign in (-1.0, 1.0):
        inside, outside = mean, mean + sign * reach
        for _ in range(30):
            middle = (inside + outside) / 2
            kept = permutation_p(x - middle, resamples=resamples, seed=seed) > 1 - confidence
            inside, outside = (middle, outside) if kept else (inside, middle)
        ends.append(inside)
    return Estimate(mean, ends[0], ends[1], len(x), "permutation")


@lru_cache(maxsize=2)
def _signs(n: int, resamples: int, seed: int) -> tuple[np.ndarray, int]:
    """Patterns of signs, "pattern pair", and how many to count besides: the observed one, where they are a sample."""
    if 2**n <= resamples:
        return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1), 0
    return 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, (resamples, n)), 1


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p that a paired permutation test of so many pairs can give: 2 / 2 ** pairs.

    >>> smallest_p(5)
    0.0625
    """
    return 2.0 / 2.0**pairs


def decidable(pairs: int, *, tests: int = 1, alpha: float = 0.05) -> bool:
    """Whether so many pairs can give a p below alpha over the number of tests in the family.

    >>> decidable(6), decidable(6, tests=2), decidable(12, tests=60)
    (True, False, True)
    """
    return smallest_p(pairs) <= alpha / tests


def equivalent_mean(values: Any, low: float, high: float, *, alpha: float = 0.05) -> Equivalence:
    """TOST that a mean lies between low and high: statsmodels' DescrStatsW.ttost_mean.

    >>> equivalent_mean([0.01, -0.02, 0.03, 0.0], -0.2, 0.2).equivalent
    True
    """
    x = finite(values, "values", least=2)
    _ordered(low, high)
    describe = DescrStatsW(x)
    p, inner = float(describe.ttost_mean(low, high)[0]), describe.tconfint_mean(alpha=2 * alpha)
    return Equivalence(float(x.mean()), float(inner[0]), float(inner[1]), len(x), "TOST", p=p, equivalent=p < alpha)


def p_of(found: Estimate, values: np.ndarray, null: float) -> float:
    """The two-sided p whose test the interval inverts: z for shares (Wilson, Bonett-Price), t for means; of BCa about t's.

    >>> round(p_of(t_interval([1, 2, 3]), np.array([1, 2, 3]), 0.0), 3)
    0.074
    """
    if found.method == "Wilson":
        error = math.sqrt(null * (1 - null) / found.effective)
        return 2 * float(stats.norm.sf(abs(found.value - null) / error)) if error else math.nan
    if found.method == "Bonett-Price":
        more = np.append(values, [1.0, -1.0])
        return 2 * float(stats.norm.sf(abs(more.mean() - null) * math.sqrt(len(more)) / more.std()))
    return float(stats.ttest_1samp(values, null).pvalue) if np.ptp(values) else float(found.value == null)


# --- shares -----------------------------------------------------------------------------------------------------------


def paired_shares(differences: Any, *, confidence: float = 0.95) -> Estimate:
    """The mean of paired differences between shares, each in [-1, 1], with the interval of Bonett and Price (2012).

    >>> print(paired_shares([0] * 12))
    0 (-0.198 to 0.198)

    Two pairs are added to those seen, one for either side, so that pairs which all agree are not taken for certainty, as a t
    interval of their spread would. Best practices for constructing confidence intervals ..., J. Educ. Behav. Stat. 37(4).
    """
    x = finite(differences, "differences", least=2)
    if np.abs(x).max() > 1:
        raise InputError(f"a difference of shares is {x[np.abs(x).argmax()]:g}: it must lie between -1 and 1.")
    more = np.append(x, [1.0, -1.0])
    reach = stats.norm.ppf(0.5 + confidence / 2) * more.std() / math.sqrt(len(more))
    low, high = (float(np.clip(more.mean() + side * reach, -1, 1)) for side in (-1, 1))
    return Estimate(float(x.mean()), low, high, len(x), "Bonett-Price")


def proportion(count: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """A proportion with Wilson's interval."""
    _counts(count, n)
    low, high = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
    return Estimate(count / n, float(low), float(high), n, "Wilson")


def proportion_bound(count: int, n: int, *, confidence: float = 0.95) -> float:
    """The lower bound of a proportion that holds with that confidence (Clopper and Pearson, one-sided).

    >>> round(proportion_bound(30, 500), 3)
    0.044
    """
    _counts(count, n)
    return float(proportion_confint(count, n, alpha=2 * (1 - confidence), method="beta")[0])


def clustered_proportion(rates: Any, clips: int, *, confidence: float = 0.95) -> Estimate:
    """The mean of each image's own rate, with Wilson's interval at the effective number of clips.

    >>> clustered_proportion([0.0, 1.0, 0.0, 1.0], 8).effective      # an image's two seeds always agree
    4.0

    The effective number lies between that of images and that of clips, by how much clips of one image are alike (Korn and
    Graubard 1998). With a rate of 0 or 1 nothing is known of that, and it is the number of images.
    """
    x = finite(rates, "rates")
    rate, images = float(x.mean()), len(x)
    spread = float(x.var(ddof=1)) if images > 1 else 0.0
    n = float(images if rate in (0.0, 1.0) else clips)
    if spread and rate not in (0.0, 1.0):
        n = float(np.clip(rate * (1 - rate) / (spread / images), images, clips))
    low, high = proportion_confint(rate * n, n, alpha=1 - confidence, method="wilson")
    return Estimate(rate, float(low), float(high), images, "Wilson", n)


def equivalent_proportion(count: int, n: int, low: float, high: float, *, alpha: float = 0.05) -> Equivalence:
    """TOST that a proportion lies between low and high, by two exact binomial tests (statsmodels' binom_tost).

    >>> equivalent_proportion(50, 100, 0.35, 0.65).equivalent
    True
    """
    _counts(count, n)
    _ordered(low, high)
    p = float(binom_tost(count, n, low, high)[0])
    inner = proportion(count, n, confidence=1 - 2 * alpha)
    return Equivalence(count / n, inner.low, inner.high, n, "TOST", p=p, equivalent=p < alpha)


# --- many tests, power, spread ----------------------------------------------------------------------------------------


def fdr(p_values: Any) -> np.ndarray:
    """Benjamini-Hochberg q values for a family of p values, in their order; NaN (a test not made) stays out.

    >>> fdr([0.01, 0.02, 0.5])
    array([0.03, 0.03, 0.5 ])
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise InputError(f"got p values of shape {p.shape} in [{np.nanmin(p):.3g}, {np.nanmax(p):.3g}]: a list in [0, 1].")
    made = np.isfinite(p)
    q = np.full(p.shape, math.nan)
    if made.any():
        q[made] = stats.false_discovery_control(p[made], method="bh")
    return q


def power(effect: float, n: int, *, alpha: float = 0.05) -> float:
    """Power of a two-sided paired t test for a standardised effect (mean difference over its standard deviation).

    >>> round(power(0.5, 34), 2)
    0.81

    By the noncentral t distribution. statsmodels' solver is not used: with 6 pairs and alpha = 0.05 / 55 it gave an effect
    of power 0.50 where 0.80 was asked, and with 120 pairs an array (0.15).
    """
    if n < 2:
        raise InputError(f"got n={n}: two pairs at least.")
    critical, shift = stats.t.isf(alpha / 2, n - 1), abs(effect) * math.sqrt(n)
    found_reversed = stats.nct.cdf(-critical, n - 1, shift)  # scipy says NaN where it is too small to compute
    return float(stats.nct.sf(critical, n - 1, shift) + np.nan_to_num(found_reversed))


_power = power  # `power` is also the name of an argument below


def detectable(n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest standardised effect that n pairs detect with that power.

    >>> round(detectable(34), 2)
    0.5
    """
    if n < 2 or not alpha < power < 1:
        raise InputError(f"got n={n}, alpha={alpha}, power={power}: two pairs at least, and a power between alpha and 1.")
    high = 1.0
    while _power(high, n, alpha=alpha) < power:
        high *= 2
    return float(brentq(lambda effect: _power(effect, n, alpha=alpha) - power, 0.0, high))


class Variation(NamedTuple):
    """Standard deviations: between units, and within a unit from repeat to repeat (NaN where nothing was repeated)."""

    between: float
    within: float


def variation(values: Any, units: Any) -> Variation:
    """How much units vary, and repeats of one unit: one-way random effects (Searle, Casella and McCulloch 1992, 3.6).

    >>> variation([1, 3, 5, 7], ["a", "a", "b", "b"])
    Variation(between=2.6457513110645907, within=1.4142135623730951)

    Repeats need not be equally many. Without repeats, `between` is the standard deviation of what there is.
    """
    x, names = finite(values, "values", least=2), np.asarray(units)
    if names.shape != x.shape:
        raise InputError(f"got {len(x)} values and units of shape {names.shape}: a unit for each value.")
    _, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    means = np.bincount(index, x) / counts
    n, k = len(x), len(counts)
    if k < 2:
        return Variation(math.nan, float(x.std(ddof=1)))
    if n == k:
        return Variation(float(x.std(ddof=1)), math.nan)
    within = float(np.square(x - means[index]).sum() / (n - k))
    among = float((counts * np.square(means - x.mean())).sum() / (k - 1))
    repeats = (n - np.square(counts).sum() / n) / (k - 1)
    return Variation(math.sqrt(max(0.0, (among - within) / repeats)), math.sqrt(within))


def finite(values: Any, name: str, *, least: int = 1) -> np.ndarray:
    """The values as a list of finite floats; InputError for anything else."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < least:
        raise InputError(f"got {name} of shape {array.shape}: a list of at least {least} number(s) is needed.")
    if not np.isfinite(array).all():
        bad = [int(i) for i in np.flatnonzero(~np.isfinite(array))[:8]]
        raise InputError(f"got NaN or infinity in {name} at {bad}: drop these units, and report that you did.")
    return array


def _counts(count: int, n: int) -> None:
    if not 0 <= count <= n or n < 1:
        raise InputError(f"got {count} of {n}: a count lies between 0 and n, and n is at least 1.")


def _ordered(low: float, high: float) -> None:
    if not low < high:
        raise InputError(f"got a margin from {low} to {high}: the lower end comes first.")
