"""Means over units that share their seeds: image and seed as crossed random factors, and skewed values.

>>> sample([1.0, 2.0, 3.0, 4.0]).value, round(sample([1.0, 2.0, 3.0, 4.0]).reach(0.05), 2)
(2.5, 2.05)

Below `svdlab.stats.intervals`: what tables and lists become, and the checks of them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from svdlab.errors import InputError, columns, shown

HUGE = 1e100  # beyond, squares and their sums overflow
SEED_QUANTILE = 0.375  # see `Sample`


@dataclass(frozen=True)
class Sample:
    """What intervals and tests of a mean over units (images, pairs) rest on.

    means: of each unit, over its seeds. seeds: the variance of the mean that is due to seeds which units share, of `df`
    degrees of freedom; 0 where each unit has seeds of its own, or all have the same one (the mean is then of that seed).

    Unit and seed are crossed random factors: y = mu + a_unit + b_seed + e, and var(mean) = var_a / units + var_b / seeds +
    var_e / clips. The reach of the interval is that of Ting, Burdick and Graybill's modified large-sample method (Burdick and
    Graybill 1992, Confidence Intervals on Variance Components): t(units - 1)^2 MS_unit + t(seeds - 1)^2 max(0, MS_seed - F
    MS_e), over the clips, F the SEED_QUANTILE of the F distribution. Where seeds do not matter, MS_seed exceeds F MS_e by
    chance in most samples, and the interval of few seeds is then so long that it nearly always covers. Therefore the units' t
    may miss in `ease` times alpha: 1 + 2 / seeds at most, less where the noise of single clips is small beside the variance of
    units. The constants were chosen by simulation, so that 2, 3 and 4 seeds cover 0.93 to 0.97 (docs/statistics.csv).
    Without `ease`, two seeds that covered 0.93 with a fifth of the variance covered 0.975 with none.
    """

    means: np.ndarray
    seeds: float = 0.0
    df: int = 0
    ease: float = 1.0

    @property
    def value(self) -> float:
        return float(self.means.mean())

    @property
    def sd(self) -> float:
        return float(self.means.std(ddof=1)) if np.ptp(self.means) else 0.0

    def reach(self, alpha: float, variance: float | None = None, df: float | None = None) -> float:
        """Half the length of the interval of confidence 1 - alpha. variance, df: of the units' part (by default t's)."""
        n = len(self.means)
        own = t_quantile(min(1.0, alpha * self.ease), n - 1 if df is None else df) ** 2
        own *= self.sd**2 / n if variance is None else variance
        return math.sqrt(own + (t_quantile(alpha, self.df) ** 2 * self.seeds if self.seeds else 0.0))

    def p(self, null: float, *, limit: bool = False) -> float:
        """The two-sided p of a mean of `null`: of the interval above, and where that is larger Hall's for skewed values.

        limit: `null` is a limit of equivalence (see `hall`).

        >>> round(sample([1, 2, 3]).p(0.0), 3)
        0.074
        """
        if not self.sd and not self.seeds:
            return float(math.isclose(self.value, null, rel_tol=1e-12))
        return max(self.level(null - self.value), hall(self.means, null, limit=limit) if self.sd else 0.0)

    def level(self, distance: float, variance: float | None = None, df: float | None = None) -> float:
        """The alpha at which the interval reaches so far."""
        n = len(self.means)
        if not self.seeds:
            error = math.sqrt(self.sd**2 / n if variance is None else variance)
            return 2 * float(special.stdtr(n - 1 if df is None else df, -abs(distance) / error)) / self.ease
        short = lambda log: self.reach(math.exp(log), variance, df) - abs(distance)
        return math.exp(optimize.brentq(short, -60.0, 0.0)) if abs(distance) > 0 and short(-60.0) > 0 else float(not distance)


def t_quantile(alpha: float, df: float) -> float:
    """The two-sided quantile of t; of the normal distribution for infinite df."""
    return -float(special.stdtrit(df, alpha / 2)) if math.isfinite(df) else -float(special.ndtri(alpha / 2))


def sample(values: Any, least: int = 2) -> Sample:
    """The sample of a list with a value per unit, or of a DataFrame with a row per unit and a column per seed (NaN: no clip).

    >>> sample(pd.DataFrame([[1.0, 2.0], [2.0, 3.0], [4.0, 5.0]])).seeds > 0          # all of it moves with the seed
    True

    A seed counts as shared where two units or more have it. Cells may be missing: the sums are weighted as the cells are in
    the mean of the units' means, which for a whole table gives the mean squares of the closed form.
    """
    if not isinstance(values, pd.DataFrame):
        return Sample(finite(values, least=least))
    grid = values.to_numpy(float)
    grid = grid[np.isfinite(grid).any(axis=1)]
    there = np.isfinite(grid)
    means = finite(np.nansum(grid, axis=1) / there.sum(axis=1), least=least) if len(grid) else finite([], least=least)
    shared = there.sum(axis=0) > 1
    units, seeds, cells = len(grid), int(shared.sum()), int(there[:, shared].sum())
    if seeds < 2 or units < 2:
        return Sample(means)
    weights = (there / (units * there.sum(axis=1, keepdims=True)))[:, shared]
    rest = np.where(there, grid - means[:, None], 0.0)[:, shared]
    moved = (weights * rest).sum(axis=0)  # by how much each seed moves the mean
    left = np.where(there[:, shared], rest - moved / weights.sum(axis=0), 0.0)
    df, left_df = seeds - 1, max(1, cells - units - seeds + 1)
    noise = float((weights**2 * left**2).sum()) * cells / left_df
    found = float(moved @ moved) * seeds / df - noise * float(special.fdtri(df, left_df, SEED_QUANTILE))
    own = float(means.var(ddof=1)) / units
    return Sample(means, max(0.0, found), df, 1 + min(2 / seeds, 10 * noise / own) if own else 1.0)


def hall(values: np.ndarray, null: float, *, limit: bool = False) -> float:
    """The two-sided p of Hall's t test, which takes the skewness of the values into account.

    >>> round(hall(np.array([1.0, 2.0, 3.0]), 0.0), 3), hall(np.array([0.1, 0.2, 0.1, 0.3, 2.5]), 1.5) > 0.05
    (0.074, True)

    Hall (1992), On the removal of skewness by transformation, J. R. Statist. Soc. B 54. Skewness in a small sample is
    underestimated, by much where it is large: the factor 1 + 64 / n^2 was chosen by simulation on lognormal values from n = 8
    on (docs/statistics.csv). Below, it would leave no power, and is 1. limit: the null is a limit within which values count as
    equivalent. There the rare large values, which a small sample lacks, lie beyond the limit: the factor is 1 + 128 / n^2,
    and the skewness costs two degrees of freedom. Of lognormal means at the limit 5.5 % at most are then called equivalent,
    not 6 or 7 %. Nothing helps against large values so rare that many samples have none (Bahadur and Savage 1956).
    """
    n = len(values)
    more, df = (1 + 64 * (1 + limit) / n**2, n - 1 - 2 * limit) if n >= 8 else (1.0, n - 1)
    away = values - values.mean()
    skew = float((away**3).mean() / (away**2).mean() ** 1.5) * more
    u = (float(values.mean()) - null) / float(values.std(ddof=1))
    turned = math.sqrt(n) * (u + skew * u**2 / 3 + skew**2 * u**3 / 27 + skew / (6 * n))
    return 2 * float(special.stdtr(df, -abs(turned)))


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
