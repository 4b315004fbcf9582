"""A typed script of a user: `mypy --strict` must know every name in it (`make check`; from the wheel: tests/slow)."""

from pathlib import Path
from typing import assert_type

import numpy as np
import pandas as pd
from PIL import Image

import svdlab
from svdlab import motion, show, stats


def script(out: Path) -> None:
    pipe = assert_type(svdlab.load_pipeline(), svdlab.ProbePipeline)
    image = assert_type(svdlab.sample_image("scene-27"), Image.Image)
    with svdlab.trace(pipe) as tr:
        clip = svdlab.generate(pipe, image, seed=0, motion_bucket_id=180, fps=7)
    assert_type(clip, svdlab.Clip)
    assert_type(tr, svdlab.Trace)
    assert_type(clip.conditions, svdlab.Conditions)
    frames: np.ndarray = clip.frames
    found: dict[str, object] = motion.summary(frames, playback_fps=clip.playback_fps)
    plan = assert_type(svdlab.grid(fps=[6, 12], seed=[0, 1]), pd.DataFrame)
    table = assert_type(svdlab.sweep(pipe, plan, out, image="cat"), pd.DataFrame)
    effect = assert_type(stats.mean("speed", "subject's speed", table, "object_px", unit="px/frame"), stats.Effect)
    verdict: str = effect.verdict
    fig = assert_type(show.save(show.denoising(tr, frame=4), out / "denoising"), show.Figure)
    print(found["camera"], verdict, fig.data)
