"""Video files of clips, and what an image or video file says about the model that made it.

    >>> write_frames("frames.mkv", clip.frames)                      # FFV1: the 8-bit frames, bit for bit
    >>> facts = describe(clip.call.asdict(), run_id="3f2a")
    >>> write_preview("preview.mp4", clip.frames, facts=facts)       # H.264: what a browser plays
    >>> read_tags("preview.mp4")["DigitalSourceType"]
    'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia'

A PNG gets an XMP packet with the IPTC terms for media made by a trained model (IPTC Photo Metadata Standard 2025.1) and PNG's
own Software, Description and Copyright texts. An MP4 gets container tags, and a JSON file beside it, because many players
and sites drop tags. None of it changes a pixel. Whoever encodes a file again loses it.

Files are written whole or not at all (`svdlab.measure.files.write_whole`), by the ffmpeg inside imageio-ffmpeg's wheel.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from svdlab import __version__
from svdlab.errors import OutputError
from svdlab.measure.files import plain, write_whole
from svdlab.measure.frames import as_frames

PLAYBACK_FPS = 7.0  # for players, where a clip does not say: diffusers' default fps
PREVIEW_SIDE = 256  # px: smaller clips are enlarged by whole factors, or nobody would see what happens in them

TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPE = f"{TERMS}trainedAlgorithmicMedia"
FIGURE_TYPE = f"{TERMS}compositeWithTrainedAlgorithmicMedia"  # drawn around images that a model made
GRAPH_TYPE = f"{TERMS}dataDrivenMedia"  # drawn from numbers alone
USE_POLICY = "https://stability.ai/use-policy"
SVD_1_1 = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
ATTRIBUTION = (  # asked for by the licence of SVD 1.1
    "This Stability AI Model is licensed under the Stability AI Non-Commercial Research Community License, "
    "Copyright (c) Stability AI Ltd. All Rights Reserved."
)
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool={tool}
    Iptc4xmpExt:DigitalSourceType={kind}
    Iptc4xmpExt:AISystemUsed={system}
    Iptc4xmpExt:AISystemVersionUsed={version}>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt></dc:description>
   <dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{rights}</rdf:li></rdf:Alt></dc:rights>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


# --- frames -----------------------------------------------------------------------------------------------------------


def as_bytes(frames: Any) -> np.ndarray:
    """Frames "f h w c" in [0, 1] (or uint8 already) as uint8: what a video file holds of them."""
    array = np.asarray(frames)
    return array if array.dtype == np.uint8 else (as_frames(array, least=1) * 255 + 0.5).astype(np.uint8)


def write_frames(path: str | Path, frames: Any, *, playback_fps: float | None = None) -> None:
    """Write the frames as FFV1, bit for bit what `as_bytes` makes of them. Raises OutputError where that fails."""
    _encode(path, as_bytes(frames), playback_fps, ["-vcodec", "ffv1", "-pix_fmt", "bgr0", "-threads", "1"])


def write_preview(
    path: str | Path, frames: Any, *, playback_fps: float | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """Write the frames as H.264 in yuv420p, which every browser plays. facts: see `describe`; written as tags.

    Small clips are enlarged by a whole factor, unsmoothed. Raises OutputError where the file cannot be written.
    """
    clip = as_bytes(frames)
    factor = max(1, math.ceil(PREVIEW_SIDE / min(clip.shape[1:3])))
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    clip = clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2]  # yuv420p takes even sides only
    # One thread, and the quick preset: encoding runs beside the denoising, and must not take its cores.
    tags = ["-movflags", "+faststart"] if facts is None else _mp4_tags(facts)
    _encode(path, clip, playback_fps, [*_h264(clip, 18), "-preset", "veryfast", "-threads", "1", *tags])


def h264(frames: np.ndarray, *, fps: float = PLAYBACK_FPS, crf: int = 18) -> bytes:
    """Frames "f h w 3", uint8 (or uint16), as the bytes of an MP4: yuv420p where both sides are even, else yuv444p.

    >>> h264(as_bytes(clip.frames), fps=7)[4:8]
    b'ftyp'
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"  # not a pipe: MP4 is written by seeking back
        _encode(path, frames, fps, _h264(frames, crf))
        return path.read_bytes()


def read_frames(path: str | Path) -> np.ndarray:
    """Read all frames of a video file, uint8 "f h w 3". Raises OutputError where it is missing or damaged."""
    try:  # PPM says its own size in each frame's header: "P6\n{w} {h}\n255\n"
        data = _ffmpeg(["-i", str(path), "-map", "0:v:0", "-fps_mode", "vfr", "-f", "image2pipe", "-vcodec", "ppm", "-"])
        _, size, _, _ = data[:64].split(b"\n", 3)
        w, h = map(int, size.split())
        frames = np.frombuffer(data, np.uint8).reshape(-1, len(f"P6\n{w} {h}\n255\n") + h * w * 3)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read as a video: {error}") from error
    return frames[:, -h * w * 3 :].reshape(-1, h, w, 3)


def _encode(path: str | Path, clip: np.ndarray, fps: float | None, how: Sequence[str]) -> None:
    pixels = "rgb24" if clip.dtype == np.uint8 else "rgb48le"
    size = f"{clip.shape[2]}x{clip.shape[1]}"
    raw = ["-f", "rawvideo", "-pix_fmt", pixels, "-s", size, "-r", str(fps or PLAYBACK_FPS), "-i", "-", "-an"]
    with write_whole(path) as part:
        _ffmpeg([*raw, *how, str(part)], clip.tobytes())


def _h264(clip: np.ndarray, crf: int) -> list[str]:
    even = clip.shape[1] % 2 == clip.shape[2] % 2 == 0
    return ["-vcodec", "h264", "-pix_fmt", "yuv420p" if even else "yuv444p", "-vb", "0", "-crf", str(crf)]


def _ffmpeg(arguments: Sequence[str], data: bytes | None = None) -> bytes:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-v", "error", "-y", *arguments]
    done = subprocess.run(command, input=data or b"", capture_output=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip() or f"ffmpeg ended with {done.returncode}")
    return done.stdout


# --- licences ---------------------------------------------------------------------------------------------------------


def licence_line(repo_id: str | None, card: Mapping[str, Any]) -> str:
    """What a checkpoint's licence asks to be said, from its hub id and the header of its model card; "" where neither says.

    >>> licence_line(None, {"license": "apache-2.0"})
    'apache-2.0'
    """
    name = str(card.get("license_name") or card.get("license") or "")
    page = f"https://huggingface.co/{repo_id}" if repo_id else "the model card beside the weights"
    if repo_id == SVD_1_1 or name.startswith("stable-video-diffusion-1-1"):
        return f"{ATTRIBUTION} Acceptable use: {USE_POLICY}"
    if (repo_id or "").startswith("stabilityai/") or name.startswith("stable-video-diffusion"):
        return f"Stability AI's licence{f' {name}' if name else ''}: see {page}. Acceptable use: {USE_POLICY}"
    return f"a licence of its own: see {page}" if name == "other" else name


_SHOWN: set[tuple[str, str]] = set()


def show_licence(checkpoint: str, licence: str) -> None:
    """Print a checkpoint's licence line to stderr, once in a process."""
    if licence and (checkpoint, licence) not in _SHOWN:
        _SHOWN.add((checkpoint, licence))
        print(f"{checkpoint}: {licence}", file=sys.stderr)


def notice() -> str:
    """The text of NOTICE, which goes with everything that is exported."""
    try:
        text = metadata.distribution("svdlab").read_text("licenses/NOTICE")
    except metadata.PackageNotFoundError:
        text = None
    return text or (Path(__file__).parents[2] / "NOTICE").read_text()


# --- tags -------------------------------------------------------------------------------------------------------------


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
    said = _said(facts)
    quoted = {key: quoteattr(said[key]) for key in ("tool", "kind", "system", "version")}
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.format(**quoted, **{k: escape(said[k]) for k in ("description", "rights")}))
    info.add_text("Software", said["tool"])
    info.add_itxt("Description", said["description"])
    if said["rights"]:
        info.add_itxt("Copyright", said["rights"])
    info.add_itxt("svdlab", json.dumps(facts))
    return info


def tag_png(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Add the texts to a PNG that is there; its pixels stay as they are. Raises OutputError where that fails."""
    try:
        with Image.open(path) as image, write_whole(path) as part:
            image.save(part, "PNG", pnginfo=png_info(facts), dpi=image.info.get("dpi"))
    except (OSError, SyntaxError, ValueError) as error:
        raise OutputError(f"{path} could not be tagged: {error}") from error


def tag_mp4(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Add container tags to an MP4 that is there, without encoding it again. Raises OutputError where ffmpeg refuses."""
    with write_whole(path) as part:
        _ffmpeg(["-i", str(path), "-map", "0", "-c", "copy", *_mp4_tags(facts), str(part)])


def write_sidecar(path: str | Path, facts: Mapping[str, Any]) -> Path:
    """Write the facts as JSON beside a file, under its name with .json added. Raises OutputError where the disk refuses."""
    sidecar = Path(path).with_name(Path(path).name + ".json")
    with write_whole(sidecar) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n")
    return sidecar


def read_tags(path: str | Path) -> dict[str, Any]:
    """What a PNG or MP4 says about itself; {} where it says nothing. Raises OutputError where it cannot be read."""
    try:
        if Path(path).suffix.lower() == ".png":
            with Image.open(path) as image:
                text = image.info.get("svdlab", "{}")
        else:
            lines = _ffmpeg(["-i", str(path), "-f", "ffmetadata", "-"]).decode().replace("\\\n", "\n").splitlines()
            text = next((line.partition("=")[2] for line in lines if line.startswith("svdlab=")), "{}")
            for mark in "=;#\\":  # ffmetadata escapes these
                text = text.replace("\\" + mark, mark)
        return dict(json.loads(text))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error


def _said(facts: Mapping[str, Any]) -> dict[str, str]:
    """The texts that every container gets, "" for none."""
    source = facts.get("source", {})
    parts = [f"Made by a generative model: {source.get('checkpoint', 'unknown')}"]
    parts += [f"revision {source['revision']}"] if source.get("revision") else []
    parts += [source["label"]] if source.get("label") else []
    parts += [f"{word} {facts[key]}" for word, key in (("run", "run_id"), ("seed", "seed")) if key in facts]
    return {
        "tool": str(facts.get("generator", "")),
        "kind": str(facts.get("DigitalSourceType", SOURCE_TYPE)),
        "system": str(source.get("checkpoint", "unknown")),
        "version": str(source.get("revision") or source.get("weights_hash") or ""),
        "description": str(facts.get("description") or ", ".join(parts)),
        "rights": str(source.get("licence") or ""),
    }


def _mp4_tags(facts: Mapping[str, Any]) -> list[str]:
    said = _said(facts)
    tags = {
        "title": f"{said['system']} {facts.get('run_id', '')}".strip(),
        "comment": said["description"],
        "copyright": said["rights"],
        "encoded_by": said["tool"],
        "DigitalSourceType": said["kind"],
        "svdlab": json.dumps(facts),
    }
    words = [word for key, value in tags.items() if value for word in ("-metadata", f"{key}={value}")]
    return [*words, "-movflags", "+faststart+use_metadata_tags"]
