"""What moves by itself in a frame pair, once the camera's motion is known: pieces of leftover flow, confirmed by eye.

    >>> find(residual, camera, visible, earlier, later, baseline=1)
    Body(dx=2.97, dy=0.01, speed=2.97, area=0.14)

Leftover flow alone is not proof: it also appears where there is no texture, at the border, and where something
gets hidden. So each connected piece is aligned on the pictures themselves, and counts only if it then looks like
itself again clearly better than under the camera's motion alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from svdlab.measure.flow import sample, speed

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
