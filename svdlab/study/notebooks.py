"""Run notebooks with parameters: one, or one for each point of a grid.

    >>> run("01-conditioning-sweep", motion_bucket_id=[40, 200])            # results/01-conditioning-sweep/
    >>> table = run_grid("01-conditioning-sweep", {"fps": [6, 12], "seed": [0, 1]}, jobs=2)

papermill does it; what it only warns of, a parameter that the notebook does not have, raises here before anything runs.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab.errors import InputError, MissingExtraError, NotebookError, OutputError
from svdlab.study import folders, plans

FOLDER = "notebooks"
POINT = "point.json"
OUT = "out"  # a notebook that has a parameter of this name is told its folder by it
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def run(notebook: str | Path, /, out: str | Path | None = None, *, progress: bool = True, **parameters: Any) -> Path:
    """Execute a notebook and return the executed copy's path, in `out` (default `results/<its name>/`).

    >>> run("00-tour")                                   # by name, or the path of an .ipynb
    PosixPath('results/00-tour/00-tour.ipynb')

    A notebook with a parameter called `out` is given that folder. Raises InputError for an unknown notebook, an unknown
    parameter (naming the known ones) or one of another type; NotebookError, with the cell, where the notebook fails:
    the executed copy is there all the same.
    """
    path = find(notebook)
    folder = Path(out) if out is not None else Path("results") / path.stem
    known = parameters_of(path)
    check_parameters(path, known, parameters)
    if OUT in known and OUT not in parameters:
        parameters = {**parameters, OUT: str(folder)}
    target = folder / path.name
    failure = _execute(path, target, parameters, progress)
    if failure:
        raise NotebookError(f"{path.name}, {_place(failure)}: {failure['error']} (see {target})")
    return target


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
    >>> table[table.status == "failed"][["fps", "cell", "error"]]          # cell: its number in the notebook, from 1

    grid: parameter -> list of values, or a .yaml file of that. Each point has a folder of its own in `out` (default
    `results/<name>-grid/`), named by a hash of its parameters and of the notebook: points that are done are not run
    again. A point that fails does not stop the others. The table is also saved, as points.csv in `out`.
    Raises InputError before anything runs.
    """
    path = find(notebook)
    axes = _axes(grid)
    known = parameters_of(path)
    if OUT in axes:
        raise InputError(f"the grid sets {OUT!r}: each point is given a folder of its own below out=.")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for point in points:
        check_parameters(path, known, point)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs={jobs!r}: give a whole number of at least 1.")
    root = Path(out) if out is not None else Path("results") / f"{path.stem}-grid"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{root} cannot be written to: {error}") from error
    text = folders.hash_file(path)
    places = [folders.inside(root, folders.identify({"notebook": text, "parameters": point})) for point in points]

    def one(point: dict[str, Any], folder: Path) -> dict[str, Any]:
        told = {**point, OUT: str(folder)} if OUT in known else point
        return _point(path, folder, point, told)

    from tqdm.auto import tqdm

    with (
        _threads_shared(jobs),
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(points), desc=path.stem, unit="notebook", disable=not progress) as bar,
    ):
        rows = []
        for row in pool.map(one, points, places):
            bar.update()
            if row["status"] == "failed":
                bar.write(f"{path.name} {row['parameters']}, {_place(row)}: {row['error']}")
            rows.append({**{k: _cell(v) for k, v in row.pop("parameters").items()}, **row})
    table = pd.DataFrame(rows)
    table.to_csv(root / "points.csv", index=False)
    return table


@contextmanager
def _threads_shared(jobs: int) -> Iterator[None]:
    """Kernels that run side by side get their part of the cores, where the user has not said how many threads they have."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def find(notebook: str | Path) -> Path:
    """A notebook by path or by name, in `notebooks/` of the current folder or of the clone that svdlab runs from.

    Raises InputError that lists those there are.
    """
    path = Path(notebook)
    if path.suffix == ".ipynb" and path.is_file():
        return path
    places = [place for place in (Path(FOLDER), Path(__file__).parents[2] / FOLDER) if place.is_dir()]
    there = {p.stem: p for place in reversed(places) for p in sorted(place.glob("*.ipynb"))}
    name = path.stem if path.suffix == ".ipynb" else str(notebook)
    if name in there:
        return there[name]
    if not there:
        raise InputError(
            f"there is no notebook {str(notebook)!r}, and no folder {FOLDER}/ here: the notebooks are in svdlab's repository, "
            f"not in the installed package. Run this from a clone, or give the path of an .ipynb."
        )
    raise InputError(
        f"there is no notebook {str(notebook)!r}: there are {', '.join(sorted(there))}, or give the path of an .ipynb."
    )


def parameters_of(notebook: str | Path) -> dict[str, dict[str, Any]]:
    """What a notebook's parameters cell declares: name -> {"inferred_type_name", "default", "help"}, by papermill."""
    return dict(_papermill().inspect_notebook(str(notebook)))


def check_parameters(path: Path, known: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raises InputError for a parameter that the notebook does not have, or of another type than it declares."""
    unknown = [name for name in parameters if name not in known]
    if unknown:
        listed = ", ".join(f"{name} ({facts['inferred_type_name']})" for name, facts in known.items()) or "none"
        raise InputError(f"{path.name} has no parameter {', '.join(map(repr, unknown))}: it has {listed}.")
    for name, value in parameters.items():
        declared = known[name]["inferred_type_name"]
        wanted = KINDS.get(declared)
        wrong = wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted))
        if wrong:
            raise InputError(
                f"{path.name}: {name}={value!r} is a {type(value).__name__}, and the notebook declares {declared}."
            )


def _axes(grid: Mapping[str, Any] | str | Path) -> dict[str, list[Any]]:
    if not isinstance(grid, Mapping):
        path = Path(grid)
        if not path.is_file():
            raise InputError(f"there is no grid file {path}.")
        grid = plans.read_yaml(path)
    if not isinstance(grid, Mapping) or not grid:
        raise InputError("a grid maps parameters to lists of values, as in  fps: [6, 12].")
    axes = {
        str(name): list(axis) if isinstance(axis, Iterable) and not isinstance(axis, (str, Mapping)) else [axis]
        for name, axis in grid.items()
    }
    empty = [name for name, axis in axes.items() if not axis]
    if empty:
        raise InputError(f"{empty[0]} has no values: the grid would be empty.")
    return axes


def _point(path: Path, folder: Path, point: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """One point's row: read where it is done, run otherwise."""
    target = folder / path.name
    try:
        row = json.loads((folder / POINT).read_text())
        if row["status"] == "done" and target.is_file():
            return {**row, "parameters": point}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not run yet, or interrupted
    start = time.perf_counter()
    failure = _execute(path, target, told, progress=False) or {"cell": None, "executed": None, "error": ""}
    row = {"parameters": point, "status": "failed" if failure["error"] else "done", **failure}
    row |= {"seconds": round(time.perf_counter() - start, 2), "notebook": str(target)}
    temporary = folder / f".{POINT}"
    temporary.write_text(json.dumps(row, default=str))
    os.replace(temporary, folder / POINT)
    return row


def _execute(path: Path, target: Path, parameters: dict[str, Any], progress: bool) -> dict[str, Any] | None:
    """None where the notebook ran to its end; otherwise which cell failed, and how."""
    papermill = _papermill()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target.parent} cannot be written to: {error}") from error
    try:
        papermill.execute_notebook(str(path), str(target), parameters=parameters, progress_bar=progress, log_output=False)
    except papermill.PapermillExecutionError as error:
        cell = _number(target, error.exec_count, error.source)
        return {"cell": cell, "executed": error.exec_count, "error": f"{error.ename}: {error.evalue}"}
    except Exception as error:  # a kernel that died, or never came up: the next point may fare better
        return {"cell": None, "executed": None, "error": f"{type(error).__name__}: {error}"}
    return None


def _number(executed: Path, count: int | None, source: str) -> int | None:
    """Which cell of the notebook that is, counted from 1, without the cells that papermill put into the executed copy."""
    import nbformat

    own = [
        cell
        for cell in nbformat.read(executed, 4).cells
        if not {"injected-parameters", "papermill-error-cell-tag"} & set(cell.metadata.get("tags", ()))
    ]
    matches = (n for n, cell in enumerate(own, 1) if cell.get("execution_count") == count and cell.source == source)
    return next(matches, None)


def _place(failure: Mapping[str, Any]) -> str:
    """Where a notebook failed: the cell's number, and the mark that it bears in the executed copy."""
    if failure["cell"] is None:
        return "before or between its cells"
    return f"cell {failure['cell']}, In [{failure['executed']}]"


def _papermill() -> Any:
    try:
        import papermill
    except ImportError as error:
        raise MissingExtraError("running notebooks needs papermill: pip install 'svdlab[notebooks]'.") from error
    return papermill


def _cell(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) or value is None else json.dumps(value, default=str)
