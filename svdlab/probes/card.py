"""A probe's result as one figure, and all results of a study as a limitations card to be put beside a model.

    fig = draw(result)                                       # also result.figure()
    results = probes.run_all(pipe, "results/limitations", quick=True)
    write(results, "results/limitations")["html"]            # results/limitations/limitations.html

The card is HTML (one file with its figures inside), Markdown (which shows them from `figures/`) and JSON with every number.
All three name the weights that were measured, by revision and hash, the images with their licences, and what the weights'
own licence requires.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from svdlab import __version__
from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.measure.files import write_whole
from svdlab.pipeline.generate import Source
from svdlab.probes.probe import Check, Example, Graph
from svdlab.probes.running import Result
from svdlab.show.figure import COLOURS, GREY, INK, LABEL, MARKERS, PALE, SMALL, WIDTH, Figure, broken, figure, plain, save
from svdlab.show.page import Media, Quote, Strong, markdown, page
from svdlab.show.tables import forest_on
from svdlab.stats.effects import as_table, quantity

HOW = (
    "Each finding has a 95 % interval over images; seeds are averaged within an image first. Effect: the interval excludes 0, "
    "or lies above the threshold, and the test holds after correction for all findings of the probe. Equivalent within the "
    "margin: the interval lies inside a margin that was fixed beforehand, which is evidence of no relevant effect. "
    "Inconclusive: no evidence either way. Descriptive: a quantity with nothing to test. With fewer than six images, or where "
    "the audit of the instrument fails, there is no verdict."
)
LINE = 15  # px of a line of text
ROW, HEAD = 22, 44  # px of an effect, and of an axis below some of one unit
GRAPH, EXAMPLE = 200, 130  # px of a row of graphs, and of an example
FRAMES = 6  # of an example
TEXT = WIDTH - 40  # px


# --- the card ---------------------------------------------------------------------------------------------------------


def write(results: Mapping[str, Result], folder: str | Path, *, figures: bool = True) -> dict[str, Path]:
    """Write the card into a folder; returns where "markdown", "html" and "json" are.

    results: as `svdlab.probes.run_all` returns them. figures=False leaves the figures out. Raises InputError for no results or
    results of different weights, OutputError where the folder cannot be written.
    """
    folder, facts, drawn = Path(folder).expanduser(), facts_of(results), {}
    for name, result in results.items() if figures else ():
        if result.status != "not run":
            save(result.figure(), folder / "figures" / name, formats=("png",))
            drawn[name] = folder / "figures" / f"{name}.png"
    source = facts["checkpoint"]
    title = f"Limitations of {str(source['checkpoint'] or 'unknown').rstrip('/').split('/')[-1]}, measured"
    sections, label = _sections(results, facts, drawn), source["label"]
    texts = {
        "limitations.md": markdown(title, sections, label=label, folder=folder),
        "limitations.html": page(title, sections, label=label),
        "limitations.json": json.dumps(facts, indent=1) + "\n",
        "NOTICE": video.notice(),
    }
    for name, text in texts.items():
        with write_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    return {kind: folder / name for kind, name in zip(("markdown", "html", "json"), texts, strict=False)}


def facts_of(results: Mapping[str, Result]) -> dict[str, Any]:
    """The machine-readable card: what was measured on which weights, and each probe's `facts`."""
    if not results:
        raise InputError("no results: run some probes first, as in probes.run_all(pipe, out).")
    sources = {r.source.weights_hash: r.source for r in results.values() if r.source.checkpoint}
    if len(sources) > 1:
        named = ", ".join(s.checkpoint for s in sources.values())
        raise InputError(f"results of different weights ({named}) do not make one card: write one for each.")
    source = next(iter(sources.values()), Source())
    return {
        "kind": "svdlab limitations card",
        "svdlab": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": {k: getattr(source, k) for k in ("checkpoint", "revision", "weights_hash", "label", "licence")},
        "probes": [r.facts() for r in results.values()],
    }


def _sections(results: Mapping[str, Result], facts: dict[str, Any], figures: Mapping[str, Path]) -> dict[str, list[Any]]:
    c = facts["checkpoint"]
    known = {"checkpoint": c["checkpoint"], "revision": c["revision"], "weights sha256": (c["weights_hash"] or "")[:16]}
    weights = ", ".join(f"{key} {value}" for key, value in known.items() if value)
    rows = [(name, r.card, r.verdict) for name, r in results.items()]
    summary = pd.DataFrame(rows, columns=["probe", "the card says", "measured"])
    made = f"Measured by svdlab {facts['svdlab']} on {facts['made'][:10]}: {weights}."
    sections: dict[str, list[Any]] = {"": [made, HOW, summary]}
    for name, result in results.items():
        sections[name] = [Quote(result.card), result.question, Strong(result.verdict), *_findings(result), _notes(result)]
        sections[name] += [Media(figures[name], f"{name}: {result.verdict}")] if name in figures else []
    stimuli = pd.concat([r.stimuli[["name", "source", "licence"]] for r in results.values()]).drop_duplicates()
    groups = stimuli.groupby(["source", "licence"], sort=False)["name"]
    sections["Images"] = [[f"{_listed(list(names))}: {licence} ({source})" for (source, licence), names in groups]]
    return sections | ({"Licence of the weights": [c["licence"]]} if c["licence"] else {})


def _findings(result: Result) -> list[pd.DataFrame]:
    rows = []
    for e in result.effects:
        ends = [quantity(v, e.unit, bare=True) for v in (e.low, e.high)]
        interval = "" if pd.isna(e.low) else f" ({' to '.join(ends)})"
        rows.append((e.label, quantity(e.value, e.unit) + interval, f"{e.n} x {e.seeds}", e.verdict))
    return [pd.DataFrame(rows, columns=["finding", "value (95 % CI)", "images x seeds", "verdict"])] if rows else []


def _notes(result: Result) -> list[str]:
    """Notes, the audit, what it took."""
    if result.status == "not run":
        return []
    failed = [c for c in result.audit if not c.passed]
    audit = f"Audit: {len(result.audit) - len(failed)} of {len(result.audit)} checks passed."
    wrong = [f"Failed: {f.check}: expected {f.expected}, measured {f.measured}." for f in failed]
    took = f"{len(result.table)} rows, {result.seconds:.0f} s in all on {result.device}{', quick' if result.quick else ''}"
    return [*result.notes, audit, *wrong, took]


def _listed(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 12 else [*names[:6], f"and {len(names) - 6} more"])


# --- the figure -------------------------------------------------------------------------------------------------------


def draw(result: Result) -> Figure:
    """The figure of what `svdlab.probes.run` returned: verdict, effects with their intervals, graphs, examples and audit; one
    that was not run states why. Its data is the table of effects."""
    table = as_table(result.effects)
    table["label"] = [broken(e.label, LABEL, 380) for e in result.effects]
    points = [(graph, graph.points(result.clips)) for graph in result.graphs] if result.effects else []
    points = [(graph, drawn) for graph, drawn in points if len(drawn)]
    words = [broken(text, LABEL, TEXT) for text in (f"“{result.card}”" if result.card else "", result.verdict)]
    rows = (table["label"].str.count("\n") * 0.6 + 1).sum() if len(table) else 0
    wide = 2 if len(points) == 4 else 3
    notes: list[str] = []
    blocks: list[tuple[float, Callable[[Any], None]]] = [
        (LINE * (sum(text.count("\n") for text in words) + 3), lambda sub: _text(sub, words)),
        (rows * ROW + HEAD * table["unit"].nunique(), lambda sub: notes.extend(forest_on(sub, table))),
        *((GRAPH, lambda sub, i=i: _graphs(sub, points[i : i + wide])) for i in range(0, len(points), wide)),
        *((EXAMPLE, lambda sub, example=example: _example(sub, example)) for example in result.examples),
        (LINE * (1.2 * len(result.audit) + 1.5) if result.audit else 0, lambda sub: _audit(sub, result.audit)),
    ]
    blocks = [(height, paint) for height, paint in blocks if height]
    heights, clips, source = [height for height, _ in blocks], result.clips, result.source
    own = {key: getattr(source, key) for key in ("checkpoint", "label", "licence")}
    of = clips.assign(**own) if "fps" in clips and len(clips) else source  # for the footer and the saved file
    fig = figure(WIDTH, sum(heights), of=of, title=f"{result.name}: {result.question}")
    parts = fig.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)
    for part, (_, paint) in zip(parts.flat, blocks, strict=True):
        paint(part)
    images = f"{len(result.stimuli)} images: {', '.join(pd.unique(result.stimuli['source']))}" if len(result.stimuli) else ""
    intervals = "graphs: mean over images, 95 % interval" if any(d["low"].notna().any() for _, d in points) else ""
    return fig.finish(table, images, *notes, intervals, "quick" if result.quick else "")


def _text(sub: Any, words: list[str]) -> None:
    y, tall = 1.0, sub.bbox.height / sub.figure.dpi * 100  # px of the layout
    for text, colour in zip(words, (GREY, INK), strict=True):
        sub.text(12 / WIDTH, y, text, va="top", fontsize=LABEL, color=colour, linespacing=1.2)
        y -= LINE * (text.count("\n") + 1.4) / tall


def _audit(sub: Any, audit: tuple[Check, ...]) -> None:
    sub.text(12 / WIDTH, 1, "Audit: does the instrument give the known answers?", va="top", fontsize=LABEL, weight="bold")
    for n, check in enumerate(audit, 1):
        (mark, colour), y = ("✓", COLOURS[2]) if check.passed else ("✗", COLOURS[1]), 1 - n / (len(audit) + 1)
        sub.text(12 / WIDTH, y, mark, va="top", fontsize=LABEL, color=colour)
        text = textwrap.shorten(f"{check.check}: {check.measured} (expected: {check.expected})", 150)
        sub.text(28 / WIDTH, y, text, va="top", fontsize=LABEL - 1)


def _example(sub: Any, example: Example) -> None:
    count = len(example.frames)
    chosen = np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int)
    which = f"; images {', '.join(map(str, chosen))} of {count}" if count > FRAMES else ""
    sub.suptitle(example.label + which, x=12 / WIDTH, ha="left", fontsize=LABEL, color=INK)
    for ax, t in zip(sub.subplots(1, FRAMES), [*chosen, *[None] * FRAMES], strict=False):
        ax.set_axis_off()
        if t is not None:
            ax.imshow(np.clip(example.frames[t], 0, 1), interpolation="none")


def _graphs(sub: Any, row: list[tuple[Graph, pd.DataFrame]]) -> None:
    axes = sub.subplots(1, 3 if len(row) == 1 else len(row), squeeze=False)[0]
    for ax in axes[len(row) :]:
        ax.set_visible(False)
    for ax, (graph, points) in zip(axes, row, strict=False):
        plain(ax)
        ax.set_title(broken(graph.title, LABEL, 260), fontsize=LABEL, loc="left", color=INK)
        ax.set(xlabel=graph.x_label or graph.x.replace("_", " "), ylabel=graph.y_label)
        {"curve": _curves, "bars": _bars, "plane": _plane}[graph.kind](ax, points)
        if graph.kind != "plane" and points["by"].nunique() > 1:
            ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=SMALL, frameon=False, handlelength=1.2)


def _curves(ax: Axes, points: pd.DataFrame) -> None:
    for (name, group), colour, marker in zip(points.groupby("by", sort=False), COLOURS * 4, MARKERS * 4, strict=False):
        x, y, low, high = (group[c].astype(float) for c in ("x", "value", "low", "high"))
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, y, color=colour, marker=marker, markersize=3, linewidth=1.3, label=str(name))


def _bars(ax: Axes, points: pd.DataFrame) -> None:
    """A point for each name with its interval."""
    names, groups = list(dict.fromkeys(points["x"])), list(points.groupby("by", sort=False))
    for n, ((name, group), colour, marker) in enumerate(zip(groups, COLOURS * 4, MARKERS * 4, strict=False)):
        at = [names.index(x) + 0.18 * (n - (len(groups) - 1) / 2) for x in group["x"]]
        ax.vlines(at, group["low"], group["high"], color=colour, linewidth=1.6)
        ax.plot(at, group["value"], marker, color=colour, markersize=5, label=str(name).replace("_", " "))
    ax.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    labels = [textwrap.fill(_number(x).replace("_", " "), 10) for x in names]
    ax.set_xticks(range(len(names)), labels, fontsize=LABEL - 1 if len(names) < 5 else SMALL)
    ax.set_xlim(-0.5, len(names) - 0.5)


def _plane(ax: Axes, points: pd.DataFrame) -> None:
    """Values as colour over x and by, each written into its cell."""
    xs, ys = (list(dict.fromkeys(points[key])) for key in ("x", "by"))
    xs, ys = (v if any(isinstance(i, str) for i in v) else sorted(v) for v in (xs, ys))
    grid = points.pivot_table(index="by", columns="x", values="value").reindex(ys, columns=xs).to_numpy()
    image = ax.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    low, high = image.get_clim()
    digits = max(0, 2 - int(np.floor(np.log10(max(abs(low), abs(high)) or 1.0))))  # as many decimals in all cells
    for (r, c), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value - low < 0.6 * ((high - low) or 1) else INK
            ax.text(c, r, f"{value:.{digits}f}", ha="center", va="center", fontsize=SMALL + 0.5, color=colour)
    ax.set_xticks(range(len(xs)), [textwrap.fill(_number(x), 8) for x in xs])
    ax.set_yticks(range(len(ys)), [_number(y) for y in ys])
    ax.spines[["left", "bottom"]].set_visible(False)


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
