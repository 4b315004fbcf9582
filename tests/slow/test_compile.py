"""torch.compile for real, with a C++ compiler: the same clip, traced and swept as any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import svdlab
from tests.small import save_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: apt-get install g++"),
]


def test_a_compiled_unet_makes_the_same_clip(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "small")
    plain = svdlab.load_pipeline(folder, device="cpu")
    compiled = svdlab.load_pipeline(folder, device="cpu", compile=True)
    assert isinstance(compiled.unet, torch._dynamo.OptimizedModule)
    asked = dict(seed=3, num_inference_steps=2)
    with svdlab.trace(plain) as expected:
        svdlab.generate(plain, "cat", **asked)
    with svdlab.trace(compiled) as measured:
        clip = svdlab.generate(compiled, "cat", **asked)
    assert (measured.latents - expected.latents).abs().max() < 1e-4 * expected.latents.abs().max()

    table = svdlab.sweep(compiled, [asked], tmp_path / "study", image="cat", batch_size=1, progress=False)
    assert table.status.tolist() == ["done"]
    kept = svdlab.load_results(tmp_path / "study").latents[0]
    assert Path(kept).is_file() and clip.latents.isfinite().all()
