"""What SVD is conditioned on, with diffusers' own argument names, checked before any model runs.

    >>> Conditions(fps=7, motion_bucket_id=180).fps_id
    6
    >>> PRESETS["SVD_1_1"].num_inference_steps
    30

fps is a trap: `fps` here is diffusers' argument, of which the UNet sees `fps_id = fps - 1`. Stability's
script embeds its number as it is, so its fps_id 6 is fps=7 here. `playback_fps` is what a player is told; it
changes no pixel and is the only one that px/s is computed from.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from svdlab.errors import InputError

GUIDANCE_CURVES = ("linear", "constant", "triangle", "trapezoid", "trapezoid_ones")


class UnusualConditionWarning(UserWarning):
    """Allowed, but outside what Stability's own script calls usual."""


@dataclass(frozen=True)
class Conditions:
    """One clip's conditions. Invalid values raise InputError at once; merely unusual ones are warned of by `warn_unusual`.

    fps: frames per second as diffusers counts, >= 1. motion_bucket_id: >= 0, usual up to 255.
    noise_aug_strength: standard deviation of the noise on the input picture in [-1, 1], >= 0.
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
        for name in ("fps", "motion_bucket_id"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.fps < 1:
            raise InputError(f"fps={self.fps!r}: frames per second must be at least 1 (the UNet sees fps - 1).")
        if self.motion_bucket_id < 0:
            raise InputError(f"motion_bucket_id={self.motion_bucket_id!r}: must be 0 or more; usual are 1 to 255.")
        if _number("noise_aug_strength", self.noise_aug_strength) < 0:
            raise InputError(f"noise_aug_strength={self.noise_aug_strength!r}: must be 0 or more; usual is 0.02.")
        low = _number("min_guidance_scale", self.min_guidance_scale)
        high = _number("max_guidance_scale", self.max_guidance_scale)
        if low < 0 or high < 0 or low > high:
            raise InputError(
                f"min_guidance_scale={low}, max_guidance_scale={high}: need 0 <= min <= max; 1.0 and 1.0 turn guidance off."
            )
        self._check_curve()
        whole = dict(num_frames=2, num_inference_steps=1, height=8, width=8, decode_chunk_size=1)
        for name, least in whole.items():
            value = getattr(self, name)
            if value is None and name != "num_inference_steps":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise InputError(f"{name}={value!r}: must be a whole number of at least {least}.")
            object.__setattr__(self, name, int(value))
        if self.playback_fps is not None and _number("playback_fps", self.playback_fps) <= 0:
            raise InputError(f"playback_fps={self.playback_fps!r}: must be above 0, or None.")

    def _check_curve(self) -> None:
        curve = self.guidance_curve
        if isinstance(curve, str):
            if curve not in GUIDANCE_CURVES:
                raise InputError(f"guidance_curve={curve!r}: give {', '.join(GUIDANCE_CURVES)}, or one number per frame.")
        elif isinstance(curve, (Sequence, np.ndarray)):
            values = tuple(float(_number("guidance_curve", v)) for v in curve)
            object.__setattr__(self, "guidance_curve", values)
            if self.num_frames is not None and len(values) != self.num_frames:
                raise InputError(f"guidance_curve has {len(values)} numbers for {self.num_frames} frames.")
        else:
            raise InputError(f"guidance_curve={curve!r}: give a curve's name or one number per frame.")
        if self.guidance_interval is not None:
            interval = tuple(self.guidance_interval)
            if len(interval) != 2 or not 0 <= _number("guidance_interval", interval[0]) < interval[1]:
                raise InputError(f"guidance_interval={interval!r}: give (low, high) in sigma, 0 <= low < high.")
            object.__setattr__(self, "guidance_interval", (float(interval[0]), float(interval[1])))

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
        found = []
        if self.motion_bucket_id > 255:
            found.append(f"motion_bucket_id={self.motion_bucket_id} is above 255")
        if not 5 <= self.fps_id <= 30:
            found.append(f"fps={self.fps} (fps_id {self.fps_id}) is outside 6 to 31")
        asked = (self.height, self.width)
        if size and any(a is not None and a != s for a, s in zip(asked, size, strict=True)):
            found.append(f"{asked[1] or size[1]}x{asked[0] or size[0]} is not the checkpoint's {size[1]}x{size[0]}")
        return found

    def warn_unusual(self, size: tuple[int, int] | None = None) -> None:
        for message in self.unusual(size):
            warnings.warn(message + ": results may suffer.", UnusualConditionWarning, stacklevel=3)


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

    linear: linspace(low, high). triangle: 2*|v/p - floor(v/p + 1/2)| over v = linspace(0, 1), one or several
    periods p fused by max, mean or multiply. trapezoid: rises over the first 10 % of the frames, stays at high,
    falls; Stability's file has ones instead of its maximum on the plateau, which is 'trapezoid_ones' here.
    constant: high.
    """
    if name == "linear":
        return np.linspace(low, high, num_frames)
    if name == "constant":
        return np.full(num_frames, float(high))
    if name == "triangle":
        v = np.linspace(0, 1, num_frames)
        periods = [period] if isinstance(period, Real) else list(period)  # type: ignore[arg-type]
        waves = np.stack([2 * np.abs(v / p - np.floor(v / p + 0.5)) for p in periods])
        fused = {"max": waves.max(0), "mean": waves.mean(0), "multiply": waves.prod(0)}
        if fuse not in fused:
            raise InputError(f"fuse={fuse!r}: give max, mean or multiply.")
        return fused[fuse] * (high - low) + low
    if name in ("trapezoid", "trapezoid_ones"):
        edge = int(num_frames * 0.1)  # none below ten frames, as in the original
        plateau = np.full(num_frames - 2 * edge, 1.0 if name == "trapezoid_ones" else float(high))
        rise = np.linspace(low, high, edge)
        return np.concatenate([rise, plateau, rise[::-1]])
    raise InputError(f"guidance_curve={name!r}: give one of {', '.join(GUIDANCE_CURVES)}.")


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{name}={value!r}: must be a finite number.")
    return int(value) if isinstance(value, Integral) else float(value)


_XT = Conditions(fps=7, min_guidance_scale=1.5, max_guidance_scale=3.0, num_frames=25, num_inference_steps=30)
PRESETS = {
    "SVD": Conditions(fps=7, min_guidance_scale=1.0, max_guidance_scale=2.5, num_frames=14, num_inference_steps=25),
    "SVD_XT": _XT,
    "SVD_1_1": _XT,
    "DIFFUSERS": Conditions(),
}
