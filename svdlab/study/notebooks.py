"""Run notebooks with parameters, one or one for each point of a grid; and put what a study left onto one page.

    >>> run("01-conditioning-sweep", motion_bucket_id=[40, 200])                       # doctest: +SKIP
    >>> table = run_grid("01-conditioning-sweep", {"fps": [6, 12]}, jobs=2)            # doctest: +SKIP
    >>> report(out, "study.html").name
    'study.html'

papermill executes; a parameter that the notebook does not have, of which papermill only warns, raises before anything runs.
The page opens from disk, without a server or a network, and holds no script.
"""

import base64
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from svdlab import __version__, errors
from svdlab.errors import InputError, RunError, shown, takes, whole
from svdlab.errors import path as as_path
from svdlab.measure import video
from svdlab.measure.files import csv_text, exported, file_name, hash_facts, hash_file, plain, read_json, write_whole
from svdlab.show.labels import axis, name, number
from svdlab.show.page import Folded, Media, page
from svdlab.study import ledger, plans
from svdlab.study.overview import worst
from svdlab.study.parameters import checked

PACKAGE = Path(__file__).parents[1]
SHIPPED = next((p for p in (PACKAGE / "notebooks", PACKAGE.parent / "notebooks") if p.is_dir()), PACKAGE)  # wheel, clone
LARGEST = 2**27  # bytes of a notebook
CLIPS, ROWS = 36, 200  # of a study's runs that are on its page
MEASURES = ("camera", "camera_px", "object_px", "flow_px", "drift_ssim_last", "flicker_mae")
VERSIONS = ("svdlab", "torch", "diffusers", "dtype", "device", "checkpoint", "revision", "weights", "made")
TAGS = "table caption thead tbody tr th td figure figcaption video img div p span pre code b i em strong br ul ol li"
ATTRIBUTES = "src alt colspan rowspan controls loop muted autoplay playsinline width aria-label"


def run(notebook: str | Path, /, out: str | Path | None = None, *, progress: bool = True, **parameters: Any) -> Path:
    """Execute a notebook and return the executed copy's path, in `out` (default `results/<its name>/`).

    >>> run("00-tour")                                                                 # doctest: +SKIP
    PosixPath('results/00-tour/00-tour.ipynb')

    A notebook with a parameter called `out` is given that folder. Raises InputError for an unknown notebook, an unknown
    parameter or one of another type; RunError, with the cell, where the notebook fails: the executed copy is there.
    """
    path = find(notebook)
    folder = Path("results", path.stem) if out is None else errors.folder("out", out)
    parameters = check_parameters(path, parameters)
    _check_kernel(path)
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
    path, axes = find(notebook), read_grid(grid)
    if "out" in axes:
        raise InputError("the grid sets 'out': each point is given a folder of its own below out=.")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    jobs = whole("jobs", jobs, 1, 64)
    points = [check_parameters(path, point) for point in points]
    _check_kernel(path)
    root = Path("results", f"{path.stem}-grid") if out is None else errors.folder("out", out)
    text = hash_file(path)

    def row(point: dict[str, Any]) -> dict[str, Any]:
        folder = root / hash_facts({"notebook": text, "parameters": point})
        cells = {k: v if isinstance(v, (int, float, str, bool)) else json.dumps(plain(v)) for k, v in point.items()}
        with suppress(OSError, ValueError):  # not run yet, or interrupted
            done = read_json(folder / "point.json", follow=False)
            if isinstance(done, dict) and done.get("status") == "done":
                return {**done, **cells, "notebook": str(folder / path.name)}
        cell, error = _execute(path, folder, point, progress=False)
        cells |= dict(status="failed" if error else "done", cell=cell, error=error, notebook=str(folder / path.name))
        with write_whole(folder / "point.json") as part:
            part.write_text(json.dumps(exported(cells)))
        return cells

    from tqdm.auto import tqdm

    share = str(max(1, (os.cpu_count() or 1) // jobs))  # kernels side by side share the cores
    threads = os.environ.get("OMP_NUM_THREADS", share)
    with patch.dict(os.environ, OMP_NUM_THREADS=threads), ThreadPoolExecutor(jobs) as pool:
        table = pd.DataFrame(list(tqdm(pool.map(row, points), total=len(points), desc=path.stem, unit="notebook")))
    with write_whole(root / "points.csv") as part:
        part.write_text(csv_text(table), encoding="utf-8")
    return table


def find(notebook: str | Path) -> Path:
    """A notebook by path, or by name: in `notebooks/` here, else svdlab's own; InputError lists those there are."""
    path = as_path("notebook", notebook)
    if path.suffix == ".ipynb" and path.is_file():
        return path
    there = {found.stem: found for place in (SHIPPED, Path("notebooks")) for found in sorted(place.glob("*.ipynb"))}
    stem = path.name.removesuffix(".ipynb")
    if stem not in there or len(Path(notebook).parts) > 1:  # a mistyped path is never another notebook
        why = "no such file" if not path.exists() else "it is no .ipynb file"
        raise InputError(f"no notebook {str(notebook)!r} ({why}): give a path, or {', '.join(sorted(there)) or 'none'}.")
    return there[stem]


@takes(folder=errors.folder)
def copy(folder: str | Path) -> dict[Path, bool]:
    """Copy svdlab's notebooks to a folder, to run and change them there; returns each path, and whether it is new.

    >>> list(copy("course"))[0].name                                                   # doctest: +SKIP
    '00-tour.ipynb'

    A file that is there already stays as it is. What a notebook makes goes to `results/` beside the folder. Raises InputError
    where the path is no folder, OutputError where it cannot be written.
    """
    copies = {Path(folder, path.name): path for path in sorted(SHIPPED.glob("*.ipynb"))}
    new = {path: not os.path.lexists(path) for path in copies}
    for path in filter(new.get, copies):
        with write_whole(path) as part:
            part.write_bytes(copies[path].read_bytes())
    return new


def read_notebook(path: Path) -> Any:
    """A notebook of format 4, checked by nbformat's schema; InputError for anything else."""
    from nbformat import reader, validate

    try:
        content = read_json(path, LARGEST)
        if not isinstance(content, dict) or content.get("nbformat") != 4:
            raise ValueError("it is not of format 4: open it in Jupyter and save it.")
        book = reader.reads(json.dumps(content))
        validate(book)
    except Exception as error:  # nbformat has classes of its own for whatever is no notebook
        words = " ".join(str(getattr(error, "message", error)).split())[:200]
        raise InputError(f"{path} cannot be read as a notebook: {words}") from error
    return book


def parameters_of(notebook: str | Path) -> dict[str, str]:
    """A notebook's parameters and the types that its parameters cell declares ("None" for none)."""
    import papermill

    path = find(notebook)
    book = read_notebook(path)
    try:
        found = papermill.inspect_notebook(book)
    except Exception as error:  # papermill's translators raise nearly anything for a parameters cell that is none
        raise InputError(f"{path} has no parameters that can be read: {' '.join(str(error).split())[:200]}") from error
    return {name: facts["inferred_type_name"] for name, facts in found.items()}


def _check_kernel(path: Path) -> None:
    """InputError where the notebook asks for a kernel that is not installed: else Jupyter logs a traceback for it."""
    from jupyter_client.kernelspec import KernelSpecManager

    known = KernelSpecManager().find_kernel_specs()
    if (wanted := read_notebook(path).metadata.get("kernelspec", {}).get("name")) not in known:
        raise InputError(f"{path.name} needs the kernel {shown(wanted)}: there is {', '.join(sorted(known)) or 'none'}.")


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as papermill can write them: see `svdlab.study.parameters`."""
    return checked(path.stem, parameters_of(path), parameters)


def read_value(text: str) -> Any:
    """A word of the command line as a value, by YAML; InputError where it is none.

    >>> read_value("[6, 12]"), read_value("1e-3"), read_value("cat")
    ([6, 12], 0.001, 'cat')
    """
    text = errors.text("value", text, least=0)
    try:
        return plans.parse_yaml(text)
    except InputError as error:
        raise InputError(f"{text[:80]!r} cannot be read as a value: {error}") from None


def read_grid(grid: Mapping[str, Any] | str | Path) -> dict[str, list[Any]]:
    """A grid, or a YAML file of one, as parameter -> list of values; a single value is a list of one."""
    found = grid if isinstance(grid, Mapping) else plans.read_yaml(as_path("grid", grid))
    if not isinstance(found, Mapping) or not found:
        raise InputError("a grid maps parameters to lists of values, as in  fps: [6, 12].")
    plain_axes = {str(key): axis.tolist() if hasattr(axis, "tolist") else axis for key, axis in found.items()}
    axes = {key: list(axis) if isinstance(axis, (list, tuple, range)) else [axis] for key, axis in plain_axes.items()}
    if empty := [key for key, axis in axes.items() if not axis]:
        raise InputError(f"{empty[0]} has no values: the grid would be empty.")
    if twice := [key for key, axis in axes.items() if len({json.dumps(plain(value)) for value in axis}) < len(axis)]:
        raise InputError(f"{twice[0]} has a value more than once: each point has a folder of its own.")
    return axes


def _execute(path: Path, folder: Path, parameters: Mapping[str, Any], progress: bool) -> tuple[str, str]:
    """Which cell failed, and how: ("", "") where none did."""
    import papermill

    given = {"out": str(folder), **parameters} if "out" in parameters_of(path) else dict(parameters)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        source, target = (str(p).replace("{", "{{").replace("}", "}}") for p in (path, folder / path.name))  # no templates
        quiet = ["--log-level=ERROR"]  # else the kernel warns that what it says on loopback is not encrypted
        papermill.execute_notebook(
            source, target, parameters=given, progress_bar=progress, log_output=False, extra_arguments=quiet
        )
    except papermill.PapermillExecutionError as error:
        return f"In [{error.exec_count}]", f"{error.ename}: {error.evalue}"
    except Exception as error:  # a folder that is none, a kernel that died or never came up: the next point may fare better
        return "between cells", f"{type(error).__name__}: {error}"
    finally:
        _hide_paths(folder / path.name)
    return "", ""


def _hide_paths(executed: Path) -> None:
    """Take this machine's folders out of an executed notebook: papermill writes both paths into it, cells print others."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # none was written
        book = read_json(executed, LARGEST)
        facts = book["metadata"]["papermill"]
        facts |= {key: Path(facts[key]).name for key in ("input_path", "output_path") if facts.get(key)}
        with write_whole(executed) as part:
            part.write_text(json.dumps(exported(book), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- the page of a study ----------------------------------------------------------------------------------------------


def report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Make the page of a study; `out` defaults to report.html in its folder.

    folder: what a notebook or a sweep left. The page holds its executed notebook, else its figures (PNG) and videos (MP4);
    then its runs (`runs/` in the folder, or in `ledger/`). Raises InputError where there is nothing of it, OutputError where
    the page cannot be written.
    """
    folder = as_path("folder", folder)
    target = as_path("out", out) if out is not None else folder / "report.html"
    study = next((p for p in (folder, folder / "ledger") if (p / "runs").is_dir() and not (p / "runs").is_symlink()), folder)
    notebook = next(iter(_own(folder, "*.ipynb")), None)
    records = [] if (study / "runs").is_symlink() else list(ledger.survey(study))
    media = [Media(path, path.stem) for kind in ("*.png", "*.mp4") for path in _own(folder, kind)]
    body = list(_story(notebook)) if notebook else media
    if not body and not records:
        why = "holds no notebook, figure, video or run" if folder.is_dir() else "is no folder"
        raise InputError(f"{folder} {why if folder.exists() else 'is not there, no such folder'}: nothing to report.")
    facts = [_facts(record) for record in records]
    listed = lambda key: "; ".join(sorted({str(f[key]) for f in facts if f.get(key)}))
    measured = (study / ledger.MEASURED).is_file()
    head = [f"Report of {datetime.now(UTC):%Y-%m-%d}, by svdlab {__version__}."]
    if records:
        done = sum(record["status"] == "done" for record in records)
        of = f", on {listed('checkpoint')}" if listed("checkpoint") else ""
        head.append(
            f"{len(records)} {'files' if measured else 'runs'}, {done} of them {'measured' if measured else 'done'}{of}."
        )
    runs = ledger.table(study, records)
    sections = {"": [*head, *body], **(_runs(runs) | worst(runs) if records else {})}
    versions = [(key, listed(key)) for key in VERSIONS if listed(key)] or [("svdlab", __version__)]
    sections |= {"Versions": [pd.DataFrame(versions, columns=["what", "which"])], "Notice": [Folded(video.notice())]}
    licence = f"Licence of the weights: {listed('licence') or 'not recorded'}. The clips are made by a generative model."
    licence = "Measured files: their origin is as the files name it, and was not checked." if measured else licence
    with write_whole(target) as part:  # refused before the page is made, which takes seconds
        html = page(folder.resolve().name, sections, label=listed("label"), footer=licence if records else "")
        part.write_text(html, encoding="utf-8")
    return target


def _own(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that match, sorted; links and pipes are left alone."""
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink())


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """What a run recorded of its model and machine, flat."""
    model, own = record["model"], dict(svdlab=record["svdlab"], device=record["device"], made=record["made"][:10])
    source = record["call"]["source"]
    source = {**source, "checkpoint": file_name(source["checkpoint"])}
    return {**source, **model["versions"], "dtype": model["dtype"], "weights": model["weights"], **own}


def _runs(runs: pd.DataFrame) -> dict[str, list[Any]]:
    """What was constant, a table of what varied and what was measured, the clips."""
    known = ("file", "checkpoint", *plans.LORA, "intervention", "image", *plans.CONDITIONS, "seed")
    columns = [c for c in known if c in runs and (runs[c].notna() & (runs[c].astype(str) != "")).any()]
    columns = [c for c in columns if c != "lora_scale" or "lora" in columns]
    varied = [c for c in columns if runs[c].astype(str).nunique() > 1]
    constant = ", ".join(f"{name(c)} {number(runs[c].dropna().iloc[0])}" for c in columns if c not in varied)
    if "image" in runs:
        runs = runs.assign(image=runs["image"].map(file_name))
        varied = [c for c in varied if c != "image" or "file" not in runs or not runs["image"].equals(runs["file"])]
    runs = runs.sort_values(varied) if varied else runs
    why = ["reason"] if (runs["reason"] != "").any() else []
    table = runs[[*varied, *(c for c in MEASURES if c in runs), "status", *why]].head(ROWS)
    there = runs[runs["preview"].astype(bool)]
    chosen = there.iloc[:: max(1, -(-len(there) // CLIPS))]
    clips = [
        Media(run["preview"], ", ".join(f"{name(c)} {number(run[c])}" for c in varied) or str(run_id)[:8])
        for run_id, run in chosen.iterrows()
        if _plays(run["preview"])
    ]
    lost = f" {len(chosen) - len(clips)} more cannot be read: svdlab ledger check names them." * (len(clips) < len(chosen))
    first = f"The first {len(table)} of {len(runs)} runs. Constant: {constant}."
    sections = {"Runs": [first, table.rename(columns={c: axis(c) for c in table.columns})]}
    return {**sections, "Clips": [f"{len(clips)} of {len(there)} clips, looping.{lost}", *clips]}


def _plays(preview: str) -> bool:
    """Whether a file of the right size begins as an MP4: an interrupted copy may have left zeros."""
    with suppress(OSError), open(preview, "rb") as file:
        return file.read(8)[4:] == b"ftyp"
    return False


def _story(notebook: Path) -> Iterator[Any]:
    """An executed notebook: its parameters, its words and what its cells showed, without code, progress bars or widgets."""
    for cell in read_notebook(notebook).cells:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            yield Folded(cell.source)
        elif cell.cell_type == "markdown":
            yield _prose(cell.source)
        for output in cell.get("outputs", []):
            try:
                yield from _shown(output)
            except (ValueError, TypeError, AttributeError) as error:
                words = f"{notebook} has an output that cannot be read: {type(error).__name__}: {error}"
                raise InputError(words) from error


def _shown(output: Any) -> Iterator[Any]:
    """One output, in the richest form that a page without scripts can hold."""
    data = output.get("data", {})
    if output.output_type == "stream" and output.name == "stdout":
        yield Markup("<pre>{}</pre>").format(re.sub(r"\x1b\[[0-9;]*m", "", output.text))
    elif "text/html" in data:
        yield _cleaned(data["text/html"])
    elif "image/png" in data:
        try:
            content = base64.b64decode(data["image/png"])
        except ValueError as error:
            raise InputError(f"an image of the notebook is no base64: {error}.") from error
        yield Media(content, output.metadata.get("image/png", {}).get("alt", "figure"))
    elif "text/markdown" in data:
        yield _prose(data["text/markdown"])
    elif "text/plain" in data and "application/vnd.jupyter.widget-view+json" not in data:
        yield Markup("<pre>{}</pre>").format(data["text/plain"])


def _prose(text: str) -> Markup:
    """Markdown as HTML: HTML in it is shown as text, images are not loaded, links lead to the web or stay text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    setattr(reader, "validateLink", lambda url: url.startswith(("https://", "http://")))  # noqa: B010
    return Markup(reader.render(re.sub(r"\[([^\]]+)\]\([^)]*\.ipynb\)", r"\1", text)))  # no such file beside the page


def _cleaned(html: str) -> Markup:
    """HTML that a cell displayed: tables, images and videos pass; scripts, styles and links do not."""
    import bleach

    bare = re.sub(r"(?is)<(style|script)\b.*?(</\1\s*>|$)", "", html)  # bleach would leave their text
    return Markup(bleach.clean(bare, tags=TAGS.split(), attributes=ATTRIBUTES.split(), protocols={"data"}, strip=True))
