"""What all widgets share: a still picture for viewers that run no widgets, one button that exports, one style.

A panel's mimebundle holds the live view and a PNG of the figure that it stands for. Which of them is shown is the
viewer's choice: JupyterLab takes the view; papermill's copies, nbconvert and GitHub show the picture.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
from traitlets import Unicode

from svdlab.errors import SvdlabError
from svdlab.show.style import Figure
from svdlab.show.videos import Video
from svdlab.widgets.export import write

# Colours are JupyterLab's own variables, so that the dark theme has them too; sizes are relative, so that text scales.
STYLE = """<style>
.svdlab { --svdlab-ink: var(--jp-ui-font-color1, #222); --svdlab-pale: var(--jp-ui-font-color2, #666);
  --svdlab-mark: #D55E00; --svdlab-line: var(--jp-border-color2, #ccc); }
.svdlab .widget-html-content { color: var(--svdlab-ink); line-height: 1.4; font-size: 1em; }
.svdlab .svdlab-pale, .svdlab .svdlab-pale .widget-html-content { color: var(--svdlab-pale); }
.svdlab .lm-TabBar-tab { flex: 0 0 12em !important; }
.svdlab .widget-label { width: auto; min-width: 8.5em; }
.svdlab .svdlab-pixels img, .svdlab img.svdlab-pixels { image-rendering: pixelated; }
.svdlab video, .svdlab img { max-width: 100%; height: auto; background: var(--jp-layout-color2, #eee); }
.svdlab table.svdlab-table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.svdlab table.svdlab-table caption { text-align: left; color: var(--svdlab-pale); padding-bottom: 4px; }
.svdlab table.svdlab-table th { font-weight: normal; text-align: left; padding: 1px 14px 1px 0; }
.svdlab table.svdlab-table td { text-align: right; padding: 1px 14px 1px 0; white-space: nowrap; }
.svdlab .svdlab-strip { position: relative; width: 16em; height: 1em; border-bottom: 1px solid var(--svdlab-line);
  background-size: 100% 100%; image-rendering: pixelated; }
.svdlab .svdlab-strip i { position: absolute; top: -2px; bottom: -2px; width: 3px; margin-left: -1px;
  background: var(--svdlab-mark); }
.svdlab .svdlab-strip i.second { background: #0072B2; }
.svdlab .svdlab-plot { position: relative; width: fit-content; }
.svdlab .svdlab-plot .widget-image { display: block; margin: 0; }
.svdlab .svdlab-over { position: absolute; inset: 0; margin: 0; pointer-events: none; height: 100%; }
.svdlab .svdlab-over .widget-html-content { position: absolute; inset: 0; height: 100%; }
.svdlab .svdlab-over i { position: absolute; width: 13px; height: 13px; margin: -8px 0 0 -8px;
  border: 2.5px solid var(--svdlab-mark); border-radius: 50%; }
.svdlab .svdlab-over i.second { border-color: #0072B2; border-radius: 0; }
.svdlab .svdlab-over b { position: absolute; width: 0; border-left: 2px solid var(--svdlab-mark); margin-left: -1px; }
.svdlab-missing .widget-html-content { border-left: 3px solid var(--svdlab-mark); padding-left: 8px; }
</style>"""


class Picture(ipywidgets.Image):
    """ipywidgets' Image, which can also say what is to be seen, by `tooltip` (the element's title, which screen readers read).

    The front end looks at a description before it sets the title, and fails where a widget has none.
    """

    description = Unicode("").tag(sync=True)


class Film(ipywidgets.Video):
    """ipywidgets' Video, with a `tooltip` as `Picture` has it."""

    description = Unicode("").tag(sync=True)


class Panel(ipywidgets.VBox):
    """A widget that can also be a figure, a film and a plan, and exports them.

    out: the folder that the button writes to. Made for `explore`, `step_through`, `live` and `compare`, which say what
    the four methods below give for what is on screen.
    """

    kind = "panel"

    def __init__(self, children: Sequence[ipywidgets.Widget], *, out: str | Path) -> None:
        self.out = Path(out)
        self.exported: list[Path] = []
        button = ipywidgets.Button(
            description="Export",
            icon="download",
            tooltip="Write figure, film and the plan that reproduces them",
            tabbable=True,
        )
        self._said = ipywidgets.HTML()
        button.on_click(lambda _: self._export())
        self.export_button = button
        style = ipywidgets.HTML(STYLE, layout=ipywidgets.Layout(display="none"))
        super().__init__([style, *children, ipywidgets.HBox([self.export_button, self._said])])
        self.add_class("svdlab")

    def figure(self) -> Figure:
        """What is on screen, as a still figure."""
        raise NotImplementedError

    def film(self) -> Video | None:
        """What is on screen, as a film; None where there is nothing that moves."""
        raise NotImplementedError

    def plan(self) -> list[dict[str, Any]]:
        """A row for each clip on screen, which `svdlab.sweep` makes again."""
        raise NotImplementedError

    def view(self) -> dict[str, Any]:
        """Where the controls stand, as plain values; part of what is exported."""
        return {}

    def export(self, out: str | Path | None = None) -> list[Path]:
        """Write what is on screen: a figure (PNG, SVG, the table behind it as CSV), a film (MP4), a plan (JSON).

        >>> panel.export("results/look")

        The plan is a list of rows that `svdlab sweep --grid FILE.json --out FOLDER` makes again; its label_ columns say
        where they came from. On the same machine, clips made one at a time (batch_size=1) are the same to the bit. What is
        written twice replaces itself. Raises OutputError where the folder cannot be written.
        """
        self.exported = write(self.kind, out or self.out, self.figure(), self.film(), self.plan(), self.view())
        return self.exported

    def _export(self) -> None:
        self._said.value = "writing …"
        try:
            names = self.export()
        except (SvdlabError, OSError) as error:
            self._said.value = warning(str(error))
            return
        self._said.value = said(f"{names[0].parent}/: {', '.join(p.name for p in names)}")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data = super()._repr_mimebundle_(**kwargs)
        if data is None:
            return None
        try:
            still, metadata = self.figure()._repr_mimebundle_()
        except SvdlabError as error:  # nothing there yet that could be drawn: the live view still is
            return {**data, "text/plain": f"<svdlab {self.kind}: {error}>"}
        return {**data, **still, "text/plain": f"<svdlab {self.kind}: {metadata['image/png']['alt']}>"}, metadata


class Plot(ipywidgets.VBox):
    """A figure with marks over it, which move without the figure being drawn or sent again."""

    def __init__(self) -> None:
        self.image = Picture(format="png")
        self.over = ipywidgets.HTML()
        self.over.add_class("svdlab-over")
        super().__init__([self.image, self.over])
        self.add_class("svdlab-plot")
        self._place: Callable[[float, float], tuple[float, float]] | None = None
        self._frame = (0.0, 0.0)

    def set(self, fig: Any, ax: Any, alt: str = "") -> None:
        """Show a figure; marks are in the data coordinates of one of its axes."""
        data, metadata = fig._repr_mimebundle_()
        facts = metadata["image/png"]
        inverse = fig.transFigure.inverted()
        matrix = ax.transData.frozen()

        def place(x: float, y: float) -> tuple[float, float]:
            left, up = inverse.transform(matrix.transform((x, y)))
            return 100 * left, 100 * (1 - up)

        box = ax.get_position()
        self._place, self._frame = place, (100 * (1 - box.y1), 100 * (1 - box.y0))
        put(self.image, base64.b64decode(data["image/png"]), alt or facts["alt"], width=str(facts["width"]))

    def mark(self, *points: tuple[float, float]) -> None:
        """Rings at (x, y), the second one a square; none where a number is missing."""
        if self._place is None:
            return
        spots = [self._place(*p) if p[0] == p[0] and p[1] == p[1] else None for p in points]
        self.over.value = "".join(
            f'<i class="{"second" if n else "first"}" style="left:{spot[0]:.2f}%;top:{spot[1]:.2f}%"></i>'
            for n, spot in enumerate(spots)
            if spot
        )

    def line(self, x: float) -> None:
        """An upright line at x, as high as the axes."""
        if self._place is not None:
            top, bottom = self._frame
            left = self._place(x, 0.0)[0]
            self.over.value = f'<b style="left:{left:.2f}%;top:{top:.2f}%;height:{bottom - top:.2f}%"></b>'


def put(where: Picture | Film, data: bytes, alt: str, **more: Any) -> None:
    """Show other bytes, in one message: each message makes the browser load them anew."""
    with where.hold_sync():
        where.set_trait("tooltip", alt)
        for name, value in more.items():
            where.set_trait(name, value)
        where.value = data


def button(text: str, icon: str, act: Callable[[], Any], tooltip: str = "") -> ipywidgets.Button:
    made = ipywidgets.Button(description=text, icon=icon, tooltip=tooltip or text, tabbable=True)
    made.on_click(lambda _: act())
    return made


def shown(widget: ipywidgets.Widget, there: bool) -> None:
    widget.layout.display = "" if there else "none"


def said(text: str) -> str:
    """Text as HTML that screen readers announce when it changes."""
    return f'<span role="status" aria-live="polite">{html.escape(text)}</span>'


def warning(text: str) -> str:
    return f'<span role="alert"><b>Could not: </b>{html.escape(text)}</span>'
