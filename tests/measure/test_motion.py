"""The motion instrument against motion that is known: photographs moved by splines, the organism's world."""

import sys

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.measure import calibrate, motion
from svdlab.measure.calibrate import KnownClip, degrade, moving
from svdlab.organism import world

SMALL = (64, 64)
MIDDLE = (256, 256)


def shifted(speed_x, speed_y, size=SMALL, frames=4) -> KnownClip:
    """Content that moves by that much; the camera does the opposite across and the same word upwards."""
    return moving("cat", size=size, frames=frames, pan=-speed_x, tilt=speed_y)


def test_known_motion_is_what_it_says():
    # A whole-pixel shift is a copy: the ruler itself is checked by slicing.
    clip = shifted(3, 2)
    assert clip.frames[1, 2:, 3:] == pytest.approx(clip.frames[0, :-2, :-3], abs=1e-5)
    assert clip.flow[0, 5, 5].tolist() == [3, 2]


def test_known_zoom_and_roll_keep_the_centre_and_turn_as_said():
    clip = moving("cat", size=(65, 65), frames=2, zoom=10, roll=90)
    assert clip.flow[0, 32, 32] == pytest.approx([0, 0], abs=1e-6)
    # The camera turns clockwise, so what was right of the centre goes up, 1.1 times as far.
    assert clip.flow[0, 32, 42] == pytest.approx([-10, -11], abs=1e-5)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
@pytest.mark.parametrize("speed", [(0.1, -0.05), (1.5, 0.5), (-3.0, 4.0)])
def test_flow_follows_a_shift(size, speed):
    clip = shifted(*speed, size=size)
    both = motion.both_ways(clip.frames)
    error = np.linalg.norm(both.forward - clip.flow, axis=-1)[both.visible]
    assert error.mean() < 0.2
    assert np.median(both.forward[both.visible], axis=0) == pytest.approx(speed, abs=0.06)


def test_flow_of_the_design_is_both_ways_forward():
    frames = shifted(1, 0).frames
    assert np.array_equal(motion.flow(frames), motion.both_ways(frames).forward)
    assert motion.flow(frames).shape == (3, 64, 64, 2)


def test_slow_motion_is_measured_over_longer_baselines_and_fast_motion_is_not():
    slow, fast = (motion.both_ways(shifted(v, 0, frames=9).frames) for v in (0.05, 3.0))
    assert (slow.baseline == 8).all()
    assert (fast.baseline == 1).all()
    own = np.arange(8)
    assert ((slow.start <= own) & (own < slow.start + slow.baseline)).all()  # each pair lies in its window


def test_what_gets_hidden_is_not_visible():
    clip = moving("coffee", size=MIDDLE, frames=2, body=(12.0, 0.0), area=0.15)
    visible = motion.both_ways(clip.frames).visible[0]
    covered = clip.mask[1] & ~clip.mask[0]
    assert visible[covered].mean() < 0.3 < 0.9 < visible[~clip.mask[0] & ~clip.mask[1]].mean()


def test_another_backend_is_used_as_it_is():
    def constant(earlier, later):
        assert earlier.shape == later.shape == (64, 64, 3)
        return np.full((64, 64, 2), 3.0)

    assert (motion.flow(shifted(5, 5).frames, backend=constant, longest_baseline=1) == 3).all()
    with pytest.raises(InputError, match="backend returned"):
        motion.flow(shifted(5, 5).frames, backend=lambda a, b: np.zeros((2, 64, 64)))


@pytest.mark.parametrize("camera", calibrate.CLASSES)
@pytest.mark.parametrize("size", [SMALL, MIDDLE])
def test_camera_class(camera, size):
    how = calibrate.camera_for(camera, 1.5, size, np.random.default_rng(0))
    clip = moving("coffee", size=size, frames=4, **how)
    assert motion.summary(clip.frames)["camera"] == camera


def test_camera_numbers_have_their_signs_and_units():
    table = motion.measure(moving("astronaut", size=MIDDLE, frames=3, pan=2, tilt=1, zoom=1.5, roll=1).frames)
    assert table.pan_px.mean() == pytest.approx(2, rel=0.05)
    assert table.tilt_px.mean() == pytest.approx(1, rel=0.05)
    assert table.zoom_pct.mean() == pytest.approx(1.5, rel=0.05)
    assert table.roll_deg.mean() == pytest.approx(1, rel=0.05)


def test_playback_fps_alone_makes_seconds():
    frames = shifted(-2, 0, size=MIDDLE).frames
    plain, timed = motion.measure(frames), motion.measure(frames, playback_fps=7)
    assert not [c for c in plain if c.endswith(("_px_s", "_pct_s"))]
    assert timed.pan_px_s.to_numpy() == pytest.approx(7 * plain.pan_px.to_numpy())
    assert timed.pan_pct_s.to_numpy() == pytest.approx(7 * plain.pan_px.to_numpy() / 256 * 100)


@pytest.mark.parametrize("background", ["light", "dark"])
@pytest.mark.parametrize("displacement", [0.3, 1.0, 2.5, 4.0])
def test_object_speed_in_the_organisms_world(displacement, background):
    bucket = displacement / world.K * 4 if displacement < 2 else displacement / world.K * 6
    fps = 4 if displacement < 2 else 6
    scenes = world.scenes(
        3, seed=3, motion="object", hue=0.6, fps=fps, motion_bucket_id=bucket, direction="right", background=background,
        radius=11, shape=["disc", "square", "triangle"],
    )  # fmt: skip
    for video in scenes.video:
        found = motion.summary(video)
        assert found["camera"] == "static"
        assert found["object_dx"] == pytest.approx(displacement, rel=0.08)
        assert found["object_dy"] == pytest.approx(0, abs=0.1)
        assert found["object_direction"] == pytest.approx(0, abs=5)


def test_a_pan_of_the_organisms_world_has_no_object_in_it():
    scenes = world.scenes(8, seed=4, motion="pan", fps=6, motion_bucket_id=90)
    found = [motion.summary(v) for v in scenes.video]
    assert [f["camera"] for f in found] == [f"pan_{d}" for d in scenes.factors.direction]
    assert [abs(f["pan_px"]) for f in found] == pytest.approx([2.1] * 8, rel=0.04)
    assert np.median([f["object_px"] for f in found]) == 0


def test_frozen_is_not_abstained_and_abstained_is_not_frozen():
    still = motion.summary(np.repeat(moving("cat", size=SMALL, frames=1).frames, 5, axis=0))
    assert still["frozen"] and not still["abstained"] and still["camera"] == "static" and still["frozen_share"] == 1
    flat = motion.summary(np.full((5, 64, 64, 3), 0.4))
    assert flat["abstained"] and not flat["frozen"] and flat["camera"] == "abstained"
    assert np.isnan(flat["pan_px"]) and np.isnan(flat["object_px"])


def test_a_cut_is_not_judged():
    one, two = (moving(name, size=MIDDLE, frames=2).frames for name in ("cat", "coffee"))
    table = motion.measure(np.concatenate([one, two]))
    assert table.abstained.tolist() == [False, True, False]
    assert table.why[1] == "frames do not match"


def test_onset_and_decay():
    still = np.repeat(moving("cat", size=MIDDLE, frames=1, pan=3).frames, 4, axis=0)
    late = np.concatenate([still, moving("cat", size=MIDDLE, frames=5, pan=3).frames[1:]])
    assert motion.summary(late)["onset"] == 3
    assert motion.summary(late[::-1])["decay"] < 0.2
    assert motion.summary(moving("cat", size=MIDDLE, frames=5, pan=3).frames)["decay"] == pytest.approx(1, abs=0.05)


def test_points_are_carried_by_the_flow():
    clip = shifted(2, 1, size=MIDDLE, frames=5)
    path = motion.points(motion.flow(clip.frames), [(100, 100), (254, 100)])
    assert path.shape == (5, 2, 2)
    assert path[-1, 0] == pytest.approx([108, 104], abs=0.5)
    assert np.isnan(path[-1, 1]).all()  # it left the picture


def test_camera_path_adds_up():
    path = motion.camera_path(motion.measure(moving("cat", size=MIDDLE, frames=5, pan=2, zoom=1).frames))
    assert len(path) == 5
    assert path.zoom.iloc[-1] == pytest.approx(1.01**4, rel=0.01)
    assert path.pan_px.iloc[-1] == pytest.approx(8, rel=0.05)


def test_xt_slice_cuts_one_line_out_of_each_frame():
    clip = shifted(1, 0)
    assert np.array_equal(motion.xt_slice(clip.frames, row=3), clip.frames[:, 3])
    assert np.array_equal(motion.xt_slice(clip.frames, column=5), clip.frames[:, :, 5])
    for wrong in ({"row": 64}, {"row": 1, "column": 1}):
        with pytest.raises(InputError):
            motion.xt_slice(clip.frames, **wrong)


def test_integers_greyscale_and_lists_are_converted_as_documented():
    clip = shifted(2, 0)
    eight = np.rint(clip.frames * 255).astype(np.uint8)
    assert motion.summary(eight)["pan_px"] == pytest.approx(motion.summary(eight / 255)["pan_px"], abs=1e-6)
    assert motion.summary(clip.frames[..., 0]) == motion.summary(list(clip.frames))


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (np.zeros((1, 64, 64, 3)), "1 frame"),
        (np.zeros((64, 64, 3)), "shape"),
        (np.zeros((4, 64, 64, 4)), "alpha"),
        (np.zeros((4, 3, 64, 64)), "channels come last"),
        ([np.zeros((64, 64, 3)), np.zeros((64, 32, 3))], "different shapes"),
        ([], "0 frame"),
        (np.full((4, 64, 64, 3), np.nan), "NaN"),
        (np.full((4, 64, 64, 3), 255.0), "255"),
        (np.full((4, 64, 64, 3), -1.0), "-1"),
        (np.zeros((4, 64, 64, 3), np.int64), "int64"),
        (np.zeros((4, 8, 8, 3)), "smallest side"),
    ],
)
def test_bad_frames_are_refused_with_the_reason(frames, says):
    for measure in (motion.flow, motion.measure, motion.summary):
        with pytest.raises(InputError, match=says):
            measure(frames)


@pytest.mark.parametrize("fps", [0, -7, np.nan, np.inf])
def test_bad_playback_fps_is_refused(fps):
    with pytest.raises(InputError, match="playback_fps"):
        motion.summary(shifted(1, 0).frames, playback_fps=fps)


def test_degrading_changes_what_it_says():
    frames = shifted(1, 0).frames
    assert np.std(degrade(frames, noise=0.05) - frames) == pytest.approx(0.05, rel=0.1)
    gains = degrade(frames, flicker=0.05).mean((1, 2, 3)) / frames.mean((1, 2, 3))
    assert 0.005 < np.std(gains) < 0.15
    poor, good = (np.abs(degrade(frames, crf=crf) - frames).mean() for crf in (40, 18))
    assert 0 < good < poor


def test_calibration_meets_its_bars(tmp_path):
    table = calibrate.run(quick=True, out=tmp_path / "new" / "table.csv")
    missed = table[table.passed == False]  # noqa: E712  (None is "no bar")
    assert missed.empty, missed.to_string()
    assert table.passed.notna().sum() > 20
    assert (tmp_path / "new" / "table.csv").exists()


def test_the_instrument_loads_no_model(tmp_path):
    import subprocess

    code = (
        "import sys, svdlab; svdlab.motion, svdlab.fidelity, svdlab.published, svdlab.stats; "
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_film_labels_are_whole():
    labels = pd.read_csv(calibrate.LABELS)
    assert (labels.film == "bigbuckbunny").sum() >= 20
    assert set(labels.camera) <= set(calibrate.CLASSES)
    assert set(labels.confidence) == {"clear", "doubtful"}
    assert (labels.start < labels.end).all()


@pytest.mark.validate
def test_film_agrees_where_the_eye_was_sure():
    rows = {row["what"]: row["measured"] for row in calibrate.film()}
    assert rows["bigbuckbunny: agrees with labels by eye, clear ones"] >= 90
