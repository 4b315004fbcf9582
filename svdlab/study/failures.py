"""Failures of a study as a table, and how often each happens under each condition.

>>> failures(results).columns[:4].tolist()
['run_id', 'kind', 'value', 'threshold']
>>> rates(results, by="motion_bucket_id").query("kind == 'drift'")[["level", "value", "low", "high", "n"]].shape
(3, 5)

What fails, and from which threshold on: `svdlab.measure.failures.KINDS`. As filmstrips: `svdlab.show.failures`.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from svdlab.errors import columns, several, takes, text
from svdlab.measure.failures import judge, kinds_of
from svdlab.show.labels import captions, name, number
from svdlab.stats.effects import as_table, share
from svdlab.study.plans import COLUMNS, CONDITIONS, LORA

TITLES = ("kind", "condition", "level", "clips", "failed")


@takes(kinds=kinds_of)
def failures(results: pd.DataFrame, *, kinds: Sequence[str] | None = None) -> pd.DataFrame:
    """The clips that fail, a row for each kind of failure, the worst first, with what makes each again.

    >>> found = failures(results)
    >>> again = found[found.columns.intersection(svdlab.study.plans.COLUMNS)].drop_duplicates()     # a plan for svdlab.sweep

    results: the table of a sweep, a measured folder or a probe. Columns: `run_id`; `kind`; `value`, `threshold` and
    `severity`, the one over the other; `reason`, in words; `which`, what tells the clip from others; then the plan's columns
    and `frames`. Runs without a clip are not among them. Raises InputError for a table that has no measure.
    """
    found = judge(results, kinds)
    found = found[found["failed"]].reset_index(drop=True)
    runs = results.iloc[found["run"]].reset_index(drop=True)
    kept = runs[[c for c in (*COLUMNS, "intervention", "checkpoint", "frames") if c in runs]]
    found = found.drop(columns=["run", "failed"]).assign(which=captions(runs, results))
    found.insert(0, "run_id", runs.get("run_id", ""))
    return pd.concat([found, kept], axis=1)


@takes(kinds=kinds_of)
def rates(results: pd.DataFrame, by: str | Sequence[str] | None = None, *, kinds: Sequence[str] | None = None) -> pd.DataFrame:
    """The share of clips that fail, by kind and by the values of each condition, with its 95 % interval.

    >>> table = rates(results, by=["fps", "motion_bucket_id"])
    >>> table[table.failed > 0][["kind", "condition", "level", "failed", "clips", "value", "low", "high"]]
    >>> show.forest(rates(results, kinds=["drift"]), by="condition", of=results)

    by: columns; default the conditions that vary. A first row per kind is of all clips. Images are the units, so that clips of
    one image are no independent evidence (`svdlab.stats.share`); `value`, `low`, `high`, `n` (images) and the rest are an
    Effect's. Clips without a number for a kind are left out of it.
    """
    columns("results", results)
    varied = [c for c in (*CONDITIONS, *LORA) if c in results and results[c].astype(str).nunique() > 1]
    axes = varied if by is None else several("by", [by] if isinstance(by, str) else by, text, distinct=True)
    columns("results", results, *axes)
    clips = results.reset_index(drop=True)
    unit = next((c for c in ("stimulus", "image", "run_id") if c in clips), None)
    clips = clips.assign(stimulus=clips[unit] if unit else clips.index)
    rows, made = [], []
    for kind, found in judge(results, kinds).groupby("kind", sort=False):
        own = clips.loc[found["run"]].assign(fails=found["failed"].to_numpy())
        groups: list[tuple[str, Any, pd.DataFrame]] = [("all", "", own)]
        groups += [(axis, level, part) for axis in axes for level, part in own.groupby(axis, sort=True)]
        for axis, level, part in groups:
            label = f"{kind}, {'all clips' if axis == 'all' else f'{name(axis)} {number(level)}'}"
            made.append(share(label, f"{{}} of clips fail by {label}", part, "fails"))
            rows.append((kind, axis, level, len(part), int(part["fails"].sum())))
    table = pd.DataFrame(rows, columns=[*TITLES])
    return pd.concat([table, as_table(made).assign(label=[e.key for e in made])], axis=1)
