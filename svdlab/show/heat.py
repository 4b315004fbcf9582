"""A table of numbers as colours: rows by columns, each cell readable where there are few.

>>> table = pd.DataFrame(tr["guidance_pressure"].mean((2, 3)), index=tr.sigmas)
>>> show.heat(table, tr, title="Guidance pressure by step and frame", key="|cond - uncond|", rows="sigma", columns="frame")
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.show.provenance import about, number
from svdlab.show.style import INK, LABEL, SMALL, curves

WRITTEN = 60  # cells: with more of them, their numbers are left out
TICKS = 13  # labels along a side


def heat(
    table: pd.DataFrame, *things: Any, title: str, key: str, rows: str = "", columns: str = "", centre: float | None = None
) -> Any:
    """A DataFrame as a heat map, its index downwards, its columns to the right.

    >>> show.heat(table, clip, title="What still arrives", key="share of the change", rows="changed", columns="from step")

    things: clips, traces or tables that the footer speaks of. key: what the colours mean, with the unit. rows, columns: what
    index and columns are. centre: this value is white, and both sides get a colour each; without it viridis runs from the
    least to the greatest. NaN is left blank. Raises InputError for a table without numbers.
    """
    values = table.to_numpy(dtype=float) if len(table.columns) and len(table) else np.zeros((0, 0))
    if not np.isfinite(values).any():
        raise InputError(f"the table has {table.shape[0]} rows and {table.shape[1]} columns, and no number to draw.")
    down, across = values.shape
    size = (max(480.0, min(880.0, 150 + 46.0 * across)), max(210.0, min(560.0, 70 + 26.0 * down)))
    fig, axes = curves(rows=1, columns=1, size=size, title=title, footer=about(*things))
    ax = axes[0, 0]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if centre is not None:
        reach = max(high - centre, centre - low) or 1.0
        low, high = centre - reach, centre + reach
    drawn = ax.imshow(
        values, interpolation="none", aspect="auto", cmap="viridis" if centre is None else "RdBu_r", vmin=low, vmax=high
    )
    for set_ticks, labels in ((ax.set_xticks, table.columns), (ax.set_yticks, table.index)):
        every = -(-len(labels) // TICKS)
        set_ticks(range(0, len(labels), every), [_label(v) for v in labels[::every]])
    ax.set_xlabel(columns, fontsize=LABEL, color=INK)
    ax.set_ylabel(rows, fontsize=LABEL, color=INK)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if values.size <= WRITTEN:
        for (r, c), value in np.ndenumerate(values):
            if np.isfinite(value):
                shade = drawn.cmap(drawn.norm(value))[:3]
                light = np.dot(shade, (0.299, 0.587, 0.114)) > 0.55
                said = "0" if abs(value) < 0.005 * np.nanmax(np.abs(values)) else f"{value:.2g}"
                ax.text(c, r, said, ha="center", va="center", fontsize=SMALL + 1, color=INK if light else "white")
    bar = fig.colorbar(drawn, ax=ax, fraction=0.04, pad=0.02)
    bar.set_label(key, fontsize=LABEL, color=INK)
    bar.ax.tick_params(labelsize=LABEL - 1, length=2)
    bar.outline.set_visible(False)
    fig.data = table.rename_axis(index=rows or None).reset_index()
    return fig


def _label(value: Any) -> str:
    return number(round(float(value), 3)) if isinstance(value, (float, np.floating)) else number(value)
