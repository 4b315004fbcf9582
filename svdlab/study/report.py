"""A study as one page to send to somebody: figures, films, tables, conditions, versions and licence in a single HTML file.

    >>> write("results/00-tour")
    PosixPath('results/00-tour/report.html')

nbconvert does it. The page is a notebook put together from what lies in the study's folder: the executed notebook where
there is one, else the figures and films; then the runs of its ledger. It asks for nothing beside itself, so it opens from
disk, without a server or a network.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab import __version__
from svdlab.errors import InputError, MissingExtraError, OutputError
from svdlab.measure import video
from svdlab.show.provenance import axis, name, number
from svdlab.study import folders
from svdlab.study.plans import CONDITIONS
from svdlab.study.sweeps import load_results

REPORT = "report.html"
FILMS = 36  # clips of the ledger that are put into the page
ROOM = 10e6  # bytes for them
ROWS = 200  # runs in the table
MEASURES = ("camera", "camera_px", "object_px", "flow_px", "drift_ssim_last", "flicker_mae")
WIDGET = "application/vnd.jupyter.widget-view+json"
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block data_png scoped -%}
{%- set width = output | get_metadata('width', 'image/png') -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
alt="{{ (output | get_metadata('alt', 'image/png') or '') | escape_html }}"{% if width %} width="{{ width }}"{% endif %}>
</div>
{%- endblock data_png -%}
{%- block html_head_css -%}<style>
body.jp-Notebook { max-width: 62rem; margin: 0 auto; padding: 1rem; background: var(--jp-layout-color0); }
.svdlab-films { display: flex; flex-wrap: wrap; gap: 12px; }
.svdlab-films figure { margin: 0; width: 192px; }
.svdlab-films video { width: 100%; display: block; }
.svdlab-films figcaption, .svdlab-pale { color: var(--jp-content-font-color2); font-size: 0.85em; }
.svdlab-wide { overflow-x: auto; }
img, video { max-width: 100%; height: auto; }
</style>{%- endblock -%}
"""


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Make the page of a study; `out` defaults to report.html in its folder.

    >>> write("results/study", "study.html")

    folder: what a notebook or a sweep left: an executed notebook, figures (PNG), films (MP4), a ledger (`runs/` in the
    folder, or in `ledger/`). Raises InputError where there is nothing of it, OutputError where the page cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give one that a notebook or a sweep wrote, such as results/00-tour.")
    ledger = next((p for p in (folder, folder / "ledger") if (p / "runs").is_dir()), None)
    notebook = next(iter(sorted(folder.glob("*.ipynb"))), None)
    runs = load_results(ledger) if ledger is not None else pd.DataFrame()
    body = list(_story(notebook) if notebook else _pictures(folder))
    if not body and runs.empty:
        raise InputError(f"{folder} holds no notebook, figure, film or run: nothing to report.")
    records = _records(ledger, runs) if ledger is not None else []
    cells = [
        _text(_head(folder, runs, records)),
        *_parameters(notebook),
        *body,
        *_runs(runs),
        _text(_foot(records)),
        _notice(),
    ]
    page = _page(cells, title=f"svdlab report: {folder.resolve().name}")
    target = Path(out) if out is not None else folder / REPORT
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        raise OutputError(f"{target} could not be written: {error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return target


# --- what the page says -----------------------------------------------------------------------------------------------


def _head(folder: Path, runs: pd.DataFrame, records: list[dict[str, Any]]) -> str:
    """Title, what was made by what, under which licence."""
    lines = [f"# {folder.resolve().name}", f"Report of {datetime.now(UTC):%Y-%m-%d}, by svdlab {__version__}."]
    if len(runs):
        done = int((runs["status"] == "done").sum())
        lines.append(f"{len(runs)} runs, {done} of them done, on {_listed(runs['checkpoint'])}.")
        lines += [f"**{label}**" for label in sorted({r["source"]["label"] for r in records} - {""})]
    licences = sorted({r["source"]["licence"] for r in records} - {""})
    lines.append(f"Licence of the weights: {'; '.join(licences) or 'not recorded'}. Films and frames are made by a model.")
    return "\n\n".join(lines)


def _foot(records: list[dict[str, Any]]) -> str:
    """Versions, weights and devices, as the runs recorded them."""
    facts = {
        "svdlab": {r["svdlab"] for r in records} or {__version__},
        "torch": {r["call"]["versions"]["torch"] for r in records},
        "diffusers": {r["call"]["versions"]["diffusers"] for r in records},
        "dtype": {r["call"]["dtype"] for r in records},
        "device": {r["device"] for r in records},
        "checkpoint": {r["source"]["checkpoint"] for r in records},
        "revision": {str(r["source"]["revision"] or "") for r in records},
        "weights (sha256)": {r["call"]["weights"] for r in records},
        "made": {r["made"][:10] for r in records},
    }
    rows = "\n".join(f"| {key} | {'; '.join(sorted(values - {''}))} |" for key, values in facts.items() if values - {""})
    return f"## Versions\n\n| what | which |\n|---|---|\n{rows}"


def _notice() -> Any:
    return _output(f"<details><summary>Notice</summary><pre>{html.escape(video.notice())}</pre></details>")


def _parameters(notebook: Path | None) -> list[Any]:
    """The notebook's parameters as they were, a row each."""
    if notebook is None:
        return []
    from svdlab.study.notebooks import parameters_of

    given = json.loads(notebook.read_text(encoding="utf-8")).get("metadata", {}).get("papermill", {}).get("parameters", {})
    rows = []
    for key, facts in parameters_of(notebook).items():
        value = json.dumps(given[key]) if key in given else facts["default"]
        cells = (f"<code>{html.escape(str(part))}</code>" for part in (key, value))
        rows.append(f"<tr><td>{'</td><td>'.join(cells)}</td><td>{html.escape(str(facts['help']))}</td></tr>")
    return [_output(f"<details><summary>Parameters</summary><table>{''.join(rows)}</table></details>")] if rows else []


def _runs(runs: pd.DataFrame) -> list[Any]:
    """The ledger: what was held, a table of what varied and what was measured, the clips."""
    if runs.empty:
        return []
    columns = [c for c in ("image", *CONDITIONS, "seed") if c in runs]
    varied = [c for c in columns if runs[c].astype(str).nunique() > 1]
    held = {c: runs[c].iloc[0] for c in columns if c not in varied and not _none(runs[c].iloc[0])}
    said = ", ".join(f"{name(c)} {number(v)}" for c, v in held.items())
    measures = [c for c in MEASURES if c in runs]
    table = runs.sort_values(varied)[[*varied, *measures, "status"]].head(ROWS)
    table = table.rename(columns={c: axis(c) for c in table.columns})
    shown = table.to_html(index=False, border=0, na_rep="cannot tell", float_format=lambda v: f"{v:.4g}", escape=True)
    more = f"<p class='svdlab-pale'>the first {ROWS} of {len(runs)} runs</p>" if len(runs) > ROWS else ""
    cells = [_text(f"## The runs\n\nHeld: {_cell(said)}."), _output(f"<div class='svdlab-wide'>{shown}</div>{more}")]
    return [*cells, *_films(runs.sort_values(varied), varied)]


def _films(runs: pd.DataFrame, varied: list[str]) -> list[Any]:
    """As many clips as there is room for, spread evenly over the runs."""
    with_film = runs[runs["preview"].astype(bool)]
    places = pd.Series(range(len(with_film)))
    every = -(-len(with_film) // FILMS) if len(with_film) else 1
    figures, used = [], 0
    for place in places[::every]:
        run = with_film.iloc[place]
        data = Path(run["preview"]).read_bytes()
        if used + len(data) > ROOM:
            break
        used += len(data)
        told = html.escape(", ".join(f"{name(c)} {number(run[c])}" for c in varied) or str(run["run_id"])[:8], quote=True)
        figures.append(f"<figure>{_film(data, told)}<figcaption>{told}</figcaption></figure>")
    if not figures:
        return []
    share = f"{len(figures)} of {len(with_film)} clips" if len(figures) < len(with_film) else f"all {len(figures)} clips"
    return [_text(f"### The clips\n\n{share}, looping."), _output(f"<div class='svdlab-films'>{''.join(figures)}</div>")]


def _story(notebook: Path) -> Iterator[Any]:
    """An executed notebook: its words and what its cells showed, without their code, progress bars or widgets."""
    import nbformat

    try:
        cells = nbformat.read(notebook, 4).cells
    except Exception as error:  # nbformat has classes of its own for whatever is no notebook
        raise InputError(f"{notebook} cannot be read as a notebook: {error}") from error
    for cell in cells:
        if cell.cell_type == "markdown":
            yield _text(re.sub(r"\[([^\]]+)\]\([^)]*\.ipynb\)", r"\1", cell.source))  # no such file beside the page
        elif cell.cell_type == "code":
            kept = [_still(o) for o in cell.outputs if not _passing(o)]
            if kept:
                yield nbformat.v4.new_code_cell("", outputs=kept)


def _passing(output: Any) -> bool:
    """What was of use while the notebook ran: progress on stderr, and widgets that are no figure."""
    if output.output_type == "stream":
        return bool(output.name == "stderr")
    return WIDGET in output.get("data", {}) and "image/png" not in output["data"]


def _still(output: Any) -> Any:
    if "data" in output:
        output["data"].pop(WIDGET, None)
    return output


def _pictures(folder: Path) -> Iterator[Any]:
    """Figures and films that lie in a folder, by name."""
    import nbformat

    for path in sorted(folder.glob("*.png")):
        data = {"image/png": base64.b64encode(path.read_bytes()).decode()}
        shown = nbformat.v4.new_output("display_data", data, metadata={"image/png": {"alt": path.stem}})
        yield nbformat.v4.new_code_cell("", outputs=[shown])
    for path in sorted(folder.glob("*.mp4")):
        yield _output(f"<figure>{_film(path.read_bytes(), html.escape(path.stem, quote=True))}</figure>")


def _film(data: bytes, alt: str) -> str:
    source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    return f'<video src="{source}" aria-label="{alt}" controls loop muted autoplay playsinline></video>'


# --- how it becomes a page --------------------------------------------------------------------------------------------


def _page(cells: list[Any], *, title: str) -> str:
    try:
        from jinja2 import DictLoader
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise MissingExtraError("a report needs nbconvert: pip install 'svdlab[notebooks]'.") from error
    import nbformat

    exporter = HTMLExporter(extra_loaders=[DictLoader({"report.html.j2": TEMPLATE})], template_file="report.html.j2")
    exporter.exclude_input = exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.embed_images = True
    page, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells), resources={"metadata": {"name": title}})
    return str(page)


def _text(source: str) -> Any:
    import nbformat

    return nbformat.v4.new_markdown_cell(source)


def _output(shown: str) -> Any:
    import nbformat

    return nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", {"text/html": shown})])


def _records(ledger: Path, runs: pd.DataFrame) -> list[dict[str, Any]]:
    return [folders.read_record(folders.run_folder(ledger, run_id)) for run_id in runs["run_id"]]


def _listed(values: Any) -> str:
    return ", ".join(sorted({str(v) for v in values}))


def _none(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _cell(value: Any) -> str:
    """Text that breaks neither a row of a table nor the page."""
    return html.escape(str(value), quote=False).replace("|", "\\|").replace("\n", " ")
