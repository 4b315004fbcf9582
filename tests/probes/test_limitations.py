"""The probes of stillness, duration, text control and off-conditions recover what was put in, and call its absence absence.

What was put in are degradations of known size, in clips of the world's own truth or of photographs; the last section looks
at the organism itself, whose weights hold planted laws.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab import probes
from svdlab.measure import fidelity, motion
from svdlab.organism import world
from svdlab.probes import Stimuli, controls, duration, off_conditions, running, stillness, text_control
from tests.small import save_checkpoint

FAST = svdlab.Conditions(num_inference_steps=2, max_guidance_scale=1.0)
CLIPS = 24


@pytest.fixture(scope="module")
def moving() -> world.Scenes:
    """Clips of the world in each of which something moves."""
    motions = ["object" if i % 3 else "pan" for i in range(CLIPS)]
    return world.scenes(CLIPS, seed=77, motion=motions, fps=7, motion_bucket_id=125, hue=0.6)


@pytest.fixture(scope="module")
def measured(moving: world.Scenes) -> list[dict[str, Any]]:
    return [stillness.measures(v) for v in moving.video]


def judged(rows: list[dict[str, Any]]) -> dict[str, probes.Finding]:
    """Findings of the stillness probe on these clips, one an image, all at one bucket."""
    known = [{"stimulus": f"clip-{i}", "seed": 0, "motion_bucket_id": 125, "dark": False, **row} for i, row in enumerate(rows)]
    return {f.what: f for f in stillness.judge(stillness.classify(pd.DataFrame(known)))}


# --- stillness --------------------------------------------------------------------------------------------------------


def test_where_everything_moves_stillness_is_absent(measured: list[dict[str, Any]]) -> None:
    found = judged(measured)
    for what in ("clips in which nothing moves", "clips with nothing but a slow pan"):
        assert found[what].value == 0 and found[what].kind == "none within margin"


@pytest.mark.parametrize("frozen", [6, 12])
def test_frozen_clips_are_counted_exactly(moving: world.Scenes, measured: list[dict[str, Any]], frozen: int) -> None:
    """Frozen with the noise of a codec on top, which is not motion."""
    rng = np.random.default_rng(frozen)
    rows = list(measured)
    for i in range(frozen):
        rest = controls.still(moving.video[i, 0], 8)
        rows[i] = stillness.measures(np.clip(rest + rng.normal(0, 0.004, rest.shape), 0, 1).astype(np.float32))
    found = judged(rows)["clips in which nothing moves"]
    assert found.value == pytest.approx(frozen / CLIPS)
    assert found.low < frozen / CLIPS < found.high
    assert found.kind == ("found" if found.low > stillness.MARGIN else "cannot tell")


def test_slow_pans_are_told_from_fast_ones_and_from_none() -> None:
    picture = Stimuli.of("photographs", 1).prepared(64, 64).array("astronaut")
    table = pd.DataFrame([stillness.measures(controls.panned(picture, 8, px=px)) for px in (0.0, 0.1, 0.5, 0.8, 2.0)])
    found = stillness.classify(table)
    assert found["still"].tolist() == [True, True, False, False, False]
    assert found["slow_pan"].tolist() == [False, False, True, True, False]
    assert found["camera_travel"].iloc[2:].to_numpy() == pytest.approx([100 * 7 * px / 64 for px in (0.5, 0.8, 2.0)], rel=0.1)


def test_travel_is_a_share_of_the_frame_whatever_its_size() -> None:
    travels = []
    for side in (64, 128, 256):
        picture = Stimuli.of("photographs", 2).prepared(side, side).array("cat")
        row = stillness.measures(controls.panned(picture, 6, px=side / 64))
        travels.append(stillness.classify(pd.DataFrame([row]))["camera_travel"].iloc[0])
    assert travels == pytest.approx([100 * 5 / 64] * 3, rel=0.08)


def test_zooms_and_there_and_back_are_motion(moving: world.Scenes) -> None:
    zoom = world.scenes(1, seed=3, motion="zoom", fps=7, motion_bucket_id=125).video[0]
    pan = next(v for v, m in zip(moving.video, moving.factors["motion"], strict=True) if m == "pan")
    back = np.concatenate([pan[:5], pan[3::-1]])
    found = stillness.classify(pd.DataFrame([stillness.measures(v) for v in (zoom, back)]))
    assert found["still"].tolist() == [False, False]


@pytest.mark.parametrize(("side", "still"), [(2, True), (4, False)])
def test_a_subject_counts_from_one_percent_of_the_frame_on(side: int, still: bool) -> None:
    """A square that crosses a resting picture of 64 px: motion sees one of 2 px as 0.1 % of the frame, of 4 px as 1.5 %."""
    ground = world.scenes(1, seed=4, motion="frozen", background="light").video[0, 0]
    clip = controls.still(ground, 8)
    for t in range(8):
        clip[t, 4 : 4 + side, 8 + 3 * t : 8 + 3 * t + side] = (0.1, 0.1, 0.6)
    found = stillness.classify(pd.DataFrame([stillness.measures(clip)]))
    assert found["still"].tolist() == [still]


def test_clips_that_cannot_be_judged_are_neither() -> None:
    flat = np.full((4, 64, 64, 3), 0.5, np.float32)
    found = stillness.classify(pd.DataFrame([stillness.measures(flat)]))
    assert found["judged"].tolist() == [False] and found["still"].isna().all()


def test_pictures_on_which_motion_cannot_be_told_are_left_out(pipe: Any, tmp_path: Any) -> None:
    """A flat picture among six: named, and its clips do not count; all flat: no verdict."""
    flat = np.full((64, 64, 3), 0.5)
    study = running._study("stillness", pipe, tmp_path, ["scene-1", "scene-2", flat], 1, True, FAST, False, {})
    checks = stillness.audit(study)
    assert all(c.passed for c in checks)
    assert study.known["readable"] == {"scene-1", "scene-2"} and "picture-2" in study.notes[0]
    study = running._study("stillness", pipe, tmp_path, [flat, flat], 1, True, FAST, False, {})
    assert not all(c.passed for c in stillness.audit(study))


# --- duration ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources() -> dict[str, np.ndarray]:
    ready = Stimuli.of("photographs", 6).prepared(64, 64)
    return {name: 0.3 + 0.4 * ready.array(name) for name in ready.names}  # so that no decay clips


def chains_of(
    sources: dict[str, np.ndarray], rounds: int = 3, frames: int = 6, **fade: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table and the chains' frames, where each picture stands still but for a decay of known size a frame."""
    rows = []
    for name, picture in sources.items():
        for k in range(rounds):
            film = controls.fading(controls.still(picture, frames), start=k * frames, **fade)
            curves = json.dumps(duration.curves(film).to_dict("list"))
            speed = {"flow_px": 0.0, "num_frames": frames}
            rows.append({"stimulus": name, "seed": 0, "round": k, "by_frame_curves": curves, **speed})
    table = pd.DataFrame(rows)
    return table, duration.chains(table, sources)


def test_a_sound_chain_never_breaks_and_drift_and_blur_are_absent(sources: dict[str, np.ndarray]) -> None:
    table, frames = chains_of(sources)
    found = {f.what: f for f in duration.judge(table, frames, fps=6)}
    assert found["length of a clip of 6 frames at 6 a second"].value == 1.0
    assert found["chains still whole after 2 continuations, 3 s"].value == 1.0
    assert found["blur that the last frame of a clip has over its first"].kind == "none within margin"
    assert found["colour drift from the first frame of a clip to its last"].kind == "none within margin"


@pytest.mark.parametrize("shift", [0.01, 0.015])
def test_drift_is_recovered_at_its_size_and_breaks_where_it_must(sources: dict[str, np.ndarray], shift: float) -> None:
    """Red rises and blue falls by `shift` a frame: sqrt 2 times that in RGB distance."""
    table, frames = chains_of(sources, shift=shift)
    found = {f.what: f for f in duration.judge(table, frames, fps=6)}
    speed = found["colour drift along the chain"]
    assert speed.value == pytest.approx(6 * shift * np.sqrt(2), rel=0.02) and speed.kind == "found"
    clip = found["colour drift from the first frame of a clip to its last"]
    assert clip.value == pytest.approx(5 * shift * np.sqrt(2), rel=0.05) and clip.kind == "found"
    due = int(duration.COLOUR_SHIFT / (shift * np.sqrt(2))) + 1
    at = [duration.breaks_at(g) for _, _, g in duration.each(frames)]
    assert all(abs(a - due) <= 1 for a in at)


def test_blur_is_recovered_and_breaks_a_chain(sources: dict[str, np.ndarray]) -> None:
    table, frames = chains_of(sources, blur=0.15)
    found = {f.what: f for f in duration.judge(table, frames, fps=6)}
    assert found["blur that the last frame of a clip has over its first"].kind == "found"
    # The instrument itself on the same blur: what the probe reports is what was put in.
    true = [
        fidelity.per_frame(controls.blurred(p[None], 0.75))["blur"].iloc[0] - fidelity.per_frame(p[None])["blur"].iloc[0]
        for p in sources.values()
    ]
    assert found["blur that the last frame of a clip has over its first"].value == pytest.approx(np.mean(true), rel=0.02)
    assert found["chains still whole after 2 continuations, 3 s"].value < 0.5


def test_a_chain_goes_on_from_its_last_frame(pipe: Any, tmp_path: Any) -> None:
    result = probes.run(
        "duration", pipe, tmp_path, images=["scene-1", "scene-2"], seeds=1, conditions=FAST, progress=False, rounds=2
    )
    table = result.table.sort_values(["stimulus", "round"])
    assert table["round"].tolist() == [0, 1, 2] * 2 and set(table["seed"]) == {0}
    for _, chain in table.groupby("stimulus"):
        for before, after in zip(chain.iloc[:-1].to_dict("records"), chain.iloc[1:].to_dict("records"), strict=True):
            last = svdlab.ledger.read_frames(tmp_path, before["run_id"])[-1]
            given = svdlab.pipeline.images.image_hash(svdlab.pipeline.images.open_image(last))
            assert after["image_hash"] == given
            assert after["own_seed"] != before["own_seed"]  # no round repeats another's noise
    assert result.status == "no verdict" and "1.14 s at 7 a second" in result.verdict  # two images
    assert (
        probes.run(
            "duration", pipe, tmp_path, images=["scene-1", "scene-2"], seeds=1, conditions=FAST, progress=False, rounds=2
        )
        .table["run_id"]
        .tolist()
        == result.table["run_id"].tolist()
    )


# --- text control -----------------------------------------------------------------------------------------------------


def test_there_is_no_text_input_and_one_would_be_seen(pipe: Any) -> None:
    assert text_control.text_inputs(pipe) == []

    class WithWords(type(pipe)):  # type: ignore[misc]
        def __call__(self, image: Any, prompt: str = "", **kwargs: Any) -> Any:
            return super().__call__(image, **kwargs)

    assert text_control.text_inputs(WithWords(**pipe.components)) == ["prompt"]


def steered(share: float, noise: float = 0.05) -> list[probes.Finding]:
    """Findings where an exchange takes every clip that share of the way to the other picture's."""
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(8)]
    base = {n: rng.random((4, 16, 16, 3)) for n in names}
    other = text_control.partner(names)
    films = {("none", n): base[n] for n in names}
    films |= {("another seed", n): base[n] + rng.normal(0, noise, base[n].shape) for n in names}
    films |= {("swap", n): base[n] + share * (base[other[n]] - base[n]) for n in names}
    rows = [{"stimulus": n, "seed": 0, "kind": kind, "flow_px": 1.0} for kind, n in films]
    table = text_control.compare(pd.DataFrame(rows), lambda r: films[r["kind"], r["stimulus"]], other)
    return text_control.judge(table)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_steering_is_recovered_at_its_size(share: float) -> None:
    change, towards, speed = steered(share)
    assert towards.value == pytest.approx(share) and towards.kind == "found"
    assert change.kind == "found" and speed.value == 0


def test_where_nothing_steers_that_is_said() -> None:
    change, towards, _ = steered(0.0)
    assert change.value < 1e-5 and change.kind == "none within margin"
    assert towards.value == 0 and towards.kind == "none within margin"


def test_edits_have_runs_of_their_own_and_latents_are_kept(pipe: Any, tmp_path: Any) -> None:
    result = probes.run(
        "text_control",
        pipe,
        tmp_path,
        images=["scene-1", "scene-4"],
        seeds=1,
        conditions=FAST,
        progress=False,
        scales=("zero",),
    )
    table = result.table
    assert sorted(table["kind"].unique()) == ["another seed", "none", "swap", "zero"]
    assert table["run_id"].is_unique and result.audit["passed"].all()
    assert (table.loc[table["kind"].isin(["swap", "zero"]), "change"] > 0).all()
    assert result.findings["what"].iloc[0] == "inputs that take text" and result.findings["value"].iloc[0] == 0
    again = probes.estimate(
        pipe, tmp_path, names=["text_control"], images=["scene-1", "scene-4"], seeds=1, conditions=FAST, timed=False
    )
    assert again["missing"].iloc[0] == 4  # the two scales that were left out, for two pictures


# --- off-conditions ---------------------------------------------------------------------------------------------------


@cache
def plane(spoil: float) -> pd.DataFrame:
    """Pans of photographs at four conditions, off the centre blurred by sigma `spoil` px."""
    ready = Stimuli.of("photographs", 6).prepared(64, 64)
    rows = []
    for name in ready.names:
        for fps in (7, 14):
            for bucket in (127, 200):
                clip = controls.panned(ready.array(name), 5, px=bucket / fps / 18)
                if (fps, bucket) != (7, 127):
                    clip = controls.blurred(clip, spoil)
                numbers = {**motion.summary(clip), **fidelity.summary(clip, ready.array(name))}
                rows.append({"stimulus": name, "seed": 0, "fps": fps, "motion_bucket_id": bucket, **numbers})
    table = pd.DataFrame(rows)
    return table.assign(centre=off_conditions.at_centre(table, 7, 127))


def test_quality_lost_off_the_centre_is_found_and_its_absence_too() -> None:
    spoilt = {f.what: f for f in off_conditions.judge(plane(0.8))}
    sound = {f.what: f for f in off_conditions.judge(plane(0.0))}
    blur = "blur of the last frame, all other cells less the centre"
    assert spoilt[blur].kind == "found" and sound[blur].kind == "none within margin"
    assert sound["colour drift of the last frame, all other cells less the centre"].kind == "none within margin"


def test_speed_follows_the_conditions_that_it_was_given() -> None:
    found = {f.what: f for f in off_conditions.judge(plane(0.0))}
    faster, slower = found["speed, motion_bucket_id 200 less 127"], found["speed, fps 14 less 7"]
    assert faster.value == pytest.approx(np.mean([200 - 127, 200 - 127]) / 18 * (1 / 7 + 1 / 14) / 2, rel=0.15)
    assert slower.value < 0 and {faster.kind, slower.kind} == {"found"}


def test_the_worst_of_several_cells_carries_no_claim() -> None:
    found = [f for f in off_conditions.judge(plane(0.8)) if "picked for it" in f.what]
    assert len(found) == 3 and {f.kind for f in found} == {"measured"}


def test_the_plane_always_has_its_centre(pipe: Any, tmp_path: Any) -> None:
    options = {"fps": (12,), "motion_bucket_id": (40,)}
    study = running._study("off_conditions", pipe, tmp_path, None, 1, True, FAST, False, options)
    assert sorted(study.plan.groupby(["fps", "motion_bucket_id"]).groups) == [(7, 40), (7, 127), (12, 40), (12, 127)]


# --- on checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stillness", "off_conditions"])
def test_where_the_autoencoder_spoils_everything_there_is_no_verdict(name: str, tmp_path: Any) -> None:
    """Random weights at 32x32: what comes out of that autoencoder is no picture any more."""
    small = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"))
    study = running._study(name, small, tmp_path, ["scene-1", "scene-2"], 1, True, FAST, False, {})
    assert not all(c.passed for c in study.probe.audit(study))


@pytest.mark.validate
def test_stillness_finds_the_planted_frozen_rate_on_dark_ground(pipe: Any, tmp_path: Any) -> None:
    """Needs the finished organism: 48 scenes on dark ground, 48 on light, two seeds, without guidance. None announces a
    zoom: the organism has not learned them; what announces one melts where it stands, dark or light, and counts as still."""
    images = Stimuli.of("world", 96)
    plain = svdlab.Conditions(max_guidance_scale=1.0)
    options = {"motion_bucket_id": (125,)}
    result = probes.run("stillness", pipe, tmp_path, images=images, conditions=plain, progress=False, **options)
    found = result.findings.set_index("what")
    dark, other = (next(found.loc[w] for w in found.index if w.startswith(f"nothing moves, {k}")) for k in ("dark", "other"))
    assert result.audit["passed"].all()
    assert dark["low"] <= world.FROZEN_ON_DARK <= dark["high"] and dark["kind"] == "found"
    assert other["kind"] == "none within margin"
