"""A probe's result as one figure: findings with their intervals, graphs, pictures, and the audit.

>>> show.probe(result)
>>> show.save(show.probe(result), "results/limitations/stillness/figure")
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from svdlab.show.style import (
    COLOURS,
    DPI,
    GREY,
    INK,
    LABEL,
    MARKERS,
    PALE,
    SMALL,
    TITLE,
    WIDTH,
    Figure,
    draw,
    fitted,
    plain,
    put,
    scaled,
    sign,
    text_width,
    wrap,
)

if TYPE_CHECKING:
    from svdlab.probes.base import Panel, ProbeResult, Shown

LEFT = 12
LINE = 13  # px of a line of LABEL type
WHAT, AXIS = 330, 200  # px for a finding's words and for its axis
TALL = 190  # px of a graph
MOST_FRAMES = 6
# Kind of finding -> colour, marker, filled: what has no claim is grey.
LOOKS = {
    "found": (COLOURS[1], "D", True),
    "none within margin": (COLOURS[2], "s", True),
    "measured": (COLOURS[0], "o", True),
    "cannot tell": (GREY, "o", False),
    "numbers only": (GREY, "o", False),
}
Block = tuple[int, Callable[[Figure, float], None]]  # height in px, and who draws it from the given top downwards


def probe(result: ProbeResult) -> Figure:
    """One probe's figure, from what `svdlab.probes.run` returned.

    Each finding has an axis of its own, with its 95 % interval and, shaded, the margin within which an effect counts as
    none. The figure's data is the table of findings. A probe that was not run is a figure that says why.
    """
    blocks = [
        _heading(result),
        *_findings(result.findings),
        _graphs(result.panels),
        *_films(result.pictures),
        _audit(result.audit),
    ]
    blocks = [b for b in blocks if b[0]]
    footer = _footer(result)
    notes = wrap(footer, SMALL, WIDTH - 2 * LEFT)
    tall = 10 + sum(height for height, _ in blocks) + 12 + 11 * len(notes)
    fig = Figure(figsize=(WIDTH / DPI, tall / DPI), dpi=DPI)
    top = float(tall - 10)
    for height, paint in blocks:
        paint(fig, top)
        top -= height
    sign(fig, footer, notes)
    fig.alt = f"{result.name}: {result.verdict}"
    fig.data = result.findings
    return fig


def _footer(result: ProbeResult) -> str:
    table = result.table
    parts = [result.checkpoint.rstrip("/").split("/")[-1]]
    if "num_inference_steps" in table and len(table):
        steps = sorted(pd.unique(table["num_inference_steps"].dropna()))
        guidance = table["max_guidance_scale"].max()
        parts.append(
            f"{', '.join(f'{s:g}' for s in steps)} steps, " + (f"guidance to {guidance:g}" if guidance > 1 else "no guidance")
        )
    if len(result.stimuli):
        parts.append(f"{len(result.stimuli)} pictures: {', '.join(pd.unique(result.stimuli['source']))}")
    parts += [f"{len(table)} clips" if "run_id" in table else "", "quick" if result.quick else "", result.label]
    return " · ".join(p for p in parts if p)


def _heading(result: ProbeResult) -> Block:
    card = f"“{result.card}”" if result.card else ""
    title = wrap(f"{result.name}: {result.question}" if result.question else result.name, TITLE, WIDTH - 2 * LEFT, bold=True)
    quoted = wrap(card, LABEL, WIDTH - 2 * LEFT)
    verdict = wrap(result.verdict, LABEL, WIDTH - 2 * LEFT)
    height = 17 * len(title) + 15 * len(quoted) + 14 * len(verdict) + 20

    def paint(fig: Figure, top: float) -> None:
        put(fig, LEFT, top, "\n".join(title), TITLE, va="top", weight="bold", linespacing=1.15)
        top -= 17 * len(title) + 2
        put(fig, LEFT, top, "\n".join(quoted), LABEL, va="top", color=GREY, style="italic", linespacing=1.2)
        top -= 15 * len(quoted) + 4
        put(fig, LEFT, top, "\n".join(verdict), LABEL, va="top", linespacing=1.2)

    return height, paint


# --- findings ---------------------------------------------------------------------------------------------------------


def _findings(findings: pd.DataFrame) -> list[Block]:
    if findings.empty:
        return []
    return [
        _subtitle("Findings: value with 95 % interval; shaded: what counts as none"),
        *map(_row, findings.to_dict("records")),
    ]


def _row(f: dict[Any, Any]) -> Block:
    what = wrap(f["what"], LABEL, WHAT)
    factor, unit = (100, "%") if f["unit"] == "share" else (1, f["unit"])
    limits = f" ({factor * f['low']:.3g} to {factor * f['high']:.3g})" if np.isfinite(f["low"]) else ""
    number = wrap(f"{factor * f['value']:.3g}{limits} {unit}".strip(), LABEL, WIDTH - WHAT - AXIS - 5 * LEFT)
    block = LINE * len(number) + 10
    height = max(LINE * len(what) + 8, block + 8, 36)
    sample = f"{f['kind']} · {f['n_images']} images x {f['n_seeds']} seed{'s' * (f['n_seeds'] != 1)}"

    def paint(fig: Figure, top: float) -> None:
        middle = top - height / 2
        put(fig, LEFT, middle, "\n".join(what), LABEL, va="center", linespacing=1.15)
        ax = _axes(fig, 2 * LEFT + WHAT, middle - 6, AXIS, 18)
        _interval(ax, f)
        x = 3 * LEFT + WHAT + AXIS
        put(fig, x, middle + block / 2, "\n".join(number), LABEL, va="top", linespacing=1.15)
        put(fig, x, middle - block / 2, sample, SMALL + 0.5, va="bottom", color=GREY)

    return height, paint


def _interval(ax: Axes, f: dict[Any, Any]) -> None:
    """One finding on its own axis: zero, margin, interval, value."""
    colour, marker, filled = LOOKS[f["kind"]]
    value, low, high, margin = (float(f[k]) for k in ("value", "low", "high", "margin"))
    factor = 100 if f["unit"] == "share" else 1
    ends = [v for v in (0.0, value, low, high) if math.isfinite(v)]
    ticks = {0.0: "0"}
    if math.isfinite(margin):
        ends += [margin, -margin] if min(ends) < 0 else [margin]
        ax.axvspan(-margin, margin, color=PALE, linewidth=0)
        ticks |= {m: f"{factor * m:.3g}" for m in (-margin, margin) if min(ends) <= m <= max(ends)}
    ax.axvline(0, color=GREY, linewidth=0.8)
    if math.isfinite(low):
        ax.plot([low, high], [0, 0], color=colour, linewidth=2, solid_capstyle="butt")
    if math.isfinite(value):
        ax.plot([value], [0], marker, color=colour, markersize=5.5, markerfacecolor=colour if filled else "white")
    reach = (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - 0.06 * reach, max(ends) + 0.06 * reach)
    ax.set_ylim(-1, 1)
    near = [t for t in ticks if t and abs(t) < 0.12 * reach]  # labels that would lie upon the zero's
    ax.set_xticks([t for t in ticks if t not in near], [text for t, text in ticks.items() if t not in near])
    ax.set_yticks([])
    ax.tick_params(labelsize=SMALL - 0.5, labelcolor=GREY, color=GREY, length=2, pad=1)
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_color(PALE)


# --- graphs -----------------------------------------------------------------------------------------------------------


def _graphs(panels: tuple[Panel, ...]) -> Block:
    """The probe's graphs in rows of at most three."""
    if not panels:
        return 0, lambda fig, top: None
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    rows = -(-len(panels) // columns)
    width = min(400, (WIDTH - 2 * LEFT) / columns)

    def paint(fig: Figure, top: float) -> None:
        for i, panel in enumerate(panels):
            x, y = LEFT + (i % columns) * width, top - (i // columns + 1) * TALL
            left, right = _margins(panel)
            ax = _axes(fig, x + left, y + 36, width - left - right, TALL - 62)
            ax.set_title(panel.title, fontsize=LABEL, loc="left", color=INK)
            PAINTERS[panel.kind](fig, ax, panel)

    return rows * TALL + 6, paint


def _margins(panel: Panel) -> tuple[int, int]:
    """Px that a graph needs at its left and right for its labels."""
    names = [str(v) for v in pd.unique(panel.table[panel.by])] if panel.by else []
    widest = max((text_width(n, LABEL - 1) for n in names), default=0)
    if panel.kind == "plane":
        return max(62, widest + 14), 30
    return 62, widest + 18 if panel.kind == "curve" and len(names) > 1 else 16


def _curve(fig: Figure, ax: Axes, panel: Panel) -> None:
    plain(ax)
    groups = list(panel.table.groupby(panel.by, sort=False)) if panel.by else [("", panel.table)]
    for (_, group), colour, marker in zip(groups, COLOURS * 4, MARKERS * 4, strict=False):
        x, y = group[panel.x], group[panel.y]
        if {"low", "high"} <= set(group):
            ax.fill_between(x, group["low"].astype(float), group["high"].astype(float), color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, y, color=colour, marker=marker, markersize=3, linewidth=1.3)
    if len(groups) > 1:
        _label_ends(
            ax, [(str(name), group[panel.y].dropna(), c) for (name, group), c in zip(groups, COLOURS * 4, strict=False)]
        )
    ax.set_xlabel(panel.x_label or panel.x)
    ax.set_ylabel(panel.y_label or panel.y)


def _label_ends(ax: Axes, lines: list[tuple[str, pd.Series, str]]) -> None:
    """Each line's name at its right end, moved apart where two would touch."""
    low, high = ax.get_ylim()
    apart = 0.095 * (high - low)
    place = -math.inf
    for name, y, colour in sorted((line for line in lines if len(line[1])), key=lambda line: float(line[1].iloc[-1])):
        place = max(float(y.iloc[-1]), place + apart)
        at = (1.02, (place - low) / (high - low))
        ax.annotate(name, at, xycoords="axes fraction", fontsize=LABEL - 1, color=colour, va="center", annotation_clip=False)


def _bars(fig: Figure, ax: Axes, panel: Panel) -> None:
    """A point for each name with its whisker: the names stand at the left where they are long."""
    plain(ax)
    groups = list(panel.table.groupby(panel.by, sort=False)) if panel.by else [("", panel.table)]
    names = list(dict.fromkeys(panel.table[panel.x].astype(str)))
    for n, ((name, group), colour, marker) in enumerate(zip(groups, COLOURS * 4, MARKERS * 4, strict=False)):
        at = [names.index(str(v)) + 0.18 * (n - (len(groups) - 1) / 2) for v in group[panel.x]]
        if {"low", "high"} <= set(group):
            ax.vlines(at, group["low"].astype(float), group["high"].astype(float), color=colour, linewidth=1.6)
        ax.plot(at, group[panel.y], marker, color=colour, markersize=5, label=str(name))
    ax.set_xticks(range(len(names)), names, fontsize=_crowded(fig, ax, names))
    ax.set_xlim(-0.5, len(names) - 0.5)
    if len(groups) > 1:
        ax.legend(fontsize=SMALL, frameon=False, handlelength=1, borderpad=0, labelspacing=0.2)
    ax.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label or panel.y)


def _crowded(fig: Figure, ax: Axes, names: list[str]) -> float:
    """The size of type at which names fit side by side under an axis."""
    room = ax.get_position().width * fig.get_size_inches()[0] * DPI / max(1, len(names)) - 4
    widest = max((text_width(n, LABEL - 1) for n in names), default=1)
    return (LABEL - 1) * min(1.0, max(0.6, room / widest))


def _plane(fig: Figure, ax: Axes, panel: Panel) -> None:
    """Values as colour over two conditions, each written into its cell."""
    plain(ax)
    grid = panel.table.pivot_table(index=panel.by, columns=panel.x, values=panel.y)
    image = ax.imshow(grid.to_numpy(), cmap="viridis", aspect="auto", origin="lower")
    low, high = image.get_clim()
    largest = max(abs(low), abs(high)) or 1.0
    digits = max(0, 2 - int(np.floor(np.log10(largest))))  # three figures of the largest value, all with as many decimals
    for (r, c), value in np.ndenumerate(grid.to_numpy()):
        if np.isfinite(value):
            dark = (value - low) < 0.6 * ((high - low) or 1)
            colour = "white" if dark else INK
            ax.text(c, r, f"{value:.{digits}f}", ha="center", va="center", fontsize=SMALL + 0.5, color=colour)
    across = [v if isinstance(v, str) else f"{v:g}" for v in grid.columns]
    ax.set_xticks(range(grid.shape[1]), across, fontsize=_crowded(fig, ax, across))
    ax.set_yticks(range(grid.shape[0]), [v if isinstance(v, str) else f"{v:g}" for v in grid.index])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel(panel.x_label or panel.x)
    if pd.api.types.is_numeric_dtype(panel.table[panel.by]):  # names of categories speak for themselves
        ax.set_ylabel(panel.by)
    if panel.y_label:
        ax.set_title(f"{panel.title}, {panel.y_label}", fontsize=LABEL, loc="left", color=INK)


PAINTERS = {"curve": _curve, "bars": _bars, "plane": _plane}


# --- pictures and audit -----------------------------------------------------------------------------------------------


def _films(pictures: tuple[Shown, ...]) -> list[Block]:
    return [_film(shown) for shown in pictures]


def _film(shown: Shown) -> Block:
    count = len(shown.frames)
    chosen = np.linspace(0, count - 1, min(MOST_FRAMES, count)).round().astype(int)
    size = fitted(shown.frames.shape[1:], columns=MOST_FRAMES, width=WIDTH, most=128)
    which = f" · frames {', '.join(map(str, chosen))}" if count > len(chosen) else ""
    label = wrap(shown.label + which, LABEL, WIDTH - 2 * LEFT)

    def paint(fig: Figure, top: float) -> None:
        put(fig, LEFT, top - 2, "\n".join(label), LABEL, va="top", linespacing=1.15)
        floor = top - LINE * len(label) - 5 - size[0]
        for i, t in enumerate(chosen):
            ax = _axes(fig, LEFT + i * (size[1] + 6), floor, size[1], size[0])
            draw(ax, scaled(shown.frames[t], size))

    return size[0] + LINE * len(label) + 14, paint


def _audit(audit: pd.DataFrame) -> Block:
    if audit.empty:
        return 0, lambda fig, top: None
    lines = []
    for row in audit.itertuples():
        text = f"{row.check} · expected {row.expected} · measured {row.measured}"
        lines.append((bool(row.passed), wrap(text, LABEL - 1, WIDTH - 4 * LEFT)))
    height = 20 + sum(12 * len(text) + 2 for _, text in lines) + 4

    def paint(fig: Figure, top: float) -> None:
        _subtitle("Audit: does the instrument give the known answers?")[1](fig, top)
        top -= 20
        for passed, text in lines:
            put(fig, LEFT, top, "✓" if passed else "✗", LABEL, va="top", color=COLOURS[2] if passed else COLOURS[1])
            put(fig, 2.4 * LEFT, top, "\n".join(text), LABEL - 1, va="top", linespacing=1.15)
            top -= 12 * len(text) + 2

    return height, paint


def _subtitle(text: str) -> Block:
    return 20, lambda fig, top: put(fig, LEFT, top - 2, text, LABEL, va="top", weight="bold")


def _axes(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at px from the lower left corner."""
    across, tall = fig.get_size_inches() * DPI
    return fig.add_axes((x / across, y / tall, width / across, height / tall))
