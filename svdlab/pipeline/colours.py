"""Latents as colours: one linear map per checkpoint, fitted on what its own VAE makes of known pictures.

    >>> tr.colours.shape                          # "c+1 3": from the channels and 1 to red, green, blue
    (5, 3)
    >>> colour(tr.denoised[0], tr.colours)        # "f h w 3" in [0, 1]

A preview at the latents' own resolution, without running the decoder: right in colour and place, without detail.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch

_KNOWN: WeakKeyDictionary[Any, np.ndarray | None] = WeakKeyDictionary()  # by VAE; nothing is left on the pipeline
LARGEST = 256  # px of a field's longer side: one map serves every site, so a larger picture would add little but cost
SATURATIONS = (0.0, 0.0, 0.2, 0.4, 0.7, 1.0)  # of the smooth random fields: pictures are more often pale than not


def of(pipe: Any) -> np.ndarray | None:
    """The map of a pipeline's VAE, float32 "c+1 3", fitted on first use and remembered; None where the VAE
    overflows.

    The pictures are smooth colour fields from a fixed seed, at the checkpoint's own shape up to LARGEST px, so that the
    same weights give the same map in every session. Costs as many encodings as there are SATURATIONS, once.
    """
    if pipe.vae not in _KNOWN:
        source = getattr(pipe, "source", None)
        height, width = _shape(pipe, source) if source else (LARGEST, LARGEST)
        rng = np.random.default_rng(0)
        latents, pictures = [], []
        dtype = pipe.vae.dtype
        overflows = dtype == torch.float16 and pipe.vae.config.force_upcast  # the pipeline casts it to encode, too
        slow = dtype != torch.float32 and pipe._execution_device.type == "cpu"  # by two hundred times, bfloat16 on AVX2
        if overflows or slow:
            pipe.vae.to(dtype=torch.float32)
        for saturation in SATURATIONS:
            grey, hue = rng.random((5, 5, 1), dtype=np.float32), rng.random((5, 5, 3), dtype=np.float32)
            coarse = grey + np.float32(saturation) * (hue - grey)
            picture = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
            latents.append(_encode(pipe, picture))
            pictures.append(picture)
        if overflows or slow:
            pipe.vae.to(dtype=dtype)
        z = np.stack(latents)
        _KNOWN[pipe.vae] = fit(z, np.stack(pictures)) if np.isfinite(z).all() else None
        pipe.maybe_free_model_hooks()
    return _KNOWN[pipe.vae]


def _shape(pipe: Any, source: Any) -> tuple[int, int]:
    """The checkpoint's height and width, both divided by the same number where they are large, in whole latents."""
    by, unit = max(1.0, max(source.height, source.width) / LARGEST), pipe.vae_scale_factor
    return max(1, round(source.height / by / unit)) * unit, max(1, round(source.width / by / unit)) * unit


def fit(latents: Any, pictures: np.ndarray) -> np.ndarray:
    """Least squares from latents "n c h w" (and 1) to pictures "n H W 3" averaged to h x w; float32 "c+1 3"."""
    z = np.asarray(latents, dtype=np.float64)
    n, c, h, w = z.shape
    small = np.stack([cv2.resize(np.asarray(p, np.float32), (w, h), interpolation=cv2.INTER_AREA) for p in pictures])
    sites = np.concatenate([z.transpose(0, 2, 3, 1).reshape(-1, c), np.ones((n * h * w, 1))], axis=1)
    return np.linalg.lstsq(sites, small.reshape(-1, 3).astype(np.float64), rcond=None)[0].astype(np.float32)


def colour(latents: Any, colours: np.ndarray) -> np.ndarray:
    """Latents "... c h w" as pictures "... h w 3" in [0, 1]."""
    z = np.moveaxis(np.asarray(latents, dtype=np.float32), -3, -1)
    return np.clip(z @ colours[:-1] + colours[-1], 0, 1)


@torch.no_grad()
def _encode(pipe: Any, picture: np.ndarray) -> np.ndarray:
    """A picture "h w 3" in [0, 1] to latents "c h w" on the scale that denoising works on."""
    vae = pipe.vae
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1
    x = x.to(device=pipe._execution_device, dtype=vae.dtype)
    return (vae.encode(x).latent_dist.mode()[0] * vae.config.scaling_factor).float().cpu().numpy()
