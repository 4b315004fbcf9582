"""What moves against the camera: residual flow that the images confirm, and what changes without moving.

    evidence = Evidence.of(pair)             # what the images say about the pair's flow
    look(pair, evidence, camera, ours)       # a Residual: subject, activity, parallax

Flow answers everywhere: without texture, at borders, and where brightness boils. So a block of the image moves by itself only
if the later image, brought back by its own flow, resembles the earlier one clearly better than brought back by the camera,
after a gain is allowed and slow changes of brightness are taken off both (high-pass). A subject is a connected piece of
residual flow most of whose blocks are confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from svdlab.measure.camera import Camera
from svdlab.measure.flow import sample, site_step, speed, working_factor

OBJECT_FLOOR = 0.1  # px of working size over the baseline: less residual flow than that is noise
MUCH = 0.6  # px of working size: residual flow is looked at from there on, however much of the frame moves
AREA = 0.003  # of the frame: a smaller piece of residual flow is noise
MOST = 4  # pieces that are looked at, the largest first
BLOCK = 12  # px of working size: side of the blocks in which motion is confirmed
FINE, SMOOTH = 3, 8  # px: what changes over less is noise, over more light; in between is texture
DUE = 0.2  # of the mean square in place: a flow that would change the image by less can be neither seen nor refuted
LEVELS = 2.0  # grey levels (after the stretch), rms: less difference than that proves no motion
UNMOVED = 0.6  # of the mean square without motion: where flow leaves more than that, nothing has moved
SURELY = 0.9  # the same, where most of the frame moves
SHARE = 0.7  # of the difference under the camera alone that may remain if a block moves by itself
LEAST = 1.0  # blocks of a piece that must be confirmed
TOGETHER = 0.5  # net over mean speed of a piece: less, and it turns, grows or ripples, and goes nowhere
SIDE = 160  # px: larger pieces are shrunk before they are aligned
ACROSS = 0.25  # of its residual flow: a piece that runs along the camera's own lines but for that is at another depth
NEARER = 6.0  # a residual faster than so many times the camera is no depth
RESTS = 0.5  # px of working size over the baseline: slower flow may be none
TELLS = 0.15  # of the rim: with less texture it proves nothing
FARTHER = 0.5  # of the camera's speed: a piece inside the frame that is slower follows the camera, as a subject would


@dataclass(frozen=True)
class Pair:
    """Two frames, `baseline` apart. earlier, later: their grey images (uint8), coarse and fine part (flow.parts), of a size of
    their own. forward "h w 2", px/frame, at every few px, and visible: their flow, and where it can be trusted.
    """

    shape: tuple[int, int]
    earlier: np.ndarray
    later: np.ndarray
    fine: tuple[np.ndarray, np.ndarray]
    forward: np.ndarray
    visible: np.ndarray
    baseline: int

    @property
    def per_px(self) -> float:
        """Px of the grey images in one px of the frame."""
        return self.earlier.shape[1] / self.shape[1]

    @property
    def places(self) -> np.ndarray:
        """The sites of the flow, complex, px about the frame's centre: "h w"."""
        (h, w), every = self.shape, site_step(self.shape)
        x, y = np.arange(0, w, every) - (w - 1) / 2, np.arange(0, h, every) - (h - 1) / 2
        return (x[None, :] + 1j * y[:, None]).astype(np.complex64)


@dataclass(frozen=True)
class Residual:
    """dx, dy, speed: of the subject against the camera, px/frame. area: its share of the frame. activity: share of the
    frame that moves by itself, whatever its net. parallax: mean speed that depth adds, px/frame.
    """

    dx: float = 0.0
    dy: float = 0.0
    speed: float = 0.0
    area: float = 0.0
    activity: float = 0.0
    parallax: float = 0.0


def fine_part(grey: np.ndarray, factor: int) -> np.ndarray:
    """A grey image without what changes over more than SMOOTH px, and without single px of noise: float32. factor: by which it
    was enlarged.
    """
    least, most = (k * factor // 2 * 2 + 1 for k in (FINE, SMOOTH))
    return cv2.subtract(cv2.blur(grey, (least, least)), cv2.blur(grey, (most, most)), dtype=cv2.CV_32F)


@dataclass(frozen=True)
class Evidence:
    """What the images say about a pair, by blocks, as mean squares of the fine part in grey levels: energy of the earlier one,
    what remains of it after the best gain of the later one in place (still) and brought back by its own flow (moved), and by
    how much that flow would change it (due).
    """

    energy: np.ndarray
    still: np.ndarray
    moved: np.ndarray
    due: np.ndarray

    @staticmethod
    def of(pair: Pair) -> Evidence:
        one, two = pair.fine
        energy, own = _mean(one * one), one - brought(one, pair.forward, pair)
        moved = unlike(one, brought(two, pair.forward, pair), energy)
        return Evidence(energy, unlike(one, two, energy), moved, _mean(own * own))

    def trusted(self, pair: Pair) -> tuple[Pair, np.ndarray]:
        """The pair with no flow where images change but not by motion, and the sites where texture decides: bool "h w"."""
        can = self.energy >= LEVELS**2
        ratio = self.moved / np.maximum(self.still, 1e-6)
        size, textured = pair.visible.shape[::-1], can & (self.still < 0.5 * self.energy)
        if can.any() and quantile(ratio[can], 0.5) < UNMOVED:  # most of the frame moves: blocks in doubt tell nothing
            rests, told = can & False, can & (ratio <= SURELY)
        else:
            rests, told = textured & (ratio > UNMOVED) & (self.due > DUE * self.still), can & (textured | (ratio <= UNMOVED))
        rests, told = (cv2.resize(m.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for m in (rests, told))
        forward = np.where(rests[..., None], np.float32(0), pair.forward)
        return replace(pair, forward=forward, visible=pair.visible | rests), told


def _mean(image: np.ndarray) -> np.ndarray:
    """Means over blocks."""
    rows, columns = (max(1, round(side / BLOCK)) for side in image.shape)
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)


def unlike(one: np.ndarray, there: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Mean square that remains of an image after the best gain of another, by blocks."""
    return energy - np.square(np.maximum(_mean(one * there), 0)) / np.maximum(_mean(there * there), 1e-6)


def look(pair: Pair, evidence: Evidence, camera: Camera, ours: np.ndarray) -> Residual:
    """What moves by itself between two frames. ours: the camera's flow at the sites, px/frame."""
    residual = pair.forward - ours
    fast = speed(residual)
    factor = working_factor(pair.shape)
    spread = 1.4826 * quantile(fast[pair.visible][::3], 0.5) if pair.visible.any() else 0.0  # of what the camera explains
    least = OBJECT_FLOOR / factor / pair.baseline
    moving = (fast > max(least, min(3 * spread, MUCH / factor))) & pair.visible
    if np.count_nonzero(moving) < AREA * moving.size:
        return Residual()
    confirmed, textured = _confirmed(pair, evidence, ours, moving)
    if not confirmed.any():
        return Residual()

    def pieces(mask: np.ndarray) -> list[np.ndarray]:  # those that the images confirm
        found = [(piece, _blocks(piece, confirmed.shape)) for piece in _pieces(mask, fast)]
        sure = [(piece, float((s * confirmed).sum()), float((s * textured).sum())) for piece, s in found]
        return [piece for piece, own, whole in sure if own >= max(LEAST, 0.5 * whole)]

    deep = np.zeros(moving.shape, bool)
    for piece in pieces(moving) if ours.any() and float(np.abs(ours[:: len(ours) // 4]).max()) * NEARER > least else ():
        if _is_depth(pair, camera, piece, residual, ours):
            deep |= piece
    found = []
    for piece in pieces(moving & (fast > 3 * spread) & ~deep):
        under, own = ours[piece].mean(0), residual[piece].mean(0)
        if np.hypot(*own) < TOGETHER * fast[piece].mean():
            own = np.zeros(2)
        else:
            own = _align(pair, piece, (own + under) * pair.baseline) / pair.baseline - under
        found.append((*own, np.hypot(*own), piece.mean()))
    active = float((confirmed * (1 - _blocks(deep, confirmed.shape))).mean())
    depth = float(fast[deep].sum()) / deep.size
    if not found:
        return Residual(activity=active, parallax=depth)
    bodies = np.array(found, float)
    area = bodies[:, 3]
    dx, dy, fastness = area @ bodies[:, :3] / area.sum()
    return Residual(float(dx), float(dy), float(fastness), float(area.sum()), active, depth)


def quantile(values: np.ndarray, share: float) -> float:
    """A quantile without interpolation, in a tenth of numpy's time."""
    k = int(share * (values.size - 1))
    return float(np.partition(values, k)[k])


def _blocks(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The share of each block that a mask covers: float32."""
    return cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)


def _confirmed(pair: Pair, evidence: Evidence, ours: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks whose own motion the images confirm, and blocks in which they could: bool "rows columns"."""
    one, two = pair.fine
    alone = unlike(one, brought(two, ours, pair), evidence.energy)
    textured = (alone > LEVELS**2) & (_blocks(moving, alone.shape) > 0.5)
    return textured & (evidence.moved < SHARE**2 * alone), textured


def rim_rests(pair: Pair, evidence: Evidence, ours: np.ndarray) -> bool:
    """Whether the images show most of the frame's rim at rest, though the camera would move it: it is a large subject's."""
    one, two = pair.fine
    alone = unlike(one, brought(two, ours, pair), evidence.energy)
    slow = _blocks(speed(pair.forward) * pair.baseline < RESTS / working_factor(pair.shape), alone.shape) > 0.5
    rim, wide = np.ones(alone.shape, bool), max(1, min(alone.shape) // 8)
    rim[wide:-wide, wide:-wide] = False
    tells = rim & (np.minimum(alone, evidence.energy) > LEVELS**2)
    rests = tells & slow & (evidence.still < SHARE**2 * alone)
    return bool(tells.sum() > TELLS * rim.sum() and rests.sum() > 0.5 * tells.sum())


def brought(later: np.ndarray, flow: np.ndarray, pair: Pair, frames: int | None = None) -> np.ndarray:
    """A later image, of any size, at the places to which a flow at the sites (px/frame) takes the earlier one's pixels.

    frames: between the two; None: the pair's baseline.
    """
    h, w = later.shape[:2]
    travel: Any = flow * np.float32((pair.baseline if frames is None else frames) * w / pair.shape[1])
    if travel.shape[:2] != (h, w):
        travel = cv2.resize(travel, (w, h), interpolation=cv2.INTER_LINEAR)
    columns, rows = np.arange(w, dtype=np.float32)[None, :], np.arange(h, dtype=np.float32)[:, None]
    return sample(later, travel[..., 0] + columns, travel[..., 1] + rows)


def _is_depth(pair: Pair, camera: Camera, piece: np.ndarray, residual: np.ndarray, ours: np.ndarray) -> bool:
    """Whether a piece moves as still things at another depth would: along the camera's own lines, forwards."""
    rows, columns = np.nonzero(piece)
    few = slice(None, None, max(1, len(rows) // 1000))
    rows, columns = rows[few], columns[few]
    lines = camera.along(pair.places[rows, columns])
    rest, base = (f[rows, columns, 0] + 1j * f[rows, columns, 1] for f in (residual, ours))
    slow = quantile(np.abs(base), 0.5)
    if not lines.any() or NEARER * slow < quantile(np.abs(rest), 0.5):
        return False
    across, along = (rest * lines.conj()).imag, ((rest + base) * lines.conj()).real
    if quantile(np.abs(across), 0.5) > ACROSS * quantile(np.abs(rest), 0.5):
        return False
    edge = piece[[0, -1]].any() or piece[:, [0, -1]].any()
    return quantile(along, 0.5) > (-0.1 if edge else FARTHER) * slow


def _pieces(moving: np.ndarray, fast: np.ndarray) -> list[np.ndarray]:
    """Connected pieces of what moves, the largest first, each without the slow seam that smooth flow sews around it."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    pieces = []
    for i in np.argsort(-areas)[:MOST]:
        if areas[i] >= AREA * moving.size:
            piece = labels == i + 1
            piece &= fast > quantile(fast[piece], 0.9) / 2
            if piece.mean() >= AREA:
                pieces.append(piece)
    return pieces


def _align(pair: Pair, piece: np.ndarray, guess: np.ndarray) -> np.ndarray:
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
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-3)
    try:
        _, back = cv2.findTransformECC(two, one, back, cv2.MOTION_TRANSLATION, stop, mask, 1)
    except cv2.error:  # it diverged: the flow's own answer stands
        return guess
    found = -back[:, 2] / shrink
    near = np.linalg.norm(found - start) <= 2.0 + 0.5 * np.linalg.norm(start)
    return found / pair.per_px if near else guess
