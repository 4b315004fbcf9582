"""What all figures share: how they are made and laid out, the footer with their sources, and saving with provenance.

>>> fig, axes = graphs(of=clip, title="Speed (px/frame)", size=(520, 280))
>>> axes[0, 0].plot([0, 1, 2])
>>> fig = save(fig.finish(pd.DataFrame({"speed": [0, 1, 2]}), "line: camera"), "results/speed")    # .png, .pdf, .csv

No figure touches pyplot or rcParams: each is a `Figure` of its own, which any notebook shows. Sizes are px of the screen, 100
to the inch; inside `for_paper` they are as wide as a journal's column, and what they hold is arranged for that.
"""

from __future__ import annotations

import base64
import io
import json
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from svdlab import errors
from svdlab.errors import COUNT, InputError, flag, kind, number, several, shown, takes
from svdlab.measure import video
from svdlab.measure.files import csv_text, exported, printable, write_whole
from svdlab.show.labels import WORDS, about, sources

DPI = 100  # px of the layout per inch
SHARPER = 2  # files and notebooks get that many px for one: a whole factor, so that no pixel is smeared
WIDTH = 900  # px that a figure is made for
LEAST = 300  # px: images that are narrower together leave no room for a title
THUMBNAIL = 96  # px: images up to that are hard to see at their own size
EDGE, GAP = 12, 6  # px around everything, and between images
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
# Okabe and Ito's colours are distinct without colour vision; side by side they also differ in marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
TITLE, LABEL, SMALL = 10.5, 8.5, 6.5  # pt
FORMATS = ("png", "pdf", "csv")
NO_GLYPH = r"Glyph \d+ .* missing"  # what matplotlib warns once for each character that no font has; the figure shows boxes
BESIDE = 260  # px that the label of a row may take, and at most this share of the width:
LABELS = 0.3
NARROW = 600  # px: in less, keys stand below and texts above what they belong to
PX = partial(number, above=0, most=20_000)  # of a figure's side: what matplotlib draws
TEXTS = partial(several, check=WORDS)


@dataclass(frozen=True)
class Paper:
    """How figures are made inside `for_paper`."""

    column: float
    title: bool
    footer: bool


PAPER: ContextVar[Paper | None] = ContextVar("paper", default=None)


@takes(column=partial(number, least=2, most=30), title=flag, footer=flag)
@contextmanager
def for_paper(column: float = 3.3, *, title: bool = False, footer: bool = False) -> Iterator[None]:
    """Inside the block every figure is `column` inches wide, at the same sizes of type, by default without title and footer.

    >>> with show.for_paper(column=3.3):
    ...     fig = show.save(show.flow(clip), "paper/flow")

    What does not fit side by side is arranged otherwise: fewer frames by default, panels below each other. Fonts are embedded
    as TrueType. The source stays in the file's own metadata, and the caption has to name it. Raises InputError for a column
    that is not 2 to 30 inches wide.
    """
    token = PAPER.set(Paper(column, title, footer))
    try:
        yield
    finally:
        PAPER.reset(token)


def room() -> float:
    """Px that a figure may be wide."""
    paper = PAPER.get()
    return paper.column * DPI if paper else WIDTH


def side_by_side(count: int, least: float) -> int:
    """How many of so many things, each of at least so many px, stand in one row."""
    return max(1, min(count, int(room() // least)))


def beside(labels: Sequence[str]) -> float:
    """Px that labels beside the rows take."""
    return min(BESIDE, LABELS * room(), 7 * max(map(len, labels), default=0))


def INDEX(name: str, value: Any) -> int:
    """The kind of a position, which counts from the end where it is negative; `chosen` knows how many there are."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name}={shown(value)}: give a whole number; a negative one counts from the end.")
    return int(value)


def INDICES(name: str, value: Any) -> Any:
    """The kind of one position or several."""
    if getattr(value, "ndim", 1) == 0:  # np.array(3)
        value = value.item()
    return INDEX(name, value) if isinstance(value, Integral) else several(name, value, INDEX)


class Figure(MatplotlibFigure):
    """A matplotlib Figure that knows what it shows. Made by `figure`, `graphs` or `images`; `finish` completes it.

    sources: checkpoint, label and licence of every model that made it. data: what was drawn, as a table. footer: the line at
    its foot. size: width and height in px of what is drawn; of one image, where there is a grid of them. grid: axes "r c" of
    images, which stand at whole pixels.
    """

    sources: tuple[dict[str, str], ...] = ()
    title: str = ""
    data: pd.DataFrame = pd.DataFrame()
    footer: str = ""
    size: tuple[float, float] = (WIDTH, 300)
    grid: np.ndarray | None = None
    paper: Paper | None = None

    def finish(self, data: pd.DataFrame = data, *notes: str) -> Figure:
        """Set the table behind the figure, add notes to its footer, give everything its place, and return the figure.

        notes: what the marks mean. Name only what was drawn ("band: 95 % interval" where there is a band).
        """
        self.data, self.footer = data, exported(printable(" · ".join(filter(None, (self.footer, *notes)))))
        self.lay_out()
        return self

    def lay_out(self) -> None:
        """Give everything its place."""
        paper, size = self.paper, np.array(self.size)
        head, foot = ("" if paper and not shown else text for shown, text in (
            (paper and paper.title, self.title), (paper and paper.footer, self.footer)))  # fmt: skip
        if self.grid is None:
            self.set_size_inches(size[0] / DPI, (size[1] + self._write(head, foot, size[0])) / DPI)
            return
        fixed = paper.column * DPI if paper else None
        count, image = np.array(self.grid.shape[::-1]), size
        whole = count * (size + 60) + 100  # a first guess; what matplotlib's layout leaves for the images corrects it
        for _ in range(4 if fixed else 3):
            whole = np.array([fixed or max(LEAST, whole[0]), whole[1]])
            side, pads = (EDGE - GAP) / whole[0], dict(w_pad=GAP / 2 / DPI, h_pad=GAP / DPI, wspace=0, hspace=0)
            self.set_layout_engine("constrained", rect=(side, 0, 1 - 2 * side, 1), **pads)
            self._write(head, foot, whole[0])
            self.set_size_inches(*whole / DPI)
            self.draw_without_rendering()
            inner = self.grid[0, 0].get_position().size * whole
            image = (size * min(1.0, inner[0] / size[0])).round() if fixed else size
            whole = np.ceil(whole + count * (image - inner))
        whole = self.get_size_inches() * DPI
        self.set_layout_engine("none")
        for ax in self.grid.flat:
            box = ax.get_position()
            corner = np.round((box.p0 + box.p1) / 2 * whole - image / 2)
            ax.set_position((*corner / whole, *image / whole))
            ax.set_in_layout(True)  # which set_position takes away

    def draw(self, renderer: Any) -> None:
        """Draw everything; texts are drawn as they stand, because a `$` in a recorded label is no formula."""
        axes = [axis for ax in self.axes for axis in (ax.xaxis, ax.yaxis)]
        powers = {t for a in axes if isinstance(a.get_major_formatter(), LogFormatter) for t in a.get_ticklabels(which="both")}
        for text in set(self.findobj(Text)) - powers:
            text.set_parse_math(False)
            text.set_text(exported(printable(text.get_text(), lines=True)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", NO_GLYPH)
            super().draw(renderer)

    def _write(self, head: str, foot: str, across: float) -> float:
        """Title and footer in lines that fit; returns the height in px that they need."""
        head, foot = broken(head, TITLE, across - 2 * EDGE, bold=True), broken(foot, SMALL, across - 2 * EDGE)
        x = EDGE / across
        top = self.suptitle(head, x=x, ha="left", fontsize=TITLE, fontweight="bold", color=INK, linespacing=1.15)
        bottom = self.supxlabel(foot, x=x, ha="left", fontsize=SMALL, color=GREY, linespacing=1.3)
        top.set_in_layout(bool(head))
        bottom.set_in_layout(bool(foot))
        return sum(EDGE + step * (text.count("\n") + 1 if text else 0) for text, step in ((head, 17), (foot, 12)))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI * SHARPER)
        width, height = (round(side * DPI) for side in self.get_size_inches())
        alt = self.title or "figure"
        bundle = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": f"<Figure: {alt}>"}
        return bundle, {"image/png": {"width": width, "height": height, "alt": alt}}


@takes(width=PX, height=PX, title=WORDS)
def figure(width: float, height: float, *, of: Any = (), title: str = "") -> Figure:
    """An empty figure of things, `width` by `height` px without its title and footer, with matplotlib's constrained layout.

    of: clips, traces, tables of results or sequences of them: what the footer and the saved file say about the model.
    """
    paper = PAPER.get()
    if paper:  # narrower by more than it is lower: type stays as large
        width, height = paper.column * DPI, height * max(0.65, min(1.0, paper.column * DPI / width))
    fig = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    fig.sources, fig.footer, fig.title, fig.size, fig.paper = sources(of), about(of), title, (width, height), paper
    return fig


@takes(size=partial(several, check=PX, least=2), rows=COUNT, columns=COUNT, title=WORDS, share=flag)
def graphs(
    *, size: tuple[float, float], rows: int = 1, columns: int = 1, of: Any = (), title: str = "", share: bool = True
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes "r c" for graphs, each of about `size` (width, height) px. share: their limits."""
    fig = figure(columns * size[0], rows * size[1], of=of, title=title)
    axes = fig.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
    for ax in axes.flat:
        plain(ax)
    return fig, axes


@takes(
    size=video.SIZE,
    title=WORDS,
    row_labels=TEXTS,
    column_labels=TEXTS,
    row_title=WORDS,
    column_title=WORDS,
)
def images(
    *,
    size: tuple[int, int],
    of: Any = (),
    title: str = "",
    row_labels: Sequence[str] = ("",),
    column_labels: Sequence[str] = ("",),
    row_title: str = "",
    column_title: str = "",
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes "r c", one for each label, of exactly `size` (height, width) px, for images drawn pixel by pixel.

    row_title, column_title: what the labels are. What an axes has around it (a caption by `ax.set_xlabel`, a key by
    `ax.inset_axes`) gets its room when the figure is finished.
    """
    fig = figure(size[1], size[0], of=of, title=title)
    fig.size = size[1], size[0]
    fig.grid = fig.subplots(len(row_labels), len(column_labels), squeeze=False)
    for ax in fig.grid.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    above = [broken(label, LABEL, size[1] + GAP) for label in column_labels]
    for ax, label in zip(fig.grid[0], above, strict=True):
        ax.set_title("\n" * bool(column_title) + label, fontsize=LABEL, color=INK, pad=3)
    for ax, label in zip(fig.grid[:, 0], row_labels, strict=True):
        ax.set_ylabel(
            broken(label, LABEL, min(BESIDE, LABELS * room())), fontsize=LABEL, color=INK, rotation=0, ha="right", va="center"
        )
    words = dict(xycoords="axes fraction", textcoords="offset points", fontsize=LABEL, color=INK, annotation_clip=False)
    fig.grid[0, 0].annotate(row_title, (0, 1), xytext=(-4, 3), ha="right", **words)
    middle = 0.5 if len(column_labels) % 2 else 1 + GAP / size[1] / 2
    up = 15 + 1.2 * LABEL * max(label.count("\n") for label in above)
    over = fig.grid[0, (len(column_labels) - 1) // 2].annotate(column_title, (middle, 1), xytext=(0, up), ha="center", **words)
    over.set_in_layout(False)  # it stands over several columns, in the line that their titles leave free
    return fig, fig.grid


def plain(ax: Axes) -> None:
    """Axes for a graph: two thin spines, small type, no box."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(labelsize=LABEL - 1, color=GREY, labelcolor=INK)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(fontsize=LABEL, color=INK)


def named(axis: Any, places: Sequence[float], labels: Sequence[str], width: float) -> float:
    """Names as the labels of an x axis of `width` px: upright where they would touch, every second or third where even those
    would. Returns the px that they take below what a line of text takes."""
    letter, line = 0.6 * (LABEL - 1) * DPI / 72, 1.2 * (LABEL - 1) * DPI / 72
    longest, each = letter * max(map(len, labels), default=0), width / max(1, len(labels))
    upright = longest > each - letter
    every = max(1, int(np.ceil(line / each))) if upright else 1
    axis.set_ticks(places[::every], labels[::every], rotation=90 if upright else 0)
    return longest - line if upright else 0.0


def draw(ax: Axes, image: np.ndarray, **kwargs: Any) -> Any:
    """An image "h w 3" in [0, 1] or a map "h w", its pixels as they are."""
    return ax.imshow(np.clip(image, 0, 1) if image.ndim == 3 else image, interpolation="none", aspect="auto", **kwargs)


def fitted(shape: Sequence[int], *, columns: int, width: float | None = None, most: int = 320) -> tuple[int, int]:
    """Height and width in px at which an image "h w ..." is drawn `columns` times in a row of `width` px (default: all).

    Small ones grow by a whole factor, to `most` px at most; thumbnails at least to the double; large ones shrink to fit.
    """
    h, w = shape[:2]
    free = max(16, min(most, int((room() if width is None else width) - 40) // columns - GAP))
    if w > free and (w > THUMBNAIL or PAPER.get()):
        return max(1, round(h * free / w)), free
    factor = max(free // w, 2 if w <= THUMBNAIL and not PAPER.get() else 1)
    return h * factor, w * factor


def scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image "h w ..." at `size` (height, width): repeated pixels where it grows, averaged ones where it shrinks."""
    h, w = image.shape[:2]
    if size[1] < w:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return image.repeat(size[0] // h, axis=0).repeat(size[1] // w, axis=1)


def placed(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, tuple[int, int]]:
    """An image of any shape in the middle of a white board of `size` (height, width); its scale and corner (down, across)."""
    h, w = image.shape[:2]
    by = min(size[0] / h, size[1] / w)
    by = int(by) if by >= 1 else by
    image = scaled(image, (max(1, round(h * by)), max(1, round(w * by))))
    down, across = ((s - n) // 2 for s, n in zip(size, image.shape, strict=False))
    board = np.ones((*size, 3), np.float32)
    board[down : down + image.shape[0], across : across + image.shape[1]] = image
    return board, by, (down, across)


def chosen(asked: Any, count: int, most: int, what: str) -> list[int]:
    """Positions to show: the asked ones (negative from the end), else `most` of them evenly spread, first and last included.

    Raises InputError for none, one that is not there, or one that is no whole number.
    """
    if asked is None:
        return [int(i) for i in np.linspace(0, count - 1, min(most, count)).round()]
    picked = np.atleast_1d(INDICES(what, asked)).tolist()
    wrong = [i for i in picked if not -count <= i < count]
    if wrong:
        raise InputError(f"{what} {wrong[0]}: there are {what}s 0 to {count - 1}.")
    return [i % count for i in picked]


def broken(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """Text of `size` pt in lines of at most `width` px, by the mean width of a letter; the same at every resolution."""
    letters = max(6, int(width / (size * DPI / 72 * (0.62 if bold else 0.55))))
    return textwrap.fill(printable(text), letters, break_on_hyphens=False)


@takes(fig=kind(Figure), path=errors.path, formats=partial(several, check=partial(errors.one_of, options=FORMATS)))
def save(fig: Figure, path: str | Path, *, formats: Sequence[str] = FORMATS) -> Figure:
    """Write a figure as path.png and path.pdf, and what was drawn as path.csv; returns the figure, which a notebook shows.

    >>> show.save(show.denoising(tr, frame=4), "results/denoising")
    >>> with show.for_paper(column=3.3):                              # a journal's column: see `for_paper`
    ...     fig = show.save(show.denoising(tr, frame=4), "paper/figure-2", formats=("pdf",))

    path: without ending. formats: of png, pdf, csv; a figure without a table has no CSV. The file of a
    figure that a model's output is in says so in IPTC's terms, with checkpoint and licence. In the CSV a path is its file's
    name, and no cell is a formula. Raises InputError for an unknown format, OutputError where the folder cannot be written.
    """
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix[1:] in FORMATS else stem
    if not stem.name:
        raise InputError(f"path={shown(str(path))}: give a file's name without its ending.")
    facts = facts_of(fig.sources, fig.footer, images=any(ax.images for ax in fig.axes))
    said: dict[str, Any] = {
        "png": {"pil_kwargs": {"pnginfo": video.png_info(facts)}} if facts else {},
        "pdf": {"metadata": {"Subject": fig.footer, "Keywords": json.dumps(facts), "CreationDate": None}},
    }
    for form in dict.fromkeys(formats):
        if form == "csv" and fig.data.empty:
            continue
        with write_whole(f"{stem}.{form}") as part, matplotlib.rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", NO_GLYPH)
            if form == "csv":
                part.write_text(csv_text(fig.data), encoding="utf-8", errors="replace")
            else:  # fonts as TrueType, which publishers take
                fig.savefig(part, format=form, dpi=DPI * SHARPER, **said[form])
    return fig


def facts_of(made_by: Sequence[dict[str, str]], footer: str, *, images: bool) -> dict[str, Any]:
    """What a file says about itself (see `measure.video`); {} where no model made what it shows."""
    if not made_by:
        return {}
    source = {key: ", ".join(dict.fromkeys(s[key] for s in made_by if s[key])) for key in made_by[0]}
    stated = [video.licence_line(s["checkpoint"], {}) for s in made_by]
    source["licence"] = source["licence"] or ", ".join(dict.fromkeys(filter(None, stated)))
    kind = video.FIGURE_TYPE if images else video.GRAPH_TYPE
    return video.describe(source=source, description=footer, DigitalSourceType=kind)
