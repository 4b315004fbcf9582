"""Failures as a table that makes its clips again, and their rates with intervals over images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab import show
from svdlab.errors import InputError
from svdlab.stats import clustered_proportion
from svdlab.study import plans
from svdlab.study.failures import failures, rates


def study(images: int = 8, seeds: int = 2) -> pd.DataFrame:
    """Clips that drift at the higher bucket in every second image."""
    rows = [
        dict(image=f"scene-{i}", seed=s, motion_bucket_id=b, fps=7, drift_colour_last=0.2 * (b > 100 and i % 2))
        for i in range(images) for s in range(seeds) for b in (40, 200)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(warp_error=np.nan)


def test_rates_by_condition_have_intervals_over_images() -> None:
    found = rates(study())
    assert found[["kind", "condition", "level"]].to_numpy().tolist() == [
        ["drift", "all", ""],
        ["drift", "motion_bucket_id", 40],
        ["drift", "motion_bucket_id", 200],
    ]
    assert found.clips.tolist() == [32, 16, 16] and found.failed.tolist() == [8, 0, 8] and (found.n == 8).all()
    expected = clustered_proportion(pd.DataFrame([[i % 2] * 2 for i in range(8)]), 16)
    assert found[["value", "low", "high"]].iloc[2].tolist() == pytest.approx([0.5, expected.low, expected.high])
    assert "50 % of clips fail" in found.sentence[2]
    fig = show.forest(found, by="kind")
    assert "drift, motion bucket 200" in [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert rates(study(), by="seed").condition.tolist() == ["all", "seed", "seed"]
    for wrong in (dict(by="speed"), dict(kinds=["speed"])):
        with pytest.raises(InputError, match="speed"):
            rates(study(), **wrong)


def test_the_table_of_failures_is_a_plan_of_the_same_clips(pipe: Any, tmp_path: Path) -> None:
    axes = dict(image=["astronaut", "scene-27"], num_inference_steps=1, max_guidance_scale=1.0, seed=[3])
    results = svdlab.sweep(pipe, svdlab.grid(**axes), tmp_path, measure="fidelity", progress=False)
    found = failures(results.assign(drift_colour_last=[0.3, 0.1]), kinds=["drift"])
    assert found.run_id.tolist() == [results.run_id[0]] and found.which.tolist() == ["astronaut"]
    again = found[found.columns.intersection(plans.COLUMNS)].drop_duplicates()
    same = svdlab.sweep(pipe, again, tmp_path, measure="fidelity", progress=False)
    assert same.run_id.tolist() == found.run_id.tolist() and len(svdlab.load_results(tmp_path)) == 2
