"""Effects as a forest: each with its interval, its margin and its verdict; rows of one unit share an axis.

>>> clips = pd.DataFrame({"stimulus": range(8), "seed": 0, "still": [True] + 7 * [False], "flow_px": np.arange(8.0)})
>>> still = svdlab.stats.share("still", "{} of clips are still", clips, margin=0.15)
>>> fig = forest([still, svdlab.stats.mean("flow_px", "mean flow", clips, unit="px")], of="model organism, not SVD")
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from svdlab.errors import InputError
from svdlab.show.figure import COLOURS, GREY, INK, LABEL, PALE, SMALL, WIDTH, Figure, figure, plain
from svdlab.stats.effects import DESCRIPTIVE, EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW, Effect, as_table, quantity

ROW, HEAD = 20, 56  # px of an effect, and of a panel's title and axis
LOOKS = {  # verdict -> colour, marker, filled and its name; what has no claim is grey
    EFFECT: (COLOURS[1], "s", COLOURS[1], "square"),
    EQUIVALENT: (COLOURS[2], "^", COLOURS[2], "triangle"),
    DESCRIPTIVE: (COLOURS[0], "o", COLOURS[0], "disc"),
    INCONCLUSIVE: (GREY, "o", "white", "open circle"),
    TOO_FEW: (GREY, "o", "white", "open circle"),
}


def forest(
    effects: Iterable[Effect] | pd.DataFrame,
    *,
    by: str = "unit",
    standardised: bool = False,
    of: Any = (),
    title: str = "Effects",
) -> Figure:
    """A row for each effect, a panel for each value of `by`; the number in its own unit stands beside it.

    effects: Effects, or a table of them (`stats.as_table`, `compare`, a bias study's). by: a column of that table.
    standardised: in standard deviations of the units (images or pairs), on one scale for all panels. of: clips, tables or
    words that the footer names as the source. Raises InputError for any other table.
    """
    table = effects if isinstance(effects, pd.DataFrame) else as_table(effects)
    if not {by, "label", "value", "low", "high", "unit", "verdict", "margin", "sd"} <= set(table.columns) or table.empty:
        raise InputError("forest draws effects, or a table of them with its columns: give one with at least one row.")
    fig = figure(WIDTH, ROW * len(table) + HEAD * table[by].nunique(), of=of, title=title)
    return fig.finish(table, *forest_on(fig, table, by=by, standardised=standardised))


def forest_on(fig: Any, table: pd.DataFrame, *, by: str = "unit", standardised: bool = False) -> list[str]:
    """`forest` in a figure or subfigure that is there; returns the notes on what was drawn."""
    groups, ends = list(table.groupby(by, sort=False)), _ends(table, standardised)
    axes = fig.subplots(len(groups), squeeze=False, height_ratios=[HEAD + ROW * len(part) for _, part in groups])
    for ax, (name, part) in zip(axes.flat, groups, strict=True):
        own = ends if standardised else ends.loc[part.index]
        reach = 6.0 if standardised else np.inf  # standard deviations at most: what lies beyond is an arrow
        low, high = (float(np.clip(f([0.0, *own.to_numpy().ravel()]), -reach, reach)) for f in (np.nanmin, np.nanmax))
        pad = 0.06 * ((high - low) or 1.0)
        plain(ax)
        ax.set(xlim=(low - pad, high + pad), ylim=(len(part) - 0.5, -0.5))
        ax.axvline(0, color=GREY, linewidth=0.8)
        for place, index in enumerate(part.index):
            _row(ax, place, part.loc[index], own.loc[index], (low, high))
        ax.set_yticks(range(len(part)), part["label"])
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        units = set(part["unit"])
        if units == {"share"} and not standardised:
            ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}")
        ax.set_xlabel("standard deviations" if standardised else ", ".join(sorted("%" if u == "share" else u for u in units)))
        ax.set_title("" if by == "unit" else str(name), fontsize=LABEL, loc="left", color=INK)
    notes = [f"{look[3]}: {verdict}" for verdict, look in LOOKS.items() if verdict in set(table["verdict"])]
    if np.isfinite(table["low"]).any():
        notes.insert(0, f"line: {', '.join(f'{100 * (1 - a):g}' for a in table['alpha'].unique())} % interval")
    return [*notes, *(["grey band: margin"] if np.isfinite(table["margin"]).any() else [])]


def _ends(table: pd.DataFrame, standardised: bool) -> pd.DataFrame:
    """Value, interval and both ends of the margin, in the axis' own measure; NaN where there is nothing."""
    threshold, null = table["threshold"].astype(bool), table["null"].fillna(0.0)
    below, above = (null - table["margin"]).mask(threshold, 0.0), table["margin"] + null.mask(threshold, 0.0)
    ends = table[["value", "low", "high"]].assign(below=below, above=above)
    return (ends.div(table["sd"].where(table["sd"] > 0), axis=0) if standardised else ends).astype(float)


def _row(ax: Any, place: int, row: pd.Series, ends: pd.Series, limits: tuple[float, float]) -> None:
    colour, marker, inside, _ = LOOKS[row["verdict"]]
    marker = ">" if ends["value"] > limits[1] else "<" if ends["value"] < limits[0] else marker
    drawn = ends.clip(*limits)
    if np.isfinite(drawn["above"]):
        ax.barh(place, drawn["above"] - drawn["below"], left=drawn["below"], height=0.9, color=PALE, alpha=0.6, zorder=0)
    ax.plot([drawn["low"], drawn["high"]], [place] * 2, color=colour, linewidth=1.8, solid_capstyle="butt")
    ax.plot(drawn["value"], place, marker, color=colour, markersize=5.5, markerfacecolor=inside)
    text = quantity(row["value"], row["unit"]) if np.isfinite(row["value"]) else "no number"
    if np.isfinite(row["low"]):
        text += f" ({' to '.join(quantity(row[k], row['unit'], bare=True) for k in ('low', 'high'))})"
    text += f", q {row['q']:.2g}" if np.isfinite(row["q"]) else ""
    ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), fontsize=SMALL + 0.5, color=INK, va="center")
