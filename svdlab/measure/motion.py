"""What moves in a clip, how fast, and whether it is the camera or the subject.

    >>> measure(clip.frames, playback_fps=7)     # a row per frame pair
    >>> summary(clip.frames, playback_fps=7)     # one flat dict per clip; "camera" is its class

A pair's flow is split in two. The camera is the one similarity (shift, zoom, roll) that most of the textured frame follows.
Its numbers describe the camera, not the frame's content: content that runs left is a pan to the right. What is left over, and
confirmed by the images, is parallax where it runs along the camera's own lines, and otherwise `activity`; pieces of it are the
subject. Speeds are px of the frames given, per frame; px/s only follow from `playback_fps`, which is not the fps that a model
was conditioned on.

Limits: a subject of a third of the frame or more may leave a clip unjudged (`abstained`), as a lack of texture does, and one
that fills it is taken for the camera; black borders and text over a moving camera's frames are taken for a subject; a subject
that runs along with a travelling camera's content, faster than half of it, is taken for depth.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd

from svdlab.errors import columns, number, takes
from svdlab.measure import residual, shots
from svdlab.measure.camera import CAMERAS, FLOOR, Camera, Sites, decide, fit, mean_radius
from svdlab.measure.flow import (
    both_ways,
    each_window,
    estimator,
    flow,
    points,
    site_step,
    speed,
    stride,
    there_and_back,
    together,
    working_factor,
    working_grey,
)
from svdlab.measure.video import CLIP, FPS, SIZE

__all__ = ["CAMERAS", "FLOOR", "both_ways", "camera_class", "camera_path", "flow", "mean_radius", "measure"]
__all__ += ["noise_floor", "points", "summary"]

COLUMNS = (
    *("pair", "start", "baseline", "flow_px", "camera_px", "camera_se_px", "pan_px", "tilt_px", "zoom_pct", "roll_deg"),
    *("object_px", "object_dx", "object_dy", "object_direction", "object_area", "residual_px"),
    *("activity", "parallax", "hidden", "photometric", "cut", "fade", "frozen", "abstained", "why"),
)
SPEEDS = ("flow_px", "pan_px", "tilt_px", "camera_px", "object_px")  # those that are given per second too
SHARES = ("activity", "parallax", "hidden", "photometric")
TEXTURE = 0.0006  # grey gradient per px (of working size) below which a place has nothing to follow
ACTIVE = 0.002  # of the frame: less activity than that is none
MATCHED = 0.3  # of the frame: pairs of which flow finds less in both frames do not match
CUT = 0.5  # of the frame: the same where thumbnails say that the shot changes
CELL = 12  # px: brightness is compared in cells of that side
LIMIT = partial(number, least=0, most=1000)


def _rows(name: str, table: Any) -> Any:
    return columns(name, table, "abstained", "pan_px", "tilt_px", "zoom_pct", "roll_deg")


@takes(frames=CLIP, playback_fps=FPS, floor=LIMIT)
def measure(frames: Any, *, playback_fps: float | None = None, floor: float = FLOOR) -> pd.DataFrame:
    """A row per frame pair: what the camera did, what the object did, and whether that could be measured.

    >>> measure(clip.frames, playback_fps=7)[["pan_px", "object_px", "object_area"]]

    Columns, per frame: `flow_px` mean speed of visible pixels; `pan_px` camera to the right, `tilt_px` camera upwards,
    `zoom_pct` growth of the content in percent, `roll_deg` camera clockwise in degrees, `camera_px` mean speed that the camera
    gives to the frame, `camera_se_px` standard error of each of its components as px of the mean pixel; `object_px`,
    `object_dx`, `object_dy` the moving body against the background (x right, y down), `object_direction` in degrees (0 right,
    90 up; NaN where nothing moves), `object_area` its share of the frame (0 to 1); `residual_px` mean speed of what the camera
    does not explain; `activity` share of the frame that is confirmed to move by itself, `parallax` mean speed that depth adds,
    px, `hidden` share of the frame that flow finds in one frame only, `photometric` change of brightness that is no motion
    (mean over blocks of CELL px, on a scale of 1); `cut`, `fade` the shot changes here; `frozen` nothing moves, by more than
    `floor` px/frame; `abstained` nothing can be measured, `why`, and all numbers are NaN; the pair was measured from frame
    `start` over `baseline` frames. With `playback_fps` also `*_px_s` (px/s) and `*_pct_s` (percent of the frame width
    per second).
    """
    return _measure(frames, playback_fps, floor)


def _measure(frames: np.ndarray, playback_fps: float | None, floor: float) -> pd.DataFrame:
    shape, thumbs = frames.shape[1:3], shots.thumbnails(frames)
    flows = there_and_back(estimator(frames), site_step(shape))
    k = 1 / stride(shape)
    few = frames if k == 1 else [cv2.resize(f, None, fx=k, fy=k, interpolation=cv2.INTER_AREA) for f in frames]
    greys, plain = working_grey(few), [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in few]
    fine = [residual.fine_part(grey, working_factor(few[0].shape)) for grey in greys]

    def look(start: int, baseline: int) -> tuple[residual.Pair, float, str, dict[str, Any]]:
        """The pair, the share of it that flow finds in both frames, why nothing can be measured, and the numbers."""
        end, (forward, _, visible) = start + baseline, flows(start, baseline)
        pair = residual.Pair(shape, greys[start], greys[end], (fine[start], fine[end]), forward, visible, baseline)
        seen = float(visible.mean())
        texture = _texture(plain[start], visible.shape, shape)
        cells = cv2.resize(texture.astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA) > 0.1
        if cells.sum() - cells[1:3, 1:3].sum() < 5:  # texture in the middle alone may be the object
            return pair, seen, "no texture", {}
        if seen < MATCHED:
            return pair, seen, "frames do not match", {}
        evidence = residual.Evidence.of(pair)
        pair, told = evidence.trusted(pair)
        sites = Sites.of(pair.forward * baseline, texture & pair.visible & told, shape)
        camera = fit(sites) if sites else None
        if camera is None:
            return pair, seen, "no fit", {}
        numbers = _split(pair, evidence, camera, floor)
        if not numbers:
            return pair, seen, "the rim rests", {}
        return pair, seen, "", numbers | {"hidden": 1 - float(pair.visible.mean())}

    looks, starts, baselines = each_window(frames, look)
    jump, fade = shots.jumps(thumbs), shots.in_fades(shots.fades(thumbs), len(looks))

    def row(t: int) -> dict[str, Any]:
        pair, seen, why, numbers = looks[t]
        cut = bool(jump[t] and seen < CUT and not fade[t])
        why = "cross-fade" if fade[t] else "frames do not match" if cut and not why else why
        if fade[t]:
            pair = replace(pair, forward=0 * pair.forward, visible=pair.visible | True)
        found: dict[str, Any] = {"frozen": False} if why else dict(numbers)
        if fade[t] or not why:
            found["photometric"] = _photometric(plain[t], plain[t + 1], pair)
        window = {"pair": t, "start": int(starts[t]), "baseline": int(baselines[t])}
        return window | found | {"cut": cut, "fade": bool(fade[t]), "abstained": bool(why), "why": why}

    table = pd.DataFrame(together(row, range(len(looks)))).reindex(columns=COLUMNS)
    if playback_fps:
        for name in SPEEDS:
            table[f"{name}_s"] = table[name] * playback_fps
            table[f"{name[:-2]}pct_s"] = table[f"{name}_s"] * 100 / frames.shape[2]
    return table


@takes(frames=CLIP, playback_fps=FPS, floor=LIMIT)
def summary(frames: Any, *, playback_fps: float | None = None, floor: float = FLOOR) -> dict[str, Any]:
    """One flat dict per clip: the means of `measure` over its pairs, the camera's class and net motion, onset and decay.

    >>> summary(clip.frames, playback_fps=clip.playback_fps)["camera"]

    Keys: `camera` (one of CAMERAS) and `camera_p`, its probability; `net_pan_px`, `net_tilt_px`, `net_zoom_pct`,
    `net_roll_deg` of the camera over the whole clip, `net_px` by which that moves the mean pixel, with its standard error
    `net_se_px`; `abstained` (half of the pairs outside a fade, or more), `frozen` (no camera, subject, activity, cut or fade),
    `frozen_share` and `abstained_share` of the pairs; all numbers of `measure` as means (object_direction: of the mean
    vector); `travel` (px, net, of the subject over the clip; 0 where it is seen in less than half of the pairs or its net is
    within three standard errors), `cuts` and `fades` (numbers), `onset` (first pair that moves), `decay` (mean speed of the
    last third over the first third). Numbers that cannot be measured are NaN. floor: px/frame; a camera below it is
    static, unless first and last frame show a drift nearly as fast: then its class is "abstained". It holds for real video;
    `noise_floor` measures that of a checkpoint's autoencoder.
    """
    table = _measure(frames, playback_fps, floor)
    seen = table[~table.abstained]
    abstained = _abstains(table)
    judged = seen[:0] if abstained else seen
    camera, sure = _class(table, frames.shape[1:3], floor)
    if camera == "static" and _drifts(frames, table, floor):
        camera, sure = "abstained", math.nan
    moving = judged.pair[~judged.frozen.astype(bool)]
    cuts, fades = int(table.cut.sum()), int((table.fade & ~table.fade.shift(fill_value=False)).sum())
    frozen = bool(len(judged) and judged.frozen.all() and camera == "static" and not cuts and not fades)
    numbers = [c for c in table.columns if c.endswith(("_px", "_pct", "_deg", "_dx", "_dy", "_area", "_s")) or c in SHARES]
    means = {name: float(judged[name].mean()) for name in numbers}
    if not abstained:
        means["photometric"] = float(table.photometric.mean())  # of cross-fades too
    return {
        "camera": camera,
        "camera_p": sure,
        "abstained": abstained,
        "frozen": frozen,
        "frozen_share": float(seen.frozen.mean()),
        "abstained_share": float(table.abstained.mean()),
        **means,
        **_net(judged, len(table), frames.shape[1:3]),
        "object_direction": _direction(means["object_dx"], means["object_dy"]),
        "travel": _travel(judged) * len(table),
        "cuts": cuts,
        "fades": fades,
        "onset": float(moving.iloc[0]) if len(moving) else math.nan,
        "decay": math.nan if frozen else _decay(judged),
    }


@takes(table=_rows, shape=SIZE, floor=LIMIT)
def camera_class(table: pd.DataFrame, shape: tuple[int, ...], *, floor: float = FLOOR) -> str:
    """The camera's class, one of CAMERAS, from the rows of `measure` for frames of that "h w".

    >>> camera_class(measure(clip.frames), clip.frames.shape[1:3])

    By its net motion: below `floor` px/frame it is static. A zoom or roll has its fixed point inside the frame, wherever; a
    pan or tilt has not. "mixed" are components within SECOND of each other, and a camera that came back on its path.
    "abstained": half of the pairs or more, a camera that moves in few of them, or a class that the error of the fit leaves
    less than SURE. (`summary` compares the clip's ends as well before it calls a camera static.)
    """
    return _class(table, tuple(shape), floor)[0]


@takes(frames=CLIP)
def noise_floor(frames: Any) -> float:
    """Camera speed, px/frame, that the instrument sees in a clip in which nothing moves: the `floor` of whatever made it.

    >>> noise_floor(np.repeat(clip.frames[:1], 9, axis=0))       # an image repeated; better, after an autoencoder
    0.06

    Never less than FLOOR, nor than twice the fit's standard error; FLOOR where no pair can be judged.
    """
    seen = measure(frames).query("~abstained")
    found = [FLOOR, *(seen.camera_px + 2 * seen.camera_se_px).replace(math.inf, math.nan).dropna()]
    return float(max(FLOOR, np.percentile(found, 95)))


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


def _abstains(table: pd.DataFrame) -> bool:
    """Whether half of the pairs or more cannot be judged, not counting those in a cross-fade."""
    count = len(table) - (int(table.fade.sum()) if "fade" in table else 0)
    return 2 * int((~table.abstained.astype(bool)).sum()) <= count


def _class(table: pd.DataFrame, shape: tuple[int, ...], floor: float) -> tuple[str, float]:
    seen = table[~table.abstained]
    if _abstains(table):
        return "abstained", math.nan
    reach = mean_radius(shape)
    each = np.stack([seen.pan_px, seen.tilt_px, seen.zoom_pct / 100 * reach, np.radians(seen.roll_deg) * reach], 1)
    each = each.astype(float)
    errors = seen.camera_se_px.to_numpy(float) if "camera_se_px" in seen else np.zeros(len(seen))
    noise = float(np.square(errors).mean())
    speeds, net = np.linalg.norm(each, axis=1), tuple(each.mean(0))
    paths = (math.sqrt(max(0.0, float(p) - 4 * noise)) for p in (speeds.mean() ** 2, np.square(speeds).mean()))  # minus errors
    mean, rms = (decide(net, math.sqrt(noise), path, shape=shape, floor=floor) for path in paths)
    return rms if mean[0] == rms[0] else ("abstained", math.nan)  # it moves in few pairs, or these are wrong


def _drifts(frames: np.ndarray, table: pd.DataFrame, floor: float) -> bool:
    """Whether the camera of the longest shot ends elsewhere than it began, by more than a static camera's error explains.

    Slow motion may not show between neighbouring frames, where a codec repeats blocks, and one just below the floor looks
    like none.
    """
    ends = np.flatnonzero(np.diff(table.cut | table.fade, prepend=True, append=True))  # first and last frame of each shot
    first, last = max(zip(ends[::2], ends[1::2], strict=True), key=lambda shot: shot[1] - shot[0])
    whole = _measure(frames[[first, last]], None, floor)
    most = max(floor / 2, floor - FLOOR / 2) * (last - first)
    return bool((whole.camera_px - 2 * whole.camera_se_px > most).any())


def _net(judged: pd.DataFrame, pairs: int, shape: tuple[int, ...]) -> dict[str, float]:
    """The camera over the whole clip: its moves composed, pairs that abstained at the others' mean speed."""
    turn, shift = 1 + 0j, 0j
    steps = judged[["zoom_pct", "roll_deg", "pan_px", "tilt_px"]].to_numpy(float)
    for zoom, roll, pan, tilt in steps:
        step = (1 + zoom / 100) * np.exp(-1j * math.radians(roll))
        turn, shift = step * turn, step * shift + complex(-pan, tilt)
    more = pairs / len(steps) if len(steps) else math.nan
    zoom = math.exp(more * math.log(abs(turn)))  # no power: 1 ** NaN is 1
    roll, shift = float(np.sum(steps[:, 1])) * more, shift * more
    h, w = shape
    z = np.linspace(-0.5, 0.5, 17)[None, :] * w + 1j * np.linspace(-0.5, 0.5, 17)[:, None] * h
    moved = np.abs((zoom * np.exp(-1j * math.radians(roll)) - 1) * z + shift) if len(steps) else np.array(math.nan)
    error = math.sqrt(float(np.square(judged.camera_se_px).mean())) if len(steps) else math.nan
    numbers = (-shift.real, shift.imag, (zoom - 1) * 100, roll, float(moved.mean()), error * pairs)
    return dict(
        zip(("net_pan_px", "net_tilt_px", "net_zoom_pct", "net_roll_deg", "net_px", "net_se_px"), numbers, strict=True)
    )


def _direction(dx: float, dy: float) -> float:
    """Degrees, 0 right, 90 up, in (-180, 180]; NaN without motion."""
    return math.degrees(math.atan2(-dy, dx)) if dx or dy else math.nan


def _travel(judged: pd.DataFrame) -> float:
    """The subject's net velocity, px/frame; 0 where no subject is seen in most pairs, and where it is within three standard
    errors, as of what jitters or ripples.
    """
    each = judged[["object_dx", "object_dy"]].to_numpy(float)
    if not len(each):
        return math.nan
    net, error = math.hypot(*each.mean(0)), math.hypot(*each.std(0)) / math.sqrt(len(each))
    return 0.0 if net <= 3 * error or (judged.object_area > 0).mean() < 0.5 else net


def _decay(seen: pd.DataFrame) -> float:
    speeds = np.hypot(seen.camera_px, seen.object_px * np.sqrt(seen.object_area))
    third = max(1, len(speeds) // 3)
    first, last = float(speeds.iloc[:third].mean()), float(speeds.iloc[-third:].mean())
    return last / first if first > 0 else math.nan


def _split(pair: residual.Pair, evidence: residual.Evidence, camera: Camera, floor: float) -> dict[str, Any]:
    """The camera's numbers per frame, and what moves against it; {} where the frame's rim rests and does not follow it."""
    move = 1 + camera.m
    scale, turn, shift = abs(move) ** (1 / pair.baseline), np.angle(move) / pair.baseline, camera.d / pair.baseline
    per_frame = (scale * np.exp(1j * turn) - 1) * pair.places + shift
    ours = np.stack([per_frame.real, per_frame.imag], -1).astype(np.float32)
    if residual.rim_rests(pair, evidence, ours):
        return {}
    body = residual.look(pair, evidence, camera, ours)
    camera_px, error, visible = float(speed(ours).mean()), camera.se / pair.baseline, pair.visible
    return {
        "flow_px": float(speed(pair.forward)[visible].mean()),
        "camera_px": camera_px,
        "camera_se_px": error,
        "pan_px": -shift.real,
        "tilt_px": shift.imag,
        "zoom_pct": (scale - 1) * 100,
        "roll_deg": -math.degrees(turn),
        "object_px": body.speed,
        "object_dx": body.dx,
        "object_dy": body.dy,
        "object_direction": _direction(body.dx, body.dy),
        "object_area": body.area,
        "residual_px": float(speed(pair.forward - ours)[visible].mean()),
        "activity": body.activity,
        "parallax": body.parallax,
        "frozen": camera_px - 2 * error < floor and body.area == 0 and body.activity < ACTIVE,
    }


def _texture(grey: np.ndarray, sites: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Where there is something to follow: the weaker eigenvalue of the structure tensor, bool at the sites "h w"."""
    shrink = working_factor(shape)  # as the images that flow is found in, but for the stride
    grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_CUBIC)
    weakest = cv2.cornerMinEigenVal(grey, blockSize=15, ksize=3)  # of gradients summed to 1 over a 15 px block
    return cv2.resize(weakest, sites[::-1], interpolation=cv2.INTER_LINEAR) > TEXTURE**2


def _photometric(earlier: np.ndarray, later: np.ndarray, pair: residual.Pair) -> float:
    """Mean change of brightness between two neighbouring frames, by blocks, after motion is undone; on a scale of 1."""
    h, w = earlier.shape
    there = residual.brought(later, pair.forward, pair, frames=1)
    size = max(1, round(w / CELL)), max(1, round(h / CELL))
    off = cv2.resize(cv2.subtract(there, earlier, dtype=cv2.CV_32F), size, interpolation=cv2.INTER_AREA)
    seen = cv2.resize(pair.visible.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    return float(np.abs(off[seen]).mean()) if seen.any() else 0.0
