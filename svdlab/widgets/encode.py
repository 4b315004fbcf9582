"""Frames as a browser takes them: without loss where they are small, as JPEG or lossy WebP where that is what fits.

>>> still(frames[0])[:4], animation(frames, fps=7)[8:12]
(b'\\x89PNG', b'WEBP')
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from svdlab.measure.video import as_bytes

SMALL = 256 * 256  # px: up to that the exact pixels; beyond, a tenth of the size
QUALITY = 92


def still(image: Any) -> bytes:
    """An image "h w 3", uint8 or floats in [0, 1], as PNG, or as JPEG above 256 x 256 px."""
    pixels, buffer = as_bytes(np.asarray(image)[None])[0], io.BytesIO()
    small = pixels.shape[0] * pixels.shape[1] <= SMALL
    Image.fromarray(pixels).save(buffer, "PNG" if small else "JPEG", compress_level=3, quality=QUALITY)
    return buffer.getvalue()


def animation(frames: Any, *, fps: float) -> bytes:
    """Frames "f h w 3" as a looping WebP, without loss up to 256 x 256 px."""
    pixels, buffer = as_bytes(frames), io.BytesIO()
    first, *rest = map(Image.fromarray, pixels)
    exact = pixels.shape[1] * pixels.shape[2] <= SMALL
    how: dict[str, Any] = dict(lossless=True) if exact else dict(quality=QUALITY)
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, method=0, **how)
    return buffer.getvalue()
