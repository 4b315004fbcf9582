"""Responses to conditions: dose-response curves, and how much of a measure's variance goes with which factor.

print(svdlab.stats.dose_response(results, "motion_bucket_id", "object_px").sentence)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from svdlab.errors import InputError, kind, several, takes, text
from svdlab.stats.crossed import finite, keyed, numbers, sample
from svdlab.stats.intervals import Estimate, mean_interval, permutation_p

LEAST_UNITS = 6  # below, no sign test can reach 0.05


@dataclass(frozen=True)
class DoseResponse:
    """What `dose_response` found: curve, rank correlation, saturation, and these in words.

    curve: a row per level: the condition, `mean`, `low`, `high`, `n` (units), `method` of the interval. spearman: mean over
    units of each unit's own rank correlation with the condition. saturation: the level from which the curve stays within 10 %
    of its range of its last value, with the interval of resamples; NaN where it does not level off before its last two
    levels, or half of the resamples do not. p: two-sided, of no trend (rank correlations of mean 0); NaN below six units.
    """

    curve: pd.DataFrame
    spearman: Estimate
    saturation: Estimate
    sentence: str
    p: float = math.nan


@takes(table=kind(pd.DataFrame), condition=text, measure=text)
def dose_response(table: pd.DataFrame, condition: str, measure: str) -> DoseResponse:
    """The response curve of a measure over one condition, from a tidy table of runs with columns `image` and `seed`.

    dose_response(results, "fps", "object_px").curve

    The unit is the image (of one image: the seed), all levels of one together; intervals and trend treat seeds that images
    share as a factor of their own (`svdlab.stats.crossed`). Rows of the same unit and level are averaged, over everything else
    in the table. Units that lack a level, and rows whose measure is NaN (the instrument abstained), are left out; the sentence
    counts the units that remain. Raises InputError for a column that is not there, a condition that is not numeric, fewer than
    2 levels or 2 whole units.
    """
    unit = "image" if "image" in table and table["image"].nunique() > 1 else "seed"
    keyed(table, unit, condition, measure)
    if not pd.api.types.is_numeric_dtype(table[condition]) or pd.api.types.is_bool_dtype(table[condition]):
        raise InputError(f"{condition!r} is no number: a dose has an order. Compare groups with `svdlab.stats.difference`.")
    grid = numbers(table[measure]).groupby([table[unit], finite(table[condition], gaps=True)]).mean().unstack().dropna()
    if min(grid.shape) < 2:
        raise InputError(f"got {grid.shape[0]} {unit}(s) with all {grid.shape[1]} level(s) of {condition}: two each at least.")
    levels, values = grid.columns.to_numpy(np.float64), grid.to_numpy(np.float64)  # values: "unit level"
    whole = table[table[unit].isin(grid.index) & np.isfinite(numbers(table[measure]))]
    shared = ["seed"] if unit == "image" and "seed" in table else []
    seeds = numbers(whole[measure]).groupby([whole[c] for c in (unit, condition, *shared)]).mean()
    by_level = [(part.unstack() if shared else part) for _, part in seeds.groupby(level=1)]
    intervals = [mean_interval(part.to_numpy() if not shared else part) for part in by_level]
    curve = pd.DataFrame([vars(found) for found in intervals]).drop(columns="effective")
    curve.insert(0, condition, levels)
    rank = lambda v: float(stats.spearmanr(levels, v).statistic) if np.ptp(v) else 0.0
    own = [rank(v) for v in values]
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    settled = np.array([saturation(levels, c) for c in values[draws].mean(1)])
    low, high = np.nanquantile(settled, (0.025, 0.975)) if np.isfinite(settled).mean() >= 0.5 else (math.nan, math.nan)
    level = Estimate(saturation(levels, values.mean(0)), float(low), float(high), len(values), "percentile")
    rho, p = mean_interval(own), math.nan
    rho = replace(rho, low=max(-1.0, rho.low), high=min(1.0, rho.high))
    if len(own) >= LEAST_UNITS:
        cells = seeds.unstack(1).dropna()  # a row per unit and seed with all levels
        shifts = cells.apply(rank, axis=1).unstack() if shared and len(cells) else pd.DataFrame()
        p = max(permutation_p(own), sample(shifts if len(shifts) >= LEAST_UNITS else own).p(0.0))
    steady = p < 0.05
    turn = ("rises" if rho.value > 0 else "falls") if steady else "shows no trend"
    turn = turn if len(own) >= LEAST_UNITS else f"has too few {unit}s for a trend"
    ends = [f"{e.value:.3g} ({e.low:.3g} to {e.high:.3g}) at {e[condition]:g}" for _, e in curve.iloc[[0, -1]].iterrows()]
    off = f"; it levels off from {level}" if steady and np.isfinite([level.value, level.low]).all() else ""
    sentence = (
        f"{measure} {turn} with {condition}: {', '.join(ends)}; rank correlation {rho} over {rho.n} {unit}s, 95 % CIs{off}."
    )
    return DoseResponse(curve.rename(columns={"value": "mean"}), rho, level, sentence, p)


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
    cells = numbers(table[measure]).groupby([table[f] for f in factors], sort=True).mean()
    index: Any = cells.index
    levels = index.remove_unused_levels().levels
    array = cells.reindex(pd.MultiIndex.from_product(levels)).to_numpy(np.float64).reshape([*map(len, levels)])
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
