"""Plans: DataFrames with one row per clip to make. A grid is one way to write one.

    >>> grid(fps=[6, 12, 24], motion_bucket_id=[40, 127, 250], seed=range(4))          # 36 rows
    >>> random_plan(50, seed=0, motion_bucket_id=(1, 255), noise_aug_strength=(0.0, 0.5), seeds=[0, 1])
    >>> read_plan("plan.csv")                                                          # or .parquet, or a grid in .yaml

Columns are conditions by diffusers' names, `seed`, `image` (path or sample's name), `noise`, and `label_...` columns
that are carried along. What a plan leaves out keeps its default. `noise` says how the rows share their noise:
"common" where every seed meets all conditions (so that conditions are compared on equal noise, pair by pair),
"own" where each row has its own. `flip_noise` (empty, left_right, up_down or half_turn) turns the seed's noises round,
for the other half of a mirrored pair.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.pipeline.conditions import Conditions

CONDITIONS = tuple(f.name for f in fields(Conditions))
DEFAULTS = {f.name: f.default for f in fields(Conditions)}
COLUMNS = (*CONDITIONS, "seed", "image", "noise", "flip_noise")
SHARING = ("common", "own")
_SEQUENCES = ("guidance_curve", "guidance_interval")  # conditions whose one value may be a tuple
_FLOATS = ("noise_aug_strength", "min_guidance_scale", "max_guidance_scale", "playback_fps")
_OPTIONAL = tuple(name for name, default in DEFAULTS.items() if default is None)


def grid(**axes: Any) -> pd.DataFrame:
    """Every combination of the values given, the last axis running fastest.

    >>> grid(image=["astronaut", "cat"], motion_bucket_id=range(1, 256, 50), seed=[0, 1, 2])

    axes: conditions, `seed`, `image`; each one value or several (list, range, array; a tuple is one value for
    guidance_curve and guidance_interval). Raises InputError for an unknown name, an empty axis or a value that
    is not allowed.
    """
    if not axes:
        raise InputError(f"grid() without axes has no rows: give some of {', '.join(COLUMNS)}.")
    check_columns(axes)
    values = {name: _axis(name, axis) for name, axis in axes.items()}
    rows = itertools.product(*values.values())
    plan = pd.DataFrame(
        {name: pd.Series(column, dtype=_dtype(column)) for name, column in zip(values, zip(*rows, strict=True), strict=True)}
    )
    return plan if "noise" in plan else plan.assign(noise="common")


def random_plan(n: int, *, seed: int, seeds: Iterable[int] = (0,), common: bool = True, **ranges: Any) -> pd.DataFrame:
    """n conditions drawn at random, each with every one of `seeds`.

    >>> random_plan(100, seed=1, fps=(5, 30), guidance_curve=["linear", "triangle"], image=["cat"])

    seed: of the drawing. seeds: of the noise; common=False gives each row a seed of its own instead. ranges: (low,
    high) drawn uniformly (whole numbers, both ends included, where both are whole numbers), or a list to choose from.
    """
    if not isinstance(n, int) or n < 1:
        raise InputError(f"n={n!r}: must be a whole number of at least 1.")
    check_columns(ranges)
    rng = np.random.default_rng(seed)
    drawn = {name: _draw(rng, name, what, n) for name, what in ranges.items()}
    plan = pd.DataFrame({name: pd.Series(column, dtype=_dtype(column)) for name, column in drawn.items()}, index=range(n))
    noises = [int(s) for s in seeds]
    if not noises:
        raise InputError("seeds is empty: give at least one.")
    plan = plan.loc[np.repeat(np.arange(n), len(noises))].reset_index(drop=True)
    own = [int(s) for s in rng.choice(2**31, size=len(plan), replace=False)] if not common else noises * n
    return plan.assign(seed=own, noise="common" if common else "own")


def read_plan(path: str | Path) -> pd.DataFrame:
    """A plan from a file: .csv or .parquet with a row per clip; .yaml or .json with the axes of a grid, or a list of rows.

    >>> read_plan("grid.yaml")                      # fps: [6, 12]  and  motion_bucket_id: [40, 127, 250]

    Empty cells keep the default. Raises InputError for what cannot be read, and for unknown columns.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no plan {path}: give a .csv, .parquet, .yaml or .json file.")
    if path.suffix in (".yaml", ".yml", ".json"):
        content = read_yaml(path)
        if isinstance(content, Mapping):
            return grid(**{str(name): axis for name, axis in content.items()})
        if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
            raise InputError(f"{path} is neither a mapping from names to values, nor a list of rows.")
        return as_plan([{str(k): v for k, v in row.items()} for row in content])
    readers: dict[str, Any] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise InputError(f"{path}: a plan is a .csv, .parquet, .yaml or .json file.")
    try:
        plan = readers[path.suffix](path)
        return as_plan(plan.astype(object).where(plan.notna(), None))
    except (ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a plan: {error}") from error


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
            rows = [dict(row) for row in plan]
        except (TypeError, ValueError) as error:
            raise InputError(f"plan is a {type(plan).__name__}: give a DataFrame, a list of dicts, or a file.") from error
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = {name: [row.get(name) for row in rows] for name in columns}
        series = {name: pd.Series(column, dtype=_dtype(column)) for name, column in cells.items()}
        plan = pd.DataFrame(series, index=range(len(rows)))
    check_columns(plan.columns)
    if not len(plan):
        raise InputError("the plan has no rows: nothing would be made.")
    return plan


def check_columns(names: Iterable[Any]) -> None:
    """Raises InputError where a name is no condition, seed, image or noise, and no label_ column."""
    unknown = [name for name in names if name not in COLUMNS and not re.fullmatch(r"label_\w+", str(name))]
    if unknown:
        raise InputError(
            f"unknown column {', '.join(map(repr, unknown))}: a plan has {', '.join(COLUMNS)}; "
            f"columns of your own are carried along when their names begin with label_."
        )


def condition_rows(plan: pd.DataFrame) -> list[tuple]:
    """The plan's conditions as rows in the order of CONDITIONS, in one canonical form: 7, 7.0 and "7" of a CSV are one fps."""
    columns = []
    for name in CONDITIONS:
        if name in plan:
            seen: dict[Any, Any] = {}
            columns.append([_canonical(name, value, seen) for value in plan[name].tolist()])
        else:
            columns.append([_value(name, DEFAULTS[name])] * len(plan))
    return list(zip(*columns, strict=True))


def _canonical(name: str, value: Any, seen: dict[Any, Any]) -> Any:
    """`_value`, computed once for each of a column's values. 1, 1.0 and True are one key, so the type is in it too."""
    key = (type(value), value if not isinstance(value, (list, np.ndarray)) else tuple(value))
    if key not in seen:
        seen[key] = _value(name, value)
    return seen[key]


def _value(name: str, value: Any) -> Any:
    if value is None or value is pd.NA:
        value = DEFAULTS[name]  # an empty cell
    if value is None or (isinstance(value, float) and math.isnan(value) and name in _OPTIONAL):
        return None  # where None is allowed, pandas writes NaN for it; elsewhere NaN is left for Conditions to refuse
    if name in _SEQUENCES:
        if isinstance(value, str) and value.startswith("["):  # as tables of results write it
            value = json.loads(value)
        return value if isinstance(value, str) else tuple(float(v) for v in value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value  # for Conditions to refuse
    return float(value) if name in _FLOATS else int(value) if float(value).is_integer() else value


def _axis(name: str, axis: Any) -> list[Any]:
    single = isinstance(axis, (str, bytes, Mapping)) or not isinstance(axis, Iterable) or hasattr(axis, "getbands")
    array_image = name == "image" and isinstance(axis, np.ndarray)
    if single or array_image or (isinstance(axis, tuple) and name in _SEQUENCES):
        values = [axis]
    else:
        values = list(axis)
    values = [v.item() if isinstance(v, np.generic) else tuple(v) if isinstance(v, list) else v for v in values]
    if not values:
        raise InputError(f"{name} has no values: the grid would be empty.")
    if name in CONDITIONS:
        for value in values:
            _check_alone(name, value)
    return values


def _check_alone(name: str, value: Any) -> None:
    """What is wrong with one value whatever the others are; the combination is checked when it is swept."""
    if name in ("min_guidance_scale", "max_guidance_scale"):
        Conditions(min_guidance_scale=value, max_guidance_scale=value)
    elif name != "guidance_curve" or isinstance(value, str):
        Conditions(**{name: value})


def _draw(rng: np.random.Generator, name: str, what: Any, n: int) -> list[Any]:
    if isinstance(what, tuple) and len(what) == 2 and all(isinstance(v, (int, float)) for v in what):
        low, high = what
        if not low <= high:
            raise InputError(f"{name}={what!r}: give (low, high), low first.")
        whole = isinstance(low, int) and isinstance(high, int)
        return (rng.integers(low, high, n, endpoint=True) if whole else rng.uniform(low, high, n)).tolist()
    values = _axis(name, what)
    return [values[i] for i in rng.integers(len(values), size=n)]


def _dtype(values: Iterable[Any]) -> Any:
    """Object where values are of several kinds or no scalars, so that pandas turns no whole number into a float."""
    kinds = {type(v) for v in values}
    return None if len(kinds) == 1 and kinds <= {int, float, str} else object
