"""Video files of clips: `frames.mkv`, which loses nothing of the 8-bit frames, and `preview.mp4`, which a browser plays.

    >>> write_frames("frames.mkv", frames); (read_frames("frames.mkv") == as_bytes(frames)).all()
    True

mediapy does it, with the ffmpeg that comes inside imageio-ffmpeg's wheel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svdlab.errors import OutputError
from svdlab.measure.frames import as_frames
from svdlab.measure.provenance import mp4_arguments

PLAYBACK_FPS = 7.0  # for players, where a clip does not say: diffusers' default fps
PREVIEW_SIDE = 256  # px: smaller clips are enlarged by whole factors, or nobody would see what happens in them


def as_bytes(frames: Any) -> np.ndarray:
    """Frames "f h w c" in [0, 1] (or uint8 already) as uint8: what a video file holds of them."""
    array = np.asarray(frames)
    if array.dtype == np.uint8:
        return array
    return (as_frames(array, least=1) * 255 + 0.5).astype(np.uint8)


def write_frames(path: str | Path, frames: Any, *, playback_fps: float | None = None) -> None:
    """The frames as FFV1, bit for bit what `as_bytes` makes of them. Raises OutputError where that fails."""
    _write(path, as_bytes(frames), playback_fps, codec="ffv1", encoded_format="bgr0", ffmpeg_args="-threads 1")


def write_preview(
    path: str | Path, frames: Any, *, playback_fps: float | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """The frames as H.264 in yuv420p, which every browser plays; small clips enlarged by a whole factor, unsmoothed.

    facts: see `svdlab.provenance`; written as tags.
    """
    clip = as_bytes(frames)
    factor = max(1, math.ceil(PREVIEW_SIDE / min(clip.shape[1:3])))
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    clip = clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2]  # yuv420p takes even sides only
    # One thread, and the quick preset: encoding runs beside the denoising, and must not take its cores.
    tags = ["-movflags", "+faststart"] if facts is None else mp4_arguments(facts)
    extra = ["-preset", "veryfast", "-threads", "1", *tags]
    _write(path, clip, playback_fps, codec="h264", encoded_format="yuv420p", crf=18, ffmpeg_args=extra)


def read_frames(path: str | Path) -> np.ndarray:
    """All frames of a video file, uint8 "f h w c". Raises OutputError where it is missing or damaged."""
    try:
        return np.asarray(_mediapy().read_video(str(path)))
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"{path} cannot be read as a video: {error}") from error


def _write(path: str | Path, clip: np.ndarray, playback_fps: float | None, **how: Any) -> None:
    try:
        _mediapy().write_video(str(path), clip, fps=playback_fps or PLAYBACK_FPS, **how)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path} could not be written: {error}") from error


def _mediapy() -> Any:
    """Imported on first use: it brings matplotlib and IPython along, and takes a second."""
    import imageio_ffmpeg
    import mediapy

    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    return mediapy
