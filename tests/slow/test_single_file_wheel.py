"""One `.safetensors` file with svdlab's wheel, in an empty folder: `svdlab convert`, and `load_pipeline` in full size."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

import svdlab
from tests.pipeline.test_single_file import as_one_file, hollow_file

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.slow
ORGANISM = "import svdlab, pathlib; print(pathlib.Path(svdlab.__file__).parent / 'organism' / 'weights' / 'organism')"
SAME = """
import numpy as np, svdlab
clips = [svdlab.generate(svdlab.load_pipeline(c), "scene-3", num_inference_steps=2, height=64, width=64)
         for c in ("organism", "models/small")]
print(np.array_equal(*(clip.frames for clip in clips)))
"""
LOAD = """
import json, svdlab
pipe = svdlab.load_pipeline("svd_xt_1_1.safetensors", device="cpu", dtype="float16")
print(json.dumps([pipe.unet.num_parameters(), pipe.unet.config.num_frames, svdlab.PRESETS["SVD_1_1"].num_frames]))
"""


def test_a_single_file_is_converted_and_makes_the_same_clip(installed: Run, tmp_path: Path) -> None:
    parts = svdlab.load_pipeline("organism", device="cpu").components
    save_file({name: tensor.half() for name, tensor in as_one_file(parts).items()}, tmp_path / "small.safetensors")
    configs = installed("python", "-c", ORGANISM, cwd=tmp_path).stdout.strip()
    done = installed("svdlab", "convert", "small.safetensors", "models/small", "--configs", configs, cwd=tmp_path)
    assert done.returncode == 0 and "models/small" in done.stdout, done.stderr
    done = installed("python", "-c", SAME, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.strip().endswith("True"), done.stderr
    again = installed("svdlab", "convert", "small.safetensors", "models/small", "--configs", configs, cwd=tmp_path)
    assert again.returncode == 1 and "exists: give a new one" in again.stderr


def test_a_full_size_file_is_loaded_by_its_name(installed: Run, tmp_path: Path) -> None:
    hollow_file(tmp_path / "svd_xt_1_1.safetensors")
    done = installed("python", "-c", LOAD, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1524623082, 25, 25]
