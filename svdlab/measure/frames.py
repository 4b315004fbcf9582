"""What counts as a clip's frames: one check and one conversion, shared by everything that measures.

>>> as_frames(np.zeros((25, 576, 1024, 3), np.uint8)).dtype
dtype('float32')
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svdlab.errors import InputError

SLACK = 1e-3  # rounding of a decoder around 0 and 1 that is clipped in silence
SMALLEST = 16  # px: below that neither flow nor SSIM has a neighbourhood to look at


def as_frames(frames: Any, *, least: int = 2) -> np.ndarray:
    """Check a clip and return it as float32 "f h w 3" in [0, 1].

    >>> as_frames([image, image]).shape[-1]
    3

    Kept as they are: float arrays in [0, 1]. Converted: uint8 (divided by 255), greyscale "f h w" or "f h w 1" (repeated to
    three channels), lists of arrays or PIL images of one size, CPU tensors.

    Raises:
        InputError: fewer than `least` frames, another shape, mixed sizes, NaN or infinity, floats outside [0, 1],
            integers that are not uint8, or a side under 16 px.
    """
    wanted = f'frames are "f h w c": at least {least}, RGB, floats in [0, 1] or uint8'
    if isinstance(frames, (list, tuple)):
        frames = [np.asarray(f) for f in frames] or np.zeros((0, SMALLEST, SMALLEST))
        shapes = sorted({f.shape for f in frames})
        if len(shapes) > 1:
            raise InputError(f"got frames of different shapes, {shapes[:3]}: {wanted}, all of one size.")
    array = np.asarray(frames)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise InputError(
            f"got shape {array.shape}; {wanted}. "
            "A single image needs a first axis, channels come last, and an alpha channel has to go first."
        )
    if len(array) < least:
        raise InputError(f"got {len(array)} frame(s), and {least} or more are needed: {wanted}.")
    if min(array.shape[1:3]) < SMALLEST:
        raise InputError(f"got frames of {array.shape[2]}x{array.shape[1]} px; the smallest side is {SMALLEST}.")
    array = _scaled(array, wanted)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def as_image(image: Any, size: tuple[int, ...] | None = None) -> np.ndarray:
    """Check one image and return it as float32 "h w 3" in [0, 1]; the rules are those of `as_frames`.

    size: the "h w" that it needs; InputError for another.
    """
    array = np.asarray(image)
    array = as_frames(array[None] if array.ndim in (2, 3) else array, least=1)[0]
    if size is not None and array.shape[:2] != tuple(size[:2]):
        raise InputError(f"got an image of {array.shape[:2]} (h, w), and {tuple(size[:2])} is needed: bring both to one size.")
    return array


def _scaled(array: np.ndarray, wanted: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"got {array.dtype} values; {wanted}. Divide other integers by their full scale.")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():  # min and max pass NaN on, which is cheaper than looking at each value
        bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3))).tolist()
        raise InputError(f"got NaN or infinity in frame(s) {bad[:8]}: nothing can be measured there.")
    if low < -SLACK or high > 1 + SLACK:
        raise InputError(f"got values from {low:.3g} to {high:.3g}; {wanted}. Scale or clip them first.")
    return (np.clip(array, 0, 1) if low < 0 or high > 1 else array).astype(np.float32, copy=False)
