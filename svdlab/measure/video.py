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

import base64
import html
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from svdlab import __version__, errors
from svdlab.errors import COUNT, InputError, OutputError, SvdlabError, number, takes, whole
from svdlab.measure.files import exported, plain, write_whole
from svdlab.measure.reading import VideoWarning, distinct, ffmpeg, unpacked  # noqa: F401
from svdlab.measure.reading import read_frames as read_frames

SLACK = 1e-3  # rounding of a decoder around 0 and 1, which is clipped
SMALLEST = 16  # px: below that neither flow nor SSIM has a neighbourhood to look at
PLAYBACK_FPS = 7.0  # for players, where a clip does not say: diffusers' default fps
FORM = f'frames are "f h w 3", RGB last, {SMALLEST} px or more each way, floats in [0, 1] or uint8;'
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
UNFIT = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # control characters, and what XML cannot hold
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(?<!\.safetensors)|[^\\/]*")  # what is no path on this computer
PNG_NAMES = {"Software": "encoded_by", "Description": "comment", "Copyright": "copyright", "svdlab": "svdlab"}


@takes(least=COUNT)
def as_frames(frames: Any, *, least: int = 2, name: str = "frames") -> np.ndarray:
    """Check a clip and return it as float32 "f h w 3" in [0, 1].

    >>> as_frames(np.zeros((25, 576, 1024, 3), np.uint8)).dtype
    dtype('float32')

    frames: floats in [0, 1], kept as they are, or uint8, divided by 255; RGB, or grey "f h w" or "f h w 1", repeated to three
    channels; as an array, a tensor of torch, a list of arrays, PIL images or image files, a Clip, or the path of a video (see
    `read_frames`). Raises InputError, which names the argument, for anything else: fewer than `least` frames, mixed sizes, NaN
    or infinity, floats outside [0, 1], a side under 16 px.
    """
    array = _pixels(name, _array(name, frames), least)
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    array = array.astype(np.float32, copy=False)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


@takes(size=lambda name, value: SIZE(name, value))
def as_image(image: Any, size: tuple[int, ...] | None = None, *, name: str = "image") -> np.ndarray:
    """Check one image and return it as float32 "h w 3" in [0, 1]; the rules are those of `as_frames`.

    size: the "h w" that it needs; InputError for another, and for more than one frame.
    """
    array = _array(name, image)
    if array.ndim == 4 and len(array) > 1:
        raise InputError(f"{name} is a clip of {len(array)} frames: give one image, such as frames[0].")
    array = as_frames(array[None] if array.ndim in (2, 3) else array, least=1, name=name)[0]
    if size is not None and array.shape[:2] != tuple(size[:2]):
        raise InputError(
            f"{name} is an image of {array.shape[:2]} (h, w), and {tuple(size[:2])} is needed: bring both to one size."
        )
    return array


def as_bytes(frames: Any) -> np.ndarray:
    """Frames "f h w c" in [0, 1] (or uint8 already) as uint8: what a video file holds of them."""
    array = _pixels("frames", _array("frames", frames), least=1)
    if array.dtype != np.uint8:
        array = (as_frames(array, least=1) * 255 + 0.5).astype(np.uint8)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def _array(name: str, value: Any) -> np.ndarray:
    """Frames in any of their forms as an array, whatever its dtype and shape."""
    value = getattr(value, "frames", value)
    if isinstance(value, (str, os.PathLike)):
        return read_frames(errors.path(name, value))
    try:
        if isinstance(value, Image.Image):
            return unpacked(value, name)[0]
        if isinstance(value, (list, tuple)):
            value = [f if isinstance(f, (list, tuple)) else _array(f"{name}[{i}]", f) for i, f in enumerate(value)]
            value = [f[0] if np.ndim(f) == 4 and len(f) == 1 else np.asarray(f) for f in value]
            if len({(f.shape, f.dtype.kind) for f in value}) > 1:
                raise InputError(f"{name} has frames of different shapes or dtypes: the frames of a clip have one size.")
        if hasattr(value, "is_floating_point"):  # torch's, which nothing here imports
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() else value).numpy()
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        if isinstance(error, SvdlabError):
            raise
        raise InputError(f"{name}={errors.shown(value)}: {FORM}") from error


def _pixels(name: str, array: np.ndarray, least: int) -> np.ndarray:
    """The array, uint8 or floats as they are, as "f h w c", c 1 or 3, if these are frames."""
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        if len(array) == 3:
            raise InputError(
                f'{name} of shape {array.shape} are three grey frames, "f h w 1", or one image, "h w 3": say which.'
            )
        array = array[..., None]
    floats = np.issubdtype(array.dtype, np.floating) and array.size > 0
    low, high = (float(array.min()), float(array.max())) if floats else (0.0, 255.0)
    fits = array.ndim == 4 and array.shape[-1] in (1, 3) and len(array) >= least and min(array.shape[1:3]) >= SMALLEST
    if not fits or not (array.dtype == np.uint8 or (floats and low >= -SLACK and high <= 1 + SLACK)):  # False for NaN
        turned = array.ndim >= 3 and array.shape[-3] in (1, 3) and array.shape[-1] > 4
        raise InputError(
            f"{name}: got {array.dtype} of shape {array.shape}{f', from {low:.3g} to {high:.3g}' if floats else ''}; {FORM} "
            f"{least} or more are needed.{' Colours come last: np.moveaxis(frames, -3, -1).' if turned else ''}"
        )
    return np.clip(array, 0, 1) if floats and (low < 0 or high > 1) else array


def _kind(check: Callable[..., np.ndarray], **more: Any) -> Callable[[str, Any], np.ndarray]:
    return lambda name, value: check(value, name=name, **more)


CLIP, FRAMES, IMAGE = _kind(as_frames), _kind(as_frames, least=1), _kind(as_image)  # for `errors.takes`
FPS = partial(number, least=0.01, most=10_000)


def SIZE(name: str, value: Any) -> tuple[int, int]:
    """The kind of an image's "h w", px; what follows these two is left out."""
    h, w, *_ = errors.several(name, value, partial(whole, least=1, most=2**14), least=2)
    return h, w


@takes(path=errors.path, playback_fps=FPS)
def write_frames(path: str | Path, frames: Any, *, playback_fps: float | None = None) -> None:
    """Write the frames as FFV1, in a .mkv, bit for bit what `as_bytes` makes of them."""
    clip = as_bytes(frames)
    if Path(path).suffix.lower() != ".mkv":
        raise InputError(f"{str(path)!r}: lossless frames are written as .mkv.")
    with write_whole(path) as part:
        _encode(part, clip, playback_fps, codec="ffv1", encoded_format="bgr0", ffmpeg_args=["-threads", "1"])


@takes(path=errors.path, playback_fps=FPS, facts=errors.kind(Mapping))
def write_preview(
    path: str | Path, frames: Any, *, playback_fps: float | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """Write the frames as H.264 in yuv420p, which every browser plays; small clips are enlarged by a whole factor."""
    clip = _enlarged(as_bytes(frames))
    if Path(path).suffix.lower() != ".mp4":
        raise InputError(f"{str(path)!r}: a preview is written as .mp4.")
    # One thread, and the quick preset: encoding runs beside the denoising, and must not take its cores.
    data = h264(clip, playback_fps, facts=facts, arguments=["-preset", "veryfast", "-threads", "1"])
    with write_whole(path) as part:
        part.write_bytes(data)


def _enlarged(clip: np.ndarray, least: int = PREVIEW_SIDE) -> np.ndarray:
    factor = max(1, math.ceil(least / min(clip.shape[1:3])))
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    return clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2]  # yuv420p takes even sides only


def small_html(frames: Any, fps: float, words: str) -> str:
    """Frames as a small video above a line of words, as HTML: how clips and traces show themselves in a notebook."""
    clip = as_bytes(frames)
    stride = max(1, clip.shape[2] // 384)
    clip = _enlarged(clip[:, ::stride, ::stride], 64)
    by = max(1, PREVIEW_SIDE // clip.shape[2])
    return f"{tag(h264(clip, fps), clip.shape[2] * by, clip.shape[1] * by, words)}<br>{html.escape(words)}"


def tag(mp4: bytes, width: int, height: int, alt: str) -> str:
    """An MP4 as a tag that plays it, looping. In one piece: what cleans HTML takes a `<source>` away (a report, GitHub)."""
    data = base64.b64encode(mp4).decode()
    how = f'width="{width}" height="{height}" controls loop autoplay muted playsinline'
    style = "max-width: 100%; height: auto; image-rendering: pixelated"
    return f'<video src="data:video/mp4;base64,{data}" {how} style="{style}" aria-label="{html.escape(alt)}"></video>'


@takes(fps=FPS, crf=partial(whole, most=51), facts=errors.kind(Mapping))
def h264(
    frames: np.ndarray, fps: float | None = None, *, crf: int = 18, facts: Any = None, arguments: Sequence[str] = ()
) -> bytes:
    """Frames "f h w 3", uint8 or uint16, as the bytes of an MP4: yuv420p where both sides are even, else yuv444p.

    >>> h264(as_bytes(clip.frames), fps=7)[4:8]
    b'ftyp'

    facts: see `describe`; written as tags. arguments: more of ffmpeg's.
    """
    array = _array("frames", frames)
    if array.dtype not in (np.uint8, np.uint16) or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f'frames: got {array.dtype} of shape {array.shape}; give uint8 or uint16 "f h w 3".')
    words = [*arguments, "-movflags", "+faststart+use_metadata_tags"]
    for key, text in _texts(facts).items() if facts else ():
        words += ["-metadata", f"{key}={text}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        _encode(path, array, fps, codec="h264", crf=crf, ffmpeg_args=words)
        return path.read_bytes()


def _encode(path: Path, frames: np.ndarray, fps: float | None, **how: Any) -> None:
    import imageio_ffmpeg
    import mediapy

    try:
        mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
        mediapy.write_video(path, frames, fps=fps or PLAYBACK_FPS, **how)
    except (RuntimeError, OSError) as error:
        raise OutputError(f"{path.name} could not be encoded: {' '.join(str(error).split())[:300]}") from error


@takes(repo_id=lambda name, value: value if value is None else errors.LABEL(name, value), card=errors.kind(Mapping))
def licence_line(repo_id: str | None, card: Mapping[str, Any]) -> str:
    """The line that a checkpoint's licence asks for, from its hub id and the header of its model card; "" where none.

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
    """Print a checkpoint's licence line, once in a process; not to stderr, which Jupyter shows as a fault, in red."""
    if licence:
        print(" ".join(UNFIT.sub("", f"{checkpoint}: {licence}").split()))


def notice() -> str:
    """The text of NOTICE, which goes with everything that is exported."""
    try:
        text = metadata.distribution("svdlab").read_text("licenses/NOTICE")
    except metadata.PackageNotFoundError:
        text = None
    return text or (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")


@takes(call=errors.kind(Mapping))
def describe(call: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What a file says about what made it: the entries of a clip's `call.asdict()` and your own; empty ones are left out.

    >>> describe({"seed": 0, "source": {"checkpoint": "owner/name"}}, run_id="3f2a")["seed"]
    0

    Used by name: `source` (its `checkpoint`, `revision` or `weights_hash`, `label`, `licence`), `run_id`, `seed`, and
    `description`, which replaces the sentence made of those. A checkpoint on this
    computer is given by its file's or folder's name. Tokens, paths of images and names of people are not among them.
    """
    facts = exported(plain({"DigitalSourceType": SOURCE_TYPE, "generator": f"svdlab {__version__}", **(call or {}), **more}))
    source = facts.get("source")
    if isinstance(source, dict) and not HUB_ID.fullmatch(str(source.get("checkpoint", "a/b"))):
        facts["source"] = {**source, "checkpoint": re.split(r"[\\/]", str(source["checkpoint"]).rstrip("\\/"))[-1]}
    return {key: value for key, value in facts.items() if value not in (None, "", {}, [])}


@takes(facts=errors.kind(Mapping))
def png_info(facts: Mapping[str, Any]) -> PngInfo:
    """Texts for a PNG, for Pillow's `save(pnginfo=)` and matplotlib's `savefig(pil_kwargs={"pnginfo": ...})`."""
    info, texts = PngInfo(), _texts(facts)
    info.add_itxt("XML:com.adobe.xmp", XMP.format_map({k: escape(text, {'"': "&quot;"}) for k, text in texts.items()}))
    for name, key in PNG_NAMES.items():
        if texts[key]:
            info.add_itxt(name, texts[key])
    return info


@takes(path=errors.path, facts=errors.kind(Mapping))
def write_sidecar(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write the facts as JSON beside a file, under its name with .json added."""
    with write_whole(f"{path}.json") as part:
        part.write_text(json.dumps(plain(facts), indent=1) + "\n")


@takes(path=errors.path)
def read_tags(path: str | Path) -> dict[str, Any]:
    """What a PNG or MP4 says about itself; {} where it says nothing."""
    if not Path(path).is_file():
        raise OutputError(f"{str(path)!r} cannot be read: it is no file.")
    try:
        if Path(path).suffix.lower() == ".png":
            with Image.open(path, formats=("PNG",)) as image:
                return dict(json.loads(image.info.get("svdlab", "{}")))
        lines = ffmpeg(path, "-f", "ffmetadata")[0].decode().replace("\\\n", "\n").splitlines()
        text = next((line.partition("=")[2] for line in lines if line.startswith("svdlab=")), "{}")
        return dict(json.loads(re.sub(r"\\([=;#\\])", r"\1", text)))  # ffmetadata escapes these
    except Exception as error:  # Pillow raises many kinds, json RecursionError
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}") from error


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """What every container says, by the names that an MP4 gives to it."""
    source = {"checkpoint": "unknown", **errors.kind(Mapping)("the facts' source", facts.get("source", {}))}
    revision = source.get("revision") and f"revision {source['revision']}"
    parts = [f"Made by a generative model: {source['checkpoint']}", revision, source.get("label")]
    parts += [f"{word} {facts[key]}" for word, key in (("run", "run_id"), ("seed", "seed")) if key in facts]
    texts = {
        "encoded_by": facts.get("generator"),
        "DigitalSourceType": facts.get("DigitalSourceType", SOURCE_TYPE),
        "AISystemUsed": source["checkpoint"],
        "AISystemVersionUsed": source.get("revision") or source.get("weights_hash"),
        "comment": facts.get("description") or ", ".join(map(str, filter(None, parts))),
        "copyright": source.get("licence"),
        "svdlab": json.dumps(plain(facts)),
    }
    return {key: UNFIT.sub("", str(text or "")) for key, text in texts.items()}
