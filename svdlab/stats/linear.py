"""Differences between groups whose images are not paired, come in clusters, or differ in covariates as well.

    >>> y, group = [1.0, 2, 3, 2, 1, 3, 4, 6, 5, 5, 4, 6], np.repeat([0, 1], 6)
    >>> e = contrast("b", "b minus a", y, pd.get_dummies(group), range(12), [-1, 1], unit="")
    >>> round(e.value, 2), round(e.low, 2), round(e.high, 2)
    (3.0, 1.85, 4.15)

Ordinary least squares with the cluster-robust variance CR2 and its t distribution with estimated degrees of freedom (Bell and
McCaffrey 2002; Pustejovsky and Tipton 2018, J. Bus. Econ. Stat. 36(4), also for the joint test). Of one group it is the t
test, of two without covariates Welch's variance. The cluster (an identity, a pair) is the independent unit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from svdlab.errors import COUNT, LABEL, LEVEL, POSITIVE, InputError, takes, text
from svdlab.stats.crossed import Sample, finite, hall, sample
from svdlab.stats.effects import INCONCLUSIVE, LEAST_IMAGES, TOO_FEW, Effect, decided
from svdlab.stats.intervals import Estimate, agreed, p_of

LEAST_DF = 4  # below, the approximation is not to be trusted (Pustejovsky and Tipton 2018)
LARGEST = 3000  # clusters times contrasts beyond which the degrees of freedom are those of the residuals


@dataclass(frozen=True)
class _Fit:
    """estimates "q" and their variance "q q", its degrees of freedom, and what each cluster gave to the estimates "q"."""

    value: np.ndarray
    variance: np.ndarray
    df: float
    parts: np.ndarray
    weights: np.ndarray  # "q n": the estimates are weights @ y


@takes(key=text, what=LABEL, unit=LABEL, margin=POSITIVE, alpha=LEVEL, seeds=COUNT, of=text)
def contrast(
    key: str,
    what: str,
    values: Any,
    design: Any,
    clusters: Sequence[Any],
    weights: Sequence[float],
    *,
    unit: str,
    margin: float | None = None,
    alpha: float = 0.05,
    seeds: int = 1,
    of: str = "image",
) -> Effect:
    """A weighted sum of the coefficients of `values` on the columns of `design`.

    values: one per row, or a DataFrame with a column per seed, whose part in the error is then counted. clusters: of each row.
    p is the larger of CR2's and Hall's for skewed values. Below 6 clusters or 4 degrees of freedom there is no verdict.
    Where the rows that have a number cannot separate the contrast (a group has none), there is no value.
    """
    table, x, names = _checked(values, design, clusters)
    e = Effect(key, what, math.nan, math.nan, math.nan, unit, len(set(names)), seeds, alpha=alpha, of=of, method="CR2")
    e = replace(e, margin=math.nan if margin is None else margin, verdict=TOO_FEW)
    c = np.asarray(weights, float)[None]
    if not estimable(x, c):
        return e
    means = np.nanmean(table.to_numpy(float), axis=1)
    if len(table) <= np.linalg.matrix_rank(x):
        return replace(e, value=float((c @ np.linalg.pinv(x) @ means)[0]))
    fit = _fit(means, x, names, c)
    value, variance, n = float(fit.value[0]), float(fit.variance[0, 0]), e.n
    # Each cluster's part in the estimate, by seed: what moves all parts alike is the seed's.
    moved = table.mul(fit.weights[0] * n, axis=0).groupby(np.asarray(names), sort=False).sum(min_count=1)
    crossed = sample(moved) if n > 1 else Sample(np.array([value]))
    x_ = replace(crossed, means=value + n * (fit.parts[:, 0] - fit.parts[:, 0].mean()), ease=1.0)  # no noise of clips alone
    p = lambda null, limit=False: max(x_.level(value - null, variance, fit.df), hall(x_.means, null, limit=limit))
    reach = x_.reach(alpha, variance, fit.df)
    e = replace(e, value=value, low=value - reach, high=value + reach, sd=math.sqrt(n * variance))
    if math.sqrt(variance + crossed.seeds) <= (none := 1e-12 * np.abs(means).max()):  # each group is all alike
        least = min(
            len({names[i] for i in np.flatnonzero(column)}) for column, weight in zip(x.T, c[0], strict=True) if weight
        )
        value = value if abs(value) > none else 0.0
        found = agreed(value, least, alpha) if unit == "share" else Estimate(value, value, value, n, "")
        p = lambda null, limit=False: p_of(found, [], null) if found.method else float(abs(value - null) <= none)
        e = replace(e, value=value, low=found.low, high=found.high, sd=0.0)
    if n < LEAST_IMAGES or round(fit.df, 6) < LEAST_DF:
        return e
    same = math.nan
    if margin is not None:
        same = max(p(side, True) if abs(value) < margin else 1.0 for side in (-margin, margin))
    return decided(replace(e, p=p(0.0), p_equivalent=same, verdict=INCONCLUSIVE))


def joint(values: Any, design: Any, clusters: Sequence[Any], weights: Any) -> tuple[float, float, float, float]:
    """F, its two degrees of freedom and p of the hypothesis that all of several contrasts are 0; NaN for too few clusters,
    or rows in which the contrasts cannot be separated.

    >>> f, one, two, p = joint([1.0, 2, 3, 4, 6, 5, 1, 2, 2], np.repeat(np.eye(3), 3, 0), range(9), [[1, -1, 0], [0, 1, -1]])
    >>> round(f, 1), one, p < 0.05
    (10.0, 2, True)

    The approximate Hotelling test (AHT) of Pustejovsky and Tipton; of pairs it is Hotelling's T squared.
    """
    table, x, names = _checked(values, design, clusters)
    c = np.atleast_2d(np.asarray(weights, float))
    q = len(c)
    if not estimable(x, c) or len(table) <= np.linalg.matrix_rank(x):
        return math.nan, q, math.nan, math.nan
    fit = _fit(np.nanmean(table.to_numpy(float), axis=1), x, names, c)
    df = fit.df - q + 1
    if df < 1 or np.linalg.matrix_rank(fit.variance) < q:
        return math.nan, q, df, math.nan
    f = float(fit.value @ np.linalg.solve(fit.variance, fit.value)) * df / (fit.df * q)
    return f, q, df, float(stats.f.sf(f, q, df))


def estimable(design: Any, weights: Any) -> bool:
    """Whether the columns of a design tell a contrast apart from each other.

    >>> estimable([[1, 0, 5], [1, 0, 5], [0, 1, 8]], [1, -1, 0])           # the third column says what the first two say
    False
    """
    x = np.asarray(design, float)
    c = np.atleast_2d(np.asarray(weights, float))
    return bool(np.allclose(c @ np.linalg.pinv(x) @ x, c, atol=1e-6))


def _checked(values: Any, design: Any, clusters: Sequence[Any]) -> tuple[pd.DataFrame, np.ndarray, list[Any]]:
    """Rows that have a number: their values "n seeds", design "n p" and clusters."""
    table = values if isinstance(values, pd.DataFrame) else pd.DataFrame(finite(values, least=0, gaps=True))
    x, names = np.asarray(design, float), list(clusters)
    if x.ndim != 2 or not len(x) == len(names) == len(table):
        raise InputError(f"got {len(table)} values, a design of shape {x.shape} and {len(names)} clusters: one row each.")
    table = table.set_axis(range(len(table)))
    there = table.where(np.isfinite(table)).notna().any(axis=1).to_numpy() & np.isfinite(x).all(axis=1)
    return table[there], x[there], [name for name, ok in zip(names, there, strict=True) if ok]


def _fit(y: np.ndarray, x: np.ndarray, names: list[Any], c: np.ndarray) -> _Fit:
    bread = np.linalg.pinv(x.T @ x)
    weights = c @ bread @ x.T  # "q n"
    _, cluster = np.unique(pd.factorize(pd.Series(names, dtype=object))[0], return_inverse=True)
    rows = [np.flatnonzero(cluster == g) for g in range(cluster.max() + 1)]
    leave = -x @ bread @ x.T  # I - H, "n n"
    leave[np.diag_indices(len(y))] += 1
    mix = np.zeros((len(rows), len(c), len(y)))  # what a cluster's residuals give to the estimates, as weights of y
    for g, own in enumerate(rows):
        size, turn = np.linalg.eigh(leave[np.ix_(own, own)])
        root = np.where(size > 1e-8, np.maximum(size, 1e-8) ** -0.5, 0.0)
        mix[g] = weights[:, own] @ (turn * root @ turn.T) @ leave[own]
    parts = mix @ y  # "g q"
    expected = np.einsum("gqn,grn->qr", mix, mix)  # of the variance, where all errors are alike and independent
    df = float(len(rows) - np.linalg.matrix_rank(x))
    size, turn = np.linalg.eigh(expected)
    if len(rows) * len(c) <= LARGEST and size.min() > 1e-12 * size.max():
        even = np.einsum("qr,grn->gqn", (turn * size**-0.5) @ turn.T, mix)
        k = np.tensordot(even, even, axes=(2, 2))  # "g q h r"
        same = np.einsum("gshs->gsh", k)
        spread = np.einsum("gsh,gth->", same, same) + np.einsum("gsht,gths->", k, k)
        df = len(c) * (len(c) + 1) / float(spread)
    return _Fit(weights @ y, parts.T @ parts, df, parts, weights)
