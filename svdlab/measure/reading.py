"""What a reading machine makes of a picture: rapidocr, loaded once per process, and the character error rate.

    >>> read(picture).text
    'OPEN'
    >>> error_rate("OPEN", "OPFN")
    0.25

Needs `pip install svdlab[ocr]`; the models are inside rapidocr's wheel. That a machine cannot read a text does not
prove that nobody can, so a clean copy has to be read first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import pandas as pd

from svdlab.errors import MissingExtraError
from svdlab.measure.frames import as_frames, as_picture

WORKING_SIDE = 128  # px: pictures with a shorter side than that are enlarged by a whole factor before they are read
LARGEST_SIDE = 960  # px: longer ones are shrunk to that to find where text is; it is read at full size


@dataclass(frozen=True)
class Reading:
    """What was read: text, lines from top to bottom joined by blanks ("" for none); score, their mean confidence, 0 to 1."""

    text: str
    score: float


def read(picture: Any) -> Reading:
    """All text in one picture "h w 3" in [0, 1], wherever it is.

    >>> read(plate.picture)
    Reading(text='OPEN', score=0.9998)

    Raises:
        MissingExtraError: rapidocr is not installed.
        InputError: a picture that cannot be used.
    """
    image: Any = (as_picture(picture) * 255 + 0.5).astype(np.uint8)
    factor = max(1, -(-WORKING_SIDE // min(image.shape[:2])))
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    # Said each time: rapidocr keeps what one call switched off for all calls after it.
    found = engine()(image[..., ::-1], use_det=True, use_cls=False, use_rec=True)
    if not found.txts:
        return Reading("", 0.0)
    order = np.argsort([box[:, 1].min() for box in found.boxes], kind="stable")
    return Reading(" ".join(found.txts[i] for i in order), float(np.mean(found.scores)))


def read_clip(frames: Any, truth: str) -> pd.DataFrame:
    """A row per frame: `text`, `score`, and `error_rate` against the truth.

    >>> read_clip(clip.frames, "OPEN").error_rate.mean()
    """
    rows = []
    for number, frame in enumerate(as_frames(frames, least=1)):
        said = read(frame)
        rows.append({"frame": number, "text": said.text, "score": said.score, "error_rate": error_rate(truth, said.text)})
    return pd.DataFrame(rows)


def error_rate(truth: str, said: str) -> float:
    """Character error rate: insertions, deletions and substitutions (Levenshtein) per character of the truth, at most 1.

    >>> error_rate("OPEN", "0 pen")
    0.25

    Blanks and case do not count. Above 1, where more was read than is there, it is cut to 1: nothing of the truth is
    left to lose. Raises MissingExtraError without rapidfuzz.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise _missing("rapidfuzz") from error
    one, two = (("".join(text.split())).upper() for text in (truth, said))
    return min(1.0, Levenshtein.distance(one, two) / max(1, len(one)))


@cache
def engine() -> Any:
    """The reading machine, loaded once per process. Raises MissingExtraError where it is not installed."""
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise _missing("rapidocr") from error
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,  # nothing here is upside down
            "Det.limit_type": "max",  # its default enlarges every picture to 736 px, at six times the cost
            "Det.limit_side_len": LARGEST_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or -1,
        }
    )


def _missing(name: str) -> MissingExtraError:
    return MissingExtraError(f"{name} is not installed, and text cannot be read without it: pip install 'svdlab[ocr]'.")
