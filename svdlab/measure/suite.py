"""The adversarial motion suite: clips of exactly known motion, made from photographs, each with labels.

    >>> known = clip("spin", (64, 64), 3)                        # a cut-out turns in place before a still camera
    >>> known.frames.dtype, known.camera, known.ranges["travel"][0]
    (dtype('uint8'), frozenset({'static'}), 0.0)
    >>> sorted(KINDS)[:3]
    ['approach', 'boiling', 'crossfade']

Every kind of motion is one function of a Stage: it draws its amounts from the stage's generator and returns frames and labels.
The labels follow from the geometry alone and were fixed before any threshold was chosen on them. Photographs are
scikit-image's; half of them serve to choose thresholds ("tuning"), the other half ("held_out") to report.
"""

import math
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

from svdlab.errors import one_of, takes, whole
from svdlab.measure.video import SIZE, h264, read_frames

SIZES = ((64, 64), (192, 320), (576, 1024))  # "h w"
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "coffee", "coins"),
    *("grass", "gravel", "hubble_deep_field", "immunohistochemistry", "rocket", "stereo_motorcycle"),
)
HALVES = ("tuning", "held_out")
LENGTHS = (14, 25)  # frames: SVD and SVD-XT
FINE = 2  # px of the photograph in one px of a frame: OpenCV's remap places samples to 1/32 px of the photograph
SOFT = 1.0  # px of the photograph: sigma of the blur that keeps samples from aliasing, as a lens does
EDGE = 1.5  # px over which a cut-out's outline fades
QUIET = 0.05  # share of the frame that may count as active where nothing but the camera moves
NO_CHANGE = 0.012  # mean grey change per pair that rounding and resampling may leave once motion is taken out
Range = tuple[float, float]


@dataclass(frozen=True)
class Known:
    """A clip with its labels.

    frames: uint8 "f h w 3". camera: the right classes of `motion.CAMERAS`; a clip whose class is "abstained" is counted apart
    unless that is right. ranges: (least, most) of columns of `motion.summary`: activity (share of the frame), travel (px of
    the subject's net displacement against the scene), cuts, fades (1: one image dissolves into another), photometric (mean
    absolute grey change per pair that is not motion, of full scale), hidden (share of the frame).
    """

    frames: np.ndarray
    camera: frozenset[str]
    ranges: dict[str, Range]


@dataclass(frozen=True)
class Stage:
    """What a kind of motion is made from: two photographs, a generator, the size and the number of frames."""

    ground: np.ndarray
    other: np.ndarray
    rng: np.random.Generator
    size: tuple[int, int]
    n: int
    x: np.ndarray  # px of each pixel about the centre, to the right
    y: np.ndarray  # and downwards

    def between(self, low: float, high: float) -> float:
        """A number between two, even in its logarithm."""
        return float(np.exp(self.rng.uniform(math.log(low), math.log(high))))

    def sign(self) -> float:
        return float(self.rng.choice((-1.0, 1.0)))

    def times(self) -> Iterable[float]:
        return (float(t) for t in np.linspace(0, 1, self.n))


# --- drawing: coordinates are px of the frame about its centre, x right, y down; a view is float32 "h w 3" in [0, 1]


def look(photograph: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The photograph at these places of its own, mirrored beyond its border."""
    h, w = photograph.shape[:2]
    x, y = (np.asarray(v * FINE + (side - 1) / 2, np.float32) for v, side in ((x, w), (y, h)))
    return np.clip(cv2.remap(photograph, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101), 0, 1)


def moved(
    s: Stage, dx: float = 0, dy: float = 0, scale: float = 1, turn: float = 0, about: tuple[float, float] = (0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's content lay before it was scaled and turned (rad, clockwise) about a point and shifted."""
    x, y = s.x - about[0] - dx, s.y - about[1] - dy
    c, k = math.cos(turn) / scale, math.sin(turn) / scale
    return c * x + k * y + about[0], c * y - k * x + about[1]


def known(s: Stage, views: Iterable[np.ndarray], camera: Iterable[str], **ranges: Range) -> Known:
    """Frames and labels; what a kind does not name has the range of a clip in which only the camera moves."""
    frames = np.stack([(np.clip(view, 0, 1) * 255 + 0.5).astype(np.uint8) for view in views])
    usual = {"activity": (0, QUIET), "travel": (0, 0.5 + 0.01 * s.size[1]), "photometric": (0, NO_CHANGE), "hidden": (0, 0.15)}
    ranges = {"cuts": (0, 0), "fades": (0, 0)} | usual | ranges
    return Known(frames, frozenset(camera), {k: (float(a), float(b)) for k, (a, b) in ranges.items()})


def subject(s: Stage, area: float) -> Callable[..., np.ndarray]:
    """Puts an uneven disc, cut out of the other photograph, before a view. area: of the frame; x, y: its own places."""
    radius, phase = math.sqrt(area * s.size[0] * s.size[1] / math.pi / 1.025), s.rng.uniform(0, 6)

    def before(view: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        angle = np.arctan2(y, x)
        outline = radius * (1 + 0.2 * np.sin(3 * angle + phase) + 0.1 * np.sin(5 * angle - phase))
        alpha = np.clip(0.5 + (outline - np.hypot(x, y)) / EDGE, 0, 1)[..., None].astype(np.float32)
        return view * (1 - alpha) + look(s.other, x, y) * alpha

    return before


def part(area: float, least: float = 0.3) -> Range:
    """Range of activity for a moving part of that area: its slowest places and its outline may count or not."""
    return least * area, 1.5 * area + QUIET


def smooth(s: Stage, cells: int) -> np.ndarray:
    """A smooth random field in [0, 1], of so many cells across."""
    few = s.rng.random((cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(few, s.size[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def changed(frames: Iterable[np.ndarray]) -> float:
    """Mean absolute grey change per pair of a clip in which nothing moves, of full scale."""
    grey = np.stack([np.clip(f, 0, 1).mean(-1) for f in frames])
    return float(np.abs(np.diff(grey, axis=0)).mean())


# --- the camera moves, in a plane


def pan_name(dx: float) -> str:
    return "pan_left" if dx > 0 else "pan_right"  # content to the right: the camera turns to the left


def slide(s: Stage, right: bool = False, down: bool = False) -> Known:
    """A still camera, a pan, a tilt, or both at once, alike in speed."""
    far = s.between(0.03, 0.4)
    dx, dy = right * s.sign() * far * s.size[1], down * s.sign() * far * s.size[0]
    if right and down:
        dx = abs(dy) * s.sign() * s.between(0.85, 1 / 0.85)
    camera = pan_name(dx) if right else "tilt_up" if dy > 0 else "tilt_down" if down else "static"
    camera = "mixed" if right and down else camera
    return known(s, (look(s.ground, *moved(s, dx=dx * t, dy=dy * t)) for t in s.times()), {camera})


def swivel(s: Stage, rolls: bool = False, off: float = 0.0) -> Known:
    """A zoom, or a roll, about a point so far off the centre (1: the width, the height)."""
    growth, turn = s.sign() * math.log1p(s.between(0.08, 0.5)), s.sign() * math.radians(s.between(5, 40))
    angle = s.rng.uniform(0, 2 * math.pi)
    about = (off * s.size[1] * math.cos(angle), off * s.size[0] * math.sin(angle))
    ways = ({"turn": turn * t} if rolls else {"scale": math.exp(growth * t)} for t in s.times())
    camera = "roll" if rolls else "zoom_in" if growth > 0 else "zoom_out"
    return known(s, (look(s.ground, *moved(s, about=about, **way)) for way in ways), {camera})


def shake(s: Stage) -> Known:
    """A hand-held camera: it is drawn back to where it was, so that it gets nowhere."""
    path = s.rng.normal(0, 1, (s.n, 2)).cumsum(0) * np.exp(-np.arange(s.n) / s.n)[:, None]
    path -= np.linspace(path[0], path[-1], s.n)
    path *= s.between(0.006, 0.02) * s.size[1] / np.abs(path).max()
    return known(s, (look(s.ground, *moved(s, dx=dx, dy=dy)) for dx, dy in path), {"static", "mixed", "shake"})


# --- the camera moves through depth: what it leaves over is parallax, not a subject


def dolly(s: Stage) -> Known:
    """Forward or backward through smooth depth of 1.5 to 3: content at depth z grows by z / (z - d)."""
    depth, ahead, d = 1.5 + 1.5 * smooth(s, 3), s.sign() > 0, s.between(0.12, 0.35)

    def view(t: float) -> np.ndarray:
        x, y, go = s.x, s.y, d * (t if ahead else 1 - t)
        for _ in range(12):  # place = p / scale(place), by fixed-point iteration
            column, row = np.asarray(x - s.x[0, 0], np.float32), np.asarray(y - s.y[0, 0], np.float32)
            z = cv2.remap(depth, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            x, y = s.x * (z - go) / z, s.y * (z - go) / z
        return look(s.ground, x, y)

    camera = {"zoom_in", "forward"} if ahead else {"zoom_out", "backward"}
    return known(s, map(view, s.times()), camera, activity=(0, 1))


def layers(s: Stage) -> Known:
    """Two layers: the nearer one, below a ragged edge, moves three times as far."""
    d, edge, phase = s.sign() * s.between(0.02, 0.12) * s.size[1], s.rng.uniform(0.1, 0.25) * s.size[0], s.rng.uniform(0, 6)

    def view(t: float) -> np.ndarray:
        x, y = moved(s, dx=3 * d * t)
        top = edge + s.size[0] * 0.05 * (np.sin(x * 20 / s.size[1] + phase) + np.sin(x * 47 / s.size[1]))
        alpha = np.clip(0.5 + (y - top) / EDGE, 0, 1)[..., None]
        return look(s.ground, *moved(s, dx=d * t)) * (1 - alpha) + look(s.other, x, y) * alpha

    return known(s, map(view, s.times()), {pan_name(d)}, activity=(0, 1))


def plane(s: Stage) -> Known:
    """A ground plane that ends at a backdrop (4 camera heights away); the camera goes sideways, or forward and backward."""
    focal, far, top = 0.9 * s.size[1], 4.0, s.rng.uniform(-0.25, -0.1) * s.size[0]
    nearest = focal / (s.size[0] / 2 - top)
    sideways, d = s.rng.random() < 0.5, s.sign()
    d *= s.between(0.05, 0.25) * nearest if sideways else s.between(0.3, 1.0)

    def view(t: float) -> np.ndarray:
        right, ahead = (d * t, 0.0) if sideways else (0.0, d * t if d > 0 else d * t - d)
        rows = []
        for part in (-1 / 3, 0, 1 / 3):  # three samples to a row: far ground is seen at a slant
            z = np.minimum(focal / np.maximum(s.y + part - top, 1e-3), far - ahead)
            x = s.x * z / focal - right
            deep = z >= far - ahead - 1e-6
            wall = look(s.ground, x * focal / far, (s.y + part - top) * z / far + top)
            floor = look(s.other, x * 0.15 * s.size[1], -(z + ahead) * 0.15 * s.size[1])
            rows.append(np.where(deep[..., None], wall, floor))
        return np.mean(rows, axis=0)

    ways = {pan_name(d)} if sideways else {"zoom_in", "forward"} if d > 0 else {"zoom_out", "backward"}
    return known(s, map(view, s.times()), ways, activity=(0, 1))


# --- the subject moves


def travel(s: Stage, sky: bool = False, follow: bool = False) -> Known:
    """A subject crosses the frame; follow: the camera pans with it. sky: the scene has no texture of its own."""
    area, far, angle = s.between(0.04, 0.15), s.between(0.15, 0.45) * s.size[0], s.rng.uniform(0, 2 * math.pi)
    dx, dy = (s.sign() * far, 0.0) if follow else (far * math.cos(angle), far * math.sin(angle))
    blue = np.linspace((0.35, 0.5, 0.8), (0.75, 0.8, 0.85), s.size[0], dtype=np.float32)[:, None]
    before = subject(s, area)

    def view(t: float) -> np.ndarray:
        own = 0.0 if follow else t - 0.5
        scene = np.broadcast_to(blue, (*s.size, 3)) if sky else look(s.ground, *moved(s, dx=-dx * t if follow else 0))
        return before(scene, s.x - dx * own, s.y - dy * own)

    camera = {pan_name(-dx)} if follow else {"static"}
    return known(s, map(view, s.times()), camera, activity=part(area), travel=(0.75 * far, 1.25 * far))


def spin(s: Stage) -> Known:
    area, rate, scene = s.between(0.08, 0.2), s.sign() * math.radians(s.between(2, 8)), look(s.ground, s.x, s.y)
    before = subject(s, area)
    return known(s, (before(scene, *moved(s, turn=rate * i)) for i in range(s.n)), {"static"}, activity=part(area))


def approach(s: Stage) -> Known:
    rate, last, scene = s.between(1.01, 1.03), s.between(0.15, 0.28), look(s.ground, s.x, s.y)
    before = subject(s, last / rate ** (2 * (s.n - 1)))
    area = last * float(np.mean([rate ** (-2 * i) for i in range(s.n)]))
    return known(s, (before(scene, *moved(s, scale=rate**i)) for i in range(s.n)), {"static"}, activity=part(area))


def wobble(s: Stage) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Gives the places of a frame displaced by two travelling waves."""
    amplitude, long = max(0.8, s.between(0.006, 0.012) * s.size[1]), s.between(0.2, 0.5) * s.size[0]
    period, phase = s.between(8, 14), s.rng.uniform(0, 6)

    def places(t: int) -> tuple[np.ndarray, np.ndarray]:
        x_wave = np.sin(2 * math.pi * (s.y / long + t / period) + phase)
        y_wave = np.sin(2 * math.pi * (0.8 * s.x / long - t / period) - phase)
        return s.x + amplitude * x_wave, s.y + amplitude * y_wave

    return places


def deform(s: Stage) -> Known:
    """Cloth or hair: a subject in its place whose parts go to and fro."""
    area, places, scene = s.between(0.15, 0.3), wobble(s), look(s.ground, s.x, s.y)
    before = subject(s, area)
    return known(s, (before(scene, *places(t)) for t in range(s.n)), {"static"}, activity=part(area, 0.15))


def waves(s: Stage) -> Known:
    """The lower part of the scene goes in waves."""
    top, places = s.rng.uniform(-0.1, 0.15) * s.size[0], wobble(s)
    ramp = np.clip((s.y - top) / (0.05 * s.size[0]), 0, 1)

    def view(t: int) -> np.ndarray:
        x, y = places(t)
        return look(s.ground, s.x + ramp * (x - s.x), s.y + ramp * (y - s.y))

    return known(s, map(view, range(s.n)), {"static"}, activity=part(0.5 - top / s.size[0], 0.15))


def water(s: Stage) -> Known:
    """A still scene over water that mirrors it: ripples run towards the viewer, and crests glint."""
    top, period, phase = s.rng.uniform(-0.1, 0.15) * s.size[0], s.between(6, 12), s.rng.uniform(0, 6)
    near = np.clip((s.y - top) / (s.size[0] / 2 - top), 0, 1)  # 0 at the shore, 1 at the viewer
    swell = max(0.8, s.between(0.006, 0.015) * s.size[1]) * np.sqrt(near)
    scene, wet = look(s.ground, s.x, s.y), (s.y > top)[..., None]

    def view(t: int) -> np.ndarray:
        one = np.sin(2 * math.pi * (9 * np.sqrt(near) - t / period) + 4 * s.x / s.size[1] + phase)
        two = np.sin(2 * math.pi * (14 * np.sqrt(near) - 1.3 * t / period) - 9 * s.x / s.size[1])
        lake = (
            look(s.ground, s.x + swell * two, 2 * top - s.y + swell * one) * 0.8 + 0.08 * np.maximum(one * two, 0)[..., None]
        )
        return np.where(wet, lake, scene)

    area = 0.5 - top / s.size[0]
    return known(s, map(view, range(s.n)), {"static"}, activity=part(area, 0.15), photometric=(0, 0.05))


# --- nothing moves, and yet the images change


def lit(s: Stage, gains: Iterable[Any], camera: str = "static", least: float = 0.5) -> Known:
    """The still scene times a gain for each frame (numbers or fields)."""
    scene = look(s.ground, s.x, s.y)
    views = [scene * (gain[..., None] if np.ndim(gain) else gain) for gain in gains]
    true = changed(views)
    return known(s, views, {camera}, photometric=(least * true, 1.5 * true + 0.004))


def sweep(s: Stage) -> Known:
    """A band of light crosses the scene."""
    angle, wide, bright = s.rng.uniform(0, 2 * math.pi), s.between(0.08, 0.25) * s.size[1], s.rng.uniform(0.3, 0.7)
    along = s.x * math.cos(angle) + s.y * math.sin(angle)
    places = (s.size[1] * (1.2 * t - 0.6) for t in s.times())
    return lit(s, (0.7 + bright * np.exp(-(((along - p) / wide) ** 2) / 2) for p in places))


def flicker(s: Stage) -> Known:
    return lit(s, 0.9 * s.rng.normal(1, s.between(0.03, 0.1), s.n))


def fade(s: Stage) -> Known:
    """To a darkness in which the scene can just be seen, or from it."""
    gains = np.linspace(1, s.rng.uniform(0.1, 0.3), s.n)
    return lit(s, gains if s.sign() > 0 else gains[::-1])


def boiling(s: Stage) -> Known:
    """Brightness of large patches changes at random from frame to frame."""
    strong, cells = s.between(0.1, 0.35), int(s.rng.integers(3, 9))
    return lit(s, (1 + strong * (smooth(s, cells) - 0.5) * 2 for _ in range(s.n)))


def defocus(s: Stage) -> Known:
    most, scene, sharp = s.between(0.006, 0.015) * s.size[1], look(s.ground, s.x, s.y), s.sign() > 0
    views = [cv2.GaussianBlur(scene, (0, 0), 0.3 + most * (t if sharp else 1 - t)) for t in s.times()]
    return known(s, views, {"static"}, photometric=(0, NO_CHANGE))


def grain(s: Stage) -> Known:
    strong, scene = s.between(0.02, 0.06), look(s.ground, s.x, s.y)
    views = [scene + s.rng.normal(0, strong, (*s.size, 1)).astype(np.float32) for _ in range(s.n)]
    return known(s, views, {"static"}, photometric=(0, 1.5 * changed(views)), hidden=(0, 1))


def noise(s: Stage) -> Known:
    """Nothing that could be followed: independent noise, a flat frame, or a smooth ramp."""
    which, flat = int(s.rng.integers(3)), np.full((*s.size, 3), 0.5, np.float32)
    ramp = flat + (s.x / s.size[1] * s.rng.uniform(0.1, 0.4))[..., None]
    strong = s.between(0.05, 0.2)
    noisy = (flat + s.rng.normal(0, strong, (*s.size, 1)) for _ in range(s.n))
    none = dict.fromkeys(("activity", "travel", "cuts", "fades", "photometric", "hidden"), (0.0, math.inf))
    return known(s, noisy if which == 0 else [ramp if which == 1 else flat] * s.n, {"abstained"}, **none)


def cut(s: Stage) -> Known:
    """One scene, then another; the camera is still in both, or pans alike."""
    at, d = int(s.rng.integers(s.n // 3, s.n - s.n // 3)), s.sign() * s.between(0.08, 0.3) * s.size[1] * s.rng.integers(2)
    views = (look(s.ground if i < at else s.other, *moved(s, dx=d * i / s.n)) for i in range(s.n))
    return known(s, views, {pan_name(d)} if d else {"static"}, cuts=(1, 1), hidden=(0, 0.25))


def crossfade(s: Stage) -> Known:
    """One scene dissolves into another over 6 to 10 frames."""
    long, (one, two) = int(s.rng.integers(6, 11)), (look(p, s.x, s.y) for p in (s.ground, s.other))
    first = int(s.rng.integers(1, s.n - long))
    mix = np.clip((np.arange(s.n) - first) / long, 0, 1)
    views = [one * (1 - m) + two * m for m in mix]
    true = changed(views)
    return known(s, views, {"static"}, fades=(1, 1), photometric=(0.1 * true, 1.5 * true), hidden=(0, 1))


def coded(s: Stage, crf: int) -> Known:
    """A still, panning or zooming camera, or a travelling subject, through H.264."""
    plain = (slide, partial(slide, right=True), swivel, travel)[int(s.rng.integers(4))](s)
    return Known(through_h264(plain.frames, crf), plain.camera, plain.ranges | {"photometric": (0.0, 0.02)})


def through_h264(frames: np.ndarray, crf: int) -> np.ndarray:
    """Frames, uint8 or uint16 "f h w 3", as H.264 gives them back, uint8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        path.write_bytes(h264(frames, fps=8, crf=crf))
        return read_frames(path)[: len(frames)]


KINDS: dict[str, Callable[[Stage], Known]] = {
    **{"still": slide, "pan": partial(slide, right=True), "tilt": partial(slide, down=True)},
    **{"diagonal": partial(slide, right=True, down=True), "zoom": swivel, "zoom_off": partial(swivel, off=0.35)},
    **{"roll": partial(swivel, rolls=True), "roll_off": partial(swivel, rolls=True, off=0.35)},
    **{f.__name__: f for f in (shake, dolly, layers, plane, travel, spin, approach, deform, waves, water)},
    **{"sky": partial(travel, sky=True), "follow": partial(travel, follow=True)},
    **{f.__name__: f for f in (sweep, flicker, fade, boiling, defocus, grain, noise, cut, crossfade)},
    **{f"h264_{crf}": partial(coded, crf=crf) for crf in (18, 28, 36)},
}


KIND, HALF, NUMBER = partial(one_of, options=tuple(KINDS)), partial(one_of, options=HALVES), partial(whole, most=10**6)


@takes(kind=KIND, size=SIZE, index=NUMBER, half=HALF)
def clip(kind: str, size: tuple[int, int], index: int, half: str = "tuning") -> Known:
    """A clip of the suite with its labels; the same arguments give the same clip.

    >>> clip("zoom_off", (192, 320), 0, half="tuning").camera

    kind: one of KINDS. size: "h w". index: the clips of a kind are numbered; each has a seed and photographs of its own. half:
    "tuning" for choosing thresholds, "held_out" for reporting: their photographs differ.
    """
    size = (size[0], size[1])
    rng = np.random.default_rng([zlib.crc32(kind.encode()), *size, index, half == "held_out"])
    names = rng.permutation(halves()[half])[:2]
    ground, other = (photograph(str(name), size)[:, :: int(rng.choice((-1, 1)))] for name in names)
    y, x = (np.indices(size, np.float32).T - (np.array(size, np.float32) - 1) / 2).T
    return KINDS[kind](Stage(ground, other, rng, size, int(rng.choice(LENGTHS)), x, y))


def halves() -> dict[str, list[str]]:
    """The photographs of both halves: a random split, the same ever after."""
    order = [str(name) for name in np.random.default_rng(20).permutation(PHOTOGRAPHS)]
    return {"tuning": order[:6], "held_out": order[6:]}


@lru_cache(maxsize=24)
def photograph(name: str, size: tuple[int, int]) -> np.ndarray:
    """One of PHOTOGRAPHS, scaled so that it covers a frame of that size at FINE px per px, and blurred by SOFT."""
    image = getattr(skimage.data, name)()
    image = image[0] if isinstance(image, tuple) else image
    image = image[..., None].repeat(3, -1) if image.ndim == 2 else image[..., :3]
    factor = FINE * max(size[0] / image.shape[0], size[1] / image.shape[1])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(image.astype(np.float32) / 255, None, fx=factor, fy=factor, interpolation=how)
    return np.clip(cv2.GaussianBlur(scaled, (0, 0), SOFT), 0, 1)
