"""Pictures as a browser takes them: small and without loss where the model is small, lossy where that is what fits.

>>> picture(frames[0])[:4], film(frames, fps=7)[4:8]
(b'\\x89PNG', b'ftyp')
"""

from __future__ import annotations

from typing import Any

import cv2
import mediapy
import numpy as np

from svdlab.measure.video import as_bytes

SMALL = 256 * 256  # px: up to that PNG, whose pixels are exact; beyond JPEG, a tenth of the size
QUALITY = 92


def picture(frame: Any) -> bytes:
    """A picture "h w 3", uint8 or floats in [0, 1], as PNG, or as JPEG above 256 x 256 px."""
    pixels = as_bytes(np.asarray(frame)[None])[0] if np.asarray(frame).dtype != np.uint8 else np.asarray(frame)
    ending, how = (".png", []) if pixels.shape[0] * pixels.shape[1] <= SMALL else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(cv2.imencode(ending, np.ascontiguousarray(pixels[..., ::-1]), how)[1])


def film(frames: Any, *, fps: float) -> bytes:
    """Frames "f h w 3" as MP4 (H.264, yuv420p), small ones enlarged by a whole factor so that no colour is smeared."""
    pixels = as_bytes(frames)
    factor = max(1, -(-256 // min(pixels.shape[1:3])))
    pixels = pixels.repeat(factor, 1).repeat(factor, 2)
    pixels = pixels[:, : pixels.shape[1] // 2 * 2, : pixels.shape[2] // 2 * 2]
    return mediapy.compress_video(pixels, codec="h264", encoded_format="yuv420p", fps=fps, crf=18)


def animation(frames: Any, *, fps: float) -> bytes:
    """Frames "f h w 3" as a looping animated picture: WebP, without loss where they are small."""
    import io

    from PIL import Image

    pixels = as_bytes(frames)
    stills = [Image.fromarray(p) for p in pixels]
    exact = pixels.shape[1] * pixels.shape[2] <= SMALL
    buffer = io.BytesIO()
    how: dict[str, Any] = dict(lossless=True) if exact else dict(quality=QUALITY)
    stills[0].save(
        buffer, "WEBP", save_all=True, append_images=stills[1:], duration=round(1000 / fps), loop=0, method=0, **how
    )
    return buffer.getvalue()


def restarted(mp4: bytes, times: int) -> bytes:
    """The same film as other bytes, by empty boxes at its end, which players skip: a browser then starts it anew."""
    return mp4 + b"\x00\x00\x00\x08free" * (times % 2)
