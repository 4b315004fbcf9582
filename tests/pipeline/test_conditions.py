"""Conditions are checked before any model runs; curves and presets are Stability's numbers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdlab.errors import InputError
from svdlab.pipeline.conditions import PRESETS, REPOSITORIES, Conditions, conditions_of


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(fps=0), "at least 1"),
        (dict(fps=True), "number"),
        (dict(motion_bucket_id=-1), "at least 0"),
        (dict(min_guidance_scale=2.0, max_guidance_scale=1.0), "min <= max"),  # upstream crashes in mid-run
        (dict(guidance_curve="cubic"), "triangle"),
        (dict(guidance_curve=(1.0, math.nan)), "finite number"),
        (dict(guidance_curve=(1.0, 2.0, 3.0), num_frames=8), "3 numbers for 8 frames"),
        (dict(guidance_interval=(5.0, 1.0)), "low < high"),
        (dict(num_frames=1), "from 2"),  # upstream crashes
        (dict(num_frames=8.0), "whole number"),
        (dict(num_frames=10**30), "to 4096"),
        (dict(fps=10**30), "at most 1000"),
        (dict(guidance_interval=5.0), "give a list"),
        (dict(guidance_curve=[]), "at least 2"),
        (dict(playback_fps=0), "at least"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Conditions(**values)
    assert str(next(iter(values))) in str(caught.value)  # names the argument


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"'motion_bucket'.*motion_bucket_id"):
        Conditions().replace(motion_bucket=3)


def test_what_is_unusual_is_found() -> None:
    for unusual in (dict(motion_bucket_id=256), dict(fps=5), dict(fps=32), dict(height=320, width=512)):
        assert len(Conditions(**unusual).unusual((576, 1024))) == 1
    for usual in ({}, dict(fps=6), dict(fps=31), dict(motion_bucket_id=255), dict(height=576, width=1024)):
        assert Conditions(**usual).unusual((576, 1024)) == []


def test_a_checkpoint_has_its_preset_by_name_hub_id_and_folder(tmp_path: Path) -> None:
    for name, repository in REPOSITORIES.items():
        cached = f"/hub/models--{repository.replace('/', '--')}/snapshots/0123"
        for checkpoint in (name, repository, repository.title(), Path(cached), f"models/{repository.split('/')[1]}"):
            assert conditions_of(checkpoint) == PRESETS[name], checkpoint
    assert conditions_of("organism") == conditions_of(tmp_path) == PRESETS["DIFFUSERS"] == Conditions()
    (tmp_path / "unet").mkdir()
    config = {"num_frames": 14, "block_out_channels": [320, 640, 1280, 1280]}  # a fine-tuned one, whatever its name
    (tmp_path / "unet/config.json").write_text(json.dumps(config))
    assert conditions_of(tmp_path) == PRESETS["SVD"]
    (tmp_path / "unet/config.json").write_text(json.dumps({**config, "block_out_channels": [8]}))
    assert conditions_of(tmp_path) == PRESETS["DIFFUSERS"]


def test_curves() -> None:
    assert Conditions().guidance(5).tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert Conditions(guidance_curve="triangle").guidance(5).tolist() == [1.0, 2.0, 3.0, 2.0, 1.0]
    assert Conditions(guidance_curve=np.array([1, 2])).guidance(2).tolist() == [1.0, 2.0]
    assert [Conditions(guidance_curve=(0.5, top)).guided for top in (1.0, 1.1)] == [False, True]
