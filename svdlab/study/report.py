"""A study as one page to send to somebody: figures, videos, tables, conditions, versions and licence in a single HTML file.

    >>> write(out, "study.html")
    PosixPath('study.html')

The page opens from disk, without a server or a network, and holds no script.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from svdlab import __version__
from svdlab.errors import InputError, MissingExtraError
from svdlab.measure import video
from svdlab.measure.files import write_whole
from svdlab.show.labels import axis, name, number
from svdlab.show.page import Folded, Media, page
from svdlab.study.plans import CONDITIONS
from svdlab.study.sweep import load_results

CLIPS = 36  # of the ledger that are put into the page
ROWS = 200  # runs in the table
MEASURES = ("camera", "camera_px", "object_px", "flow_px", "drift_ssim_last", "flicker_mae")
VERSIONS = ("svdlab", "torch", "diffusers", "dtype", "device", "checkpoint", "revision", "weights", "made")
TAGS = "table caption thead tbody tr th td figure figcaption video img div p span pre code b i em strong br ul ol li"
ATTRIBUTES = "src alt colspan rowspan controls loop muted autoplay playsinline width aria-label"


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Make the page of a study; `out` defaults to report.html in its folder.

    folder: what a notebook or a sweep left. The page holds its executed notebook, else its figures (PNG) and videos (MP4);
    then the runs of its ledger (`runs/` in the folder, or in `ledger/`). Raises InputError where there is nothing of it,
    OutputError where the page cannot be written.
    """
    folder = Path(folder).expanduser()
    ledger = next((p for p in (folder, folder / "ledger") if (p / "runs").is_dir()), None)
    notebook = next(iter(sorted(folder.glob("*.ipynb"))), None)
    runs = load_results(ledger) if ledger else pd.DataFrame()
    media = [Media(path, path.stem) for kind in ("*.png", "*.mp4") for path in sorted(folder.glob(kind))]
    body = list(_story(notebook)) if notebook else media
    if not body and runs.empty:
        raise InputError(f"{folder} holds no notebook, figure, video or run: nothing to report.")
    facts = [_facts(Path(str(ledger), "runs", run_id, "run.json")) for run_id in runs.get("run_id", [])]
    listed = lambda key: "; ".join(sorted({str(f[key]) for f in facts if f.get(key)}))
    head = [f"Report of {datetime.now(UTC):%Y-%m-%d}, by svdlab {__version__}."]
    if facts:
        done = int((runs["status"] == "done").sum())
        head.append(f"{len(runs)} runs, {done} of them done, on {listed('checkpoint')}.")
    sections = {"": [*head, *body], **(_runs(runs) if facts else {})}
    versions = [(key, listed(key)) for key in VERSIONS if listed(key)] or [("svdlab", __version__)]
    sections["Versions"] = [pd.DataFrame(versions, columns=["what", "which"])]
    sections["Notice"] = [Folded(video.notice())]
    licence = f"Licence of the weights: {listed('licence') or 'not recorded'}. The clips are made by a generative model."
    target = Path(out).expanduser() if out is not None else folder / "report.html"
    html = page(folder.resolve().name, sections, label=listed("label"), footer=licence if facts else "")
    with write_whole(target) as part:
        part.write_text(html, encoding="utf-8")
    return target


def _facts(path: Path) -> dict[str, Any]:
    """What a run recorded of its model and machine, flat."""
    record = json.loads(path.read_text(encoding="utf-8"))
    model, own = record["model"], dict(svdlab=record["svdlab"], device=record["device"], made=record["made"][:10])
    return {**record["call"]["source"], **model["versions"], "dtype": model["dtype"], "weights": model["weights"], **own}


def _runs(runs: pd.DataFrame) -> dict[str, list[Any]]:
    """The ledger: what was constant, a table of what varied and what was measured, the clips."""
    columns = [c for c in ("image", *CONDITIONS, "seed") if c in runs and runs[c].notna().any()]
    varied = [c for c in columns if runs[c].astype(str).nunique() > 1]
    constant = [f"{name(c)} {number(runs[c].iloc[0])}" for c in columns if c not in varied]
    runs = runs.sort_values(varied) if varied else runs
    table = runs[[*varied, *(c for c in MEASURES if c in runs), "status"]].head(ROWS)
    there = runs[runs["preview"].astype(bool)]
    clips = [
        Media(run["preview"], ", ".join(f"{name(c)} {number(run[c])}" for c in varied) or str(run["run_id"])[:8])
        for run in there.iloc[:: max(1, -(-len(there) // CLIPS))].to_dict("records")
    ]
    said = f"The first {len(table)} of {len(runs)} runs. Constant: {', '.join(constant)}."
    sections = {"Runs": [said, table.rename(columns={c: axis(c) for c in table.columns})]}
    return {**sections, "Clips": [f"{len(clips)} of {len(there)} clips, looping.", *clips]}


def _story(notebook: Path) -> Iterator[Any]:
    """An executed notebook: its parameters, its words and what its cells showed, without code, progress bars or widgets."""
    try:
        import nbformat

        content = nbformat.read(notebook, 4)
    except ImportError as error:
        raise MissingExtraError("a notebook's page needs nbformat: pip install 'svdlab[notebooks]'.") from error
    except Exception as error:  # nbformat has classes of its own for whatever is no notebook
        raise InputError(f"{notebook} cannot be read as a notebook: {error}") from error
    for cell in content.cells:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            yield Folded(cell.source)
        elif cell.cell_type == "markdown":
            yield _prose(cell.source)
        for output in cell.get("outputs", []):
            yield from _shown(output)


def _shown(output: Any) -> Iterator[Any]:
    """One output, in the richest form that a page without scripts can hold."""
    data = output.get("data", {})
    if output.output_type == "stream" and output.name == "stdout":
        yield Markup("<pre>{}</pre>").format(re.sub(r"\x1b\[[0-9;]*m", "", output.text))
    elif "text/html" in data:
        yield _cleaned(data["text/html"])
    elif "image/png" in data:
        yield Media(base64.b64decode(data["image/png"]), output.metadata.get("image/png", {}).get("alt", "figure"))
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
    try:
        import bleach
    except ImportError as error:
        raise MissingExtraError("a notebook's page needs bleach: pip install 'svdlab[notebooks]'.") from error
    bare = re.sub(r"(?is)<(style|script)\b.*?(</\1\s*>|$)", "", html)  # bleach would leave their text
    return Markup(bleach.clean(bare, tags=TAGS.split(), attributes=ATTRIBUTES.split(), protocols={"data"}, strip=True))
