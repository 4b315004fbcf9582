"""Clips whose answer is known, made from a probe's own stimuli: what audits and recovery tests hold the instruments against.

    >>> through_autoencoder(pipe, still(picture, 8))     # nothing moves, at the checkpoint's size and codec
    >>> panned(picture, 8, px=1.0)                       # the camera goes right by 1 px a frame
    >>> fading(frames, blur=0.3, shift=0.01)             # blurs and drifts in colour by known amounts a frame

Frames are float32 "f h w 3" in [0, 1]; nothing here knows which probe asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage

from svdlab.pipeline.generate import ProbePipeline, decode_latents

FRAMES = 4  # of a control clip: enough for every measure, a sixth of SVD's cost to decode


def still(picture: np.ndarray, frames: int = FRAMES) -> np.ndarray:
    """One picture "h w 3", repeated."""
    return np.repeat(picture[None], frames, axis=0).astype(np.float32)


def panned(picture: np.ndarray, frames: int = FRAMES, *, px: float) -> np.ndarray:
    """The picture under a camera that goes right by so many px a frame; beyond its border the picture is mirrored."""
    # Colour by colour, from spline coefficients made once: the same pictures in a sixth of the time.
    planes = [ndimage.spline_filter(picture[..., c], order=3, mode="mirror") for c in range(picture.shape[-1])]
    view = lambda t: [ndimage.shift(p, (0, -px * t), order=3, mode="mirror", prefilter=False) for p in planes]
    return np.clip(np.stack([np.stack(view(t), -1) for t in range(frames)]), 0, 1).astype(np.float32)


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Every frame blurred by a Gaussian of sigma px."""
    return ndimage.gaussian_filter(frames, (0, sigma, sigma, 0)).astype(np.float32)


def fading(frames: np.ndarray, *, blur: float = 0.0, shift: float = 0.0, start: int = 0) -> np.ndarray:
    """Frame t blurred by sigma blur * (start + t) px, its red raised and its blue lowered by shift * (start + t)."""
    out = []
    for t, frame in enumerate(frames, start=start):
        sigma = blur * t
        faded = ndimage.gaussian_filter(frame, (sigma, sigma, 0)) if sigma else frame
        out.append(faded + np.array([shift, 0, -shift], np.float32) * t)
    return np.clip(np.stack(out), 0, 1).astype(np.float32)


def through_autoencoder(pipe: ProbePipeline, frames: np.ndarray, chunk: int | None = None) -> np.ndarray:
    """The frames encoded and decoded, `chunk` at a time (default all together): what is left when nothing is denoised."""
    return decode(pipe, encode(pipe, frames), chunk)


def encode(pipe: ProbePipeline, frames: np.ndarray) -> torch.Tensor:
    """Latents "f c h w" in the decoder's scale, frame by frame, as the pipeline encodes its picture (the mode).

    A frame that repeats the one before is not encoded again.
    """
    vae, dtype = pipe.vae, pipe.vae.dtype
    overflows = dtype == torch.float16 and vae.config.force_upcast  # the pipeline casts it to encode, too
    if overflows:
        vae.to(dtype=torch.float32)
    try:
        rows: list[torch.Tensor] = []
        device = pipe._execution_device
        for t, frame in enumerate(frames):
            if t and np.array_equal(frame, frames[t - 1]):
                rows.append(rows[-1])
                continue
            x = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None] * 2 - 1
            with torch.no_grad():
                rows.append(vae.encode(x.to(device=device, dtype=vae.dtype)).latent_dist.mode())
    finally:
        if overflows:
            vae.to(dtype=dtype)
    return (torch.cat(rows) * vae.config.scaling_factor).to(dtype)


def decode(pipe: ProbePipeline, latents: Any, chunk: int | None = None) -> np.ndarray:
    """Frames of latents "f c h w", `chunk` at a time."""
    with torch.no_grad():
        return decode_latents(pipe, latents, chunk or len(latents))
