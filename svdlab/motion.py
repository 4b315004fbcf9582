"""What moves in a clip, how fast, and whether it is the camera or the subject.

    >>> flow(frames)                             # "t h w 2": px from each frame to the next, x right, y down
    >>> measure(frames, playback_fps=7)          # a row per frame pair
    >>> summary(frames, playback_fps=7)          # one flat dict per clip; "camera" is its class

A pair's flow is split in two. The camera is the one similarity (shift, zoom, roll) that most of the
textured picture follows; its numbers describe the camera, not the picture: content that runs left is a
pan to the right. The object is what is left over: the body that moves against that background.

Nothing here knows a model. Speeds are px of the frames given, per frame; px/s only follow from
`playback_fps`, because what a model was told about fps says nothing about how fast its clip is played.

What it cannot do: a subject that fills most of the picture is taken for the camera; a picture without
texture is not judged at all (`abstained`); depth parallax of a travelling camera shows up as object motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.frames import as_frames
from svdlab.optical_flow import (
    Backend,
    BothWays,
    both_ways,
    flow,
    points,
    sample,
    together,
    working_factor,
    working_grey,
    xt_slice,
)

__all__ = [
    "CAMERAS",
    "both_ways",
    "camera_class",
    "camera_path",
    "flow",
    "measure",
    "points",
    "summary",
    "xt_slice",
]

CAMERAS = (
    "static",
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "roll",
    "mixed",
    "abstained",
)
STILL = 0.07  # px per frame: a camera slower than that is called static
SECOND = 0.7  # of the strongest component: another one beyond that makes the camera "mixed"
RETURNED = 0.5  # of its path: a camera that ends nearer than that to where it began is "mixed"
GRID = 48  # points across the longer side at which the camera is fitted
RIM = 12  # this part of the longer side is left out along the border, where flow is drawn inwards
TEXTURE = 0.0006  # grey gradient per px (of working size) below which a place has nothing to follow
OBJECT_FLOOR = 0.1  # px of working size over the baseline: less residual flow than that is noise
OBJECT_AREA = 0.003  # of the frame: a smaller leftover is noise
MOST_BODIES = 4  # pieces of leftover flow that are looked at, in each pair
CONFIRM_LEVELS = 2.0  # grey levels (after the stretch): less difference than that proves no motion
CONFIRM_SHARE = 0.7  # of the difference under the camera alone that may remain if a body moves by itself
REGION_SIDE = 192  # px: larger moving regions are shrunk before they are aligned


@dataclass(frozen=True)
class Camera:
    """Where the picture's content goes under the camera: x -> scale * R(turn) x + shift, about the centre.

    dx, dy in px per frame, scale per frame, turn in radians per frame (clockwise as seen, since y is down).
    """

    dx: float
    dy: float
    scale: float
    turn: float

    def per_frame(self, baseline: int) -> Camera:
        """The steady camera that does this in `baseline` frames."""
        return Camera(self.dx / baseline, self.dy / baseline, self.scale ** (1 / baseline), self.turn / baseline)

    def flow(self, shape: tuple[int, int]) -> np.ndarray:
        """The flow "h w 2" that this camera alone would give."""
        h, w = shape
        x = (np.arange(w, dtype=np.float32) - (w - 1) / 2)[None, :]
        y = (np.arange(h, dtype=np.float32) - (h - 1) / 2)[:, None]
        c, s = self.scale * math.cos(self.turn) - 1, self.scale * math.sin(self.turn)
        return np.stack([c * x - s * y + self.dx, s * x + c * y + self.dy], -1).astype(np.float32)


@dataclass(frozen=True)
class Body:
    """What moves against the background: mean shift and mean speed in px per frame, and its share of the frame."""

    dx: float
    dy: float
    speed: float
    area: float


def measure(frames: Any, *, playback_fps: float | None = None, backend: Backend | None = None) -> pd.DataFrame:
    """A row per frame pair: what the camera did, what the object did, and whether that could be told.

    >>> measure(clip.frames, playback_fps=7)[["pan_px", "object_px", "object_area"]]

    Columns, per frame: `flow_px` mean speed; `pan_px` camera to the right, `tilt_px` camera upwards, `zoom_pct`
    growth of the picture in percent, `roll_deg` camera clockwise in degrees, `camera_px` mean speed that the
    camera gives to the picture; `object_px`, `object_dx`, `object_dy` the moving body against the background
    (x right, y down), `object_direction` in degrees (0 right, 90 up; NaN where nothing moves), `object_area`
    its share of the frame (0 to 1); `residual_px` mean speed of what the camera does not explain; `frozen`
    nothing moves; `abstained` nothing can be told, and then all numbers are NaN; `why` says why.
    `start` and `baseline` say from which frame, over how many, the pair was measured.
    With `playback_fps` also `*_px_s` (px per second) and `*_pct_s` (percent of the frame width per second).

    Raises:
        InputError: frames that are not a clip (see `svdlab.frames.as_frames`); playback_fps not above 0.
    """
    clip = as_frames(frames)
    fps = _positive_fps(playback_fps)
    both = both_ways(clip, backend=backend)
    greys = working_grey(clip)
    rows = together(lambda t: _pair(clip, greys, both, t), range(len(both.start)))
    table = pd.DataFrame(rows)
    table.insert(0, "pair", range(len(table)))
    if fps is not None:
        width = clip.shape[2]
        for name in ("flow", "pan", "tilt", "camera", "object"):
            table[f"{name}_px_s"] = table[f"{name}_px"] * fps
            table[f"{name}_pct_s"] = table[f"{name}_px"] * fps * 100 / width
    return table


def summary(frames: Any, *, playback_fps: float | None = None, backend: Backend | None = None) -> dict[str, Any]:
    """One flat dict per clip: the means of `measure` over its pairs, the camera's class, onset and decay.

    >>> summary(clip.frames, playback_fps=clip.playback_fps)["camera"]
    'pan_right'

    Keys: `camera` (one of CAMERAS), `abstained` (more than half of the pairs), `frozen` (no pair moves),
    `frozen_share` and `abstained_share` of the pairs, all speeds of `measure` as means (object_dx and
    object_dy as means of vectors, object_direction theirs), `onset` (first frame pair that moves),
    `decay` (mean speed of the last third over the first third: 1 keeps its speed, below 1 slows down).
    Numbers that cannot be told are NaN.

    Raises:
        InputError: as `measure`.
    """
    return summarise(measure(frames, playback_fps=playback_fps, backend=backend), np.shape(frames[0])[:2])


def summarise(table: pd.DataFrame, shape: tuple[int, ...]) -> dict[str, Any]:
    """`summary` from a table that `measure` made of frames of that "h w"."""
    seen = table[~table.abstained]
    abstained = len(seen) * 2 <= len(table)
    result: dict[str, Any] = {"camera": camera_class(table, shape), "abstained": abstained}
    result["frozen"] = bool(not abstained and seen.frozen.all())
    result["frozen_share"] = float(seen.frozen.mean()) if len(seen) else math.nan
    result["abstained_share"] = float(table.abstained.mean())
    skip = {"pair", "start", "baseline", "frozen", "abstained", "why", "object_direction"}
    for name in table.columns:
        if name not in skip:
            result[name] = math.nan if abstained else float(seen[name].mean())
    result["object_direction"] = _direction(result["object_dx"], result["object_dy"])
    moving = seen.pair[~seen.frozen]
    result["onset"] = float(moving.iloc[0]) if len(moving) and not abstained else math.nan
    result["decay"] = math.nan if abstained or result["frozen"] else _decay(seen)
    return result


def camera_class(table: pd.DataFrame, shape: tuple[int, ...]) -> str:
    """The camera's class, one of CAMERAS, from the rows of `measure` for frames of that "h w".

    Pan, tilt, zoom and roll are compared as the mean speed in px that each gives to the picture. The
    strongest names the class, unless another reaches SECOND of it or the camera came back on its path.
    """
    seen = table[~table.abstained]
    if len(seen) * 2 <= len(table):
        return "abstained"
    reach = _mean_radius(shape)
    per_frame = {
        "pan": seen.pan_px,
        "tilt": seen.tilt_px,
        "zoom": seen.zoom_pct / 100 * reach,
        "roll": np.radians(seen.roll_deg) * reach,
    }
    net = {name: float(v.mean()) for name, v in per_frame.items()}
    path = {name: float(v.abs().mean()) for name, v in per_frame.items()}
    first, second = sorted(path, key=lambda name: -path[name])[:2]
    if path[first] < STILL:
        return "static"
    if path[second] > max(SECOND * path[first], STILL) or abs(net[first]) < RETURNED * path[first]:
        return "mixed"
    names = {"pan": ("pan_left", "pan_right"), "tilt": ("tilt_down", "tilt_up"), "zoom": ("zoom_out", "zoom_in")}
    return names[first][int(net[first] > 0)] if first in names else "roll"


def camera_path(table: pd.DataFrame) -> pd.DataFrame:
    """Where the camera has got to at each frame: pan_px, tilt_px, roll_deg summed, zoom as a factor.

    >>> camera_path(measure(frames)).plot(y=["pan_px", "tilt_px"])

    A row per frame, the first at 0 (zoom 1). Pairs that abstained count as no motion.
    """
    steps = table[["pan_px", "tilt_px", "roll_deg", "zoom_pct"]].fillna(0.0)
    path = steps[["pan_px", "tilt_px", "roll_deg"]].cumsum()
    path["zoom"] = (1 + steps.zoom_pct / 100).cumprod()
    start = pd.DataFrame([{"pan_px": 0.0, "tilt_px": 0.0, "roll_deg": 0.0, "zoom": 1.0}])
    return pd.concat([start, path], ignore_index=True).rename_axis("frame")


def _pair(clip: np.ndarray, greys: list[np.ndarray], both: BothWays, t: int) -> dict[str, Any]:
    start, baseline = int(both.start[t]), int(both.baseline[t])
    h, w = clip.shape[1:3]
    row: dict[str, Any] = {"start": start, "baseline": baseline}
    texture = _texture(clip[start])
    places = _grid(h, w)
    usable = texture[places] & both.visible[t][places]
    why = _cannot_tell(texture, both.visible[t], usable)
    total = None if why else _fit_camera(both.forward[t] * baseline, places, usable)
    if total is None:
        return row | dict.fromkeys(NUMBERS, math.nan) | {"frozen": False, "abstained": True, "why": why or "no fit"}
    camera = total.per_frame(baseline)
    ours = camera.flow((h, w))
    residual = both.forward[t] - ours
    body = _object(residual, ours, both, greys, t)
    camera_px = float(np.linalg.norm(ours, axis=-1).mean())
    row |= {
        "flow_px": float(np.linalg.norm(both.forward[t], axis=-1).mean()),
        "camera_px": camera_px,
        "pan_px": -camera.dx,
        "tilt_px": camera.dy,
        "zoom_pct": (camera.scale - 1) * 100,
        "roll_deg": -math.degrees(camera.turn),
        "object_px": body.speed,
        "object_dx": body.dx,
        "object_dy": body.dy,
        "object_direction": _direction(body.dx, body.dy),
        "object_area": body.area,
        "residual_px": float(np.linalg.norm(residual, axis=-1)[both.visible[t]].mean()),
        "frozen": camera_px < STILL and body.area == 0,
        "abstained": False,
        "why": "",
    }
    return row


NUMBERS = (
    "flow_px",
    "camera_px",
    "pan_px",
    "tilt_px",
    "zoom_pct",
    "roll_deg",
    "object_px",
    "object_dx",
    "object_dy",
    "object_direction",
    "object_area",
    "residual_px",
)


def _texture(picture: np.ndarray) -> np.ndarray:
    """Where there is something to follow: the weaker eigenvalue of the structure tensor, bool "h w"."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    h, w = grey.shape
    factor = working_factor((h, w))
    shrink = min(1.0, 512 / max(h, w)) * factor
    grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_CUBIC)
    weakest = cv2.cornerMinEigenVal(grey, blockSize=15, ksize=3)  # of gradients summed to 1 over a 15 px block
    return cv2.resize(weakest, (w, h), interpolation=cv2.INTER_LINEAR) > TEXTURE**2


def _cannot_tell(texture: np.ndarray, visible: np.ndarray, usable: np.ndarray) -> str:
    """Why this pair is not judged, or "". The border decides: texture in the middle alone may be the object."""
    cells = cv2.resize(texture.astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA) > 0.1
    border = int(cells.sum() - cells[1:3, 1:3].sum())
    if border < 5:
        return "no texture"
    if visible.mean() < 0.3 or usable.sum() < 12:
        return "frames do not match"
    return ""


def _grid(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, max(h, w) // GRID)
    rim = max(h, w) // RIM
    rows, columns = np.arange(rim, h - rim, step), np.arange(rim, w - rim, step)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return y.ravel(), x.ravel()


def _fit_camera(travel: np.ndarray, places: tuple[np.ndarray, np.ndarray], usable: np.ndarray) -> Camera | None:
    """The similarity that most places follow: RANSAC, refined on its inliers, over the whole baseline."""
    h, w = travel.shape[:2]
    y, x = places[0][usable], places[1][usable]
    origin = np.stack([x - (w - 1) / 2, y - (h - 1) / 2], 1).astype(np.float32)
    there = travel[y, x]
    noise = 0.25 / working_factor((h, w)) + 0.03 * float(np.median(np.linalg.norm(there, axis=1)))
    fit: Any  # OpenCV's stubs do not know that it may find none
    fit, _ = cv2.estimateAffinePartial2D(
        origin, origin + there, method=cv2.RANSAC, ransacReprojThreshold=noise, maxIters=1000, confidence=0.999
    )
    return None if fit is None else _similarity(fit)


def _similarity(m: np.ndarray) -> Camera:
    """The similarity nearest to an affine 2 x 3 about the centre."""
    c, s = (m[0, 0] + m[1, 1]) / 2, (m[1, 0] - m[0, 1]) / 2
    return Camera(float(m[0, 2]), float(m[1, 2]), math.hypot(c, s), math.atan2(s, c))


def _object(residual: np.ndarray, camera: np.ndarray, both: BothWays, greys: list[np.ndarray], t: int) -> Body:
    """What moves against the background: the pieces of leftover flow that the pictures themselves confirm."""
    h, w = residual.shape[:2]
    baseline, first = int(both.baseline[t]), int(both.start[t])
    one, two = greys[first], greys[first + baseline]
    speed = np.linalg.norm(residual, axis=-1)
    spread = 1.4826 * float(np.median(speed[both.visible[t]]))  # of what the camera explains
    noise = OBJECT_FLOOR / working_factor((h, w)) / baseline
    moving = (speed > max(noise, 3 * spread)) & both.visible[t]
    bodies = []
    for piece in _pieces(moving, speed):
        guess = residual[piece].mean(0)
        own = _align(one, two, piece, (guess + camera[piece].mean(0)) * baseline) / baseline - camera[piece].mean(0)
        if _confirmed(one, two, piece, camera * baseline, own * baseline):
            bodies.append(Body(float(own[0]), float(own[1]), float(np.hypot(*own)), float(piece.mean())))
    return _together(bodies)


def _pieces(moving: np.ndarray, speed: np.ndarray) -> list[np.ndarray]:
    """Connected pieces of what moves, the largest first, each without the slow seam that smooth flow sews around it."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = [1 + int(i) for i in np.argsort(-areas)[:MOST_BODIES] if areas[i] >= OBJECT_AREA * moving.size]
    pieces = []
    for label in largest:
        piece = labels == label
        piece &= speed > np.percentile(speed[piece], 90) / 2
        if piece.mean() >= OBJECT_AREA:
            pieces.append(piece)
    return pieces


def _confirmed(one: np.ndarray, two: np.ndarray, piece: np.ndarray, camera: np.ndarray, own: np.ndarray) -> bool:
    """Whether the second picture resembles the first better if the piece moves by itself too, not with the camera alone."""
    ys, xs = np.nonzero(piece)
    few = slice(None, None, max(1, len(ys) // 4000))
    ys, xs = ys[few], xs[few]
    factor = one.shape[0] / piece.shape[0]

    def grey(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        places = ((v[None] + 0.5) * factor - 0.5 for v in (x, y))
        return sample(picture, *places)[0].astype(np.float32)

    here = grey(one, xs, ys)
    dx, dy = camera[ys, xs].T
    alone = np.abs(grey(two, xs + dx, ys + dy) - here).mean()
    moved = np.abs(grey(two, xs + dx + own[0], ys + dy + own[1]) - here).mean()
    return bool(alone > CONFIRM_LEVELS and moved < CONFIRM_SHARE * alone)


def _together(bodies: list[Body]) -> Body:
    area = sum(b.area for b in bodies)
    if not bodies:
        return Body(0.0, 0.0, 0.0, 0.0)
    dx, dy, speed = (
        sum(v * b.area for v, b in zip(values, bodies, strict=True)) / area
        for values in ([b.dx for b in bodies], [b.dy for b in bodies], [b.speed for b in bodies])
    )
    return Body(dx, dy, speed, area)


def _align(a: np.ndarray, b: np.ndarray, body: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The shift in px that carries the body from grey picture a to b, by correlation (Evangelidis, Psarakis 2008).

    Flow inside a smooth body is drawn towards what is around it; its outline, which this aligns, is not.
    Falls back on the guess where the correlation finds no better place nearby.
    """
    factor = a.shape[0] / body.shape[0]
    if factor > 1:
        body = cv2.resize(body.astype(np.uint8), a.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    start = guess * factor
    y, x = np.nonzero(body)
    margin = int(np.ceil(np.abs(start).max())) + 8
    top, left = max(0, y.min() - margin), max(0, x.min() - margin)
    box = (slice(top, y.max() + margin + 1), slice(left, x.max() + margin + 1))
    shrink = min(1.0, REGION_SIDE / max(a[box].shape))
    size = tuple(max(16, round(s * shrink)) for s in a[box].shape[::-1])
    one, two = (cv2.resize(p[box], size, interpolation=cv2.INTER_AREA) for p in (a, b))
    mask = cv2.resize(body[box].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    back: Any = np.eye(2, 3, dtype=np.float32)
    back[:, 2] = -start * shrink
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    try:
        _, back = cv2.findTransformECC(two, one, back, cv2.MOTION_TRANSLATION, stop, mask, 1)
    except cv2.error:  # it diverged: the flow's own answer stands
        return guess
    found = -back[:, 2] / shrink
    limit = 2.0 + 0.5 * float(np.linalg.norm(start))
    return found / factor if np.linalg.norm(found - start) <= limit else guess


def _mean_radius(shape: tuple[int, ...]) -> float:
    """Mean distance of a pixel from the centre, px: what a radian or a factor of e moves the mean pixel."""
    h, w = shape[:2]
    y, x = np.mgrid[:h, :w]
    return float(np.hypot(x - (w - 1) / 2, y - (h - 1) / 2).mean())


def _direction(dx: float, dy: float) -> float:
    """Degrees, 0 right, 90 up, in (-180, 180]; NaN without motion."""
    return math.degrees(math.atan2(-dy, dx)) if dx or dy else math.nan


def _decay(seen: pd.DataFrame) -> float:
    speed = np.hypot(seen.camera_px, seen.object_px * np.sqrt(seen.object_area))
    third = max(1, len(speed) // 3)
    first = float(speed.iloc[:third].mean())
    return float(speed.iloc[-third:].mean()) / first if first > 0 else math.nan


def _positive_fps(playback_fps: float | None) -> float | None:
    if playback_fps is None:
        return None
    if not math.isfinite(playback_fps) or playback_fps <= 0:
        raise InputError(f"got playback_fps={playback_fps}: frames per second are above 0, or None for px per frame alone.")
    return float(playback_fps)
