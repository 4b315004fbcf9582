"""What SVD is conditioned on, by diffusers' argument names, checked before any model runs.

    >>> Conditions(fps=7, motion_bucket_id=180).fps_id, PRESETS["SVD_1_1"].num_inference_steps
    (6, 30)

The UNet sees `fps_id = fps - 1`; Stability's script embeds its number as it is, so its fps_id 6 is fps=7 here.
`playback_fps` changes no pixel, and px/s is computed from it alone.
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

GUIDANCE_CURVES = ("linear", "constant", "triangle", "trapezoid")
REPOSITORIES = {
    "SVD": "stabilityai/stable-video-diffusion-img2vid",
    "SVD_XT": "stabilityai/stable-video-diffusion-img2vid-xt",
    "SVD_1_1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}
LEAST = dict(fps=1, num_frames=2, num_inference_steps=1, height=8, width=8, decode_chunk_size=1, playback_fps=0.01)  # others 0
WHOLE = ("num_frames", "num_inference_steps", "height", "width", "decode_chunk_size")


class UnusualConditionWarning(UserWarning):
    """Allowed, but outside what Stability's own script calls usual."""


def _number(name: str, value: Any) -> Any:
    """A Python int or float, checked by name."""
    if isinstance(value, bool) or not isinstance(value, Integral if name in WHOLE else Real) or not math.isfinite(value):
        raise InputError(f"{name}={value!r}: must be a {'whole' if name in WHOLE else 'finite'} number.")
    if value < LEAST.get(name, 0):
        raise InputError(f"{name}={value!r}: must be at least {LEAST.get(name, 0)}.")
    return int(value) if isinstance(value, Integral) else float(value)


@dataclass(frozen=True)
class Conditions:
    """One clip's conditions; what is not allowed raises InputError.

    fps: frames per second as diffusers counts, >= 1. motion_bucket_id: >= 0, usual up to 255.
    noise_aug_strength: standard deviation of the noise on the input image in [-1, 1], >= 0.
    min_guidance_scale, max_guidance_scale: the ends of guidance_curve; both <= 1 turns guidance off.
    guidance_curve: linear | constant (the maximum) | triangle | trapezoid, or one number per frame.
    guidance_interval: (low, high) in sigma: outside it guidance is 1 (Kynkaanniemi et al. 2024).
    num_frames, height, width: None for the checkpoint's own. decode_chunk_size: frames per VAE call, None for all; it
    changes pixels. playback_fps: of the player, None for fps.
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
            if not field.name.startswith("guidance_") and (value is not None or field.default is not None):
                object.__setattr__(self, field.name, _number(field.name, value))
        low, high = self.min_guidance_scale, self.max_guidance_scale
        if low > high:
            raise InputError(f"min_guidance_scale={low}, max_guidance_scale={high}: need min <= max.")
        curve, interval = self.guidance_curve, self.guidance_interval
        if not isinstance(curve, (Sequence, np.ndarray)) or (isinstance(curve, str) and curve not in GUIDANCE_CURVES):
            raise InputError(f"guidance_curve={curve!r}: give {', '.join(GUIDANCE_CURVES)}, or one number per frame.")
        if not isinstance(curve, str):
            curve = tuple(float(_number("guidance_curve", v)) for v in curve)
            object.__setattr__(self, "guidance_curve", curve)
            if self.num_frames not in (None, len(curve)):
                raise InputError(f"guidance_curve has {len(curve)} numbers for {self.num_frames} frames.")
        if interval is not None:
            pair = tuple(float(_number("guidance_interval", v)) for v in interval)
            if len(pair) != 2 or pair[0] >= pair[1]:
                raise InputError(f"guidance_interval={interval!r}: give (low, high) in sigma, low < high.")
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
        """Guidance scale per frame "f"."""
        if not isinstance(self.guidance_curve, str):
            return np.asarray(self.guidance_curve, dtype=float)
        return guidance_curve(self.guidance_curve, num_frames, self.min_guidance_scale, self.max_guidance_scale)

    def replace(self, **changes: Any) -> Conditions:
        """A copy with some values changed; an unknown name raises InputError with the known ones."""
        known = [field.name for field in fields(self)]
        if unknown := [name for name in changes if name not in known]:
            raise InputError(f"unknown condition {', '.join(map(repr, unknown))}: the conditions are {', '.join(known)}.")
        return replace(self, **changes)

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def unusual(self, size: tuple[int, int] | None = None) -> list[str]:
        """What Stability's simple_video_sample.py would warn of; size is the checkpoint's own (height, width)."""
        h, w = size or (self.height, self.width)
        found = {
            f"motion_bucket_id={self.motion_bucket_id} is above 255": self.motion_bucket_id > 255,
            f"fps={self.fps} (fps_id {self.fps_id}) is outside 6 to 31": not 5 <= self.fps_id <= 30,
            f"{self.width}x{self.height} is not the checkpoint's {w}x{h}": (self.height or h, self.width or w) != (h, w),
        }
        return [message for message, is_so in found.items() if is_so]

    def warn_unusual(self, size: tuple[int, int] | None = None) -> None:
        for message in self.unusual(size):
            warnings.warn(message + ": results may suffer.", UnusualConditionWarning, stacklevel=3)


PRESETS = {
    "SVD": Conditions(max_guidance_scale=2.5, num_frames=14),
    "SVD_XT": Conditions(min_guidance_scale=1.5, num_frames=25, num_inference_steps=30),
    "SVD_1_1": Conditions(min_guidance_scale=1.5, num_frames=25, num_inference_steps=30),
    "DIFFUSERS": Conditions(),
}


def conditions_of(checkpoint: str | Path) -> Conditions:
    """A checkpoint's preset, by its name, hub id or folder (a fine-tuned one by its UNet); else diffusers' defaults.

    >>> conditions_of("stabilityai/stable-video-diffusion-img2vid-xt-1-1") == PRESETS["SVD_1_1"]
    True
    """
    names = {part.split("--")[-1] for part in Path(checkpoint).parts}
    for preset, repository in REPOSITORIES.items():
        if str(checkpoint) == preset or repository.split("/")[1] in names:
            return PRESETS[preset]
    try:
        unet = json.loads(Path(checkpoint, "unet", "config.json").read_text())
        preset = {14: "SVD", 25: "SVD_XT"}[unet["num_frames"]]
        return PRESETS[preset if unet["block_out_channels"] == [320, 640, 1280, 1280] else "DIFFUSERS"]
    except (OSError, ValueError, KeyError, TypeError):
        return PRESETS["DIFFUSERS"]


def guidance_curve(name: str, num_frames: int, low: float, high: float) -> np.ndarray:
    """Guidance per frame "f", after Stability's guiders (generative-models, sgm/modules/diffusionmodules/guiders.py).

    >>> guidance_curve("triangle", 5, 1.0, 3.0).tolist()
    [1.0, 2.0, 3.0, 2.0, 1.0]

    linear: linspace(low, high). constant: high. triangle: 2*|v - floor(v + 1/2)| over v = linspace(0, 1). trapezoid: rises
    over the first 10 % of the frames, stays at high (Stability's file has 1 there), and falls.
    """
    if name not in GUIDANCE_CURVES:
        raise InputError(f"guidance_curve={name!r}: give {', '.join(GUIDANCE_CURVES)}.")
    if name == "linear":
        return np.linspace(low, high, num_frames)
    if name == "triangle":
        v = np.linspace(0, 1, num_frames)
        return 2 * np.abs(v - np.floor(v + 0.5)) * (high - low) + low
    rise = np.linspace(low, high, int(num_frames * 0.1) if name == "trapezoid" else 0)  # none below ten frames
    return np.concatenate([rise, np.full(num_frames - 2 * len(rise), float(high)), rise[::-1]])
