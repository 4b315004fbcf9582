"""A planted failure is found, in its frame and region, and the worst clips are shown first."""

from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure.failures import judge, place
from tests.show.conftest import texts

SCENE = cv2.GaussianBlur(np.random.default_rng(0).random((96, 96, 3), np.float32), (0, 0), 1.5)
SCENE = ((SCENE - SCENE.min()) / np.ptp(SCENE) * 0.8).astype(np.float32)
LEFT, TOP = slice(8, 36), slice(60, 88)  # where each failure is planted: left, low


def planted(kind: str) -> np.ndarray:
    clip = np.repeat(SCENE[None], 9, axis=0)
    if kind == "drift":
        clip[6:, TOP, LEFT, 0] += 0.2
    elif kind == "flicker":
        clip[5, TOP, LEFT] += 0.2
    elif kind == "warping":
        clip[5, TOP, LEFT] = np.random.default_rng(1).random((28, 28, 3))
    elif kind == "blur":
        clip[7, TOP, LEFT] = cv2.GaussianBlur(SCENE[TOP, LEFT], (0, 0), 6)
        clip[7:] = cv2.GaussianBlur(clip[7], (0, 0), 0.7)
        clip[8] = 0.5 * (clip[7] + SCENE)
    elif kind == "cut":
        clip[5:] = SCENE[::-1, ::-1] ** 0.5
    return clip


@pytest.mark.parametrize(("kind", "at"), [("drift", {6, 7, 8}), ("flicker", {5}), ("warping", {5, 6}), ("blur", {7})])
def test_a_planted_failure_is_found_in_its_frame_and_region(kind: str, at: set[int]) -> None:
    frame, box = place(kind, planted(kind))
    assert frame in at and box is not None
    overlap = max(0, min(box[2], 36) - max(box[0], 8)) * max(0, min(box[3], 88) - max(box[1], 60))
    assert overlap > 0.5 * 28 * 28


def test_a_cut_is_its_first_new_frame_and_takes_all_of_it() -> None:
    assert place("cut", planted("cut")) == (5, None) and place("frozen", planted("none"))[1] is None


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"seed": range(4), "fps": 6, "run_id": list("abcd"), **columns})


def test_a_clip_is_judged_by_what_was_measured() -> None:
    found = judge(table(drift_colour_last=[0.1, np.nan, 0.3, "text"], frozen_share=1.0, frozen=[True, False, True, None]))
    assert set(found.kind) == {"drift", "frozen"}
    drift = found[found.kind == "drift"]
    assert drift.run.tolist() == [2, 0] and drift.failed.tolist() == [True, False]
    assert drift.reason.iloc[0] == "drift: the last frame's colour is off the input's by 0.3 (RGB distance); threshold 0.15"
    assert drift.reason.iloc[1].endswith("not reached")
    assert found[found.kind == "frozen"].reason.iloc[-1].endswith("threshold 100 %, but the clip is not frozen")
    assert found[(found.kind == "frozen") & found.failed].run.tolist() == [0, 2]  # the instrument's word, not the share alone
    blurred = judge(table(blur_last=0.5, blur_first=[0.5, 0.4, 0.3, 0.1], cuts=[0, 0, 0, 1], fades=0, errors=[0, 0, 1.0, 0]))
    assert blurred[blurred.failed].groupby("kind").run.apply(list).to_dict() == {"blur": [3, 2], "cut": [3], "letters": [2]}
    for wrong in (dict(results=table()), dict(results=table(warp_error=0.1), kinds=["speed"]), dict(results=[])):
        with pytest.raises(InputError):
            judge(**wrong)


def test_the_worst_of_each_kind_come_first_with_reason_and_conditions() -> None:
    clips = [planted(kind) for kind in ("drift", "none", "flicker", "none")]
    results = table(frames=clips, drift_colour_last=[0.3, 0.2, 0.0, 0.0], flicker_brightness=[0.0, 0.0, 0.05, 0.01])
    fig = show.failures(results, k=4)
    assert fig.data.kind.tolist() == ["flicker", "drift", "drift", "flicker"] and fig.data.run_id.tolist() == list("cabd")
    assert fig.data.failed.tolist() == [True, True, True, False] and "3 of 4 reach the threshold" in fig.title
    assert fig.data.frame[0] == 5 and fig.data.top[0] >= 45
    drawn = " ".join(texts(fig).split())
    assert "brightness jumps by 0.05 rms of full scale; threshold 0.02 (seed 2)" in drawn and "frame 5" in drawn
    assert len(show.failures(results, 2, kinds="drift").data) == 2
    with pytest.raises(InputError, match="has frames"):
        show.failures(results.assign(frames=""))
    mixed = results.assign(frames=[c[:, : 96 - 16 * i] for i, c in enumerate(clips)])  # a folder's clips differ in size
    show.failures(mixed, k=4).draw_without_rendering()
