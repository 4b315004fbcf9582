"""A LoRA sweep and a scheduler sweep with svdlab's wheel, in an empty folder, by the command and in Python."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.slow
SWEEP = ("svdlab", "sweep", "--grid", "grid.yaml", "--out", "study", "--image", "scene-27")
MAKE = """
import torch, svdlab
from safetensors.torch import save_file

pipe, draw, state = svdlab.load_pipeline(), torch.Generator().manual_seed(1), {}
for name, layer in pipe.unet.named_modules():
    if "temporal_transformer_blocks" in name and name.endswith("to_v"):
        flat = "lora_unet_" + name.replace(".", "_")
        state[flat + ".lora_down.weight"] = torch.randn(2, layer.in_features, generator=draw)
        state[flat + ".lora_up.weight"] = torch.randn(layer.out_features, 2, generator=draw) / 10
        state[flat + ".alpha"] = torch.tensor(1.0)
save_file(state, "camera-pan.safetensors")
"""
READ = """
import svdlab
table = svdlab.load_results("study")
table.drop(columns=["frames", "preview", "latents"]).to_csv("t.csv")
svdlab.show.save(svdlab.show.dose_response(table, x="{x}", y="flow_px"), "figure")
"""
USE = """
import svdlab
with svdlab.lora(pipe := svdlab.load_pipeline(), "camera-pan.safetensors", 0.5):
    print(svdlab.generate(pipe, "scene-27", num_inference_steps=2).source.lora)
"""


def swept(installed: Run, tmp_path: Path, grid: str, x: str) -> pd.DataFrame:
    """What the command makes of a grid, read and drawn in Python."""
    (tmp_path / "grid.yaml").write_text(grid)
    done = installed(*SWEEP, cwd=tmp_path)
    assert done.returncode == 0 and "6 runs" in done.stdout, done.stderr
    done = installed("python", "-c", READ.replace("{x}", x), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(tmp_path / "t.csv")


def test_a_lora_sweep_from_a_wheel(installed: Run, tmp_path: Path) -> None:
    grid = "lora: camera-pan.safetensors\nlora_scale: [0, 0.5, 1.0]\nseed: [0, 1]\nnum_inference_steps: 2\n"
    assert installed("python", "-c", MAKE, cwd=tmp_path).returncode == 0
    table = swept(installed, tmp_path, grid, "lora_scale")
    assert (
        sorted(table.lora_scale) == [0, 0, 0.5, 0.5, 1, 1] and set(table.status) == {"done"} and table.weights.nunique() == 3
    )
    assert table[table.lora_scale > 0].lora.unique() == ["camera-pan.safetensors"] and (tmp_path / "figure.png").stat().st_size
    again = installed(*SWEEP, cwd=tmp_path)
    assert again.returncode == 0 and "0 of them failed" in again.stdout
    used = installed("python", "-c", USE, cwd=tmp_path)
    assert used.stdout.strip().endswith("camera-pan.safetensors"), used.stderr


def test_a_scheduler_sweep_from_a_wheel(installed: Run, tmp_path: Path) -> None:
    names = "[EulerDiscreteScheduler, HeunDiscreteScheduler, EDMDPMSolverMultistepScheduler]"
    grid = f"scheduler: {names}\nnum_inference_steps: [2, 4]\n"
    table = swept(installed, tmp_path, grid, "num_inference_steps")
    assert table.scheduler.nunique() == 3 and set(table.schedule) == {"karras"} and set(table.sigma_max) == {700.0}
    (tmp_path / "grid.yaml").write_text("scheduler: [UniPCMultistepScheduler]\n")
    refused = installed(*SWEEP, cwd=tmp_path)
    assert refused.returncode == 1 and "give scheduler= one of EulerDiscreteScheduler" in refused.stderr
