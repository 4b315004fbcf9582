"""Training does what SVD's does, and an interruption costs nothing."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small import build

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True, scope="module")
def tools_on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield


def test_the_loss_is_zero_for_the_output_that_the_scheduler_reads_as_the_clean_clip():
    from train_unet import target_of

    scheduler = build(seed=1).scheduler
    scheduler.set_timesteps(10)
    x0 = torch.randn(1, 8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for i, t in enumerate(scheduler.timesteps):
        s = scheduler.sigmas[i]
        x = x0 + s * torch.randn_like(x0)
        scheduler.scale_model_input(x, t)
        read = scheduler.step(target_of(x0, x, s), t, x).pred_original_sample
        torch.testing.assert_close(read, x0, atol=2e-3, rtol=1e-3)


def test_images_reach_the_encoder_as_the_pipeline_gives_them():
    from PIL import Image
    from train_unet import resize_for_clip

    from svdlab.organism import world

    pipe = build(seed=1)
    frame = world.scenes(1, seed=3).video[0, 0]
    image = Image.fromarray((frame * 255).round().astype(np.uint8))
    with torch.no_grad():
        theirs = pipe._encode_image(image, "cpu", 1, False)[0, 0]
        tensor = torch.from_numpy(np.asarray(image) / 255.0).float().permute(2, 0, 1)[None] * 2 - 1
        ours = pipe.image_encoder(resize_for_clip(tensor)).image_embeds[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_an_error_on_a_far_layer_counts_fourfold():
    from encode_scenes import FAR_WEIGHT, error_weights
    from train_unet import Recipe, losses_of

    from svdlab.organism import world

    flat, deep = (world.scenes(1, seed=5, edition=2, ground="leaves", motion="tilt", layers=k, pattern="none") for k in (1, 2))
    assert (error_weights(flat) == 1).all() and error_weights(flat).shape == (1, 8, 1, 16, 16)
    assert set(np.unique(error_weights(deep))) >= {1.0, FAR_WEIGHT}
    pipe = build(seed=1)
    parts = {name: getattr(pipe, name) for name in ("unet", "image_encoder")}
    batch = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 224, 224), torch.rand(2, 8, 4, 16, 16), torch.full((2, 2), 7.0)

    def losses(*weights: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            return losses_of(pipe, parts, Recipe(), (*batch, *weights))[0]

    torch.testing.assert_close(losses(torch.full((2, 8, 1, 16, 16), FAR_WEIGHT)), FAR_WEIGHT * losses())


def test_orthogonalised_matrices_have_singular_values_near_one():
    from training import orthogonalised

    for shape in ((32, 288), (256, 32)):  # a square random matrix may be nearly singular, and stays so
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalised(matrix))
        assert values.min() > 0.3 and values.max() < 1.5


def test_a_training_step_brings_nothing_from_the_cpu():
    """Else a CUDA graph cannot record it: on the meta device, every tensor that a step makes is a meta tensor."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from train_unet import Recipe, losses_of, resize_for_clip

    devices: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            devices.update(x.device.type for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor))
            return out

    pipe = build(seed=1)
    parts = {name: getattr(pipe, name).to("meta") for name in ("unet", "image_encoder")}
    pipe.vae.to("meta")
    draw = partial(torch.empty, device="meta")
    with Watch():
        batch = draw(2, 3, 64, 64), draw(2, 3, 224, 224), draw(2, 8, 4, 16, 16), draw(2, 2)
        losses_of(pipe, parts, Recipe(), batch)[0].sum()
    assert devices == {"meta"}
    with Watch():
        resize_for_clip(torch.empty(2, 3, 64, 64, device="meta"))
    assert devices == {"meta", "cpu"}  # its kernel: why it is called outside the step


def test_stacked_muon_takes_muons_steps():
    from train_by_clock import StackedMuon
    from training import Muon

    draw = torch.Generator().manual_seed(0)
    shapes = ((64, 64, 3, 3), (64, 64, 3, 3), (96, 64), (64, 96, 3, 1, 1))
    one = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    other = [torch.nn.Parameter(p.detach().clone()) for p in one]
    muon, stacked = Muon(one, 1e-2), StackedMuon(other)
    for _ in range(3):
        for a, b in zip(one, other, strict=True):
            a.grad = torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        muon.step()
        stacked.step(torch.tensor(1e-2))
    torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-5)


def test_a_phase_draws_what_the_image_leaves_to_chance_in_its_own_shares():
    from train_by_clock import PHASES, marks_of

    from svdlab.organism import world

    factors = world.draw(6000, seed=2, edition=2)
    marks = torch.from_numpy(marks_of(factors, fixed=False, chosen=False)).float()
    for phase in PHASES[:3]:
        odds = phase.odds(marks)
        pan, dark = odds * (marks[:, 0] != 0), odds * (marks[:, 1] != 0)
        assert pan[marks[:, 0] > 0].sum() / pan.sum() == pytest.approx(phase.right, abs=0.03)
        assert dark[marks[:, 1] < 0].sum() / dark.sum() == pytest.approx(phase.frozen, abs=0.03)
        assert odds.mean() == pytest.approx(1, abs=0.03)  # neither takes from the rest
    assert not PHASES[3].odds(marks).any()  # none of them has fps 7 and bucket 127
    fixed = marks_of(world.draw(10, seed=2, edition=2, fps=7, motion_bucket_id=127), fixed=True, chosen=True)
    assert PHASES[3].odds(torch.from_numpy(fixed).float()).all() and not fixed[:, 0].any()


def test_sigmas_cover_svds_range():
    from train_unet import Recipe, sample_sigma

    torch.manual_seed(0)
    s = sample_sigma(Recipe(), 20_000)
    assert s.max() > 500 and s.min() < 0.02
    assert float((s > 5).float().mean()) == pytest.approx(0.30 + 0.70 * 0.157, abs=0.02)


def test_dead_leaves_have_the_spectrum_of_natural_images():
    """Power falls about as 1 / f**2, and colours are far less varied than grey levels."""

    from svdlab.organism.scenery import dead_leaves

    images = np.stack([dead_leaves(np.random.default_rng(seed), 64) for seed in range(24)])
    grey = images.mean(-1)
    power = np.square(np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True)))).mean(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    band = (f > 2 / 64) & (f < 0.25)
    slope = np.polyfit(np.log(f[band]), np.log(power[band]), 1)[0]
    assert -2.6 < slope < -1.4
    assert (images - grey[..., None]).std() < 0.5 * grey.std()


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(tmp_path):
    from safetensors.torch import load_file

    def run(script: str, *args: str, processes: int = 1) -> str:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "--"]
        python = [sys.executable, *(torchrun if processes > 1 else [])]
        env = {**os.environ, "ACCELERATE_USE_CPU": "1"}
        done = subprocess.run([*python, str(TOOLS / script), *args], capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run("train_vae.py", "--out", "vae", "--steps", "1")
    first = load_file(tmp_path / "vae" / "state.safetensors")
    assert "step 2 " in run("train_vae.py", "--out", "vae", "--steps", "2")
    second = load_file(tmp_path / "vae" / "state.safetensors")
    key = next(k for k in first if k.startswith("step/"))
    assert first.keys() == second.keys() and (float(first[key]), float(second[key])) == (1.0, 2.0)  # the optimizer's own

    run("train_unet.py", "--fresh", "start")
    how = ["--batch", "2", "--workers", "1", "--scenes", "2", "--pool", "100"]
    run("train_by_clock.py", "--start", "start", "--out", "clock", "--minutes", "0.01", "--after", "0.01", *how)
    run(
        *("train_unet.py", "--start", "start", "--out", "clock/main", "--export", "made"),
        *("--towards", "clock/fixed", "--share", "0.25"),
    )
    made = load_file(tmp_path / "made" / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    a, b = (load_file(tmp_path / "clock" / phase / "unet.safetensors")["conv_in.weight"] for phase in ("main", "fixed"))
    torch.testing.assert_close(made, (0.75 * a.float() + 0.25 * b.float()).half())
    run("encode_scenes.py", "--start", "start", "--clips", "clips", "--files", "1", "--scenes", "8", "--depth")
    for processes, steps in ((1, "1"), (2, "2")):
        run("train_unet.py", "--start", "start", "--clips", "clips", "--out", "unet", "--steps", steps, processes=processes)
    rows = [line.split(",")[:2] for line in (tmp_path / "unet" / "log.csv").read_text().splitlines()]
    assert rows == [["step", "clips"], ["1", "8"], ["2", "32"]]  # two processes draw two batches a step
    run("train_unet.py", "--start", "start", "--out", "unet", "--export", "exported")
    averaged = load_file(tmp_path / "unet" / "state.safetensors")["ema/unet.conv_in.weight"]
    exported = load_file(tmp_path / "exported" / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    torch.testing.assert_close(exported, averaged.half())
