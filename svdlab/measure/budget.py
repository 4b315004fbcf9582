"""An error budget: how much of the way from a picture to its video file each stage spoils, by frequency and by region.

    >>> stages = {"input": picture, "autoencoder": through, "denoiser": clip[0], "chunks": chunked[0], "mp4": filed[0]}
    >>> budget(stages).groupby("stage").mse.sum()

A stage's part is what it changes against the stage before it. Errors of two stages can cancel or add up, so the parts do
not sum to the error at the end; what is left over is the row "together" (its mse may be below 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.measure.frames import as_frames, as_picture
from svdlab.measure.spectra import BANDS, split

REGIONS = ("edges", "texture", "flat")
LEAST_GRADIENT = 2 / 255  # grey per px (a Gaussian derivative of sigma 1.5 px): below that there is nothing to see
COHERENT = 0.75  # of the gradient's energy runs one way: an edge; below, a texture


def regions(picture: Any) -> dict[str, np.ndarray]:
    """Where a picture has edges, texture, or neither: bool "h w" by REGIONS, which cover it without overlap.

    >>> regions(picture)["edges"].mean()                 # share of the picture

    By the structure tensor: `flat` where the grey changes by less than 2 levels per px, else `edges` where at least three
    quarters of the gradient's energy point one way, else `texture`.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(as_picture(picture), cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    dx, dy = (cv2.Scharr(grey, cv2.CV_32F, *way, scale=1 / 32) for way in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.GaussianBlur(p, (0, 0), 2.5) for p in (dx * dx, dy * dy, dx * dy))
    energy = xx + yy
    apart = np.hypot(xx - yy, 2 * xy)  # difference of the tensor's eigenvalues, whose sum is the energy
    strong = energy > LEAST_GRADIENT**2
    edges = strong & ((energy + apart) / 2 > COHERENT * energy)
    return {"edges": edges, "texture": strong & ~edges, "flat": ~strong}


def budget(stages: Mapping[str, Any]) -> pd.DataFrame:
    """What each stage changes, in mean squared error: a row per stage, band and region.

    >>> budget({"input": picture, "autoencoder": through, "denoiser": first_frame})

    stages: pictures "h w c" in [0, 1], in the order in which they were made, the truth first; regions are the truth's.
    Columns: `stage`; `band` (see `svdlab.measure.spectra.BANDS`); `region` (of REGIONS); `share` of the frame that the region
    covers; `mse`, its part of the frame's mean squared error, so that the rows of a stage sum to the stage's error.
    Stage "together" is what the error at the end has beyond the sum of the stages' own, band by band and region by region.

    Raises:
        InputError: fewer than two stages, a stage called "together", or pictures of different sizes.
    """
    if len(stages) < 2 or "together" in stages:
        raise InputError(f'got stages {list(stages)}: two or more are needed, the truth first, none called "together".')
    pictures = {name: as_picture(p).astype(np.float64) for name, p in stages.items()}
    shapes = {name: p.shape[:2] for name, p in pictures.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"got stages of different sizes (h, w), {shapes}: bring them to one.")
    first, *_, last = pictures
    masks = regions(pictures[first])
    parts = {name: _parts(pictures[name] - pictures[before], masks) for before, name in pairwise(pictures)}
    parts["together"] = _parts(pictures[last] - pictures[first], masks) - sum(parts.values())
    return pd.DataFrame(
        [
            {"stage": stage, "band": BANDS[b], "region": region, "share": float(masks[region].mean()), "mse": part[b, r]}
            for stage, part in parts.items()
            for b in range(len(BANDS))
            for r, region in enumerate(REGIONS)
        ]
    )


def seams(whole: Any, chunked: Any, decode_chunk_size: int) -> dict[str, float]:
    """Steps between decode chunks: how much more the picture jumps where one chunk ends and the next begins. Flat dict.

    >>> seams(whole, chunked, 4)["seam_height"]          # 0.02: 2 % of full scale, root mean square over pixels

    whole, chunked: one clip "f h w c", decoded in one piece and in chunks of `decode_chunk_size` frames; their difference
    has no motion in it. Keys, in units of [0, 1]: `seam_height`, root mean square change of that difference across the
    seams, less that between other neighbours (in squares; 0 where seams are not worse); `seam_brightness`, mean absolute
    step of the mean grey across the seams; `chunk_rms`, root mean square of the difference itself; `seams`, their number.

    Raises:
        InputError: clips that cannot be used, of different shapes, or a chunk size that leaves no seam.
    """
    one, two = as_frames(whole), as_frames(chunked)
    if one.shape != two.shape:
        raise InputError(f"got clips of shapes {one.shape} and {two.shape}: decode the same latents twice.")
    if not 1 <= decode_chunk_size < len(one):
        raise InputError(f"got decode_chunk_size={decode_chunk_size} for {len(one)} frames: 1 to {len(one) - 1} leave a seam.")
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
    """Mean square of an error "h w c" by band and region, "b r"; it sums to that of the whole, up to products of bands.

    Bands are orthogonal over the whole frame, not within a region: each band's product with the others there is counted
    to the band itself, e_b * e rather than e_b * e_b, so that a region's row sums to its own error too.
    """
    bands = split(error)
    product = (bands * error).mean(-1)
    return np.stack([(product * masks[r]).mean(axis=(1, 2)) for r in REGIONS], axis=1)
