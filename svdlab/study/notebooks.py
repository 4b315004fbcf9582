"""Run notebooks with parameters: one, or one for each point of a grid.

    >>> run("01-conditioning-sweep", motion_bucket_id=[40, 200])            # results/01-conditioning-sweep/
    >>> table = run_grid("01-conditioning-sweep", {"fps": [6, 12], "seed": [0, 1]}, jobs=2)

papermill executes; a parameter that the notebook does not have, of which papermill only warns, raises before anything runs.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from svdlab.errors import InputError, MissingExtraError, RunError
from svdlab.measure.files import hash_facts, hash_file, plain, write_whole
from svdlab.study import plans

POINT = "point.json"
OUT = "out"  # a notebook that has a parameter of this name is given its folder by it
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def run(notebook: str | Path, /, out: str | Path | None = None, *, progress: bool = True, **parameters: Any) -> Path:
    """Execute a notebook and return the executed copy's path, in `out` (default `results/<its name>/`).

    >>> run("00-tour")                                   # by name, or the path of an .ipynb
    PosixPath('results/00-tour/00-tour.ipynb')

    A notebook with a parameter called `out` is given that folder. Raises InputError for an unknown notebook, an unknown
    parameter (naming the known ones) or one of another type; RunError, with the cell, where the notebook fails:
    the executed copy is there all the same.
    """
    path = find(notebook)
    folder = Path("results", path.stem) if out is None else Path(out).expanduser()
    check_parameters(path, parameters)
    cell, error = _execute(path, folder, parameters, progress)
    if error:
        raise RunError(f"{path.name}, {cell}: {error} (see {folder / path.name})")
    return folder / path.name


def run_grid(
    notebook: str | Path,
    grid: Mapping[str, Any] | str | Path,
    jobs: int = 1,
    out: str | Path | None = None,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Execute a notebook once for each combination of parameters, `jobs` at a time; a row for each, in the grid's order.

    >>> table = run_grid("01-conditioning-sweep", "grid.yaml", jobs=2)
    >>> table[table.status == "failed"][["fps", "cell", "error"]]          # cell: its mark In [..] in the executed copy

    grid: parameter -> list of values, or a .yaml file of that. Each point has a folder of its own in `out` (default
    `results/<name>-grid/`), named by a hash of its parameters and of the notebook: points that are done are not run
    again. A point that fails does not stop the others. The table is also saved, as points.csv in `out`.
    Raises InputError before anything runs.
    """
    path = find(notebook)
    axes = read_grid(grid)
    if OUT in axes:
        raise InputError(f"the grid sets {OUT!r}: each point is given a folder of its own below out=.")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for point in points:
        check_parameters(path, point)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs={jobs!r}: give a whole number of at least 1.")
    root = Path("results", f"{path.stem}-grid") if out is None else Path(out).expanduser()
    text = hash_file(path)

    def row(point: dict[str, Any]) -> dict[str, Any]:
        folder = root / hash_facts({"notebook": text, "parameters": point})
        with suppress(OSError, ValueError):  # not run yet, or interrupted
            done = json.loads((folder / POINT).read_text())
            if done["status"] == "done" and (folder / path.name).is_file():
                return dict(done)
        start = time.perf_counter()
        cell, error = _execute(path, folder, point, progress=False)
        cells = {k: v if isinstance(v, (int, float, str, bool)) else json.dumps(plain(v)) for k, v in point.items()}
        status = dict(status="failed" if error else "done", cell=cell, error=error, notebook=str(folder / path.name))
        facts = {**cells, **status, "seconds": round(time.perf_counter() - start, 2)}
        with write_whole(folder / POINT) as part:
            part.write_text(json.dumps(facts))
        return facts

    from tqdm.auto import tqdm

    with _threads_shared(jobs), ThreadPoolExecutor(jobs) as pool:
        rows = tqdm(pool.map(row, points), total=len(points), desc=path.stem, unit="notebook", disable=not progress)
        table = pd.DataFrame(list(rows))
    with write_whole(root / "points.csv") as part:
        table.to_csv(part, index=False)
    return table


def find(notebook: str | Path) -> Path:
    """A notebook by path or by name, in `notebooks/` here, of the clone, or of the installed package.

    Raises InputError that lists those there are.
    """
    path = Path(notebook).expanduser()
    if path.suffix == ".ipynb" and path.is_file():
        return path
    package = Path(__file__).parents[1]
    places = (package / "notebooks", package.parent / "notebooks", Path("notebooks"))
    there = {found.stem: found for place in places for found in sorted(place.glob("*.ipynb"))}
    name = path.name.removesuffix(".ipynb")
    if name not in there:
        raise InputError(
            f"no notebook {str(notebook)!r}: give the path of an .ipynb, or {', '.join(sorted(there)) or '(none here)'}."
        )
    return there[name]


def parameters_of(notebook: str | Path) -> dict[str, dict[str, Any]]:
    """What a notebook's parameters cell declares: name -> {"inferred_type_name", "default", "help"}, by papermill."""
    return dict(_papermill().inspect_notebook(str(notebook)))


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raises InputError for a parameter that the notebook does not have, or of another type than it declares."""
    known = {name: facts["inferred_type_name"] for name, facts in parameters_of(path).items()}
    for name, value in parameters.items():
        if name not in known:
            listed = ", ".join(f"{k} ({kind})" for k, kind in known.items()) or "none"
            raise InputError(f"{path.name} has no parameter {name!r}: it has {listed}.")
        wanted = KINDS.get(known[name], (object,))
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (KINDS["int"], KINDS["float"])):
            raise InputError(
                f"{path.name}: {name}={value!r} is a {type(value).__name__}, and the notebook declares {known[name]}."
            )


class _Values(yaml.SafeLoader):
    """YAML 1.1 with the numbers of 1.2: 1e-3 is one."""


_Values.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_value(text: str) -> Any:
    """A word of the command line as a value, by YAML; InputError where it is none.

    >>> read_value("[6, 12]"), read_value("1e-3"), read_value("cat")
    ([6, 12], 0.001, 'cat')
    """
    try:
        return _Values(text).get_single_data()
    except yaml.YAMLError as error:
        raise InputError(f"{text!r} cannot be read as a value: {' '.join(str(error).split())}") from None


def read_grid(grid: Mapping[str, Any] | str | Path) -> dict[str, list[Any]]:
    """A grid, or a YAML file of one, as parameter -> list of values; a single value is a list of one."""
    if not isinstance(grid, Mapping):
        if not Path(grid).is_file():
            raise InputError(f"there is no grid file {grid}.")
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
    given = {OUT: str(folder), **parameters} if OUT in parameters_of(path) else dict(parameters)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(path), str(folder / path.name), parameters=given, progress_bar=progress, log_output=False
        )
    except papermill.PapermillExecutionError as error:
        return f"In [{error.exec_count}]", f"{error.ename}: {error.evalue}"
    except Exception as error:  # a folder that is none, a kernel that died or never came up: the next point may fare better
        return "between cells", f"{type(error).__name__}: {error}"
    return "", ""


@contextmanager
def _threads_shared(jobs: int) -> Iterator[None]:
    """Kernels that run side by side get their part of the cores, where the user has not said how many threads they have."""
    ours = jobs > 1 and "OMP_NUM_THREADS" not in os.environ
    if ours:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        if ours:
            del os.environ["OMP_NUM_THREADS"]


def _papermill() -> Any:
    try:
        import papermill
    except ImportError as error:
        raise MissingExtraError("running notebooks needs papermill: pip install 'svdlab[notebooks]'.") from error
    return papermill
