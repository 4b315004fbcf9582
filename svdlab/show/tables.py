"""Tables as figures: a measure against a condition, numbers as colours, and effects as a forest."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from svdlab import errors
from svdlab.errors import InputError, flag, takes, text
from svdlab.show.figure import (
    COLOURS,
    DPI,
    GREY,
    INK,
    LABEL,
    LABELS,
    MARKERS,
    NARROW,
    PALE,
    SMALL,
    WIDTH,
    Figure,
    broken,
    figure,
    graphs,
    named,
    plain,
    room,
    side_by_side,
)
from svdlab.show.labels import WORDS, axis, cut, name, number, ordered, short
from svdlab.stats.crossed import numbers
from svdlab.stats.effects import DESCRIPTIVE, EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW, Effect, as_table, quantity
from svdlab.stats.intervals import mean_interval

WRITTEN = 60  # cells: with more of them, their numbers are left out
TICKS = 13  # labels along a side
FEWEST = 3  # units: with fewer of them no interval is drawn
ROW, HEAD = 20, 56  # px of an effect, and of a panel's title and axis
MOST = 1e300  # beyond it a number is none: the limits of an axis are sums of what is drawn
REACH = 6.0  # standard deviations drawn at most: what lies beyond is an arrow
NUMBERS = ("value", "low", "high", "margin", "sd", "null", "q")  # of an effect
LOOKS = {  # verdict -> colour, marker, filled and its name; what has no claim is grey
    EFFECT: (COLOURS[1], "s", COLOURS[1], "square"),
    EQUIVALENT: (COLOURS[2], "^", COLOURS[2], "triangle"),
    DESCRIPTIVE: (COLOURS[0], "o", COLOURS[0], "disc"),
    INCONCLUSIVE: (GREY, "o", "white", "open circle"),
    TOO_FEW: (GREY, "o", "white", "open circle"),
}


@takes(x=text, y=text, by=text, together=flag, title=WORDS)
def dose_response(
    results: pd.DataFrame, *, x: str, y: str, by: str | None = None, together: bool = False, title: str = ""
) -> Figure:
    """A measure against a condition: each run a point, runs of one seed joined, the mean with its interval.

    >>> show.dose_response(results, x="motion_bucket_id", y="object_px", by="fps")

    by: a column for small multiples side by side, on shared axes; with `together` in one graph, in a colour and a marker each
    (four values at most). The band is the 95 % interval of the mean over images
    where there are several, else over seeds (`svdlab.stats.mean_interval`), drawn from three of them up. The figure's table
    has a row for each point, with mean, interval and number of runs there. Raises InputError for a missing column, or a
    measure with no number in it.
    """
    errors.columns("results", results, *filter(None, (x, y, by)))
    for column in {x, by, "seed", "image"} & set(results):
        ordered(results[column])  # refuses a column of lists
    numeric = pd.api.types.is_numeric_dtype(results[x]) and not pd.api.types.is_complex_dtype(results[x])
    values = [v for v in ordered(results[x].dropna()) if not numeric or abs(v) < MOST]
    places = {v: float(v if numeric else i) for i, v in enumerate(values)}  # others stand side by side
    table = results.assign(_x=results[x].map(places), _y=numbers(results[y]))
    there = table["_x"].notna() & (table[by].notna() if by else True)
    table["_y"] = table["_y"].where(there & (table["_y"].abs() < MOST))
    groups: list[Any] = [(v, table[table[by] == v]) for v in ordered(results[by].dropna())] if by else [(None, table)]
    if not groups:
        raise InputError(f"the column {by!r} is empty in {len(table)} rows: leave by= out.")
    missing = int(table["_y"].isna().sum())
    if missing == len(table):
        raise InputError(f"the column {y!r} holds no number in {len(table)} rows.")
    unit = "image" if x != "image" and "image" in table and table["image"].nunique() > 1 else "seed"
    if together and len(groups) > len(COLOURS):
        raise InputError(f"together=True: {by!r} has {len(groups)} values, and one graph holds {len(COLOURS)} at most.")
    columns = 1 if together else side_by_side(min(4, len(groups)), 150)
    fig, axes = graphs(
        size=(max(150, min(360, room() / columns)), 240) if by and not together else (520, 320),
        rows=1 if together else -(-len(groups) // columns),
        columns=columns,
        of=results,
        title=title or f"{name(y)[:1].upper()}{name(y)[1:]} against {name(x)}" + (f", by {name(by)}" if by else ""),
    )
    for spare in axes.flat[len(groups) :]:
        spare.set_visible(False)
    tables, called = [], short(results["image"]) if "image" in (x, by) else {}
    wide, tall = fig.size[0] / columns - 80, 0.0
    for i, (value, group) in enumerate(groups):
        ax, means = axes.flat[0 if together else i], _means(group, unit)
        look = (COLOURS[i], MARKERS[i]) if together and by else (COLOURS[0], "o")
        _curve(ax, group, means, *look, numeric=numeric, own=together and bool(by))
        first, last = i % columns == 0 or together, i + columns >= len(groups) or together
        ax.set(xlabel=axis(x) if last else "", ylabel=axis(y) if first else "")
        ax.tick_params(labelbottom=last, labelleft=first)
        if by and together:
            words = broken(f"{name(by)} {called.get(value, number(value))}", LABEL, wide - 40)  # beside its line
            ax.plot([], [], color=look[0], marker=look[1], markersize=4, label=words)
            keys = ax.get_legend_handles_labels()[1]
            ncols = 2 if 0.6 * LABEL * DPI / 72 * max(map(len, keys)) < wide / 2 - 40 else 1
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0, frameon=False, fontsize=LABEL)
        elif by:
            words = broken(f"{name(by)} {called.get(value, number(value))}", LABEL, wide)
            ax.set_title(words, fontsize=LABEL, loc="left", color=INK)
        if group["_y"].isna().all() and not together:
            ax.text(0.5, 0.5, "no number", transform=ax.transAxes, ha="center", va="center", fontsize=LABEL, color=GREY)
        gaps = np.diff(sorted(places.values()))
        labels = [called.get(v, number(v)) if x == "image" else number(v) for v in places]
        if not numeric:
            tall = named(ax.xaxis, list(places.values()), labels, wide)
        elif not len(gaps) or gaps.min() >= 0.1 * gaps.sum():  # every value can have its tick without the labels touching
            ax.set_xticks(list(places.values()), labels)
        runs = group.dropna(subset="_y").sort_values("_x", kind="stable")
        runs = runs[[c for c in dict.fromkeys([by, x, y, "image", "seed", "run_id"]) if c in runs]].assign(_x=runs["_x"])
        tables.append(runs.merge(means.rename(columns={"mean": f"{y}_mean"}), on="_x").drop(columns="_x"))
    data = pd.concat(tables, ignore_index=True)
    drawn = pd.concat([table["_y"], data["low"], data["high"]])
    margin = 0.08 * (drawn.max() - drawn.min()) or max(0.1 * abs(drawn.max()), 0.1)
    axes[0, 0].set_ylim(drawn.min() - margin, drawn.max() + margin)  # the axes of a grid share it
    if by and together:
        tall += 16 * max(0.0, sum(key.count("\n") + 1 for key in keys) / ncols - 2)  # lines above the graph
    fig.size = fig.size[0], fig.size[1] + tall
    notes = ["points: runs", f"band: 95 % interval of the mean over {unit}s" if data["low"].notna().any() else ""]
    return fig.finish(data, *notes, f"{missing} run{'s' * (missing > 1)} without a number left out" if missing else "")


def _means(group: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Mean and interval at each place: of the units' means, each unit averaged over its own runs first."""
    rows = []
    for place, here in group.dropna(subset="_y").groupby("_x"):
        units = here.groupby(unit)["_y"].mean() if unit in here else here["_y"]
        found = mean_interval(units.to_numpy()) if len(units) >= FEWEST else None
        low, high = (found.low, found.high) if found else (np.nan, np.nan)
        rows.append({"mean": units.mean(), "low": low, "high": high, "runs": len(here), "_x": place})
    return pd.DataFrame(rows, columns=["mean", "low", "high", "runs", "_x"]).astype(
        dict.fromkeys(("mean", "low", "high", "_x"), float)
    )


def _curve(ax: Axes, group: pd.DataFrame, means: pd.DataFrame, colour: str, marker: str, *, numeric: bool, own: bool) -> None:
    """own: the points in the group's colour and marker, because other groups lie in the same graph."""
    group = group.dropna(subset="_y").sort_values("_x")
    keys = [key for key in ("seed", "image") if key in group]
    units = [u for _, u in group.groupby(keys)] if "seed" in keys else []
    if all(u["_x"].is_unique for u in units):  # else another condition varies too, and joining would draw a tangle
        for one in units:
            ax.plot(one["_x"], one["_y"], color=PALE, linewidth=0.8, zorder=1)
    edge = colour if own else GREY
    ax.plot(group["_x"], group["_y"], marker, markersize=3.2, markerfacecolor="none", markeredgecolor=edge, zorder=2)
    if numeric:
        ax.fill_between(means["_x"], means["low"], means["high"], color=colour, alpha=0.2, linewidth=0, zorder=3)
        ax.plot(means["_x"], means["mean"], color=colour, linewidth=1.8, zorder=4)
    else:  # between categories there is nothing to draw a line through
        ax.vlines(means["_x"], means["low"], means["high"], color=colour, linewidth=5, alpha=0.3, zorder=3)
        ax.plot(means["_x"], means["mean"], "_", color=colour, markersize=14, markeredgewidth=2, zorder=4)
        ax.margins(x=0.15)


@takes(title=WORDS, key=WORDS, rows=WORDS, columns=WORDS, centre=errors.number)
def heat(
    table: Any, *things: Any, title: str, key: str, rows: str = "", columns: str = "", centre: float | None = None
) -> Figure:
    """A DataFrame, or an array "y x", as a heat map: its index downwards, its columns to the right.

    >>> pressure = pd.DataFrame((tr["cond"] - tr["uncond"]).abs().mean((2, 3, 4)), index=tr.sigmas)
    >>> show.heat(tr.denoised[-1, 0, 0], tr, title="A channel of the latents", key="z", centre=0.0)
    >>> show.heat(pressure, tr, title="Guidance pressure", key="|cond - uncond|", rows="sigma", columns="frame")

    things: clips, traces or tables that the footer names. key: what the colours mean, with the unit. rows, columns: what
    index and columns are. centre: this value is white, and both sides get a colour each; without it viridis runs from the
    least to the greatest. NaN is left blank. Raises InputError for a table without numbers.
    """
    if hasattr(table, "detach") and hasattr(table, "cpu"):  # a tensor of torch, which nothing here imports
        table = table.detach().float().cpu().numpy()
    if isinstance(table, np.ndarray) and table.ndim == 2 and table.dtype.kind in "fiub":
        table = pd.DataFrame(table)
    if not isinstance(table, pd.DataFrame):
        raise InputError(f'table={errors.shown(table)}: give a DataFrame, or an array "y x" of numbers.')
    try:
        values = table.to_numpy(dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"table={errors.shown(table)}: give a DataFrame of numbers alone.") from error
    values = np.where(np.abs(values) < MOST, values, np.nan)
    if not np.isfinite(values).any():
        raise InputError(f"the table of shape {table.shape} holds no number to draw.")
    down, across = values.shape
    size = (max(480.0, min(880.0, 150 + 46.0 * across)), max(210.0, min(560.0, 70 + 26.0 * down)))
    fig, axes = graphs(size=size, of=things, title=title)
    ax = axes[0, 0]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if centre is not None:
        reach = max(high - centre, centre - low) or 1.0
        low, high = centre - reach, centre + reach
    colours = "viridis" if centre is None else "RdBu_r"
    drawn = ax.imshow(values, interpolation="none", aspect="auto", cmap=colours, vmin=low, vmax=high)
    places, texts = zip(*(_ticks(labels) for labels in (table.columns, table.index)), strict=True)
    beside = [broken(text, LABEL - 1, LABELS * room()) for text in texts[1]]
    ax.set_yticks(places[1], beside)
    taken = 0.6 * (LABEL - 1) * DPI / 72 * max(len(line) for text in beside for line in text.split("\n"))
    wide = max(fig.size[0], min(room(), fig.size[0] + taken - 60))
    fig.size = wide, fig.size[1] + named(ax.xaxis, places[0], texts[0], wide - taken - 140)
    ax.set(xlabel=columns, ylabel=rows)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for (r, c), value in np.ndenumerate(values if values.size <= WRITTEN else np.empty((0, 0))):
        if np.isfinite(value):
            light = np.dot(drawn.cmap(drawn.norm(value))[:3], (0.299, 0.587, 0.114)) > 0.55
            text = "0" if abs(value) < 0.005 * np.nanmax(np.abs(values)) else f"{value:.2g}"
            ax.text(c, r, text, ha="center", va="center", fontsize=SMALL + 1, color="#111111" if light else "white")
    bar = fig.colorbar(drawn, ax=ax, fraction=0.04, pad=0.02)
    bar.set_label(broken(key, LABEL, size[1]), fontsize=LABEL, color=INK)
    bar.ax.tick_params(labelsize=LABEL - 1, length=2)
    bar.outline.set_visible(False)
    data = table.copy()
    data.insert(0, rows or table.index.name or "index", list(table.index), allow_duplicates=True)
    return fig.finish(data.reset_index(drop=True))


def _ticks(labels: Any) -> tuple[range, list[str]]:
    """Places and names of the ticks of a side, TICKS at most."""
    every = -(-len(labels) // TICKS)
    shown = [number(round(v, 3) if isinstance(v, (float, np.floating)) else v) for v in labels[::every]]
    return range(0, len(labels), every), shown


@takes(by=text, standardised=flag, title=WORDS)
def forest(
    effects: Iterable[Effect] | pd.DataFrame,
    *,
    by: str = "unit",
    standardised: bool = False,
    of: Any = (),
    title: str = "Effects",
) -> Figure:
    """A row for each effect, a panel for each value of `by`; the number in its own unit stands beside it.

    >>> clips = results.assign(stimulus=results.image)
    >>> show.forest([svdlab.stats.mean("object_px", "subject speed", clips, unit="px/frame")], of=clips)

    effects: Effects, or a table of them (`stats.as_table`, `compare`, a bias study's). by: a column of that table.
    standardised: in standard deviations of the units (images or pairs), on one scale for all panels. of: clips, tables or
    words that the footer names as the source. Raises InputError for any other table.
    """
    table = effects if isinstance(effects, pd.DataFrame) else as_table(effects)
    errors.columns("effects", table, by, *("label", "unit", "verdict", "threshold", "alpha"), *NUMBERS)
    for verdict in ordered(table["verdict"]):
        errors.one_of("verdict", verdict, LOOKS)
    if len(ordered(table[by].dropna())) == 0:
        raise InputError(f"the column {by!r} is empty in {len(table)} rows: give another by=.")
    height = sum(map(_height, table["label"])) + HEAD * table[by].nunique()
    fig = figure(WIDTH, height, of=of, title=title)
    fig.size = fig.size[0], height  # texts above the rows take their room, however narrow it is
    return fig.finish(table, *forest_on(fig, table, by=by, standardised=standardised))


def forest_on(fig: Any, table: pd.DataFrame, *, by: str = "unit", standardised: bool = False) -> list[str]:
    """`forest` in a figure or subfigure that is there; returns the notes on what was drawn."""
    found = {column: numbers(table[column]) for column in NUMBERS}
    table = table.assign(**{column: v.where(v.abs() < MOST) for column, v in found.items()}, label=table["label"].map(cut))
    groups, ends = list(table.groupby(by, sort=False)), _ends(table, standardised)
    axes = fig.subplots(
        len(groups), squeeze=False, height_ratios=[HEAD + sum(map(_height, part["label"])) for _, part in groups]
    )
    for ax, (which, part) in zip(axes.flat, groups, strict=True):
        own = ends if standardised else ends.loc[part.index]
        reach = REACH if standardised else np.inf
        low, high = (float(np.clip(f([0.0, *own.to_numpy().ravel()]), -reach, reach)) for f in (np.nanmin, np.nanmax))
        pad = 0.06 * ((high - low) or 1.0)
        plain(ax)
        ax.spines["left"].set_visible(room() >= NARROW)
        ax.set(xlim=(low - pad, high + pad), ylim=(len(part) - 0.5, -0.5))
        ax.axvline(0, color=GREY, linewidth=0.8)
        for place, index in enumerate(part.index):
            _row(ax, place, part.loc[index], own.loc[index], (low, high))
        ax.set_yticks([] if room() < NARROW else range(len(part)), [] if room() < NARROW else part["label"])
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        units = set(part["unit"])
        if units == {"share"} and not standardised:
            ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}")
        ax.set_xlabel(
            "standard deviations" if standardised else ", ".join(sorted("%" if u == "share" else cut(u) for u in units))
        )
        ax.set_title("" if by == "unit" else number(which), fontsize=LABEL, loc="left", color=INK)
    beyond = (ends["value"].abs() > REACH) & standardised
    drawn = set(table["verdict"][~beyond])
    notes = [f"{look[3]}: {verdict}" for verdict, look in LOOKS.items() if verdict in drawn]
    notes += [f"arrow: {verdict}, beyond the axis" for verdict in LOOKS if verdict in set(table["verdict"][beyond])]
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
    words = dict(xycoords=("axes fraction", "data"), fontsize=SMALL + 0.5, color=INK)
    if room() < NARROW:  # the label and the number above the line, not beside it
        above = broken(f"{row['label']}: {text}", SMALL + 0.5, room() - 40)
        plate = dict(facecolor="white", edgecolor="none", pad=0.5)  # no line of the graph runs through it
        ax.annotate(above, (0, place), xytext=(2, 5), textcoords="offset points", bbox=plate, **words)
    else:
        ax.annotate(text, (1.02, place), va="center", **words)


def _height(label: str) -> float:
    """Px of a row of the forest: of one line, or of the lines above it."""
    return ROW + 12 * (1 + (len(cut(label)) + 40) // 50) if room() < NARROW else ROW
