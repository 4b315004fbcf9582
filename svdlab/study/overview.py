"""What a sweep is looked at first: its table, a contact sheet and a dose-response, written beside its runs.

>>> [path.name for path in overview(results, "results/look")]
['results.csv', 'sheet.png', 'dose-response.png']
"""

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab.errors import SvdlabError, columns, path, takes
from svdlab.measure.files import csv_text, write_whole
from svdlab.show.clips import sheet
from svdlab.show.failures import failures
from svdlab.show.figure import save
from svdlab.show.page import Media
from svdlab.show.tables import dose_response
from svdlab.stats.crossed import numbers
from svdlab.stats.effects import quantity
from svdlab.study.failures import rates
from svdlab.study.plans import CONDITIONS, LORA

MOST = 12  # rows or columns of a sheet
MEASURES = ("object_px", "camera_px", "flow_px", "drift_colour_last", "warp_error")  # the first with numbers is drawn


@takes(out=path)
def overview(results: pd.DataFrame, out: str | Path) -> list[Path]:
    """Write results.csv, and where something varies sheet.png and dose-response.png; returns their paths.

    The sheet has the first two conditions that vary (else images and seeds), at the first value of all others; the curve the
    first condition with numbers that varies, by the second. Raises InputError for a table of another kind.
    """
    columns("results", results, "run_id", "status", "frames", "seed", least=0)
    out, made = Path(out), [Path(out, "results.csv")]
    with write_whole(made[0]) as part:
        part.write_text(csv_text(results), encoding="utf-8")
    done = results[(results["status"] == "done") & (results["frames"].astype(str) != "")]
    count = {
        c: done[c].nunique()
        for c in (*CONDITIONS, *LORA, "image", "seed")
        if c in done and pd.api.types.is_scalar(_first(done[c]))
    }
    varied = sorted((c for c, n in count.items() if n > 1), key=lambda c: (c == "seed", c == "image"))
    if not varied:
        return made
    rows, across = (*varied, *(c for c in ("seed", "image") if c not in varied))[:2]
    shown = done[done[rows].isin(done[rows].unique()[:MOST]) & done[across].isin(done[across].unique()[:MOST])]
    for other in varied[2:]:
        shown = shown[shown[other] == _first(shown[other])]
    measure = next((c for c in MEASURES if c in done and numbers(done[c]).notna().any()), None)
    made.append(_saved(sheet(shown, rows=rows, columns=across, note=measure), out / "sheet"))
    doses = [c for c in varied if c not in ("seed", "image") and pd.api.types.is_numeric_dtype(done[c])]
    if measure and doses:
        by = doses[1] if len(doses) > 1 and count[doses[1]] <= 4 else None
        made.append(_saved(dose_response(done, x=doses[0], y=measure, by=by), out / "dose-response"))
    return made


def worst(runs: pd.DataFrame) -> dict[str, list[Any]]:
    """The section "Failures" of a report: how many clips fail in which way, and the worst of them; {} where nothing was
    measured that tells, or no clip can be read."""
    runs = runs[(runs["status"] == "done") & (runs["frames"] != "")].reset_index()
    try:
        found, fig = rates(runs), failures(runs)
    except SvdlabError:
        return {}
    found = found[(found["condition"] == "all") | (found["failed"] > 0)]
    counted = {"what": found["label"], "failed": found["failed"], "of clips": found["clips"]}
    shares = [[quantity(v, "share") for v in found[end]] for end in ("value", "low", "high")]
    named = dict(zip(("share, mean over images", "95 % interval from", "to"), shares, strict=True))
    image = base64.b64decode(fig._repr_mimebundle_()[0]["image/png"])
    words = "What counts as a failure is a choice: see svdlab.measure.failures. Of each kind the worst clips are shown first."
    return {"Failures": [words, pd.DataFrame({**counted, **named}), Media(image, fig.title)]}


def _first(column: pd.Series) -> Any:
    return column.iloc[0] if len(column) else None


def _saved(fig: Any, stem: Path) -> Path:
    save(fig, stem, formats=("png",))
    return stem.with_suffix(".png")
