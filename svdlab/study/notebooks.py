"""Run notebooks with parameters: one, or one for each point of a grid.

    >>> run("01-conditioning-sweep", motion_bucket_id=[40, 200])                       # doctest: +SKIP
    >>> table = run_grid("01-conditioning-sweep", {"fps": [6, 12]}, jobs=2)            # doctest: +SKIP

papermill executes; a parameter that the notebook does not have, of which papermill only warns, raises before anything runs.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import yaml

from svdlab.errors import InputError, MissingExtraError, RunError
from svdlab.measure.files import hash_facts, hash_file, plain, write_whole
from svdlab.study import plans

POINT = "point.json"
NOTEBOOKS = (Path(__file__).parents[2] / "notebooks", Path("notebooks"))
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def run(notebook: str | Path, /, out: str | Path | None = None, *, progress: bool = True, **parameters: Any) -> Path:
    """Execute a notebook and return the executed copy's path, in `out` (default `results/<its name>/`).

    >>> run("00-tour")                                                                 # doctest: +SKIP
    PosixPath('results/00-tour/00-tour.ipynb')

    A notebook with a parameter called `out` is given that folder. Raises InputError for an unknown notebook, an unknown
    parameter or one of another type; RunError, with the cell, where the notebook fails: the executed copy is there.
    """
    path = find(notebook)
    folder = Path("results", path.stem) if out is None else Path(out).expanduser()
    check_parameters(path, parameters)
    cell, error = _execute(path, folder, parameters, progress)
    if error:
        raise RunError(f"{path.name}, {cell}: {error} (see {folder / path.name})")
    return folder / path.name


def run_grid(
    notebook: str | Path, grid: Mapping[str, Any] | str | Path, jobs: int = 1, out: str | Path | None = None
) -> pd.DataFrame:
    """Execute a notebook once for each combination of parameters, `jobs` at a time; a row for each, in the grid's order.

    >>> table = run_grid("01-conditioning-sweep", "grid.yaml", jobs=2)                 # doctest: +SKIP
    >>> table[table.status == "failed"][["fps", "cell", "error"]]                      # doctest: +SKIP

    grid: parameter -> list of values, or a .yaml file of that. Each point has a folder of its own in `out` (default
    `results/<name>-grid/`), named by a hash of its parameters and of the notebook; points that are done are not run again.
    A point that fails does not stop the others. points.csv in `out` is the table. Raises InputError before anything runs.
    """
    path = find(notebook)
    axes = read_grid(grid)
    if "out" in axes:
        raise InputError("the grid sets 'out': each point is given a folder of its own below out=.")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for point in points:
        check_parameters(path, point)
    root = Path("results", f"{path.stem}-grid") if out is None else Path(out).expanduser()
    text = hash_file(path)

    def row(point: dict[str, Any]) -> dict[str, Any]:
        folder = root / hash_facts({"notebook": text, "parameters": point})
        with suppress(OSError, ValueError):  # not run yet, or interrupted
            done = json.loads((folder / POINT).read_text())
            if done["status"] == "done":
                return dict(done)
        cell, error = _execute(path, folder, point, progress=False)
        cells = {k: v if isinstance(v, (int, float, str, bool)) else json.dumps(plain(v)) for k, v in point.items()}
        status = dict(status="failed" if error else "done", cell=cell, error=error, notebook=str(folder / path.name))
        with write_whole(folder / POINT) as part:
            part.write_text(json.dumps({**cells, **status}))
        return {**cells, **status}

    from tqdm.auto import tqdm

    share = os.environ.get(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs))
    )  # kernels side by side share the cores
    with patch.dict(os.environ, OMP_NUM_THREADS=share), ThreadPoolExecutor(jobs) as pool:
        table = pd.DataFrame(list(tqdm(pool.map(row, points), total=len(points), desc=path.stem, unit="notebook")))
    with write_whole(root / "points.csv") as part:
        table.to_csv(part, index=False)
    return table


def find(notebook: str | Path) -> Path:
    """A notebook by path, or by name in `notebooks/` here or of the clone; InputError lists those there are."""
    path = Path(notebook).expanduser()
    if path.suffix == ".ipynb" and path.is_file():
        return path
    there = {found.stem: found for place in NOTEBOOKS for found in sorted(place.glob("*.ipynb"))}
    if path.name.removesuffix(".ipynb") not in there:
        raise InputError(
            f"no notebook {str(notebook)!r}: give the path of an .ipynb, or {', '.join(sorted(there)) or 'none'}."
        )
    return there[path.name.removesuffix(".ipynb")]


def parameters_of(notebook: str | Path) -> dict[str, str]:
    """A notebook's parameters and the types that its parameters cell declares ("None" for none)."""
    return {name: facts["inferred_type_name"] for name, facts in _papermill().inspect_notebook(str(notebook)).items()}


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raises InputError for a parameter that the notebook does not have, or of another type than it declares."""
    known = parameters_of(path)
    for name, value in parameters.items():
        if name not in known:
            listed = ", ".join(f"{k} ({kind})" for k, kind in known.items()) or "none"
            raise InputError(f"{path.name} has no parameter {name!r}: it has {listed}.")
        wanted = KINDS.get(known[name], (object,))
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (KINDS["int"], KINDS["float"])):
            raise InputError(f"{path.name}: {name}={value!r} is a {type(value).__name__}, and it declares {known[name]}.")


def read_value(text: str) -> Any:
    """A word of the command line as a value, by YAML; InputError where it is none.

    >>> read_value("[6, 12]"), read_value("1e-3"), read_value("cat")
    ([6, 12], 0.001, 'cat')
    """
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", text):
        return float(text)  # 1e-3 is a number in YAML 1.2, and a word in PyYAML's 1.1
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{text!r} cannot be read as a value: {' '.join(str(error).split())}") from None


def read_grid(grid: Mapping[str, Any] | str | Path) -> dict[str, list[Any]]:
    """A grid, or a YAML file of one, as parameter -> list of values; a single value is a list of one."""
    if not isinstance(grid, Mapping):
        grid = plans.read_yaml(Path(grid))
    if not isinstance(grid, Mapping) or not grid:
        raise InputError("a grid maps parameters to lists of values, as in  fps: [6, 12].")
    many = lambda axis: isinstance(axis, Iterable) and not isinstance(axis, (str, Mapping))
    axes = {str(name): list(axis) if many(axis) else [axis] for name, axis in grid.items()}
    if empty := [name for name, axis in axes.items() if not axis]:
        raise InputError(f"{empty[0]} has no values: the grid would be empty.")
    return axes


def _execute(path: Path, folder: Path, parameters: Mapping[str, Any], progress: bool) -> tuple[str, str]:
    """Which cell failed, and how: ("", "") where none did."""
    papermill = _papermill()
    given = {"out": str(folder), **parameters} if "out" in parameters_of(path) else dict(parameters)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(path, folder / path.name, parameters=given, progress_bar=progress, log_output=False)
    except papermill.PapermillExecutionError as error:
        return f"In [{error.exec_count}]", f"{error.ename}: {error.evalue}"
    except Exception as error:  # a folder that is none, a kernel that died or never came up: the next point may fare better
        return "between cells", f"{type(error).__name__}: {error}"
    return "", ""


def _papermill() -> Any:
    try:
        import papermill
    except ImportError as error:
        raise MissingExtraError("running notebooks needs papermill: pip install 'svdlab[notebooks]'.") from error
    return papermill
