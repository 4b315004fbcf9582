"""The clips of the adversarial suite move as their labels say; checked by phase correlation, which knows nothing of them."""

import cv2
import numpy as np
import pytest

from svdlab.measure import motion, suite
from svdlab.measure.suite import KINDS, clip, halves

ALSO = {"forward", "backward", "shake"}  # names that an instrument may use for a dolly and for a hand-held camera
COLUMNS = {"activity", "travel", "cuts", "fades", "photometric", "hidden"}


def shift(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    """dx, dy of the content from one frame to another."""
    return cv2.phaseCorrelate(
        *(np.float64(f.mean(-1)) for f in (one, two)), cv2.createHanningWindow(one.shape[1::-1], cv2.CV_64F)
    )[0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_labels_for_every_column(kind):
    known = clip(kind, (64, 64), 0)
    assert known.frames.dtype == np.uint8 and known.frames.shape[1:] == (64, 64, 3) and len(known.frames) in (14, 25)
    assert known.camera and known.camera <= {*motion.CAMERAS} | ALSO
    assert set(known.ranges) == COLUMNS and all(0 <= low <= high for low, high in known.ranges.values())


def test_a_clip_is_the_same_again_and_halves_share_no_photograph():
    one, two, other = (clip("grain", (64, 64), i).frames for i in (1, 1, 2))
    assert np.array_equal(one, two) and not (one.shape == other.shape and np.array_equal(one, other))
    tuning, held_out = (set(names) for names in halves().values())
    assert len(tuning) == len(held_out) == 6 and not tuning & held_out


@pytest.mark.parametrize("kind", ["pan", "tilt", "diagonal"])
def test_the_scene_goes_the_other_way_than_the_camera(kind):
    for index in range(3):
        known = clip(kind, (192, 320), index)
        dx, dy = np.mean([shift(a, b) for a, b in zip(known.frames, known.frames[1:], strict=False)], axis=0)
        name = ("pan_right" if dx < 0 else "pan_left") if abs(dx) > 5 * abs(dy) else "mixed"
        name = ("tilt_up" if dy > 0 else "tilt_down") if abs(dy) > 5 * abs(dx) else name
        assert known.camera == {name}


def test_a_zoom_in_shows_less_and_about_a_point_off_centre_it_keeps_that_point():
    known = next(k for k in (clip("zoom", (192, 320), i) for i in range(9)) if k.camera == {"zoom_in"})
    first, last = np.float32(known.frames[[0, -1]].mean(-1))
    inner = [cv2.resize(first[i : 192 - i, round(i / 0.6) : 320 - round(i / 0.6)], (320, 192)) for i in range(2, 40)]
    errors = [np.abs(view - last).mean() for view in inner]
    assert min(errors) < 0.35 * np.abs(first - last).mean() and 0 < np.argmin(errors) < 37


def test_a_subject_moves_and_the_scene_does_not():
    for kind in ("travel", "spin", "approach", "deform", "sky"):
        known = clip(kind, (192, 320), 0)
        least, most = known.ranges["activity"]
        changed = (np.ptp(known.frames.astype(int), axis=0) > 12).any(-1)
        assert least < changed.mean() < 3 * most and not changed[[0, -1]].any()


def test_a_cut_is_one_pair_and_light_moves_nothing():
    for index in range(3):
        steps = np.abs(np.diff(clip("cut", (64, 64), index).frames.astype(int), axis=0)).mean((1, 2, 3))
        assert steps.argmax() not in (0, len(steps) - 1) and steps.max() > 2 * np.median(steps)
    known = clip("flicker", (64, 64), 0)
    grey = known.frames.mean(-1) / 255
    measured = np.abs(np.diff(grey, axis=0)).mean()
    assert known.ranges["photometric"][0] < measured < known.ranges["photometric"][1]
    assert max(np.hypot(*shift(known.frames[0], f)) for f in known.frames) < 0.1


def test_h264_loses_more_at_a_higher_crf():
    plain = clip("pan", (192, 320), 1).frames
    good, poor = (np.abs(suite.through_h264(plain, crf).astype(int) - plain).mean() for crf in (18, 36))
    assert 0 < good < poor / 1.5
