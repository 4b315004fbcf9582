"""Clips side by side under one scrubber, with their differences and optical flow as overlays.

>>> svdlab.widgets.compare({"as generated": clip, "reversed": clip.frames[::-1]})
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
from svdlab.measure import motion
from svdlab.measure.video import as_bytes
from svdlab.pipeline.generate import Clip
from svdlab.show.clips import Video, named, rate_of
from svdlab.show.figure import Figure, fitted
from svdlab.show.labels import about, number
from svdlab.widgets.background import Latest
from svdlab.widgets.export import row_of_call, row_of_run
from svdlab.widgets.panel import ImageView, Panel, pale, put, status, still, wide, wrapping


def compare(
    clips: Any, *, labels: Sequence[str] | None = None, fps: float | None = None, out: str | Path = "results/exports"
) -> Comparison:
    """Clips in step: one scrubber for all, a play button, and two overlays.

    >>> compare([clip, clip.frames[::-1]])
    >>> compare(results.query("seed == 0"))

    clips, labels, fps: as in `show.video`. difference: the distance of each pixel from the first clip's in the same frame.
    flow: where each pixel goes until the next frame, on one scale for all. Raises InputError for no clips, or clips of
    different sizes.
    """
    return Comparison(clips, labels, fps, out)


class Comparison(Panel):
    """What `compare` returns. frame: the scrubber; overlay: clip, difference or flow; images: what is on screen."""

    kind = "compare"

    def __init__(self, clips: Any, labels: Sequence[str] | None, fps: float | None, out: str | Path) -> None:
        _, self.labels, self.clips = named(clips, labels)
        self._source = clips[clips["frames"].astype(bool)] if isinstance(clips, pd.DataFrame) else self.clips
        self.videos = [as_bytes(getattr(c, "frames", c)) for c in self.clips]
        self.fps = fps if fps is not None else rate_of(self.clips[0])
        self._drawn = {"clip": (_stills(self.videos), "")}
        self.draw = Latest(self.report, wait=0.0)
        last = max(map(len, self.videos)) - 1
        size = fitted(self.videos[0].shape[1:], columns=min(4, len(self.videos)), width=1000, most=340)
        self.images = [ImageView(width=str(size[1])) for _ in self.videos]
        for image in self.images:
            image.add_class("svdlab-pixels")
        heads = [ipywidgets.HTML(status(text), layout=ipywidgets.Layout(width=f"{size[1]}px")) for text in self.labels]
        self.frame = ipywidgets.IntSlider(0, 0, last, description="frame", **wide("360px"))
        self.play = ipywidgets.Play(min=0, max=last, interval=max(20, round(1000 / self.fps)), repeat=True)
        ipywidgets.jslink((self.play, "value"), (self.frame, "value"))
        self.overlay = ipywidgets.ToggleButtons(options=["clip", *OVERLAYS], description="show", tabbable=True)
        self.key = ipywidgets.HTML()
        for control in (self.frame, self.overlay):
            control.observe(lambda _: self._paint(), "value")
        board = wrapping(*(ipywidgets.VBox(cell) for cell in zip(heads, self.images, strict=True)))
        parts = [board, ipywidgets.HBox([self.play, self.frame]), self.overlay, self.key, pale(about(clips))]
        super().__init__(parts, out=out)
        self._paint()

    def _paint(self) -> None:
        """All images to the same frame; an overlay that is not there yet is computed on a thread."""
        which = self.overlay.value
        if which not in self._drawn:
            self.key.value = status(f"computing the {which} …")
            self.draw(lambda: self._compute(which))
            return
        stills, key = self._drawn[which]
        for image, video, label in zip(self.images, stills, self.labels, strict=True):
            at = min(self.frame.value, len(video) - 1)
            put(image, video[at], f"{label}: {which}, frame {at}")
        self.key.value = status(key)

    def _compute(self, which: str) -> None:
        videos, key = OVERLAYS[which](self.videos)
        self._drawn[which] = _stills(videos), key
        if self.overlay.value == which:
            self._paint()

    def figure(self) -> Figure:
        return show.filmstrip(self._source, labels=self.labels, title=f"{len(self.videos)} clips in step")

    def video(self) -> Video:
        return show.video(self._source, labels=self.labels, fps=self.fps)

    def plan(self) -> list[dict[str, Any]]:
        if isinstance(self._source, pd.DataFrame):
            return [row_of_run(row) for _, row in self._source.iterrows()]
        return [row_of_call(clip.call, clip.image) for clip in self.clips if isinstance(clip, Clip)]

    def view(self) -> dict[str, Any]:
        return {"labels": self.labels, "overlay": self.overlay.value, "frame": self.frame.value}


def _stills(videos: list[np.ndarray]) -> list[list[bytes]]:
    return [[still(frame) for frame in video] for video in videos]


def _differences(videos: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    """Mean over the colours of the distance from the first clip, as viridis; the first clip stays as it is."""
    first, *others = (video.astype(np.float32) / 255 for video in videos)
    if not others:
        return videos, "one clip: nothing to compare it with"
    apart = [np.abs(video[: len(first)] - first[: len(video)]).mean(-1) for video in others]
    most = max(float(np.percentile(a, 99.5)) for a in apart) or 1.0
    shades = [matplotlib.colormaps["viridis"](np.clip(a / most, 0, 1))[..., :3].astype(np.float32) for a in apart]
    return [videos[0], *shades], f"distance from the first clip: dark is none, yellow is {number(round(most, 3))} of 1 or more"


def _flows(videos: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    """Optical flow as colours, on one scale for all clips."""
    fields = [motion.flow(video) for video in videos]
    most = max(0.5, *(float(np.percentile(np.linalg.norm(field, axis=-1), 99.5)) for field in fields))
    key = f"red is right, yellow up, green left, blue down; full colour is {number(round(most, 2))} px/frame"
    return [show.flow_colours(field, most) for field in fields], f"flow until the next frame: {key}"


OVERLAYS = {"difference": _differences, "flow": _flows}
