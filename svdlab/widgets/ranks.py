"""Where a run stands among all others, measure by measure: a number, a strip of all runs, a mark on it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from svdlab.show.provenance import axis, number

BINS = 96
GREY = (128, 128, 128)


def strips(table: pd.DataFrame, measures: Sequence[str]) -> str:
    """A style sheet with a strip for each measure: how many runs lie where, from its least to its greatest value.

    Sent once, so that a move of a slider sends marks only.
    """
    rules = []
    for n, name in enumerate(measures):
        values = pd.to_numeric(table[name], errors="coerce").dropna().to_numpy(dtype=float)
        counts, _ = np.histogram(values, bins=BINS) if len(values) else (np.zeros(BINS), None)
        alpha = np.where(counts > 0, 60 + 195 * np.sqrt(counts / max(1, counts.max())), 0).astype(np.uint8)
        pixels = np.dstack([np.full((1, BINS), c, np.uint8) for c in GREY] + [alpha[None]])
        data = base64.b64encode(bytes(cv2.imencode(".png", pixels)[1])).decode()
        rules.append(f".svdlab-strip.s{n}{{background-image:url(data:image/png;base64,{data})}}")
    return f"<style>{''.join(rules)}</style>"


def ranks(table: pd.DataFrame, measures: Sequence[str], places: Sequence[int | None]) -> str:
    """A table, as HTML, of each measure of one run or two, with the share of all runs that lie below."""
    heads = ["this run"] if len(places) == 1 else ["first", "second"]
    rows = []
    for n, name in enumerate(measures):
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float)
        low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if np.isfinite(values).any() else (0.0, 0.0)
        cells, marks = [], []
        for value, which in zip((values[p] if p is not None else np.nan for p in places), ("first", "second"), strict=False):
            if not np.isfinite(value):
                cells.append("<td>cannot tell</td>")
                continue
            cells.append(f"<td>{number(value)}</td>")
            where = 100 * (value - low) / (high - low) if high > low else 50
            marks.append(f'<i class="{which}" style="left:{where:.1f}%"></i>')
        first = next((values[p] for p in places if p is not None), np.nan)
        below = int(np.nansum(values < first)) if np.isfinite(first) else None
        told = "" if below is None else f"above {below} of {int(np.isfinite(values).sum()) - 1}"
        label = f"{axis(name)}: {number(low)} to {number(high)} over all runs"
        rows.append(
            f'<tr><th scope="row">{html.escape(axis(name))}</th>{"".join(cells)}<td>{told}</td><td>{number(low)}</td>'
            f'<td><div class="svdlab-strip s{n}" role="img" aria-label="{html.escape(label, quote=True)}">'
            f'{"".join(marks)}</div></td><td style="text-align:left">{number(high)}</td></tr>'
        )
    titles = "".join(f'<th scope="col">{h}</th>' for h in ["measure", *heads, "", "least", "all runs", "greatest"])
    caption = "Measures of what is on screen, against all runs of the sweep"
    return f'<table class="svdlab-table"><caption>{caption}</caption><tr>{titles}</tr>{"".join(rows)}</table>'
