"""Clips with a known answer, made from a probe's own images: audits and recovery tests measure these first.

    >>> photo = np.asarray(scene, np.float32) / 255
    >>> clip = through_autoencoder(pipe, still(photo, 8))       # nothing moves, at the checkpoint's size and codec
    >>> clip = panned(photo, 8, px=1.0)                         # the camera moves right by 1 px/frame
    >>> clip = fading(clip, blur=0.3, shift=0.01)               # blur and colour drift of known size per frame

Frames are float32 "f h w 3" in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from svdlab.pipeline import generate
from svdlab.pipeline.generate import ProbePipeline

FRAMES = 4  # of a control clip: enough for every measure, a sixth of the cost of decoding SVD's 25


def still(image: np.ndarray, frames: int = FRAMES) -> np.ndarray:
    """One image "h w 3", repeated."""
    return np.repeat(image[None], frames, axis=0).astype(np.float32)


def panned(image: np.ndarray, frames: int = FRAMES, *, px: float) -> np.ndarray:
    """The image under a camera that moves right by px per frame; beyond its border the image is mirrored."""
    # Spline coefficients are computed once per colour: the same frames in a sixth of the time.
    planes = [ndimage.spline_filter(image[..., c], order=3, mode="mirror") for c in range(image.shape[-1])]
    view = lambda t: [ndimage.shift(p, (0, -px * t), order=3, mode="mirror", prefilter=False) for p in planes]
    return np.clip(np.stack([np.stack(view(t), -1) for t in range(frames)]), 0, 1).astype(np.float32)


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Every frame blurred by a Gaussian of sigma px."""
    return ndimage.gaussian_filter(frames, (0, sigma, sigma, 0)).astype(np.float32)


def fading(frames: np.ndarray, *, blur: float = 0.0, shift: float = 0.0, start: int = 0) -> np.ndarray:
    """Frame t blurred by sigma blur * (start + t) px, its red raised and its blue lowered by shift * (start + t)."""
    tint = np.array([shift, 0, -shift], np.float32)
    faded = [ndimage.gaussian_filter(f, (blur * t, blur * t, 0)) + t * tint for t, f in enumerate(frames, start)]
    return np.clip(np.stack(faded), 0, 1).astype(np.float32)


def through_autoencoder(pipe: ProbePipeline, frames: np.ndarray, chunk: int | None = None) -> np.ndarray:
    """The frames encoded and decoded, `chunk` at a time (default all together): what is left when nothing is denoised."""
    return decode(pipe, encode(pipe, frames), chunk)


def moved(pipe: ProbePipeline, image: np.ndarray, frames: int, chunk: int | None, *, by: float) -> np.ndarray:
    """An image under a slow pan, of `by` of its width per frame, through the autoencoder: of what is only moved."""
    return through_autoencoder(pipe, panned(image, frames, px=by * image.shape[1]), chunk)


def encode(pipe: ProbePipeline, frames: np.ndarray) -> torch.Tensor:
    """Latents "f c h w" as `svdlab.pipeline.generate.encode` gives them; a frame that repeats is not encoded again."""
    new = [t == 0 or not np.array_equal(frames[t], frames[t - 1]) for t in range(len(frames))]
    return generate.encode(pipe, frames[new])[np.cumsum(new) - 1]


def decode(pipe: ProbePipeline, latents: torch.Tensor, chunk: int | None = None) -> np.ndarray:
    """Frames of latents "f c h w", `chunk` at a time."""
    return generate.decode_latents(pipe, latents, chunk or len(latents))
