"""Where two checkpoints differ: the difference with its interval, in each cell.

>>> show.differences(comparison.compare(tables, ["object_px", "flow_px"], by=["fps", "motion_bucket_id"]))
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from svdlab.errors import InputError
from svdlab.show.provenance import SHORT, axis, name, number
from svdlab.show.style import COLOURS, GREY, INK, LABEL, PALE, SMALL, curves

FIRST = "measure"  # where the columns of `by` end and the rest begins


def differences(table: pd.DataFrame, *, label: str = "", title: str = "") -> Any:
    """A row for each cell, a panel for each measure: the difference, and its interval; filled where it is one.

    >>> show.differences(table, label=pipe.source.label)

    table: of `svdlab.study.compare.compare`. label: what the checkpoints are, for the footer. Raises InputError for any
    other table.
    """
    needed = {"measure", "difference", "low", "high", "verdict", "images", "seeds", "within"}
    if not needed <= set(table.columns):
        raise InputError(f"the table lacks {', '.join(sorted(needed - set(table.columns)))}: give that of comparison.compare.")
    by = list(table.columns[: list(table.columns).index(FIRST)])
    first, second = table.attrs.get("names", ("first", "second"))
    cells = table[by].drop_duplicates().reset_index(drop=True) if by else pd.DataFrame(index=[0])
    labels = [", ".join(f"{SHORT.get(c, name(c))} {number(row[c])}" for c in by) or "all runs" for _, row in cells.iterrows()]
    measures = list(dict.fromkeys(table["measure"]))
    within = {"mean": "", "spread": "spread over seeds, "}.get(table["within"].iloc[0], f"{table['within'].iloc[0]}, ")
    counts = table["images"].agg(["min", "max"]).drop_duplicates()
    footer = (
        f"{within}{second} minus {first} · {' to '.join(map(number, counts))} pictures, {table['seeds'].max()} seeds each · "
        "95 % interval over pictures; filled: differs after correction for all cells" + (f" · {label}" if label else "")
    )
    size = (max(260.0, 760.0 / len(measures)), 70.0 + 22.0 * len(cells))
    fig, axes = curves(
        rows=1, columns=len(measures), size=size, title=title or f"{second} against {first}", footer=footer, sharex=False
    )
    for ax, measure in zip(axes.flat, measures, strict=True):
        rows = table[table["measure"] == measure].reset_index(drop=True)
        ax.axvline(0, color=PALE, linewidth=1, zorder=0)
        for place, row in rows.iterrows():
            differs = str(row["verdict"]).startswith("differs")
            colour = COLOURS[0] if differs else GREY
            ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(
                row["difference"],
                place,
                "o",
                markersize=5,
                markeredgecolor=colour,
                markerfacecolor=colour if differs else "white",
            )
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel(_axis(measure, table["within"].iloc[0]))
        ax.set_yticks(range(len(cells)), labels, fontsize=LABEL - 1)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(cells) - 0.5, -0.5)
        ax.text(0.0, 1.01, f"less in {second}", transform=ax.transAxes, fontsize=SMALL, color=INK, ha="left")
        ax.text(1.0, 1.01, f"more in {second}", transform=ax.transAxes, fontsize=SMALL, color=INK, ha="right")
    fig.data = table
    return fig


def _axis(measure: str, within: str) -> str:
    if within == "mean":
        return f"difference in {axis(measure)}"
    return f"difference in the spread of {axis(measure)}" if within == "spread" else f"difference in {name(measure)}, {within}"
