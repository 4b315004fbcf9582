"""What all figures share: their type, whole-pixel layout, the footer that says where they come from, saving.

    >>> fig, axes = pictures(rows=2, columns=5, size=(64, 64), title="Denoised estimate", footer=about(clip))
    >>> save(fig, "results/00-tour/denoising")            # .png, .svg, .pdf, .csv

No figure touches pyplot or rcParams: each is a `Figure` of its own, which any notebook shows by its repr.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from svdlab.errors import InputError, OutputError
from svdlab.measure import video
from svdlab.show.provenance import line, marks

DPI = 100  # of the layout: one px of the screen
SHARPER = 2  # files and notebooks get that many px for one, a whole factor so that no pixel is smeared
WIDTH = 900  # px that a figure is made for
THUMBNAIL = 96  # px: pictures up to that are hard to see at their own size
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
# Okabe and Ito's colours, told apart without colour vision; beside each other they also differ in marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
TITLE, LABEL, SMALL = 10.5, 8.5, 6.5  # pt
FORMATS = ("png", "svg", "pdf", "csv")


class Figure(MatplotlibFigure):
    """A matplotlib Figure that knows the table behind it (`.data`), its footer, and how to show itself in a notebook."""

    data: pd.DataFrame | None = None
    footer: str = ""
    alt: str = ""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI * SHARPER)
        width, height = (round(side * DPI) for side in self.get_size_inches())
        alt = self.alt or "figure"
        bundle = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": f"<Figure: {alt}>"}
        return bundle, {"image/png": {"width": width, "height": height, "alt": alt}}


def pictures(
    *,
    rows: int,
    columns: int,
    size: tuple[int, int],
    title: str,
    footer: str,
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    column_title: str = "",
    row_title: str = "",
    captions: int = 0,
    gap: int = 6,
    right: int = 12,
    least: int = 0,
) -> tuple[Figure, np.ndarray]:
    """A figure of axes "r c" of exactly `size` (height, width) px each, for pictures drawn pixel by pixel.

    captions: lines of text under each picture. right: px kept free at the right, for a key; least: the height it needs.
    """
    height, width = size
    label_width = max((text_width(t, LABEL) for t in row_labels), default=0)
    left = 12 + (label_width + 8 if label_width else 0) + (20 if row_title else 0)
    inner = columns * width + (columns - 1) * gap
    total = max(left + inner + right, 300)
    titles, notes = wrap(title, TITLE, total - 24, bold=True), wrap(footer, SMALL, total - 24)
    top = 12 + 17 * len(titles) + (16 if column_title else 0) + (16 if column_labels else 0) + 5
    bottom = 10 + 11 * len(notes) + (8 if notes else 0)
    step = height + gap + 13 * captions
    tall = top + max(rows * step - gap, least) + bottom
    fig = Figure(figsize=(total / DPI, tall / DPI), dpi=DPI)
    put(fig, 12, tall - 10, "\n".join(titles), TITLE, va="top", weight="bold", linespacing=1.15)
    sign(fig, footer, notes)
    fig.alt = title

    middle = left + inner / 2
    if column_title:
        put(fig, middle, tall - 12 - 17 * len(titles) - 2, column_title, LABEL, va="top", ha="center")
    if row_title:
        where = tall - top - (rows * step - gap) / 2
        put(fig, 14, where, row_title, LABEL, va="center", ha="left", rotation=90)
    axes = np.empty((rows, columns), dtype=object)
    for r in range(rows):
        floor = tall - top - r * step - height
        for c in range(columns):
            x = left + c * (width + gap)
            ax = fig.add_axes((x / total, floor / tall, width / total, height / tall))
            ax.set_axis_off()
            axes[r, c] = ax
            if r == 0 and c < len(column_labels):
                put(fig, x + width / 2, tall - top + 3, column_labels[c], LABEL, ha="center")
        if r < len(row_labels):
            put(fig, left - 8, floor + height / 2, row_labels[r], LABEL, ha="right", va="center")
    return fig, axes


def curves(
    *, rows: int, columns: int, size: tuple[float, float], title: str, footer: str, sharex: bool = True
) -> tuple[Figure, np.ndarray]:
    """A figure of axes "r c" with shared axes for graphs, each about size (width, height) px; the layout is matplotlib's."""
    width, panel = columns * size[0], rows * size[1]
    titles, notes = wrap(title, TITLE, int(width) - 24, bold=True), wrap(footer, SMALL, int(width) - 24)
    top, bottom = 14 + 17 * len(titles), 8 + 11 * len(notes)
    height = panel + top + bottom
    fig = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    layout: Any = fig.get_layout_engine()
    layout.set(rect=(8 / width, bottom / height, 1 - 16 / width, panel / height), w_pad=0.06, h_pad=0.06)
    put(fig, 12, height - 10, "\n".join(titles), TITLE, va="top", weight="bold", linespacing=1.15)
    sign(fig, footer, notes)
    fig.alt = title
    axes = fig.subplots(rows, columns, sharex=sharex, sharey=True, squeeze=False)
    for ax in axes.flat:
        plain(ax)
    return fig, axes


def on(ax: Axes | None, *, size: tuple[float, float], title: str, footer: str) -> tuple[Any, Axes]:
    """One axes for a graph: the caller's, with title and footer put on its figure, or one of a new figure."""
    if ax is None:
        fig, axes = curves(rows=1, columns=1, size=size, title=title, footer=footer)
        return fig, axes[0, 0]
    if not isinstance(ax, Axes):
        raise InputError(f"ax is a {type(ax).__name__}: give one matplotlib Axes, or leave it out for a new figure.")
    ax.set_title(title, fontsize=LABEL, loc="left", color=INK)
    figure = ax.get_figure(root=True)
    assert figure is not None
    sign(figure, footer)
    return figure, ax


def put(fig: MatplotlibFigure, x: float, y: float, text: str, size: float, **kwargs: Any) -> None:
    """Text at px from the lower left corner."""
    width, height = fig.get_size_inches() * DPI
    defaults = {"color": INK, "ha": "left", "va": "bottom"}
    artist = fig.text(x / width, y / height, text, fontsize=size, **(defaults | kwargs))
    artist.set_in_layout(False)


def sign(fig: MatplotlibFigure, footer: str, lines: Sequence[str] | None = None) -> None:
    """The footer at the lower left in small grey type; a figure that has one already gets only what is new in it."""
    if not footer:
        return
    old = next((t for t in fig.texts if t.get_gid() == "svdlab-footer"), None)
    if old is not None:
        if footer not in old.get_text().replace("\n", " "):
            old.set_text(f"{old.get_text()}\n{footer}")
    else:
        width, height = fig.get_size_inches() * DPI
        text = "\n".join(lines or wrap(footer, SMALL, int(width) - 24))
        artist = fig.text(12 / width, 6 / height, text, fontsize=SMALL, color=GREY, va="bottom", linespacing=1.3)
        artist.set_gid("svdlab-footer")
        artist.set_in_layout(False)
    if isinstance(fig, Figure):
        fig.footer = line(footer, fig.footer, footer)


def plain(ax: Axes) -> None:
    """Axes for a graph: two thin spines, small type, no box."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(labelsize=LABEL - 1, color=GREY, labelcolor=INK)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_fontsize(LABEL)
        axis.label.set_color(INK)


def draw(ax: Axes, picture: np.ndarray, **kwargs: Any) -> Any:
    """A picture "h w 3" in [0, 1] or a map "h w", its pixels as they are."""
    ax.set_axis_off()
    if picture.ndim == 3:
        picture = np.clip(picture, 0, 1)
    return ax.imshow(picture, interpolation="none", aspect="auto", **kwargs)


def fitted(shape: Sequence[int], *, columns: int, width: int = WIDTH, most: int = 320) -> tuple[int, int]:
    """Height and width in px at which a picture "h w ..." is drawn `columns` times in a row.

    Small ones grow by a whole factor, to `most` px at most; thumbnails at least to the double, whatever the room; large
    ones shrink to fit.
    """
    h, w = shape[:2]
    room = max(16, min(most, (width - 40) // columns - 6))
    if w > room and w > THUMBNAIL:
        return max(1, round(h * room / w)), room
    factor = max(room // w, 2 if w <= THUMBNAIL else 1)
    return h * factor, w * factor


def scaled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture "h w ..." at `size` (height, width): repeated pixels where it grows, averaged ones where it shrinks."""
    h, w = picture.shape[:2]
    if size == (h, w):
        return picture
    if size[1] >= w:
        return picture.repeat(size[0] // h, axis=0).repeat(size[1] // w, axis=1)
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def text_width(text: str, size: float, *, bold: bool = False) -> int:
    """Width in px of a line in the default type."""
    if not text:
        return 0
    return (
        int(
            TextPath((0, 0), text, prop=FontProperties(size=size, weight="bold" if bold else "normal")).get_extents().width
            * DPI
            / 72
        )
        + 2
    )


def wrap(text: str, size: float, width: int, *, bold: bool = False) -> list[str]:
    """Text broken into lines of at most `width` px, between its parts (" · ") where it has them, else between words."""
    lines: list[str] = []
    for part in filter(None, text.split(" · ")):
        joined = f"{lines[-1]} · {part}" if lines else part
        if text_width(joined, size, bold=bold) <= width:
            lines[-1:] = [joined]
        else:
            measured = 1.06 * text_width(part, size, bold=bold)
            lines += textwrap.wrap(part, max(12, int(len(part) * width / max(1.0, measured))))
    return lines


def save(fig: MatplotlibFigure, path: str | Path, *, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as path.png, .svg, .pdf, and the table behind it as .csv; returns what was written.

    A figure of what a model made says so in its file, in IPTC's terms, with the checkpoint and its licence.

    >>> save(show.denoising(tr, frame=4), "results/denoising")

    path: without ending. A figure without a table has no CSV. Raises InputError for an unknown format, OutputError
    where the folder cannot be written.
    """
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or isinstance(formats, str):
        raise InputError(f"formats={formats!r}: give a tuple of {', '.join(FORMATS)}.")
    stem, written = Path(path), []
    if stem.suffix[1:] in FORMATS:
        stem = stem.with_suffix("")
    footer, table = getattr(fig, "footer", ""), getattr(fig, "data", None)
    facts = marks(footer, pictures=any(ax.images for ax in fig.axes))
    kind, licence = facts.get("DigitalSourceType"), facts.get("licence")
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": "svdlab", "Description": str(footer)},
        "svg": {"Creator": "svdlab", "Description": str(footer), "Date": None, "Type": kind, "Rights": licence},
        "pdf": {"Creator": "svdlab", "Subject": str(footer), "CreationDate": None, "Keywords": kind},
    }
    extra: dict[str, Any] = {"png": {"pil_kwargs": {"pnginfo": video.png_info(facts)}}} if facts else {}
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for form in formats:
            if form == "csv" and table is None:
                continue
            target = stem.with_name(f"{stem.name}.{form}")
            part = target.with_name(target.name + ".part")
            try:
                if form == "csv" and table is not None:
                    table.to_csv(part, index=False)
                else:  # the salt makes the ids in an SVG the same each time
                    with matplotlib.rc_context({"svg.hashsalt": "svdlab"}):
                        known = {key: value for key, value in metadata[form].items() if value or key.endswith("Date")}
                        how = extra.get(form) or {"metadata": known}  # pnginfo holds what metadata would
                        fig.savefig(part, format=form, dpi=DPI * SHARPER, **how)
                os.replace(part, target)
            finally:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
            written.append(target)
    except OSError as error:
        raise OutputError(f"{stem} could not be written: {error}. Choose a folder that you may write to.") from error
    return written
