"""What goes with a picture or film that a model made: that it did, which one, under which licence.

    >>> facts = describe(clip, run_id="3f2a...")
    >>> image.save("frame.png", pnginfo=png_info(facts))
    >>> tag_mp4("preview.mp4", facts); write_sidecar("preview.mp4", facts)
    >>> read("preview.mp4")["DigitalSourceType"]
    'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia'

PNG: an XMP packet with the IPTC terms for media made by a trained model (IPTC Photo Metadata Standard 2025.1), and PNG's
own Software, Description and Copyright texts. MP4: container tags, and a JSON file beside it, because many players and
sites drop tags. None of it changes a pixel. It is a label for the honest: whoever re-encodes a file loses it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from svdlab import __version__
from svdlab.errors import OutputError

TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPE = f"{TERMS}trainedAlgorithmicMedia"
FIGURE_TYPE = f"{TERMS}compositeWithTrainedAlgorithmicMedia"  # drawn around pictures that a model made
GRAPH_TYPE = f"{TERMS}dataDrivenMedia"  # drawn from numbers alone
USE_POLICY = "https://stability.ai/use-policy"
SVD_1_1 = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
ATTRIBUTION = (  # asked for by the licence of SVD 1.1
    "This Stability AI Model is licensed under the Stability AI Non-Commercial Research Community License, "
    "Copyright (c) Stability AI Ltd. All Rights Reserved."
)
XMP_KEY = "XML:com.adobe.xmp"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool={tool}
    Iptc4xmpExt:DigitalSourceType={source}
    Iptc4xmpExt:AISystemUsed={system}
    Iptc4xmpExt:AISystemVersionUsed={version}>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt></dc:description>
   <dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{rights}</rdf:li></rdf:Alt></dc:rights>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


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
    if name == "other":
        return f"a licence of its own: see {page}"
    return name


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


def write_notice(folder: str | Path) -> Path:
    """Put NOTICE into an exported folder. Raises OutputError where the disk refuses."""
    path = Path(folder) / "NOTICE"
    _write_whole(path, notice())
    return path


# --- facts ------------------------------------------------------------------------------------------------------------


def describe(clip: Any = None, *, source: Any = None, run_id: str | None = None, **more: Any) -> dict[str, Any]:
    """What is said about a file: plain values, None left out.

    clip: a Clip, or anything with its `call()`; source: a pipeline's source, where there is no clip. more: entries of your
    own. Tokens, paths of pictures and names of people are not among them.
    """
    call = clip.call() if clip is not None else {}
    came = call.get("source") or (vars(source) if source is not None else {})
    facts = {
        "DigitalSourceType": SOURCE_TYPE,
        "generator": f"svdlab {__version__}",
        "checkpoint": came.get("checkpoint"),
        "revision": came.get("revision"),
        "weights_hash": came.get("weights_hash"),
        "label": came.get("label"),
        "licence": came.get("licence"),
        "run_id": run_id,
        "seed": call.get("seed"),
        "conditions": call.get("conditions"),
        "image_hash": call.get("image"),
        **more,
    }
    return {k: v for k, v in facts.items() if v not in (None, "", {})}


def of_run(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is said about a run's files, from its run.json (see `svdlab.ledger`)."""
    call = record["call"]
    source = SimpleNamespace(**record["source"])
    return describe(
        source=source,
        run_id=record["run_id"],
        seed=call["seed"],
        conditions=call["conditions"],
        image_hash=call["image"],
        intervention=call.get("intervention"),
    )


def _description(facts: Mapping[str, Any]) -> str:
    if facts.get("description"):
        return str(facts["description"])
    parts = [f"Made by a generative model: {facts.get('checkpoint', 'unknown')}"]
    parts += [f"revision {facts['revision']}"] if facts.get("revision") else []
    parts += [str(facts["label"])] if facts.get("label") else []
    parts += [f"run {facts['run_id']}"] if facts.get("run_id") else []
    parts += [f"seed {facts['seed']}"] if "seed" in facts else []
    return ", ".join(parts)


# --- PNG --------------------------------------------------------------------------------------------------------------


def xmp(facts: Mapping[str, Any]) -> str:
    """The XMP packet for a picture, as XML text."""
    revision = facts.get("revision") or facts.get("weights_hash") or ""
    return XMP.format(
        tool=quoteattr(str(facts.get("generator", ""))),
        source=quoteattr(str(facts.get("DigitalSourceType", SOURCE_TYPE))),
        system=quoteattr(str(facts.get("checkpoint", "unknown"))),
        version=quoteattr(str(revision)),
        description=escape(_description(facts)),
        rights=escape(str(facts.get("licence", ""))),
    )


def png_info(facts: Mapping[str, Any]) -> PngInfo:
    """Texts for a PNG, for Pillow's `save(pnginfo=)` and matplotlib's `savefig(pil_kwargs={"pnginfo": ...})`."""
    info = PngInfo()
    info.add_itxt(XMP_KEY, xmp(facts))
    info.add_text("Software", str(facts.get("generator", "")))
    info.add_itxt("Description", _description(facts))
    if facts.get("licence"):
        info.add_itxt("Copyright", str(facts["licence"]))
    info.add_itxt("svdlab", json.dumps(facts, default=str))
    return info


def tag_png(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Add the texts to a PNG that is there; its pixels stay as they are. Raises OutputError where that fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with Image.open(path) as image:
            image.save(temporary, "PNG", pnginfo=png_info(facts), dpi=image.info.get("dpi"))
        os.replace(temporary, path)
    except (OSError, SyntaxError, ValueError) as error:
        raise OutputError(f"{path} could not be given its provenance: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


# --- MP4 --------------------------------------------------------------------------------------------------------------


def mp4_arguments(facts: Mapping[str, Any]) -> list[str]:
    """Arguments of ffmpeg that write the tags, for whoever encodes a film anyway."""
    tags = {
        "title": f"{facts.get('checkpoint', 'unknown')} {facts.get('run_id', '')}".strip(),
        "comment": _description(facts),
        "copyright": str(facts.get("licence", "")),
        "encoded_by": str(facts.get("generator", "")),
        "DigitalSourceType": str(facts.get("DigitalSourceType", SOURCE_TYPE)),
        "svdlab": json.dumps(facts, default=str),
    }
    words = [word for key, value in tags.items() if value for word in ("-metadata", f"{key}={value}")]
    return [*words, "-movflags", "+faststart+use_metadata_tags"]


def tag_mp4(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Add container tags to an MP4 that is there, without encoding it again. Raises OutputError where ffmpeg refuses."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        _ffmpeg(["-i", str(path), "-map", "0", "-c", "copy", *mp4_arguments(facts), str(temporary)])
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} could not be given its provenance: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def is_tagged(path: str | Path) -> bool:
    """Whether a file names one of IPTC's source types, by its bytes."""
    return TERMS.encode() in Path(path).read_bytes()


def _ffmpeg(arguments: list[str]) -> str:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise OSError(lines[-1] if lines else f"ffmpeg ended with {done.returncode}")
    return done.stdout


def write_sidecar(path: str | Path, facts: Mapping[str, Any]) -> Path:
    """The facts as JSON beside a file, under its name with .json added. Raises OutputError where the disk refuses."""
    sidecar = Path(path).with_name(Path(path).name + ".json")
    _write_whole(sidecar, json.dumps(facts, indent=1, default=str) + "\n")
    return sidecar


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | Path) -> dict[str, Any]:
    """What a PNG or MP4 says about itself; {} where it says nothing. Raises OutputError where it cannot be read."""
    path = Path(path)
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as image:
                text = image.info.get("svdlab", "{}")
        else:
            lines = _ffmpeg(["-i", str(path), "-f", "ffmetadata", "-"]).replace("\\\n", "\n").splitlines()
            text = next((line.partition("=")[2] for line in lines if line.startswith("svdlab=")), "{}")
            for mark in "=;#\\":  # ffmetadata escapes these
                text = text.replace("\\" + mark, mark)
        return dict(json.loads(text))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error
