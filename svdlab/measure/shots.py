"""Where a clip changes its shot: hard cuts, and cross-fades, on thumbnails.

    >>> small = thumbnails(clip.frames)
    >>> jumps(small)                         # bool "t": the pairs that may be a cut, if flow finds no match there either
    >>> fades(small)                         # [(first, last)]: between these frames one view dissolves into another

A frame of a cross-fade is a weighted sum of the frames at its two ends, with weights that rise steadily; a moving camera's
frames are not, once its ends look different. Two views of one scene whose thumbnails correlate by ALIKE or more are no change
of shot, and neither is a change of brightness, nor a fade to one colour.
"""

import itertools

import cv2
import numpy as np

SIDE = 32  # px: the longer side of thumbnails
ALIKE = 0.6  # correlation
CHANGE = 0.04  # grey of 1, rms: views that differ by less are the same, and flatter ones show nothing
OUTLIER = 3.0  # times the change of the pairs around it: a jump
AROUND = 3  # pairs before and after
SHORTEST = 2  # pairs: a fade is at least that long; of two, it is a cut with a blended frame
UNEXPLAINED = 0.1  # of the difference between the ends: what a blend may leave over
STEADY = 0.6  # of a whole fade: one step beyond that is a cut


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """Frames "f h w 3" in [0, 1] as small grey images: float32 "f n"."""
    shrink = SIDE / max(frames.shape[1:3])
    size = [max(2, round(side * shrink)) for side in frames.shape[2:0:-1]]
    small = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames)
    return np.stack([cv2.cvtColor(s, cv2.COLOR_RGB2GRAY).ravel().astype(np.float32) for s in small])


def _correlation(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of every two thumbnails, and each one's standard deviation."""
    centred = small - small.mean(1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(1))
    scaled = centred / np.maximum(spread, 1e-5)[:, None]
    return scaled @ scaled.T / small.shape[1], spread


def jumps(small: np.ndarray) -> np.ndarray:
    """Pairs whose thumbnails are unlike each other, by far more than those of the pairs around: bool "t"."""
    alike, _ = _correlation(small)
    change = np.sqrt(np.square(np.diff(small, axis=0)).mean(1))
    pairs = np.arange(len(change))
    found = np.zeros(len(change), bool)
    for t in pairs[(np.diag(alike, 1) < ALIKE) & (change > CHANGE)]:
        around = change[(np.abs(pairs - t) <= AROUND) & (pairs != t)]
        found[t] = len(around) > 0 and change[t] > OUTLIER * np.median(around)
    return found


def fades(small: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame of each cross-fade."""
    count, pixels = small.shape
    alike, spread = _correlation(small)
    first, last = np.triu_indices(count, SHORTEST)
    unlike = (alike[first, last] < ALIKE) & (np.minimum(spread[first], spread[last]) > CHANGE)
    first, last = first[unlike], last[unlike]
    shapes = (small - small.mean(1, keepdims=True)).astype(np.float64)  # a fade to white changes the mean most
    gram = shapes @ shapes.T / pixels

    def blend(i: np.ndarray, j: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight of frame j that explains frame t best beside i, mean square left over, mean square between the ends."""
        whole = gram[i, i] + gram[j, j] - 2 * gram[i, j]
        way = gram[t, j] - gram[t, i] - gram[i, j] + gram[i, i]
        own = gram[t, t] + gram[i, i] - 2 * gram[t, i]
        weight = way / np.maximum(whole, 1e-12)
        return weight, own - weight * way, whole

    weight, left, whole = blend(first, last, (first + last) // 2)
    near = (left < UNEXPLAINED**2 * whole) & (whole > CHANGE**2)
    order = np.argsort(-whole * near)[: np.count_nonzero(near)]
    found: list[tuple[int, int]] = []
    for i, j in zip(first[order].tolist(), last[order].tolist(), strict=True):
        if any(i < b and a < j for a, b in found):
            continue
        t = np.arange(i, j + 1)
        weight, left, whole = blend(np.full_like(t, i), np.full_like(t, j), t)
        steps = np.diff(weight)
        if (left < UNEXPLAINED**2 * whole).all() and steps.max() < STEADY and steps.min() > -0.1:
            inside = np.flatnonzero((weight > 0.04) & (weight < 0.96))
            if len(inside) >= SHORTEST - 1:
                found.append((int(t[inside[0]]) - 1, int(t[inside[-1]]) + 1))
    return sorted(found)


def in_fades(found: list[tuple[int, int]], pairs: int) -> np.ndarray:
    """The pairs that lie in a fade: bool "t"."""
    inside = itertools.chain.from_iterable(range(a, b) for a, b in found)
    return np.isin(np.arange(pairs), list(inside))
