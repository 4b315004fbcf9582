"""What the widgets' tests share: a small sweep with a gap, a traced clip."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import svdlab


@pytest.fixture(scope="session")
def results(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Two buckets by two seeds, one point not run."""
    plan = svdlab.grid(motion_bucket_id=[20, 200], seed=[0, 1], num_inference_steps=2).drop(index=3)
    return svdlab.sweep(pipe, plan, tmp_path_factory.mktemp("widgets") / "study", image="scene-27", progress=False)


@pytest.fixture(scope="session")
def traced(pipe: Any) -> Any:
    """A trace of three steps, and the clip."""
    with svdlab.trace(pipe, keep=("latents", "denoised", "guidance_pressure")) as tr:
        clip = svdlab.generate(pipe, "scene-27", seed=3, num_inference_steps=3)
    return tr, clip


def at(still: Any, column: int) -> bytes:
    """The bytes of one of the frames that an HTML widget holds."""
    return base64.b64decode(re.findall(r"base64,([^\"]+)", still.value)[column])


@pytest.fixture(scope="session")
def decoded() -> Callable[[Any], np.ndarray]:
    """The last frame of an image's bytes, uint8 "h w 3"."""

    def decode(data: Any) -> np.ndarray:
        image = Image.open(io.BytesIO(bytes(data)))
        image.seek(getattr(image, "n_frames", 1) - 1)
        return np.asarray(image.convert("RGB"))

    return decode
