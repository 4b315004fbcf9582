"""Intervals, tests, power and dose-response by name: thin calls of scipy.stats and statsmodels, with checked input.

    >>> print(t_interval([1, 2, 3]), proportion(8, 10), sep=", ")
    2 (-0.484 to 4.48), 0.8 (0.49 to 0.943)

The unit is what was sampled independently, most often the image: average seeds over it first. Intervals are two-sided with
confidence 0.95 unless told otherwise. Resampling is repeatable. InputError is raised for empty or non-finite input.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from svdlab.errors import LEVEL, InputError, columns, kind, number, several, shown, takes, text, whole

RESAMPLES = 9999
HUGE = 1e100  # beyond, squares and their sums overflow
PLENTY = partial(whole, least=100, most=10**6)  # resamples


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, of n units, and how that was made. effective: number of clips, where seeds are alike."""

    value: float
    low: float
    high: float
    n: int
    method: str
    effective: float = math.nan

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@takes(confidence=LEVEL)
def t_interval(values: Any, *, confidence: float = 0.95) -> Estimate:
    """The mean with its t interval."""
    x = finite(values, least=2)
    low, high = DescrStatsW(x).tconfint_mean(alpha=1 - confidence)
    return Estimate(float(x.mean()), float(low), float(high), len(x), "t")


@takes(resamples=PLENTY)
def mean_interval(values: Any, *, resamples: int = RESAMPLES) -> Estimate:
    """The mean with a BCa bootstrap interval from 20 units up; below, where that covers too little, with a t interval.

    >>> mean_interval([1, 2, 3]).method
    't'
    """
    x = finite(values, least=2)
    if len(x) < 20:
        return t_interval(x)
    low = high = x.mean()
    if np.ptp(x):  # else there is no spread to resample, and scipy would give NaN
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap((x,), np.mean, n_resamples=resamples, rng=np.random.default_rng(0))
        low, high = found.confidence_interval
        if not np.isfinite([low, high]).all():  # a spread of rounding alone
            return t_interval(x)
    return Estimate(float(x.mean()), float(low), float(high), len(x), "BCa")


def permutation_p(differences: Any) -> float:
    """p of the paired two-sided permutation test of a mean of 0: the signs of the differences are flipped.

    >>> permutation_p([2, 2, 1, 2, 2, 1])
    0.03125

    Exact up to 13 pairs; the smallest p is then 2 / 2 ** n, so that five pairs never reach 0.05. Beyond, 9,999 patterns are
    drawn (Phipson and Smyth 2010). The result is that of scipy.stats.permutation_test for samples, as one product of
    matrices, for the thousands of tests of a validation.
    """
    x = finite(differences, least=2)
    n, drawn = len(x), 2 ** len(x) > RESAMPLES
    if drawn:
        flipped = np.random.default_rng(0).integers(0, 2, (RESAMPLES, n))
    else:
        flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
    null, observed = (1.0 - 2.0 * flipped) @ x / n, x.mean()
    slack = 1e-12 * np.abs(x).max()  # of rounding: patterns that tie with the observed one count as extreme
    tails = min((null >= observed - slack).sum(), (null <= observed + slack).sum())
    return float(min(1.0, 2 * (tails + drawn) / (len(flipped) + drawn)))  # the observed pattern is one more of a sample


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


def paired_shares(differences: Any) -> Estimate:
    """The mean of paired differences between shares, each in [-1, 1], with the interval of Bonett and Price (2012).

    >>> print(paired_shares([0] * 12))
    0 (-0.198 to 0.198)

    Two pairs are added to those seen, one for either side, so that pairs which all agree are not taken for certainty, as a t
    interval of their spread would. Best practices for constructing confidence intervals ..., J. Educ. Behav. Stat. 37(4).
    """
    x = finite(differences, least=2, within=(-1.0, 1.0))
    more = np.append(x, [1.0, -1.0])
    reach = stats.norm.ppf(0.975) * more.std() / math.sqrt(len(more))
    low, high = (float(np.clip(more.mean() + side * reach, -1, 1)) for side in (-1, 1))
    return Estimate(float(x.mean()), low, high, len(x), "Bonett-Price")


@takes(count=partial(number, least=0), n=partial(number, above=0), confidence=LEVEL)
def proportion(count: float, n: float, *, confidence: float = 0.95) -> Estimate:
    """A proportion with Wilson's interval."""
    if count > n:
        raise InputError(f"got {count:g} of {n:g}: a count lies between 0 and n.")
    low, high = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
    return Estimate(count / n, float(low), float(high), int(n), "Wilson")


@takes(clips=partial(whole, least=1))
def clustered_proportion(rates: Any, clips: int) -> Estimate:
    """The mean of each image's own rate, with Wilson's interval at the effective number of clips.

    >>> clustered_proportion([0.0, 1.0, 0.0, 1.0], 8).effective      # an image's two seeds always agree
    4.0

    The effective number lies between that of images and that of clips, by how much clips of one image are alike (Korn and
    Graubard 1998). With a rate of 0 or 1 nothing is known of that, and it is the number of images.
    """
    x = finite(rates, within=(0.0, 1.0))
    rate, images = float(x.mean()), len(x)
    n = float(images)
    if rate not in (0.0, 1.0):
        spread = float(x.var(ddof=1)) if images > 1 else 0.0
        n = float(np.clip(rate * (1 - rate) / (spread / images), images, clips)) if spread else float(clips)
    return replace(proportion(rate * n, n), value=rate, n=images, effective=n)


def fdr(p_values: Any) -> np.ndarray:
    """Benjamini-Hochberg q values for a family of p values, in their order; NaN (a test not made) stays out.

    >>> fdr([0.01, 0.02, 0.5])
    array([0.03, 0.03, 0.5 ])
    """
    q = finite(p_values, least=0, within=(0.0, 1.0), gaps=True)
    made = np.isfinite(q)
    if made.any():
        q[made] = stats.false_discovery_control(q[made], method="bh")
    return q


@takes(pairs=partial(whole, least=2, most=10**9), alpha=LEVEL)
def detectable(pairs: int, *, alpha: float = 0.05) -> float:
    """The smallest standardised effect (mean over standard deviation) that a paired t test detects with a power of 80 %.

    >>> round(detectable(34), 2)
    0.5

    By the noncentral t distribution. statsmodels' solver is not used: with 6 pairs and alpha = 0.05 / 55 it gave an effect
    of power 0.50, and with 120 pairs an array (0.15).
    """
    return float(special.nctdtrinc(pairs - 1, 0.2, stats.t.isf(alpha / 2, pairs - 1)) / math.sqrt(pairs))


@dataclass(frozen=True)
class DoseResponse:
    """What `dose_response` found: curve, rank correlation, saturation, and these in words.

    curve: a row per level: the condition, `mean`, `low`, `high`, `n` (units), `method` of the interval. spearman: mean over
    units of each unit's own rank correlation with the condition. saturation: the level from which the curve stays within 10 %
    of its range of its last value, with the interval of resamples; NaN where it does not level off before its last two
    levels, or half of the resamples do not.
    """

    curve: pd.DataFrame
    spearman: Estimate
    saturation: Estimate
    sentence: str


@takes(table=kind(pd.DataFrame), condition=text, measure=text)
def dose_response(table: pd.DataFrame, condition: str, measure: str) -> DoseResponse:
    """The response curve of a measure over one condition, from a tidy table of runs with columns `image` and `seed`.

    dose_response(results, "fps", "object_px").curve

    Plans cross conditions with images and seeds, so images (of one image: seeds) are resampled, all levels of one together.
    Rows of the same unit and level are averaged first, over everything else in the table. Units that lack a level, and rows
    whose measure is NaN (the instrument abstained), are left out; the sentence counts the units that remain. Raises InputError
    for a column that is not there, a condition that is not numeric, fewer than 2 levels or 2 whole units.
    """
    unit = "image" if "image" in table and table["image"].nunique() > 1 else "seed"
    keyed(table, unit, condition, measure)
    if not pd.api.types.is_numeric_dtype(table[condition]) or pd.api.types.is_bool_dtype(table[condition]):
        raise InputError(f"{condition!r} is no number: a dose has an order. Compare groups with `svdlab.stats.difference`.")
    grid = numbers(table[measure]).groupby([table[unit], finite(table[condition], gaps=True)]).mean().unstack().dropna()
    if min(grid.shape) < 2:
        raise InputError(f"got {grid.shape[0]} {unit}(s) with all {grid.shape[1]} level(s) of {condition}: two each at least.")
    levels, values = grid.columns.to_numpy(np.float64), grid.to_numpy(np.float64)  # values: "unit level"
    curve = pd.DataFrame([vars(mean_interval(column, resamples=2000)) for column in values.T]).drop(columns="effective")
    curve.insert(0, condition, levels)
    own = [stats.spearmanr(levels, v).statistic if np.ptp(v) else 0.0 for v in values]
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    settled = np.array([saturation(levels, c) for c in values[draws].mean(1)])
    low, high = np.nanquantile(settled, (0.025, 0.975)) if np.isfinite(settled).mean() >= 0.5 else (math.nan, math.nan)
    level = Estimate(saturation(levels, values.mean(0)), float(low), float(high), len(values), "percentile")
    rho = mean_interval(own, resamples=2000)
    steady = not rho.low <= 0 <= rho.high
    turn = ("rises" if rho.value > 0 else "falls") if steady else "shows no trend"
    ends = [f"{e.value:.3g} ({e.low:.3g} to {e.high:.3g}) at {e[condition]:g}" for _, e in curve.iloc[[0, -1]].iterrows()]
    off = f"; it levels off from {level}" if steady and np.isfinite([level.value, level.low]).all() else ""
    sentence = (
        f"{measure} {turn} with {condition}: {', '.join(ends)}; rank correlation {rho} over {rho.n} {unit}s, 95 % CIs{off}."
    )
    return DoseResponse(curve.rename(columns={"value": "mean"}), rho, level, sentence)


def saturation(levels: np.ndarray, means: np.ndarray) -> float:
    """The first level from which on the means stay within 10 % of their range of the last one; NaN if only the last two do.

    >>> saturation(np.array([1, 2, 3, 4, 5]), np.array([0, 5, 10, 10, 10]))
    3.0
    """
    far = np.flatnonzero(np.abs(means - means[-1]) > 0.1 * np.ptp(means))
    return float(levels[far[-1] + 1]) if len(far) and far[-1] <= len(levels) - 4 else math.nan


@takes(table=kind(pd.DataFrame), measure=text, factors=partial(several, check=text, distinct=True))
def variance_shares(table: pd.DataFrame, measure: str, factors: Sequence[str]) -> pd.DataFrame:
    """How much of a measure's variance goes with each factor and each pair of factors: balanced ANOVA components.

    variance_shares(results, "object_px", ["motion_bucket_id", "image", "seed"])

    A row per source ("a", "a x b", ..., "rest"): `variance` (units squared), `share` (0 to 1), and the interval `low`, `high`
    of the share from resampling whole images (three at least). Expected mean squares of the crossed random model (Searle,
    Casella and McCulloch 1992, chapter 4), negative estimates set to 0. "rest" is the interaction of all factors; where cells
    hold several rows, they are averaged first. Raises InputError for fewer than 2 levels of a factor, a column that is not
    there, or cells that are missing from the cross.
    """
    keyed(table, *factors, measure)
    factors = list(factors)
    if len(factors) not in (2, 3) or measure in factors:
        raise InputError(f"got {len(factors)} factors ({', '.join(factors)}): two or three, the measure not among them.")
    cells = numbers(table[measure]).groupby([table[f] for f in factors], sort=True).mean().unstack(factors[1:])
    array = cells.to_numpy(np.float64).reshape([table[f].nunique() for f in factors] if cells.size else (0,))
    gaps = int((~np.isfinite(array)).sum())
    if min(array.shape) < 2 or gaps:
        raise InputError(f"{gaps} of {array.size} cells are missing: give a whole cross, two levels at least of each factor.")
    found = pd.Series(components(array, factors), name="variance")
    result = pd.DataFrame({"variance": found, "share": found / found.sum(), "low": math.nan, "high": math.nan})
    if "image" in factors and (images := array.shape[axis := factors.index("image")]) > 2:
        draws = np.random.default_rng(0).integers(0, images, (500, images))
        again = pd.DataFrame([components(np.take(array, drawn, axis), factors) for drawn in draws])
        result["low"], result["high"] = again.div(again.sum(axis=1), axis=0).quantile([0.025, 0.975]).to_numpy()
    return result.rename_axis("source").reset_index()


def components(array: np.ndarray, factors: list[str]) -> dict[str, float]:
    """Variance components of a whole cross, one value per cell; the interaction of all factors is "rest".

    >>> components(np.array([[1.0, 2.0], [3.0, 4.5]]), ["a", "b"])
    {'a': 2.5, 'b': 0.75, 'rest': 0.0625}

    A mean square expects the components of all sets of factors that hold its own, each times the levels outside that set;
    inclusion and exclusion over these sets gives the component back.
    """
    axes = range(array.ndim)
    subsets = [s for size in range(1, array.ndim + 1) for s in combinations(axes, size)]
    squares, result = {}, {}
    for s in subsets:
        effect = array
        for i in axes:
            mean = effect.mean(axis=i, keepdims=True)
            effect = np.broadcast_to(mean, array.shape) if i not in s else effect - mean
        squares[s] = float(np.square(effect).sum()) / math.prod(array.shape[i] - 1 for i in s)
    for s in subsets:
        signed = sum((-1) ** (len(t) - len(s)) * squares[t] for t in subsets if set(s) <= set(t))
        name = " x ".join(factors[i] for i in s) if len(s) < array.ndim else "rest"
        result[name] = max(0.0, signed / math.prod(array.shape[i] for i in axes if i not in s))
    return result


def finite(values: Any, *, least: int = 1, within: tuple[float, float] = (-HUGE, HUGE), gaps: bool = False) -> np.ndarray:
    """The values as a new list of finite floats in a range, with gaps=True also of NaN; InputError for anything else."""
    try:
        given = np.asarray(values)
        x = np.array(given if given.dtype.kind in "biufO" else None, np.float64)
    except (TypeError, ValueError, OverflowError):
        x = np.array(math.nan)
    if x.ndim != 1 or len(x) < least:
        raise InputError(f"got {shown(values)}: a list of at least {least} number(s) is needed.")
    bad = ~((np.isfinite(x) & (x >= within[0]) & (x <= within[1])) | (np.isnan(x) & gaps))
    if bad.any():
        raise InputError(f"got {x[bad][0]:g} at {bad.argmax()}: give finite numbers from {within[0]:g} to {within[1]:g}.")
    return x


def numbers(column: pd.Series) -> pd.Series:
    """A column of numbers, truth values or None as floats; NaN for None. InputError for a column of anything else."""
    if column.dtype == float:
        return column
    try:
        if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_complex_dtype(column):
            raise TypeError(column.dtype)
        return pd.to_numeric(column.astype(object).where(column.notna(), np.nan)).astype(float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the column {column.name!r} holds no numbers ({shown(column.dropna().iloc[0])}).") from error


def keyed(table: pd.DataFrame, *names: str, least: int = 1) -> None:
    """InputError where a table lacks a column, or one of them holds what cannot be counted, such as lists."""
    columns("table", table, *names, least=least)
    for name in names:
        try:
            table[name].nunique()
        except TypeError as error:
            raise InputError(f"the column {name!r} holds {shown(table[name].iloc[0])}: give texts or numbers.") from error
