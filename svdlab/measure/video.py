"""A clip's frames, video files of them, and what an image or video file says about the model that made it.

    >>> as_frames([image, image]).shape[-1]                          # one check, shared by everything that measures
    3
    >>> write_frames("frames.mkv", clip.frames)                      # FFV1: the 8-bit frames, bit for bit
    >>> facts = describe(clip.call.asdict(), run_id="3f2a")
    >>> write_preview("preview.mp4", clip.frames, facts=facts)       # H.264: what a browser plays
    >>> read_tags("preview.mp4")["DigitalSourceType"]
    'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia'

A PNG gets an XMP packet with the IPTC terms for media made by a trained model (IPTC Photo Metadata Standard 2025.1) and PNG's
own texts; an MP4 gets container tags, and a JSON file beside it, because many players and sites drop tags. Files are written
whole or not at all, encoded by mediapy with imageio-ffmpeg's ffmpeg; an OutputError names what could not be written or read.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from svdlab import __version__
from svdlab.errors import InputError, OutputError
from svdlab.measure.files import plain, write_whole

SLACK = 1e-3  # rounding of a decoder around 0 and 1, which is clipped
SMALLEST = 16  # px: below that neither flow nor SSIM has a neighbourhood to look at
PLAYBACK_FPS = 7.0  # for players, where a clip does not say: diffusers' default fps
PREVIEW_SIDE = 256  # px: smaller clips are enlarged by whole factors, or nobody would see what happens in them

TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPE = f"{TERMS}trainedAlgorithmicMedia"
FIGURE_TYPE = f"{TERMS}compositeWithTrainedAlgorithmicMedia"  # drawn around images that a model made
GRAPH_TYPE = f"{TERMS}dataDrivenMedia"  # drawn from numbers alone
USE = "Acceptable use: https://stability.ai/use-policy"
SVD_1_1 = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
ATTRIBUTION = (  # asked for by the licence of SVD 1.1
    "This Stability AI Model is licensed under the Stability AI Non-Commercial Research Community License, "
    "Copyright (c) Stability AI Ltd. All Rights Reserved."
)
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool="{encoded_by}"
    Iptc4xmpExt:DigitalSourceType="{DigitalSourceType}" Iptc4xmpExt:AISystemUsed="{AISystemUsed}"
    Iptc4xmpExt:AISystemVersionUsed="{AISystemVersionUsed}">
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{comment}</rdf:li></rdf:Alt></dc:description>
   <dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{copyright}</rdf:li></rdf:Alt></dc:rights>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
PNG_NAMES = {"Software": "encoded_by", "Description": "comment", "Copyright": "copyright", "svdlab": "svdlab"}


def as_frames(frames: Any, *, least: int = 2) -> np.ndarray:
    """Check a clip and return it as float32 "f h w 3" in [0, 1].

    >>> as_frames(np.zeros((25, 576, 1024, 3), np.uint8)).dtype
    dtype('float32')

    frames: floats in [0, 1], kept as they are, or uint8, divided by 255; RGB, or grey "f h w" or "f h w 1", repeated to three
    channels; as an array, a CPU tensor, or a list of arrays or PIL images. Raises InputError for anything else: fewer than
    `least` frames, mixed sizes, NaN or infinity, floats outside [0, 1], a side under 16 px.
    """
    if isinstance(frames, (list, tuple)):
        frames = [np.asarray(f) for f in frames]
        if len({f.shape for f in frames}) > 1:
            raise InputError("got frames of different shapes: the frames of a clip have one size.")
    array = np.asarray(frames)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        array = array[..., None]
    floats = np.issubdtype(array.dtype, np.floating) and array.size > 0
    low, high = (float(array.min()), float(array.max())) if floats else (0.0, 255.0)
    fits = array.ndim == 4 and array.shape[-1] in (1, 3) and len(array) >= least and min(array.shape[1:3]) >= SMALLEST
    if not fits or not (array.dtype == np.uint8 or (floats and low >= -SLACK and high <= 1 + SLACK)):  # False for NaN
        raise InputError(
            f"got {array.dtype} of shape {array.shape}{f', from {low:.3g} to {high:.3g}' if floats else ''}; "
            f'frames are "f h w c": {least} or more, {SMALLEST} px or more each way, RGB last, floats in [0, 1] or uint8.'
        )
    if not floats:
        array = array.astype(np.float32) / 255
    elif low < 0 or high > 1:
        array = np.clip(array, 0, 1)
    array = array.astype(np.float32, copy=False)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def as_image(image: Any, size: tuple[int, ...] | None = None) -> np.ndarray:
    """Check one image and return it as float32 "h w 3" in [0, 1]; the rules are those of `as_frames`.

    size: the "h w" that it needs; InputError for another.
    """
    array = np.asarray(image)
    array = as_frames(array[None] if array.ndim in (2, 3) else array, least=1)[0]
    if size is not None and array.shape[:2] != tuple(size[:2]):
        raise InputError(f"got an image of {array.shape[:2]} (h, w), and {tuple(size[:2])} is needed: bring both to one size.")
    return array


def as_bytes(frames: Any) -> np.ndarray:
    """Frames "f h w c" in [0, 1] (or uint8 already) as uint8: what a video file holds of them."""
    array = np.asarray(frames)
    return array if array.dtype == np.uint8 else (as_frames(array, least=1) * 255 + 0.5).astype(np.uint8)


def write_frames(path: str | Path, frames: Any, *, playback_fps: float | None = None) -> None:
    """Write the frames as FFV1, bit for bit what `as_bytes` makes of them."""
    with write_whole(path) as part:
        _encode(part, as_bytes(frames), playback_fps, codec="ffv1", encoded_format="bgr0", ffmpeg_args=["-threads", "1"])


def write_preview(
    path: str | Path, frames: Any, *, playback_fps: float | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """Write the frames as H.264 in yuv420p, which every browser plays; small clips are enlarged by a whole factor."""
    clip = as_bytes(frames)
    factor = max(1, math.ceil(PREVIEW_SIDE / min(clip.shape[1:3])))
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    clip = clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2]  # yuv420p takes even sides only
    # One thread, and the quick preset: encoding runs beside the denoising, and must not take its cores.
    data = h264(clip, playback_fps, facts=facts, arguments=["-preset", "veryfast", "-threads", "1"])
    with write_whole(path) as part:
        part.write_bytes(data)


def h264(frames: np.ndarray, fps: float | None = None, *, crf: int = 18, facts: Any = None, arguments: Any = ()) -> bytes:
    """Frames "f h w 3", uint8 or uint16, as the bytes of an MP4: yuv420p where both sides are even, else yuv444p.

    >>> h264(as_bytes(clip.frames), fps=7)[4:8]
    b'ftyp'

    facts: see `describe`; written as tags. arguments: more of ffmpeg's.
    """
    words = [*arguments, "-movflags", "+faststart+use_metadata_tags"]
    for key, text in _texts(facts).items() if facts else ():
        words += ["-metadata", f"{key}={text}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        _encode(path, frames, fps, codec="h264", crf=crf, ffmpeg_args=words)
        return path.read_bytes()


def _encode(path: Path, frames: np.ndarray, fps: float | None, **how: Any) -> None:
    import imageio_ffmpeg
    import mediapy

    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    try:
        mediapy.write_video(path, frames, fps=fps or PLAYBACK_FPS, **how)
    except RuntimeError as error:
        raise OutputError(f"{path.name} could not be encoded: {error}") from error


def read_frames(path: str | Path) -> np.ndarray:
    """Read all frames of a video file, uint8 "f h w 3"."""
    # PPM says its own size in each frame's header: "P6\n{w} {h}\n255\n"
    data = _ffmpeg(path, "-map", "0:v:0", "-fps_mode", "vfr", "-f", "image2pipe", "-vcodec", "ppm")
    try:
        w, h = map(int, data[:64].split(b"\n", 3)[1].split())
        frames = np.frombuffer(data, np.uint8).reshape(-1, len(f"P6\n{w} {h}\n255\n") + h * w * 3)
    except (IndexError, ValueError) as error:
        raise OutputError(f"{path} cannot be read as a video: {error}") from error
    return frames[:, -h * w * 3 :].reshape(-1, h, w, 3)


def _ffmpeg(path: str | Path, *arguments: str) -> bytes:
    """What ffmpeg makes of a file."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), *arguments, "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise OutputError(f"{path} cannot be read as a video: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def licence_line(repo_id: str | None, card: Mapping[str, Any]) -> str:
    """What a checkpoint's licence asks to be said, from its hub id and the header of its model card; "" where neither says.

    >>> licence_line(None, {"license": "apache-2.0"})
    'apache-2.0'
    """
    name = str(card.get("license_name") or card.get("license") or "")
    page = f"https://huggingface.co/{repo_id}" if repo_id else "the model card beside the weights"
    if repo_id == SVD_1_1 or name.startswith("stable-video-diffusion-1-1"):
        return f"{ATTRIBUTION} {USE}"
    if (repo_id or "").startswith("stabilityai/") or name.startswith("stable-video-diffusion"):
        return f"Stability AI's licence{f' {name}' if name else ''}: see {page}. {USE}"
    return f"a licence of its own: see {page}" if name == "other" else name


@cache
def show_licence(checkpoint: str, licence: str) -> None:
    """Print a checkpoint's licence line to stderr, once in a process."""
    if licence:
        print(f"{checkpoint}: {licence}", file=sys.stderr)


def notice() -> str:
    """The text of NOTICE, which goes with everything that is exported."""
    try:
        text = metadata.distribution("svdlab").read_text("licenses/NOTICE")
    except metadata.PackageNotFoundError:
        text = None
    return text or (Path(__file__).parents[2] / "NOTICE").read_text()


def describe(call: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What a file says about what made it: the entries of a clip's `call.asdict()` and your own; empty ones are left out.

    >>> describe({"seed": 0, "source": {"checkpoint": "owner/name"}}, run_id="3f2a")["seed"]
    0

    Used by name: `source` (its `checkpoint`, `revision` or `weights_hash`, `label`, `licence`), `run_id`, `seed`, and
    `description`, which replaces the sentence made of those. Tokens, paths of images and names of people are not among them.
    """
    facts = {"DigitalSourceType": SOURCE_TYPE, "generator": f"svdlab {__version__}", **(call or {}), **more}
    return {key: plain(value) for key, value in facts.items() if value not in (None, "", {}, [], ())}


def png_info(facts: Mapping[str, Any]) -> PngInfo:
    """Texts for a PNG, for Pillow's `save(pnginfo=)` and matplotlib's `savefig(pil_kwargs={"pnginfo": ...})`."""
    info, texts = PngInfo(), _texts(facts)
    info.add_itxt("XML:com.adobe.xmp", XMP.format_map({k: escape(text, {'"': "&quot;"}) for k, text in texts.items()}))
    for name, key in PNG_NAMES.items():
        if texts[key]:
            info.add_itxt(name, texts[key])
    return info


def write_sidecar(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write the facts as JSON beside a file, under its name with .json added."""
    with write_whole(f"{path}.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n")


def read_tags(path: str | Path) -> dict[str, Any]:
    """What a PNG or MP4 says about itself; {} where it says nothing."""
    try:
        if Path(path).suffix.lower() == ".png":
            with Image.open(path) as image:
                return dict(json.loads(image.info.get("svdlab", "{}")))
        lines = _ffmpeg(path, "-f", "ffmetadata").decode().replace("\\\n", "\n").splitlines()
        text = next((line.partition("=")[2] for line in lines if line.startswith("svdlab=")), "{}")
        return dict(json.loads(re.sub(r"\\([=;#\\])", r"\1", text)))  # ffmetadata escapes these
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """What every container says, by the names that an MP4 gives to it."""
    source = {"checkpoint": "unknown"} | dict(facts.get("source", {}))
    revision = source.get("revision") and f"revision {source['revision']}"
    parts = [f"Made by a generative model: {source['checkpoint']}", revision, source.get("label")]
    parts += [f"{word} {facts[key]}" for word, key in (("run", "run_id"), ("seed", "seed")) if key in facts]
    texts = {
        "encoded_by": facts.get("generator"),
        "DigitalSourceType": facts.get("DigitalSourceType", SOURCE_TYPE),
        "AISystemUsed": source["checkpoint"],
        "AISystemVersionUsed": source.get("revision") or source.get("weights_hash"),
        "comment": facts.get("description") or ", ".join(filter(None, parts)),
        "copyright": source.get("licence"),
        "svdlab": json.dumps(facts),
    }
    return {key: str(text or "") for key, text in texts.items()}
