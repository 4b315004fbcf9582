"""Plans: DataFrames with one row per clip. A grid is one way to write one.

>>> plan = grid(fps=[6, 12, 24], motion_bucket_id=[40, 127, 250], seed=range(4))
>>> len(plan)
36

Columns are conditions by diffusers' names, `seed`, `image` (path or sample name), `flip_noise`, and `label_...` columns, which
are carried along. What a plan leaves out keeps its default. `flip_noise` (empty, left_right, up_down or half_turn) flips the
seed's noise, for the other half of a mirrored pair.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.pipeline.conditions import Conditions

DEFAULTS = {f.name: f.default for f in fields(Conditions)}
CONDITIONS = tuple(DEFAULTS)
COLUMNS = (*CONDITIONS, "seed", "image", "flip_noise")
_SEQUENCES = ("guidance_curve", "guidance_interval")  # one value may be a tuple
_FLOATS = ("noise_aug_strength", "min_guidance_scale", "max_guidance_scale", "playback_fps")


def grid(**axes: Any) -> pd.DataFrame:
    """Every combination of the given values, the last axis fastest.

    >>> plan = grid(image=["astronaut", "cat"], motion_bucket_id=range(1, 256, 50), seed=[0, 1, 2])

    axes: conditions, `seed`, `image`; each one value or several (list, range, array; for guidance_curve and
    guidance_interval a row of numbers is one value). Raises InputError for an unknown name or an empty axis.
    """
    check_columns(axes)
    values = {name: _axis(name, axis) for name, axis in axes.items()}
    if empty := [name for name in axes or COLUMNS if not values.get(name)]:
        raise InputError(f"the grid is empty: give values for {', '.join(empty)}.")
    return _table([dict(zip(axes, row, strict=True)) for row in itertools.product(*values.values())])


def read_plan(path: str | Path) -> pd.DataFrame:
    """A plan from a file: .csv or .parquet with a row per clip; .yaml or .json with the axes of a grid, or a list of rows.

    >>> _ = Path("grid.yaml").write_text("fps: [6, 12]")
    >>> read_plan("grid.yaml").fps.tolist()
    [6, 12]

    Empty cells keep the default. Raises InputError for what cannot be read, and for unknown columns.
    """
    path = Path(path).expanduser()
    readers: dict[str, Any] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    readers |= dict.fromkeys((".yaml", ".yml", ".json"), read_yaml)
    if path.suffix not in readers or not path.is_file():
        raise InputError(f"there is no plan {path}: give a .csv, .parquet, .yaml or .json file.")
    try:
        content = readers[path.suffix](path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as a plan: {error}") from error
    if isinstance(content, pd.DataFrame):
        content = content.astype(object).where(content.notna(), None)
    return grid(**content) if isinstance(content, dict) else as_plan([] if isinstance(content, str) else content)


def read_yaml(path: Path) -> Any:
    """The content of a YAML or JSON file; raises InputError where it is neither."""
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from error


def as_plan(plan: Any) -> pd.DataFrame:
    """A DataFrame, a list of rows (dicts), or a plan file's path, checked: known columns, at least one row."""
    if isinstance(plan, (str, Path)):
        return read_plan(plan)
    if not isinstance(plan, pd.DataFrame):
        try:
            plan = _table([dict(row) for row in plan])
        except (TypeError, ValueError) as error:
            raise InputError(f"plan is a {type(plan).__name__}: give a DataFrame, a list of dicts, or a file.") from error
    check_columns(plan.columns)
    if not len(plan):
        raise InputError("the plan has no rows: nothing would be made.")
    return plan


def check_columns(names: Iterable[Any]) -> None:
    """Raises InputError where a name is no plan column and no label_ column."""
    unknown = [name for name in names if name not in COLUMNS and not re.fullmatch(r"label_\w+", str(name))]
    if unknown:
        raise InputError(
            f"unknown column {', '.join(map(repr, unknown))}: a plan has {', '.join(COLUMNS)}; "
            f"columns of your own are carried along when their names begin with label_."
        )


def condition_rows(plan: pd.DataFrame) -> list[tuple]:
    """The plan's conditions as rows in the order of CONDITIONS, in one canonical form: 7, 7.0 and a CSV's 7 are one fps."""
    columns = []
    for name in CONDITIONS:
        cells = plan[name].tolist() if name in plan else [None] * len(plan)
        columns.append([_canonical(name, tuple(c) if isinstance(c, (list, np.ndarray)) else c) for c in cells])
    return list(zip(*columns, strict=True))


@lru_cache(typed=True)  # columns repeat few values
def _canonical(name: str, value: Any) -> Any:
    default = DEFAULTS[name]
    if value is None or value is pd.NA:
        value = default  # an empty cell
    if value is None or (default is None and isinstance(value, float) and math.isnan(value)):
        return None  # pandas writes NaN for None; where None is not allowed, Conditions refuses NaN
    if name in _SEQUENCES:
        try:  # in a CSV file it is a text in brackets
            value = ast.literal_eval(value) if isinstance(value, str) and value[:1] in ("[", "(") else value
            return value if isinstance(value, str) else tuple(float(v) for v in value)
        except (ValueError, SyntaxError, TypeError) as error:
            raise InputError(f"{name}={value!r}: give numbers, as in [1.0, 2.5].") from error
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value  # for Conditions to refuse
    return float(value) if name in _FLOATS else int(value) if float(value).is_integer() else value


def _axis(name: str, axis: Any) -> list[Any]:
    several = isinstance(axis, Iterable) and not isinstance(axis, (str, Mapping))
    if not several or (name == "image" and isinstance(axis, np.ndarray)):
        return [axis]
    values = [tuple(value) if isinstance(value, list) else value for value in axis]
    return [tuple(values)] if values and name in _SEQUENCES and all(isinstance(v, Real) for v in values) else values


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """What a row lacks is None, in a column of dtype object: pandas would turn whole numbers beside NaN into floats."""
    absent = dict.fromkeys(name for row in rows for name in row)
    table = pd.DataFrame([absent | row for row in rows], dtype=object)
    return table.apply(lambda column: column if column.isna().any() else column.infer_objects())
