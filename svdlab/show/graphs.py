"""Numbers as curves: a measure against a condition, and what moves from frame to frame.

>>> show.dose_response(results, x="motion_bucket_id", y="flow_px", by="fps")
>>> show.stepwise(clip)
>>> show.camera_path(clip)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from svdlab.errors import InputError
from svdlab.measure import motion
from svdlab.show.provenance import about, axis, name, number
from svdlab.show.style import COLOURS, GREY, INK, LABEL, MARKERS, PALE, SMALL, WIDTH, curves, on, plain
from svdlab.stats.intervals import mean_interval


def dose_response(
    results: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str | None = None,
    reference: Callable[[pd.DataFrame], Any] | None = None,
    reference_label: str = "",
    ax: Axes | None = None,
    title: str = "",
) -> Any:
    """A measure against a condition: each run a point, runs of one seed joined, the mean with its interval.

    >>> show.dose_response(results, x="motion_bucket_id", y="flow_px", by="fps")

    by: a column for small multiples side by side, on shared axes. The band is the 95 % interval of the mean over images
    where there are several, else over seeds (`svdlab.stats.mean_interval`), drawn from three of them up. reference:
    given the table, what theory expects of each of its rows, drawn dashed. ax: draw there (then `by` is not possible).
    Returns the Figure; its table has mean and interval per point. Raises InputError for a missing column, or a measure
    with no number in it.
    """
    for column in filter(None, (x, y, by)):
        if column not in results.columns:
            raise InputError(f"no column {column!r}: the table has {', '.join(map(str, results.columns))}.")
    if by and ax is not None:
        raise InputError("by= makes several axes: leave ax= out, or narrow the table to one value and leave by= out.")
    table = results.assign(_y=pd.to_numeric(results[y], errors="coerce"))
    if reference is not None:
        table["_reference"] = np.asarray(reference(results), dtype=float)
    missing = int(table["_y"].isna().sum())
    if missing == len(table):
        raise InputError(f"the column {y!r} holds no number in {len(table)} rows: nothing to draw.")
    groups = [(None, table)] if by is None else list(table.groupby(by, sort=True))
    title = title or f"{name(y).capitalize()} against {name(x)}" + (f", by {name(by)}" if by else "")
    left_out = f" · {missing} run{'s' * (missing > 1)} without a number left out" if missing else ""
    unit = "image" if x != "image" and "image" in table and table["image"].nunique() > 1 else "seed"
    footer = about(results) + f" · points: runs; band: 95 % interval of the mean over {unit}s" + left_out
    if by is None:
        fig, only = on(ax, size=(520, 320), title=title, footer=footer)
        panels = [only]
    else:
        columns = min(4, len(groups))
        rows = -(-len(groups) // columns)
        size = (max(220, min(360, WIDTH / columns)), 240)
        fig, axes = curves(rows=rows, columns=columns, size=size, title=title, footer=footer)
        panels = list(axes.flat)
        for spare in panels[len(groups) :]:
            spare.set_visible(False)
    places = _places(table[x])
    tables = []
    for panel, (value, group) in zip(panels, groups, strict=False):
        estimate = _curve(panel, group, x, unit, places, reference_label if value == groups[0][0] else "")
        tables.append(estimate if by is None else estimate.assign(**{by: value}))
        if by is not None:
            panel.set_title(f"{name(by)} {number(value)}", fontsize=LABEL, loc="left", color=INK)
        panel.set_xlabel(axis(x))
        if _roomy(list(places.values())):
            panel.set_xticks(list(places.values()), [number(v) for v in places])
    panels[0].set_ylabel(axis(y))
    low, high = _reach(table)
    panels[0].set_ylim(low, high)  # the axes of a grid share it
    if by is not None:
        for panel in panels[:: min(4, len(groups))]:
            panel.set_ylabel(axis(y))
    fig.data = pd.concat(tables, ignore_index=True).rename(columns={"x": x, "mean": f"{y}_mean"})
    return fig


def _places(values: pd.Series) -> dict[Any, float]:
    """Where each value stands on the axis: numbers at themselves, others side by side."""
    distinct = sorted(values.unique(), key=lambda v: (isinstance(v, str), v))
    if pd.api.types.is_numeric_dtype(values):
        return {v: float(v) for v in distinct}
    return {v: float(i) for i, v in enumerate(distinct)}


def _reach(table: pd.DataFrame) -> tuple[float, float]:
    """Limits that hold all runs and the reference; the band of very few runs may leave them."""
    values = table[[c for c in ("_y", "_reference") if c in table]].to_numpy(dtype=float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.15 * (high - low) or max(0.1 * abs(high), 0.1)
    return low - margin, high + margin


def _roomy(at: list[float]) -> bool:
    """Whether every value can have its own tick without the labels touching."""
    gaps = np.diff(sorted(at))
    return len(at) < 2 or bool(gaps.min() >= 0.1 * gaps.sum())


def _curve(ax: Axes, group: pd.DataFrame, x: str, unit: str, places: dict[Any, float], reference_label: str) -> pd.DataFrame:
    group = group.dropna(subset="_y").assign(_x=lambda t: t[x].map(places)).sort_values("_x")
    if "seed" in group.columns and "image" in group.columns:
        units = [u for _, u in group.groupby(["seed", "image"])]
    else:
        units = [u for _, u in group.groupby("seed")] if "seed" in group.columns else []
    if all(u["_x"].is_unique for u in units):  # else another condition varies too, and joining would draw a tangle
        for one in units:
            ax.plot(one["_x"], one["_y"], color=PALE, linewidth=0.8, zorder=1)
    ax.plot(group["_x"], group["_y"], "o", markersize=3.2, markerfacecolor="none", markeredgecolor=GREY, zorder=2)
    rows = []
    for place, here in group.groupby("_x"):
        low, high = _interval(here, unit)
        first = here[x].iloc[0]
        rows.append({"x": first, "mean": here["_y"].mean(), "low": low, "high": high, "runs": len(here), "_x": place})
    table = pd.DataFrame(rows)
    if pd.api.types.is_numeric_dtype(group[x]):
        ax.fill_between(table["_x"], table["low"], table["high"], color=COLOURS[0], alpha=0.2, linewidth=0, zorder=3)
        ax.plot(table["_x"], table["mean"], color=COLOURS[0], linewidth=1.8, zorder=4)
    else:  # between categories there is nothing to draw a line through
        ax.vlines(table["_x"], table["low"], table["high"], color=COLOURS[0], linewidth=5, alpha=0.3, zorder=3)
        ax.plot(table["_x"], table["mean"], "_", color=COLOURS[0], markersize=14, markeredgewidth=2, zorder=4)
        ax.margins(x=0.15)
    if "_reference" in group:
        line = group.groupby("_x")["_reference"].mean()
        ax.plot(line.index, line, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
        if reference_label:
            at = max(0, len(line) - 2)
            ax.annotate(
                reference_label,
                (line.index[at], line.iloc[at]),
                xytext=(-6, 6),
                textcoords="offset points",
                fontsize=SMALL + 1,
                ha="right",
                va="bottom",
                color=INK,
            )
    return table.drop(columns="_x")


def _interval(here: pd.DataFrame, unit: str) -> tuple[float, float]:
    """The interval of the mean over units, each averaged over its own runs first; NaN below three units."""
    values = here.groupby(unit)["_y"].mean() if unit in here else here["_y"]
    if len(values) < 3:
        return float("nan"), float("nan")
    found = mean_interval(values.to_numpy())
    return found.low, found.high


def stepwise(clip: Any, *, playback_fps: float | None = None, ax: Axes | None = None, title: str = "") -> Any:
    """How fast things move from each frame to the next: the camera, and the subject against the background.

    >>> show.stepwise(clip)
    >>> show.stepwise(motion.measure(frames))

    clip: a Clip, frames "f h w c", or the table of `motion.measure`. In px per frame, or px per second with
    playback_fps. Pairs of which nothing can be told are marked, not drawn as zero.
    """
    table = _measured(clip, playback_fps)
    unit = "_px_s" if playback_fps is not None else "_px"
    fig, ax = on(ax, size=(520, 280), title=title or "Speed from frame to frame", footer=about(clip))
    series = {"camera": "camera" + unit, "subject": "object" + unit}
    for (label, column), colour, marker in zip(series.items(), COLOURS, MARKERS, strict=False):
        ax.plot(table["pair"], table[column], color=colour, marker=marker, markersize=4, linewidth=1.5)
        told = table[column].dropna()
        if len(told):
            ax.annotate(
                label, (table["pair"][told.index[-1]], told.iloc[-1]), xytext=(7, 3), textcoords="offset points",
                color=colour, fontsize=LABEL, va="center",
            )  # fmt: skip
    for pair in table["pair"][table["abstained"]]:
        ax.axvspan(pair - 0.5, pair + 0.5, color=PALE, alpha=0.6, linewidth=0)
    if table["abstained"].any():
        ax.text(0.02, 0.95, "grey: cannot be told", transform=ax.transAxes, fontsize=SMALL + 1, color=GREY, va="top")
    ax.set_xticks(table["pair"], [f"{i}\N{RIGHTWARDS ARROW}{i + 1}" for i in table["pair"]])
    if len(table) > 12:
        ax.set_xticks(table["pair"][::4], [f"{i}\N{RIGHTWARDS ARROW}{i + 1}" for i in table["pair"][::4]])
    fastest = max(0.5, float(np.nanmax(table[list(series.values())].to_numpy(), initial=0.0)))
    ax.set_ylim(-0.04 * fastest, 1.1 * fastest)
    ax.margins(x=0.12)
    ax.set_xlabel("frame pair")
    ax.set_ylabel("speed (px per second)" if playback_fps is not None else "speed (px per frame)")
    plain(ax)
    fig.data = table
    return fig


def camera_path(clip: Any, *, title: str = "") -> Any:
    """Where the camera goes: its path to the side and up on the left, zoom and roll over the frames on the right.

    >>> show.camera_path(clip)

    clip: as in `stepwise`. The camera's own motion: it goes right where the picture goes left.
    """
    table = _measured(clip, None)
    path = motion.camera_path(table)
    fig, axes = curves(rows=1, columns=3, size=(280, 280), title=title or "Path of the camera", footer=about(clip))
    for ax in axes.flat:
        ax.remove()
    track, zoom, roll = (fig.add_subplot(1, 3, i + 1) for i in range(3))
    for ax in (track, zoom, roll):
        plain(ax)
    track.axhline(0, color=PALE, linewidth=0.8)
    track.axvline(0, color=PALE, linewidth=0.8)
    track.plot(path["pan_px"], path["tilt_px"], color=COLOURS[0], marker="o", markersize=3.5, linewidth=1.5)
    reach = max(1.0, 1.25 * float(path[["pan_px", "tilt_px"]].abs().to_numpy().max()))
    track.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="pan (px, right is +)", ylabel="tilt (px, up is +)")
    track.set_box_aspect(1)
    for i in (0, len(path) - 1):
        at = (path["pan_px"].iloc[i], path["tilt_px"].iloc[i])
        track.annotate(
            f"frame {i}", at, xytext=(0, 7 if i else -13), textcoords="offset points", fontsize=SMALL + 1, ha="center"
        )
    zoom.plot(path.index, path["zoom"], color=COLOURS[0], marker="o", markersize=3.5, linewidth=1.5)
    zoom.set(xlabel="frame", ylabel="zoom (factor)", ylim=(min(0.9, path["zoom"].min()), max(1.1, path["zoom"].max())))
    roll.plot(path.index, path["roll_deg"], color=COLOURS[0], marker="o", markersize=3.5, linewidth=1.5)
    limit = max(2.0, 1.1 * float(path["roll_deg"].abs().max()))
    roll.set(xlabel="frame", ylabel="roll (degrees, clockwise is +)", ylim=(-limit, limit))
    fig.data = path.reset_index()
    return fig


def _measured(clip: Any, playback_fps: float | None) -> pd.DataFrame:
    if isinstance(clip, pd.DataFrame):
        needed = {"pair", "camera_px", "object_px", "abstained"} | ({"camera_px_s"} if playback_fps is not None else set())
        if not needed <= set(clip.columns):
            raise InputError(f"the table lacks {', '.join(sorted(needed - set(clip.columns)))}: give that of motion.measure.")
        return clip
    return motion.measure(getattr(clip, "frames", clip), playback_fps=playback_fps)
