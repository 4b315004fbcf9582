"""Clips of known motion are classified right; quality lost away from the centre is found; absence is reported as absence."""

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab import probes
from svdlab.measure import fidelity, motion, suite
from svdlab.organism import world
from svdlab.probes import Stimuli, conditioning, stimuli
from svdlab.probes.conditioning import classify, measures
from svdlab.stats.effects import EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW, Effect, corrected
from tests.probes.conftest import FAST, by_key, findings_of, table_of

CLIPS = 24


@pytest.fixture(scope="module")
def moving() -> world.Scenes:
    """Clips of the world in each of which something moves."""
    motions = ["object" if i % 3 else "pan" for i in range(CLIPS)]
    return world.scenes(CLIPS, seed=77, motion=motions, fps=7, motion_bucket_id=125, hue=0.6)


@pytest.fixture(scope="module")
def measured(moving: world.Scenes) -> list[dict[str, Any]]:
    return [measures(v) for v in moving.video]


def judged(rows: list[dict[str, Any]]) -> dict[str, Effect]:
    """Findings on these clips, one an image, all at one bucket."""
    return findings_of("stillness", classify(table_of(rows).assign(motion_bucket_id=125, dark=False)))


def classified(*clips: np.ndarray) -> pd.DataFrame:
    return classify(pd.DataFrame([measures(clip) for clip in clips]))


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
        rows[i] = measures(np.clip(rest + rng.normal(0, 0.004, rest.shape), 0, 1).astype(np.float32))
    found = judged(rows)["still"]
    assert found.value == pytest.approx(frozen / CLIPS)
    assert found.low < frozen / CLIPS < found.high
    assert found.verdict == (EFFECT if found.low > conditioning.STILL_MARGIN else INCONCLUSIVE)


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


def test_zooms_and_there_and_back_are_motion_and_a_flat_image_is_neither(moving: world.Scenes) -> None:
    zoom = world.scenes(1, seed=3, motion="zoom", fps=7, motion_bucket_id=125).video[0]
    pan = next(v for v, m in zip(moving.video, moving.factors["motion"], strict=True) if m == "pan")
    found = classified(zoom, np.concatenate([pan[:5], pan[3::-1]]), np.full((8, 64, 64, 3), 0.5, np.float32))
    assert found["still"].tolist()[:2] == [False, False]
    assert not found["judged"].iloc[2] and found["still"].isna().iloc[2]  # of a flat image nothing is known


@pytest.mark.parametrize(("side", "still"), [(2, False), (4, False)])
def test_a_small_subject_that_travels_is_motion(side: int, still: bool) -> None:
    """A square of 2 or 4 px that crosses a resting image of 64 px."""
    clip = stimuli.still(world.scenes(1, seed=4, motion="frozen", background="light").video[0, 0], 8)
    for t in range(8):
        clip[t, 4 : 4 + side, 8 + 3 * t : 8 + 3 * t + side] = (0.1, 0.1, 0.6)
    assert classified(clip)["still"].tolist() == [still]


@pytest.mark.parametrize("kind", ["spin", "approach", "deform", "waves", "cut"])
def test_what_moves_in_place_is_not_still(kind: str) -> None:
    """Cases F1 to F4: known clips of the adversarial suite."""
    found = classified(suite.clip(kind, (64, 64), 0, half="tuning").frames).iloc[0]
    assert found["judged"] and found["still"] is False and found["slow_pan"] is False
    assert found["cuts"] == (kind == "cut") and (found["activity"] >= conditioning.STILL_ACTIVITY) == (kind != "cut")
    assert found["camera_travel"] < conditioning.STILL_TRAVEL


@pytest.mark.parametrize("kind", ["flicker", "boiling", "grain"])
def test_light_and_grain_are_still(kind: str) -> None:
    assert classified(suite.clip(kind, (64, 64), 0, half="tuning").frames)["still"].tolist() == [True]


def test_stirring_is_graded_at_the_threshold() -> None:
    image = Stimuli.of("photographs", 2).prepared(64, 64).array("cat")
    found = classified(*(conditioning.stirred(image, part=part) for part in (0.5, 2.0)))
    assert found["still"].tolist() == [True, False]


def test_the_autoencoders_own_unrest_is_no_path() -> None:
    """A camera that trembles by 0.5 px a frame for 25 frames is motion, unless a still image through the codec does so too."""
    rest = dict(net_px=0.1, camera_px=0.5, travel=0.0, activity=0.0, cuts=0, fades=0, abstained=False, num_frames=25, width=64)
    table = pd.DataFrame([rest, rest | {"net_px": 6.4}])
    assert classify(table)["still"].tolist() == [False, False]
    assert classify(table.assign(floor=0.45))["still"].tolist() == [True, False]  # net motion counts in full


def test_each_kind_of_motion_is_reported_by_bucket() -> None:
    """Camera, subject, activity and cuts apart, whatever the others do."""
    rest = dict(net_px=0.0, camera_px=0.0, pan_px=0.0, travel=0.0, activity=0.0, cuts=0, fades=0)
    kinds = {40: {}, 100: {"net_px": 6.4}, 127: {"travel": 6.4}, 160: {"activity": 0.2}, 200: {"cuts": 1}}
    rows = [
        {"stimulus": i, "seed": i, "motion_bucket_id": b, **rest, **kind, "abstained": False, "num_frames": 8, "width": 64}
        for i, (b, kind) in product(range(8), kinds.items())
    ]
    found = findings_of("stillness", classify(pd.DataFrame(rows)).assign(dark=False))
    of = lambda column: [found[f"{column}_{bucket}"].value for bucket in kinds]
    assert of("camera_travel") == pytest.approx([0, 10, 0, 0, 0]) and of("object_travel") == pytest.approx([0, 0, 10, 0, 0])
    assert of("activity") == pytest.approx([0, 0, 0, 0.2, 0]) and of("cuts") == [0, 0, 0, 0, 1]
    assert found["still"].value == pytest.approx(0.2)


@pytest.mark.parametrize("n", [24, 37])
def test_none_of_so_many_still_can_be_said_or_the_number_is_named(pipe: Any, tmp_path: Path, n: int) -> None:
    """Case F17: 0 of 72 clips still, 3 buckets of 24 images, was inconclusive without a word."""
    images = Stimuli.of("world", n)
    images = images.where(images.table["background"] == "light") if n == 24 else images
    study = probes.prepare("stillness", pipe, tmp_path, images=images, conditions=FAST, progress=False)
    need = study.probe.needed(study)
    assert min(need.values()) == 37
    cost = probes.estimate(pipe, tmp_path, names=["stillness"], images=images, conditions=FAST, quick=True).iloc[0]
    assert ("is still" in cost["why"] or "are still" in cost["why"]) and f"takes {max(need.values())}" in cost["why"]
    seen = [dict(still=False, slow_pan=False, judged=True, dark=i % 2 == 0, camera_travel=5.0 + i % 3, object_travel=i % 2)
            for i in range(n)]  # fmt: skip
    rows = [dict(stimulus=i, seed=i, motion_bucket_id=b, activity=0.1, cuts=0, **r)
            for (i, r), b in product(enumerate(seen), (40, 127, 200))]  # fmt: skip
    found = by_key(corrected(findings_of("stillness", pd.DataFrame(rows)).values()))
    assert found["still"].verdict == (EQUIVALENT if n >= 37 else INCONCLUSIVE)


@pytest.mark.validate
def test_stillness_finds_the_planted_frozen_rate_on_dark_background(pipe: Any, tmp_path: Path) -> None:
    """48 scenes on dark background, 48 on light, two seeds, without guidance."""
    plain = svdlab.Conditions(max_guidance_scale=1.0)
    images = Stimuli.of("world", 96)
    result = probes.run("stillness", pipe, tmp_path, images=images, conditions=plain, progress=False, motion_bucket_id=(125,))
    found = by_key(result.effects)
    assert all(check.passed for check in result.audit)
    assert found["still_dark"].low <= world.FROZEN_ON_DARK <= found["still_dark"].high
    assert found["still_dark"].verdict == EFFECT and found["still_other"].verdict == EQUIVALENT


# --- away from the centre ---------------------------------------------------------------------------------------------


@cache
def plane(spoil: float) -> dict[str, Effect]:
    """Findings on pans of photographs at four conditions, off the centre blurred by sigma `spoil` px."""
    ready = Stimuli.of("photographs", 6).prepared(64, 64)
    rows = []
    for name, fps, bucket in product(ready.names, (7, 14), (127, 200)):
        clip, centre = stimuli.panned(ready.array(name), 5, px=bucket / fps / 18), (fps, bucket) == (7, 127)
        clip = clip if centre else stimuli.blurred(clip, spoil)
        numbers = {**motion.summary(clip), **fidelity.summary(clip, ready.array(name))}
        rows.append({"stimulus": name, "seed": 0, "fps": fps, "motion_bucket_id": bucket, "centre": centre, **numbers})
    return findings_of("off_conditions", pd.DataFrame(rows))


def test_quality_lost_off_the_centre_is_found_and_its_absence_too() -> None:
    cells = [f"fps {fps}, motion_bucket_id {bucket}" for fps, bucket in ((7, 200), (14, 127), (14, 200))]
    spoilt, sound = ({k: e.verdict for k, e in plane(spoil).items()} for spoil in (0.8, 0.0))
    for cell in cells:
        assert (spoilt[f"blur_last, {cell}"], sound[f"blur_last, {cell}"]) == (EFFECT, EQUIVALENT)
        assert sound[f"drift_colour_last, {cell}"] == EQUIVALENT


def test_effects_of_opposite_sign_at_two_buckets_are_two_effects() -> None:
    """Their average is nearly 0. Case F12."""
    rng, rows = np.random.default_rng(0), []
    for image, bucket in product(range(12), (40, 127, 200)):
        shift = {40: -0.088, 127: 0.0, 200: 0.073}[bucket]
        quality = dict(drift_colour_last=rng.normal(0, 0.002), warp_error=rng.normal(0, 0.001), flow_px=1.0)
        cell = dict(stimulus=image, seed=image, fps=7, motion_bucket_id=bucket, centre=bucket == 127)
        rows.append({**cell, "blur_last": 0.3 + shift + rng.normal(0, 0.01), **quality})
    found = findings_of("off_conditions", pd.DataFrame(rows))
    low, high = (found[f"blur_last, fps 7, motion_bucket_id {b}"] for b in (40, 200))
    assert (low.verdict, high.verdict) == (EFFECT, EFFECT) and low.value < -0.07 and high.value > 0.06
    sentence = probes.find("off_conditions").verdict(found)
    assert "of 2 cells 2 differ" in sentence and "0 differ from the centre, 2 are equivalent" in sentence


def drawn(effect: float, slope: float, versions: bool = False) -> pd.DataFrame:
    """Blur that grows by `slope` with speed, which differs by cell, image and seed; at bucket 200 also by `effect`."""
    rng, rows = np.random.default_rng(3), []
    for image, bucket, weights in product(range(16), (40, 127, 200), ("own", "other") if versions else ("own",)):
        speed = {40: 1.0, 127: 2.0, 200: 3.0}[bucket] + rng.normal(0, 1.0)
        blur = 0.3 + slope * speed + effect * (bucket == 200) * (weights == "own") + rng.normal(0, 0.01)
        cell = dict(stimulus=image, seed=image, fps=7, motion_bucket_id=bucket, centre=bucket == 127, weights=weights)
        rows.append({**cell, "blur_last": blur, "flow_px": speed, "drift_colour_last": 0.0, "warp_error": 0.0})
    return pd.DataFrame(rows)


def test_what_only_follows_from_speed_is_none_at_equal_motion() -> None:
    place = "blur_last, fps 7, motion_bucket_id 200"
    by_speed, own = (findings_of("off_conditions", drawn(e, 0.06)) for e in (0.0, 0.08))
    assert by_speed[place].verdict == EFFECT and by_speed[place].value == pytest.approx(0.06, abs=0.04)
    assert by_speed[f"equal_motion_{place}"].verdict == EQUIVALENT
    assert own[f"equal_motion_{place}"].verdict == EFFECT and own[f"equal_motion_{place}"].value == pytest.approx(
        0.08, abs=0.015
    )


def test_a_cell_in_which_most_clips_failed_counts_its_own_images_alone() -> None:
    clips, place = drawn(0.08, 0.06), "blur_last, fps 7, motion_bucket_id 200"
    images = clips["stimulus"].unique()
    lost = (clips["motion_bucket_id"] == 200) & (clips["fps"] == 7) & clips["stimulus"].isin(images[2:])
    few, whole = findings_of("off_conditions", clips[~lost]), findings_of("off_conditions", clips)
    for key in (place, f"equal_motion_{place}"):
        assert (few[key].n, few[key].verdict, whole[key].n) == (2, TOO_FEW, len(images))
    two = clips.assign(weights="own"), clips[clips["centre"]].assign(weights="other")  # all others of these weights failed
    assert not any(key.startswith("versions") for key in findings_of("off_conditions", pd.concat(two)))


def test_two_checkpoints_are_compared_cell_by_cell() -> None:
    found = findings_of("off_conditions", drawn(0.08, 0.0, versions=True))
    low, high = (found[f"versions_blur_last, fps 7, motion_bucket_id {b}"] for b in (40, 200))
    assert low.verdict == EQUIVALENT and high.verdict == EFFECT and high.value == pytest.approx(0.08, abs=0.015)
    assert "of 2 cells 1 differ from the other weights, 1 are equivalent" in probes.find("off_conditions").verdict(found)


def test_another_checkpoint_is_swept_at_the_same_conditions(pipe: Any, tmp_path: Path) -> None:
    given = dict(images=["scene-1", "scene-2"], seeds=1, quick=True, conditions=FAST, fps=(7,), motion_bucket_id=(200,))
    result = probes.run("off_conditions", pipe, tmp_path, other="organism-fixed", progress=False, **given)
    cells = result.table.groupby(["weights", "motion_bucket_id"])["run_id"].nunique()
    assert cells.to_dict() == {(w, b): 2 for w in ("own", "other") for b in (127, 200)}
    assert result.table["run_id"].nunique() == 8 and any(e.key.startswith("versions_") for e in result.effects)


def test_speed_follows_the_conditions_that_it_was_given() -> None:
    found = plane(0.0)
    assert found["speed_motion_bucket_id"].value == pytest.approx((200 - 127) / 18 * np.mean([1 / 7, 1 / 14]), rel=0.15)
    assert found["speed_fps"].value < 0
    assert found["speed_fps"].verdict == found["speed_motion_bucket_id"].verdict == EFFECT


def test_the_plane_always_has_its_centre(pipe: Any, tmp_path: Path) -> None:
    given = dict(seeds=1, quick=True, conditions=FAST, progress=False, fps=(12,), motion_bucket_id=(40,))
    plan = probes.prepare("off_conditions", pipe, tmp_path, **given).plan
    assert sorted(plan.groupby(["fps", "motion_bucket_id"]).groups) == [(7, 40), (7, 127), (12, 40), (12, 127)]
