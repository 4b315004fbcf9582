"""Dose and response: how a measure answers to one condition, and what else it depends on.

    found = dose_response(results, "motion_bucket_id", "object_px")
    print(found.sentence)                            # object_px rises with motion_bucket_id: 0.21 (0.18 to 0.24) at 10, ...
    found.curve                                      # a row per level: mean, low, high
    variance_shares(results, "object_px", ["motion_bucket_id", "image", "seed"])

Plans cross conditions with images and with seeds (common random numbers), so the image is what is resampled: all
levels of one image stay together. With a single image the seed takes its place, and the sentence says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from svdlab.errors import InputError
from svdlab.stats.intervals import Estimate, mean_interval, require

LEVELLED = 0.1  # of the curve's range: a curve that stays so near to its last value has saturated


@dataclass(frozen=True)
class DoseResponse:
    """What `dose_response` found.

    curve: a row per level: the condition, `mean`, `low`, `high`, `n` (units), `method` of the interval. spearman: mean over
    units of each unit's own rank correlation with the condition. saturation: the level from which the curve stays within 10 %
    of its range of its last value, with the interval of resamples; NaN where it does not level off before its last two
    levels, or half of the resamples do not. unit: "image" or "seed": what was resampled.
    """

    condition: str
    measure: str
    curve: pd.DataFrame
    spearman: Estimate
    saturation: Estimate
    unit: str

    @property
    def sentence(self) -> str:
        """The finding in words, with its intervals."""
        rho, level = self.spearman, self.saturation
        steady = not rho.low <= 0 <= rho.high
        turn = ("rises" if rho.value > 0 else "falls") if steady else "shows no trend"
        ends = [f"{e['mean']:.3g} ({e.low:.3g} to {e.high:.3g}) at {e[self.condition]:g}"
                for _, e in self.curve.iloc[[0, -1]].iterrows()]  # fmt: skip
        off = f"; it levels off from {level}" if steady and np.isfinite([level.value, level.low]).all() else ""
        claim = f"{self.measure} {turn} with {self.condition}: {', '.join(ends)}"
        return f"{claim}; rank correlation {rho} over {rho.n} {self.unit}s, 95 % CIs{off}."


def dose_response(table: pd.DataFrame, condition: str, measure: str) -> DoseResponse:
    """The response curve of a measure over one condition, from a tidy table of runs with columns `image` and `seed`.

    dose_response(results, "fps", "object_px").curve

    Rows of the same unit and level are averaged first, over everything else in the table. Units that lack a level, and rows
    whose measure is NaN (the instrument abstained), are left out; the sentence counts the units that remain. Raises InputError
    for a column that is not there, a condition that is not numeric, fewer than 2 levels or 2 whole units.
    """
    unit = "image" if "image" in table and table["image"].nunique() > 1 else "seed"
    require(table, unit, condition, measure)
    if not pd.api.types.is_numeric_dtype(table[condition]) or pd.api.types.is_bool_dtype(table[condition]):
        raise InputError(f"{condition!r} is no number: a dose has an order. Compare groups with `svdlab.stats.difference`.")
    grid = table.dropna(subset=[measure]).groupby([unit, condition])[measure].mean().unstack().dropna()
    if min(grid.shape) < 2:
        raise InputError(
            f"got {grid.shape[0]} {unit}(s) with all {grid.shape[1]} level(s) of {condition}: two of each at least."
        )
    levels, values = grid.columns.to_numpy(np.float64), grid.to_numpy(np.float64)  # values: "unit level"
    each = pd.DataFrame([vars(mean_interval(column, resamples=2000)) for column in values.T])
    curve = each.rename(columns={"value": "mean"}).assign(**{condition: levels})
    own = [stats.spearmanr(levels, v).statistic if np.ptp(v) else 0.0 for v in values]
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    settled = np.array([saturation(levels, c) for c in values[draws].mean(1)])
    low, high = np.nanquantile(settled, (0.025, 0.975)) if np.isfinite(settled).mean() >= 0.5 else (math.nan, math.nan)
    level = Estimate(saturation(levels, values.mean(0)), float(low), float(high), len(values), "percentile")
    curve = curve[[condition, "mean", "low", "high", "n", "method"]]
    return DoseResponse(condition, measure, curve, mean_interval(own, resamples=2000), level, unit)


def saturation(levels: np.ndarray, means: np.ndarray) -> float:
    """The first level from which on the means stay within 10 % of their range of the last one; NaN if only the last two do.

    >>> saturation(np.array([1, 2, 3, 4, 5]), np.array([0, 5, 10, 10, 10]))
    3.0
    """
    far = np.flatnonzero(np.abs(means - means[-1]) > LEVELLED * np.ptp(means))
    return float(levels[far[-1] + 1]) if len(far) and far[-1] <= len(levels) - 4 else math.nan


def variance_shares(table: pd.DataFrame, measure: str, factors: list[str]) -> pd.DataFrame:
    """How much of a measure's variance goes with each factor and each pair of factors: balanced ANOVA components.

    variance_shares(results, "object_px", ["motion_bucket_id", "image", "seed"])

    A row per source ("a", "a x b", ..., "rest"): `variance` (units squared), `share` (0 to 1), and the interval `low`, `high`
    of the share from resampling whole images (three at least). Expected mean squares of the crossed random model (Searle,
    Casella and McCulloch 1992, chapter 4), negative estimates set to 0. "rest" is the interaction of all factors; where cells
    hold several rows, they are averaged first. Raises InputError for fewer than 2 levels of a factor, a column that is not
    there, or cells that are missing from the cross.
    """
    require(table, *factors, measure)
    if len(factors) not in (2, 3):
        raise InputError(f"got {len(factors)} factors: two or three.")
    cells = table.groupby(factors, sort=True)[measure].mean().unstack(factors[1:])
    array = cells.to_numpy(np.float64).reshape([table[f].nunique() for f in factors] if cells.size else (0,))
    gaps = int((~np.isfinite(array)).sum())
    if min(array.shape) < 2 or gaps:
        cross = f"{gaps} of {array.size} cells of {' x '.join(factors)} are missing"
        raise InputError(f"{cross}: it must be whole, with two levels at least of each factor.")
    found = components(array, factors)
    total = sum(found.values()) or math.nan
    result = pd.DataFrame({"source": list(found), "variance": list(found.values())})
    result = result.assign(share=result.variance / total, low=math.nan, high=math.nan)
    axis = factors.index("image") if "image" in factors else 0
    if factors[axis] == "image" and array.shape[axis] > 2 and total > 0:
        draws = np.random.default_rng(0).integers(0, array.shape[axis], (500, array.shape[axis]))
        again = np.array([list(components(np.take(array, d, axis), factors).values()) for d in draws])
        shares = again / np.maximum(again.sum(1, keepdims=True), np.finfo(float).tiny)
        result["low"], result["high"] = np.quantile(shares, (0.025, 0.975), axis=0)
    return result


def components(array: np.ndarray, factors: list[str]) -> dict[str, float]:
    """Variance components of a whole cross, one value per cell; the interaction of all factors is "rest".

    >>> components(np.array([[1.0, 2.0], [3.0, 4.5]]), ["a", "b"])
    {'a': 2.5, 'b': 0.75, 'rest': 0.0625}

    A mean square expects the components of all sets of factors that hold its own, each times the levels outside that set;
    inclusion and exclusion over these sets gives the component back.
    """
    axes = range(array.ndim)
    subsets = [s for size in range(1, array.ndim + 1) for s in combinations(axes, size)]
    effects: dict[tuple[int, ...], np.ndarray] = {(): array.mean(keepdims=True)}
    squares = {}
    for s in subsets:
        others = tuple(i for i in axes if i not in s)
        effects[s] = array.mean(axis=others, keepdims=True) - sum(e for t, e in effects.items() if set(t) < set(s))
        freedom = math.prod(array.shape[i] - 1 for i in s)
        squares[s] = float(np.square(effects[s]).sum()) * math.prod(array.shape[i] for i in others) / freedom
    result = {}
    for s in subsets:
        signed = sum((-1) ** (len(t) - len(s)) * squares[t] for t in subsets if set(s) <= set(t))
        name = " x ".join(factors[i] for i in s) if len(s) < array.ndim else "rest"
        result[name] = max(0.0, signed / math.prod(array.shape[i] for i in axes if i not in s))
    return result
