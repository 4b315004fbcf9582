"""How faithful a clip stays to its input image and to itself: drift, flicker, sharpness, saturation, reconstruction.

    >>> drift(clip.frames, clip.image)["drift_mse_last"]         # the last frame against the input image
    >>> summary(clip.frames, clip.image)                         # all of it, one flat dict per clip

Frames are "f h w c" in [0, 1], see `svdlab.measure.frames.as_frames`, whose InputErrors these functions raise, also for an
image of another size than the frames. Nothing here runs a model: the autoencoder's reconstruction is passed in.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from skimage.measure import blur_effect
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svdlab.measure.flow import both_ways, sample
from svdlab.measure.frames import as_frames, as_image

LEVEL = 1 / 255  # what is seen as black or white lies within one 8-bit level of the ends


def drift(frames: Any, image: Any) -> dict[str, float]:
    """How far the clip moves away from its input image: flat dict.

    >>> drift(clip.frames, clip.image)["drift_slope"]

    Keys: `drift_mse_first`, `_last`, `_mean`: mean squared error in [0, 1] against the input; `drift_ssim_first`, `_last`:
    structural similarity (1 is equal); `drift_colour_last`: Euclidean distance of the mean RGB colours (0 to sqrt 3), which
    motion hardly changes; `drift_slope`: rise of the squared error per frame.
    Squared errors grow with any motion: compare clips that move alike, or read `drift_colour_last`.
    """
    clip = as_frames(frames, least=1)
    first = as_image(image, clip.shape[1:])
    error = np.square(clip - first).mean(axis=(1, 2, 3))
    return {
        "drift_mse_first": float(error[0]),
        "drift_mse_last": float(error[-1]),
        "drift_mse_mean": float(error.mean()),
        "drift_ssim_first": ssim(clip[0], first),
        "drift_ssim_last": ssim(clip[-1], first),
        "drift_colour_last": float(np.linalg.norm(clip[-1].mean((0, 1)) - first.mean((0, 1)))),
        "drift_slope": slope(error),
    }


def flicker(frames: Any) -> dict[str, float]:
    """Changes of brightness from frame to frame that are not motion: flat dict, in units of [0, 1].

    >>> flicker(clip.frames)["flicker_brightness"]       # 0.01: the mean grey jumps by 1 % of full scale

    `flicker_brightness`: root mean square second difference of the frames' mean grey, which a steady fade leaves at 0;
    `flicker_mae`: mean absolute difference of neighbouring frames, motion included.
    """
    clip = as_frames(frames)
    jumps = np.diff(clip.mean(axis=(1, 2, 3), dtype=np.float64), 2)
    return {
        "flicker_brightness": float(np.sqrt(np.square(jumps).mean())) if len(jumps) else math.nan,
        "flicker_mae": float(np.mean([np.abs(b - a).mean() for a, b in pairwise(clip)])),
    }


def warp_error(frames: Any) -> dict[str, float]:
    """What remains between neighbouring frames after motion is undone, where nothing is hidden: flat dict.

    >>> warp_error(clip.frames)["warp_error"]

    `warp_error`: root mean square of the later frame, brought back along the flow of each pair on its own, minus the earlier
    one, over visible pixels, in [0, 1]; `hidden_share`: the share of pixels left out.
    """
    clip = as_frames(frames)
    both = both_ways(clip, longest_baseline=1)
    y, x = np.mgrid[: clip.shape[1], : clip.shape[2]].astype(np.float32)
    errors = []
    for t, (f, seen) in enumerate(zip(both.forward, both.visible, strict=True)):
        back = sample(clip[t + 1], x + f[..., 0], y + f[..., 1])
        errors.append(float(np.square(back - clip[t])[seen].mean()) if seen.any() else math.nan)
    return {
        "warp_error": float(np.sqrt(np.nanmean(errors))) if np.isfinite(errors).any() else math.nan,
        "hidden_share": float(np.mean([1 - float(seen.mean()) for seen in both.visible])),
    }


def per_frame(frames: Any) -> pd.DataFrame:
    """A row per frame: blur, contrast, saturation, brightness, and the share of pixels at either end.

    >>> per_frame(clip.frames).plot(y="blur")

    `blur`: 0 sharp to 1 blurred (Crete et al. 2007, skimage.measure.blur_effect); `brightness` mean grey and `contrast` its
    standard deviation, [0, 1]; `saturation` mean HSV saturation, [0, 1]; `black`, `white`: shares of pixels whose channels all
    lie within one 8-bit level of 0 or of 1.
    """
    clip = as_frames(frames, least=1)
    high, low = clip.max(-1), clip.min(-1)
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    return pd.DataFrame(
        {
            "frame": range(len(clip)),
            "blur": [float(blur_effect(f, channel_axis=-1)) for f in clip],
            "brightness": clip.mean((1, 2, 3)),
            "contrast": clip.mean(-1).std((1, 2)),
            "saturation": [float(f.mean()) for f in saturation],
            "black": (clip < LEVEL).all(-1).mean((1, 2)),
            "white": (clip > 1 - LEVEL).all(-1).mean((1, 2)),
        }
    )


def decay(frames: Any) -> dict[str, float]:
    """How sharpness and colour change over a clip: flat dict, of the numbers of `per_frame`.

    >>> decay(clip.frames)["blur_slope"]                 # above 0: detail is being lost

    `blur_first`, `blur_last`, `blur_slope` and the same of `saturation`; slopes are least squares, per frame;
    `clipped_max`: share of black and white pixels in the worst frame.
    """
    table = per_frame(as_frames(frames))
    found: dict[str, float] = {}
    for name in ("blur", "saturation"):
        values = table[name].to_numpy()
        found |= {f"{name}_first": float(values[0]), f"{name}_last": float(values[-1]), f"{name}_slope": slope(values)}
    return found | {"clipped_max": float((table.black + table.white).max())}


def reconstruction_error(image: Any, reconstruction: Any) -> dict[str, float]:
    """What an autoencoder alone loses of an image: mean squared error, PSNR in dB (inf where equal), SSIM.

    >>> reconstruction_error(image, image)["reconstruction_psnr"]
    inf
    """
    one = as_image(image)
    two = as_image(reconstruction, one.shape)
    error = float(np.square(one - two).mean())
    return {
        "reconstruction_mse": error,
        "reconstruction_psnr": float(peak_signal_noise_ratio(one, two, data_range=1.0)) if error else math.inf,
        "reconstruction_ssim": ssim(one, two),
    }


def summary(frames: Any, image: Any = None) -> dict[str, float]:
    """`flicker`, `warp_error`, `decay` and, where the input image is given, `drift`, in one flat dict.

    >>> summary(clip.frames, clip.image)["warp_error"]
    """
    clip = as_frames(frames)
    result = flicker(clip) | warp_error(clip) | decay(clip)
    return result if image is None else result | drift(clip, image)


def ssim(one: np.ndarray, two: np.ndarray) -> float:
    """Structural similarity of two images "h w 3" in [0, 1] (Wang et al. 2004, window of 7 px, over the colour channels)."""
    return float(structural_similarity(one, two, channel_axis=-1, data_range=1.0))


def slope(values: np.ndarray) -> float:
    """Rise per frame, least squares; NaN for a single frame."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else math.nan
