"""Two checkpoints, one plan: where they differ, by how much, and how sure that is.

    >>> a = svdlab.sweep(svdlab.load_pipeline("organism"), plan, "results/a")
    >>> b = svdlab.sweep(svdlab.load_pipeline("organism-fixed"), plan, "results/b")
    >>> compare({"organism": a, "organism-fixed": b}, ["object_px"], by=["fps", "motion_bucket_id"])

Runs are paired by picture, conditions and seed; seeds are brought together within a picture first, and the picture is
the unit, because pictures are what was sampled independently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.stats import intervals as stats
from svdlab.study.plans import CONDITIONS

# Conditions that a plan may leave to the checkpoint, so that two checkpoints fill them in differently.
FILLED_BY_CHECKPOINT = ("num_frames", "decode_chunk_size", "height", "width")
Within = str | Callable[[pd.DataFrame, str], float]
WITHIN: dict[str, Callable[[pd.DataFrame, str], float]] = {
    "mean": lambda runs, measure: float(runs[measure].mean()),
    "spread": lambda runs, measure: float(runs[measure].std(ddof=1)),
}
COLUMNS = [
    "measure", "within", "first", "second", "difference", "low", "high", "p", "q", "d", "images", "seeds", "left_out",
    "verdict",
]  # fmt: skip


def compare(
    tables: Mapping[str, pd.DataFrame],
    measures: Sequence[str],
    *,
    by: Sequence[str] = (),
    within: Within = "mean",
    margins: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    resamples: int = 9999,
) -> pd.DataFrame:
    """The second checkpoint minus the first: a row for each measure and each value of `by`.

    >>> compare(tables, ["object_px"], by=["fps"]).query("q < 0.05")
    >>> compare(tables, ["object_px"], within="spread")                            # does it vary less over seeds?
    >>> compare(tables, ["object_px"], within=slope_against("motion_bucket_id"))   # does it answer the bucket more?

    tables: two results of `svdlab.sweep` of the same plan, by name. within: what becomes of the runs of one picture:
    their "mean", their "spread" (standard deviation; give `by` so that only seeds differ), or a function of the runs
    and the measure's name. margins: by measure, in its unit; a difference whose interval (confidence 1 - 2 alpha) lies
    inside is called equivalent (TOST).

    Columns: those of `by`, measure, within, first, second (means over pictures), difference, low, high (t interval,
    confidence 1 - alpha), p (paired permutation test), q (p after Benjamini and Hochberg over the whole table),
    d (difference over its standard deviation), images, seeds, left_out (pictures without a number in one of the two),
    verdict: "differs" (q below alpha), "equivalent", "differs, within the margin", "cannot tell", or "too few" where so few
    pictures can never reach alpha.

    Raises InputError where the tables hold other runs than each other, a column is missing, or no picture is left.
    """
    names, both = _paired(tables, list(measures), list(by))
    function = within if callable(within) else WITHIN.get(within)
    if function is None:
        raise InputError(f"within={within!r}: give {', '.join(map(repr, WITHIN))} or a function of (runs, measure).")
    called = within if isinstance(within, str) else getattr(function, "__name__", "function")
    unknown = sorted(set(margins or {}) - set(measures))
    if unknown:
        raise InputError(f"margins for {', '.join(unknown)}, which is not among the measures {', '.join(measures)}.")
    rows = []
    for place, runs in both.groupby(list(by), sort=True) if by else [((), both)]:
        for measure in measures:
            units = runs.groupby("image")[[f"{measure}_1", f"{measure}_2", *_carried(runs)]]
            pairs = np.array([[function(_side(g, measure, side), measure) for side in (1, 2)] for _, g in units])
            whole = pairs[np.isfinite(pairs).all(axis=1)]
            margin = (margins or {}).get(measure)
            rows.append(
                {
                    **dict(zip(by, place, strict=True)),
                    "measure": measure,
                    "within": called,
                    **_row(whole, margin, alpha, resamples),
                    "seeds": runs["seed"].nunique(),
                    "left_out": len(pairs) - len(whole),
                }
            )
    table = pd.DataFrame(rows)
    table["q"] = stats.fdr(table["p"].to_numpy())
    differs = (table["verdict"] != "too few") & (table["q"] < alpha)
    small = table["verdict"] == "equivalent"
    table["verdict"] = table["verdict"].mask(differs, "differs").mask(differs & small, "differs, within the margin")
    table.attrs["names"] = names
    return table[[*by, *COLUMNS]]


def slope_against(condition: str) -> Callable[[pd.DataFrame, str], float]:
    """For `compare(within=...)`: the least-squares slope of a measure on a condition, over the runs of one picture.

    >>> compare(tables, ["object_px"], within=slope_against("motion_bucket_id"))       # px per frame, per bucket
    """

    def slope(runs: pd.DataFrame, measure: str) -> float:
        if condition not in runs:
            raise InputError(f"no condition {condition!r}: the table has {', '.join(_carried(runs))}.")
        seen = runs.dropna(subset=measure)
        if seen[condition].nunique() < 2:
            return math.nan
        return float(np.polyfit(seen[condition].astype(float), seen[measure].astype(float), 1)[0])

    slope.__name__ = f"slope against {condition}"
    return slope


def _paired(tables: Mapping[str, pd.DataFrame], measures: list[str], by: list[str]) -> tuple[list[str], pd.DataFrame]:
    """The runs of both tables side by side: measure_1 of the first, measure_2 of the second."""
    if len(tables) != 2:
        raise InputError(f"{len(tables)} tables ({', '.join(tables)}): two are compared at a time.")
    if not measures:
        raise InputError("no measures: name at least one column, such as object_px.")
    names, (one, two) = list(tables), tables.values()
    shared = [c for c in CONDITIONS if c in one and c in two and c not in FILLED_BY_CHECKPOINT]
    keys = ["image", "seed", *shared]
    for name, table in tables.items():
        missing = [c for c in ("image", "seed", *measures, *by) if c not in table]
        if missing:
            raise InputError(f"the table of {name!r} has no column {', '.join(missing)}: give what svdlab.sweep returned.")
    parts = []
    for side, table in ((1, one), (2, two)):
        numbers = {f"{m}_{side}": pd.to_numeric(table[m], errors="coerce") for m in measures}
        part = table[keys].map(_plain).assign(**numbers)
        if part.duplicated(keys).any():
            raise InputError(
                f"the table of {names[side - 1]!r} holds a run twice: compare one run per picture, seed and condition."
            )
        parts.append(part)
    both = parts[0].merge(parts[1], on=keys, how="outer", indicator=True)
    alone = both[both["_merge"] != "both"]
    if len(alone):
        where = names[0] if alone["_merge"].iloc[0] == "left_only" else names[1]
        what = ", ".join(f"{k} {alone[k].iloc[0]}" for k in ("image", "seed", "fps", "motion_bucket_id") if k in alone)
        raise InputError(
            f"{len(alone)} runs have no partner, the first ({what}) only in {where!r}: sweep both with the same plan."
        )
    return names, both.drop(columns="_merge")


def _plain(cell: Any) -> Any:
    """Cells that can be compared: lists as text, and one kind of nothing."""
    if isinstance(cell, (list, tuple, np.ndarray)):
        return str(list(cell))
    return "" if cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell)) else cell


def _carried(runs: pd.DataFrame) -> list[str]:
    return [c for c in ("seed", *CONDITIONS) if c in runs]


def _side(runs: pd.DataFrame, measure: str, side: int) -> pd.DataFrame:
    return runs.rename(columns={f"{measure}_{side}": measure})


def _row(pairs: np.ndarray, margin: float | None, alpha: float, resamples: int) -> dict[str, Any]:
    n = len(pairs)
    nothing = dict(difference=math.nan, low=math.nan, high=math.nan, p=math.nan, d=math.nan, images=n, verdict="too few")
    if n < 2:
        first, second = pairs[0] if n else (math.nan, math.nan)
        return {**nothing, "first": first, "second": second, "difference": second - first}
    found = stats.paired_test(pairs[:, 1], pairs[:, 0], alpha=alpha, resamples=resamples)
    verdict = "cannot tell" if found.decidable else "too few"
    if found.decidable and margin is not None:
        within = stats.equivalent_pairs(pairs[:, 1], pairs[:, 0], -margin, margin, alpha=alpha).equivalent
        verdict = "equivalent" if within else verdict
    return dict(
        first=float(pairs[:, 0].mean()), second=float(pairs[:, 1].mean()), difference=found.effect, low=found.low,
        high=found.high, p=found.p if found.decidable else math.nan, d=found.d, images=n, verdict=verdict,
    )  # fmt: skip
