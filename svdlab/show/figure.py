"""What all figures share: how they are made and laid out, the footer with their sources, and saving with provenance.

A graph, whose layout is matplotlib's, and images, which keep an exact grid of pixels:

>>> fig, axes = graphs(of=clip, title="Speed (px/frame)", size=(520, 280))
>>> axes[0, 0].plot([0, 1, 2])
>>> save(fig.finish(pd.DataFrame({"speed": [0, 1, 2]}), "line: camera"), "results/speed")    # .png, .pdf, .csv
>>> fig, axes = images(size=(128, 128), of=clip, title="Two frames", column_labels=["frame 0", "frame 1"])
>>> draw(axes[0, 1], scaled(clip.frames[1], (128, 128)))

No figure touches pyplot or rcParams: each is a `Figure` of its own, which any notebook shows. Sizes are px of the screen, 100
to the inch. `figure(...)` is empty: `subfigures`, `subplots` and `add_gridspec` work in it as in every matplotlib Figure.
"""

from __future__ import annotations

import base64
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation

from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.measure.files import write_whole
from svdlab.show.labels import about, sources

DPI = 100  # px of the layout per inch
SHARPER = 2  # files and notebooks get that many px for one: a whole factor, so that no pixel is smeared
WIDTH = 900  # px that a figure is made for
THUMBNAIL = 96  # px: images up to that are hard to see at their own size
SMALLEST = 40  # px: images narrower than that have no room for their labels
EDGE, GAP = 12, 6  # px around everything, and between images
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
# Okabe and Ito's colours can be told apart without colour vision; side by side they also differ in marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
TITLE, LABEL, SMALL = 10.5, 8.5, 6.5  # pt
FORMATS = ("png", "svg", "pdf", "csv")
AnyFigure = TypeVar("AnyFigure", bound=MatplotlibFigure)


class Figure(MatplotlibFigure):
    """A matplotlib Figure that knows what it shows. Made by `figure`, `graphs` or `images`; `finish` completes it.

    sources: checkpoint, label and licence of every model that made it. data: what was drawn, as a table. footer: the line at
    its foot, made of the sources' and of notes.
    """

    sources: tuple[dict[str, str], ...] = ()
    about: str = ""
    title: str = ""
    data: pd.DataFrame | None = None
    footer: str = ""
    size: tuple[float, float] = (WIDTH, 300)  # width and height in px of what is drawn; of one image, where there is a grid
    grid: np.ndarray | None = None  # axes "r c" of images, which are placed at whole pixels
    top: Text
    bottom: Text

    def finish(self, data: pd.DataFrame | None = None, *notes: str) -> Figure:
        """Set the table behind the figure and its footer, give everything its place, and return the figure.

        notes: what the marks mean. Name only what was drawn ("band: 95 % interval" where there is a band).
        """
        self.data, self.footer = data, " · ".join(filter(None, (self.about, *notes)))
        self.lay_out()
        return self

    def lay_out(self, width: float | None = None, *, title: bool = True, footer: bool = True) -> None:
        """Give everything its place in a figure of `width` inches (default: its own), with or without title and footer."""
        head, foot = self.title if title else "", self.footer if footer else ""
        if self.grid is not None:
            return self._place(self.grid, width, head, foot)
        across = width * DPI if width else self.size[0]
        above, below = self._write(head, foot, across)  # constrained layout gives both texts their room
        self.set_size_inches(across / DPI, (self.size[1] + above + below) / DPI)
        return None

    def _write(self, head: str, foot: str, across: float) -> tuple[float, float]:
        """Title and footer in lines that fit; returns the heights in px that they need."""
        head = broken(head, TITLE, across - 2 * EDGE, bold=True)
        foot = broken(foot, SMALL, across - 2 * EDGE)
        place: dict[str, Any] = dict(x=EDGE / across, ha="left", wrap=True)
        self.top = self.suptitle(head, fontsize=TITLE, fontweight="bold", color=INK, linespacing=1.15, **place)
        self.bottom = self.supxlabel(foot, fontsize=SMALL, color=GREY, linespacing=1.3, **place)
        lines = [text.count("\n") + 1 if text else 0 for text in (head, foot)]
        return EDGE + 17.0 * lines[0], EDGE + 12.0 * lines[1]

    def _place(self, grid: np.ndarray, width: float | None, head: str, foot: str) -> None:
        """Every image at its size, with room for what is written around it; smaller only where `width` asks for it."""
        rows, columns = grid.shape
        for _ in range(2):  # again, where images have shrunk and their keys with them
            reach = _reach(grid)
            left, right = (reach[:, at, side].max() + EDGE for at, side in ((0, 0), (-1, 1)))
            down, up = reach[..., 2].max(1), reach[..., 3].max(1)
            w, h = self.size
            if width:
                room = (width * DPI - left - right - GAP * (columns - 1)) / columns
                if room < min(w, SMALLEST):
                    raise InputError(f"{width} inches leave {room:.0f} px for each of {columns} images: draw fewer in a row.")
                w, h = min(w, room), h * min(1.0, room / w)
            across = width * DPI if width else max(300, left + columns * (w + GAP) - GAP + right)
            above, below = self._write(head, foot, across)
            tall = above + (up + h + down + GAP).sum() - GAP + below
            self.set_size_inches(across / DPI, tall / DPI)
            floor = tall - above + GAP
            for r in range(rows):
                floor -= GAP + up[r] + h
                for c in range(columns):
                    grid[r, c].set_position(((left + c * (w + GAP)) / across, floor / tall, w / across, h / tall))
                floor -= down[r]
        self.top.set_y(1 - 0.8 * EDGE / tall)
        self.bottom.set_y(0.5 * EDGE / tall)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI * SHARPER)
        width, height = (round(side * DPI) for side in self.get_size_inches())
        alt = self.title or "figure"
        bundle = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": f"<Figure: {alt}>"}
        return bundle, {"image/png": {"width": width, "height": height, "alt": alt}}


def figure(width: float, height: float, *, of: Any = (), title: str = "") -> Figure:
    """An empty figure of things, `width` by `height` px without its title and footer, with matplotlib's constrained layout.

    of: clips, traces, tables of results or sequences of them: what the footer and the saved file say about the model.
    """
    fig = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    fig.sources, fig.about, fig.title, fig.size = sources(of), about(of), title, (width, height)
    return fig


def graphs(
    *,
    size: tuple[float, float],
    rows: int = 1,
    columns: int = 1,
    of: Any = (),
    title: str = "",
    sharex: bool = True,
    sharey: bool = True,
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes "r c" for graphs, each of about `size` (width, height) px."""
    fig = figure(columns * size[0], rows * size[1], of=of, title=title)
    axes = fig.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    for ax in axes.flat:
        plain(ax)
    return fig, axes


def on(ax: Axes | None, *, size: tuple[float, float], of: Any, title: str) -> tuple[Any, Axes]:
    """One axes for a graph and its figure: the caller's, or of a new figure; `finished` completes either."""
    if ax is None:
        fig, axes = graphs(size=size, of=of, title=title)
        return fig, axes[0, 0]
    if not isinstance(ax, Axes):
        raise InputError(f"ax is a {type(ax).__name__}: give one matplotlib Axes, or leave it out for a new figure.")
    ax.set_title(title, fontsize=LABEL, loc="left", color=INK)
    plain(ax)
    return ax.get_figure(root=True), ax


def finished(fig: Any, of: Any, data: pd.DataFrame, *notes: str) -> Any:
    """`Figure.finish`, also for a figure of the caller's: it gets sources, table and a further line at its foot."""
    if isinstance(fig, Figure):
        return fig.finish(data, *notes)
    said = [line for line in getattr(fig, "footer", "").split("\n") if line]
    fig.footer = "\n".join(dict.fromkeys([*said, " · ".join(filter(None, (about(of), *notes)))]))
    fig.sources = tuple({tuple(s.items()): s for s in (*getattr(fig, "sources", ()), *sources(of))}.values())
    fig.data = data
    fig.supxlabel(fig.footer, x=0.01, ha="left", fontsize=SMALL, color=GREY, wrap=True)
    return fig


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
    `key_beside`) gets its room when the figure is finished.
    """
    fig = Figure(figsize=(size[1] / DPI, size[0] / DPI), dpi=DPI)
    fig.sources, fig.about, fig.title, fig.size = sources(of), about(of), title, (size[1], size[0])
    fig.grid = np.empty((len(row_labels), len(column_labels)), dtype=object)
    for (r, c), _ in np.ndenumerate(fig.grid):
        ax = fig.grid[r, c] = fig.add_axes((0, 0, 1, 1), label=f"{r} {c}", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if r == 0:
            ax.set_title(column_labels[c], fontsize=LABEL, color=INK, pad=3)
        if c == 0:
            ax.set_ylabel(row_labels[r], fontsize=LABEL, color=INK, rotation=0, ha="right", va="center")
    across = len(column_labels) * (size[1] + GAP) - GAP
    words = dict(xycoords="axes fraction", textcoords="offset points", fontsize=LABEL, color=INK, annotation_clip=False)
    fig.grid[0, 0].annotate(column_title, (across / size[1] / 2, 1), xytext=(0, 15), ha="center", **words)
    fig.grid[0, 0].annotate(row_title, (0, 1), xytext=(-4, 3), ha="right", **words)
    return fig, fig.grid


def plain(ax: Axes) -> None:
    """Axes for a graph: two thin spines, small type, no box."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(labelsize=LABEL - 1, color=GREY, labelcolor=INK)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(fontsize=LABEL, color=INK)


def draw(ax: Axes, image: np.ndarray, **kwargs: Any) -> Any:
    """An image "h w 3" in [0, 1] or a map "h w", its pixels as they are."""
    return ax.imshow(np.clip(image, 0, 1) if image.ndim == 3 else image, interpolation="none", aspect="auto", **kwargs)


def key_beside(ax: Axes, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes for a key, in px to the right of the middle of the right side of another, whatever becomes of its size."""
    middle = ScaledTranslation(1, 0.5, ax.transAxes)  # type: ignore[arg-type]
    inches = (left / DPI, bottom / DPI, width / DPI, height / DPI)
    return ax.inset_axes(inches, transform=ax.figure.dpi_scale_trans + middle)


def fitted(shape: Sequence[int], *, columns: int, width: int = WIDTH, most: int = 320) -> tuple[int, int]:
    """Height and width in px at which an image "h w ..." is drawn `columns` times in a row.

    Small ones grow by a whole factor, to `most` px at most; thumbnails at least to the double, whatever the room; large
    ones shrink to fit.
    """
    h, w = shape[:2]
    room = max(16, min(most, (width - 40) // columns - GAP))
    if w > room and w > THUMBNAIL:
        return max(1, round(h * room / w)), room
    factor = max(room // w, 2 if w <= THUMBNAIL else 1)
    return h * factor, w * factor


def scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image "h w ..." at `size` (height, width): repeated pixels where it grows, averaged ones where it shrinks."""
    h, w = image.shape[:2]
    if size[1] < w:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return image.repeat(size[0] // h, axis=0).repeat(size[1] // w, axis=1)


def chosen(asked: Any, count: int, most: int, what: str) -> list[int]:
    """Positions to show: the asked ones (negative from the end), else `most` of them evenly spread, first and last included.

    Raises InputError for none, or one that is not there.
    """
    even = np.linspace(0, count - 1, min(most, count)).round()
    picked = [int(i) for i in (even if asked is None else np.atleast_1d(asked))]
    wrong = [i for i in picked if not -count <= i < count]
    if wrong or not picked:
        raise InputError(f"{what} {wrong[0] if wrong else picked}: there are {what}s 0 to {count - 1}.")
    return [i % count for i in picked]


def broken(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """Text of `size` pt in lines of at most `width` px, by the mean width of a letter; the same at every resolution.

    Lines break between its parts (" · ") where they are short, else between words.
    """
    letters = max(12, int(width / (size * DPI / 72 * (0.62 if bold else 0.55))))
    parts = [part if len(part) > 0.6 * letters else part.replace(" ", "\N{NO-BREAK SPACE}") for part in text.split(" · ")]
    return textwrap.fill("\N{NO-BREAK SPACE}· ".join(parts), letters, break_on_hyphens=False).replace(
        "\N{NO-BREAK SPACE}", " "
    )


def save(
    fig: AnyFigure,
    path: str | Path,
    *,
    formats: Sequence[str] = ("png", "pdf", "csv"),
    width: float | None = None,
    title: bool = True,
    footer: bool = True,
) -> AnyFigure:
    """Write a figure as path.png and path.pdf, and the table behind it as path.csv; returns the figure.

    >>> fig = show.save(show.denoising(tr, frame=4), "results/denoising")
    >>> fig = show.save(fig, "paper/figure-2", formats=("pdf",), width=3.3, title=False, footer=False)  # a journal

    path: without ending. formats: of png, svg, pdf, csv; a figure without a table has no CSV. width: in inches. The file of a
    figure that a model's output is in says so in IPTC's terms, with checkpoint and licence. Raises InputError for an unknown
    format, OutputError where the folder cannot be written.
    """
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or isinstance(formats, str):
        raise InputError(f"formats={formats!r}: give a tuple of {', '.join(FORMATS)}.")
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix[1:] in FORMATS else stem
    own = fig if isinstance(fig, Figure) and (width is not None or not title or not footer) else None
    table = getattr(fig, "data", None)
    if own is not None:
        own.lay_out(width, title=title, footer=footer)
    for form in formats:
        if form == "csv" and table is None:
            continue
        with write_whole(stem.with_name(f"{stem.name}.{form}")) as part:
            if form == "csv" and table is not None:
                table.to_csv(part, index=False)
            else:  # TrueType, which publishers take; the salt makes the ids in an SVG the same each time
                with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "svdlab"}):
                    fig.savefig(part, format=form, dpi=DPI * SHARPER, **_metadata(fig, form))
    if own is not None:
        own.lay_out()
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


def _metadata(fig: MatplotlibFigure, form: str) -> dict[str, Any]:
    footer = getattr(fig, "footer", "")
    facts = facts_of(getattr(fig, "sources", ()), footer, images=any(ax.images for ax in fig.axes))
    if form == "png" and facts:
        return {"pil_kwargs": {"pnginfo": video.png_info(facts)}}
    kind, licence, all_facts = facts.get("DigitalSourceType"), facts.get("licence"), json.dumps(facts) if facts else None
    known: dict[str, Any] = {
        "png": {"Software": "svdlab", "Description": footer},
        "svg": {
            "Creator": "svdlab",
            "Description": footer,
            "Date": None,
            "Type": kind,
            "Rights": licence,
            "Source": all_facts,
        },
        "pdf": {"Creator": "svdlab", "Subject": footer, "CreationDate": None, "Keywords": all_facts},
    }[form]
    return {"metadata": {key: value for key, value in known.items() if value or key.endswith("Date")}}


def _reach(grid: np.ndarray) -> np.ndarray:
    """Whole px "r c 4" that labels and keys of each axes reach beyond it to the left, to the right, down and up."""
    fig = grid[0, 0].figure
    renderer = FigureCanvasAgg(fig).get_renderer()
    reach = np.zeros((*grid.shape, 4))
    for place, ax in np.ndenumerate(grid):
        inner = ax.get_window_extent(renderer)
        outer = ax.get_tightbbox(renderer) or inner  # None where it is hidden
        reach[place] = inner.x0 - outer.x0, outer.x1 - inner.x1, inner.y0 - outer.y0, outer.y1 - inner.y1
    return np.ceil(np.maximum(reach, 0).round(3) * DPI / fig.dpi)
