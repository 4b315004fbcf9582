"""What all widgets share: a still figure for viewers that run no widgets, one button that exports, one style.

A panel's mimebundle holds the live view and a PNG of the figure that it stands for. Which of them is shown is the
viewer's choice: JupyterLab takes the view; papermill's copies, nbconvert and GitHub show the figure.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
from PIL import Image
from traitlets import Unicode

from svdlab.errors import SvdlabError
from svdlab.measure.video import as_bytes
from svdlab.show.clips import Video
from svdlab.show.figure import Figure
from svdlab.widgets.export import write

STYLE = f"<style>{Path(__file__).with_name('style.css').read_text()}</style>"
SMALL = 256 * 256  # px: up to that images are sent as they are; beyond, lossy, at a tenth of the size
QUALITY = 92
FORMATS = {b"\x89PNG": "png", b"RIFF": "webp"}  # by the first bytes; else JPEG


class ImageView(ipywidgets.Image):
    """An image whose `tooltip` says what is to be seen (the element's title, which screen readers read).

    The front end looks at a description before it sets the title, and fails where a widget has none.
    """

    description = Unicode("").tag(sync=True)


class VideoView(ipywidgets.Video):
    """A video with a `tooltip`, as `ImageView` has it."""

    description = Unicode("").tag(sync=True)


class Panel(ipywidgets.VBox):
    """A widget that is also a figure, a video and a plan, and exports them; subclasses define what is on screen.

    out: the folder that the button writes to. exported: the files of the last export.
    """

    kind = "panel"

    def __init__(self, children: Sequence[ipywidgets.Widget], *, out: str | Path) -> None:
        self.out = Path(out)
        self.exported: list[Path] = []
        self.export_button = button(
            "Export", "download", self._export, "Write figure, video and the plan that reproduces them"
        )
        self.message = ipywidgets.HTML()
        style = ipywidgets.HTML(STYLE, layout=ipywidgets.Layout(display="none"))
        super().__init__([style, *children, ipywidgets.HBox([self.export_button, self.message])])
        self.add_class("svdlab")

    def figure(self) -> Figure:
        """What is on screen, as a still figure."""
        raise NotImplementedError

    def video(self) -> Video | None:
        """What is on screen, as a video; None where nothing moves."""
        return None

    def plan(self) -> list[dict[str, Any]]:
        """A row for each clip on screen, which `svdlab.sweep` makes again."""
        return []

    def view(self) -> dict[str, Any]:
        """Where the controls stand, as plain values; part of what is exported."""
        return {}

    def export(self, out: str | Path | None = None) -> list[Path]:
        """Write what is on screen: a figure (PNG, SVG, the table behind it as CSV), a video (MP4), a plan (JSON).

        >>> svdlab.widgets.compare(results).export("results/look")

        The plan is a list of rows that `svdlab sweep --grid FILE.json --out FOLDER` makes again; its label_ columns say
        where they came from. On the same machine, clips made one at a time (batch_size=1) are the same to the bit. The same
        view replaces its own files. Raises OutputError where the folder cannot be written.
        """
        self.exported = write(self, out or self.out)
        return self.exported

    def _export(self) -> None:
        self.message.value = "writing …"
        try:
            names = self.export()
            self.message.value = status(f"{names[0].parent}/: {', '.join(p.name for p in names)}")
        except SvdlabError as error:
            self.report(error)

    def report(self, error: Exception) -> None:
        """Show what went wrong, beside the export button."""
        self.message.value = warning(error)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data = super()._repr_mimebundle_(**kwargs)
        try:
            still, metadata = self.figure()._repr_mimebundle_()
        except SvdlabError as error:  # nothing there yet that could be drawn: the live view still is
            return {**data, "text/plain": f"<svdlab {self.kind}: {error}>"}
        return {**data, **still, "text/plain": f"<svdlab {self.kind}: {metadata['image/png']['alt']}>"}, metadata


class Plot(ipywidgets.VBox):
    """A figure with marks over it, which move without the figure being drawn or sent again."""

    def __init__(self) -> None:
        self.image, self.over = ImageView(format="png"), ipywidgets.HTML()
        self.over.add_class("svdlab-over")
        super().__init__([self.image, self.over])
        self.add_class("svdlab-plot")
        self._axes: Any = None

    def set(self, fig: Figure) -> None:
        """Show a figure; marks are in the data coordinates of its first axes."""
        put_figure(self.image, fig)
        box = fig.axes[0].get_position()
        self._axes = fig.axes[0].transData.frozen(), fig.transFigure.inverted(), 100 * (1 - box.y1), 100 * box.height

    def mark(self, *points: tuple[float, float | None]) -> None:
        """Rings at (x, y), a square for the second; a vertical line at (x, None); nothing where a number is missing."""
        if self._axes is None:
            return
        to_pixels, to_figure, top, height = self._axes
        marks = []
        for n, (x, y) in enumerate(points):
            left, up = to_figure.transform(to_pixels.transform((x, 1.0 if y is None else y)))
            if y is None:
                marks.append(f'<b style="left:{100 * left:.2f}%;top:{top:.2f}%;height:{height:.2f}%"></b>')
            elif left == left and up == up:
                which = ("first", "second")[n]
                marks.append(f'<i class="{which}" style="left:{100 * left:.2f}%;top:{100 * (1 - up):.2f}%"></i>')
        self.over.value = "".join(marks)


def still(image: Any) -> bytes:
    """An image "h w 3", uint8 or floats in [0, 1], as PNG, or as JPEG above 256 x 256 px."""
    pixels, buffer = as_bytes(np.asarray(image)[None])[0], io.BytesIO()
    small = pixels.shape[0] * pixels.shape[1] <= SMALL
    Image.fromarray(pixels).save(buffer, "PNG" if small else "JPEG", compress_level=3, quality=QUALITY)
    return buffer.getvalue()


def animation(frames: Any, *, fps: float) -> bytes:
    """Frames "f h w 3" as a looping WebP, without loss up to 256 x 256 px."""
    pixels, buffer = as_bytes(frames), io.BytesIO()
    first, *rest = map(Image.fromarray, pixels)
    how: dict[str, Any] = {"lossless": True} if pixels[0, ..., 0].size <= SMALL else {"quality": QUALITY}
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, method=0, **how)
    return buffer.getvalue()


def put(where: ImageView | VideoView, data: bytes, alt: str, width: int | None = None) -> None:
    """Show other bytes, in one message: each message makes the browser load them again."""
    with where.hold_sync():
        where.set_trait("tooltip", alt)
        if isinstance(where, ImageView):
            where.format = FORMATS.get(bytes(data[:4]), "jpeg")
        if width is not None:
            where.width = str(width)
        where.value = data


def put_figure(where: ImageView, fig: Figure, alt: str = "") -> None:
    """Show a figure at its own size on the screen."""
    data, metadata = fig._repr_mimebundle_()
    facts = metadata["image/png"]
    put(where, base64.b64decode(data["image/png"]), alt or facts["alt"], facts["width"])


def button(text: str, icon: str, act: Callable[[], Any], tooltip: str = "") -> ipywidgets.Button:
    made = ipywidgets.Button(description=text, icon=icon, tooltip=tooltip or text, tabbable=True)
    made.on_click(lambda _: act())
    return made


def wide(width: str = "100%") -> dict[str, Any]:
    """Traits of a control: how wide, and that the Tab key reaches it."""
    return {"layout": ipywidgets.Layout(width=width), "tabbable": True}


def wrapping(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side, on lines of their own where the window is narrow."""
    return ipywidgets.HBox(children, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="16px"))


def pale(text: str) -> ipywidgets.HTML:
    """A line of small print."""
    made = ipywidgets.HTML(status(text))
    made.add_class("svdlab-pale")
    return made


def visible(widget: ipywidgets.Widget, there: bool) -> None:
    widget.layout.display = "" if there else "none"


def status(text: str) -> str:
    """Text as HTML that screen readers announce when it changes."""
    return f'<span role="status" aria-live="polite">{html.escape(text)}</span>'


def warning(error: object) -> str:
    return f'<span role="alert"><b>Could not: </b>{html.escape(str(error))}</span>'
