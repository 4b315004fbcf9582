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

import numpy as np
import pandas as pd
from scipy import stats

from svdlab.errors import InputError
from svdlab.stats.intervals import Estimate, mean_interval

LEVELLED = 0.1  # of the curve's range: a curve that stays so near to its last value has saturated


@dataclass(frozen=True)
class DoseResponse:
    """What `dose_response` found.

    curve: a row per level: the condition, `mean`, `low`, `high`, `n` (units), `method` of the interval.
    spearman: mean over units of each unit's own rank correlation with the condition.
    trend_p: Page's test for an ordered trend in the direction of `spearman` (NaN below 3 levels or 2 units).
    monotone: share of resamples in which the mean curve never turns back.
    saturation: the level from which the curve stays within 10 % of its range of its last value; NaN where it does not level
        off before its last two levels.
    saturation_low, saturation_high: 95 % of the resamples that level off lie between; NaN if fewer than half do.
    unit: "image" or "seed": what was resampled.
    """

    condition: str
    measure: str
    curve: pd.DataFrame
    spearman: Estimate
    trend_p: float
    monotone: float
    saturation: float
    saturation_low: float
    saturation_high: float
    unit: str

    @property
    def sentence(self) -> str:
        """The finding in words, with its intervals."""
        rho = self.spearman
        steady = not rho.low <= 0 <= rho.high
        turn = "rises" if rho.value > 0 else "falls"
        claim = (
            f"{self.measure} {turn} with {self.condition}"
            if steady
            else f"{self.measure} shows no trend with {self.condition}"
        )
        ends = [
            f"{e['mean']:.3g} ({e.low:.3g} to {e.high:.3g}) at {e[self.condition]:g}"
            for _, e in self.curve.iloc[[0, -1]].iterrows()
        ]
        level = ""
        if np.isfinite([self.saturation, self.saturation_low]).all() and steady:
            level = f"; it levels off from {self.saturation:g} ({self.saturation_low:g} to {self.saturation_high:g})"
        return f"{claim}: {', '.join(ends)}; rank correlation {rho} over {rho.n} {self.unit}s, 95 % CIs{level}."


def dose_response(
    table: pd.DataFrame, condition: str, measure: str, *, image: str = "image", seed: str = "seed", resamples: int = 2000
) -> DoseResponse:
    """The response curve of a measure over one condition, from a tidy table of runs.

    dose_response(results, "fps", "object_px").curve

    Rows of the same unit and level are averaged first, over everything else in the table. Units that lack a level, and rows
    whose measure is NaN (the instrument abstained), are left out; the sentence counts the units that remain. Raises InputError
    for a column that is not there, a condition that is not numeric, fewer than 2 levels or 2 whole units.
    """
    unit = image if image in table and table[image].nunique() > 1 else seed
    grid = _grid(table, unit, condition, measure)
    levels, values = grid.columns.to_numpy(np.float64), grid.to_numpy(np.float64)  # values: "unit level"
    each = [mean_interval(column, resamples=resamples) for column in values.T]
    parts = {"mean": [e.value for e in each], "low": [e.low for e in each], "high": [e.high for e in each]}
    curve = pd.DataFrame({condition: levels, **parts, "n": len(values), "method": [e.method for e in each]})
    own = [stats.spearmanr(levels, v).statistic if np.ptp(v) else 0.0 for v in values]
    rho = mean_interval(own, resamples=resamples)
    sign = -1.0 if rho.value < 0 else 1.0
    draws = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    curves = values[draws].mean(1)  # "resample level"
    settled = np.array([saturation(levels, c) for c in curves])
    low, high = np.nanquantile(settled, (0.025, 0.975)) if np.isfinite(settled).mean() >= 0.5 else (math.nan, math.nan)
    return DoseResponse(
        condition,
        measure,
        curve,
        rho,
        float(stats.page_trend_test(sign * values).pvalue) if len(levels) > 2 else math.nan,
        float((np.diff(sign * curves, axis=1) >= 0).all(1).mean()),
        saturation(levels, values.mean(0)),
        float(low),
        float(high),
        "image" if unit == image else "seed",
    )


def saturation(levels: np.ndarray, means: np.ndarray) -> float:
    """The first level from which on the means stay within 10 % of their range of the last one; NaN if only the last two do.

    >>> saturation(np.array([1, 2, 3, 4, 5]), np.array([0, 5, 10, 10, 10]))
    3.0
    """
    far = np.flatnonzero(np.abs(means - means[-1]) > LEVELLED * np.ptp(means))
    first = int(far[-1]) + 1 if len(far) else 0
    return float(levels[first]) if len(far) and first <= len(levels) - 3 else math.nan


def variance_shares(
    table: pd.DataFrame, measure: str, factors: list[str], *, image: str = "image", resamples: int = 500
) -> pd.DataFrame:
    """How much of a measure's variance goes with each factor and each pair of factors: balanced ANOVA components.

    variance_shares(results, "object_px", ["motion_bucket_id", "image", "seed"])

    A row per source ("a", "a x b", ..., "rest"): `variance` (units squared), `share` (0 to 1), and the interval `low`, `high`
    of the share from resampling whole images. Expected mean squares of the crossed random model (Searle, Casella and McCulloch
    1992, chapter 4), negative estimates set to 0. "rest" is the interaction of all factors; where cells hold several rows,
    they are averaged first. Raises InputError for fewer than 2 levels of a factor, a column that is not there, or cells that
    are missing from the cross.
    """
    for name in [*factors, measure]:
        if name not in table:
            raise InputError(f"no column {name!r}: the table has {', '.join(map(str, table.columns))}.")
    if len(factors) not in (2, 3):
        raise InputError(f"got {len(factors)} factors: two or three.")
    cells = table.groupby(factors, sort=True)[measure].mean().unstack(factors[1:])
    array = cells.to_numpy(np.float64).reshape([table[f].nunique() for f in factors] if cells.size else (0,))
    if min(array.shape) < 2:
        raise InputError(f"got {dict(zip(factors, array.shape, strict=False))} levels: two at least of each factor.")
    if not np.isfinite(array).all():
        gaps = int((~np.isfinite(array)).sum())
        raise InputError(f"{gaps} of {array.size} cells of {' x '.join(factors)} are missing: the cross must be whole.")
    components = _components(array, factors)
    total = sum(components.values())
    result = pd.DataFrame({"source": list(components), "variance": list(components.values())})
    result["share"] = result.variance / total if total else math.nan
    result["low"], result["high"] = math.nan, math.nan
    if image in factors and array.shape[factors.index(image)] > 2 and total:
        axis = factors.index(image)
        draws = np.random.default_rng(0).integers(0, array.shape[axis], (resamples, array.shape[axis]))
        again = np.array([list(_components(np.take(array, d, axis), factors).values()) for d in draws])
        shares = again / np.maximum(again.sum(1, keepdims=True), np.finfo(float).tiny)
        result["low"], result["high"] = np.quantile(shares, (0.025, 0.975), axis=0)
    return result


def mean_squares(array: np.ndarray, factors: list[str]) -> dict[str, float]:
    """Mean squares of a whole cross, one value per cell; the interaction of all factors is "rest".

    >>> mean_squares(np.array([[1.0, 2.0], [3.0, 4.0]]), ["a", "b"])
    {'a': 4.0, 'b': 1.0, 'rest': 0.0}
    """
    axes = range(array.ndim)
    subsets = [(i,) for i in axes] + [(i, j) for i in axes for j in axes if i < j and array.ndim > 2] + [tuple(axes)]
    effects: dict[tuple[int, ...], np.ndarray] = {(): array.mean(keepdims=True)}
    result = {}
    for subset in subsets:
        others = tuple(i for i in axes if i not in subset)
        lower = sum(e for s, e in effects.items() if set(s) < set(subset))
        effects[subset] = array.mean(axis=others, keepdims=True) - lower
        squares = float(np.square(effects[subset]).sum()) * math.prod(array.shape[i] for i in others)
        freedom = math.prod(array.shape[i] - 1 for i in subset)
        result["rest" if len(subset) == array.ndim else " x ".join(factors[i] for i in subset)] = squares / freedom
    return result


def _components(array: np.ndarray, factors: list[str]) -> dict[str, float]:
    """Variance components from mean squares, by solving the crossed random model's expectations from the top down."""
    ms = mean_squares(array, factors)
    size = dict(zip(factors, array.shape, strict=True))
    found = {"rest": ms["rest"]}
    for name in reversed([n for n in ms if n != "rest"]):
        parts = name.split(" x ")
        per_level = math.prod(n for f, n in size.items() if f not in parts)
        above = found["rest"]
        for other, value in found.items():  # pairs that contain this factor come with the levels they leave out
            if other != "rest" and set(parts) < set(other.split(" x ")):
                above += value * math.prod(n for f, n in size.items() if f not in other.split(" x "))
        found[name] = (ms[name] - above) / per_level
    return {name: max(0.0, found[name]) for name in [*(n for n in ms if n != "rest"), "rest"]}


def _grid(table: pd.DataFrame, unit: str, condition: str, measure: str) -> pd.DataFrame:
    for name in (unit, condition, measure):
        if name not in table:
            raise InputError(f"no column {name!r}: the table has {', '.join(map(str, table.columns))}.")
    if not pd.api.types.is_numeric_dtype(table[condition]) or pd.api.types.is_bool_dtype(table[condition]):
        raise InputError(f"{condition!r} is no number: a dose has an order. Compare groups with `svdlab.stats.difference`.")
    grid = table.dropna(subset=[measure]).groupby([unit, condition])[measure].mean().unstack().dropna()
    if grid.shape[0] < 2 or grid.shape[1] < 2:
        raise InputError(
            f"got {grid.shape[0]} whole {unit}(s) at {grid.shape[1]} level(s) of {condition}: two of each at least, "
            f"every {unit} at every level."
        )
    return grid
