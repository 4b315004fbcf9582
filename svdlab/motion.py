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
SECOND = 0.5  # of the strongest component: another one beyond that makes the camera "mixed"
RETURNED = 0.5  # of its path: a camera that ends nearer than that to where it began is "mixed"
GRID = 48  # points across the longer side at which the camera is fitted
TEXTURE = 0.0006  # grey gradient per px (of working size) below which a place has nothing to follow
OBJECT_FLOOR = 0.1  # px of working size over the baseline: less residual flow than that is noise
OBJECT_AREA = 0.003  # of the frame: a smaller leftover is noise
CAMERA_SIDE = 256  # px: larger pictures are shrunk before the camera is refined on them
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

    def matrix(self, k: float = 1.0) -> np.ndarray:
        """The 3 x 3 matrix about the centre, for a picture enlarged by k."""
        c, s = self.scale * math.cos(self.turn), self.scale * math.sin(self.turn)
        return np.array([[c, -s, self.dx * k], [s, c, self.dy * k], [0, 0, 1]])

    def flow(self, shape: tuple[int, int]) -> np.ndarray:
        """The flow "h w 2" that this camera alone would give."""
        h, w = shape
        x = (np.arange(w, dtype=np.float32) - (w - 1) / 2)[None, :]
        y = (np.arange(h, dtype=np.float32) - (h - 1) / 2)[:, None]
        c, s = self.scale * math.cos(self.turn) - 1, self.scale * math.sin(self.turn)
        return np.stack([c * x - s * y + self.dx, s * x + c * y + self.dy], -1).astype(np.float32)


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
    strongest names the class, unless another reaches half of it or the camera came back on its path.
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
    total = _refine_camera(total, greys[start], greys[start + baseline], both.forward[t] * baseline, both.visible[t] & texture)
    camera = total.per_frame(baseline)
    ours = camera.flow((h, w))
    residual = both.forward[t] - ours
    dx, dy, area = _object(residual, ours, both, greys, t)
    camera_px = float(np.linalg.norm(ours, axis=-1).mean())
    row |= {
        "flow_px": float(np.linalg.norm(both.forward[t], axis=-1).mean()),
        "camera_px": camera_px,
        "pan_px": -camera.dx,
        "tilt_px": camera.dy,
        "zoom_pct": (camera.scale - 1) * 100,
        "roll_deg": -math.degrees(camera.turn),
        "object_px": math.hypot(dx, dy),
        "object_dx": dx,
        "object_dy": dy,
        "object_direction": _direction(dx, dy),
        "object_area": area,
        "residual_px": float(np.linalg.norm(residual, axis=-1)[both.visible[t]].mean()),
        "frozen": camera_px < STILL and area == 0,
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
    rows, columns = np.arange(step // 2, h, step), np.arange(step // 2, w, step)
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


def _refine_camera(rough: Camera, a: np.ndarray, b: np.ndarray, travel: np.ndarray, told: np.ndarray) -> Camera:
    """The camera from the pictures themselves: correlation over the places that follow the rough one.

    Flow near the border is drawn inwards, which makes a zoom look smaller than it is; pictures are not.
    Falls back on the rough camera where the correlation does not settle near it.
    """
    shape = travel.shape[:2]
    off = np.linalg.norm(travel - rough.flow(shape), axis=-1)
    allowed = 0.5 / working_factor(shape) + 0.1 * float(np.linalg.norm(travel[told], axis=-1).mean())
    shrink = min(1.0, CAMERA_SIDE / max(a.shape))
    size = (round(a.shape[1] * shrink), round(a.shape[0] * shrink))
    one, two = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (a, b))
    mask = cv2.resize((told & (off < allowed)).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    if mask.mean() < 0.05:
        return rough
    k = size[0] / shape[1]
    to_centre = np.array([[1, 0, (size[0] - 1) / 2], [0, 1, (size[1] - 1) / 2], [0, 0, 1]])
    matrix = to_centre @ rough.matrix(k) @ np.linalg.inv(to_centre)
    back: Any = np.linalg.inv(matrix)[:2].astype(np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-5)
    try:
        _, back = cv2.findTransformECC(two, one, back, cv2.MOTION_AFFINE, stop, mask, 1)
    except cv2.error:  # it diverged
        return rough
    forth = np.linalg.inv(np.vstack([back, [0, 0, 1]]))
    fine = _similarity((np.linalg.inv(to_centre) @ forth @ to_centre)[:2])
    fine = Camera(fine.dx / k, fine.dy / k, fine.scale, fine.turn)
    moved = np.linalg.norm(fine.flow(shape) - rough.flow(shape), axis=-1).mean()
    return fine if moved <= allowed else rough


def _object(
    residual: np.ndarray, ours: np.ndarray, both: BothWays, greys: list[np.ndarray], t: int
) -> tuple[float, float, float]:
    """The moving body: dx, dy in px per frame against the background, and its share of the frame."""
    h, w = residual.shape[:2]
    speed = np.linalg.norm(residual, axis=-1)
    baseline = int(both.baseline[t])
    spread = 1.4826 * float(np.median(np.abs(speed[both.visible[t]])))  # of what the camera explains
    floor = max(
        OBJECT_FLOOR / working_factor((h, w)) / baseline, 3 * spread, 0.05 * float(np.linalg.norm(ours, axis=-1).mean())
    )
    moving = (speed > floor) & both.visible[t]
    if moving.mean() < OBJECT_AREA:
        return 0.0, 0.0, 0.0
    peak = float(np.percentile(speed[moving], 90))
    count, labels, stats, _ = cv2.connectedComponentsWithStats((moving & (speed > peak / 2)).astype(np.uint8))
    body = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else moving
    if body.mean() < OBJECT_AREA:
        return 0.0, 0.0, 0.0
    seen = np.median(both.forward[t][body], axis=0)
    first, last = int(both.start[t]), int(both.start[t]) + baseline
    aligned = _align(greys[first], greys[last], body, seen * baseline) / baseline
    dx, dy = aligned - ours[body].mean(0)
    return float(dx), float(dy), float(body.mean())


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
