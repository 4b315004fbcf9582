"""How faithful a clip stays to its input and to itself: drift, flicker, sharpness, saturation, reconstruction.

    >>> drift(frames, picture)["drift_mse_last"]         # the last frame against the input picture
    >>> summary(frames, picture)                         # all of it, one flat dict per clip

Arrays in ("f h w c" in [0, 1], see `svdlab.measure.frames.as_frames`), a DataFrame with a row per frame or a flat
dict out. Nothing here runs a model: what only a model can make (the autoencoder's reconstruction, image
embeddings) is passed in. Measures that need to know what moves take the flow from `svdlab.motion`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from skimage.color import rgb2hsv
from skimage.measure import blur_effect
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svdlab.errors import InputError
from svdlab.measure.flow import BothWays, both_ways, sample
from svdlab.measure.frames import as_frames, as_picture

LEVELS = 255  # grey levels of an 8-bit picture: what is seen as black or white lies within one of the ends


def drift(frames: Any, picture: Any, *, reconstruction: Any = None, embeddings: Any = None) -> dict[str, float]:
    """How far the clip moves away from its input picture: flat dict.

    >>> drift(frames, picture)
    {'drift_mse_first': 0.0004, 'drift_mse_last': 0.011, ..., 'drift_slope': 0.0004}

    Keys: `drift_mse_first`, `_last`, `_mean`: mean squared error in [0, 1] against the input; `drift_ssim_first`,
    `_last`: structural similarity (1 is equal); `drift_colour_last`: Euclidean distance of the mean RGB colours
    (0 to sqrt 3), which motion hardly changes; `drift_slope`: rise of the squared error per frame. With
    `embeddings` ("f+1 d", the input's first, of any image encoder) also `drift_cosine_first`, `_min`, `_last`
    (similarity to the input; the encoder that conditioned the clip is no independent judge of it). With
    `reconstruction` (the autoencoder's own picture of the input) also `drift_denoiser_first`: squared error of the
    first frame against that, so what the autoencoder loses is not charged to the denoiser.

    Squared errors grow with any motion: compare clips that move alike, or read `drift_colour_last`.

    Raises:
        InputError: frames or pictures that cannot be used, or of different sizes; embeddings of another length.
    """
    clip, first = _same_size(frames, picture)
    error = np.square(clip - first).mean(axis=(1, 2, 3))
    ssim = [_ssim(clip[i], first) for i in (0, -1)]
    result = {
        "drift_mse_first": float(error[0]),
        "drift_mse_last": float(error[-1]),
        "drift_mse_mean": float(error.mean()),
        "drift_ssim_first": ssim[0],
        "drift_ssim_last": ssim[1],
        "drift_colour_last": float(np.linalg.norm(clip[-1].mean((0, 1)) - first.mean((0, 1)))),
        "drift_slope": slope(error),
    }
    if embeddings is not None:
        vectors = unit(embeddings, len(clip) + 1)
        cosine = vectors[1:] @ vectors[0]
        result |= {
            "drift_cosine_first": float(cosine[0]),
            "drift_cosine_min": float(cosine.min()),
            "drift_cosine_last": float(cosine[-1]),
        }
    if reconstruction is not None:
        _, through = _same_size(clip, reconstruction)
        result["drift_denoiser_first"] = float(np.square(clip[0] - through).mean())
    return result


def flicker(frames: Any) -> dict[str, float]:
    """Changes of brightness from frame to frame that are not motion: flat dict, in units of [0, 1].

    >>> flicker(frames)["flicker_brightness"]            # 0.01: the mean grey jumps by 1 % of full scale

    `flicker_brightness`: root mean square second difference of the frames' mean grey, which a steady fade
    leaves at 0; `flicker_mae`: mean absolute difference of neighbouring frames, motion included (VBench's
    temporal flicker is 1 minus that; see `svdlab.measure.published.temporal_flicker`).
    """
    clip = as_frames(frames)
    grey = clip.mean(axis=(1, 2, 3), dtype=np.float64)
    jumps = np.diff(grey, 2)
    return {
        "flicker_brightness": float(np.sqrt(np.square(jumps).mean())) if len(jumps) else math.nan,
        "flicker_mae": float(np.mean([np.abs(b - a).mean() for a, b in pairwise(clip)])),
    }


def warp_error(frames: Any, both: BothWays | None = None) -> dict[str, float]:
    """What remains between neighbouring frames after motion is undone, where nothing is hidden: flat dict.

    >>> warp_error(frames)["warp_error"]

    `warp_error`: root mean square of the later frame, brought back along the flow, minus the earlier one, over
    visible pixels, in [0, 1]; `hidden_share`: the share of pixels left out. Flow is taken pair by pair;
    `both` from `svdlab.motion.both_ways(frames, longest_baseline=1)` saves its time.

    Raises:
        InputError: frames that are not a clip; a flow of longer baselines or another size.
    """
    clip = as_frames(frames)
    both = both or both_ways(clip, longest_baseline=1)
    if both.forward.shape[:3] != (len(clip) - 1, *clip.shape[1:3]) or (both.baseline != 1).any():
        raise InputError("warp_error needs the flow of every pair on its own: both_ways(frames, longest_baseline=1).")
    h, w = clip.shape[1:3]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    errors, hidden = [], []
    for t, f in enumerate(both.forward):
        seen = both.visible[t]
        back = sample(clip[t + 1], x + f[..., 0], y + f[..., 1])
        errors.append(float(np.square(back - clip[t])[seen].mean()) if seen.any() else math.nan)
        hidden.append(1 - float(seen.mean()))
    return {
        "warp_error": float(np.sqrt(np.nanmean(errors))) if np.isfinite(errors).any() else math.nan,
        "hidden_share": float(np.mean(hidden)),
    }


def per_frame(frames: Any) -> pd.DataFrame:
    """A row per frame: blur, contrast, saturation, brightness, and the share of pixels at either end.

    >>> per_frame(frames).plot(y="blur")

    `blur`: 0 sharp to 1 blurred (Crete et al. 2007, skimage.measure.blur_effect); `brightness` mean grey and
    `contrast` its standard deviation, [0, 1]; `saturation` mean HSV saturation, [0, 1]; `black`, `white`: shares of
    pixels whose channels all lie within one 8-bit level of 0 or of 1.
    """
    clip = as_frames(frames, least=1)
    return pd.DataFrame(
        {
            "frame": range(len(clip)),
            "blur": [float(blur_effect(f, channel_axis=-1)) for f in clip],
            "brightness": clip.mean((1, 2, 3)),
            "contrast": clip.mean(-1).std((1, 2)),
            "saturation": [float(rgb2hsv(f)[..., 1].mean()) for f in clip],
            "black": (clip < 1 / LEVELS).all(-1).mean((1, 2)),
            "white": (clip > 1 - 1 / LEVELS).all(-1).mean((1, 2)),
        }
    )


def sharpness_decay(frames: Any) -> dict[str, float]:
    """How much blurrier the clip gets: blur of the first and last frame and its rise per frame (least squares).

    >>> sharpness_decay(frames)["blur_slope"]            # above 0: detail is being lost
    """
    blur = [float(blur_effect(f, channel_axis=-1)) for f in as_frames(frames)]
    return {"blur_first": blur[0], "blur_last": blur[-1], "blur_slope": slope(np.array(blur))}


def saturation(frames: Any) -> dict[str, float]:
    """Colours that wash out or burn in: mean HSV saturation first, last, its slope, and the worst clipped share.

    >>> saturation(frames)["clipped_max"]                # share of black and white pixels, worst frame
    """
    table = per_frame(as_frames(frames))
    return {
        "saturation_first": float(table.saturation.iloc[0]),
        "saturation_last": float(table.saturation.iloc[-1]),
        "saturation_slope": slope(table.saturation.to_numpy()),
        "clipped_max": float((table.black + table.white).max()),
    }


def reconstruction_error(picture: Any, reconstruction: Any) -> dict[str, float]:
    """What an autoencoder alone loses of a picture: mean squared error, PSNR in dB (inf where equal), SSIM.

    >>> reconstruction_error(picture, vae_picture)["reconstruction_psnr"]
    """
    one, two = as_picture(picture), as_picture(reconstruction)
    if one.shape != two.shape:
        raise InputError(
            f"got a picture of {one.shape[:2]} and a reconstruction of {two.shape[:2]} (h, w): bring them to one size."
        )
    error = float(np.square(one - two).mean())
    return {
        "reconstruction_mse": error,
        "reconstruction_psnr": float(peak_signal_noise_ratio(one, two, data_range=1.0)) if error else math.inf,
        "reconstruction_ssim": _ssim(one, two),
    }


def summary(frames: Any, picture: Any = None, *, reconstruction: Any = None, embeddings: Any = None) -> dict[str, float]:
    """All of the above in one flat dict; what needs the input picture only where one is given.

    >>> summary(clip.frames, image)                      # a row for a results table
    """
    clip = as_frames(frames)
    result = flicker(clip) | warp_error(clip) | sharpness_decay(clip) | saturation(clip)
    if picture is not None:
        result |= drift(clip, picture, reconstruction=reconstruction, embeddings=embeddings)
        if reconstruction is not None:
            result |= reconstruction_error(picture, reconstruction)
    return result


def unit(embeddings: Any, count: int) -> np.ndarray:
    """Embeddings "n d" at length 1. Raises InputError for another n, non-finite or zero vectors."""
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2 or len(vectors) != count:
        raise InputError(f'got embeddings of shape {vectors.shape}; "n d" with n = {count} is needed.')
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(length).all() or (length == 0).any():
        raise InputError("got embeddings with NaN, infinity or a vector of zeros: they have no direction.")
    return vectors / length


def _same_size(frames: Any, picture: Any) -> tuple[np.ndarray, np.ndarray]:
    clip, one = as_frames(frames, least=1), as_picture(picture)
    if one.shape != clip.shape[1:]:
        raise InputError(
            f"got frames of {clip.shape[1:3]} and a picture of {one.shape[:2]} (h, w): "
            "compare the picture that the model was given, cropped and resized to the clip."
        )
    return clip, one


def _ssim(one: np.ndarray, two: np.ndarray) -> float:
    return float(structural_similarity(one, two, channel_axis=-1, data_range=1.0))


def slope(values: np.ndarray) -> float:
    """Rise per frame, least squares; NaN for a single frame."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else math.nan
