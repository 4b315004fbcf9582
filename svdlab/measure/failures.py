"""What counts as a failed clip, by the columns of a study's table, and the frame and region of a clip where it shows.

    >>> found = judge(results)                                   # a row per clip and kind, the worst first
    >>> found[["kind", "value", "threshold", "failed", "reason"]]
    >>> place("blur", clip.frames)                               # (frame, (left, top, right, bottom)), px
    (..., (...))

A kind is one column (or the difference of two) and a threshold. Thresholds are choices, made for what a viewer sees, not for
what an instrument can measure. `face` and `letters` are measures for `svdlab.sweep`, for images that show a face or text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd

from svdlab.errors import InputError, columns, one_of, several, takes
from svdlab.measure import faces, fidelity, shots, text
from svdlab.measure.flow import brought_back, consistent, estimator
from svdlab.measure.video import CLIP, FRAMES

Place = tuple[int, tuple[int, int, int, int] | None]
LOOKED_AT = 4  # frames whose text is read
REGION = 0.3  # of each side of the frame: the box that is marked


@dataclass(frozen=True)
class Kind:
    """A way to fail: a column that is called as one of `columns`, or ends so (minus `less`), reaches `threshold`.

    says: what the number is, in words. unit: "share" for percent. only: a column of truth values that must hold as well.
    """

    columns: tuple[str, ...]
    threshold: float
    says: str
    unit: str = ""
    less: str = ""
    only: str = ""

    def values(self, table: pd.DataFrame) -> pd.Series | None:
        """The number of each row, NaN where there is none; None where the table lacks the columns."""
        own = [c for c in map(str, table) if c in self.columns or c.endswith(tuple(f"_{name}" for name in self.columns))]
        name = min(own, key=len, default=None)  # a measure of the user's own may go before it, as in people_face_persistence
        if name is None or (self.less and self.less not in table):
            return None
        found = _numbers(table[name]) - (_numbers(table[self.less]) if self.less else 0.0)
        return 1 - found if name.endswith("persistence") else found


KINDS = {
    # what svdlab.probes.duration takes for the end of a chain of clips
    "drift": Kind(("drift_colour_last",), 0.15, "the last frame's colour is off the input's by", "(RGB distance)"),
    # grey that alternates by 0.5 % of full scale up and down: 1.3 levels of 255
    "flicker": Kind(("flicker_brightness",), 0.02, "brightness jumps by", "rms of full scale"),
    # 13 levels of 255: a PSNR of 26 dB between a frame and its neighbour
    "warping": Kind(("warp_error",), 0.05, "after motion is undone, frames differ by", "rms of full scale"),
    # what a Gaussian of about 1.5 px does to a sharp photograph
    "blur": Kind(("blur_last",), 0.15, "the last frame is blurrier than the first by", "(0 to 1)", less="blur_first"),
    "frozen": Kind(("frozen_share",), 1.0, "nothing moves in", "share of frame pairs", only="frozen"),
    "cut": Kind(("shot_changes",), 1.0, "the shot changes", "time(s)"),
    "face": Kind(("face_persistence", "persistence"), 0.1, "the face is lost in", "share of frames"),
    # the error rate up to which svdlab.probes.content counts a sign as read
    "letters": Kind(("letters_errors", "errors"), 0.25, "of the letters of the input, misread are", "share"),
}
NEEDED = ("drift_colour_last", "flicker_brightness", "warp_error", "blur_last", "frozen_share", "cuts")


def _numbers(column: pd.Series) -> pd.Series:
    """Finite numbers; whatever else a recorded cell holds is NaN."""
    found = [float(v) if isinstance(v, (int, float, np.number, np.bool_)) else math.nan for v in column]
    return pd.Series(np.where(np.isfinite(found), found, math.nan), column.index, dtype=float)


def kinds_of(name: str, value: Any) -> tuple[str, ...]:
    """Names of KINDS."""
    return several(name, [value] if isinstance(value, str) else value, partial(one_of, options=KINDS), distinct=True)


@takes(kinds=kinds_of)
def judge(results: pd.DataFrame, kinds: Sequence[str] | None = None) -> pd.DataFrame:
    """Every clip by every kind of failure: a row for each pair that has a number, the worst first.

    >>> judge(results, ["blur"]).head(1)[["run", "kind", "value", "failed"]]

    results: the table of a sweep, a measured folder or a probe. Columns: `run`, the row's place in `results`; `kind`;
    `value` and `threshold`; `severity`, the one over the other; `failed`; `reason`, in words. Raises InputError for a table in
    which nothing was measured that a kind is judged by.
    """
    columns("results", results)
    if {"cuts", "fades"} <= set(results):
        results = results.assign(shot_changes=_numbers(results["cuts"]) + _numbers(results["fades"]).fillna(0))
    parts = []
    for name in kinds or KINDS:
        kind = KINDS[name]
        if (values := kind.values(results)) is None:
            continue
        failed = values.to_numpy() >= kind.threshold
        if kind.only:
            failed &= _numbers(results[kind.only]).to_numpy() == 1 if kind.only in results else False
        rows = {"run": range(len(values)), "kind": name, "value": values.to_numpy(), "threshold": kind.threshold}
        parts.append(pd.DataFrame({**rows, "severity": values.to_numpy() / kind.threshold, "failed": failed}))
    if not parts:
        raise InputError(
            f"results has none of the columns {', '.join(NEEDED)}, ...: measure the clips, as sweep(..., "
            f"measure=('motion', 'fidelity')) does."
        )
    found = pd.concat(parts, ignore_index=True).dropna(subset="value")
    found["reason"] = [_reason(*row) for row in found[["kind", "value", "failed"]].itertuples(index=False)]
    return found.sort_values(["failed", "severity"], ascending=False, kind="stable", ignore_index=True)


def _reason(name: str, value: float, failed: bool) -> str:
    kind = KINDS[name]
    unit = kind.unit.removeprefix("share").strip()
    number = lambda v: f"{100 * v:.3g} %" if kind.unit.startswith("share") else f"{v:.3g}"
    end = "" if failed else ", not reached" if value < kind.threshold else f", but the clip is not {kind.only}"
    said = " ".join(filter(None, (kind.says, number(value), unit)))
    return f"{name}: {said}; threshold {number(kind.threshold)}{end}"


# --- where it shows ---------------------------------------------------------------------------------------------------


@takes(kind=partial(one_of, options=KINDS), frames=CLIP)
def place(kind: str, frames: Any) -> Place:
    """The frame in which a clip's failure shows most, and its region: left, top, right, bottom in px, or None for all of it.

    >>> place("frozen", clip.frames)[1] is None
    True

    It is looked for whether or not the clip fails. Raises MissingExtraError for "face" and "letters" without their extra.
    """
    return PLACES[kind](frames)


def _box(energy: np.ndarray) -> tuple[int, int, int, int]:
    """The window of REGION of each side that holds most of a map "h w"."""
    h, w = energy.shape
    tall, wide = max(1, round(REGION * h)), max(1, round(REGION * w))
    sums = cv2.integral(np.nan_to_num(energy).astype(np.float32))
    inside = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    top, left = (int(i) for i in np.unravel_index(int(inside.argmax()), inside.shape))
    return left, top, left + wide, top + tall


def _drift(frames: np.ndarray) -> Place:
    away = np.linalg.norm(frames.mean((1, 2)) - frames[0].mean((0, 1)), axis=-1)
    at, soft = int(away.argmax()), max(frames.shape[1:3]) / 16  # motion of small things is no drift
    return at, _box(np.linalg.norm(cv2.GaussianBlur(frames[at] - frames[0], (0, 0), soft), axis=-1))


def _flicker(frames: np.ndarray) -> Place:
    if len(frames) < 3:
        return len(frames) - 1, None
    at = 1 + int(np.abs(np.diff(frames.mean((1, 2, 3)), 2)).argmax())
    jump = (frames[at - 1] - 2 * frames[at] + frames[at + 1]).mean(-1)
    return at, _box(np.abs(cv2.GaussianBlur(jump, (0, 0), max(jump.shape) / 32)))


def _warping(frames: np.ndarray) -> Place:
    estimate = estimator(frames)
    worst, found = -1.0, (len(frames) - 1, np.zeros(frames.shape[1:3]))
    for t, (one, two) in enumerate(pairwise(frames)):
        there = estimate(t, t + 1)
        seen = consistent(there, estimate(t + 1, t))
        error = np.square(brought_back(two, there) - one).sum(-1) * seen
        if seen.any() and (size := float(error.sum() / seen.sum())) > worst:
            worst, found = size, (t + 1, error)
    return found[0], _box(found[1])


def _blur(frames: np.ndarray) -> Place:
    at = int(fidelity.per_frame(frames)["blur"].to_numpy().argmax())
    detail = lambda f: np.abs(cv2.Laplacian(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
    return at, _box(np.maximum(detail(frames[0]) - detail(frames[at]), 0))


def _cut(frames: np.ndarray) -> Place:
    small = shots.thumbnails(frames)
    change = np.square(np.diff(small, axis=0)).mean(1)
    jumps, fades = shots.jumps(small), shots.fades(small)
    if fades and not jumps.any():
        return sum(fades[0]) // 2, None
    return 1 + int(np.where(jumps, change, 0 if jumps.any() else change).argmax()), None


def _face(frames: np.ndarray) -> Place:
    try:
        seen = faces.track(frames)
    except InputError:  # none in the first frame
        return len(frames) - 1, None
    at = int(np.argmin(seen["score"]))
    x, y, size = seen[["x", "y", "size"]].loc[:at].ffill().loc[at].to_numpy(float)
    h, w = frames.shape[1:3]
    ends = np.clip([x - size / 2, y - size / 2, x + size / 2, y + size / 2], 0, [w, h, w, h]).round().astype(int)
    return at, (int(ends[0]), int(ends[1]), int(ends[2]), int(ends[3]))


def _letters(frames: np.ndarray) -> Place:
    found = text.engine()((frames[0] * 255 + 0.5).astype(np.uint8)[..., ::-1], use_det=True, use_cls=False, use_rec=True)
    if not found.txts:
        return len(frames) - 1, None
    corners = np.concatenate([np.asarray(box) for box in found.boxes])
    (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    return len(frames) - 1, (int(left), int(top), int(right), int(bottom))


PLACES = {
    "drift": _drift,
    "flicker": _flicker,
    "warping": _warping,
    "blur": _blur,
    "frozen": lambda frames: (len(frames) // 2, None),
    "cut": _cut,
    "face": _face,
    "letters": _letters,
}


# --- measures of what an image may show -------------------------------------------------------------------------------


@takes(frames=FRAMES)
def face(frames: Any, image: Any = None) -> dict[str, Any]:
    """Whether the image's largest face stays found: `face_` and the keys of `faces.summarise`; NaN where it has no face.

    >>> face(clip.frames, clip.image)["face_persistence"]        # doctest: +SKIP
    """
    if not faces.detect(frames[0] if image is None else image):
        return {"face_persistence": math.nan}
    found = faces.summarise(faces.track(frames, image))
    return {f"face_{key}": value for key, value in found.items()}


@takes(frames=FRAMES)
def letters(frames: Any, image: Any = None) -> dict[str, Any]:
    """Whether the image's text can still be read: `letters_text`, what OCR reads in the image, and `letters_errors`, the
    character error rate in the worst of four frames, from the first to the last; NaN where the image has no text.

    >>> letters(clip.frames, clip.image)["letters_text"]         # doctest: +SKIP
    """
    truth = text.read(frames[0] if image is None else image)
    if not truth.strip():
        return {"letters_text": "", "letters_errors": math.nan}
    looked_at = np.unique(np.linspace(0, len(frames) - 1, LOOKED_AT).round().astype(int))
    return {"letters_text": truth, "letters_errors": max(text.error_rate(truth, text.read(frames[t])) for t in looked_at)}
