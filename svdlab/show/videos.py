"""Clips as looping films, side by side and in step, each under the label of what made it.

>>> show.video(clip)
>>> show.video([slow, fast], labels=["bucket 30", "bucket 200"]).save("results/compare.mp4")
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import matplotlib
import mediapy
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from svdlab.errors import InputError, OutputError
from svdlab.measure.frames import as_frames
from svdlab.measure.video import read_frames, tag_mp4, write_sidecar
from svdlab.show.provenance import about, caption, marks
from svdlab.show.style import fitted, scaled

mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
DEFAULT_FPS = 7.0
STRIP, GAP, TYPE = 20, 8, 12  # px: a label's height, the space between films, the size of the letters


@dataclass
class Video:
    """A film that a notebook shows, looping; `save` writes it as MP4 (H.264, yuv420p, plays in every browser).

    frames: uint8 "f h w 3", labels included. fps: of the player. alt: what is to be seen, for those who cannot. facts: what
    its file says about itself, where a model made what it shows (see `svdlab.measure.video`).
    """

    frames: np.ndarray
    fps: float
    alt: str
    facts: dict[str, Any] = field(default_factory=dict)

    def mp4(self) -> bytes:
        return mediapy.compress_video(self.frames, codec="h264", encoded_format="yuv420p", fps=self.fps, crf=16)

    def save(self, path: str | Path) -> Path:
        """Write the MP4, whole or not at all, and beside it a .json of what it says about itself; raises OutputError where the
        folder cannot be written."""
        path = Path(path).with_suffix(".mp4")
        part = path.with_name(f".{path.stem}.part.mp4")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(self.mp4())
            if self.facts:
                tag_mp4(part, self.facts)
                write_sidecar(path, self.facts)
            os.replace(part, path)
        except OSError as error:
            raise OutputError(f"{path} could not be written: {error}. Choose a folder that you may write to.") from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        height, width = self.frames.shape[1:3]
        data = base64.b64encode(self.mp4()).decode()
        html = (
            f'<video width="{width}" height="{height}" style="max-width:100%;height:auto" controls loop autoplay muted '
            f'playsinline aria-label="{escape(self.alt, quote=True)}">'
            f'<source src="data:video/mp4;base64,{data}" type="video/mp4"></video>'
        )
        still = io.BytesIO()  # for viewers that show no films
        Image.fromarray(self.frames[-1]).save(still, "PNG")
        bundle = {
            "text/html": html,
            "image/png": base64.b64encode(still.getvalue()).decode(),
            "text/plain": f"<Video: {self.alt}, {len(self.frames)} frames at {self.fps:g} a second>",
        }
        return bundle, {"image/png": {"width": width, "height": height, "alt": self.alt}}


def video(
    clips: Any, *, labels: Sequence[str] | None = None, fps: float | None = None, columns: int = 4, title: str = ""
) -> Video:
    """One clip, or several side by side and in step, looping.

    >>> show.video(clip)
    >>> show.video({"slow": slow, "fast": fast}, fps=7)

    clips: a Clip, frames "f h w c" in [0, 1] or uint8, a list of either, a dict from label to either, or rows of the
    table that `svdlab.sweep` returns. labels: by
    default the conditions of each. fps: of the player; default the clip's playback_fps, else the fps that it was
    conditioned on, else 7. A shorter clip waits on its last frame for the longest. Raises InputError for no clips,
    frames of different sizes, or labels of another number.
    """
    foot = about(clips)
    clips, labels = named(clips, labels)
    films = [as_frames(getattr(c, "frames", c)) for c in clips]
    if len({f.shape[1:] for f in films}) > 1:
        raise InputError(f"the clips have sizes {sorted({f.shape[1:3] for f in films})}: films in step need one size.")
    rate = fps if fps is not None else rate_of(clips[0])
    if not rate > 0:
        raise InputError(f"fps={fps}: a player needs more than 0 frames per second.")
    columns = min(columns, len(films))
    size = fitted(films[0].shape[1:], columns=columns, most=640 if columns == 1 else 320)
    heads = [_label(text, size[1]) for text in labels]
    head_height = max(len(h) for h in heads)
    length = max(len(f) for f in films)
    rows = -(-len(films) // columns)
    tall, wide = head_height + size[0] + GAP, size[1] + GAP
    note = _label(foot, columns * wide - GAP, grey=True) if foot else np.zeros((0, columns * wide - GAP, 3), np.uint8)
    head = _label(title, columns * wide - GAP) if title else np.zeros((0, columns * wide - GAP, 3), np.uint8)
    board = np.full((length, len(head) + rows * tall + len(note), columns * wide - GAP, 3), 255, np.uint8)
    board[:, : len(head)] = head
    for i, (film, strip) in enumerate(zip(films, heads, strict=True)):
        top, left = len(head) + i // columns * tall, i % columns * wide
        board[:, top : top + len(strip), left : left + size[1]] = strip
        top += head_height
        for t in range(length):
            frame = scaled(film[min(t, len(film) - 1)], size)
            board[t, top : top + size[0], left : left + size[1]] = (frame * 255).round()
    if len(note):
        board[:, -len(note) :] = note
    even = [(0, 0), (0, board.shape[1] % 2), (0, board.shape[2] % 2), (0, 0)]  # yuv420p halves both sides
    alt = title or "; ".join(labels) or "clip"
    return Video(np.pad(board, even, constant_values=255), float(rate), alt, marks(foot, pictures=True))


def named(clips: Any, labels: Sequence[str] | None) -> tuple[list[Any], list[str]]:
    """Whatever names one clip or several, as a list of them and a list of labels."""
    if isinstance(clips, pd.DataFrame):
        rows = [row for _, row in clips.iterrows() if row.get("frames")]
        labels, clips = labels or [caption(row) for row in rows], [read_frames(row["frames"]) for row in rows]
    if isinstance(clips, dict):
        labels, clips = labels or [str(k) for k in clips], list(clips.values())
    one = hasattr(clips, "frames") or isinstance(clips, np.ndarray)
    clips = [clips] if one else list(clips)
    if not clips:
        raise InputError("got no clip: give at least one.")
    texts = list(labels) if labels is not None else [caption(c) for c in clips]
    if len(texts) != len(clips):
        raise InputError(f"{len(texts)} labels for {len(clips)} clips: give one for each.")
    return clips, texts


def rate_of(clip: Any) -> float:
    conditions = getattr(clip, "conditions", None)
    return float(getattr(conditions, "playback_fps", None) or getattr(conditions, "fps", None) or DEFAULT_FPS)


def _label(text: str, width: int, *, grey: bool = False) -> np.ndarray:
    """Text in lines of at most `width` px, as a picture uint8 "h w 3"."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), TYPE - 2 * grey)
    lines = [""]
    for word in text.split():
        tried = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(tried) > width:
            lines.append(word)
        else:
            lines[-1] = tried
    height = (STRIP - 4 * grey) * len(lines) if text else 0
    strip = Image.new("RGB", (width, height), "white")
    if text:
        spacing = STRIP - TYPE - 2
        ImageDraw.Draw(strip).multiline_text((1, 1), "\n".join(lines), "#767676" if grey else "#222222", font, spacing=spacing)
    return np.asarray(strip)
