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
from svdlab.measure.flow import (
    Backend,
    BothWays,
    both_ways,
    flow,
    points,
    sample,
    speed,
    stride,
    together,
    working_factor,
    working_grey,
    xt_slice,
)
from svdlab.measure.frames import as_frames

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
FEWEST = 12  # places that a camera is fitted to
TEXTURE = 0.0006  # grey gradient per px (of working size) below which a place has nothing to follow
OBJECT_FLOOR = 0.1  # px of working size over the baseline: less residual flow than that is noise


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

    def flow(self, shape: tuple[int, ...], every: int = 1) -> np.ndarray:
        """The flow "h w 2" that this camera alone would give, at every so many px of a frame of that "h w"."""
        h, w = shape[:2]
        x = (np.arange(0, w, every, dtype=np.float32) - np.float32((w - 1) / 2))[None, :]
        y = (np.arange(0, h, every, dtype=np.float32) - np.float32((h - 1) / 2))[:, None]
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
        InputError: frames that are not a clip (see `svdlab.measure.frames.as_frames`); playback_fps not above 0.
    """
    clip = as_frames(frames)
    fps = _positive_fps(playback_fps)
    both = both_ways(clip, backend=backend)
    greys = _small_greys(clip)
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
    start, baseline, shape = int(both.start[t]), int(both.baseline[t]), clip.shape[1:3]
    every = stride(shape)
    forward = np.ascontiguousarray(both.forward[t, ::every, ::every])
    visible = np.ascontiguousarray(both.visible[t, ::every, ::every])
    texture = _texture(clip[start], visible.shape)
    row: dict[str, Any] = {"start": start, "baseline": baseline}
    why = _cannot_tell(texture, visible)
    total = None if why else _fit_camera(forward * baseline, texture & visible, shape)
    if total is None:
        return row | dict.fromkeys(NUMBERS, math.nan) | {"frozen": False, "abstained": True, "why": why or "no fit"}
    camera = total.per_frame(baseline)
    ours = camera.flow(shape, every)
    residual = forward - ours
    earlier, later = greys[start], greys[start + baseline]
    pictures = Pair(earlier, later, earlier.shape[0] / visible.shape[0], earlier.shape[1] / shape[1])
    floor = OBJECT_FLOOR / working_factor(shape)
    body = find(residual, ours, visible, pictures, baseline=baseline, floor=floor)
    camera_px = float(speed(ours).mean())
    row |= {
        "flow_px": float(speed(forward).mean()),
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
        "residual_px": float(speed(residual)[visible].mean()),
        "frozen": camera_px < STILL and body.area == 0,
        "abstained": False,
        "why": "",
    }
    return row


def _small_greys(clip: np.ndarray) -> list[np.ndarray]:
    """Grey pictures of the size at which dense fields are looked at: enlarged where frames are small, thinned where large."""
    k = 1 / stride(clip.shape[1:3])
    return working_grey(clip if k == 1 else [cv2.resize(f, None, fx=k, fy=k, interpolation=cv2.INTER_AREA) for f in clip])


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


def _texture(picture: np.ndarray, sites: tuple[int, ...]) -> np.ndarray:
    """Where there is something to follow: the weaker eigenvalue of the structure tensor, bool at the sites "h w"."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    shrink = working_factor(grey.shape) / stride(grey.shape)
    grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_CUBIC)
    weakest = cv2.cornerMinEigenVal(grey, blockSize=15, ksize=3)  # of gradients summed to 1 over a 15 px block
    return cv2.resize(weakest, sites[::-1], interpolation=cv2.INTER_LINEAR) > TEXTURE**2


def _cannot_tell(texture: np.ndarray, visible: np.ndarray) -> str:
    """Why this pair is not judged, or "". The border decides: texture in the middle alone may be the object."""
    cells = cv2.resize(texture.astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA) > 0.1
    if int(cells.sum() - cells[1:3, 1:3].sum()) < 5:
        return "no texture"
    return "frames do not match" if visible.mean() < 0.3 else ""


def _fit_camera(travel: np.ndarray, usable: np.ndarray, shape: tuple[int, ...]) -> Camera | None:
    """The similarity that most places follow: RANSAC, refined on its inliers, over the whole baseline."""
    rows, columns = usable.shape
    step, rim = max(1, max(rows, columns) // GRID), max(rows, columns) // RIM
    y, x = np.mgrid[rim : rows - rim : step, rim : columns - rim : step]
    y, x = y[usable[y, x]], x[usable[y, x]]
    if len(x) < FEWEST:
        return None
    there = travel[y, x]
    h, w = shape
    every = stride(shape)
    origin = np.stack([x * every - (w - 1) / 2, y * every - (h - 1) / 2], 1).astype(np.float32)
    noise = 0.25 / working_factor(shape) + 0.03 * float(np.median(np.linalg.norm(there, axis=1)))
    fit: Any  # OpenCV's stubs do not know that it may find none
    fit, _ = cv2.estimateAffinePartial2D(
        origin, origin + there, method=cv2.RANSAC, ransacReprojThreshold=noise, maxIters=1000, confidence=0.999
    )
    return None if fit is None else _similarity(fit)


def _similarity(m: np.ndarray) -> Camera:
    """The similarity nearest to an affine 2 x 3 about the centre."""
    c, s = (m[0, 0] + m[1, 1]) / 2, (m[1, 0] - m[0, 1]) / 2
    return Camera(float(m[0, 2]), float(m[1, 2]), math.hypot(c, s), math.atan2(s, c))


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


AREA = 0.003  # of the frame: a smaller piece is noise
MOST = 4  # pieces that are looked at, the largest first
LEVELS = 2.0  # grey levels (after the stretch): less difference than that proves no motion
SHARE = 0.7  # of the difference under the camera alone that may remain if a piece moves by itself
SIDE = 160  # px: larger pieces are shrunk before they are aligned
SAMPLES = 3000  # pixels of a piece that are compared


@dataclass(frozen=True)
class Body:
    """What moves against the background: mean shift and mean speed in px per frame, and its share of the frame."""

    dx: float
    dy: float
    speed: float
    area: float


@dataclass(frozen=True)
class Pair:
    """Two grey pictures, and how sites of the dense fields and their px relate to the pictures' px.

    earlier, later: uint8 "h w". per_site: picture px from one site to the next. per_px: picture px in a px of the frames.
    """

    earlier: np.ndarray
    later: np.ndarray
    per_site: float
    per_px: float


def find(residual: np.ndarray, camera: np.ndarray, visible: np.ndarray, pair: Pair, *, baseline: int, floor: float) -> Body:
    """The mean of all confirmed pieces, weighted by their areas; a Body of zeros where there is none.

    Args:
        residual, camera: "h w 2" at the sites, px per frame: leftover flow, and the camera's.
        visible: bool "h w", where flow can be trusted.
        pair: the two pictures, `baseline` frames apart.
        floor: px over the baseline below which leftover flow is noise.
    """
    fast = speed(residual)
    spread = 1.4826 * float(np.median(fast[visible])) if visible.any() else 0.0  # of what the camera explains
    bodies = []
    for piece in _pieces((fast > max(floor / baseline, 3 * spread)) & visible, fast):
        under = camera[piece].mean(0)
        guess = residual[piece].mean(0)
        if not _confirmed(pair, piece, camera * baseline, guess * baseline):
            continue
        own = _align(pair, piece, (guess + under) * baseline) / baseline - under
        bodies.append(Body(float(own[0]), float(own[1]), float(np.hypot(*own)), float(piece.mean())))
    if not bodies:
        return Body(0.0, 0.0, 0.0, 0.0)
    area = np.array([b.area for b in bodies])
    dx, dy, fastness = area @ np.array([(b.dx, b.dy, b.speed) for b in bodies]) / area.sum()
    return Body(float(dx), float(dy), float(fastness), float(area.sum()))


def _pieces(moving: np.ndarray, fast: np.ndarray) -> list[np.ndarray]:
    """Connected pieces of what moves, the largest first, each without the slow seam that smooth flow sews around it."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    pieces = []
    for i in np.argsort(-areas)[:MOST]:
        if areas[i] >= AREA * moving.size:
            piece = labels == i + 1
            piece &= fast > np.percentile(fast[piece], 90) / 2
            if piece.mean() >= AREA:
                pieces.append(piece)
    return pieces


def _confirmed(pair: Pair, piece: np.ndarray, camera: np.ndarray, own: np.ndarray) -> bool:
    """Whether the later picture resembles the earlier one clearly better with the piece's own motion (px) than without."""
    rows, columns = np.nonzero(piece)
    few = slice(None, None, max(1, len(rows) // SAMPLES))
    rows, columns = rows[few], columns[few]
    x, y = ((v + 0.5) * pair.per_site - 0.5 for v in (columns, rows))
    dx, dy = camera[rows, columns].T * pair.per_px
    here = _levels(pair.earlier, x, y)
    alone = np.abs(_levels(pair.later, x + dx, y + dy) - here).mean()
    moved = np.abs(_levels(pair.later, x + dx + own[0] * pair.per_px, y + dy + own[1] * pair.per_px) - here).mean()
    return bool(alone > LEVELS and moved < SHARE * alone)


def _levels(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return sample(picture, x[None], y[None])[0].astype(np.float32)


def _align(pair: Pair, piece: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The shift in px that carries the piece from picture to picture, by correlation (Evangelidis and Psarakis 2008).

    Flow inside a smooth body is drawn towards what is around it; its outline, which this aligns, is not.
    Falls back on the guess (px) where the correlation finds no better place nearby.
    """
    a, b = pair.earlier, pair.later
    whole = cv2.resize(piece.astype(np.uint8), a.shape[::-1], interpolation=cv2.INTER_NEAREST)
    start = guess * pair.per_px
    left, top, width, height = cv2.boundingRect(whole)
    margin = int(np.ceil(np.abs(start).max())) + 8
    box = (slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin))
    shrink = min(1.0, SIDE / max(a[box].shape))
    one, two = (cv2.resize(p[box], None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) for p in (a, b))
    mask = cv2.resize(whole[box], one.shape[::-1], interpolation=cv2.INTER_NEAREST)
    back: Any = np.eye(2, 3, dtype=np.float32)
    back[:, 2] = -start * shrink
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    try:
        _, back = cv2.findTransformECC(two, one, back, cv2.MOTION_TRANSLATION, stop, mask, 1)
    except cv2.error:  # it diverged: the flow's own answer stands
        return guess
    found = -back[:, 2] / shrink
    near = np.linalg.norm(found - start) <= 2.0 + 0.5 * np.linalg.norm(start)
    return found / pair.per_px if near else guess
