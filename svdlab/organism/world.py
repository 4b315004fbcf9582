"""The organism's world: short procedural clips whose laws are known because they are written here.

    >>> from svdlab.organism import world
    >>> s = world.scenes(4, seed=0, motion="object", hue=0.6, fps=7, motion_bucket_id=127)
    >>> s.video.shape, s.flow.shape          # "n f h w c" in [0, 1]; "n t h w 2" in px
    ((4, 8, 64, 64, 3), (4, 7, 64, 64, 2))

A image announces what will happen in it by the mark on its sprite: an eye at the rim says that the
sprite moves towards the eye, no mark says that the camera pans, a light dot in the centre says that
it zooms in and a dark one that it zooms out. What the image does not say is left to chance, with
known odds: which way a pan goes, and whether a dark scene moves at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError

SIZE = 64  # px, both sides
FRAMES = 8
K = 0.14  # px per frame = K * motion_bucket_id / fps: bucket 127 at fps 6 moves 3 px/frame
MAX_DISPLACEMENT = 4.0  # px/frame; nothing is claimed beyond
MAX_ZOOM_DISPLACEMENT = 2.6  # px/frame at ZOOM_RADIUS, so that a zoomed sprite stays inside; above bucket 127 at fps 7
ZOOM_RADIUS = SIZE / 2  # px from the centre, where a zoom's displacement is counted
FPS = (4, 24)
BUCKETS = (0, 255)
WARM = (-0.03, 0.10)  # hue, turns
COOL = (0.50, 0.68)
WARM_FACTOR = 0.5  # planted effect 1: warm sprites move at half the speed
PAN_RIGHT = 0.75  # planted effect 2: pans go right three times as often as left
FROZEN_ON_DARK = 0.30  # planted effect 3: dark scenes that do not move, whatever the bucket
SHAPES = ("disc", "square", "triangle")
MOTIONS = ("object", "pan", "zoom", "frozen")
COMPASS = {  # where the sprite goes, x right and y down
    name: (np.cos(np.pi / 4 * i), np.sin(np.pi / 4 * i))
    for i, name in enumerate(("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right"))
}
DIRECTIONS = {"object": tuple(COMPASS), "pan": ("right", "left"), "zoom": ("in", "out")}
RADIUS = (9.0, 13.0)  # px
TRIANGLE_CENTRE = 0.37  # radii by which a triangle's incentre lies below the middle of its box
MARGIN = 1.0  # px between the sprite's track and the border
FACTORS = (
    "fps",
    "motion_bucket_id",
    "motion",
    "announced",
    "direction",
    "hue",
    "shape",
    "radius",
    "x",
    "y",
    "background",
)


@dataclass
class Scenes:
    """Clips with their exact ground truth.

    video: float32 "n f h w c" in [0, 1]; frame 0 is the image a model is given.
    flow: float32 "n t h w 2", px from each frame to the next, x right, y down, at each pixel of the earlier frame.
    track: float32 "n f 2", the sprite's centre in px.
    mask: bool "n f h w", where the sprite is.
    factors: DataFrame, a row per clip: what was drawn, and `displacement`, the law's px per frame.
    """

    video: np.ndarray
    flow: np.ndarray
    track: np.ndarray
    mask: np.ndarray
    factors: pd.DataFrame

    def __len__(self) -> int:
        return len(self.video)


def law(fps: Any, motion_bucket_id: Any, *, warm: Any = False) -> Any:
    """Displacement in px per frame: K * motion_bucket_id / fps, halved for a warm sprite that moves itself.

    >>> round(float(law(6, 127)), 2)
    2.96
    """
    d = K * np.asarray(motion_bucket_id) / np.asarray(fps)
    return np.where(warm, WARM_FACTOR * d, d)[()]


def scenes(n: int, *, seed: int, size: int = SIZE, frames: int = FRAMES, **factors: Any) -> Scenes:
    """Draw n clips; any factor may be fixed, for all clips or as one value per clip.

    >>> scenes(2, seed=1, motion="pan", direction=["left", "right"], background="light").factors

    Factors: fps (4 to 24, as diffusers counts), motion_bucket_id (0 to 255), motion (object | pan | zoom |
    frozen: what happens), announced (object | pan | zoom: what the image says), direction (object: one of
    COMPASS; pan: right | left, the camera's; zoom: in | out), hue (turns; 0 red, 0.6 blue), shape (disc |
    square | triangle), radius (px), x and y (the sprite's first centre, px), background (light | dark).

    The same seed and factors give the same clips. Raises InputError for an unknown factor or value, and where fps and bucket
    ask for more than MAX_DISPLACEMENT.
    """
    rows = _draw_all(n, seed, frames, factors)
    table = pd.DataFrame([row for row, _ in rows])
    rendered = [_render(row, texture, size, frames) for row, texture in rows]
    video, flow, track, mask = (np.stack(part) for part in zip(*rendered, strict=True))
    return Scenes(video, flow, track, mask, table)


def draw(n: int, *, seed: int, frames: int = FRAMES, **factors: Any) -> pd.DataFrame:
    """The factors that `scenes` with the same arguments would have, without rendering an image."""
    return pd.DataFrame([row for row, _ in _draw_all(n, seed, frames, factors)])


def _draw_all(n: int, seed: int, frames: int, factors: dict[str, Any]) -> list[tuple[dict, dict]]:
    unknown = sorted(set(factors) - set(FACTORS))
    if unknown:
        raise InputError(f"unknown factor {', '.join(unknown)}: the world has {', '.join(FACTORS)}.")
    if n < 1:
        raise InputError(f"n={n}: ask for at least one scene.")
    fixed = [{k: _nth(k, v, i, n) for k, v in factors.items()} for i in range(n)]
    return [_draw(np.random.default_rng([seed, i]), fixed[i], frames) for i in range(n)]


def _nth(name: str, value: Any, i: int, n: int) -> Any:
    if isinstance(value, (list, tuple, np.ndarray, pd.Series)):
        if len(value) != n:
            raise InputError(f"{name} has {len(value)} values for {n} scenes: give one, or one per scene.")
        value = list(value)[i]
    return value


def _choice(rng: np.random.Generator, options: tuple[str, ...], p: Any = None) -> str:
    return str(rng.choice(np.array(options), p=p))


def _among(name: str, value: Any, options: tuple[str, ...]) -> Any:
    if value not in options:
        raise InputError(f"{name}={value!r}: the world knows {', '.join(options)}.")
    return value


def _draw(rng: np.random.Generator, fixed: dict[str, Any], frames: int) -> tuple[dict, dict]:
    """One scene's factors. Every draw is made whether it is used or not, so that fixing one factor leaves the others alone."""
    background = _among(
        "background",
        fixed.get("background", "dark" if rng.random() < 0.3 else "light"),
        ("light", "dark"),
    )
    announced = _choice(rng, MOTIONS[:3], p=(0.45, 0.40, 0.15))
    frozen = rng.random() < FROZEN_ON_DARK and background == "dark"
    if fixed.get("motion", "frozen") != "frozen":
        announced = _among("motion", fixed["motion"], MOTIONS)
    announced = _among("announced", fixed.get("announced", announced), MOTIONS[:3])
    motion = fixed.get("motion", "frozen" if frozen else announced)
    _among("motion", motion, MOTIONS)
    if motion not in ("frozen", announced):
        raise InputError(
            f"motion={motion!r} in an image that announces {announced!r}: they must agree, or motion be 'frozen'."
        )
    ways = {"pan": (PAN_RIGHT, 1 - PAN_RIGHT)}.get(announced)
    direction = _choice(rng, DIRECTIONS[announced], ways)
    direction = _among("direction", fixed.get("direction", direction), DIRECTIONS[announced])
    warm = rng.random() < 0.5
    hue = float(fixed.get("hue", rng.uniform(*(WARM if warm else COOL)) % 1.0))
    warm = is_warm(hue)
    shape = _among("shape", fixed.get("shape", _choice(rng, SHAPES)), SHAPES)

    limit = MAX_ZOOM_DISPLACEMENT if announced == "zoom" else MAX_DISPLACEMENT
    fps = round(float(np.exp(rng.uniform(np.log(FPS[0]), np.log(FPS[1])))))
    if "motion_bucket_id" in fixed and "fps" not in fixed:  # a slow enough clock for that bucket
        lowest = max(FPS[0], int(np.ceil(K * fixed["motion_bucket_id"] / limit)))
        fps = int(rng.integers(lowest, FPS[1] + 1))
    fps = fixed.get("fps", fps)
    bucket = int(rng.integers(BUCKETS[0], int(min(BUCKETS[1], limit * fps / K)) + 1))
    bucket = fixed.get("motion_bucket_id", bucket)
    d = float(law(fps, bucket, warm=warm and announced == "object"))
    if law(fps, bucket) > limit + 1e-9:
        raise InputError(
            f"fps={fps} with motion_bucket_id={bucket} would move {law(fps, bucket):.2f} px/frame: "
            f"the world ends at {limit} px ({announced}). Raise fps or lower the bucket."
        )

    radius = rng.uniform(*RADIUS)
    if announced == "zoom":
        radius = min(radius, 11.0)
    radius = float(fixed.get("radius", radius))
    low, high = _start(announced, direction, float(law(fps, bucket)), radius, frames)
    x, y = rng.uniform(low, high)
    row = dict(
        fps=fps,
        motion_bucket_id=bucket,
        motion=motion,
        announced=announced,
        direction=direction,
        hue=hue,
        shape=shape,
        radius=radius,
        x=float(fixed.get("x", x)),
        y=float(fixed.get("y", y)),
        background=background,
        warm=warm,
        displacement=0.0 if motion == "frozen" else d,
    )
    return row, _texture(rng, background)


def is_warm(hue: float) -> bool:
    """Whether a hue (turns) is warm: within 0.17 turns of red."""
    return bool(min(hue % 1.0, 1.0 - hue % 1.0) < 0.17)


def _start(announced: str, direction: str, d: float, radius: float, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The box of first centres that keeps the whole track inside.

    It is the same for warm and cool sprites, and for pans it does not look at the direction: where a
    sprite stands must not give away what the image leaves to chance.
    """
    low, high = np.full(2, radius + MARGIN), np.full(2, SIZE - radius - MARGIN)
    if announced == "object":
        path = d * (frames - 1) * np.array(COMPASS[direction])
        low, high = low - np.minimum(path, 0), high - np.maximum(path, 0)
    if announced == "zoom":
        grown = (1 + d / ZOOM_RADIUS) ** (frames - 1) if direction == "in" else 1.0
        room = max((SIZE / 2 - MARGIN) / grown - radius, 0.0)
        low, high = np.full(2, SIZE / 2 - room), np.full(2, SIZE / 2 + room)
    middle = (low + high) / 2
    return np.minimum(low, middle), np.maximum(high, middle)


def _texture(rng: np.random.Generator, background: str) -> dict[str, Any]:
    """Plane waves over an infinite plane, so that a pan or a zoom meets new ground that was always there.

    Grey: the VAE's norms, 32 groups over 32 channels, leave so small a codec no place for a background's tint (with
    one, the tint was half of all its error).
    """
    wavelength = np.concatenate([rng.uniform(24, 60, 5), rng.uniform(9, 18, 5)])
    angle = rng.uniform(0, 2 * np.pi, 10)
    waves = 2 * np.pi / wavelength * np.stack([np.cos(angle), np.sin(angle)])
    level, contrast = (rng.uniform(0.55, 0.75), 1.0) if background == "light" else (rng.uniform(0.10, 0.20), 0.6)
    amplitude = contrast * np.concatenate([rng.uniform(0.03, 0.06, 5), rng.uniform(0.007, 0.015, 5)])
    return dict(
        waves=waves,
        phase=rng.uniform(0, 2 * np.pi, 10),
        amplitude=amplitude,
        level=level,
    )


def _ground(texture: dict[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    wx, wy = texture["waves"].astype(np.float32)
    phase = texture["phase"].astype(np.float32)
    waves = np.cos(x[..., None] * wx + y[..., None] * wy + phase)
    grey = waves @ texture["amplitude"].astype(np.float32) + np.float32(texture["level"])
    return np.repeat(grey[..., None], 3, axis=-1)


def _distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance to the outline, px, negative inside; the three shapes fit about the same box."""
    if shape == "disc":
        return np.hypot(dx, dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - 0.88 * radius
    dy = dy - TRIANGLE_CENTRE * radius  # from the incentre, apex up
    return np.maximum(np.abs(dx) * 0.894 - dy * 0.447, dy) - 0.60 * radius


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    from matplotlib.colors import hsv_to_rgb

    return np.asarray(hsv_to_rgb((hue % 1.0, saturation, value)), dtype=np.float32)


def _render(row: dict, texture: dict, size: int, frames: int) -> tuple[np.ndarray, ...]:
    d = row["displacement"]
    t = np.arange(frames, dtype=np.float32)[:, None, None]
    scale, shift = np.ones_like(t), np.zeros_like(t)  # a point p of the plane is seen at c + scale * (p - c - shift)
    if row["motion"] == "pan":
        shift = (d if row["direction"] == "right" else -d) * t
    if row["motion"] == "zoom":
        scale = (1 + (d if row["direction"] == "in" else -d) / ZOOM_RADIUS) ** t
    px = (np.arange(size, dtype=np.float32) + 0.5) * SIZE / size  # pixel centres
    c = SIZE / 2
    gx = (px[None, None, :] - c) / scale + c + shift
    gy = (px[None, :, None] - c) / scale + c
    gx, gy = np.broadcast_arrays(gx, gy)
    video = _ground(texture, gx, gy)

    step = np.zeros(2)
    if row["motion"] == "object":
        step = d * np.array(COMPASS[row["direction"]])
    cx, cy = row["x"] + step[0] * t, row["y"] + step[1] * t
    radius = row["radius"]
    dx, dy = gx - cx, gy - cy
    body = _distance(row["shape"], dx, dy, radius)
    soft = 1.0 / scale  # one px of the image, seen from the plane

    def paint(distance: np.ndarray, colour: np.ndarray) -> None:
        alpha = np.clip(0.5 - distance / soft / 1.5, 0, 1)[..., None]
        video[:] = video * (1 - alpha) + colour * alpha

    paint(body, _rgb(row["hue"], 0.85, 0.85))
    drop = TRIANGLE_CENTRE * radius if row["shape"] == "triangle" else 0.0
    if row["announced"] == "object":
        ex, ey = 0.58 * radius * np.array(COMPASS[row["direction"]])
        if row["shape"] == "triangle":  # its rim is nearer
            ex, ey = 0.62 * ex, 0.62 * ey
        paint(np.hypot(dx - ex, dy - drop - ey) - 0.30 * radius, np.full(3, 0.97, np.float32))
    if row["announced"] == "zoom":
        dot = 0.97 if row["direction"] == "in" else 0.05
        paint(np.hypot(dx, dy - drop) - 0.34 * radius, np.full(3, dot, np.float32))

    mask = body < 0
    flow = _flow(row, gx, gy, mask, scale, d, step, size)
    track = np.stack([(cx - c - shift) * scale + c, (cy - c) * scale + c], -1)[:, 0, 0]
    return (
        np.clip(video, 0, 1).astype(np.float32),
        flow.astype(np.float32),
        (track * size / SIZE).astype(np.float32),
        mask,
    )


def _flow(row: dict, gx: Any, gy: Any, mask: Any, scale: Any, d: float, step: Any, size: int) -> np.ndarray:
    frames = len(gx)
    flow = np.zeros((frames - 1, size, size, 2))
    if row["motion"] == "object":
        flow[mask[:-1]] = step
    if row["motion"] == "pan":
        flow[..., 0] = -d if row["direction"] == "right" else d
    if row["motion"] == "zoom":
        growth = (scale[1:] - scale[:-1])[..., 0]
        flow[..., 0] = growth[..., None] * (gx[:-1] - SIZE / 2)
        flow[..., 1] = growth[..., None] * (gy[:-1] - SIZE / 2)
    return flow * size / SIZE
