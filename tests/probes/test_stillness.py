"""Clips of known motion are classified right, frozen ones counted exactly, and their absence is reported as absence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab import probes
from svdlab.organism import world
from svdlab.probes import Stimuli, stillness, stimuli
from svdlab.stats.effects import EFFECT, EQUIVALENT, INCONCLUSIVE, Effect
from tests.probes.conftest import FAST, by_key, table_of

CLIPS = 24


@pytest.fixture(scope="module")
def moving() -> world.Scenes:
    """Clips of the world in each of which something moves."""
    motions = ["object" if i % 3 else "pan" for i in range(CLIPS)]
    return world.scenes(CLIPS, seed=77, motion=motions, fps=7, motion_bucket_id=125, hue=0.6)


@pytest.fixture(scope="module")
def measured(moving: world.Scenes) -> list[dict[str, Any]]:
    return [stillness.measures(v) for v in moving.video]


def judged(rows: list[dict[str, Any]]) -> dict[str, Effect]:
    """Findings on these clips, one an image, all at one bucket."""
    table = table_of(rows).assign(motion_bucket_id=125, dark=False)
    return by_key(stillness.findings(stillness.classify(table)))


def classified(*clips: np.ndarray) -> pd.DataFrame:
    return stillness.classify(pd.DataFrame([stillness.measures(clip) for clip in clips]))


def test_where_everything_moves_stillness_is_absent(measured: list[dict[str, Any]]) -> None:
    found = judged(measured)
    for key in ("still", "slow_pan"):
        assert found[key].value == 0 and found[key].verdict == EQUIVALENT


@pytest.mark.parametrize("frozen", [6, 12])
def test_frozen_clips_are_counted_exactly(moving: world.Scenes, measured: list[dict[str, Any]], frozen: int) -> None:
    """Frozen with the noise of a codec on top, which is not motion."""
    rng = np.random.default_rng(frozen)
    rows = list(measured)
    for i in range(frozen):
        rest = stimuli.still(moving.video[i, 0], 8)
        rows[i] = stillness.measures(np.clip(rest + rng.normal(0, 0.004, rest.shape), 0, 1).astype(np.float32))
    found = judged(rows)["still"]
    assert found.value == pytest.approx(frozen / CLIPS)
    assert found.low < frozen / CLIPS < found.high
    assert found.verdict == (EFFECT if found.low > stillness.MARGIN else INCONCLUSIVE)


def test_slow_pans_differ_from_fast_ones_and_from_none() -> None:
    image = Stimuli.of("photographs", 1).prepared(64, 64).array("astronaut")
    found = classified(*(stimuli.panned(image, 8, px=px) for px in (0.0, 0.1, 0.5, 0.8, 2.0)))
    assert found["still"].tolist() == [True, True, False, False, False]
    assert found["slow_pan"].tolist() == [False, False, True, True, False]
    assert found["camera_travel"].iloc[2:].to_numpy() == pytest.approx([100 * 7 * px / 64 for px in (0.5, 0.8, 2.0)], rel=0.1)


def test_travel_is_a_share_of_the_frame_whatever_its_size() -> None:
    image = {side: Stimuli.of("photographs", 2).prepared(side, side).array("cat") for side in (64, 128, 256)}
    travels = [classified(stimuli.panned(i, 6, px=side / 64))["camera_travel"].iloc[0] for side, i in image.items()]
    assert travels == pytest.approx([100 * 5 / 64] * 3, rel=0.08)


def test_zooms_and_there_and_back_are_motion(moving: world.Scenes) -> None:
    zoom = world.scenes(1, seed=3, motion="zoom", fps=7, motion_bucket_id=125).video[0]
    pan = next(v for v, m in zip(moving.video, moving.factors["motion"], strict=True) if m == "pan")
    assert classified(zoom, np.concatenate([pan[:5], pan[3::-1]]))["still"].tolist() == [False, False]


@pytest.mark.parametrize(("side", "still"), [(2, True), (4, False)])
def test_a_subject_counts_from_one_percent_of_the_frame_on(side: int, still: bool) -> None:
    """A square that crosses a resting image of 64 px: of 2 px it is measured as 0.1 % of the frame, of 4 px as 1.5 %."""
    clip = stimuli.still(world.scenes(1, seed=4, motion="frozen", background="light").video[0, 0], 8)
    for t in range(8):
        clip[t, 4 : 4 + side, 8 + 3 * t : 8 + 3 * t + side] = (0.1, 0.1, 0.6)
    assert classified(clip)["still"].tolist() == [still]


def test_clips_that_cannot_be_judged_are_neither() -> None:
    found = classified(np.full((4, 64, 64, 3), 0.5, np.float32))
    assert found["judged"].tolist() == [False] and found["still"].isna().all()


def test_images_on_which_motion_cannot_be_measured_are_left_out(pipe: Any, tmp_path: Path) -> None:
    """A flat image among three is named, and not made into clips; all flat: no verdict."""
    flat = np.full((64, 64, 3), 0.5)
    given = dict(seeds=1, quick=True, conditions=FAST, progress=False)
    study = probes.prepare("stillness", pipe, tmp_path, images=["scene-1", "scene-2", flat], **given)
    assert all(c.passed for c in study.probe.audit(study))
    assert set(study.plan["label_stimulus"]) == {"scene-1", "scene-2"} and "image-2" in study.notes[0]
    study = probes.prepare("stillness", pipe, tmp_path, images=[flat, flat], **given)
    assert not all(c.passed for c in study.probe.audit(study))


@pytest.mark.validate
def test_stillness_finds_the_planted_frozen_rate_on_dark_background(pipe: Any, tmp_path: Path) -> None:
    """Needs the finished organism: 48 scenes on dark background, 48 on light, two seeds, without guidance. None announces a
    zoom: the organism has not learned them; what announces one melts where it stands, dark or light, and counts as still."""
    plain = svdlab.Conditions(max_guidance_scale=1.0)
    images = Stimuli.of("world", 96)
    result = probes.run("stillness", pipe, tmp_path, images=images, conditions=plain, progress=False, motion_bucket_id=(125,))
    found = by_key(result.effects)
    assert all(check.passed for check in result.audit)
    assert found["still_dark"].low <= world.FROZEN_ON_DARK <= found["still_dark"].high
    assert found["still_dark"].verdict == EFFECT and found["still_other"].verdict == EQUIVALENT
