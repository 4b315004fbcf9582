"""Two checkpoints, one plan: where they differ, by how much, and how sure that is.

    a = svdlab.sweep(svdlab.load_pipeline("organism"), plan, "results/a")
    b = svdlab.sweep(svdlab.load_pipeline("organism-fixed"), plan, "results/b")
    compare({"organism": a, "organism-fixed": b}, ["object_px"], by=["fps", "motion_bucket_id"])

Runs are paired by image, conditions and seed. The image is the unit, because images are what was sampled independently; seeds
that images share are a factor of their own (`svdlab.stats.crossed`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import POSITIVE, InputError, columns, kind, one_of, several, shown, text
from svdlab.measure.files import plain
from svdlab.show import labels
from svdlab.stats.effects import as_table, corrected, numbers, paired
from svdlab.study.plans import CONDITIONS

FILLED_BY_CHECKPOINT = ("num_frames", "decode_chunk_size", "height", "width")  # so that two checkpoints may differ in them
Within = Callable[[pd.DataFrame, str], float]
WITHIN: dict[str, Within] = {
    "mean": lambda runs, measure: float(runs[measure].mean()),
    "spread": lambda runs, measure: float(runs[measure].std(ddof=1)),
}


def compare(
    tables: Mapping[str, pd.DataFrame],
    measures: Sequence[str],
    *,
    by: Sequence[str] = (),
    within: str | Within = "mean",
    margins: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The second checkpoint minus the first: an effect for each measure and each value of `by`, all one family of tests.

    compare(tables, ["object_px"], by=["fps"]).query("q < 0.05")
    compare(tables, ["object_px"], within="spread")                            # does it vary less over seeds?
    compare(tables, ["object_px"], within=slope_against("motion_bucket_id"))   # does it respond to the bucket more?

    tables: two results of `svdlab.sweep` of the same plan, by name. within: what becomes of the runs of one image: their
    "mean", their "spread" (standard deviation; give `by` so that only seeds differ), or a function of the runs and the
    measure's name. margins: by measure, in its unit, for equivalence. A mean over several conditions is equivalent only if
    each of them is (the intersection-union test), since opposite differences cancel in a mean.

    Columns: those of `by`, measure, within, first, second (means over images), left_out (images without a number in one of
    the two), then those of an Effect (`svdlab.stats.effects.paired`, n: images). Raises InputError where the tables hold
    other runs than each other, or a column is missing.
    """
    if not isinstance(tables, Mapping):
        raise InputError(f"tables={shown(tables)}: give two tables by name, as in {{'a': first, 'b': second}}.")
    measures, by = several("measures", measures, text, distinct=True), several("by", by, text, least=0, distinct=True)
    if margins is not None:
        margins = {key: POSITIVE(f"margins[{key!r}]", margin) for key, margin in kind(Mapping)("margins", margins).items()}
    names, both = _side_by_side(tables, list(measures), list(by))
    function = within if callable(within) else WITHIN[one_of("within", within, WITHIN)]
    margins = {one_of("margins", measure, measures): margin for measure, margin in (margins or {}).items()}
    called = within if isinstance(within, str) else getattr(function, "__name__", "function")
    facts, effects = [], []
    for place, runs in both.groupby(list(by), sort=True) if by else [((), both)]:
        where = dict(zip(by, place, strict=True))
        cell = ", ".join(f"{labels.name(c)} {labels.number(v)}" for c, v in where.items())
        for measure in measures:
            sides = [runs.rename(columns={f"{measure}_{side}": measure}).groupby("image") for side in (1, 2)]
            pairs = pd.DataFrame({n: {i: _number(called, function(g, measure)) for i, g in sides[n]} for n in (0, 1)})
            whole = pairs[np.isfinite(pairs).all(axis=1)]
            what = f"{'' if called == 'mean' else f'{called} of '}{labels.name(measure)}, {names[1]} minus {names[0]}"
            key, what = (f"{measure}, {cell}", f"{what} at {cell}") if cell else (measure, what)
            unit = labels.unit(measure) if called in WITHIN else ""
            how: dict[str, Any] = dict(margin=margins.get(measure), of="image", seeds=runs["seed"].nunique())
            change = whole[1] - whole[0]
            if called == "mean":
                cells = both_sides(runs, measure, ["image", "seed"]).reindex(whole.index, level=0).unstack()
                change = cells if np.isfinite(cells).any(axis=1).all() else change
            effect = paired(key, what, change, unit=unit, **how)
            varied = [c for c in CONDITIONS if c in runs and runs[c].nunique() > 1]
            if called == "mean" and measure in margins and varied:
                each = [both_sides(cell, measure, ["image", "seed"]).unstack() for _, cell in runs.groupby(varied)]
                same = [paired(key, what, cell.dropna(how="all"), unit=unit, **how).p_equivalent for cell in each]
                effect = replace(effect, p_equivalent=float(np.nan_to_num([effect.p_equivalent, *same], nan=1.0).max()))
            effects.append(effect)
            means = dict(first=whole[0].mean(), second=whole[1].mean(), left_out=len(pairs) - len(whole))
            facts.append({**where, "measure": measure, "label": cell or "all runs", "within": called, **means})
    table = pd.concat([pd.DataFrame(facts), as_table(corrected(effects, least_tests=1)).drop(columns="label")], axis=1)
    table.attrs["names"] = names
    return table


def both_sides(runs: pd.DataFrame, measure: str, keys: list[str]) -> pd.Series:
    """The second table's mean minus the first's, by the keys."""
    means = runs.groupby(keys)[[f"{measure}_1", f"{measure}_2"]].mean()
    return means[f"{measure}_2"] - means[f"{measure}_1"]


def slope_against(condition: str) -> Within:
    """For `compare(within=...)`: the least-squares slope of a measure on a condition, over the runs of one image.

    compare(tables, ["object_px"], within=slope_against("motion_bucket_id"))       # px/frame per bucket
    """

    def slope(runs: pd.DataFrame, measure: str) -> float:
        columns("runs", runs, condition)
        x, y = numbers(runs[condition]), numbers(runs[measure])
        seen = x.notna() & y.notna()
        return float(np.polyfit(x[seen], y[seen], 1)[0]) if x[seen].nunique() > 1 else math.nan

    slope.__name__ = f"slope against {condition}"
    return slope


def _side_by_side(tables: Mapping[str, pd.DataFrame], measures: list[str], by: list[str]) -> tuple[list[str], pd.DataFrame]:
    """The runs of both tables in one: measure_1 of the first, measure_2 of the second."""
    if len(tables) != 2 or not measures:
        raise InputError(f"{len(tables)} tables ({', '.join(tables)}), {len(measures)} measures: give two, and one or more.")
    names = list(tables)
    shared = [c for c in CONDITIONS if all(c in t for t in tables.values()) and c not in FILLED_BY_CHECKPOINT]
    if any(t["scheduler"].map(_cell).eq("").any() for t in tables.values() if "scheduler" in shared):
        shared.remove("scheduler")  # a measured file does not say it
    keys, parts = list(dict.fromkeys(["image", "seed", *shared, *by])), []
    if taken := [measure for measure in measures if measure in keys]:
        raise InputError(f"{taken[0]!r} is no measure: runs are paired by it.")
    for side, (label, table) in enumerate(tables.items(), 1):
        table = columns("table", table, "image", "seed", *measures, *by).reset_index(drop=True)
        part = table[keys].map(_cell).assign(**{f"{m}_{side}": numbers(table[m]) for m in measures})
        if part.duplicated(keys).any():
            raise InputError(f"the table of {label!r} holds a run twice: compare one run per image, seed and condition.")
        parts.append(part)
    both = parts[0].merge(parts[1], on=keys, how="outer", indicator=True)
    alone = both[both["_merge"] != "both"]
    if len(alone):
        where = names[0] if alone["_merge"].iloc[0] == "left_only" else names[1]
        what = ", ".join(f"{k} {v}" for k, v in alone[keys].iloc[0].items() if v != "")
        raise InputError(f"{len(alone)} runs have no partner, one ({what}) only in {where!r}: sweep both with the same plan.")
    return names, both.drop(columns="_merge")


def _number(called: str, value: Any) -> float:
    """What a function of `within` gave, as a float; InputError where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"within={called} gave {shown(value)}: give a function that returns a number.") from error


def _cell(value: Any) -> Any:
    """What can be compared: lists as text, and one kind of nothing."""
    value = None if value is pd.NA else plain(value)
    return "" if value is None else str(value) if isinstance(value, list) else value
