"""A probe's result as one figure, and all results of a study as a limitations card to be put beside a model.

    fig = draw(result)                                       # also result.figure()
    results = probes.run_all(pipe, "results/limitations", quick=True)
    write(results, "results/limitations")["html"]            # results/limitations/limitations.html

The card is HTML (one file with its figures inside), Markdown (which shows them from `figures/`) and JSON with every number.
All three name the weights that were measured, by revision and hash, the images with their licences, and what the weights'
own licence requires.
"""

import json
import textwrap
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from svdlab import __version__
from svdlab.errors import InputError, kind, path, takes
from svdlab.measure import video
from svdlab.measure.files import exported, write_whole
from svdlab.pipeline.generate import Source
from svdlab.probes.probe import Example, Graph
from svdlab.probes.running import Result, together
from svdlab.show.figure import COLOURS, GREY, INK, LABEL, MARKERS, PALE, SMALL, WIDTH, Figure, broken, figure, plain, save
from svdlab.show.page import Media, Quote, Strong, markdown, page
from svdlab.show.tables import forest_on

HOW = (
    "Each finding has a 95 % interval over images and their seeds. Effect: the interval excludes 0, "
    "or lies above the threshold, and the test holds after correction for all findings of the card. Equivalent within the "
    "margin: the interval lies inside a margin that was fixed beforehand, which is evidence of no relevant effect. "
    "Inconclusive: no evidence either way. Descriptive: a quantity with nothing to test. With fewer than six images, or where "
    "the audit of the instrument fails, there is no verdict."
)
LINE = 15  # px of a line of text
ROW, HEAD = 22, 44  # px of an effect, and of an axis below some of one unit
GRAPH, EXAMPLE = 200, 130  # px of a row of graphs, and of an example
FRAMES = 6  # of an example


# --- the card ---------------------------------------------------------------------------------------------------------


@takes(results=kind(Mapping), folder=path)
def write(results: Mapping[str, Result], folder: str | Path) -> dict[str, Path]:
    """Write the card into a folder; returns where "markdown", "html" and "json" are.

    results: as `svdlab.probes.run_all` returns them; the findings of all are corrected together. Raises InputError for no
    results or results of different weights, OutputError where the folder cannot be written.
    """
    if not results:
        raise InputError("no results: run some probes first, as in probes.run_all(pipe, out).")
    results = together(results)
    sources = {r.source.weights_hash: r.source for r in results.values() if r.source.checkpoint}
    if len(sources) > 1:
        named = ", ".join(s.checkpoint for s in sources.values())
        raise InputError(f"results of different weights ({named}) do not make one card: write one for each.")
    source, place, figures = next(iter(sources.values()), Source()), path("folder", folder), {}
    for name, result in results.items():
        if result.status != "not run":
            save(result.figure(), place / "figures" / name, formats=("png",))
            figures[name] = place / "figures" / f"{name}.png"
    facts = {
        "kind": "svdlab limitations card",
        "svdlab": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": exported(
            {k: getattr(source, k) for k in ("checkpoint", "revision", "weights_hash", "label", "licence")}
        ),
        "probes": [r.facts() for r in results.values()],
    }
    title = f"Limitations of {str(source.checkpoint or 'unknown').rstrip('/').split('/')[-1]}, measured"
    sections = _sections(results, source, figures)
    texts = {
        "limitations.md": markdown(title, sections, label=source.label, folder=place),
        "limitations.html": page(title, sections, label=source.label, folder=place),
        "limitations.json": json.dumps(facts, indent=1) + "\n",
        "NOTICE": video.notice(),
    }
    for name, text in texts.items():
        with write_whole(place / name) as part:
            part.write_text(text, encoding="utf-8")
    return {kind: place / name for kind, name in zip(("markdown", "html", "json"), texts, strict=False)}


def _sections(results: Mapping[str, Result], source: Source, figures: Mapping[str, Path]) -> dict[str, list[Any]]:
    known = {"checkpoint": source.checkpoint, "revision": source.revision, "weights sha256": (source.weights_hash or "")[:16]}
    weights = ", ".join(f"{key} {value}" for key, value in known.items() if value)
    rows = [(name, r.probe.card, r.verdict) for name, r in results.items()]
    summary = pd.DataFrame(rows, columns=["probe", "the card says", "measured"])
    sections: dict[str, list[Any]] = {"": [f"Measured by svdlab {__version__} on {date.today()}: {weights}.", HOW, summary]}
    for name, r in results.items():
        sections[name] = [Quote(r.probe.card), r.probe.question, Strong(r.verdict)]
        if r.status == "not run":
            continue
        failed = [c for c in r.audit if not c.passed]
        sections[name] += [
            *([e.sentence for e in r.effects], *r.notes),
            f"Audit: {len(r.audit) - len(failed)} of {len(r.audit)} checks passed.",
            *(f"Failed: {c.check}: expected {c.expected}, measured {c.measured}." for c in failed),
            f"{len(r.table)} rows, {r.seconds:.0f} s in all on {r.device}.",
            Media(figures[name], f"{name}: {r.verdict}"),
        ]
    stimuli = pd.concat([r.stimuli[["name", "source", "licence"]] for r in results.values()]).drop_duplicates()
    groups = stimuli.groupby(["source", "licence"], sort=False)["name"]
    listed = lambda names: textwrap.shorten(", ".join(names), 300, placeholder=" ...")
    sections["Images"] = [[f"{listed(names)}: {licence} ({source})" for (source, licence), names in groups]]
    return sections | ({"Licence of the weights": [source.licence]} if source.licence else {})


# --- the figure -------------------------------------------------------------------------------------------------------


def draw(result: Result) -> Figure:
    """The figure of what `svdlab.probes.run` returned: verdict, effects with their intervals, graphs, examples and audit; one
    that was not run states why. Its data is the table of effects."""
    table, source, probe = result.findings, result.source, result.probe
    table["label"] = [broken(label, LABEL, 380) for label in table["label"]]
    points = [(graph, graph.points(result.clips)) for graph in probe.graphs] if result.effects else []
    points = [(graph, drawn) for graph, drawn in points if len(drawn)]
    wide = 2 if len(points) == 4 else 3
    rows = (table["label"].str.count("\n") * 0.6 + 1).sum() if len(table) else 0
    head = [(f"“{probe.card}”", GREY), (result.verdict, INK)]
    audit = [("Audit: does the instrument give the known answers?", INK)] if result.audit else []
    for check in result.audit:
        text = f"{'✓' if check.passed else '✗'} {check.check}: {check.measured} (expected: {check.expected})"
        audit.append((textwrap.shorten(text, 150), INK if check.passed else COLOURS[1]))
    notes: list[str] = []
    blocks: list[tuple[float, Callable[[Any], None]]] = [
        _text(head),
        (rows * ROW + HEAD * table["unit"].nunique(), lambda sub: notes.extend(forest_on(sub, table))),
        *((GRAPH, partial(_graphs, row=points[i : i + wide])) for i in range(0, len(points), wide)),
        *((EXAMPLE, partial(_example, example=example)) for example in result.examples),
        _text(audit),
    ]
    blocks = [(height, paint) for height, paint in blocks if height]
    heights, clips = [height for height, _ in blocks], result.clips
    own = {key: getattr(source, key) for key in ("checkpoint", "label", "licence")}
    of = clips.assign(**own) if "fps" in clips and len(clips) else source  # for the footer and the saved file
    fig = figure(WIDTH, sum(heights), of=of, title=f"{probe.name}: {probe.question}")
    parts = fig.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)
    for part, (_, paint) in zip(parts.flat, blocks, strict=True):
        paint(part)
    images = f"{len(result.stimuli)} images: {', '.join(pd.unique(result.stimuli['source']))}" if len(result.stimuli) else ""
    intervals = "graphs: mean over images, 95 % interval" if any(d["low"].notna().any() for _, d in points) else ""
    return fig.finish(table, images, *notes, intervals)


def _text(lines: list[tuple[str, str]]) -> tuple[float, Callable[[Any], None]]:
    """A block of paragraphs, each in its colour: its height in px, and what paints it."""
    texts = [(broken(text, LABEL, WIDTH - 40), colour) for text, colour in lines]
    tall = [LINE * (text.count("\n") + 1.3) for text, _ in texts]

    def paint(sub: Any) -> None:
        for (text, colour), above in zip(texts, np.cumsum([0.0, *tall[:-1]]), strict=True):
            sub.text(12 / WIDTH, 1 - above / (sum(tall) + LINE), text, va="top", fontsize=LABEL, color=colour, linespacing=1.2)

    return (sum(tall) + LINE if texts else 0), paint


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
        _draw(ax, points, bars=graph.kind == "bars")
        if points["by"].nunique() > 1:
            of = dict(title=graph.by.replace("_", " "), title_fontsize=SMALL, fontsize=SMALL)
            ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, handlelength=1.4, **of)


def _draw(ax: Axes, points: pd.DataFrame, *, bars: bool) -> None:
    """A line for each `by`, with its band; with "bars", a point with its interval for each x, side by side."""
    names, groups = list(dict.fromkeys(points["x"])), list(points.groupby("by", sort=False))
    for n, ((name, group), colour, marker) in enumerate(zip(groups, COLOURS * 4, MARKERS * 4, strict=False)):
        value, low, high = (group[c].astype(float) for c in ("value", "low", "high"))
        look: dict[str, Any] = dict(color=colour, marker=marker, label=str(name).replace("_", " "))
        if bars:
            at = [names.index(x) + 0.18 * (n - (len(groups) - 1) / 2) for x in group["x"]]
            ax.vlines(at, low, high, color=colour, linewidth=1.6)
            ax.plot(at, value, linestyle="", markersize=5, **look)
        else:
            ax.fill_between(group["x"], low, high, color=colour, alpha=0.15, linewidth=0)
            ax.plot(group["x"], value, "-" if n < len(COLOURS) else "--", markersize=3, linewidth=1.3, **look)
    if bars:
        ax.axhline(0, color=PALE, linewidth=0.8, zorder=0)
        labels = [textwrap.fill((x if isinstance(x, str) else f"{x:g}").replace("_", " "), 10) for x in names]
        ax.set_xticks(range(len(names)), labels, fontsize=LABEL - 1 if len(names) < 5 else SMALL)
        ax.set_xlim(-0.5, len(names) - 0.5)
