"""What moves in a clip, how fast, and whether it is the camera or the subject.

    >>> measure(clip.frames, playback_fps=7)     # a row per frame pair
    >>> summary(clip.frames, playback_fps=7)     # one flat dict per clip; "camera" is its class

A pair's flow is split in two. The camera is the one similarity (shift, zoom, roll) that most of the textured frame follows.
Its numbers describe the camera, not the frame's content: content that runs left is a pan to the right. The object is what is
left over: pieces of leftover flow that the images themselves confirm. Speeds are px of the frames given, per frame; px/s only
follow from `playback_fps`, which is not the fps that a model was told.

Limits: a subject that fills most of the frame is taken for the camera; frames without texture are not judged at all
(`abstained`); depth parallax of a travelling camera shows up as object motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd

from svdlab.errors import columns, takes
from svdlab.measure.flow import both_ways, flow, points, sample, speed, stride, together, working_factor, working_grey
from svdlab.measure.video import CLIP, FPS, SIZE

__all__ = ["CAMERAS", "both_ways", "camera_class", "camera_path", "flow", "measure", "points", "summary"]

CAMERAS = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "mixed", "abstained")
COLUMNS = (
    *("pair", "start", "baseline", "flow_px", "camera_px", "pan_px", "tilt_px", "zoom_pct", "roll_deg"),
    *("object_px", "object_dx", "object_dy", "object_direction", "object_area", "residual_px"),
    *("frozen", "abstained", "why"),
)
SPEEDS = ("flow_px", "pan_px", "tilt_px", "camera_px", "object_px")  # those that are given per second too
STILL = 0.07  # px/frame: a camera slower than that is called static
SECOND = 0.7  # of the strongest component: another one beyond that makes the camera "mixed"
RETURNED = 0.5  # of its path: a camera that ends nearer than that to where it began is "mixed"
GRID = 48  # points across the longer side at which the camera is fitted
RIM = 12  # this part of the longer side is left out along the border, where flow is drawn inwards
FEWEST = 12  # places that a camera is fitted to
TEXTURE = 0.0006  # grey gradient per px (of working size) below which a place has nothing to follow

OBJECT_FLOOR = 0.1  # px of working size over the baseline: less residual flow than that is noise
AREA = 0.003  # of the frame: a smaller piece of residual flow is noise
MOST = 4  # pieces that are looked at, the largest first
LEVELS = 2.0  # grey levels (after the stretch): less difference than that proves no motion
SHARE = 0.7  # of the difference under the camera alone that may remain if a piece moves by itself
SIDE = 160  # px: larger pieces are shrunk before they are aligned
SAMPLES = 3000  # pixels of a piece that are compared


def _rows(name: str, table: Any) -> Any:
    return columns(name, table, "abstained", "pan_px", "tilt_px", "zoom_pct", "roll_deg")


@takes(frames=CLIP, playback_fps=FPS)
def measure(frames: Any, *, playback_fps: float | None = None) -> pd.DataFrame:
    """A row per frame pair: what the camera did, what the object did, and whether that could be told.

    >>> measure(clip.frames, playback_fps=7)[["pan_px", "object_px", "object_area"]]

    Columns, per frame: `flow_px` mean speed; `pan_px` camera to the right, `tilt_px` camera upwards, `zoom_pct` growth of the
    content in percent, `roll_deg` camera clockwise in degrees, `camera_px` mean speed that the camera gives to the frame;
    `object_px`, `object_dx`, `object_dy` the moving body against the background (x right, y down), `object_direction` in
    degrees (0 right, 90 up; NaN where nothing moves), `object_area` its share of the frame (0 to 1); `residual_px` mean speed
    of what the camera does not explain; `frozen` nothing moves; `abstained` nothing can be told, `why`, and all numbers are
    NaN; the pair was measured from frame `start` over `baseline` frames. With `playback_fps` also `*_px_s` (px per second) and
    `*_pct_s` (percent of the frame width per second).
    """
    both = both_ways(frames)
    k = 1 / stride(frames.shape[1:3])
    few = frames if k == 1 else [cv2.resize(f, None, fx=k, fy=k, interpolation=cv2.INTER_AREA) for f in frames]
    greys = working_grey(few)

    def row(t: int) -> dict[str, Any]:
        start, baseline = int(both.start[t]), int(both.baseline[t])
        pair = _Pair(frames[start], greys[start], greys[start + baseline], both.forward[t], both.visible[t], baseline)
        return {"pair": t, "start": start, "baseline": baseline, **_measure_pair(pair)}

    table = pd.DataFrame(together(row, range(len(both.start)))).reindex(columns=COLUMNS)
    if playback_fps:
        for name in SPEEDS:
            table[f"{name}_s"] = table[name] * playback_fps
            table[f"{name[:-2]}pct_s"] = table[f"{name}_s"] * 100 / frames.shape[2]
    return table


@takes(frames=CLIP, playback_fps=FPS)
def summary(frames: Any, *, playback_fps: float | None = None) -> dict[str, Any]:
    """One flat dict per clip: the means of `measure` over its pairs, the camera's class, onset and decay.

    >>> summary(clip.frames, playback_fps=clip.playback_fps)["camera"]

    Keys: `camera` (one of CAMERAS), `abstained` (half of the pairs or more), `frozen` (no pair moves), `frozen_share` and
    `abstained_share` of the pairs, all numbers of `measure` as means (object_direction: of the mean vector), `onset` (first
    pair that moves), `decay` (mean speed of the last third over the first third). Numbers that cannot be told are NaN.
    """
    table = measure(frames, playback_fps=playback_fps)
    seen = table[~table.abstained]
    abstained = 2 * len(seen) <= len(table)
    judged = seen[:0] if abstained else seen
    moving = judged.pair[~judged.frozen.astype(bool)]
    frozen = bool(len(judged) and judged.frozen.all())
    numbers = [c for c in table.columns if c.endswith(("_px", "_pct", "_deg", "_dx", "_dy", "_area", "_s"))]
    means = {name: float(judged[name].mean()) for name in numbers}
    return {
        "camera": camera_class(table, frames.shape[1:3]),
        "abstained": abstained,
        "frozen": frozen,
        "frozen_share": float(seen.frozen.mean()),
        "abstained_share": float(table.abstained.mean()),
        **means,
        "object_direction": _direction(means["object_dx"], means["object_dy"]),
        "onset": float(moving.iloc[0]) if len(moving) else math.nan,
        "decay": math.nan if frozen else _decay(judged),
    }


@takes(table=_rows, shape=SIZE)
def camera_class(table: pd.DataFrame, shape: tuple[int, ...]) -> str:
    """The camera's class, one of CAMERAS, from the rows of `measure` for frames of that "h w".

    >>> camera_class(measure(clip.frames), clip.frames.shape[1:3])

    Pan, tilt, zoom and roll are compared as the mean speed in px that each gives to the frame. The strongest names the class,
    unless another reaches SECOND of it or the camera came back on its path.
    """
    seen = table[~table.abstained]
    if 2 * len(seen) <= len(table):
        return "abstained"
    reach = mean_radius(shape)
    zoom, roll = seen.zoom_pct / 100 * reach, np.radians(seen.roll_deg) * reach
    per_frame = {"pan": seen.pan_px, "tilt": seen.tilt_px, "zoom": zoom, "roll": roll}
    net = {name: float(v.mean()) for name, v in per_frame.items()}
    path = {name: float(v.abs().mean()) for name, v in per_frame.items()}
    first, second = sorted(path, key=lambda name: -path[name])[:2]
    if path[first] < STILL:
        return "static"
    if path[second] > max(SECOND * path[first], STILL) or abs(net[first]) < RETURNED * path[first]:
        return "mixed"
    names = {"pan": ("pan_left", "pan_right"), "tilt": ("tilt_down", "tilt_up"), "zoom": ("zoom_out", "zoom_in")}
    return names[first][int(net[first] > 0)] if first in names else "roll"


@takes(table=_rows)
def camera_path(table: pd.DataFrame) -> pd.DataFrame:
    """Where the camera has got to at each frame: pan_px, tilt_px, roll_deg summed, zoom as a factor.

    >>> camera_path(measure(clip.frames)).plot(y=["pan_px", "tilt_px"])

    Pairs that abstained count as no motion.
    """
    steps = table[["pan_px", "tilt_px", "roll_deg", "zoom_pct"]].fillna(0.0)
    path = steps[["pan_px", "tilt_px", "roll_deg"]].cumsum()
    path["zoom"] = (1 + steps.zoom_pct / 100).cumprod()
    start = pd.DataFrame({"pan_px": 0.0, "tilt_px": 0.0, "roll_deg": 0.0, "zoom": 1.0}, index=[0])
    return pd.concat([start, path], ignore_index=True).rename_axis("frame")


@takes(shape=SIZE)
def mean_radius(shape: tuple[int, ...]) -> float:
    """Mean distance of a pixel from the centre of an "h w" frame, px: what a radian or a factor of e moves the mean pixel."""
    h, w = shape[:2]
    y, x = np.mgrid[:h, :w]
    return float(np.hypot(x - (w - 1) / 2, y - (h - 1) / 2).mean())


def _direction(dx: float, dy: float) -> float:
    """Degrees, 0 right, 90 up, in (-180, 180]; NaN without motion."""
    return math.degrees(math.atan2(-dy, dx)) if dx or dy else math.nan


def _decay(seen: pd.DataFrame) -> float:
    speeds = np.hypot(seen.camera_px, seen.object_px * np.sqrt(seen.object_area))
    third = max(1, len(speeds) // 3)
    first, last = float(speeds.iloc[:third].mean()), float(speeds.iloc[-third:].mean())
    return last / first if first > 0 else math.nan


@dataclass(frozen=True)
class _Pair:
    """Two frames, `baseline` apart. image: the earlier one, "h w 3". earlier, later: their grey images, uint8, of a size of
    their own. forward "h w 2", px per frame, and visible: their flow, and where it can be trusted.
    """

    image: np.ndarray
    earlier: np.ndarray
    later: np.ndarray
    forward: np.ndarray
    visible: np.ndarray
    baseline: int
    shape = property(lambda self: self.image.shape[:2])
    per_px = property(lambda self: self.earlier.shape[1] / self.shape[1], doc="Px of the grey images in one px of the frame.")


def _measure_pair(pair: _Pair) -> dict[str, Any]:
    every = stride(pair.shape)  # dense fields are looked at on sites, every so many px
    forward, visible = (np.ascontiguousarray(field[::every, ::every]) for field in (pair.forward, pair.visible))
    texture = _texture(pair.image, visible.shape)
    cells = cv2.resize(texture.astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA) > 0.1
    border = int(cells.sum() - cells[1:3, 1:3].sum())  # texture in the middle alone may be the object
    why = "no texture" if border < 5 else "frames do not match" if visible.mean() < 0.3 else ""
    camera = None if why else _fit_camera(forward * pair.baseline, texture & visible, pair.shape)
    if camera is None:
        return {"frozen": False, "abstained": True, "why": why or "no fit"}
    dx, dy, scale, turn = camera
    dx, dy, scale, turn = dx / pair.baseline, dy / pair.baseline, scale ** (1 / pair.baseline), turn / pair.baseline
    ours = _camera_flow(dx, dy, scale, turn, pair.shape)
    residual = forward - ours
    object_dx, object_dy, object_px, object_area = _find_bodies(pair, residual, ours, visible)
    camera_px = float(speed(ours).mean())
    return {
        "flow_px": float(speed(forward).mean()),
        "camera_px": camera_px,
        "pan_px": -dx,
        "tilt_px": dy,
        "zoom_pct": (scale - 1) * 100,
        "roll_deg": -math.degrees(turn),
        "object_px": object_px,
        "object_dx": object_dx,
        "object_dy": object_dy,
        "object_direction": _direction(object_dx, object_dy),
        "object_area": object_area,
        "residual_px": float(speed(residual)[visible].mean()),
        "frozen": camera_px < STILL and object_area == 0,
        "abstained": False,
        "why": "",
    }


def _texture(image: np.ndarray, sites: tuple[int, ...]) -> np.ndarray:
    """Where there is something to follow: the weaker eigenvalue of the structure tensor, bool at the sites "h w"."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shrink = working_factor(grey.shape) / stride(grey.shape)
    grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_CUBIC)
    weakest = cv2.cornerMinEigenVal(grey, blockSize=15, ksize=3)  # of gradients summed to 1 over a 15 px block
    return cv2.resize(weakest, sites[::-1], interpolation=cv2.INTER_LINEAR) > TEXTURE**2


# --- the camera: x -> scale * R(turn) x + (dx, dy), about the centre, in px and radians (clockwise as seen: y runs down)


def _fit_camera(travel: np.ndarray, usable: np.ndarray, shape: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The similarity (dx, dy, scale, turn) that most places follow over the baseline: RANSAC, refined on its inliers."""
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
    if fit is None:
        return None
    c, s = (fit[0, 0] + fit[1, 1]) / 2, (fit[1, 0] - fit[0, 1]) / 2
    return float(fit[0, 2]), float(fit[1, 2]), math.hypot(c, s), math.atan2(s, c)


def _camera_flow(dx: float, dy: float, scale: float, turn: float, shape: tuple[int, int]) -> np.ndarray:
    """The flow "h w 2" at the sites that this camera alone would give, px."""
    (h, w), every = shape, stride(shape)
    x = (np.arange(0, w, every, dtype=np.float32) - np.float32((w - 1) / 2))[None, :]
    y = (np.arange(0, h, every, dtype=np.float32) - np.float32((h - 1) / 2))[:, None]
    c, s = scale * math.cos(turn) - 1, scale * math.sin(turn)
    return np.stack([c * x - s * y + dx, s * x + c * y + dy], -1).astype(np.float32)


# --- the object: leftover flow also appears without texture, at the border, and where something gets hidden. So each connected
# piece is aligned on the images, and counts only if it then looks like itself clearly better than under the camera alone.


def _find_bodies(
    pair: _Pair, residual: np.ndarray, camera: np.ndarray, visible: np.ndarray
) -> tuple[float, float, float, float]:
    """dx, dy, speed (px per frame) and area of all confirmed pieces, weighted by their areas; zeros where there is none."""
    fast = speed(residual)
    spread = 1.4826 * float(np.median(fast[visible])) if visible.any() else 0.0  # of what the camera explains
    floor = OBJECT_FLOOR / working_factor(pair.shape) / pair.baseline
    found = []
    for piece in _pieces((fast > max(floor, 3 * spread)) & visible, fast):
        under, guess = camera[piece].mean(0), residual[piece].mean(0)
        if _confirmed(pair, piece, camera * pair.baseline, guess * pair.baseline):
            own = _align(pair, piece, (guess + under) * pair.baseline) / pair.baseline - under
            found.append((*own, np.hypot(*own), piece.mean()))
    if not found:
        return 0.0, 0.0, 0.0, 0.0
    bodies = np.array(found, float)
    area = bodies[:, 3]
    dx, dy, fastness = area @ bodies[:, :3] / area.sum()
    return float(dx), float(dy), float(fastness), float(area.sum())


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


def _confirmed(pair: _Pair, piece: np.ndarray, camera: np.ndarray, own: np.ndarray) -> bool:
    """Whether the later image resembles the earlier one clearly better with the piece's own motion (px) than without."""
    rows, columns = np.nonzero(piece)
    few = slice(None, None, max(1, len(rows) // SAMPLES))
    rows, columns = rows[few], columns[few]
    per_site = pair.earlier.shape[0] / piece.shape[0]
    x, y = ((v + 0.5) * per_site - 0.5 for v in (columns, rows))
    dx, dy = camera[rows, columns].T * pair.per_px
    places = (pair.earlier, 0, 0), (pair.later, dx, dy), (pair.later, dx + own[0] * pair.per_px, dy + own[1] * pair.per_px)
    here, there, moved = (sample(grey, (x + i)[None], (y + j)[None])[0].astype(np.float32) for grey, i, j in places)
    alone = np.abs(there - here).mean()
    return bool(alone > LEVELS and np.abs(moved - here).mean() < SHARE * alone)


def _align(pair: _Pair, piece: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The shift in px that carries the piece from image to image, by correlation (Evangelidis and Psarakis 2008).

    Flow inside a smooth body is drawn towards what is around it; its outline, which this aligns, is not. The guess (px) stands
    where the correlation finds no better place nearby.
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
