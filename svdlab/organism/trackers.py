"""Ground-truth trackers: how far things move in a clip of the organism's world, from what is known of the scene.

    >>> from svdlab.organism import world
    >>> s = world.scenes(1, seed=0, motion="object", hue=0.6)
    >>> object_displacement(s.video[0], s.factors.iloc[0])         # px/frame along the heading

They use the sprite's colour, heading and start, which a general instrument does not know, and no optical flow: `svdlab.motion`
and the organism's laws are validated against them.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from svdlab.errors import InputError, number, shown, takes
from svdlab.organism.scenery import COMPASS, SIZE, ZOOM_RADIUS, rgb


def clip(name: str, value: Any) -> np.ndarray:
    """Frames "f h w 3" in [0, 1], two at least, as floats."""
    if (
        not isinstance(value, np.ndarray)
        or value.dtype.kind != "f"
        or value.shape[3:] != (3,)
        or len(value) < 2
        or min(value.shape[1:3]) < 24
    ):
        raise InputError(f"{name}={shown(value)}: give floats, frames x height x width x 3, of 2 frames and 24 px at least.")
    return value


def described(name: str, value: Any) -> Any:
    """A row of `world.Scenes.factors`."""
    if not hasattr(value, "keys") or not {"hue", "direction"} <= set(value.keys()):
        raise InputError(f"{name}={shown(value)}: give a row of a scene's factors, as in scenes.factors.iloc[0].")
    return value


@takes(video=clip, hue=number)
def sprite_weights(video: np.ndarray, hue: float) -> np.ndarray:
    """How much each pixel of "f h w c" has the sprite's colour, "f h w" in [0, 1]: soft, so that centres are sub-pixel."""
    distance = np.linalg.norm(video - rgb(hue, 0.85, 0.85), axis=-1)
    return np.clip(1.5 - distance / 0.3, 0, 1)


@takes(video=clip, scene=described)
def track(video: np.ndarray, scene: Any) -> np.ndarray:
    """Centre of the sprite's colour in each frame, px, "f 2"; NaN where the sprite is gone."""
    weights = sprite_weights(video, scene["hue"])
    y, x = (np.mgrid[: video.shape[1], : video.shape[2]] + 0.5) * SIZE / video.shape[1]
    total = weights.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.stack([(weights * x).sum((1, 2)), (weights * y).sum((1, 2))], -1) / total[:, None]
    centre[total < 20] = np.nan
    return centre


@takes(video=clip, scene=described)
def object_displacement(video: np.ndarray, scene: Any) -> float:
    """px/frame along the heading: the slope of the sprite's centre over the frames; NaN where it is lost."""
    along = track(video, scene) @ np.array(COMPASS[scene["direction"]])
    seen = np.isfinite(along)
    if seen.sum() < len(along) - 1:
        return float("nan")
    return float(np.polyfit(np.flatnonzero(seen), along[seen], 1)[0])


@takes(video=clip, scene=described)
def sprite_kept(video: np.ndarray, scene: Any) -> bool:
    """Whether the last frame still has the sprite: at least 60 % of its first area within the same colour."""
    area = (sprite_weights(video[[0, -1]], scene["hue"]) > 0.5).sum((1, 2))
    return bool(area[1] >= 0.6 * area[0] > 0)


@takes(video=clip)
def pan_displacement(video: np.ndarray, scene: Any) -> float:
    """px/frame that the camera moves to the right: the shift that lays each frame on the next, median over pairs."""
    return float(np.median([-_shift(a, b) for a, b in pairwise(video)]))


def _shift(a: np.ndarray, b: np.ndarray, reach: int = 6) -> float:
    """Horizontal shift of b against a by least squares: whole pixels first, then between them."""
    w = a.shape[1]

    def cost(s: float) -> float:
        x = np.arange(reach, w - reach) - s
        i = np.floor(x).astype(int)
        part = (x - i)[None, :, None]
        moved = a[:, i] * (1 - part) + a[:, i + 1] * part
        return float(np.square(moved - b[:, reach : w - reach]).mean())

    best = min(range(-reach + 1, reach - 1), key=cost)
    found = minimize_scalar(cost, bounds=(best - 1, best + 1), method="bounded", options={"xatol": 0.01})
    return float(found.x)


@takes(video=clip, scene=described)
def tilt_displacement(video: np.ndarray, scene: Any) -> float:
    """px/frame that the camera moves in the announced direction, up or down, as `pan_displacement` measures it."""
    down = pan_displacement(video.transpose(0, 2, 1, 3), scene)
    return down if scene["direction"] == "down" else -down


@takes(video=clip, scene=described)
def zoom_displacement(video: np.ndarray, scene: Any) -> float:
    """px/frame at ZOOM_RADIUS in the announced direction: the scale that lays each frame on the next."""
    found = _about_the_centre(video, lambda d, x, y: (x / (1 + d / ZOOM_RADIUS), y / (1 + d / ZOOM_RADIUS)))
    return found if scene["direction"] == "in" else -found


@takes(video=clip, scene=described)
def roll_displacement(video: np.ndarray, scene: Any) -> float:
    """px/frame at ZOOM_RADIUS that the camera turns in the announced direction: the angle that lays each frame on the next."""

    def turned(d: float, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cos, sin = np.cos(d / ZOOM_RADIUS), np.sin(d / ZOOM_RADIUS)
        return x * cos - y * sin, y * cos + x * sin

    found = _about_the_centre(video, turned)
    return found if scene["direction"] == "clockwise" else -found


def _about_the_centre(video: np.ndarray, source: Callable[..., tuple[np.ndarray, np.ndarray]]) -> float:
    """The median over pairs of frames of the displacement whose `source` points (px from the centre) give the later one."""
    n = video.shape[1]
    y, x = np.mgrid[8 : n - 8, 8 : n - 8].astype(float)
    c = (n - 1) / 2

    def cost(d: float, a: np.ndarray, b: np.ndarray) -> float:
        from scipy.ndimage import map_coordinates

        u, v = source(d, x - c, y - c)
        grey = map_coordinates(a.mean(-1), [v + c, u + c], order=1, mode="nearest")
        return float(np.square(grey - b[8 : n - 8, 8 : n - 8].mean(-1)).mean())

    def best(a: np.ndarray, b: np.ndarray) -> float:
        near = min(np.arange(-4.0, 4.5), key=lambda d: cost(d, a, b))
        found = minimize_scalar(cost, bounds=(near - 1, near + 1), args=(a, b), method="bounded", options={"xatol": 0.02})
        return float(found.x)

    return float(np.median([best(a, b) for a, b in pairwise(video)]))


@takes(video=clip)
def displacement(video: np.ndarray, scene: Any) -> float:
    """By the tracker that fits what the scene announces: px/frame along the heading, to the camera's right, or of zoom."""
    trackers = {
        "object": object_displacement,
        "pan": pan_displacement,
        "tilt": tilt_displacement,
        "zoom": zoom_displacement,
        "roll": roll_displacement,
    }
    return trackers[scene["announced"]](video, scene)
