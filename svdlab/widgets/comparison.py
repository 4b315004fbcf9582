"""Clips side by side and in step, under one scrubber, with what differs and what moves laid over them.

>>> svdlab.widgets.compare({"bucket 30": slow, "bucket 200": fast})
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd

from svdlab import show
from svdlab.errors import InputError, SvdlabError
from svdlab.measure import motion
from svdlab.measure.video import as_bytes
from svdlab.pipeline.generate import Clip
from svdlab.show.provenance import about, number
from svdlab.show.style import Figure, fitted
from svdlab.show.videos import Video, named, rate_of
from svdlab.widgets.background import Latest
from svdlab.widgets.encode import picture
from svdlab.widgets.export import row_of_clip, row_of_run
from svdlab.widgets.panel import Panel, Picture, put, said, warning

OVERLAYS = ("clip", "difference", "flow")


def compare(
    clips: Any, *, labels: Sequence[str] | None = None, fps: float | None = None, out: str | Path = "results/exports"
) -> Comparison:
    """Clips in step: one scrubber for all, a play button, and two overlays.

    >>> compare([slow, fast])
    >>> compare(results.query("seed == 0"))

    clips, labels, fps: as in `show.video`. difference: how far each pixel is from the first clip's in the same frame.
    flow: where each pixel goes until the next frame, on one scale for all. Raises InputError for no clips, or clips of
    different sizes.
    """
    return Comparison(clips, labels=labels, fps=fps, out=out)


class Comparison(Panel):
    """What `compare` returns. frame: the scrubber; overlay: clip, difference or flow."""

    kind = "compare"

    def __init__(self, clips: Any, *, labels: Sequence[str] | None, fps: float | None, out: str | Path) -> None:
        self._foot = about(clips)
        self._rows = clips[clips["frames"].astype(bool)] if isinstance(clips, pd.DataFrame) else None
        self.clips, self.labels = named(clips, labels)
        self.films = [as_bytes(getattr(c, "frames", c)) for c in self.clips]
        if len({f.shape[1:] for f in self.films}) > 1:
            raise InputError(f"the clips have sizes {sorted({f.shape[1:3] for f in self.films})}: in step they need one size.")
        self.fps = fps if fps is not None else rate_of(self.clips[0])
        length = max(map(len, self.films))
        columns = min(4, len(self.films))
        size = fitted(self.films[0].shape[1:], columns=columns, width=1000, most=340)
        self.pictures = [Picture(format=_format(self.films[0]), width=str(size[1])) for _ in self.films]
        self._drawn: dict[str, tuple[list[list[bytes]], str]] = {}
        self.draw = Latest(wait=0.0)
        wide = ipywidgets.Layout(width="360px")
        self.frame = ipywidgets.IntSlider(0, 0, length - 1, description="frame", layout=wide, tabbable=True)
        self.play = ipywidgets.Play(min=0, max=length - 1, interval=max(20, round(1000 / self.fps)), repeat=True)
        ipywidgets.jslink((self.play, "value"), (self.frame, "value"))
        self.overlay = ipywidgets.ToggleButtons(
            options=OVERLAYS, description="show", tooltips=["the frames", "distance from the first clip", "optical flow"],
        )  # fmt: skip
        self.key = ipywidgets.HTML()
        self.frame.observe(lambda _: self._paint(), "value")
        self.overlay.observe(lambda _: self._paint(), "value")
        cells = []
        for one, label in zip(self.pictures, self.labels, strict=True):
            one.add_class("svdlab-pixels")
            head = ipywidgets.HTML(said(label), layout=ipywidgets.Layout(width=f"{size[1]}px"))
            cells.append(ipywidgets.VBox([head, one]))
        board = ipywidgets.HBox(cells, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="12px"))
        foot = ipywidgets.HTML(said(self._foot))
        foot.add_class("svdlab-pale")
        super().__init__([board, ipywidgets.HBox([self.play, self.frame]), self.overlay, self.key, foot], out=out)
        self._paint()

    def _paint(self) -> None:
        """All pictures to the same frame; an overlay that is not there yet is made beside the kernel's other work."""
        which, t = self.overlay.value, self.frame.value
        if which not in self._drawn and which != "clip":
            self.key.value = said(f"working out the {which} …")
            self.draw(lambda: self._work_out(which))
            return
        films, key = self._made(which)
        for one, film, label in zip(self.pictures, films, self.labels, strict=True):
            at = min(t, len(film) - 1)
            put(one, film[at], f"{label}: {which}, frame {at}")
        self.key.value = said(key)

    def _work_out(self, which: str) -> None:
        try:
            self._made(which)
            if self.overlay.value == which:
                self._paint()
        except SvdlabError as error:
            self.key.value = warning(str(error))

    def _made(self, which: str) -> tuple[list[list[bytes]], str]:
        if which not in self._drawn:
            films, key = {"clip": self._clips, "difference": self._differences, "flow": self._flows}[which]()
            self._drawn[which] = [[picture(f) for f in film] for film in films], key
        return self._drawn[which]

    def _clips(self) -> tuple[list[Any], str]:
        return list(self.films), ""

    def _differences(self) -> tuple[list[Any], str]:
        """Mean over the colours of the distance from the first clip, as viridis; the first clip stays as it is."""
        first = self.films[0].astype(np.float32) / 255
        apart = []
        for film in self.films[1:]:
            n = min(len(film), len(first))
            apart.append(np.abs(film[:n].astype(np.float32) / 255 - first[:n]).mean(-1))
        if not apart:
            return list(self.films), "one clip: nothing to differ from"
        most = max(float(np.percentile(a, 99.5)) for a in apart) or 1.0
        shades = [matplotlib.colormaps["viridis"](np.clip(a / most, 0, 1))[..., :3].astype(np.float32) for a in apart]
        key = f"distance from {self.labels[0]}: dark is none, yellow is {number(round(most, 3))} of 1 or more"
        return [self.films[0], *shades], key

    def _flows(self) -> tuple[list[Any], str]:
        fields = [motion.flow(film) for film in self.films]
        most = max(0.5, max(float(np.percentile(np.linalg.norm(f, axis=-1), 99.5)) for f in fields))
        shades = [show.flow_colours(f, most) for f in fields]
        hues = "red is right, yellow up, green left, blue down"
        return shades, f"flow until the next frame: {hues}; full colour is {number(round(most, 2))} px per frame"

    # --- export -------------------------------------------------------------------------------------------------------

    def figure(self) -> Figure:
        source = self.clips if self._rows is None else self._rows
        return show.filmstrip(source, labels=self.labels, title=f"{len(self.films)} clips in step")

    def film(self) -> Video:
        source = self.clips if self._rows is None else self._rows
        return show.video(source, labels=self.labels, fps=self.fps)

    def plan(self) -> list[dict[str, Any]]:
        if self._rows is not None:
            return [row_of_run(row) for _, row in self._rows.iterrows()]
        return [row_of_clip(c) for c in self.clips if isinstance(c, Clip)]

    def view(self) -> dict[str, Any]:
        return {"widget": "compare", "labels": self.labels, "overlay": self.overlay.value, "frame": self.frame.value}


def _format(film: np.ndarray) -> str:
    return "png" if picture(film[0])[:4] == b"\x89PNG" else "jpeg"
