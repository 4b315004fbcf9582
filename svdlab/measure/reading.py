"""Videos and images as frames: one reader for every format, which turns them upright and says what is odd about them.

    >>> frames = read_frames(clip.save("clip.mp4"))      # uint8 "f h w 3"
    >>> frames[distinct(frames)].dtype                   # without what a tool played twice
    dtype('uint8')

Animated WebP, GIF, PNG and AVIF are read by Pillow, the rest by imageio-ffmpeg's ffmpeg, which may open nothing but the file
itself.
"""

import math
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from svdlab import errors
from svdlab.errors import InputError, OutputError, takes, warn

LARGEST = 4 << 30  # bytes of frames that are read
FORMATS = ["PNG", "GIF", "WEBP", "JPEG", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else [])]  # AVIF: Pillow 11.3
UPPER = 16  # of 255: below it, colours of 16 bits have 12 or fewer, and those of 8 bits became 0
SHALLOW = "its colours have 16 bits, of which 12 or fewer are used, and would be dark or black: convert it to 8-bit RGB."
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# No playlists, which name other files; nothing of which ffmpeg gives a part without a word (FLV, Ogg, IVF, Y4M, MPEG-PS); no
# MPEG-TS, on which the ffmpeg of imageio-ffmpeg 0.7 crashes.
CONTAINERS = "mov,matroska,avi"


class VideoWarning(UserWarning):
    """A video whose frames do not follow each other at one rate, are interlaced, HDR or transparent, have oblong pixels, or
    come again."""


@takes(path=errors.path)
def read_frames(path: str | Path) -> np.ndarray:
    """Read all frames of a video, upright, as uint8 "f h w 3": the one reader of every format.

    >>> read_frames(clip.save("clip.mp4")).shape[-1]
    3

    path: an mkv, webm, mp4, mov or avi (by ffmpeg), an animated WebP, GIF, PNG or AVIF (by Pillow, transparency on
    white), or a folder of images in the order of their numbers. Warns (VideoWarning) where the time from frame to frame
    varies, so that no playback_fps gives px/s, where frames are interlaced, HDR or transparent or their pixels not square
    (they are given as they are stored), and where an animated image holds frames again (see `distinct`). Raises OutputError
    for what cannot be read, is damaged or cut short, and InputError for more than 4 GiB of frames. Files named in a file
    (playlists) are never opened.
    """
    path = Path(path)
    if path.is_dir():
        files = (p for p in path.iterdir() if p.suffix.lower() in IMAGES and p.name[0] != ".")  # ._x.png of a Mac
        ordered = sorted(
            files, key=lambda p: [(t.isdecimal(), int(t) if t.isdecimal() else 0, t) for t in re.split(r"(\d+)", p.name)]
        )
        images = [read_frames(p)[0] for p in ordered]
        if len({image.shape for image in images}) != 1:
            raise InputError(
                f"{str(path)!r} holds {len(images)} images, {'of different sizes' if images else 'no video'}: "
                "give a video, or a folder with a clip's frames as images of one size."
            )
        stack = np.stack(images)
        with Image.open(ordered[0], formats=FORMATS) as first:
            if deep(first) and stack.max() < UPPER:
                raise InputError(f"{str(path)!r}: {SHALLOW}")
        return stack
    if not path.is_file():
        raise OutputError(f"{str(path)!r} cannot be read as a video: {'it is no file' if path.exists() else 'no such file'}.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            frames, seconds = unpacked(image, repr(str(path)))
            if image.format == "GIF" and not path.read_bytes()[-64:].rstrip(b"\0").endswith(b";"):
                raise OutputError("it is cut short")
    except UnidentifiedImageError:
        frames = None
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise OSError, EOFError, SyntaxError, struct.error and more
        raise OutputError(f"{str(path)!r} cannot be read as a video: {' '.join(str(error).split())}.") from error
    animated, oddities = frames is not None, list[str]()
    if frames is None:
        frames, seconds, oddities = _decoded(path)
    for words in oddities:
        warn(f"{path.name}: {words}", VideoWarning)
    gaps = np.diff(seconds) * 1000
    if len(gaps) > 1 and gaps.max() - gaps.min() > 0.1 * np.median(gaps) + 1.01:  # containers round to a millisecond
        words = f"its frames follow each other after {gaps.min():.0f} to {gaps.max():.0f} ms"
        words += ": no playback_fps gives its px/s; px/frame are as they are."
        warn(f"{path.name}: {words}", VideoWarning)
    if animated and len(frames) > 2 and len(found := distinct(frames)) < len(frames):
        words = f"only {len(found)} of its {len(frames)} frames are distinct; frames[distinct(frames)] leaves the others out."
        warn(f"{path.name}: {words}", VideoWarning)
    return frames


def distinct(frames: Any) -> list[int]:
    """The numbers of the frames that repeat no earlier one; many tools play a clip twice, or back, within one file.

    >>> distinct(np.concatenate([clip.frames, clip.frames[1:]])) == list(range(len(clip.frames)))
    True

    A frame repeats another if it equals it, or, after a lossy codec, differs less (mean absolute difference) than two thirds
    of what the other differs from its own neighbours. A clip in which nothing moves has one distinct frame.
    """
    clip = np.asarray(getattr(frames, "frames", frames))
    if clip.ndim != 4 or 0 in clip.shape or clip.dtype.kind not in "uf":
        raise InputError(f'frames: got {clip.dtype} of shape {clip.shape}; give an array "f h w 3".')
    every = max(1, max(clip.shape[1:3]) // 128)
    small = clip[:, ::every, ::every].reshape(len(clip), -1).astype(np.float32)
    step = np.array([np.abs(b - a).mean() for a, b in pairwise(small)] or [0.0])
    near = np.minimum(np.append(step, np.inf), np.insert(step, 0, np.inf))[: len(small)] * 2 / 3
    found = [0]
    for i in range(1, len(small)):
        away = np.abs(small[:i] - small[i]).mean(1)
        if not (away == 0).any() and not (away < near[:i])[: i - 1].any():
            found.append(i)
    return found


def deep(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet has 16 bits of each colour, of which Pillow keeps the upper 8.

    >>> deep(Image.new("RGB", (64, 64)))
    False
    """
    return any(re.search(r"(RGB\w?|LA);16[BLN]", str(tile)) for tile in getattr(image, "tile", ()))


def unpacked(image: Image.Image, name: str) -> tuple[np.ndarray, list[float]]:
    """The frames of an image, upright, on white, and the seconds at which they are shown."""
    start, count = int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1)
    count = 1 if image.format == "MPO" else count  # a photograph with its preview
    if count * image.width * image.height * 3 > LARGEST:
        raise InputError(
            f"{name}: {count} frames of {image.width}x{image.height} px take more than 4 GiB: make it shorter or smaller."
        )
    frames, seconds = [], [0.0]
    for i in range(start, count):
        if count > 1:
            image.seek(i)
        one = ImageOps.exif_transpose(image)
        if one.mode[0] in "IF":
            raise InputError(
                f"{name}: an image of mode {one.mode} has no 8-bit colours: convert it, or give floats in [0, 1]."
            )
        if one.has_transparency_data:
            one = one.convert("RGBA")
            one = Image.alpha_composite(Image.new("RGBA", one.size, "white"), one)
        frames.append(np.asarray(one.convert("RGB")))
        seconds.append(seconds[-1] + float(image.info.get("duration", 0)) / 1000)
    return np.stack(frames), seconds[:-1]


def _decoded(path: Path) -> tuple[np.ndarray, list[float], list[str]]:
    """The frames of a video by ffmpeg, which turns them upright, the seconds at which they are shown, and what is odd."""
    with open(path, "rb") as file:
        head = file.read(12)
    said_size = int.from_bytes(head[4:8], "little")  # which ffmpeg does not compare with the file's
    if head[:4] == b"RIFF" and head[8:] == b"AVI " and 2**31 > said_size > path.stat().st_size - 8:
        raise OutputError(f"{str(path)!r} is damaged: it is cut short.")
    filters = "showinfo=checksum=0,settb=1,setpts=1000*N"  # times of its own, so that passthrough drops none
    words = ("-map", "0:V:0", "-vf", filters, "-fps_mode", "passthrough", "-fs", str(LARGEST))
    data, said = ffmpeg(path, *words, "-f", "rawvideo", "-pix_fmt", "rgb24", level="level+info")
    shown = re.findall(r"\] n: *\d+ pts:.*? pts_time:(\S+) .*? sar:(\S+) s:(\d+)x(\d+) i:(\w)", said)
    if len(data) >= LARGEST:
        raise InputError(f"{str(path)!r} has more than 4 GiB of frames: make it shorter or smaller.")
    sizes, times = {s[2:4] for s in shown}, [float(s[0]) if s[0] != "NOPTS" else math.nan for s in shown]
    if len(sizes) > 1:
        raise OutputError(
            f"{str(path)!r} changes its size: {', '.join(sorted(map('x'.join, sizes)))} px; frames have one size."
        )
    w, h = map(int, next(iter(sizes), ("0", "0")))
    wrong = re.findall(r"\[(?:error|fatal)\] (.*)", said)
    if wrong or not shown or len(data) != len(shown) * h * w * 3:
        raise OutputError(f"{str(path)!r} is damaged: {wrong[0].rstrip('.') if wrong else 'its frames are not whole'}.")
    odd = []
    if shapes := {s[1] for s in shown} - {"0/1", "1/1"}:
        odd.append(f"its pixels are not square ({min(shapes)}), and frames are as stored: scale it to square pixels first.")
    if {s[4] for s in shown} & {"T", "B"}:
        odd.append("its frames are interlaced, two moments in one: deinterlace it first (ffmpeg -vf yadif).")
    if re.search(r" color_trc:(smpte2084|arib-std-b67)", said):
        odd.append("it is HDR, and frames are without tone mapping, paler than on a screen: convert it to SDR (BT.709) first.")
    if re.search(r" fmt:(yuva|gbrap|rgba|argb|bgra|abgr|ya\d)|alpha_mode *: 1", said):
        odd.append("it has transparency, and frames are without it: lay it on a background first.")
    return np.frombuffer(data, np.uint8).reshape(-1, h, w, 3).copy(), times, odd


def ffmpeg(path: str | Path, *arguments: str, level: str = "error") -> tuple[bytes, str]:
    """What ffmpeg makes of a file, and what it says. It opens that file alone, as one of CONTAINERS."""
    import imageio_ffmpeg

    command = ["-nostdin", "-nostats", "-v", level, "-format_whitelist", CONTAINERS]
    command += ["-protocol_whitelist", "file", "-i", f"file:{path}", *arguments, "-"]
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), *command]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{str(path)!r} cannot be read: ffmpeg does not start ({error}): `svdlab doctor` looks for it."
        ) from error
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        why = re.findall(r"\[(?:error|fatal)\] (.*)", said) or said.split("\n")
        why = ["it is no video of a kind that is read: convert it to .mkv or .mp4"] if "not on whitelist" in said else why
        why = ["it holds no video"] if "0:V:0' matches no streams" in said else why
        why = [f"ffmpeg crashed on it (signal {-done.returncode}): convert it to .mkv or .mp4"] if done.returncode < 0 else why
        raise OutputError(f"{str(path)!r} cannot be read as a video: {' '.join(why[0].split())[:200].rstrip('.')}.")
    return done.stdout, said
