"""A table of runs as cells: which conditions were swept, which run is at a point, what is missing there, what is near.

>>> cells = Cells(svdlab.load_results("results/study"))
>>> cells.axes
{'fps': [6, 12], 'seed': [0, 1, 2]}
>>> cells.at({"fps": 6, "seed": 2})                        # position of the run in cells.table, or None
2
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.study.plans import CONDITIONS
from svdlab.study.sweeps import load_results

AXES = ("checkpoint", "weights", "intervention", "image", *CONDITIONS, "seed")  # what a sweep may vary, in the order shown
KEPT = (*AXES, "noise", "fps_id", "seconds_denoising", "seconds_decoding", "abstained")  # numbers that measure no clip
FIRST = ("object_px", "camera_px", "flow_px", "object_area", "zoom_pct", "drift_ssim_last", "drift_colour_last")
MOST_MEASURES = 12


class Cells:
    """The runs of a sweep, found by their conditions.

    table: the runs in their order, numbered from 0. axes: each column that varies, with its values, sorted.
    """

    def __init__(self, results: Any) -> None:
        table = load_results(results) if isinstance(results, (str, Path)) else results
        if not isinstance(table, pd.DataFrame) or "frames" not in table or "preview" not in table:
            raise InputError(
                f"results is a {type(table).__name__}: give the table of svdlab.sweep or load_results, or a ledger's path."
            )
        if table.empty:
            raise InputError("the table has no runs: nothing to explore. Run svdlab.sweep first.")
        if isinstance(results, (str, Path)):  # a ledger's own order is that of its run ids, which is none
            columns = [name for name in AXES if name in table and table[name].astype(str).nunique() > 1]
            by = {
                name: table[name] if pd.api.types.is_numeric_dtype(table[name]) else table[name].astype(str)
                for name in columns
            }
            table = table.loc[pd.DataFrame(by).sort_values(columns).index] if columns else table
        self.table = table.reset_index(drop=True)
        self.axes: dict[str, list[Any]] = {}
        self._place: dict[tuple, int] = {}
        self._sort()

    def _sort(self) -> None:
        columns = {name: [_plain(v) for v in self.table[name]] for name in AXES if name in self.table}
        if {"checkpoint", "weights"} <= set(columns):
            versions = set(zip(columns["checkpoint"], columns["weights"], strict=True))
            if len(versions) == len(set(columns["checkpoint"])):
                del columns["weights"]  # one version of each checkpoint: its name says it
        self.axes = {name: _distinct(values) for name, values in columns.items() if len(set(values)) > 1}
        points = zip(*(columns[name] for name in self.axes), strict=True) if self.axes else iter([()])
        self._place = {}
        for n, point in enumerate(points):
            self._place.setdefault(point, n)

    def __len__(self) -> int:
        return len(self.table)

    def at(self, point: Mapping[str, Any]) -> int | None:
        """Where in the table the run with these values is; None where there is none."""
        return self._place.get(tuple(_plain(point[name]) for name in self.axes))

    def point(self, place: int) -> dict[str, Any]:
        """The values of a run on all axes."""
        return {name: _plain(self.table[name].iloc[place]) for name in self.axes}

    def nearest(self, point: Mapping[str, Any]) -> int:
        """The run that differs in the fewest axes and, among these, by the fewest places along them."""
        ranks = {name: {v: n / max(1, len(values) - 1) for n, v in enumerate(values)} for name, values in self.axes.items()}

        def distance(other: tuple) -> tuple[int, float]:
            pairs = [(ranks[n][_plain(point[n])], ranks[n][v]) for n, v in zip(self.axes, other, strict=True)]
            return sum(a != b for a, b in pairs), sum(abs(a - b) for a, b in pairs)

        return self._place[min(self._place, key=distance)]

    def row_to_make(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The missing run as a row of a plan: the point's values, and what all runs have in common."""
        first = self.table.iloc[0]
        names = [name for name in (*CONDITIONS, "image", "seed") if name in self.table]
        shared = {name: _plain(first[name]) for name in names if name not in self.axes}
        return {k: v for k, v in {**shared, **{n: point[n] for n in names if n in self.axes}}.items() if v is not None}

    def add(self, rows: pd.DataFrame) -> int:
        """Append new runs; the place of the first."""
        at = len(self.table)
        self.table = pd.concat([self.table, rows], ignore_index=True)
        self._sort()
        return at

    def measures(self, wanted: Sequence[str] | None = None) -> list[str]:
        """Columns that hold a measure with at least two different numbers; InputError for a wanted one that is absent."""
        if wanted is not None:
            absent = [name for name in wanted if name not in self.table]
            if absent:
                raise InputError(f"no column {absent[0]!r}: the table has {', '.join(map(str, self.table.columns))}.")
            return list(wanted)
        numeric = [str(c) for c in self.table.select_dtypes("number") if c not in KEPT and not str(c).startswith("label_")]
        varying = [c for c in numeric if self.table[c].nunique() > 1]
        return [*(c for c in FIRST if c in varying), *(c for c in varying if c not in FIRST)][:MOST_MEASURES]

    def like(self, point: Mapping[str, Any], free: Sequence[str]) -> pd.DataFrame:
        """The runs that agree with a point on every axis but the free ones."""
        table = self.table[self.table["status"] == "done"] if "status" in self.table else self.table
        for name in self.axes:
            if name not in free:
                wanted = _plain(point[name])
                table = table[[_plain(v) == wanted for v in table[name]]]
        return table


def ledger_of(table: pd.DataFrame) -> Path | None:
    """The ledger that a table's runs are in, from the paths of their files; None where they are in several, or nowhere."""
    roots = {Path(p).parents[2] for p in table["frames"] if isinstance(p, str) and p}
    return roots.pop() if len(roots) == 1 else None


def _plain(value: Any) -> Any:
    """A cell as Python has it: one key for 7 and 7.0, None for what is empty."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Each value once: nothing first, numbers by size, then text by name."""

    def order(value: Any) -> tuple:
        number = isinstance(value, (int, float))
        return (value is not None, not number, value if number else str(value))

    return sorted(set(values), key=order)
