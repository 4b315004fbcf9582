"""What SVD is conditioned on, by diffusers' argument names, checked before any model runs; and of which checkpoint.

    >>> Conditions(fps=7, motion_bucket_id=180).fps_id, PRESETS["SVD_1_1"].num_inference_steps
    (6, 30)

The UNet sees `fps_id = fps - 1`; Stability's script embeds its number as it is, so its fps_id 6 is fps=7 here.
`playback_fps` changes no pixel, and px/s is computed from it alone.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from svdlab.errors import InputError, kind, number, one_of, several, shown, takes, text, whole
from svdlab.measure.files import read_json

GUIDANCE_CURVES = ("linear", "triangle")
REPOSITORIES = {
    "SVD": "stabilityai/stable-video-diffusion-img2vid",
    "SVD_XT": "stabilityai/stable-video-diffusion-img2vid-xt",
    "SVD_1_1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}
SINGLE_FILES = {"svd": "SVD", "svd_xt": "SVD_XT", "svd_xt_1_1": "SVD_1_1"}  # Stability's names of one safetensors
METADATA = "svdlab.json"  # a checkpoint's own facts, where they are not SVD's
ABOUT = ("height", "width", "label", "licence", "stimuli")
CONSISTENCY = "AnimateLCMSVDStochasticIterativeScheduler"  # for checkpoints distilled as AnimateLCM-SVD was
SCHEDULERS = (  # diffusers' classes that work on SVD's noise levels, see svdlab.pipeline.samplers
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    CONSISTENCY,
)
LEAST: dict[str, Any] = dict(
    fps=1, num_frames=2, num_inference_steps=1, height=8, width=8, decode_chunk_size=1, playback_fps=0.01
)  # others 0
MOST: dict[str, Any] = dict(
    fps=1000, playback_fps=1000, motion_bucket_id=1_000_000, noise_aug_strength=1000, num_inference_steps=10_000
)
MOST |= dict(num_frames=4096, decode_chunk_size=4096, height=16384, width=16384)
WHOLE = ("num_frames", "num_inference_steps", "height", "width", "decode_chunk_size")


class UnusualConditionWarning(UserWarning):
    """Allowed, but outside what Stability's own script calls usual."""


def _number(name: str, value: Any) -> Any:
    """A Python int or float, checked by name."""
    if name in WHOLE:
        return whole(name, value, LEAST.get(name, 0), MOST[name])
    found = number(name, value, LEAST.get(name, 0), MOST.get(name, math.inf))
    return int(value) if isinstance(value, Integral) and found <= 2**53 else found


@dataclass(frozen=True)
class Conditions:
    """One clip's conditions; what is not allowed raises InputError.

    fps: frames per second as diffusers counts, >= 1. motion_bucket_id: >= 0, usual up to 255.
    noise_aug_strength: standard deviation of the noise on the input image in [-1, 1], >= 0.
    min_guidance_scale, max_guidance_scale: the ends of guidance_curve; both <= 1 turns guidance off.
    guidance_curve: linear | triangle (up and down again, as Stability's TrianglePredictionGuider), or one number per frame.
    guidance_interval: (low, high) in sigma: outside it guidance is 1 (Kynkaanniemi et al. 2024).
    num_frames, height, width: None for the checkpoint's own. decode_chunk_size: frames per VAE call, None for what
    fits (on a CPU all); it changes pixels. playback_fps: of the player, None for fps. scheduler: the sampler, one of
    SCHEDULERS by diffusers' name, None for the pipeline's own.
    """

    fps: int = 7
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0
    guidance_curve: str | tuple[float, ...] = "linear"
    guidance_interval: tuple[float, float] | None = None
    num_frames: int | None = None
    num_inference_steps: int = 25
    height: int | None = None
    width: int | None = None
    decode_chunk_size: int | None = None
    playback_fps: float | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not field.name.startswith(("guidance_", "scheduler")) and (value is not None or field.default is not None):
                object.__setattr__(self, field.name, _number(field.name, value))
        if self.scheduler is not None and not re.fullmatch(r"\w+Scheduler", text("scheduler", self.scheduler)):
            raise InputError(f"scheduler={shown(self.scheduler)}: give one of {', '.join(SCHEDULERS)}.")
        if self.min_guidance_scale > self.max_guidance_scale:
            given = f"min_guidance_scale={self.min_guidance_scale}, max_guidance_scale={self.max_guidance_scale}"
            raise InputError(f"{given}: need min <= max.")
        curve, interval = self.guidance_curve, self.guidance_interval
        if not isinstance(curve, (Sequence, np.ndarray)) or (isinstance(curve, str) and curve not in GUIDANCE_CURVES):
            raise InputError(f"guidance_curve={shown(curve)}: give {', '.join(GUIDANCE_CURVES)}, or one number per frame.")
        if not isinstance(curve, str):
            object.__setattr__(self, "guidance_curve", several("guidance_curve", curve, partial(number, least=0), 2))
            if self.num_frames not in (None, len(curve)):
                raise InputError(f"guidance_curve has {len(curve)} numbers for {self.num_frames} frames.")
        if interval is not None:
            pair = several("guidance_interval", interval, partial(number, least=0))
            if len(pair) != 2 or pair[0] >= pair[1]:
                raise InputError(f"guidance_interval={shown(interval)}: give (low, high) in sigma, low < high.")
            object.__setattr__(self, "guidance_interval", pair)

    @property
    def fps_id(self) -> int:
        """The number that the UNet sees: fps - 1."""
        return self.fps - 1

    @property
    def guided(self) -> bool:
        """Whether any frame has a guidance scale above 1."""
        return bool(self.guidance(self.num_frames or 2).max() > 1)

    def guidance(self, num_frames: int) -> np.ndarray:
        """Guidance scale per frame "f".

        >>> Conditions(guidance_curve="triangle").guidance(5).tolist()
        [1.0, 2.0, 3.0, 2.0, 1.0]
        """
        low, high = self.min_guidance_scale, self.max_guidance_scale
        if not isinstance(self.guidance_curve, str):
            return np.asarray(self.guidance_curve, dtype=float)
        if self.guidance_curve == "linear":
            return np.linspace(low, high, num_frames)
        v = np.linspace(0, 1, num_frames)
        return 2 * np.abs(v - np.floor(v + 0.5)) * (high - low) + low

    def replace(self, **changes: Any) -> Conditions:
        """A copy with some values changed; an unknown name raises InputError with the known ones."""
        known = [field.name for field in fields(self)]
        if unknown := [name for name in changes if name not in known]:
            raise InputError(f"unknown condition {', '.join(map(repr, unknown))}: the conditions are {', '.join(known)}.")
        return replace(self, **changes)

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def unusual(self, size: tuple[int, int]) -> list[str]:
        """What Stability's simple_video_sample.py would warn of; size is the checkpoint's own (height, width)."""
        h, w = size
        found = {
            f"motion_bucket_id={self.motion_bucket_id} is above 255": self.motion_bucket_id > 255,
            f"fps={self.fps} (fps_id {self.fps_id}) is outside 6 to 31": not 5 <= self.fps_id <= 30,
            f"{self.width}x{self.height} is not the checkpoint's {w}x{h}": (self.height or h, self.width or w) != (h, w),
        }
        return [message for message, is_so in found.items() if is_so]


PRESETS = {
    "SVD": Conditions(max_guidance_scale=2.5, num_frames=14),
    "SVD_XT": Conditions(min_guidance_scale=1.5, num_frames=25, num_inference_steps=30),
    "SVD_1_1": Conditions(min_guidance_scale=1.5, num_frames=25, num_inference_steps=30),
    "DIFFUSERS": Conditions(),
}


@takes(checkpoint=kind(str, os.PathLike))
def conditions_of(checkpoint: str | Path) -> Conditions:
    """A checkpoint's preset, by its name, hub id, file or folder (a fine-tuned one by its UNet); else diffusers' defaults.

    >>> conditions_of("stabilityai/stable-video-diffusion-img2vid-xt-1-1") == PRESETS["SVD_1_1"]
    True
    """
    names = {part.split("--")[-1].lower() for part in Path(checkpoint).parts}  # the hub does not mind the case
    for preset, repository in REPOSITORIES.items():
        if str(checkpoint) == preset or repository.split("/")[1] in names:
            return PRESETS[preset]
    if named := file_preset(checkpoint):
        return PRESETS[named]
    folder = Path(checkpoint)
    home = folder.parents[1] if folder.parent.name == "snapshots" else folder  # the hub's cache has links to its blobs
    try:
        file = Path(os.path.realpath(folder / "unet" / "config.json"))
        unet = read_json(file) if file.is_relative_to(os.path.realpath(home)) else {}
        preset = {14: "SVD", 25: "SVD_XT"}[unet["num_frames"]]
        return PRESETS[preset if unet["block_out_channels"] == [320, 640, 1280, 1280] else "DIFFUSERS"]
    except (OSError, ValueError, KeyError, TypeError):
        return PRESETS["DIFFUSERS"]


@takes(file=kind(str, os.PathLike))
def file_preset(file: str | os.PathLike[str]) -> str | None:
    """The preset that a single file's name tells.

    >>> file_preset("checkpoints/svd_xt_1_1.fp16.safetensors"), file_preset("mine.safetensors")
    ('SVD_1_1', None)
    """
    name = re.sub(r"^stable_video_diffusion_img2vid", "svd", re.sub(r"[-.]", "_", Path(file).name.lower()))
    found = re.fullmatch(r"(svd_xt_1_1|svd_xt|svd)(_fp16|_fp32|_bf16)?_safetensors", name)
    return SINGLE_FILES[found[1]] if found else None


@dataclass(frozen=True)
class Source:
    """Where a pipeline's weights come from, and the frame size they are made for. label: what figures must say. stimuli:
    the set of images (`svdlab.probes.Stimuli`) that this checkpoint is meant for. variant: of the weight files. lora,
    lora_hash, lora_scale: inside `svdlab.lora`, the file's name, its SHA-256 and the strength."""

    checkpoint: str = ""
    revision: str | None = None
    weights_hash: str | None = None
    height: int = 576  # of Stability's checkpoints, whatever unet.config.sample_size says
    width: int = 1024
    label: str = ""
    licence: str = ""
    stimuli: str = "photographs"
    variant: str | None = None
    lora: str = ""
    lora_hash: str = ""
    lora_scale: float = 0.0

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            whole(name, getattr(self, name), LEAST[name], MOST[name])
        for name in ("checkpoint", "revision", "weights_hash", "variant"):
            None if getattr(self, name) is None else text(name, getattr(self, name), 0)
        for name in ("label", "licence", "lora", "lora_hash"):
            line(name, getattr(self, name))
        number("lora_scale", self.lora_scale)
        one_of("stimuli", self.stimuli, ("photographs", "world"))


def line(name: str, value: Any) -> str:
    """One line of at most 500 characters, without control characters: what a terminal and a figure can show as it is."""
    if len(found := text(name, value, 0)) > 500 or not found.isprintable():
        raise InputError(f"{name}={shown(found)}: give one line of at most 500 printable characters.")
    return found


def resolve(pipe: Any, conditions: Conditions, fitting: Callable[[int, int, int], int] | None = None) -> Conditions:
    """Conditions with the checkpoint's own number of frames and size where they were None, and the chunk that fits.

    fitting: `memory.fitting_chunk` of this pipeline, where a caller with many rows keeps its answers. Raises InputError where
    the size does not suit the model's levels.
    """
    from svdlab.pipeline.memory import fitting_chunk  # with torch, which conditions alone do not need

    source, frames = getattr(pipe, "source", Source()), conditions.num_frames or pipe.unet.config.num_frames
    height, width = conditions.height or source.height, conditions.width or source.width
    least = max(pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1), 8)
    if height % least or width % least:
        raise InputError(f"{width}x{height} px: both sides must be multiples of {least}, by the VAE's and the UNet's levels.")
    own, scheduler = type(pipe.scheduler).__name__, conditions.scheduler
    if scheduler not in (None, own, *SCHEDULERS):
        raise InputError(f"{scheduler} does not work on SVD's noise levels: give scheduler= one of {', '.join(SCHEDULERS)}.")
    chunk = conditions.decode_chunk_size or (fitting or partial(fitting_chunk, pipe))(frames, height, width)
    filled = conditions.replace(num_frames=frames, height=height, width=width, decode_chunk_size=chunk)
    return filled.replace(scheduler=None) if scheduler == own else filled
