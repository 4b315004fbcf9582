"""How wrong is the motion instrument: photographs moved by a known amount, and what `svdlab.motion` reports of them.

    >>> clip = moving("astronaut", size=(576, 1024), frames=3, pan=2.5)       # the camera goes right
    >>> clip.frames.shape, clip.flow[0, 0, 0].tolist()
    ((3, 576, 1024, 3), [-2.5, 0.0])
    >>> pd.DataFrame(rows(quick=True))           # doctest: +SKIP

Photographs are scikit-image's free ones, in grey, mirrored beyond their borders, so that a pan never runs out of ground, and
resampled by cubic splines (scipy), whose places are exact: OpenCV's own warps step in 1/32 px. `clips` measures the
adversarial suite (`svdlab.measure.suite`), which has more kinds of motion, known less exactly.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skimage.data
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.transform import rescale

from svdlab.errors import LEVEL, InputError, flag, kind, number, one_of, several, takes, whole
from svdlab.measure import motion
from svdlab.measure.files import write_whole
from svdlab.measure.suite import HALF, KINDS, clip, through_h264
from svdlab.measure.video import FRAMES, SIZE

PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "rocket")
SIZES = ((64, 64), (256, 256), (576, 1024))  # "h w"
EDGE = 1.5  # px over which the object's outline fades, as a lens would draw it
COLUMNS = ("what", "size", "expected", "measured", "unit", "threshold", "passed", "clips")
SPEEDS = (0.05, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0)  # px/frame
DEGRADED: dict[str, dict[str, Any]] = {
    "noise 0.02": {"noise": 0.02},
    "blur 1.5 px": {"blur": 1.5},
    "brightness flicker 5 %": {"flicker": 0.05},
    "H.264 crf 18": {"crf": 18},
    "H.264 crf 30": {"crf": 30},
}
COUNTS = {(64, 64): 12, (192, 320): 8, (576, 1024): 2}  # clips of each kind of the suite, by "h w"
QUICK = {(64, 64): 1}
LABELLED = ("activity", "travel", "cuts", "fades", "photometric", "hidden")
HEADING = (0.8, 0.6)  # the direction of test shifts: neither axis, so that both are tried


AMOUNT = partial(number, least=0, most=100)
MOTION = partial(number, least=-1000, most=1000)


def _pair(name: str, value: Any) -> tuple[float, float]:
    x, y = several(name, value, number, least=2)[:2]
    return x, y


def _counts(name: str, value: Any) -> dict[tuple[int, int], int]:
    if not kind(Mapping)(name, value):
        raise InputError(f"{name} is empty: give numbers of clips by size, such as {{(64, 64): 1}}.")
    return {SIZE(name, size): whole(name, n, most=10**4) for size, n in value.items()}


@dataclass(frozen=True)
class KnownClip:
    """A clip with its ground truth.

    frames: float32 "f h w 3" in [0, 1]. flow: float32 "t h w 2", px to the next frame, x right, y down, at each pixel of the
    earlier frame. mask: bool "f h w", where the object is.
    """

    frames: np.ndarray
    flow: np.ndarray
    mask: np.ndarray


@takes(
    photograph=partial(one_of, options=PHOTOGRAPHS),
    size=SIZE,
    frames=partial(whole, least=1, most=1000),
    body=_pair,
    area=LEVEL,
    start=_pair,
)
def moving(
    photograph: str,
    *,
    size: tuple[int, int],
    frames: int,
    body: tuple[float, float] | None = None,
    area: float = 0.1,
    start: tuple[float, float] = (0.0, 0.0),
    **camera: float,
) -> KnownClip:
    """One photograph under a steadily moving camera, and another one's cut-out moving before it.

    >>> moving("cat", size=(256, 256), frames=8, body=(2.0, 0.0), area=0.25).mask.shape
    (8, 256, 256)

    photograph: one of PHOTOGRAPHS. size: "h w" of the frames, px. body: dx, dy of an elliptic cut-out against the frame,
    px/frame (x right, y down), in the middle halfway through the clip. area: its share of the frame. start: px by which the
    first view is moved. camera: pan to the right and tilt upwards, px/frame; zoom, growth in percent; roll, clockwise in
    degrees.
    """
    h, w = size
    matrix, shift = _content(**camera)
    back, inverse, offset = np.linalg.inv(matrix), np.eye(2), np.zeros(2)  # these take a pixel of frame t back to frame 0
    ground = _spline(photograph, size)
    other = _spline(PHOTOGRAPHS[(PHOTOGRAPHS.index(photograph) + 1) % len(PHOTOGRAPHS)], size)
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    view = np.array(ground.shape) / 2 - centre + np.array(start[::-1])
    y, x = np.mgrid[:h, :w].astype(np.float64)
    aspect, radius = math.sqrt(w / h), math.sqrt(area * h * w / math.pi)
    radii = np.array([radius / aspect, radius * aspect])
    images, masks = [], []
    for t in range(frames):
        if t:
            inverse, offset = back @ inverse, back @ (offset - shift)
        image, mask = _view(ground, inverse, offset + centre - inverse @ centre + view, size), np.zeros(size, bool)
        if body is not None:
            place = centre + (t - (frames - 1) / 2) * np.array(body[::-1])
            distance = (np.hypot((y - place[0]) / radii[0], (x - place[1]) / radii[1]) - 1) * radii.min()
            alpha = np.clip(0.5 - distance / EDGE, 0, 1)
            there = _view(other, np.eye(2), np.array(other.shape) / 2 - place, size)
            image, mask = image * (1 - alpha) + there * alpha, distance < 0
        images.append(np.clip(image, 0, 1))
        masks.append(mask)
    a, dy, dx = matrix - np.eye(2), y - centre[0], x - centre[1]
    ours = np.stack([a[1, 0] * dy + a[1, 1] * dx + shift[1], a[0, 0] * dy + a[0, 1] * dx + shift[0]], -1)
    truth = np.where(np.stack(masks)[:-1, ..., None], np.array(body or (0, 0), np.float32), ours)
    video = np.repeat(np.stack(images).astype(np.float32)[..., None], 3, axis=-1)
    return KnownClip(video, truth.astype(np.float32), np.stack(masks))


@takes(frames=FRAMES, noise=AMOUNT, blur=AMOUNT, flicker=AMOUNT, crf=partial(whole, most=51))
def degrade(
    frames: np.ndarray, *, noise: float = 0.0, blur: float = 0.0, flicker: float = 0.0, crf: int | None = None
) -> np.ndarray:
    """A clip as a worse camera or codec would give it: "f h w 3" in, the same out.

    >>> degrade(moving("cat", size=(64, 64), frames=3).frames, crf=28).shape
    (3, 64, 64, 3)

    noise: standard deviation, of full scale. blur: sigma of a Gaussian, px. flicker: standard deviation of each frame's gain.
    crf: constant rate factor of an H.264 round trip (18 is good, 28 poor).
    """
    rng = np.random.default_rng(0)
    out = ndimage.gaussian_filter(frames, (0, blur, blur, 0)) if blur else frames
    if flicker:
        out = out * rng.normal(1, flicker, (len(out), 1, 1, 1))
    if noise:
        out = out + rng.normal(0, noise, (*out.shape[:3], 1))
    out = np.clip(out, 0, 1).astype(np.float32)
    if crf is None:
        return out
    return through_h264((out * np.float32(65535) + 0.5).astype(np.uint16), crf).astype(np.float32) / 255


@takes(pan=MOTION, tilt=MOTION, zoom=MOTION, roll=MOTION)
def _content(pan: float = 0.0, tilt: float = 0.0, zoom: float = 0.0, roll: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and shift, in (row, column) about the centre, by which the camera moves the content in a frame."""
    turn = -math.radians(roll)  # a camera clockwise turns the content the other way
    c, s = math.cos(turn), math.sin(turn)
    return (1 + zoom / 100) * np.array([[c, s], [-s, c]]), np.array([tilt, -pan])


@lru_cache(maxsize=16)
def _spline(photograph: str, size: tuple[int, int]) -> np.ndarray:
    """Cubic spline coefficients of the photograph, scaled so that it covers the frame."""
    image = getattr(skimage.data, photograph)()
    grey = rgb2gray(image) if image.ndim == 3 else image / 255
    factor = max(size[0] / grey.shape[0], size[1] / grey.shape[1])
    scaled = rescale(grey, factor, order=3, anti_aliasing=factor < 1)
    return ndimage.spline_filter(scaled, mode="mirror").astype(np.float32)


def _view(coefficients: np.ndarray, matrix: np.ndarray, offset: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return ndimage.affine_transform(
        coefficients, matrix, offset=offset, output_shape=size, order=3, mode="mirror", prefilter=False
    )


# --- the table: each row is one claim. Rows without a threshold tell how the instrument behaves beyond its claims.


@takes(quick=flag)
def rows(quick: bool = False, world: Any = None) -> Iterator[dict[str, Any]]:
    """Calibrate: dicts with the keys COLUMNS, as they come: what was moved, what is true, what was measured, what is allowed.

    >>> pd.DataFrame(rows(quick=True, world=svdlab.organism.world))       # doctest: +SKIP

    The suite is apart (`clips`, `suite_table`, `claims`). quick: fewer clips, 64 and 256 px only, in a minute.
    world: `svdlab.organism.world`, to measure its scenes too.
    """
    sizes = SIZES[:2] if quick else SIZES
    for size in sizes:
        yield from shifts(size, PHOTOGRAPHS[2:3] if quick else PHOTOGRAPHS, (0.1, 1.0, 4.0) if quick else SPEEDS)
    for size in sizes:
        yield from mirrored(size, PHOTOGRAPHS[:1] if quick else PHOTOGRAPHS[:3])
    for size in () if quick else sizes:
        yield from degraded(size)
    if world is not None:
        yield from scenes(world, count=4 if quick else 60)


def judge(
    what: str, size: Any, expected: float, measured: Any, unit: str, threshold: str = "", *, clips: int
) -> dict[str, Any]:
    """A row of the table; `passed` is None where there is no threshold.

    >>> judge("pan error", (64, 96), 0.0, 4.0, "%", "<= 3", clips=1)["passed"]
    False
    """
    way, _, limit = threshold.partition(" ")
    passed = bool(measured >= float(limit) if way == ">=" else measured <= float(limit)) if limit else None
    name = size if isinstance(size, str) else f"{size[1]}x{size[0]}"
    return dict(zip(COLUMNS, (what, name, expected, float(measured), unit, threshold, passed, clips), strict=True))


def shifts(size: tuple[int, int], photographs: tuple[str, ...], speeds: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """Endpoint error (mean over what stays visible) and pan error (median over photographs), by speed."""
    for speed in (s for s in speeds if s <= size[0] / 8):
        clips = [_shifted(name, size, speed) for name in photographs]
        both = [motion.both_ways(clip.frames) for clip in clips]
        ends = [np.linalg.norm(b.forward - c.flow, axis=-1)[b.visible].mean() for b, c in zip(both, clips, strict=True)]
        pans = [_pan_error(clip.frames, speed) for clip in clips]
        most = "<= 0.15" if size == SIZES[-1] and speed <= 8 else ""
        yield judge(f"endpoint error at {speed:g} px/frame", size, 0.0, np.mean(ends), "px", most, clips=len(ends))
        most = "<= 3" if speed >= 1 else "<= 10" if speed >= 0.1 else ""
        yield judge(f"pan error at {speed:g} px/frame", size, 0.0, np.median(pans), "%", most, clips=len(pans))


def degraded(size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The same pan error, with worse images; no threshold, but the reader should know."""
    for name, how in DEGRADED.items():
        for speed in (0.3, 2.0):
            errors = [_pan_error(degrade(_shifted(p, size, speed).frames, **how), speed) for p in PHOTOGRAPHS]
            yield judge(f"pan error at {speed:g} px/frame, {name}", size, 0.0, np.median(errors), "%", clips=len(errors))


@takes(half=HALF, counts=_counts, processes=partial(whole, least=1, most=1024))
def clips(half: str = "held_out", counts: Any = COUNTS, processes: int = 1) -> Iterator[dict[str, Any]]:
    """The adversarial suite, clip by clip as they are measured: a dict of what is right and what `motion.summary` found.

    >>> found = pd.DataFrame(clips("held_out", {(64, 64): 1}))            # doctest: +SKIP

    half: see `suite.clip`. counts: clips of each kind by "h w". Keys: kind, size, index, half; right (classes), camera,
    verdict ("right", "abstained", "wrong"); each labelled column, and `column_ok`: whether it is in its range. processes: more
    than one only under `if __name__ == "__main__":` or in a notebook, as each starts Python anew.
    """
    jobs = [(kind, size, i, half) for size, count in counts.items() for kind in KINDS for i in range(count)]
    if processes == 1:
        yield from map(measured, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from (done.result() for done in as_completed([pool.submit(measured, job) for job in jobs]))


def measured(job: tuple[str, tuple[int, int], int, str]) -> dict[str, Any]:
    """One clip of the suite (kind, size, index, half), measured: a row of `clips`."""
    kind, size, index, half = job
    known = clip(kind, size, index, half)
    found = motion.summary(known.frames)
    camera = found["camera"]
    verdict = "right" if camera in known.camera else "abstained" if camera == "abstained" else "wrong"
    row = {"kind": kind, "size": f"{size[1]}x{size[0]}", "index": index, "half": half}
    row |= {"right": " ".join(sorted(known.camera)), "camera": camera, "verdict": verdict}
    for name, (least, most) in known.ranges.items():
        value = float(found.get(name, math.nan))
        row |= {name: value, f"{name}_ok": bool(least <= value <= most) if value == value else None}
    return row


def held_out(quick: bool, tell: Callable[[str], None]) -> pd.DataFrame:
    """The suite's table of the held-out half, made by a process for each core; `tell` gets its progress every 32 clips."""
    counts, found = QUICK if quick else COUNTS, list[dict[str, Any]]()
    for measures in clips(counts=counts, processes=os.cpu_count() or 1):
        found.append(measures)
        if len(found) % 32 == 0:
            tell(f"suite: {len(found)} of {len(KINDS) * sum(counts.values())} clips")
    return suite_table(pd.DataFrame(found))


def printed(quick: bool, world: Any, out: Path | None, say: Callable[[str], Any], say_progress: Callable[[str], Any]) -> bool:
    """`svdlab motion calibrate`: a line for each claim as it comes, and the tables into `out`; whether every claim holds."""
    suite, found = held_out(quick, say_progress), []
    for row in itertools.chain(claims(suite), rows(quick, world)):
        found.append(row)
        mark = {None: "", True: "ok", False: "MISSED"}[row["passed"]]
        say("{what:<58} {size:<9} {measured:9.3f} {unit:<4} {threshold:<8} ".format(**row) + mark)
    if out is not None:
        write(found, suite, out)
    return all(row["passed"] is not False for row in found)


def write(rows: list[dict[str, Any]], suite: pd.DataFrame, path: Path) -> None:
    """The claims as a CSV file, and beside it the suite's table as NAME-suite.csv."""
    for table, to in ((pd.DataFrame(rows), path), (suite, path.with_name(f"{path.stem}-suite{path.suffix}"))):
        with write_whole(to) as part:
            table.to_csv(part, index=False)


def suite_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row per kind and size of the rows of `clips`, and one for all sizes: n, right, abstained, wrong, `taken_for` (what the
    wrong ones were taken for), and for each labelled column the share of clips, in percent, whose number is in its range.
    """

    def row(kind: str, size: str, part: pd.DataFrame) -> dict[str, Any]:
        wrong = part[part.verdict == "wrong"].camera.value_counts()
        counts = {verdict: int((part.verdict == verdict).sum()) for verdict in ("right", "abstained", "wrong")}
        taken = " ".join(f"{camera}:{n}" for camera, n in wrong.items())
        ranges = {f"{c}_in_range": round(100 * part[f"{c}_ok"].dropna().astype(bool).mean(), 1) for c in LABELLED}
        return {"kind": kind, "size": size, "n": len(part), **counts, "taken_for": taken, **ranges}

    found = found.sort_values("index")
    sizes = [size for size in (f"{w}x{h}" for h, w in COUNTS) if size in set(found["size"])]
    kinds = [kind for kind in KINDS if kind in set(found.kind)]
    each = [row(k, s, found[(found.kind == k) & (found["size"] == s)]) for k in kinds for s in sizes]
    return pd.DataFrame(each + [row(k, "all", found[found.kind == k]) for k in kinds])


def claims(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What the suite must show, from its table: the class of each kind, few wrong or abstained. Few clips are not judged."""
    every = table[table["size"] == "all"].to_dict("records")
    for part in every:
        fit = 100 * (part["right"] + part["abstained"]) / part["n"]
        least = ">= 95" if part["n"] >= 20 else ""
        yield judge(f"suite, {part['kind']}: class right or abstained", "all", 100.0, fit, "%", least, clips=part["n"])
    n, wrong, abstained = (sum(part[name] for part in every) for name in ("n", "wrong", "abstained"))
    yield judge("suite: class wrong", "all", 0.0, 100 * wrong / n, "%", "<= 2" if n >= 100 else "", clips=n)
    yield judge("suite: abstained", "all", 0.0, 100 * abstained / n, "%", "<= 15" if n >= 100 else "", clips=n)


def mirrored(size: tuple[int, int], photographs: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """By how much a camera's speed changes when the clip is mirrored."""
    clips = [_shifted(name, size, speed).frames for name in photographs for speed in (0.5, 2.0)]
    plain = np.array([motion.summary(clip)["camera_px"] for clip in clips])
    for how, axis in {"left to right": 2, "top to bottom": 1}.items():
        flipped = np.array([motion.summary(np.ascontiguousarray(np.flip(clip, axis)))["camera_px"] for clip in clips])
        worst = (np.abs(flipped / plain - 1) * 100).max()
        yield judge(f"speed changes when mirrored {how}, worst", size, 0.0, worst, "%", "<= 1", clips=len(clips))


def scenes(world: Any, *, count: int) -> Iterator[dict[str, Any]]:
    """The model organism's world: slope of measured on true px/frame, spread about it, classes."""
    for moved in ("object", "pan", "zoom"):
        drawn = world.scenes(count, seed=11, motion=moved)
        drawn_at, found = drawn.factors, pd.DataFrame([motion.summary(video) for video in drawn.video])
        sign = np.where(drawn_at.direction.isin(("right", "in")), 1, -1)
        zoom = found.zoom_pct / 100 * world.ZOOM_RADIUS * sign
        speed = {"object": found.object_px, "pan": found.pan_px * sign, "zoom": zoom}[moved]
        due = "static" if moved == "object" else (moved + "_" + drawn_at.direction).to_numpy()
        fast = (drawn_at.displacement >= 0.3).to_numpy()
        true, measured, n = drawn_at.displacement[fast].to_numpy(), speed[fast].to_numpy(), int(fast.sum())
        error, slope = np.median(np.abs(measured / true - 1)) * 100, np.polyfit(true, measured, 1)[0]
        right = ((found.camera == due) | (found.camera == "abstained"))[fast].mean() * 100
        name, least = f"organism's world, {moved}:", ">= 90" if moved == "object" else ">= 97"
        yield judge(f"{name} slope of measured on true", (64, 64), 1.0, slope, "", clips=n)
        yield judge(f"{name} error of speed, median", (64, 64), 0.0, error, "%", "<= 5", clips=n)
        yield judge(f"{name} camera class right or abstained", (64, 64), 100.0, right, "%", least, clips=n)
    frozen = np.mean([motion.summary(video)["frozen"] for video in world.scenes(count, seed=11, motion="frozen").video])
    yield judge("organism's world, frozen: called frozen", (64, 64), 100.0, frozen * 100, "%", ">= 97", clips=count)


def _shifted(photograph: str, size: tuple[int, int], speed: float) -> KnownClip:
    return moving(photograph, size=size, frames=9 if speed < 1 else 3, pan=speed * HEADING[0], tilt=speed * HEADING[1])


def _pan_error(frames: np.ndarray, speed: float) -> float:
    table = motion.measure(frames)
    return abs(float(np.hypot(table.pan_px.mean(), table.tilt_px.mean())) / speed - 1) * 100
