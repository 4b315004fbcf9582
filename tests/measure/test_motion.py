"""The motion instrument against motion that is known: photographs moved by splines, the organism's world."""

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.measure import motion
from svdlab.measure.calibrate import moving
from svdlab.organism import world

SMALL, MIDDLE = (64, 64), (256, 256)


def test_camera_numbers_have_their_signs_and_units():
    table = motion.measure(moving("astronaut", size=MIDDLE, frames=3, pan=2, tilt=1, zoom=1.5, roll=1).frames)
    found = table[["pan_px", "tilt_px", "zoom_pct", "roll_deg"]].mean()
    assert found.to_numpy() == pytest.approx([2, 1, 1.5, 1], rel=0.05)


def test_the_class_of_a_table_by_hand():
    def table(**columns):
        empty = dict.fromkeys(("pan_px", "tilt_px", "zoom_pct", "roll_deg"), [0.0] * 4)
        return pd.DataFrame({**empty, "abstained": [False] * 4, **columns})

    for columns, camera in (
        (dict(), "static"),
        (dict(pan_px=[-1.0] * 4), "pan_left"),
        (dict(pan_px=[1.0] * 4, tilt_px=[-0.8] * 4), "mixed"),  # 0.8 is beyond SECOND
        (dict(pan_px=[1.0] * 4, tilt_px=[-0.6] * 4), "pan_right"),
        (dict(pan_px=[1.0, 1.0, -1.0, -1.0]), "mixed"),  # it came back
        (dict(abstained=[True, True, False, False]), "abstained"),
        (dict(pan_px=[np.nan, 1.0, 1.0, 1.0]), "abstained"),
        (dict(zoom_pct=[1.0] * 4, pan_px=[0.1] * 4), "zoom_in"),
    ):
        assert motion.camera_class(table(**columns), SMALL) == camera, columns
    late = pd.concat([table(), table(pan_px=[0.0, 0.0, 0.0, 4.0])])
    assert motion.camera_class(late, SMALL) == "abstained"  # it did not come back
    assert motion.camera_class(table(), SMALL, floor=0) == "static"
    # A zoom of 1 % moves the mean pixel of a square by 0.01 * 0.3826 * its side (the mean distance from the centre)
    assert motion.mean_radius((1000, 1000)) == pytest.approx(382.6, abs=0.1)


def test_playback_fps_alone_makes_seconds():
    frames = moving("cat", size=MIDDLE, frames=4, pan=2).frames
    plain, timed = motion.measure(frames), motion.measure(frames, playback_fps=7)
    assert not [c for c in plain if c.endswith("_s")]
    assert timed.pan_px_s.to_numpy() == pytest.approx(7 * plain.pan_px.to_numpy())
    assert timed.pan_pct_s.to_numpy() == pytest.approx(7 * plain.pan_px.to_numpy() / 256 * 100)
    for fps in (0, np.nan):
        with pytest.raises(InputError, match="playback_fps"):
            motion.summary(frames, playback_fps=fps)


def test_a_pan_of_the_organisms_world_has_no_object_in_it():
    scenes = world.scenes(8, seed=4, motion="pan", fps=6, motion_bucket_id=90)
    found = [motion.summary(v) for v in scenes.video]
    assert [f["camera"] for f in found] == [f"pan_{d}" for d in scenes.factors.direction]
    assert [abs(f["pan_px"]) for f in found] == pytest.approx([2.1] * 8, rel=0.04)
    assert np.median([f["object_px"] for f in found]) == 0


def test_a_body_before_a_panning_camera_is_told_from_it():
    clip = moving("coffee", size=MIDDLE, frames=4, pan=1.5, body=(3.0, -2.0), area=0.12)
    found = motion.summary(clip.frames)
    assert found["camera"] == "pan_right" and found["pan_px"] == pytest.approx(1.5, rel=0.05)
    # The body moves by (3, -2) in the frame, and the background by (-1.5, 0)
    assert (found["object_dx"], found["object_dy"]) == pytest.approx((4.5, -2), abs=0.2)
    assert found["object_direction"] == pytest.approx(np.degrees(np.arctan2(2, 4.5)), abs=3)
    assert found["object_area"] == pytest.approx(0.12, abs=0.04)


def test_frozen_is_not_abstained_and_abstained_is_not_frozen():
    still = motion.summary(np.repeat(moving("cat", size=SMALL, frames=1).frames, 5, axis=0))
    assert still["frozen"] and not still["abstained"] and still["camera"] == "static" and still["frozen_share"] == 1
    flat = motion.summary(np.full((5, 64, 64, 3), 0.4))
    assert flat["abstained"] and not flat["frozen"] and flat["camera"] == "abstained"
    assert np.isnan([flat[key] for key in flat if key.startswith("net_") or key in ("pan_px", "object_px")]).all()


@pytest.mark.parametrize("size", [(16, 256), (160, 24)])
def test_a_strip_is_measured(size):
    found = motion.summary(moving("cat", size=size, frames=3, pan=2).frames)
    assert found["pan_px"] == pytest.approx(2, rel=0.05) or found["abstained"]


def test_a_cut_is_not_judged():
    one, two = (moving(name, size=MIDDLE, frames=2).frames for name in ("cat", "coffee"))
    table = motion.measure(np.concatenate([one, two]))
    assert table.abstained.tolist() == [False, True, False]
    assert table.why.tolist() == ["", "frames do not match", ""]


def test_onset_and_decay():
    clip = moving("cat", size=MIDDLE, frames=5, pan=3).frames
    late = np.concatenate([np.repeat(clip[:1], 4, axis=0), clip[1:]])
    assert motion.summary(late)["onset"] == 3
    assert motion.summary(late[::-1])["decay"] < 0.2
    assert motion.summary(clip)["decay"] == pytest.approx(1, abs=0.05)


def test_camera_path_adds_up():
    path = motion.camera_path(motion.measure(moving("cat", size=MIDDLE, frames=5, pan=2, zoom=1).frames))
    assert len(path) == 5 and path.iloc[0].tolist() == [0, 0, 0, 1]
    assert path[["pan_px", "zoom"]].iloc[-1].tolist() == [pytest.approx(8, rel=0.05), pytest.approx(1.01**4, rel=0.01)]


def test_the_summary_is_the_mean_of_its_pairs():
    frames = moving("cat", size=SMALL, frames=5, pan=2, body=(1, 1)).frames
    table, found = motion.measure(frames), motion.summary(list(frames))
    for name in ("flow_px", "pan_px", "object_dx", "object_area", "residual_px"):
        assert found[name] == table[name].mean(), name
