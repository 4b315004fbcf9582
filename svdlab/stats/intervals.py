"""Intervals, tests and power by name, with checked input; images and seeds as crossed random factors.

    >>> print(t_interval([1, 2, 3]), proportion(8, 10), sep=", ")
    2 (-0.484 to 4.48), 0.8 (0.49 to 0.943)

The unit is what was sampled independently, most often the image. A list has a value per unit; a DataFrame a row per unit and
a column per seed, which is needed where units share seeds (`svdlab.stats.crossed`). Intervals are two-sided with confidence
0.95 unless given otherwise, and nothing is resampled. InputError is raised for empty or non-finite input.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from svdlab.errors import LEVEL, InputError, number, takes, whole
from svdlab.stats.crossed import Sample, finite, sample

COUNTED = 13  # pairs up to which every sign pattern is counted
GRID = 2**15  # steps into which the sum of more pairs is rounded


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


@takes(confidence=LEVEL)
def mean_interval(values: Any, *, confidence: float = 0.95) -> Estimate:
    """The mean of a list with its t interval; of a DataFrame "unit seed" with that of units and seeds as crossed factors.

    >>> mean_interval([1, 2, 3]).method
    't'
    >>> mean_interval(pd.DataFrame([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]])).method
    't, seeds crossed'

    See `Sample`. The BCa bootstrap is not used: of 24 normal values it covered 0.92 (t 0.94), of lognormal ones 0.87 (t 0.86;
    800 samples each). Of strongly skewed values both are too short; the tests allow for that, by `crossed.hall`.
    """
    x = sample(values)
    reach = x.reach(1 - confidence)
    return Estimate(x.value, x.value - reach, x.value + reach, len(x.means), "t, seeds crossed" if x.seeds else "t")


def permutation_p(differences: Any) -> float:
    """p of the paired two-sided permutation test of a mean of 0: the signs of the differences are flipped.

    >>> permutation_p([2, 2, 1, 2, 2, 1])
    0.03125

    Nothing is drawn at random, so that p can be as small as 2 / 2 ** n however many tests a study has (five pairs never
    reach 0.05). Up to 13 pairs every pattern is counted, as scipy.stats.permutation_test does; of more, differences are
    rounded to steps of 1 / 32768 of the sum of all, what rounding leaves open counts as extreme, and the distribution is
    built up pair by pair (Streitberg and Roehmel 1986). It is exact where the differences are symmetrical under the null;
    for skewed ones see `hall`.
    """
    x = finite(differences, least=2)
    n, size = len(x), np.abs(x)
    if n <= COUNTED:
        null, observed = (1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)) @ x, x.sum()
        slack = 1e-12 * n * size.max()  # patterns that tie with the observed one count as extreme
        tails = min(float((null >= observed - slack).mean()), float((null <= observed + slack).mean()))
        return min(1.0, 2 * tails)
    steps = np.rint(size / (size.sum() or 1.0) * GRID).astype(int)
    chance = np.zeros(steps.sum() + 1)  # of each sum of the positive differences
    chance[0] = 1.0
    for step in steps:
        chance = (chance + np.concatenate([np.zeros(step), chance[: len(chance) - step]])) / 2
    above, slack = int(steps[x > 0].sum()), n // 2
    return min(1.0, 2 * float(min(chance[max(0, above - slack) :].sum(), chance[: above + slack + 1].sum())))


def p_of(found: Estimate, values: Any, null: float, *, limit: bool = False) -> float:
    """The two-sided p whose test the interval inverts: of shares z's (Wilson, Bonett-Price) or exact, of means `Sample.p`.

    limit: the null is a limit of equivalence.

    >>> round(p_of(t_interval([1, 2, 3]), [1, 2, 3], 0.0), 3)
    0.074
    """
    if found.method == "agreed":
        return max(0.0, 1 - abs(found.value - null)) ** found.n
    if found.method == "Clopper-Pearson":  # all units agree
        return min(1.0, 2 * (1 - abs(found.value - null)) ** found.effective)
    if found.method == "Wilson":
        error = math.sqrt(null * (1 - null) / found.effective)
        return 2 * float(stats.norm.sf(abs(found.value - null) / error)) if error else math.nan
    x = sample(values)
    if found.method == "Bonett-Price":
        more = np.append(x.means, [1.0, -1.0])
        return x.level(more.mean() - null, more.var() / len(more), math.inf)
    return x.p(null, limit=limit)


def p_equivalent(found: Estimate, values: Any, low: float, high: float) -> float:
    """The alpha at which the interval of confidence 1 - alpha just lies between two numbers: twice the p of two one-sided
    tests (TOST), by the test of `p_of`. At half of that, skewed means at a limit were called equivalent in 10 % of samples.

    >>> round(p_equivalent(t_interval([0.9, 1.0, 1.1]), [0.9, 1.0, 1.1], 0.5, 1.5), 3)
    0.013
    """
    side = partial(p_of, found, values, limit=True)
    sides = ((side(low), found.value > low), (side(high), found.value < high))
    return max(p if inside else 1.0 for p, inside in sides)


def paired_shares(differences: Any) -> Estimate:
    """The mean of paired differences between shares, each in [-1, 1], with the interval of Bonett and Price (2012).

    >>> print(paired_shares([0] * 12))
    0 (-0.198 to 0.198)

    Two pairs are added to those seen, one for either side, so that pairs which all agree are not taken for certainty, as a t
    interval of their spread would. Best practices for constructing confidence intervals ..., J. Educ. Behav. Stat. 37(4).
    Of a DataFrame "unit seed" the seeds' part is added, as in `Sample`.
    """
    x = sample(differences)
    finite(x.means, within=(-1.0, 1.0))
    more = np.append(x.means, [1.0, -1.0])
    reach = x.reach(0.05, more.var() / len(more), math.inf)
    low, high = (float(np.clip(more.mean() + side * reach, -1, 1)) for side in (-1, 1))
    return Estimate(x.value, low, high, len(x.means), "Bonett-Price")


def agreed(value: float, n: int, alpha: float = 0.05) -> Estimate:
    """A difference of shares on which all of n units agree; no certainty, as a t interval of their spread would say.

    >>> print(agreed(0.0, 12))
    0 (-0.221 to 0.221)

    The chance that n units show none, although a share r of all units differs, is (1 - r)^n at most: alpha at the ends.
    """
    reach = 1 - alpha ** (1 / n)
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), n, "agreed")


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
    Graubard 1998); of a DataFrame "image seed" it is divided by how much longer shared seeds make the interval (`Sample`).
    With a rate of 0 or 1 nothing is known of that: clips of one image count as one, a design effect of clips / images, and
    the interval is the exact one of Clopper and Pearson. See `images_needed`.
    """
    found = sample(rates, least=1)
    x = finite(found.means, within=(0.0, 1.0))
    rate, images = float(x.mean()), len(x)
    if rate in (0.0, 1.0):
        low, high = proportion_confint(int(rate * images), images, method="beta")
        return Estimate(rate, float(low), float(high), images, "Clopper-Pearson", float(images))
    spread = float(x.var(ddof=1)) if images > 1 else 0.0
    n = float(np.clip(rate * (1 - rate) / (spread / images), images, clips)) if spread else float(clips)
    if found.seeds:
        own = rate * (1 - rate) / n
        n /= max(1.0, found.reach(0.05, own) / Sample(x).reach(0.05, own)) ** 2
    return replace(proportion(rate * n, n), value=rate, n=images, effective=n)


@takes(threshold=partial(number, above=0, below=1), tests=partial(whole, least=1, most=10**6), alpha=LEVEL)
def images_needed(threshold: float, *, tests: int = 1, alpha: float = 0.05) -> int:
    """How many images a design needs so that a share of 0 counts as below a threshold: more clips of an image do not help.

    >>> images_needed(0.15), images_needed(0.15, tests=6), images_needed(0.05)
    (23, 34, 72)

    The exact interval for none of n ends at 1 - (alpha / 2) ** (1 / n). tests: of the report; each then has alpha / tests,
    the most that the correction can ask for.
    """
    return math.ceil(math.log(alpha / tests / 2) / math.log1p(-threshold))


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

    The tests of svdlab allow for skewed values too: of normal ones their power there is 0.6 with 8 pairs, 0.7 with 12 and
    0.77 with 24. By the noncentral t distribution. statsmodels' solver is not used: with 6 pairs and alpha = 0.05 / 55 it
    gave an effect of power 0.50, and with 120 pairs an array (0.15).
    """
    return float(special.nctdtrinc(pairs - 1, 0.2, stats.t.isf(alpha / 2, pairs - 1)) / math.sqrt(pairs))
