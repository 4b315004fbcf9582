"""A probe's result as one figure: verdict, effects with their intervals, graphs, examples, and the audit.

>>> fig = draw(result)                                   # also result.figure()
>>> show.save(fig, "results/limitations/stillness/figure")
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from svdlab.probes.probe import Check, Example, Graph
from svdlab.probes.running import Result
from svdlab.show.figure import COLOURS, GREY, INK, LABEL, MARKERS, PALE, SMALL, WIDTH, Figure, broken, figure, plain
from svdlab.show.forest import forest_on
from svdlab.stats.effects import as_table

LINE = 15  # px of a line of text
ROW, HEAD = 22, 44  # px of an effect, and of an axis below some of one unit
GRAPH, EXAMPLE = 200, 130  # px of a row of graphs, and of an example
FRAMES = 6  # of an example
TEXT = WIDTH - 40  # px


def draw(result: Result) -> Figure:
    """The figure of what `svdlab.probes.run` returned; one that was not run states why. Its data is the table of effects."""
    table = as_table(result.effects)
    table["label"] = [broken(e.label, LABEL, 380) for e in result.effects]
    points = [(graph, graph.points(result.clips)) for graph in result.graphs] if result.effects else []
    points = [(graph, drawn) for graph, drawn in points if len(drawn)]
    card = broken(f"“{result.card}”", LABEL, TEXT) if result.card else ""
    verdict = broken(result.verdict, LABEL, TEXT)
    rows = (table["label"].str.count("\n") * 0.6 + 1).sum() if len(table) else 0
    notes: list[str] = []
    blocks: list[tuple[float, Callable[[Any], None]]] = [
        (LINE * (card + "\n" + verdict).count("\n") + 2 * LINE, lambda sub: _text(sub, (card, GREY), (verdict, INK))),
        (rows * ROW + HEAD * table["unit"].nunique(), lambda sub: notes.extend(forest_on(sub, table))),
        *((GRAPH, lambda sub, row=row: _graphs(sub, row)) for row in _threes(points)),
        *((EXAMPLE, lambda sub, example=example: _example(sub, example)) for example in result.examples),
        (LINE * (1.2 * len(result.audit) + 1.5) if result.audit else 0, lambda sub: _audit(sub, result.audit)),
    ]
    blocks = [(height, paint) for height, paint in blocks if height]
    title = f"{result.name}: {result.question}"
    fig = figure(WIDTH, sum(height for height, _ in blocks), of=_source(result), title=title)
    parts = np.atleast_1d(np.asarray(fig.subfigures(len(blocks), 1, height_ratios=[height for height, _ in blocks]), object))
    for part, (_, paint) in zip(parts, blocks, strict=True):
        paint(part)
    stimuli = result.stimuli if result.stimuli is not None else pd.DataFrame()
    images = f"{len(stimuli)} images: {', '.join(pd.unique(stimuli['source']))}" if len(stimuli) else ""
    intervals = "graphs: mean over images, 95 % interval" if any(d["low"].notna().any() for _, d in points) else ""
    return fig.finish(table, images, *notes, intervals, "quick" if result.quick else "")


def _source(result: Result) -> Any:
    """What the footer and the saved file say of the model, and of the conditions of the clips."""
    clips = result.clips
    own = {key: getattr(result, key) for key in ("checkpoint", "label", "licence")}
    return clips.assign(**own) if "fps" in clips and len(clips) else result


def _threes(points: list[tuple[Graph, pd.DataFrame]]) -> list[list[tuple[Graph, pd.DataFrame]]]:
    width = 2 if len(points) == 4 else 3
    return [points[i : i + width] for i in range(0, len(points), width)]


def _text(sub: Any, *parts: tuple[str, str]) -> None:
    x, y = 12 / WIDTH, 1.0
    tall = sub.bbox.height / sub.figure.dpi * 100  # px of the layout
    for text, colour in parts:
        sub.text(x, y, text, va="top", fontsize=LABEL, color=colour, linespacing=1.2)
        y -= LINE * (text.count("\n") + 1.4) / tall


def _audit(sub: Any, audit: tuple[Check, ...]) -> None:
    step = 1 / (len(audit) + 1)
    sub.text(12 / WIDTH, 1, "Audit: does the instrument give the known answers?", va="top", fontsize=LABEL, weight="bold")
    for n, check in enumerate(audit, 1):
        mark, colour = ("✓", COLOURS[2]) if check.passed else ("✗", COLOURS[1])
        sub.text(12 / WIDTH, 1 - n * step, mark, va="top", fontsize=LABEL, color=colour)
        text = textwrap.shorten(f"{check.check}: {check.measured} (expected: {check.expected})", 150)
        sub.text(28 / WIDTH, 1 - n * step, text, va="top", fontsize=LABEL - 1)


def _example(sub: Any, example: Example) -> None:
    count = len(example.frames)
    chosen = np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int)
    which = f"; frames {', '.join(map(str, chosen))}" if count > FRAMES else ""
    sub.suptitle(example.label + which, x=12 / WIDTH, ha="left", fontsize=LABEL, color=INK)
    for ax, t in zip(sub.subplots(1, FRAMES), [*chosen, *[None] * FRAMES], strict=False):
        ax.set_axis_off()
        if t is not None:
            ax.imshow(np.clip(example.frames[t], 0, 1), interpolation="none")


# --- graphs -----------------------------------------------------------------------------------------------------------


def _graphs(sub: Any, row: list[tuple[Graph, pd.DataFrame]]) -> None:
    axes = sub.subplots(1, 3 if len(row) == 1 else len(row), squeeze=False)[0]
    for ax in axes[len(row) :]:
        ax.set_visible(False)
    for ax, (graph, points) in zip(axes, row, strict=False):
        plain(ax)
        ax.set_title(broken(graph.title, LABEL, 260), fontsize=LABEL, loc="left", color=INK)
        ax.set(xlabel=graph.x_label or graph.x.replace("_", " "), ylabel=graph.y_label)
        {"curve": _curves, "bars": _bars, "plane": _plane}[graph.kind](ax, points, graph)


def _curves(ax: Axes, points: pd.DataFrame, graph: Graph) -> None:
    for (name, group), colour, marker in zip(points.groupby("by", sort=False), COLOURS * 4, MARKERS * 4, strict=False):
        x, y, low, high = (group[c].astype(float) for c in ("x", "value", "low", "high"))
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, y, color=colour, marker=marker, markersize=3, linewidth=1.3, label=str(name))
    _legend(ax, points)


def _bars(ax: Axes, points: pd.DataFrame, graph: Graph) -> None:
    """A point for each name with its interval."""
    names = list(dict.fromkeys(points["x"]))
    groups = list(points.groupby("by", sort=False))
    for n, ((name, group), colour, marker) in enumerate(zip(groups, COLOURS * 4, MARKERS * 4, strict=False)):
        at = [names.index(x) + 0.18 * (n - (len(groups) - 1) / 2) for x in group["x"]]
        ax.vlines(at, group["low"], group["high"], color=colour, linewidth=1.6)
        ax.plot(at, group["value"], marker, color=colour, markersize=5, label=str(name).replace("_", " "))
    ax.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    labels = [textwrap.fill(_number(x).replace("_", " "), 10) for x in names]
    ax.set_xticks(range(len(names)), labels, fontsize=LABEL - 1 if len(names) < 5 else SMALL)
    ax.set_xlim(-0.5, len(names) - 0.5)
    _legend(ax, points)


def _plane(ax: Axes, points: pd.DataFrame, graph: Graph) -> None:
    """Values as colour over x and by, each written into its cell."""
    order = {key: list(dict.fromkeys(points[key])) for key in ("x", "by")}
    order = {key: sorted(v) if all(isinstance(i, (int, float, np.number)) for i in v) else v for key, v in order.items()}
    grid = points.pivot_table(index="by", columns="x", values="value").reindex(order["by"], columns=order["x"]).to_numpy()
    image = ax.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    low, high = image.get_clim()
    digits = max(0, 2 - int(np.floor(np.log10(max(abs(low), abs(high)) or 1.0))))  # as many decimals in all cells
    for (r, c), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value - low < 0.6 * ((high - low) or 1) else INK
            ax.text(c, r, f"{value:.{digits}f}", ha="center", va="center", fontsize=SMALL + 0.5, color=colour)
    ax.set_xticks(range(len(order["x"])), [textwrap.fill(_number(x), 8) for x in order["x"]])
    ax.set_yticks(range(len(order["by"])), [_number(y) for y in order["by"]])
    ax.spines[["left", "bottom"]].set_visible(False)


def _legend(ax: Axes, points: pd.DataFrame) -> None:
    """Beside the data, where there are several groups."""
    if points["by"].nunique() > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=SMALL, frameon=False, handlelength=1.2)


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
