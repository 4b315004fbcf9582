"""The runs of a sweep by their conditions, and the rows of a plan that make clips again.

>>> runs = Runs(results)
>>> runs.axes
{'fps': [6, 12], 'motion_bucket_id': [40, 200]}
>>> runs.at(runs.point(2))                                 # row of `runs.table`, None where it was not run
2
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.measure.files import plain
from svdlab.pipeline.generate import Call
from svdlab.study.plans import CONDITIONS
from svdlab.study.sweep import load_results

AXES = ("checkpoint", "weights", "intervention", "image", *CONDITIONS, "seed")  # what a sweep may vary, in the order shown
NO_MEASURE = (*AXES, "fps_id", "seconds_denoising", "seconds_decoding", "abstained")  # numbers, but not of a clip
FIRST = ("object_px", "camera_px", "flow_px", "object_area", "zoom_pct", "drift_ssim_last", "drift_colour_last")
MOST_MEASURES = 12


class Runs:
    """A table of runs, found by their conditions.

    table: the runs in their order, numbered from 0. axes: each column that varies, with its values, sorted.
    """

    def __init__(self, results: Any) -> None:
        table = load_results(results) if isinstance(results, (str, Path)) else results
        if not isinstance(table, pd.DataFrame) or not {"frames", "preview"} <= set(table):
            raise InputError(
                f"results is a {type(table).__name__}: give the table of svdlab.sweep or load_results, or a study's folder."
            )
        if table.empty:
            raise InputError("the table has no runs: nothing to explore. Run svdlab.sweep first.")
        self._set(table)
        if isinstance(results, (str, Path)) and self.axes:  # a study's folder lists its runs by id: no order to walk in
            self._set(self.table.iloc[np.lexsort(self._places.T[::-1])])

    def _set(self, table: pd.DataFrame) -> None:
        self.table = table.reset_index(drop=True)
        columns = {name: list(map(cell, table[name])) for name in AXES if name in table}
        if {"checkpoint", "weights"} <= set(columns):
            versions = set(zip(columns["checkpoint"], columns["weights"], strict=True))
            if len(versions) == len(set(columns["checkpoint"])):
                del columns["weights"]  # one version of each checkpoint: its name is enough
        self.axes = {name: sorted(set(values), key=_order) for name, values in columns.items() if len(set(values)) > 1}
        orders = {name: {value: n for n, value in enumerate(values)} for name, values in self.axes.items()}
        places = [[order[value] for value in columns[name]] for name, order in orders.items()]
        self._places = np.array(places, dtype=int).reshape(len(places), len(table)).T  # "runs axes": each run along each axis

    def __len__(self) -> int:
        return len(self.table)

    def _steps_from(self, point: Mapping[str, Any]) -> np.ndarray:
        """How many values every run is away from a point along each axis, "runs axes"."""
        return np.abs(self._places - [values.index(cell(point[name])) for name, values in self.axes.items()])

    def at(self, point: Mapping[str, Any]) -> int | None:
        """The run with these values on all axes, the first of several; None where there is none."""
        found = np.flatnonzero((self._steps_from(point) == 0).all(1))
        return int(found[0]) if len(found) else None

    def point(self, place: int) -> dict[str, Any]:
        """The values of a run on all axes."""
        return {name: cell(self.table[name].iloc[place]) for name in self.axes}

    def nearest(self, point: Mapping[str, Any]) -> int:
        """The run that differs in the fewest axes and, among these, by the shortest way along them."""
        steps = self._steps_from(point)
        way = (steps / [max(1, len(values) - 1) for values in self.axes.values()]).sum(1)
        return int(np.lexsort((way, (steps > 0).sum(1)))[0])

    def like(self, point: Mapping[str, Any], free: Collection[str]) -> pd.DataFrame:
        """The finished runs that agree with a point on every axis but the free ones."""
        bound = [name not in free for name in self.axes]
        table = self.table[(self._steps_from(point)[:, bound] == 0).all(1)]
        return table[table["status"] == "done"] if "status" in table else table

    def row_to_make(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A missing run as a row of a plan: the point's values, and what all runs have in common."""
        return _row({**self.table.iloc[0], **point})

    def add(self, rows: pd.DataFrame) -> int:
        """Append new runs; the place of the first."""
        place = len(self)
        self._set(pd.concat([self.table, rows], ignore_index=True))
        return place

    def measures(self, wanted: Sequence[str] | None = None) -> list[str]:
        """The wanted columns; by default measures that vary. Raises InputError for a column that is not there."""
        if wanted is not None:
            absent = [name for name in wanted if name not in self.table]
            if absent:
                raise InputError(f"no column {absent[0]!r}: the table has {', '.join(map(str, self.table.columns))}.")
            return list(wanted)
        numeric = [str(c) for c in self.table.select_dtypes("number") if not str(c).startswith("label_")]
        varying = [c for c in numeric if c not in NO_MEASURE and self.table[c].nunique() > 1]
        return sorted(varying, key=lambda c: FIRST.index(c) if c in FIRST else len(FIRST))[:MOST_MEASURES]


def study_of(table: pd.DataFrame) -> Path:
    """The study that runs are in, from the paths of their files. Raises InputError where it is not one."""
    roots = {Path(path).parents[2] for path in table["frames"] if isinstance(path, str) and path}
    if len(roots) != 1:
        raise InputError("the runs are not all in one study: nowhere to look for one, or to put another.")
    return roots.pop()


def cell(value: Any) -> Any:
    """A cell as Python has it, to be compared: one key for 7 and 7.0, None for what is empty."""
    value = None if value is pd.NA else plain(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def _order(value: Any) -> tuple:
    """Nothing first, then numbers by size, then text by name."""
    number = isinstance(value, (int, float))
    return (value is not None, not number, value if number else str(value))


# --- rows of a plan ---------------------------------------------------------------------------------------------------


def row_of_run(run: pd.Series) -> dict[str, Any]:
    """A plan's row for a run of a study."""
    labels = {"label_run": "run_id", "label_checkpoint": "checkpoint", "label_image_hash": "image_hash"}
    labels = {label: str(run[column]) for label, column in labels.items() if column in run}
    return _row(run) | labels | _beyond({"intervention": run.get("intervention")})


def row_of_call(call: Call, image: Any) -> dict[str, Any]:
    """A plan's row for what made a clip. image: name or path, or the prepared image itself."""
    made = {f"label_{key}": getattr(call.source, key) for key in ("checkpoint", "revision", "weights_hash", "licence")}
    made |= {"label_image_hash": call.image, "image": image}
    made |= _row({**call.conditions.asdict(), "seed": call.seed}) | _beyond({"start": call.start, "edits": list(call.edits)})
    return {k: v for k, v in made.items() if v is not None}


def _row(values: Any) -> dict[str, Any]:
    """What a plan says of values by name: conditions, seed and image."""
    found = {name: cell(values[name]) for name in (*CONDITIONS, "seed", "image") if name in values}
    return {name: value for name, value in found.items() if value is not None}


def _beyond(facts: dict[str, Any]) -> dict[str, str]:
    """What no plan can express, where there is any."""
    facts = {name: value for name, value in facts.items() if value}
    return {"label_beyond_the_plan": json.dumps(facts)} if facts else {}
