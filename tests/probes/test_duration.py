"""Chains of known decay break where they must, and sound ones do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import probes
from svdlab.measure import fidelity
from svdlab.measure.video import read_frames
from svdlab.pipeline.images import image_hash, open_image
from svdlab.probes import Stimuli, duration, stimuli
from svdlab.stats.effects import EFFECT, EQUIVALENT
from tests.probes.conftest import FAST, findings_of

PLAYED = {"fps": 6, "playback_fps": None}


@pytest.fixture(scope="module")
def sources() -> dict[str, np.ndarray]:
    ready = Stimuli.of("photographs", 6).prepared(64, 64)
    return {name: 0.3 + 0.4 * ready.array(name) for name in ready.names}  # so that no decay clips


def chains_of(sources: dict[str, np.ndarray], rounds: int = 3, frames: int = 6, **fade: float) -> pd.DataFrame:
    """Clips in which each image stands still but for a decay of known size per frame."""
    rows = []
    for name, image in sources.items():
        for k in range(rounds):
            curve = duration.curves_of(stimuli.fading(stimuli.still(image, frames), start=k * frames, **fade))
            lists = {key: values.tolist() for key, values in curve.items()}
            rows.append({"stimulus": name, "seed": 0, "round": k, "flow_px": 0.0, "num_frames": frames, **PLAYED, **lists})
    return duration.against(pd.DataFrame(rows), sources)


def test_a_sound_chain_never_breaks_and_drift_and_blur_are_absent(sources: dict[str, np.ndarray]) -> None:
    found = findings_of("duration", chains_of(sources))
    assert found["length"].value == 1.0 and found["whole"].value == 1.0
    assert "2 continuations, 3 s" in found["whole"].what
    assert found["blur"].verdict == found["colour"].verdict == EQUIVALENT


def test_a_chain_whose_later_clips_failed_is_not_whole_by_its_first(sources: dict[str, np.ndarray]) -> None:
    clips = chains_of(sources)
    ended = clips[(clips["round"] == 0) | ~clips["stimulus"].isin(list(sources)[:2])]  # as `Result.clips` has them
    assert (findings_of("duration", ended)["whole"].n, findings_of("duration", ended)["whole"].value) == (4, 1.0)
    broken = chains_of(sources, shift=0.03)
    assert findings_of("duration", broken[broken["round"] < 1 + (broken["stimulus"] != "cat")])["whole"].n == 6


@pytest.mark.parametrize("shift", [0.01, 0.015])
def test_drift_is_recovered_at_its_size_and_breaks_where_it_must(sources: dict[str, np.ndarray], shift: float) -> None:
    """Red rises and blue falls by `shift` per frame: sqrt 2 times that in RGB distance."""
    clips = chains_of(sources, shift=shift)
    found = findings_of("duration", clips)
    assert found["colour_slope"].value == pytest.approx(6 * shift * np.sqrt(2), rel=0.02)
    assert found["colour"].value == pytest.approx(5 * shift * np.sqrt(2), rel=0.05)
    assert found["colour_slope"].verdict == found["colour"].verdict == EFFECT
    due = int(duration.COLOUR_SHIFT / (shift * np.sqrt(2))) + 1
    frames = duration.chains(clips)
    assert (frames[frames["broken"]].groupby("stimulus")["frame"].min() - due).abs().max() <= 1


def test_blur_is_recovered_and_breaks_a_chain(sources: dict[str, np.ndarray]) -> None:
    found = findings_of("duration", chains_of(sources, blur=0.15))
    # The instrument itself on the same blur: what the probe reports is what was put in.
    blur = lambda image, sigma: fidelity.per_frame(stimuli.blurred(image[None], sigma))["blur"].iloc[0]
    true = [blur(image, 0.75) - blur(image, 0.0) for image in sources.values()]
    assert found["blur"].value == pytest.approx(np.mean(true), rel=0.02) and found["blur"].verdict == EFFECT
    assert found["whole"].value < 0.5


def test_a_chain_goes_on_from_its_last_frame(pipe: Any, tmp_path: Path) -> None:
    given = dict(images=["scene-1", "scene-2"], seeds=1, conditions=FAST, progress=False, rounds=2)
    result = probes.run("duration", pipe, tmp_path, **given)
    table = result.table.sort_values(["stimulus", "round"])
    assert table["round"].tolist() == [0, 1, 2] * 2 and set(table["seed"]) == {0, 1_000_000}
    for _, chain in table.groupby("stimulus"):
        for before, after in zip(chain.iloc[:-1].to_dict("records"), chain.iloc[1:].to_dict("records"), strict=True):
            last = read_frames(before["frames"])[-1]
            assert after["image_hash"] == image_hash(open_image(last))
            assert after["own_seed"] != before["own_seed"]  # no round repeats another's noise
    assert result.status == "no verdict" and "8 frames at 7 frames/s: 1.14 s" in result.verdict  # two images
    assert [len(e.frames) for e in result.examples] == [4, 4]  # the input, and each round's last frame
    assert probes.run("duration", pipe, tmp_path, **given).table["run_id"].tolist() == result.table["run_id"].tolist()
