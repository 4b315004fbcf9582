"""One clip, one trace and one table of a sweep for all tests of figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab.organism import world
from tests.show.drawn import NOTE


@pytest.fixture(scope="session")
def pan() -> world.Scenes:
    """A drawn camera pan to the right."""
    return world.scenes(1, seed=3, motion="pan", direction="right", background="light", fps=7, motion_bucket_id=127)


@pytest.fixture(scope="session")
def tr(pipe: Any) -> Any:
    with svdlab.trace(pipe) as tr:
        tr.clip = svdlab.generate(pipe, "scene-27", seed=0, num_inference_steps=4)
    return tr


@pytest.fixture(scope="session")
def clip(tr: Any, pan: world.Scenes) -> Any:
    """The pan's frames, as if the organism had made them."""
    return replace(tr.clip, frames=pan.video[0])


@pytest.fixture(scope="session")
def results() -> pd.DataFrame:
    """A table as a sweep returns it: three fps, four buckets, five seeds."""
    rng = np.random.default_rng(0)
    fixed = dict(checkpoint="organism", label=NOTE, licence="Apache-2.0", image="scene-27", stimulus="scene-27", status="done")
    fixed |= dict(max_guidance_scale=1.0, min_guidance_scale=1.0)
    return pd.DataFrame(
        dict(fixed, fps=f, motion_bucket_id=b, seed=s, object_px=0.14 * b / f + 0.1 * rng.normal())
        for f in (6, 8, 12)
        for b in (10, 60, 120, 170)
        for s in range(5)
    )
