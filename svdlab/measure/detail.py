"""Detail by spatial frequency and by region: power, what an image keeps, and an error budget of the stages it went through.

    >>> power(clip.frames)                               # "f b": the power of each frame in each of BANDS
    >>> kept(clip.image, clip.frames).db                 # 0 dB keeps all detail of that band, -3 dB half its power
    >>> budget({"input": clip.image, "model": clip.frames[0]}).groupby("stage").mse.sum()

Bands are octaves of cycles per px, cut in the discrete cosine transform, which mirrors an image at its border instead of
wrapping it, and which is orthonormal: the mean squares of the bands add up to the mean square of the image (Parseval).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import fft

from svdlab.errors import InputError
from svdlab.measure.frames import as_frames, as_image

EDGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # cycles per px
BANDS = ("mean", "below 1/32", "1/32 to 1/16", "1/16 to 1/8", "1/8 to 1/4", "above 1/4")  # cycles per px; the mean is 0
FINE = BANDS[-2:]  # what is commonly called sharpness
EMPTY = (0.1 / 255) ** 2  # power of a tenth of a grey level: a band with less holds nothing that could be kept
REGIONS = ("edges", "texture", "flat")
LEAST_GRADIENT = 2 / 255  # grey per px (a Gaussian derivative of sigma 1.5 px): below that there is nothing to see
COHERENT = 0.75  # of the gradient's energy runs one way: an edge; below, a texture


def band_of(shape: tuple[int, ...]) -> np.ndarray:
    """Which of BANDS each cosine of an "h w" image belongs to: int "h w"."""
    h, w = shape[:2]
    where = 1 + np.digitize(np.hypot(np.arange(h)[:, None] / (2 * h), np.arange(w) / (2 * w)), EDGES)
    where[0, 0] = 0
    return where


def power(frames: Any) -> np.ndarray:
    """Mean square per band: float64 "f b", b as in BANDS, averaged over colours. Its rows sum to the frames' mean squares.

    >>> power(clip.frames)[:, 1:].sum(1)                 # the variance of each frame

    frames: "f h w c" in [0, 1], or a signed difference of such frames. Raises InputError for others.
    """
    array = _signed(frames)
    bands = band_of(array.shape[1:3]).ravel()
    squares = [np.square(fft.dctn(frame, axes=(0, 1), norm="ortho")).sum(-1).ravel() for frame in array]
    return np.stack([np.bincount(bands, s, minlength=len(BANDS)) for s in squares]) / array[0].size


def split(image: Any) -> np.ndarray:
    """One image, or a difference of two, in its bands: float64 "b h w c", whose sum is the image.

    >>> split(image)[-2:].sum(0)                         # its fine detail alone
    """
    array = _signed(np.asarray(image)[None])[0]
    bands, cosines = band_of(array.shape), fft.dctn(array, axes=(0, 1), norm="ortho")
    return np.stack([fft.idctn(cosines * (bands == b)[..., None], axes=(0, 1), norm="ortho") for b in range(len(BANDS))])


def kept(reference: Any, frames: Any) -> pd.DataFrame:
    """What frames keep of a reference's detail: a row per frame and band, with `power`, `reference` and `db`.

    >>> kept(clip.image, clip.frames).query("band == 'above 1/4'").db.mean()

    `db` is 10 log10(power / reference): 0 where as much detail is there (not: the same detail), below 0 where it is lost,
    above 0 where noise or invented detail was added. NaN where the reference has none (below a tenth of a grey level). The
    bands of moving content stay comparable, as moving it does not change its power.
    Raises InputError for images that cannot be used, or of another size than the frames.
    """
    clip = as_frames(frames, least=1)
    there, here = power(as_image(reference, clip.shape[1:])[None])[0], power(clip)
    return pd.DataFrame(
        {"frame": f, "band": BANDS[b], "power": here[f, b], "reference": there[b], "db": decibels(here[f, b], there[b])}
        for f in range(len(clip))
        for b in range(1, len(BANDS))
    )


def decibels(power: float, reference: float) -> float:
    """10 log10 of a ratio of powers; NaN without a reference, -inf for nothing left of one."""
    if reference < EMPTY:
        return math.nan
    return 10 * math.log10(power / reference) if power > 0 else -math.inf


def grating(shape: tuple[int, int], frequency: float, *, angle: float = 0.0, contrast: float = 0.8) -> np.ndarray:
    """A sine grating on mid grey, float32 "h w 3" in [0, 1].

    >>> grating((64, 64), 1 / 8).shape                   # eight px a cycle, upright bars
    (64, 64, 3)

    frequency in cycles per px, above 0 and below 0.5 (at which a sine has no phase); angle of its normal in degrees, 0 right,
    90 down; contrast (Michelson) above 0 and up to 1. Raises InputError for others.
    """
    if not 0 < frequency < 0.5 or not 0 < contrast <= 1:
        raise InputError(
            f"got frequency={frequency}, contrast={contrast}: these lie between 0 and 0.5 cycles per px, 0 and 1."
        )
    wave = np.sin(_phase(shape, frequency, angle) + math.pi / 4)
    return np.repeat((0.5 + contrast / 2 * wave).astype(np.float32)[..., None], 3, axis=-1)


def modulation(image: Any, frequency: float, *, angle: float = 0.0) -> float:
    """The contrast of that grating in an image: twice the amplitude of its best-fitting sine (least squares).

    >>> round(modulation(grating((64, 64), 1 / 8), 1 / 8), 3)
    0.8

    A whole image's fit, so what has another frequency, noise and a shifted grey do not count; a shifted phase does not harm.
    """
    grey = as_image(image).mean(-1, dtype=np.float64)
    phase = _phase(grey.shape, frequency, angle).ravel()
    basis = np.stack([np.sin(phase), np.cos(phase), np.ones(phase.size)], 1)
    a, b, _ = np.linalg.lstsq(basis, grey.ravel(), rcond=None)[0]
    return 2 * float(math.hypot(a, b))


def _phase(shape: tuple[int, ...], frequency: float, angle: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    turn = math.radians(angle)
    return 2 * math.pi * frequency * (x * math.cos(turn) + y * math.sin(turn))


def regions(image: Any) -> dict[str, np.ndarray]:
    """Where an image has edges, texture, or neither: bool "h w" by REGIONS, which cover it without overlap.

    >>> regions(image)["edges"].mean()                   # share of the image

    By the structure tensor: `flat` where the grey changes by less than 2 levels per px, else `edges` where at least three
    quarters of the gradient's energy point one way, else `texture`.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(as_image(image), cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    dx, dy = (cv2.Scharr(grey, cv2.CV_32F, *way, scale=1 / 32) for way in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.GaussianBlur(p, (0, 0), 2.5) for p in (dx * dx, dy * dy, dx * dy))
    energy = xx + yy
    apart = np.hypot(xx - yy, 2 * xy)  # difference of the tensor's eigenvalues, whose sum is the energy
    strong = energy > LEAST_GRADIENT**2
    edges = strong & ((energy + apart) / 2 > COHERENT * energy)
    return {"edges": edges, "texture": strong & ~edges, "flat": ~strong}


def budget(stages: Mapping[str, Any]) -> pd.DataFrame:
    """What each stage changes against the stage before it, in mean squared error: a row per stage, band and region.

    >>> budget({"input": image, "autoencoder": through, "denoiser": clip.frames[0]})       # doctest: +SKIP

    stages: images "h w c" in [0, 1], in the order in which they were made, the ground truth first; regions are the truth's.
    Columns: `stage`; `band` (of BANDS); `region` (of REGIONS); `share` of the frame that the region covers; `mse`, its part of
    the frame's mean squared error, so that the rows of a stage sum to the stage's error. Errors of two stages can cancel or
    add up: stage "together" is what the error at the end has beyond the sum of the stages' own (it may be below 0).
    Raises InputError for fewer than two stages, one called "together", or images of different sizes.
    """
    if len(stages) < 2 or "together" in stages:
        raise InputError(f'got stages {list(stages)}: two or more are needed, the truth first, none called "together".')
    first, *_, last = stages
    size = as_image(stages[first]).shape
    images = {name: as_image(p, size).astype(np.float64) for name, p in stages.items()}
    masks = regions(images[first])
    parts = {name: _parts(images[name] - images[before], masks) for before, name in pairwise(images)}
    parts["together"] = _parts(images[last] - images[first], masks) - sum(parts.values())
    return pd.DataFrame(
        {"stage": stage, "band": BANDS[b], "region": region, "share": float(masks[region].mean()), "mse": part[b, r]}
        for stage, part in parts.items()
        for b in range(len(BANDS))
        for r, region in enumerate(REGIONS)
    )


def seams(whole: Any, chunked: Any, decode_chunk_size: int) -> dict[str, float]:
    """Steps between decode chunks: how much more the frames jump where one chunk ends and the next begins. Flat dict.

    >>> seams(clip.frames, clip.frames, 4)["seam_height"]
    0.0

    whole, chunked: one clip "f h w c", decoded in one piece and in chunks of `decode_chunk_size` frames; their difference has
    no motion in it. Keys, in units of [0, 1]: `seam_height`, root mean square change of that difference across the seams,
    minus that between other neighbours (in squares; 0 where seams are not worse); `seam_brightness`, mean absolute step of the
    mean grey across the seams; `chunk_rms`, root mean square of the difference itself; `seams`, their number.
    Raises InputError for clips that cannot be used, of different shapes, or a chunk size that leaves no seam.
    """
    one, two = as_frames(whole), as_frames(chunked)
    if one.shape != two.shape or not 1 <= decode_chunk_size < len(one):
        raise InputError(
            f"got clips of shapes {one.shape} and {two.shape}, decode_chunk_size={decode_chunk_size}: "
            "decode the same latents twice, in chunks of fewer frames than the clip has."
        )
    difference = two.astype(np.float64) - one
    steps = np.diff(difference, axis=0)
    at_seam = np.arange(1, len(one)) % decode_chunk_size == 0
    squares = np.square(steps).mean(axis=(1, 2, 3))
    inside = float(squares[~at_seam].mean()) if (~at_seam).any() else 0.0
    return {
        "seam_height": float(np.sqrt(max(0.0, squares[at_seam].mean() - inside))),
        "seam_brightness": float(np.abs(steps.mean(axis=(1, 2, 3))[at_seam]).mean()),
        "chunk_rms": float(np.sqrt(np.square(difference).mean())),
        "seams": int(at_seam.sum()),
    }


def _parts(error: np.ndarray, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean square of an error "h w c" by band and region, "b r".

    Bands are orthogonal over the whole frame, not within a region: each band's product with the others there is counted to the
    band itself, e_b * e rather than e_b * e_b, so that a region's row sums to its own error too.
    """
    product = (split(error) * error).mean(-1)
    return np.stack([(product * masks[r]).mean(axis=(1, 2)) for r in REGIONS], axis=1)


def _signed(frames: Any) -> np.ndarray:
    """Images or differences of images as float64 "f h w c"."""
    array = np.asarray(frames)
    array = array / 255 if array.dtype == np.uint8 else array
    if array.ndim != 4 or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise InputError(
            f'got {array.dtype} of shape {array.shape}; finite floats "f h w c" are needed, or a difference of two.'
        )
    return array.astype(np.float64)
