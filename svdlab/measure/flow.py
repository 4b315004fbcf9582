"""Optical flow between frames: OpenCV's DIS on images of a workable size, both ways, with occlusion.

    >>> f = flow(clip.frames)                # "t h w 2", px from each frame to the next, x right, y down
    >>> both = both_ways(clip.frames)        # the same with the way back, occlusion and baselines
    >>> points(f, [(32, 32)])                # where a point of frame 0 goes: "f n 2"

DIS (Kroeger et al. 2016) looks at patches of 8 px, so small frames are enlarged first. Where nothing moves fast, a pair is
measured over several frames around it, its baseline, and the result divided: an error of a tenth of a pixel is then spread
over many frames.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np

from svdlab.errors import InputError, shown, takes, whole
from svdlab.measure import shots
from svdlab.measure.video import CLIP

T = TypeVar("T")

WORKING_SIDE = 192  # px: frames with a shorter side than that are enlarged by a whole factor
LONGEST_BASELINE = 8  # frames
QUICK_SIDE = 192  # px: the longer side of the images that are looked at to choose baselines
BASELINE_PATH = 1 / 128  # of the shorter side: a baseline lets things travel that far before it stops growing
LOOKED_AT = 512  # sites across the longer side, about, at which dense fields are compared
SITES = 200  # across the longer side, about, at which moving things are separated from the camera
FAST = 0.02  # of the diagonal: a global shift beyond that is given to DIS to start from
BASELINE = partial(whole, least=1, most=1000)


def field(name: str, value: Any, axes: str = "t h w 2") -> np.ndarray:
    """The kind of a flow: finite floats "t h w 2", px."""
    array = np.asarray(value)
    fits = array.ndim == len(axes.split()) and array.shape[-1] == 2 and 0 not in array.shape
    if not fits or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError(f'{name}={shown(array)}: give a flow, finite floats "{axes}" in px, such as flow(frames).')
    return array


def _starts(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if not array.size or array.shape[-1:] != (2,) or not np.isfinite(array).all():
        raise InputError(f"{name}={shown(value)}: give points as a list of (x, y), px.")
    return array.reshape(-1, 2)


@dataclass(frozen=True)
class BothWays:
    """Flow of a clip in both directions.

    forward, backward: float32 "t h w 2", px/frame, at the pixels of frame `start[t]`, of frame `start[t] + baseline[t]`.
    visible: bool "t h w", where going and coming back agree (Sundaram et al. 2010).
    start, baseline: int "t": pair t was measured from frame start to frame start + baseline.
    """

    forward: np.ndarray
    backward: np.ndarray
    visible: np.ndarray
    start: np.ndarray
    baseline: np.ndarray


@takes(frames=CLIP, longest_baseline=BASELINE)
def flow(frames: Any, *, longest_baseline: int = LONGEST_BASELINE) -> np.ndarray:
    """Motion from each frame to the next: float32 "t h w 2" in px, x right, y down, t = frames - 1.

    >>> flow(clip.frames)[0, 32, 32]         # px from frame 0 to frame 1, at row 32, column 32

    frames: what `svdlab.measure.video.as_frames` takes, whose InputError this raises. longest_baseline: frames over which slow
    motion may be averaged; 1 takes each pair on its own.
    """
    estimate = estimator(frames)
    found, _, _ = each_window(frames, lambda a, n: (estimate(a, a + n) / np.float32(n),), longest_baseline)
    return np.stack([forward for (forward,) in found])


@takes(frames=CLIP, longest_baseline=BASELINE)
def both_ways(frames: Any, *, longest_baseline: int = LONGEST_BASELINE) -> BothWays:
    """`flow` with the way back and with what is hidden. Arguments and errors are those of `flow`.

    >>> both_ways(clip.frames).visible.mean()            # share of pixels whose motion can be trusted
    """
    found, start, baseline = each_window(frames, there_and_back(estimator(frames)), longest_baseline)
    forward, backward, visible = map(np.stack, zip(*found, strict=True))
    return BothWays(forward, backward, visible, start, baseline)


Fields = tuple[np.ndarray, ...]


def there_and_back(estimate: Callable[[int, int], np.ndarray], step: int = 1) -> Callable[[int, int], Fields]:
    """Gives forward, backward (px/frame) and visible, every `step` px, from a first frame over so many."""

    def work(first: int, length: int) -> Fields:
        there, back = estimate(first, first + length), estimate(first + length, first)
        few = (np.ascontiguousarray(f[::step, ::step]) for f in (there, back, consistent(there, back)))
        forward, backward, visible = few
        return forward / np.float32(length), backward / np.float32(length), visible

    return work


def each_window(
    clip: np.ndarray, work: Callable[[int, int], T], longest: int = LONGEST_BASELINE, pairs: Sequence[int] | None = None
) -> tuple[list[T], np.ndarray, np.ndarray]:
    """What work(start, baseline) gives for each pair (or `pairs` only), and their windows. Who share one share its result."""
    start, baseline = _baselines(clip, longest)
    if pairs is not None:
        start, baseline = start[list(pairs)], baseline[list(pairs)]
    windows = list(zip(start.tolist(), baseline.tolist(), strict=True))
    once = list(dict.fromkeys(windows))
    done = dict(zip(once, together(work, *zip(*once, strict=True)), strict=True))
    return [done[window] for window in windows], start, baseline


def consistent(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where |F(x) + B(x + F(x))|^2 <= 0.01 (|F|^2 + |B|^2) + 0.5: bool "h w", False for what gets hidden.

    The rule of Sundaram, Brox and Keutzer (2010). Its 0.5 px^2 is meant for images of a full size, so it shrinks with the
    square of the factor by which small frames are enlarged.
    """
    h, w = there.shape[:2]
    thin = stride((h, w))
    x, y = np.meshgrid(np.arange(0, w, thin, dtype=np.float32), np.arange(0, h, thin, dtype=np.float32))
    own = np.ascontiguousarray(there[::thin, ::thin])
    x, y = x + own[..., 0], y + own[..., 1]
    returned = sample(back, x, y)
    slack = 0.5 / working_factor((h, w)) ** 2
    agrees = speed(own + returned) ** 2 <= 0.01 * (speed(own) ** 2 + speed(returned) ** 2) + slack
    visible = agrees & (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return visible if thin == 1 else visible.repeat(thin, 0).repeat(thin, 1)[:h, :w]


@takes(forward=field, starts=_starts)
def points(forward: np.ndarray, starts: Any) -> np.ndarray:
    """Follow points of the first frame by chaining flow: "f n 2" px (x, y), NaN after leaving the frame.

    >>> points(flow(clip.frames), [(32, 32), (10, 50)]).shape[1:]        # (x, y) pairs
    (2, 2)
    """
    path = [starts]
    h, w = forward.shape[1:3]
    for f in forward:
        x, y = path[-1].T
        inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
        step = sample(f, np.nan_to_num(x)[None], np.nan_to_num(y)[None])[0]
        path.append(np.where(inside[:, None], path[-1] + step, np.nan).astype(np.float32))
    return np.stack(path)


def working_factor(shape: tuple[int, ...]) -> int:
    """The whole factor by which frames of that "h w" shape are enlarged before they are looked at."""
    return max(1, -(-WORKING_SIDE // min(shape[:2])))


def working_grey(images: Iterable[np.ndarray], factor: int | None = None) -> list[np.ndarray]:
    """Images "h w 3" as uint8 grey at working size (or enlarged by `factor`), stretched together to their common 0.5 to 99.5
    percentile: dark images use all of DIS's eight bits, and flat ones stay flat (32-fold at most).
    """
    greys = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in images]
    low, high = np.percentile(np.concatenate([g[::3, ::3].ravel() for g in greys]), (0.5, 99.5))
    gain = 255 / max(high - low, 8 / 255)
    factor = working_factor(greys[0].shape) if factor is None else factor
    if factor > 1:
        greys = [cv2.resize(g, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for g in greys]
    return [cv2.convertScaleAbs(np.maximum(g - low, 0), alpha=gain) for g in greys]


def sample(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`values` "h w c" at real-valued places, bilinear; beyond the border its nearest value."""
    x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
    return cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def brought_back(values: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """`values` "h w c" of the later frame at the places to which the earlier frame's pixels go."""
    h, w = forward.shape[:2]
    x, y = np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)[:, None]
    return sample(values, x + forward[..., 0], y + forward[..., 1])


def stride(shape: tuple[int, ...]) -> int:
    """Every how many px a dense field is looked at: DIS computes at half size, so large frames lose nothing at 2."""
    return max(1, max(shape[:2]) // LOOKED_AT)


def site_step(shape: tuple[int, ...]) -> int:
    """Every how many px a camera and what moves against it are looked at."""
    return max(1, round(max(shape[:2]) / SITES))


def speed(f: np.ndarray) -> np.ndarray:
    """Length of each vector of a flow "h w 2": "h w"."""
    return cv2.magnitude(*cv2.split(f))


def together(work: Callable[..., T], *items: Iterable[Any]) -> list[T]:
    """`map` over as many threads as OpenCV may use; OpenCV releases Python's lock while it computes."""
    with ThreadPoolExecutor(max(1, cv2.getNumThreads())) as pool:
        return list(pool.map(work, *items))


def estimator(clip: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """Flow "h w 2" between two frames of a checked clip, by their numbers: what each frame gives is prepared once.

    >>> estimator(clip.frames)(0, 3).shape[-1]           # from frame 0 to frame 3
    2
    """
    greys, (h, w) = working_grey(clip), clip.shape[1:3]
    shrink = 128 / max(greys[0].shape)
    small = [cv2.resize(p, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA).astype(np.float32) for p in greys]
    window = cv2.createHanningWindow(small[0].shape[::-1], cv2.CV_32F)
    own = threading.local()  # an engine keeps its buffers, and serves one thread at a time

    def start_shift(i: int, j: int) -> np.ndarray | None:
        """A constant flow to start DIS from, where one global shift is large and clear: DIS, from 32 px on, may miss it."""
        (dx, dy), response = cv2.phaseCorrelate(small[i].copy(), small[j].copy(), window)  # it may write the window into them
        if response < 0.3 or np.hypot(dx, dy) < FAST * np.hypot(*small[0].shape):
            return None
        return np.full((*greys[0].shape, 2), (dx / shrink, dy / shrink), np.float32)

    def estimate(i: int, j: int) -> np.ndarray:
        start = start_shift(i, j)
        if not hasattr(own, "engine"):
            own.engine = _engine()
        engine = own.engine if start is None else _engine()  # one that was given a start would start there again
        f = engine.calc(greys[i], greys[j], start)  # type: ignore[arg-type]  # OpenCV's stubs forget that None is allowed
        if f.shape[:2] == (h, w):
            return f
        small_flow = cv2.resize(f, (w, h), interpolation=cv2.INTER_AREA)
        return np.multiply(small_flow, (w / f.shape[1], h / f.shape[0]), dtype=np.float32)

    return estimate


def _baselines(clip: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pair the window of frames to measure it over: (start, baseline), int "t".

    A window grows around its pair, later and earlier in turn, while things travel less than BASELINE_PATH in all: by the 98th
    percentiles of a quick look at small images, so that a small fast object keeps the window short. None spans a cut or a
    fade.
    """
    pairs = len(clip) - 1
    start, end = np.arange(pairs), np.arange(pairs) + 1
    if longest <= 1 or pairs == 1:
        return start, end - start
    limit = BASELINE_PATH * min(clip.shape[1:3])
    shrink = min(1.0, QUICK_SIDE / max(clip.shape[1:3]))
    few = [cv2.resize(f, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) for f in clip]
    small = working_grey(few, working_factor(clip.shape[1:3]))

    def quick_speed(t: int) -> float:  # px of the clip's own frames
        f = _engine(fast=working_factor(clip.shape[1:3]) == 1).calc(small[t], small[t + 1], None)  # type: ignore[call-overload]
        return float(np.percentile(speed(f), 98)) * max(clip.shape[1:3]) / max(small[0].shape)

    speeds = np.array(together(quick_speed, range(pairs)))
    thumbs = shots.thumbnails(clip)
    speeds[shots.jumps(thumbs) | shots.in_fades(shots.fades(thumbs), pairs)] = np.inf
    for t in range(pairs):
        for turn in range(2 * longest):  # later and earlier in turn; a side that cannot grow now may never again
            a, b = start[t] - turn % 2, end[t] + 1 - turn % 2
            if a >= 0 and b <= pairs and b - a <= longest and speeds[a:b].sum() < limit:
                start[t], end[t] = a, b
    return start, end - start


def _engine(fast: bool = False) -> cv2.DISOpticalFlow:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
