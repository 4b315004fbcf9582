"""What SVD is conditioned on, with diffusers' own argument names, checked before any model runs.

    >>> Conditions(fps=7, motion_bucket_id=180).fps_id
    6
    >>> PRESETS["SVD_1_1"].num_inference_steps
    30

`fps` is diffusers' argument, of which the UNet sees `fps_id = fps - 1`. Stability's script embeds its number as it is, so
its fps_id 6 is fps=7 here. `playback_fps` is the player's: it changes no pixel, and px/s is computed from it alone.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from svdlab.errors import InputError

GUIDANCE_CURVES = ("linear", "constant", "triangle", "trapezoid", "trapezoid_ones")
REPOSITORIES = {
    "SVD": "stabilityai/stable-video-diffusion-img2vid",
    "SVD_XT": "stabilityai/stable-video-diffusion-img2vid-xt",
    "SVD_1_1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}
LIMITS = {  # name: least value, whole numbers only, what to know
    "fps": (1, False, "the UNet sees fps - 1"),
    "motion_bucket_id": (0, False, "usual are 1 to 255"),
    "noise_aug_strength": (0, False, "usual is 0.02"),
    "min_guidance_scale": (0, False, "1 turns guidance off"),
    "max_guidance_scale": (0, False, "1 turns guidance off"),
    "num_frames": (2, True, "None is the checkpoint's own"),
    "num_inference_steps": (1, True, "usual are 25 or 30"),
    "height": (8, True, "None is the checkpoint's own"),
    "width": (8, True, "None is the checkpoint's own"),
    "decode_chunk_size": (1, True, "None decodes all frames at once"),
    "playback_fps": (0.01, False, "None is fps"),
}


class UnusualConditionWarning(UserWarning):
    """Allowed, but outside what Stability's own script calls usual."""


def _number(name: str, value: Any) -> Any:
    """A Python int or float within the limits of that name."""
    least, whole, note = LIMITS.get(name, (-math.inf, False, ""))
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real) or not math.isfinite(value):
        raise InputError(f"{name}={value!r}: must be a {'whole' if whole else 'finite'} number. {note}".rstrip())
    if value < least:
        raise InputError(f"{name}={value!r}: must be at least {least}; {note}.")
    return int(value) if isinstance(value, Integral) else float(value)


@dataclass(frozen=True)
class Conditions:
    """One clip's conditions. Invalid values raise InputError at once; merely unusual ones are warned of by `warn_unusual`.

    fps: frames per second as diffusers counts, >= 1. motion_bucket_id: >= 0, usual up to 255.
    noise_aug_strength: standard deviation of the noise on the input image in [-1, 1], >= 0.
    min_guidance_scale, max_guidance_scale: at the two ends of guidance_curve, per frame; both <= 1 turns guidance off.
    guidance_curve: linear | constant (the maximum throughout) | triangle | trapezoid, or one number per frame.
    guidance_interval: (low, high) in sigma: outside it guidance is 1 (Kynkaanniemi et al. 2024); None: everywhere.
    num_frames, height, width: None for the checkpoint's own. decode_chunk_size: frames per VAE call, None for all;
    it changes pixels. playback_fps: frames per second of the player, for px/s and video files only.
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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in LIMITS and (value is not None or field.default is not None):
                object.__setattr__(self, field.name, _number(field.name, value))
        if self.min_guidance_scale > self.max_guidance_scale:
            low, high = self.min_guidance_scale, self.max_guidance_scale
            raise InputError(f"min_guidance_scale={low}, max_guidance_scale={high}: need min <= max.")
        curve, interval = self.guidance_curve, self.guidance_interval
        if not isinstance(curve, (str, Sequence, np.ndarray)) or (isinstance(curve, str) and curve not in GUIDANCE_CURVES):
            raise InputError(f"guidance_curve={curve!r}: give {', '.join(GUIDANCE_CURVES)}, or one number per frame.")
        if not isinstance(curve, str):
            curve = tuple(float(_number("guidance_curve", v)) for v in curve)
            object.__setattr__(self, "guidance_curve", curve)
            if self.num_frames not in (None, len(curve)):
                raise InputError(f"guidance_curve has {len(curve)} numbers for {self.num_frames} frames.")
        if interval is not None:
            pair = tuple(_number("guidance_interval", v) for v in interval)
            if len(pair) != 2 or not 0 <= pair[0] < pair[1]:
                raise InputError(f"guidance_interval={interval!r}: give (low, high) in sigma, 0 <= low < high.")
            object.__setattr__(self, "guidance_interval", (float(pair[0]), float(pair[1])))

    @property
    def fps_id(self) -> int:
        """The number that the UNet sees: fps - 1."""
        return self.fps - 1

    @property
    def guided(self) -> bool:
        """Whether any frame has a guidance scale above 1, so that the unconditional half is computed."""
        return bool(self.guidance(self.num_frames or 2).max() > 1)

    def guidance(self, num_frames: int) -> np.ndarray:
        """Guidance scale per frame "f"."""
        if not isinstance(self.guidance_curve, str):
            return np.asarray(self.guidance_curve, dtype=float)
        return guidance_curve(self.guidance_curve, num_frames, self.min_guidance_scale, self.max_guidance_scale)

    def replace(self, **changes: Any) -> Conditions:
        """A copy with some values changed; an unknown name raises InputError with the known ones."""
        check_names(changes)
        return replace(self, **changes)

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def unusual(self, size: tuple[int, int] | None = None) -> list[str]:
        """What Stability's simple_video_sample.py would warn of; size is the checkpoint's own (height, width)."""
        height, width = size or (self.height, self.width)
        tall, wide = self.height or height, self.width or width
        found = {
            f"motion_bucket_id={self.motion_bucket_id} is above 255": self.motion_bucket_id > 255,
            f"fps={self.fps} (fps_id {self.fps_id}) is outside 6 to 31": not 5 <= self.fps_id <= 30,
            f"{wide}x{tall} is not the checkpoint's {width}x{height}": (tall, wide) != (height, width),
        }
        return [message for message, is_so in found.items() if is_so]

    def warn_unusual(self, size: tuple[int, int] | None = None) -> None:
        for message in self.unusual(size):
            warnings.warn(message + ": results may suffer.", UnusualConditionWarning, stacklevel=3)


_XT = Conditions(fps=7, min_guidance_scale=1.5, max_guidance_scale=3.0, num_frames=25, num_inference_steps=30)
PRESETS = {
    "SVD": Conditions(fps=7, min_guidance_scale=1.0, max_guidance_scale=2.5, num_frames=14, num_inference_steps=25),
    "SVD_XT": _XT,
    "SVD_1_1": _XT,
    "DIFFUSERS": Conditions(),
}


def conditions_of(checkpoint: str | Path) -> Conditions:
    """The preset that a checkpoint was made for, by its name, hub id or folder; diffusers' defaults for any other.

    >>> conditions_of("stabilityai/stable-video-diffusion-img2vid-xt-1-1") == PRESETS["SVD_1_1"]
    True

    A folder is known by its name (the repository's own, or that of the hub's cache), else by a UNet of SVD's size.
    """
    name, parts = str(checkpoint), Path(checkpoint).parts
    for preset, repository in REPOSITORIES.items():
        owner, _, model = repository.partition("/")
        if name in (preset, repository) or model in parts or f"models--{owner}--{model}" in parts:
            return PRESETS[preset]
    try:
        unet = json.loads((Path(name) / "unet" / "config.json").read_text())
        preset = {14: "SVD", 25: "SVD_XT"}[unet["num_frames"]]
        return PRESETS[preset if unet["block_out_channels"] == [320, 640, 1280, 1280] else "DIFFUSERS"]
    except (OSError, ValueError, KeyError, TypeError):
        return PRESETS["DIFFUSERS"]


def check_names(changes: dict[str, Any]) -> None:
    """Raises InputError where a name is no condition."""
    known = [f.name for f in fields(Conditions)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise InputError(f"unknown condition {', '.join(map(repr, unknown))}: the conditions are {', '.join(known)}.")


def guidance_curve(
    name: str, num_frames: int, low: float, high: float, *, period: float | Sequence[float] = 1.0, fuse: str = "max"
) -> np.ndarray:
    """Guidance per frame "f", after Stability's guiders (generative-models, sgm/modules/diffusionmodules/guiders.py).

    >>> guidance_curve("triangle", 5, 1.0, 3.0).tolist()
    [1.0, 2.0, 3.0, 2.0, 1.0]

    linear: linspace(low, high). constant: high. triangle: 2*|v/p - floor(v/p + 1/2)| over v = linspace(0, 1), one or
    several periods p fused by max, mean or multiply. trapezoid: rises over the first 10 % of the frames, stays at high,
    falls; Stability's file has ones on the plateau, which is 'trapezoid_ones' here.
    """
    fuses: dict[str, Any] = {"max": np.max, "mean": np.mean, "multiply": np.prod}
    if name not in GUIDANCE_CURVES or fuse not in fuses:
        raise InputError(f"guidance_curve={name!r}, fuse={fuse!r}: give {', '.join(GUIDANCE_CURVES)}; {', '.join(fuses)}.")
    if name == "linear":
        return np.linspace(low, high, num_frames)
    if name == "constant":
        return np.full(num_frames, float(high))
    if name == "triangle":
        v = np.linspace(0, 1, num_frames) / np.atleast_1d(period)[:, None]
        return fuses[fuse](2 * np.abs(v - np.floor(v + 0.5)), axis=0) * (high - low) + low
    edge = int(num_frames * 0.1)  # none below ten frames, as in the original
    plateau = np.full(num_frames - 2 * edge, 1.0 if name == "trapezoid_ones" else float(high))
    rise = np.linspace(low, high, edge)
    return np.concatenate([rise, plateau, rise[::-1]])
