"""The camera between two frames: the similarity that most of the frame follows, its error, and whether depth shows.

    >>> travel, usable = np.full((192, 320, 2), 2.0, np.float32), np.ones((192, 320), bool)
    >>> fit(Sites.of(travel, usable, (192, 320))).d              # px over the baseline, x right, y down
    (2+2j)
    >>> decide((1.0, 0.0, 0.0, 0.0), 0.01, 1.0, shape=(192, 320), floor=0.06)
    ('pan_right', 1.0)

A point z = x + iy (about the frame's centre, px, y down) goes to z + m z + d: m is complex, for zoom and turn, and d is the
shift. The fixed point of a zoom or turn is -d / m: a zoom about a face off centre is a zoom.

A travelling camera sees depth as parallax: all flow then runs along lines through one point e (the epipole; at infinity for a
sideways move), fast where things are near. Where one similarity leaves much of the frame unexplained and such lines do not,
the camera is the median move along them (Hartley and Zisserman 2004, section 11.7: pure translation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from svdlab.errors import takes
from svdlab.measure.flow import site_step, working_factor
from svdlab.measure.video import SIZE

CAMERAS = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "mixed", "abstained")
FLOOR = 0.06  # px/frame: a camera slower than that is static; between calibration's 0.05 (static) and 0.1 (moves)
SECOND = 0.7  # of the strongest component: another one beyond that makes the camera "mixed"
RETURNED = 0.5  # of its path: a camera that ends nearer than that to where it began is "mixed"
INSIDE = 0.5  # of the frame's sides, from its centre: a fixed point within is the camera's own, not a pan
SURE = 0.75  # a class less probable than that is not named
MODEL = 0.03  # of its speed: error of a camera by what no similarity describes; calibration's pan errors are below
DRAWS = 500  # cameras drawn within their error

GRID = 48  # sites across the longer side at which the camera is fitted
RIM = 12  # this part of the longer side (at most a quarter of the other) is left out along the border: flow is drawn inwards
FEWEST = 12  # sites that a camera is fitted to
BLOCKS = 6  # a side: sites of one block err together
OUTER = 1.5  # weight of blocks at the rim: a subject seldom reaches it
STANDS = 1.3  # weight of a camera that stands still: a part of the frame that rests is seldom a subject
TRIALS = 120  # random pairs of sites
TRIED = 300  # sites that trial cameras are judged by
EXPLAINED = 0.85  # of the frame: a similarity that explains that much needs no depth
WIDE = 3.5  # 40 % quantiles of what a camera leaves over (of normal noise: its sigma): sites farther off are outliers
LEAST_BLOCKS = 4  # with texture, for an error to be known


@dataclass(frozen=True)
class Sites:
    """Places z and their travel v (complex, px, about the centre), a weight each, the block that each lies in, whether that
    is at the rim; tolerance px; reach, the mean pixel's distance from the centre."""

    z: np.ndarray
    v: np.ndarray
    weight: np.ndarray
    block: np.ndarray
    outer: np.ndarray
    tolerance: float
    reach: float

    @staticmethod
    def of(travel: np.ndarray, usable: np.ndarray, shape: tuple[int, ...]) -> Sites | None:
        """Every few sites of a field "h w 2" (px over the baseline) where it is usable; None where these are too few."""
        rows, columns = usable.shape
        step, rim = max(1, max(rows, columns) // GRID), min(max(rows, columns) // RIM, min(rows, columns) // 4)
        y, x = (v.ravel() for v in np.mgrid[rim : rows - rim : step, rim : columns - rim : step])
        kept = usable[y, x]
        y, x = y[kept], x[kept]
        if len(x) < FEWEST:
            return None
        h, w = shape[:2]
        every = site_step(shape)
        there = travel[y, x].astype(np.float64)
        z, v = (x * every - (w - 1) / 2) + 1j * (y * every - (h - 1) / 2), there[:, 0] + 1j * there[:, 1]
        row, column = (y - rim) * BLOCKS // max(rows - 2 * rim, 1), (x - rim) * BLOCKS // max(columns - 2 * rim, 1)
        block = row * BLOCKS + column
        outer = (np.minimum(row, column) == 0) | (np.maximum(row, column) == BLOCKS - 1)
        # A textured subject must not outvote a plain background: each block counts about alike.
        weight = np.where(outer, OUTER, 1.0) / np.maximum(np.bincount(block, minlength=BLOCKS**2)[block], 4)
        tolerance = 0.25 / working_factor(shape) + 0.03 * float(np.median(np.abs(v)))
        return Sites(z, v, weight / weight.sum(), block, outer, tolerance, mean_radius(shape))


@dataclass(frozen=True)
class Camera:
    """One camera move: z to z + m z + d, px over the baseline.

    se: standard error of each of its four components, as px that it moves the mean pixel. lines: the epipole as a direction
    g(z) = lines[0] - lines[1] z in which parallax runs, where depth was seen. explained: share of the frame that follows.
    """

    m: complex
    d: complex
    se: float
    explained: float
    lines: tuple[complex, float] | None = None

    def flow(self, z: np.ndarray) -> np.ndarray:
        return self.m * z + self.d

    def along(self, z: np.ndarray) -> np.ndarray:
        """The directions in which depth would show at z: unit numbers; 0 where there are none."""
        g = self.flow(z) if self.lines is None else self.lines[0] - self.lines[1] * z
        size = np.abs(g)
        return np.divide(g, size, out=np.zeros_like(g), where=size > 0)


def fit(sites: Sites) -> Camera | None:
    """The similarity that most of the frame follows (RANSAC, then Tukey's weights), or the move along lines of depth."""
    z, v, weight, tolerance = sites.z, sites.v, sites.weight, sites.tolerance
    few = slice(None, None, -(-len(z) // TRIED))
    i, j = _random_pairs(len(z))
    with np.errstate(divide="ignore", invalid="ignore"):
        m = np.nan_to_num((v[i] - v[j]) / (z[i] - z[j]))
    m = np.concatenate([np.zeros(1), m, np.zeros(20)])
    d = np.concatenate([np.zeros(1), v[i] - m[1:-20] * z[i], v[i[:20]]])  # standing still, pairs, shifts of single sites
    near = np.abs(v[few] - m[:, None] * z[few] - d[:, None]) < tolerance
    score = near @ weight[few]
    score[0] *= STANDS
    best = int(np.argmax(score))
    m, d = m[best], d[best]
    # Where the frame follows no camera that closely, what is left over is noise: then all of it counts, and the error with it.
    cut = max(tolerance, WIDE * _quantile(np.abs(v - m * z - d), weight, 0.4))
    for _ in range(5):
        off = np.abs(v - m * z - d) / cut
        w = np.where(off < 1, np.square(1 - np.square(np.minimum(off, 1))), 0)
        if np.count_nonzero(w) < FEWEST // 2:
            return None
        middle, drift = np.average(z, weights=w), np.average(v, weights=w)
        arm = z - middle
        m = np.sum(w * arm.conj() * v) / np.sum(w * np.square(np.abs(arm)))
        d = drift - m * middle
    explained = float(weight[np.abs(v - m * z - d) < tolerance].sum())
    camera = Camera(complex(m), complex(d), _error(sites, w, v - m * z - d, arm, middle), explained)
    return camera if explained > EXPLAINED else _with_depth(sites, camera) or camera


def _error(sites: Sites, w: np.ndarray, rest: np.ndarray, arm: np.ndarray, middle: complex) -> float:
    """Standard error of a component by blocks that err together: the sandwich (Cameron and Miller 2015), px."""
    turn = w * arm.conj() * rest / np.sum(w * np.square(np.abs(arm)))
    shift = w * rest / np.sum(w) - turn * middle
    blocks = np.unique(sites.block[w > 0])
    if len(blocks) < LEAST_BLOCKS:
        return math.inf
    sums = [np.bincount(sites.block, part) for value in (turn * sites.reach, shift) for part in (value.real, value.imag)]
    return math.sqrt(sum(float(np.square(s).sum()) for s in sums) / 4 * len(blocks) / (len(blocks) - 2))


def _with_depth(sites: Sites, camera: Camera) -> Camera | None:
    """The camera that travels past things at several depths, if lines through one point explain what the similarity does not.

    None where most of the frame's rim stands still (then the camera does), or where lines explain less than half of the rest.
    """
    z, v, weight, tolerance = sites.z, sites.v, sites.weight, sites.tolerance
    fast = np.flatnonzero(np.abs(v) > 2 * tolerance)
    if len(fast) < FEWEST or weight[sites.outer & (np.abs(v) < tolerance)].sum() > 0.5 * weight[sites.outer].sum():
        return None
    i, j = (fast[k] for k in _random_pairs(len(fast)))
    # The line through z along v, in homogeneous coordinates of unit reach: where two of them meet lies the epipole.
    unit = sites.reach
    lines = np.stack([-v.imag, v.real, (v.imag * z.real - v.real * z.imag) / unit], 1) / np.maximum(np.abs(v), 1e-9)[:, None]
    points = np.cross(lines[i], lines[j])
    points = points[np.linalg.norm(points, axis=1) > 1e-3]
    if not len(points):
        return None
    towards, finite = (points[:, 0] + 1j * points[:, 1]) * unit, points[:, 2]
    few = slice(None, None, -(-len(z) // TRIED))

    def fits(at: slice) -> tuple[np.ndarray, np.ndarray]:  # off the line, and along it
        g = towards[:, None] - finite[:, None] * z[at]
        size = np.maximum(np.abs(g), 1e-9)
        turned = v[at] * g.conj() / size
        return np.abs(turned.imag), turned.real

    across, along = fits(few)
    sense = np.sign((np.sign(along) * (np.abs(along) > tolerance)) @ weight[few])[:, None]
    score = ((across < tolerance) & (along * sense > -tolerance)) @ weight[few] * (len(z) / len(z[few]))
    best = int(np.argmax(score))
    towards, finite, sense = towards[best : best + 1], finite[best : best + 1], sense[best, 0]
    across, along = (part[0] for part in fits(slice(None)))
    held = (across < tolerance) & (along * sense > -tolerance)
    explained = float(weight[held].sum())
    if explained < camera.explained + 0.5 * (1 - camera.explained):
        return None
    e, f = complex(towards[0]) * sense, float(finite[0]) * sense
    g = e - f * z
    rate = _quantile((along * sense / np.maximum(np.abs(g), 1e-9))[held], weight[held], 0.5)
    # Sites of one layer agree with each other better than layers do: the error is that of a median over blocks.
    m, d = -f * rate, e * rate
    rest = np.abs((v - m * z - d)[held])
    error = 1.25 * float(np.median(rest)) / math.sqrt(max(len(np.unique(sites.block[held])) - 2, 1))
    return Camera(complex(m), complex(d), error, explained, (e, f))


def _quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, total[-1] * share)])


@lru_cache(maxsize=64)
def _random_pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different sites, always the same ones."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, n, TRIALS)
    return first, (first + rng.integers(1, n, TRIALS)) % n


@takes(shape=SIZE)
def mean_radius(shape: tuple[int, ...]) -> float:
    """Mean distance of a pixel from the centre of an "h w" frame, px: what a radian or a factor of e moves the mean pixel.

    >>> mean_radius((1000, 1000))
    382.5977...
    """
    return _mean_radius(*shape[:2])


@lru_cache(maxsize=64)
def _mean_radius(h: int, w: int) -> float:
    y, x = np.ogrid[:h, :w]
    return float(np.hypot(x - (w - 1) / 2, y - (h - 1) / 2).mean())


def decide(
    net: tuple[float, float, float, float], se: float, path: float, *, shape: tuple[int, ...], floor: float
) -> tuple[str, float]:
    """The camera's class, one of CAMERAS, and its probability.

    >>> decide((1.0, 0.0, 0.0, 0.0), 0.01, 1.0, shape=(192, 320), floor=0.06)
    ('pan_right', 1.0)

    net: pan, tilt, zoom and roll, as the px/frame by which each moves the mean pixel (right, up, in, clockwise), in the mean
    over the clip. se: standard error of each, px/frame. path: the mean speed on the way, whatever its net. floor: px/frame,
    below which nothing is seen to move. The probability is the share of cameras within that error (normal, and MODEL of the
    speed) that fall into the class; below SURE the class is "abstained".
    """
    if not math.isfinite(se + sum(net)):
        return "abstained", 0.0
    spread = math.hypot(se, MODEL * float(np.linalg.norm(net)))
    drawn = np.array(net) + spread * np.random.default_rng(0).standard_normal((DRAWS, 4))
    names, counts = np.unique(_classes(drawn, max(path, 0.0), shape, floor), return_counts=True)
    best, share = names[np.argmax(counts)], counts.max() / DRAWS
    return (str(best), float(share)) if share >= SURE else ("abstained", float(share))


def _classes(camera: np.ndarray, path: float, shape: tuple[int, ...], floor: float) -> np.ndarray:
    """The class of each row of pan, tilt, zoom, roll (px/frame)."""
    pan, tilt, zoom, roll = camera.T
    shift, turn, reach = np.hypot(pan, tilt), np.hypot(zoom, roll), mean_radius(shape)
    net = np.hypot(shift, turn)  # of the mean pixel, about
    # The fixed point of z -> z + m z + d is -d / m; in px: m = (zoom - i roll) / reach, d = -pan + i tilt.
    m = np.where(turn > 0, zoom - 1j * roll, 1e-12) / reach
    fixed = (pan - 1j * tilt) / m
    inside = (np.abs(fixed.real) <= INSIDE * shape[1]) & (np.abs(fixed.imag) <= INSIDE * shape[0])

    def stronger(a: np.ndarray, b: np.ndarray, names: tuple[str, str, str, str]) -> np.ndarray:
        first = np.where(np.abs(a) >= np.abs(b), np.where(a > 0, names[1], names[0]), np.where(b > 0, names[3], names[2]))
        low, high = np.sort(np.abs([a, b]), axis=0)
        return np.where(low > np.maximum(SECOND * high, floor), "mixed", first)

    turns = stronger(zoom, roll, ("zoom_out", "zoom_in", "roll", "roll"))
    shifts = np.where(
        turn > np.maximum(SECOND * shift, floor),
        "mixed",
        stronger(pan, tilt, ("pan_left", "pan_right", "tilt_down", "tilt_up")),
    )
    found = np.where(inside & (turn >= floor), turns, shifts)
    found = np.where(net < RETURNED * path, "mixed", found)
    return np.where(np.maximum(net, path) <= floor, "static", np.where((net < floor) & (path >= floor), "mixed", found))
