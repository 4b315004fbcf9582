"""The settings that ComfyUI wrote into a file beside its frames, as conditions of SVD.

    settings = read_settings("ComfyUI_00001_.webp")
    settings.conditions.motion_bucket_id, settings.seed, settings.checkpoint, settings.sampler, settings.notes
    svdlab.sweep(pipe, settings.to_plan("forest.png"), "results/again")

ComfyUI writes two texts of JSON: `prompt`, the nodes that ran, and `workflow`, the graph as it looked, which may differ. Only
`prompt` is read. It lies in a PNG's tEXt `prompt`, an animated PNG's chunk `comf`, a WebP's EXIF 0x0110 (`prompt:{...}`), and
a tag of an MP4 or WebM; Video Helper Suite puts it into the tag `comment`. The file is anybody's: sizes are limited before
anything is read, and texts are made printable.
"""

import json
import math
import os
import re
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from svdlab.errors import InputError, flag, path, takes
from svdlab.measure.files import printable
from svdlab.measure.reading import CONTAINERS
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.images import open_image
from svdlab.study import plans

LARGEST = 2**24  # bytes of the JSON; the largest that was seen had 60,000
MOST_NODES = 10_000
SVD, GUIDANCE = "SVD_img2vid_Conditioning", {"VideoLinearCFGGuidance": "linear", "VideoTriangleCFGGuidance": "triangle"}
SAMPLERS = {"KSampler": "seed", "KSamplerAdvanced": "noise_seed"}  # node -> its name of the seed
WHOLE = {  # inputs of a sampler, and the values with which it runs all its steps from noise
    "denoise": (1,),
    "start_at_step": (0,),
    "end_at_step": range(1, 10_001),
    "add_noise": ("enable",),
    "return_with_leftover_noise": ("disable",),
}
SCHEDULERS = {  # ComfyUI's sampler -> diffusers' class, on SVD's noise levels
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpmpp_2m": "EDMDPMSolverMultistepScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
}
LOADERS = ("ImageOnlyCheckpointLoader", "CheckpointLoaderSimple", "UNETLoader")
IMAGES = ("LoadImage", "LoadImageOutput", "VHS_LoadImagePath")
TAGS = ("prompt", "comment")
CLIP_CROP = "ComfyUI shows CLIP the image's middle square, and svdlab the whole frame"
LONGEST = 200  # characters of a recorded name


@dataclass(frozen=True)
class Settings:
    """What made a clip, as its file says.

    conditions: without those that ComfyUI leaves to the player (playback_fps). sampler: ComfyUI's names of sampler and sigmas,
    such as "euler, karras". image: the name of the first frame's file, "" where no node says it. notes: what has no
    equivalent in svdlab.
    """

    conditions: Conditions
    seed: int | None
    checkpoint: str
    sampler: str
    image: str
    notes: tuple[str, ...]

    @takes(noise=flag)
    def to_plan(self, image: Any, *, noise: bool = True) -> pd.DataFrame:
        """A plan of one row for `svdlab.sweep`, which makes the same clip again, as far as `notes` allow.

        image: the first frame; the file names it (`image`) and does not hold it. noise: start from ComfyUI's own noise, drawn
        from the seed as ComfyUI draws it on every device; False draws svdlab's from that seed, another clip. Raises
        InputError where no seed is known.
        """
        c = self.conditions
        open_image(image)  # a mistyped one is named here
        if self.seed is None:
            raise InputError("the file does not say its seed: give a plan of your own with .conditions.")
        row = {name: value for name, value in c.asdict().items() if value is not None}
        row |= {"seed": self.seed % 2**63, "image": image}
        if noise:
            assert c.num_frames and c.height and c.width  # a node has them
            drawn = torch.Generator().manual_seed(self.seed)
            shape = c.num_frames, 4, c.height // 8, c.width // 8
            row["start_noise"] = torch.randn(shape, generator=drawn, device="cpu")
        return plans.as_plan([row])


@takes(file=path)
def read_settings(file: str | Path) -> Settings:
    """The settings of a clip that ComfyUI made with SVD, from its PNG, WebP, MP4, WebM or MKV.

        read_settings("image_to_video-1.webp").conditions.motion_bucket_id

    fps embeds as diffusers' does; cfg is the guidance of the last frame, min_cfg of the first (of a triangle: its top and
    ends). Raises InputError where the file holds no such settings, or none of SVD's, and for what cannot be read as such.
    """
    prompt = read_prompt(file)
    if prompt is None:
        raise InputError(f"{Path(file).name} holds no settings of ComfyUI: they are lost when a file is edited or sent on.")
    try:
        return settings_of(prompt)
    except InputError as error:
        raise InputError(f"{Path(file).name}: {error}") from error


@takes(file=path)
def read_prompt(file: str | Path) -> dict[str, Any] | None:
    """The nodes that ran, by their ids, from a file of ComfyUI's; None where it holds none. InputError for damaged ones."""
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file} cannot be read: {'it is no file' if file.exists() else 'no such file'}.")
    with open(file, "rb") as content:
        head = content.read(12)
    try:
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            texts: dict[str, Any] = dict(_png(file))
        elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
            texts = dict(_webp(file))
        else:
            texts = _tags(file)
        found = _parsed(texts["prompt"]) if "prompt" in texts else _commented(texts.get("comment", ""))
    except (OSError, ValueError, RecursionError, struct.error, SyntaxError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else printable(error)[:LONGEST]
        raise InputError(f"the settings in {file.name} cannot be read: {why}.") from error
    if found is None:
        return None
    nodes = found.values() if isinstance(found, Mapping) else [None]
    if len(nodes) > MOST_NODES or not all(isinstance(n, Mapping) and isinstance(n.get("inputs"), Mapping) for n in nodes):
        raise InputError(f"the settings in {file.name} cannot be read: they are no nodes of ComfyUI's.")
    return found


def settings_of(prompt: Mapping[str, Any]) -> Settings:
    """What the nodes that ran say of SVD: those that the sampler of SVD's conditioning leads to."""
    graph = _Graph(prompt)
    samplers = [key for kind in SAMPLERS for key in graph.of_kind(kind) if graph.upstream(key, "positive", SVD)]
    if not samplers:
        nodes = ", ".join(sorted({graph.kind(key) for key in prompt})[:12])
        other = f"made by a sampler that is not read, which {' and '.join(SAMPLERS)} are"
        why = other if graph.of_kind(SVD) else "of no clip of SVD"
        raise InputError(f"the settings are {why}: none of these takes {SVD} (nodes: {nodes}).")
    sampler = samplers[0]
    node = graph.upstream(sampler, "positive", SVD)
    assert node is not None
    notes = [CLIP_CROP]
    if len(samplers) > 1:
        notes.append(f"the graph ran {len(samplers)} samplers of SVD: these are the settings of node {printable(sampler)}")
    guidance = next((found for kind in GUIDANCE if (found := graph.upstream(sampler, "model", kind))), None)
    top = graph.number(sampler, "cfg", 0, 1e6)
    low = top if guidance is None else graph.number(guidance, "min_cfg", 0, 1e6)
    frames = int(graph.number(node, "video_frames", 2, 4096, whole=True))
    shape = "linear" if guidance is None else GUIDANCE[graph.kind(guidance)]
    ends: dict[str, Any] = dict(min_guidance_scale=min(low, top), max_guidance_scale=max(low, top), guidance_curve=shape)
    conditions = Conditions(
        fps=int(graph.number(node, "fps", 1, 1000, whole=True)),
        motion_bucket_id=int(graph.number(node, "motion_bucket_id", 0, 1_000_000, whole=True)),
        noise_aug_strength=graph.number(node, "augmentation_level", 0, 1000),
        num_frames=frames,
        num_inference_steps=int(graph.number(sampler, "steps", 1, 10_000, whole=True)),
        height=int(graph.number(node, "height", 8, 16384, whole=True)),
        width=int(graph.number(node, "width", 8, 16384, whole=True)),
        **ends,
    )
    if low > top:  # the curve falls
        curve = conditions.guidance(frames)
        conditions = replace(conditions, guidance_curve=tuple(float(low + top - v) for v in curve))
    if conditions.noise_aug_strength > 0:
        level = f"augmentation_level {conditions.noise_aug_strength:g}"
        notes.append(f"{level}: ComfyUI's pixels are in [0, 1], so its noise is twice that of noise_aug_strength here")
    names = [graph.text(sampler, name) for name in ("sampler_name", "scheduler")]
    conditions = replace(conditions, scheduler=SCHEDULERS.get(names[0]))
    if conditions.scheduler is None or names[1] != "karras":
        notes.append(f"sampler {', '.join(names)}: there is no equivalent here, the pipeline's own stands in its place")
    if names[0] == "euler_ancestral":
        notes.append("the noise that euler_ancestral adds at each step is drawn in another way here")
    given = {name: graph.inputs(sampler).get(name) for name in WHOLE}
    partly = [f"{k} {printable(v)[:20]}" for k, v in given.items() if v is not None and v not in WHOLE[k]]
    last = given["end_at_step"]
    if partly or (isinstance(last, int) and last < conditions.num_inference_steps):
        notes.append(f"{', '.join(partly) or f'end_at_step {last}'}: only a part of the steps was run")
    passed = {graph.kind(key) for key in graph.chain(sampler, "model")} - {*GUIDANCE, *LOADERS}
    notes += [f"the model went through {kind}, which is not done here" for kind in sorted(passed)]
    loader = next((found for kind in LOADERS if (found := graph.upstream(sampler, "model", kind))), None)
    name = "unet_name" if loader and graph.kind(loader) == "UNETLoader" else "ckpt_name"
    seed = graph.value(sampler, SAMPLERS[graph.kind(sampler)])
    known = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**64
    notes += [] if known else ["the seed came from another node, which does not say it"]
    notes += [f"the seed {seed} is above 2**63 - 1: its rest is recorded"] if known and seed >= 2**63 else []
    loaded = next((found for kind in IMAGES if (found := graph.upstream(node, "init_image", kind))), None)
    file = graph.text(loaded, "image") if loaded else ""
    image = re.split(r"[\\/]", re.sub(r" \[\w+\]$", "", file))[-1]  # [input], [output]: the folder
    notes += [] if image else ["the first frame was made in the graph, or loaded by a node that is not read"]
    checkpoint = graph.text(loader, name) if loader else ""
    return Settings(conditions, seed if known else None, checkpoint, ", ".join(names), image, tuple(notes))


class _Graph:
    """Nodes by id, each with inputs: values, or links [id, output] to other nodes. A link may lead nowhere, or in a circle."""

    def __init__(self, prompt: Mapping[str, Any]) -> None:
        self.nodes = prompt

    def kind(self, key: str) -> str:
        return printable(self.nodes[key].get("class_type", "no class"))[:LONGEST]

    def of_kind(self, kind: str) -> list[str]:
        return [key for key in self.nodes if self.kind(key) == kind]

    def inputs(self, key: str) -> Mapping[str, Any]:
        found = self.nodes[key]["inputs"]
        return found if isinstance(found, Mapping) else {}

    def link(self, value: Any) -> str | None:
        """The node that a link leads to."""
        is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int))
        return str(value[0]) if is_link and str(value[0]) in self.nodes else None

    def chain(self, key: str, name: str) -> list[str]:
        """The nodes on the way of an input, nearest first: on through inputs of the same name, else through all links."""
        found: list[str] = []
        queue = [self.link(self.inputs(key).get(name))]
        while queue:
            node = queue.pop(0)
            if node is None or node in found:
                continue
            found.append(node)
            inputs = self.inputs(node)
            on = [inputs[name]] if name in inputs else [] if self.kind(node) in (SVD, *LOADERS) else list(inputs.values())
            queue += [self.link(value) for value in on]
        return found

    def upstream(self, key: str, name: str, kind: str) -> str | None:
        return next((found for found in self.chain(key, name) if self.kind(found) == kind), None)

    def value(self, key: str, name: str) -> Any:
        """An input's value; where it is a link, that of the node there, if it holds one value only (a primitive)."""
        value = self.inputs(key).get(name)
        for _ in range(8):
            if (node := self.link(value)) is None:
                break
            held = self.inputs(node)
            value = held.get(name, next(iter(held.values())) if len(held) == 1 else None)
        return value

    def number(self, key: str, name: str, least: float, most: float, *, whole: bool = False) -> float:
        value = self.value(key, name)
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right or not (least <= value <= most) or (whole and value != math.floor(value)):
            raise InputError(f"{self.kind(key)} has {name} {printable(value)[:60]}: this is no number that it can have.")
        return float(value)

    def text(self, key: str, name: str) -> str:
        value = self.value(key, name)
        return printable(value)[:LONGEST] if isinstance(value, str) else ""


# --- where the text lies ----------------------------------------------------------------------------------------------


def _parsed(text: str | bytes) -> Any:
    if len(text) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    return json.loads(text)


def _commented(text: str) -> Any:
    """Video Helper Suite's: one JSON of `prompt` and `workflow`, each of which may be a JSON text again."""
    if not text.lstrip().startswith("{"):
        return None
    found = _parsed(text)
    prompt = found.get("prompt") if isinstance(found, Mapping) else None
    return _parsed(prompt) if isinstance(prompt, str) else prompt


def _png(file: Path) -> Iterator[tuple[str, bytes]]:
    """The texts `prompt` of a PNG: chunk tEXt, uncompressed iTXt, or ComfyUI's own comf."""
    with open(file, "rb") as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(8)
        while content.tell() + 12 <= size:
            length, kind = struct.unpack(">I4s", content.read(8))
            after = content.tell() + length + 4
            if kind in (b"tEXt", b"iTXt", b"comf") and length:
                name = content.read(min(length, 80)).split(b"\0")[0]
                if name == b"prompt":
                    content.seek(after - 4 - length + 7)
                    if length > LARGEST:
                        raise ValueError(f"it has more than {LARGEST} bytes")
                    text = content.read(length - 7)
                    yield "prompt", text[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else text
                    return
            content.seek(after)


def _webp(file: Path) -> Iterator[tuple[str, str]]:
    """The texts of a WebP's EXIF. Its chunk is looked for by hand: Pillow would read one of any size."""
    with open(file, "rb") as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(12)
        while content.tell() + 8 <= size:
            kind, length = struct.unpack("<4sI", content.read(8))
            if kind != b"EXIF":
                content.seek(length + length % 2, os.SEEK_CUR)
                continue
            if length > 2 * LARGEST:
                raise ValueError(f"they have more than {2 * LARGEST} bytes")
            exif = Image.Exif()
            exif.load(content.read(length))
            for tag in (0x0110, 0x010F):
                key, _, text = str(exif.get(tag, "")).partition(":")
                if key in TAGS:
                    yield key, text
            return


def _tags(file: Path) -> dict[str, str]:
    """The tags of a container, by ffmpeg, of whose answer no more is read than LARGEST."""
    import imageio_ffmpeg

    words = ["-nostdin", "-v", "error", "-format_whitelist", f"{CONTAINERS},gif", "-protocol_whitelist", "file"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *words, "-i", f"file:{file}", "-f", "ffmetadata", "-"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        said = running.stdout.read(2 * LARGEST + 1)
        running.kill() if len(said) > 2 * LARGEST else None
    if len(said) > 2 * LARGEST:
        raise ValueError(f"its tags have more than {2 * LARGEST} bytes")
    tags: dict[str, str] = {}
    key, escaped, held = "", False, ""
    for line in said.decode(errors="replace").replace("\\\n", "\0").split("\n"):  # an escaped end of a line is part of a value
        key, sign, held = line.partition("=")
        if sign and key.lower() in TAGS:
            text, escaped = [], False
            for c in held.replace("\0", "\n"):  # ffmetadata escapes = ; # and \
                escaped = c == "\\" and not escaped
                text += [] if escaped else [c]
            tags.setdefault(key.lower(), "".join(text))
    return tags
