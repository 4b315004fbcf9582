"""Clips side by side: as a looping video, as a strip of frames, and a sweep as a contact sheet.

>>> show.video(clip)
>>> show.video([clip, clip], labels=["bucket 30", "bucket 200"]).save("results/compare.mp4")
>>> show.filmstrip([clip, clip])
>>> show.sheet(results, rows="motion_bucket_id", columns="fps", note="object_px")
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from svdlab.errors import InputError
from svdlab.measure import video as files
from svdlab.measure.files import write_whole
from svdlab.measure.video import as_frames
from svdlab.show.figure import GREY, INK, LABEL, WIDTH, Figure, broken, chosen, draw, facts_of, fitted, images, scaled
from svdlab.show.labels import axis, caption, name, number, ordered

CRF = 16  # of H.264: no visible loss


@dataclass
class Video:
    """A video that a notebook shows, looping; `save` writes it as MP4 (H.264, yuv420p, plays in every browser).

    frames: uint8 "f h w 3", labels included. fps: of the player. alt: what is to be seen, for those who cannot. facts: what
    its file says about itself, where a model made what it shows (see `svdlab.measure.video`).
    """

    frames: np.ndarray
    fps: float
    alt: str
    facts: dict[str, Any] = field(default_factory=dict)

    def mp4(self) -> bytes:
        """The bytes of an MP4 file."""
        return files.h264(self.frames, self.fps, crf=CRF, facts=self.facts)

    def save(self, path: str | Path) -> Path:
        """Write the MP4, whole or not at all, and beside it a .json of what it says about itself; returns its path.

        Raises OutputError where the folder cannot be written.
        """
        path = Path(path).with_suffix(".mp4")
        with write_whole(path) as part:
            part.write_bytes(self.mp4())
        if self.facts:
            files.write_sidecar(path, self.facts)
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        import mediapy  # slow: it brings pyplot along

        height, width = self.frames.shape[1:3]
        player = mediapy.html_from_compressed_video(self.mp4(), width, height)
        still = base64.b64encode(mediapy.compress_image(self.frames[-1])).decode()  # for viewers that show no videos
        bundle = {
            "text/html": player.replace("<video", f'<video aria-label="{escape(self.alt, quote=True)}"', 1),
            "image/png": still,
            "text/plain": f"<Video: {self.alt}, {len(self.frames)} frames at {self.fps:g} frames/s>",
        }
        return bundle, {"image/png": {"width": width, "height": height, "alt": self.alt}}


def video(
    clips: Any, *, labels: Sequence[str] | None = None, fps: float | None = None, columns: int = 4, title: str = ""
) -> Video:
    """One clip, or several side by side and in step, looping.

    >>> show.video(clip)
    >>> show.video({"slow": clip, "fast": clip.frames[::2]}, fps=7)

    clips: a Clip, frames "f h w c" in [0, 1] or uint8, a list of either, a dict from label to either, or rows of the table
    that `svdlab.sweep` returns. labels: by default the conditions of each. fps: of the player; default the clip's
    playback_fps, else the fps that it was conditioned on, else 7. A shorter clip waits on its last frame for the longest.
    Raises InputError for no clips, frames of different sizes, or labels of another number.
    """
    arrays, texts, one_by_one = named(clips, labels)
    rate = float(fps if fps is not None else rate_of(one_by_one[0]))
    if not rate > 0:
        raise InputError(f"fps={fps}: a player needs more than 0 frames per second.")
    columns = min(columns, len(arrays))
    size = fitted(arrays[0].shape[1:], columns=columns, most=640 if columns == 1 else 320)
    rows = -(-len(arrays) // columns)
    fig, axes = images(size=size, of=clips, title=title, row_labels=[""] * rows, column_labels=[""] * columns)
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(arrays))
        ax.set_title(broken(texts[i], LABEL, size[1]) if i < len(arrays) else "", fontsize=LABEL, color=INK, pad=3)
    canvas = FigureCanvasAgg(fig.finish())
    canvas.draw()
    board = np.asarray(canvas.buffer_rgba())[..., :3]  # at the screen's resolution
    movie = np.repeat(board[None], max(map(len, arrays)), axis=0)
    for ax, frames in zip(axes.flat, arrays, strict=False):
        box = ax.get_window_extent()
        top, left = len(board) - round(box.y1), round(box.x0)
        for t, shown in enumerate(movie):
            frame = scaled(frames[min(t, len(frames) - 1)], size)
            shown[top : top + size[0], left : left + size[1]] = (frame * 255).round()
    even = [(0, 0), (0, board.shape[0] % 2), (0, board.shape[1] % 2), (0, 0)]  # yuv420p halves both sides
    facts = facts_of(fig.sources, fig.footer, images=True)
    return Video(np.pad(movie, even, constant_values=255), rate, title or "; ".join(texts) or "clip", facts)


def filmstrip(
    clips: Any,
    *,
    labels: Sequence[str] | None = None,
    frames: Sequence[int] | None = None,
    given: bool = False,
    title: str = "",
) -> Figure:
    """Frames from left to right, a row for each clip.

    >>> show.filmstrip({"model": clip, "real": frames}, given=False)

    clips and labels: as in `show.video`. frames: which ones; default 8 of them, evenly spread, first and last included.
    given: begin with the image that each Clip was made from. Raises InputError for no clips, or a frame that a clip
    does not have.
    """
    arrays, texts, one_by_one = named(clips, labels)
    if given and not all(hasattr(c, "image") for c in one_by_one):
        raise InputError("given=True needs Clips, which know the image that they were made from.")
    shown = chosen(frames, min(map(len, arrays)), 8, "frame")
    alone = len(arrays) == 1
    columns = ["input"] * given + [f"frame {i}" for i in shown]
    size = fitted(arrays[0].shape[1:], columns=len(columns), width=WIDTH - (0 if alone else 6 * max(map(len, texts))))
    title = title or f"Frames {shown[0]} to {shown[-1]}" + (f": {texts[0]}" if alone and texts[0] else "")
    fig, axes = images(size=size, of=clips, title=title, row_labels=[""] if alone else texts, column_labels=columns)
    for row, clip, array in zip(axes, one_by_one, arrays, strict=True):
        inputs = [np.asarray(clip.image) / np.float32(255)] if given else []
        for ax, image in zip(row, [*inputs, *array[shown]], strict=True):
            draw(ax, scaled(image, size))
    return fig.finish(
        pd.DataFrame(
            {"clip": text, "frame": i} | mean_colour(array[i])
            for array, text in zip(arrays, texts, strict=True)
            for i in shown
        )
    )


def sheet(
    results: pd.DataFrame,
    *,
    rows: str,
    columns: str,
    frame: int = -1,
    note: str | None = None,
    clips: Sequence[Any] | None = None,
    title: str = "",
) -> Figure:
    """A sweep as a contact sheet: one frame of the clip at each pair of conditions, under shared labels.

    >>> show.sheet(results, rows="motion_bucket_id", columns="fps", note="object_px")
    >>> show.sheet(results.query("seed == 0"), rows="seed", columns="max_guidance_scale", frame=4)

    results: the table that `svdlab.sweep` returns, narrowed to one run a cell (of several, the first is shown).
    frame: number in each clip, negative from the end. note: a column whose value stands under each image.
    clips: in the table's order, instead of the ones on disk. A condition that was not run, or failed, is a blank cell
    that says so. Raises InputError for a column that the table lacks.
    """
    for column in filter(None, (rows, columns, note)):
        if column not in results.columns:
            raise InputError(f"no column {column!r}: the table has {', '.join(map(str, results.columns))}.")
    table = results.assign(_clip=range(len(results))).drop_duplicates([rows, columns])
    sources = list(results["frames"]) if clips is None else list(clips)
    arrays = {i: _frames(sources[i]) for i in table["_clip"]}
    shape = next((a.shape[1:] for a in arrays.values() if a is not None), None)
    if shape is None:
        raise InputError(f"none of the {len(table)} runs has frames: their status is {', '.join(table['status'].unique())}.")
    down, across = ordered(table[rows]), ordered(table[columns])
    size = fitted(shape, columns=len(across), width=860, most=240)
    which = {-1: "Last frame", 0: "First frame"}.get(frame, f"Frame {frame}")
    fig, axes = images(
        size=size,
        of=table,
        title=title or f"{which} by {name(rows)} and {name(columns)}" + (f", with {axis(note)}" if note else ""),
        row_labels=[number(v) for v in down],
        column_labels=[number(v) for v in across],
        row_title=axis(rows),
        column_title=axis(columns),
    )
    shown = []
    for (r, c), ax in np.ndenumerate(axes):
        hit = table[(table[rows] == down[r]) & (table[columns] == across[c])]
        array = None if hit.empty else arrays[hit["_clip"].iloc[0]]
        if array is None:
            text = "not run" if hit.empty else "failed"
            ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=LABEL, color=GREY)
            continue
        draw(ax, scaled(array[chosen(frame, len(array), 1, "frame")[0]], size))
        if note:
            value = hit[note].iloc[0]
            ax.set_xlabel("no value" if pd.isna(value) else number(value), fontsize=LABEL - 1, color=INK, labelpad=2)
        shown.append(hit)
    kept = [c for c in dict.fromkeys([rows, columns, note, "seed", "run_id"]) if c in results.columns]
    return fig.finish(pd.concat(shown)[kept], "first of several runs per cell" if len(table) < len(results) else "")


def named(clips: Any, labels: Sequence[str] | None) -> tuple[list[np.ndarray], list[str], list[Any]]:
    """Whatever names one clip or several, as frames "f h w 3" in [0, 1] of one size, labels, and a list of the clips."""
    if isinstance(clips, pd.DataFrame):
        rows = [row for _, row in clips.iterrows() if row.get("frames")]
        labels, clips = labels or [caption(row) for row in rows], [files.read_frames(row["frames"]) for row in rows]
    if isinstance(clips, dict):
        labels, clips = labels or [str(k) for k in clips], list(clips.values())
    clips = [clips] if hasattr(clips, "frames") or isinstance(clips, np.ndarray) else list(clips)
    if not clips:
        raise InputError("got no clip: give at least one.")
    texts = list(labels) if labels is not None else [caption(c) for c in clips]
    if len(texts) != len(clips):
        raise InputError(f"{len(texts)} labels for {len(clips)} clips: give one for each.")
    arrays = [as_frames(getattr(c, "frames", c)) for c in clips]
    if len(sizes := {a.shape[1:3] for a in arrays}) > 1:
        raise InputError(f"the clips have sizes {sorted(sizes)}: side by side they need one size.")
    return arrays, texts, clips


def rate_of(clip: Any) -> float:
    """Frames per second at which a clip is played."""
    conditions = getattr(clip, "conditions", None)
    rates = (getattr(conditions, key, None) for key in ("playback_fps", "fps"))
    return float(next(filter(None, rates), files.PLAYBACK_FPS))


def mean_colour(image: np.ndarray) -> dict[str, float]:
    """Mean red, green and blue of an image "h w 3"."""
    return dict(zip(("red", "green", "blue"), image.reshape(-1, 3).mean(0, dtype=float), strict=True))


def _frames(source: Any) -> np.ndarray | None:
    """Frames "f h w 3" in [0, 1] of a clip, an array, or the file that a run's row names; None for a run that has none."""
    if isinstance(source, str):
        return as_frames(files.read_frames(source)) if source else None
    return None if source is None or source is pd.NA else as_frames(getattr(source, "frames", source))
