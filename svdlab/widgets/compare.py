"""Clips side by side under one scrubber, with their differences and optical flow as overlays."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd

from svdlab import errors, show
from svdlab.errors import InputError, path, shown, takes
from svdlab.measure import motion
from svdlab.measure.video import as_bytes
from svdlab.pipeline.generate import Clip
from svdlab.show.clips import Video, named, rate_of
from svdlab.show.figure import Figure, fitted
from svdlab.show.labels import about, number
from svdlab.show.motion import LOST, rim
from svdlab.widgets.panel import (
    Panel,
    checked,
    control,
    follow,
    pale,
    player,
    row_of_call,
    rows_of_runs,
    status,
    stills,
    webp,
    with_files,
    wrapping,
)


def _clips(name: str, value: Any) -> Any:
    """Clips in a form that `show.clips.named` reads; a table has no empty cell among its files."""
    if isinstance(value, pd.DataFrame):
        return with_files(name, value)
    if isinstance(value, (str, os.PathLike)):
        return [errors.path(name, value)]
    if not isinstance(value, (Mapping, list, tuple, np.ndarray)) and not hasattr(value, "frames"):
        raise InputError(f"{name}={shown(value)}: give a clip, several, a dict of them by label, or rows of a sweep's table.")
    return value


class Comparison(Panel):
    """Clips in step: one scrubber for all, a play button, and two overlays.

    >>> svdlab.widgets.compare({"as generated": clip, "reversed": clip.frames[::-1]})
    >>> svdlab.widgets.compare(results.query("seed == 0"))

    clips: as in `show.video`; a dict's keys are their labels. frame: the scrubber. overlay: clip; difference, the distance of
    each pixel from the first clip's in the same frame; flow, where each pixel goes until the next frame, on one scale for
    all. images: what is on screen. Raises InputError for no clips, or clips of different sizes.
    """

    @takes(clips=_clips, out=path)
    def __init__(self, clips: Any, *, out: str | Path = "results/exports") -> None:
        if isinstance(clips, pd.DataFrame):
            clips = clips[clips["frames"] != ""]
            clips = clips.assign(frames=[str(checked(place)) for place in clips["frames"]])
        frames, self.labels, self.clips = named(clips)
        self._source = clips if isinstance(clips, pd.DataFrame) else self.clips
        self.videos = [as_bytes(video) for video in frames]
        self._drawn: dict[str, tuple[list[str], str]] = {}
        size = fitted(self.videos[0].shape[1:], columns=min(4, len(self.videos)), width=1000, most=340)
        self.width, self.images = size[1], [ipywidgets.HTML().add_class("svdlab-columns") for _ in self.videos]
        heads = [ipywidgets.HTML(status(text)) for text in self.labels]
        narrow = ipywidgets.Layout(width=f"{size[1] + 4}px", max_width="100%")
        board = wrapping(*(ipywidgets.VBox(cell, layout=narrow) for cell in zip(heads, self.images, strict=True)))
        last = max(map(len, self.videos)) - 1
        self.frame = control(ipywidgets.IntSlider, "frame", lambda: None, max=last)
        self.overlay = control(ipywidgets.ToggleButtons, "show", self._paint, width=None, options=list(OVERLAYS))
        self.key = ipywidgets.HTML()
        played = player(self.frame, max(20, 1000 / rate_of(self.clips[0])))
        super().__init__([wrapping(played, self.overlay), self.key, board, pale(about(clips))], out=out)
        follow(self, column=self.frame)
        self._compute("clip")

    def _paint(self) -> None:
        """All frames of what is chosen; an overlay that is not there yet is computed on a thread."""
        which = self.overlay.value
        if which not in self._drawn:
            self.key.value = status(f"computing the {which} …")
            self.draw(lambda: self._compute(which))
            return
        views, key = self._drawn[which]
        for image, view in zip(self.images, views, strict=True):
            image.value = view
        self.key.value = status(key)

    def _compute(self, which: str) -> None:
        videos, key = OVERLAYS[which](self.videos)
        self._drawn[which] = [self._stills(*each, which) for each in zip(videos, self.labels, strict=True)], key
        self._paint()

    def _stills(self, video: np.ndarray, label: str, which: str) -> str:
        """A clip's frames; one that ends before the others stays at its last."""
        at = [min(i, len(video) - 1) for i in range(self.frame.max + 1)]
        frames = [webp(frame[None]) for frame in video]
        return stills([frames[i] for i in at], lambda i: f"{label}: {which}, frame {at[i]}", self.width)

    def figure(self) -> Figure:
        return show.filmstrip(self._source, labels=self.labels, title=f"{len(self.videos)} clips in step")

    def video(self) -> Video:
        return show.video(self._source, labels=self.labels)

    def plan(self) -> list[dict[str, Any]]:
        if isinstance(self._source, pd.DataFrame):
            return rows_of_runs(self._source)
        return [row_of_call(clip.call, clip.image) for clip in self.clips if isinstance(clip, Clip)]


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
    found = [motion.both_ways(video) for video in videos]
    most = max(rim(both.forward, both.visible) for both in found)
    key = f"red is right, yellow up, green left, blue down; full colour is {number(round(most, 2))} px/frame"
    colours = [np.where(both.visible[..., None], show.flow_colours(both.forward, most), LOST) for both in found]
    return colours, f"flow until the next frame: {key}; grey is lost by the flow"


OVERLAYS = {"clip": lambda videos: (videos, ""), "difference": _differences, "flow": _flows}
