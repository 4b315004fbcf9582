"""Photographs moved by a known amount: what the motion instrument is calibrated against.

    >>> clip = moving("astronaut", size=(576, 1024), frames=3, pan=2.5)       # the camera goes right
    >>> clip.frames.shape, clip.flow[0, 0, 0]
    ((3, 576, 1024, 3), array([-2.5,  0. ], dtype=float32))

Pictures are the free photographs that scikit-image ships, in grey, resampled by cubic splines (scipy), whose
places are exact; OpenCV's own warps step in 1/32 px and would be a ruler with notches. Outside its borders
a photograph goes on as its mirror image, so that a pan never runs out of ground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import imageio_ffmpeg
import mediapy
import numpy as np
import skimage.data
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.transform import rescale

PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "rocket")
SIZES = ((64, 64), (256, 256), (576, 1024))  # "h w"
EDGE = 1.5  # px over which the object's outline fades, as a lens would draw it


@dataclass(frozen=True)
class KnownClip:
    """A clip with its exact truth.

    frames: float32 "f h w 3" in [0, 1].
    flow: float32 "t h w 2", px to the next frame, x right, y down, at each pixel of the earlier frame.
    mask: bool "f h w", where the object is.
    """

    frames: np.ndarray
    flow: np.ndarray
    mask: np.ndarray


def moving(
    photograph: str,
    *,
    size: tuple[int, int],
    frames: int,
    pan: float = 0.0,
    tilt: float = 0.0,
    zoom: float = 0.0,
    roll: float = 0.0,
    body: tuple[float, float] | None = None,
    area: float = 0.1,
    start: tuple[float, float] = (0.0, 0.0),
) -> KnownClip:
    """Film one photograph with a steadily moving camera, and another one's cut-out moving before it.

    >>> moving("cat", size=(256, 256), frames=8, body=(2.0, 0.0), area=0.25)

    Args:
        photograph: one of PHOTOGRAPHS.
        size: "h w" of the frames, px.
        pan, tilt: camera to the right and upwards, px per frame.
        zoom: growth of the picture per frame, percent.
        roll: camera clockwise, degrees per frame.
        body: dx, dy of an elliptic cut-out against the picture, px per frame (x right, y down); None for no body.
        area: its share of the frame.
        start: px by which the first view is moved, so that clips of one photograph differ.
    """
    h, w = size
    ground = _spline(photograph, size)
    body_picture = _spline(PHOTOGRAPHS[(PHOTOGRAPHS.index(photograph) + 1) % len(PHOTOGRAPHS)], size)
    y, x = np.mgrid[:h, :w].astype(np.float64)
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    aspect = math.sqrt(w / h)
    radius = math.sqrt(area * h * w / math.pi)
    radii = np.array([radius / aspect, radius * aspect])
    pictures, masks = [], []
    for t in range(frames):
        inverse, offset = _camera_inverse(t, pan, tilt, zoom, roll, centre)
        middle = np.array(ground.shape) / 2 - centre + np.array(start[::-1])
        picture = _view(ground, inverse, offset + middle, size)
        mask = np.zeros(size, bool)
        if body is not None:
            place = _body_place(t, frames, body, centre)
            distance = (np.hypot((y - place[0]) / radii[0], (x - place[1]) / radii[1]) - 1) * radii.min()
            alpha = np.clip(0.5 - distance / EDGE, 0, 1)
            inside = np.array(body_picture.shape) / 2 - place
            picture = picture * (1 - alpha) + _view(body_picture, np.eye(2), inside, size) * alpha
            mask = distance < 0
        pictures.append(np.clip(picture, 0, 1))
        masks.append(mask)
    camera_flow = _true_flow(pan, tilt, zoom, roll, centre, size)
    seen = np.stack(masks)[:-1, ..., None]
    truth = np.where(seen, np.array(body or (0, 0), np.float32), camera_flow)  # "t h w 2"
    video = np.repeat(np.stack(pictures).astype(np.float32)[..., None], 3, axis=-1)
    return KnownClip(video, truth.astype(np.float32), np.stack(masks))


def degrade(
    frames: np.ndarray, *, noise: float = 0.0, blur: float = 0.0, flicker: float = 0.0, crf: int | None = None, seed: int = 0
) -> np.ndarray:
    """A clip as a worse camera or codec would give it: "f h w 3" in, the same out.

    >>> degrade(clip.frames, crf=28)

    Args:
        noise: standard deviation of independent noise, of full scale.
        blur: sigma of a Gaussian, px.
        flicker: standard deviation of each frame's gain.
        crf: constant rate factor of an H.264 round trip (18 is good, 28 is poor); None for none.
        seed: of noise and flicker.
    """
    rng = np.random.default_rng(seed)
    out = ndimage.gaussian_filter(frames, (0, blur, blur, 0)) if blur else frames
    if flicker:
        out = out * rng.normal(1, flicker, (len(out), 1, 1, 1))
    if noise:
        out = out + rng.normal(0, noise, (*out.shape[:3], 1))
    out = np.clip(out, 0, 1).astype(np.float32)
    if crf is None:
        return out
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    packed = mediapy.compress_video(out, codec="h264", fps=8, crf=crf)
    return np.asarray(mediapy.decompress_video(packed), np.float32)[: len(out)] / 255


def mean_radius(size: tuple[int, int]) -> float:
    """Mean distance of the pixels of an "h w" frame from its centre, px."""
    y, x = np.mgrid[: size[0], : size[1]]
    return float(np.hypot(x - (size[1] - 1) / 2, y - (size[0] - 1) / 2).mean())


@lru_cache(maxsize=16)
def _spline(photograph: str, size: tuple[int, int]) -> np.ndarray:
    """Cubic spline coefficients of the photograph, scaled so that it covers the frame."""
    picture = getattr(skimage.data, photograph)()
    grey = rgb2gray(picture) if picture.ndim == 3 else picture / 255
    factor = max(size[0] / grey.shape[0], size[1] / grey.shape[1])
    scaled = rescale(grey, factor, order=3, anti_aliasing=factor < 1)
    return ndimage.spline_filter(scaled, mode="mirror").astype(np.float32)


def _view(coefficients: np.ndarray, matrix: np.ndarray, offset: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return ndimage.affine_transform(
        coefficients, matrix, offset=offset, output_shape=size, order=3, mode="mirror", prefilter=False
    )


def _camera_inverse(
    t: int, pan: float, tilt: float, zoom: float, roll: float, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset (row, column) that take a pixel of frame t back to frame 0.

    Content moves per frame as x -> A (x - c) + c + d, A = (1 + zoom) R; t such steps are undone one by one.
    """
    step = _content_matrix(zoom, roll)
    back = np.linalg.inv(step)
    shift = np.array([tilt, -pan])
    matrix, offset = np.eye(2), np.zeros(2)
    for _ in range(t):
        matrix, offset = back @ matrix, back @ (offset - shift)
    return matrix, offset + centre - matrix @ centre


def _content_matrix(zoom: float, roll: float) -> np.ndarray:
    """What one frame does to (row, column) about the centre; a camera clockwise turns the content the other way."""
    turn = -math.radians(roll)
    c, s = math.cos(turn), math.sin(turn)
    return (1 + zoom / 100) * np.array([[c, s], [-s, c]])  # clockwise for positive turn, rows running down


def _body_place(t: int, frames: int, body: tuple[float, float], centre: np.ndarray) -> np.ndarray:
    """The body's centre (row, column): it crosses the frame's middle halfway through the clip."""
    return centre + (t - (frames - 1) / 2) * np.array(body[::-1])


def _true_flow(pan: float, tilt: float, zoom: float, roll: float, centre: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    a = _content_matrix(zoom, roll) - np.eye(2)
    dy, dx = y - centre[0], x - centre[1]
    return np.stack([a[1, 0] * dy + a[1, 1] * dx - pan, a[0, 0] * dy + a[0, 1] * dx + tilt], -1).astype(np.float32)
