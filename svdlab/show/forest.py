"""Effects as a forest: each with its interval, its margin and its verdict; rows of one unit share an axis.

    >>> clips = pd.DataFrame({"stimulus": range(8), "seed": 0, "still": [True] + 7 * [False], "flow_px": np.arange(8.0)})
    >>> found = [stats.share("still", "{} of clips are still", clips, margin=0.15), stats.mean("flow_px", "flow", clips, unit="px")]
    >>> fig = forest(found, of="model organism, not SVD")
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
MOST = 6.0  # standard deviations that a standardised axis reaches at most
LOOKS = {  # verdict -> colour, marker, filled; what has no claim is grey
    EFFECT: (COLOURS[1], "s", True),
    EQUIVALENT: (COLOURS[2], "^", True),
    DESCRIPTIVE: (COLOURS[0], "o", True),
    INCONCLUSIVE: (GREY, "o", False),
    TOO_FEW: (GREY, "o", False),
}
SHAPES = {"s": "square", "^": "triangle", "o": "circle"}


def forest(
    effects: Iterable[Effect] | pd.DataFrame,
    *,
    by: str = "unit",
    label: str = "label",
    standardised: bool = False,
    columns: int = 1,
    of: Any = (),
    title: str = "Effects",
) -> Figure:
    """A row for each effect, a panel for each value of `by`; the number in its own unit stands beside it.

    effects: Effects, or a table of them (`stats.as_table`, `compare`, a bias study's). by, label: columns of that table.
    standardised: in standard deviations of the units (images or pairs), on one scale for all panels. columns: of panels. of:
    what the footer names as the source. Raises InputError for any other table.
    """
    table = effects if isinstance(effects, pd.DataFrame) else as_table(effects)
    if not {by, label, "value", "low", "high", "unit", "verdict", "margin", "sd"} <= set(table.columns) or table.empty:
        raise InputError("forest draws effects, or a table of them with its columns: give one with at least one row.")
    fig = figure(WIDTH, _heights(table, by, columns).sum(), of=of, title=title)
    return fig.finish(table, *forest_on(fig, table, by=by, label=label, standardised=standardised, columns=columns))


def forest_on(
    fig: Any, table: pd.DataFrame, *, by: str = "unit", label: str = "label", standardised: bool = False, columns: int = 1
) -> list[str]:
    """`forest` in a figure or subfigure that is there; returns the notes on what was drawn."""
    groups = list(table.groupby(by, sort=False))
    heights = _heights(table, by, columns)
    axes = fig.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    scale = table["sd"].where(table["sd"] > 0) if standardised else pd.Series(1.0, index=table.index)
    ends = _ends(table, scale)
    for ax, (name, part) in zip(axes.flat, groups, strict=False):
        plain(ax)
        own = ends if standardised else ends.loc[part.index]
        low, high = np.nanmin([0, *own.to_numpy().ravel()]), np.nanmax([0, *own.to_numpy().ravel()])
        low, high = (max(low, -MOST), min(high, MOST)) if standardised else (low, high)
        pad = 0.06 * ((high - low) or 1.0)
        ax.set(xlim=(low - pad, high + pad), ylim=(len(part) - 0.5, -0.5))
        ax.axvline(0, color=GREY, linewidth=0.8)
        for place, (index, row) in enumerate(part.iterrows()):
            _row(ax, place, row, scale[index], (low, high))
        ax.set_yticks(range(len(part)), part[label])
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        if not standardised and set(part["unit"]) == {"share"}:
            ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}")
        units = ", ".join(dict.fromkeys("%" if u == "share" else u for u in part["unit"]))
        ax.set_xlabel("standard deviations" if standardised else units)
        ax.set_title("" if by == "unit" else str(name), fontsize=LABEL, loc="left", color=INK)
    for ax in list(axes.flat)[len(groups) :]:
        ax.set_visible(False)
    return _notes(table)


def _ends(table: pd.DataFrame, scale: pd.Series) -> pd.DataFrame:
    """Where an effect, its interval and its margin end, in the axis' own measure; NaN where there is nothing."""
    null = table["null"].fillna(0.0).where(~table["threshold"].astype(bool), 0.0)
    ends = table[["value", "low", "high"]].assign(below=null - table["margin"], above=null + table["margin"])
    ends["below"] = ends["below"].where(~table["threshold"].astype(bool), 0.0)
    return ends.div(scale, axis=0).astype(float).replace([np.inf, -np.inf], np.nan)


def _row(ax: Any, place: int, row: pd.Series, scale: float, limits: tuple[float, float]) -> None:
    colour, marker, filled = LOOKS[row["verdict"]]
    ends = _ends(row.to_frame().T.infer_objects(), pd.Series([scale], index=[row.name])).iloc[0]
    if np.isfinite(ends["above"]):
        ax.barh(place, ends["above"] - ends["below"], left=ends["below"], height=0.9, color=PALE, alpha=0.6, zorder=0)
    ax.plot(np.clip([ends["low"], ends["high"]], *limits), [place] * 2, color=colour, linewidth=1.8, solid_capstyle="butt")
    beyond = ">" if ends["value"] > limits[1] else "<" if ends["value"] < limits[0] else marker
    ax.plot(np.clip(ends["value"], *limits), place, beyond, color=colour, markersize=5.5, mfc=colour if filled else "white")
    bare = [quantity(row[k], row["unit"], bare=True) for k in ("low", "high")]
    text = quantity(row["value"], row["unit"]) if np.isfinite(row["value"]) else "no number"
    text += f" ({bare[0]} to {bare[1]})" if np.isfinite(row["low"]) else ""
    text += f", q {row['q']:.2g}" if np.isfinite(row["q"]) else ""
    ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), fontsize=SMALL + 0.5, color=INK, va="center")


def _heights(table: pd.DataFrame, by: str, columns: int) -> np.ndarray:
    counts = table.groupby(by, sort=False).size().to_numpy()
    return np.array([HEAD + ROW * counts[i : i + columns].max() for i in range(0, len(counts), columns)])


def _notes(table: pd.DataFrame) -> list[str]:
    """What the marks mean, of those that were drawn."""
    drawn = [v for v in LOOKS if v in set(table["verdict"])]
    notes = [f"{'' if LOOKS[v][2] else 'open '}{SHAPES[LOOKS[v][1]]}: {v}" for v in drawn]
    if np.isfinite(table["low"]).any():
        notes.insert(0, f"line: {', '.join(f'{100 * (1 - a):g}' for a in table['alpha'].unique())} % interval")
    return [*notes, *(["grey band: margin"] if np.isfinite(table["margin"]).any() else [])]
