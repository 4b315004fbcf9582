"""What counts as a clip's frames: one check and one conversion, shared by everything that measures.

>>> as_frames(np.zeros((25, 576, 1024, 3), np.uint8)).dtype
dtype('float32')
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svdlab.errors import InputError

WANTED = 'frames are "f h w c": at least {least}, RGB, floats in [0, 1] or uint8'
SLACK = 1e-3  # rounding of a decoder around 0 and 1 that is clipped without a word
SMALLEST = 16  # px: below that neither flow nor SSIM has a neighbourhood to look at


def as_frames(frames: Any, *, least: int = 2) -> np.ndarray:
    """Check a clip and return it as float32 "f h w 3" in [0, 1].

    >>> as_frames([PIL.Image.open(p) for p in paths])

    Taken as they are: float arrays in [0, 1]. Converted: uint8 (divided by 255), greyscale "f h w" or
    "f h w 1" (repeated to three channels), a list of arrays or PIL pictures of one size, CPU tensors.

    Raises:
        InputError: fewer than `least` frames, another shape, mixed sizes, NaN or infinity, floats outside
            [0, 1], integers that are not uint8, or a side under 16 px.
    """
    wanted = WANTED.format(least=least)
    array = _array(frames, wanted)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise InputError(
            f"got shape {array.shape}; {wanted}. "
            "A single picture needs a first axis, channels come last, and an alpha channel has to go first."
        )
    if len(array) < least:
        raise InputError(f"got {len(array)} frame(s), and {least} or more are needed: {wanted}.")
    if min(array.shape[1:3]) < SMALLEST:
        raise InputError(f"got frames of {array.shape[2]}x{array.shape[1]} px; the smallest side is {SMALLEST}.")
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def as_picture(picture: Any) -> np.ndarray:
    """Check one picture and return it as float32 "h w 3" in [0, 1]; the rules are those of `as_frames`."""
    array = np.asarray(picture)
    return as_frames(array[None] if array.ndim in (2, 3) else array, least=1)[0]


def _array(frames: Any, wanted: str) -> np.ndarray:
    if isinstance(frames, Sequence) and not isinstance(frames, str):
        parts = [np.asarray(f) for f in frames]
        shapes = sorted({p.shape for p in parts})
        if len(shapes) > 1:
            raise InputError(f"got frames of different shapes, {shapes[:3]}: {wanted}, all of one size.")
        array = np.stack(parts) if parts else np.zeros((0, 1, 1, 3), np.float32)
    else:
        array = np.asarray(frames)
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"got {array.dtype} values; {wanted}. Divide other integers by their full scale.")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():  # NaN is passed on by min and max, which is cheaper than a look at each value
        bad = [int(i) for i in np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))]
        raise InputError(f"got NaN or infinity in frame(s) {bad[:8]}: nothing can be measured there.")
    if low < -SLACK or high > 1 + SLACK:
        raise InputError(f"got values from {low:.3g} to {high:.3g}; {wanted}. Scale or clip them first.")
    if low < 0 or high > 1:
        array = np.clip(array, 0, 1)
    return array.astype(np.float32, copy=False)
