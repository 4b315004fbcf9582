"""NaN and a full memory are met where they happen, and what is said about them is right."""

from __future__ import annotations

import re

import pytest
import torch

import svdlab
from svdlab.errors import BrokenClipError, OutOfMemoryError
from svdlab.pipeline import checkpoints, memory
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.guards import watch
from svdlab.pipeline.record import VaeOverflowWarning

FEW = dict(num_inference_steps=4, num_frames=2)
BLOCK = "mid_block.resnets.0.temporal_res_block.conv2"


@pytest.fixture(scope="module")
def tiny(checkpoint):
    return checkpoints.load_pipeline(checkpoint)


def overflow_from(step: int):
    """A hook that makes a module overflow from the given step on."""
    calls = []

    def hook(module, args, output):
        calls.append(None)
        return output * float("inf") if len(calls) > step else None

    return hook, calls


@pytest.mark.parametrize("step", [0, 2])
def test_nan_names_step_module_and_remedy(tiny, step):
    hook, calls = overflow_from(step)
    handle = tiny.unet.get_submodule(BLOCK).register_forward_hook(hook)
    before = dict(vars(tiny.scheduler)), len(tiny.unet._forward_pre_hooks)
    try:
        with pytest.raises(BrokenClipError) as caught:
            svdlab.generate(tiny, "scene-3", **FEW)
    finally:
        handle.remove()
    sigma = tiny.scheduler.sigmas[step]
    assert f"at step {step} of 4 (sigma {float(sigma):.3g}), first in unet.{BLOCK}." in str(caught.value)
    assert "float32" in str(caught.value) and "verify" in str(caught.value)
    assert len(calls) == step + 2  # it stopped there: that step's own call, and the one that looked for the module
    assert ("step" in vars(tiny.scheduler)) == ("step" in before[0]) and len(tiny.unet._forward_pre_hooks) == before[1]
    assert svdlab.generate(tiny, "scene-3", **FEW).frames.max() > 0


def test_a_function_inside_a_module_is_laid_to_that_module(tiny, monkeypatch):
    """Attention is computed between to_q, to_k, to_v and to_out: no module of its own breaks."""
    attn = tiny.unet.mid_block.attentions[0].transformer_blocks[0].attn1

    class Overflowing(type(attn.processor)):
        def __call__(self, attn, *args, **kwargs):
            return attn.to_out[0](torch.full((args[0].shape[0], args[0].shape[1], attn.inner_dim), float("inf")))

    monkeypatch.setattr(attn, "processor", Overflowing())
    with pytest.raises(BrokenClipError, match=r"first in unet\.mid_block\.attentions\.0\.transformer_blocks\.0\.attn1\."):
        svdlab.generate(tiny, "scene-3", **FEW)


def test_float16_is_told_what_helps(checkpoint):
    half = checkpoints.load_pipeline(checkpoint, dtype=torch.float16)
    step = lambda *a, **k: (torch.full((1, 2, 4, 16, 16), float("nan")), None)
    half.scheduler.set_timesteps(2)
    half.scheduler.step = step
    with pytest.raises(BrokenClipError, match="not in the UNet itself: look at edits"), watch(half, [Conditions()]):
        half.scheduler.step(torch.zeros(1), 0, torch.zeros(1))
    assert half.scheduler.step is step  # what was there before is there again
    from svdlab.pipeline.guards import _broken

    assert "load with dtype='bfloat16' or dtype='float32'" in _broken(half, half.scheduler, 1, "unet.conv_in")


def test_an_edit_that_breaks_things_is_not_laid_to_the_unet(tiny):
    nan = lambda value, step: value * float("nan") if step.index == 1 else None
    refused = pytest.raises(BrokenClipError, match=r"step 1 of 4.*not in the UNet itself: look at edits")
    with refused, svdlab.edit(tiny, "denoised", nan):
        svdlab.generate(tiny, "scene-3", **FEW)


def test_a_vae_that_overflows_in_float16_decodes_in_float32(checkpoint):
    """Weights scaled so that an inner activation passes 65504 while the picture stays finite in float32."""
    pipe = checkpoints.load_pipeline(checkpoint, dtype=torch.float16)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    conv = pipe.vae.decoder.conv_in
    conv.weight.data.mul_(3e4)  # normalised away by the layers that follow, where the numbers can hold it
    from svdlab.pipeline.record import decode_latents

    with pytest.warns(VaeOverflowWarning, match="decoded in float32"):
        frames = decode_latents(pipe, latents, 2)
    assert frames.max() > 0.02 and pipe.vae.dtype == torch.float16
    exact = checkpoints.load_pipeline(checkpoint)
    exact.vae.decoder.conv_in.weight.data.copy_(conv.weight)
    assert abs(frames - decode_latents(exact, latents, 2)).max() < 0.02


def test_out_of_memory_names_three_remedies_with_what_they_save(tiny):
    def full(module, args, output):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = tiny.unet.register_forward_hook(full)
    try:
        with pytest.raises(OutOfMemoryError) as caught:
            svdlab.generate(tiny, "scene-3", num_inference_steps=2)
    finally:
        handle.remove()
    text = str(caught.value)
    assert "8 frames of 64x64 px did not fit" in text and "Tried to allocate" in text
    saved = re.findall(r"\(saves about ([\d.]+) [GM]B\)", text)
    assert 1 <= len(saved) <= 3 and all(float(s) > 0 for s in saved)


def test_other_errors_pass_as_they_are(tiny):
    with pytest.raises(RuntimeError, match="something else"), watch(tiny, [Conditions()]):
        raise RuntimeError("something else")


# --- estimates --------------------------------------------------------------------------------------------------------


def test_the_count_is_right_where_it_can_be_worked_out():
    """Two linear layers: input of the second and its output are the most that is alive, the weights left out."""
    model = torch.nn.Sequential(torch.nn.Linear(100, 1000), torch.nn.Linear(1000, 10)).to("meta")
    x = torch.empty(50, 100, device="meta")
    assert memory.peak_of(model, lambda: model(x)) == 4 * 50 * (1000 + 10)
    assert memory.peak_of(model, lambda: [model[0](x) for _ in range(3)]) == 3 * 4 * 50 * 1000
    assert memory.peak_of(model, lambda: [model[0](x).sum() for _ in range(3)]) < 4 * 50 * 1000 + 100


def test_a_fused_attention_holds_no_map():
    q = torch.empty(1, 2, 1000, 8, device="meta")
    used = memory.peak_of(torch.nn.Identity(), lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert used == q.nbytes


def test_the_estimate_follows_what_is_asked(tiny):
    size = lambda **kw: memory.estimate(tiny, **{**dict(height=64, width=64, num_frames=8), **kw})
    small, long, wide = size(), size(num_frames=16), size(height=128)
    assert long.denoising == pytest.approx(2 * small.denoising, rel=0.05)
    assert wide.denoising == pytest.approx(2 * small.denoising, rel=0.05)
    assert size(guided=False).denoising == pytest.approx(small.denoising / 2, rel=0.05)
    assert size(decode_chunk_size=2).decoding < small.decoding / 2
    assert size(dtype=torch.bfloat16).denoising == pytest.approx(small.denoising / 2, rel=0.05)
    assert small.total("sequential") < small.total("model") < small.total(None)
    weights = sum(p.nbytes for part in (tiny.unet, tiny.vae, tiny.image_encoder) for p in part.parameters())
    assert sum(small.weights.values()) == weights


def test_what_is_counted_is_what_a_real_call_holds(tiny):
    """The same count on the CPU's tensors, numbers and all; attention is fused there as well."""
    unet = tiny.unet
    x, ids, embedding = torch.randn(2, 8, 8, 16, 16), torch.randn(2, 3), torch.randn(2, 1, 64)
    real = memory.peak_of(unet, lambda: unet(x, torch.tensor(1.0), embedding, ids, return_dict=False))
    estimated = memory.estimate(tiny, num_frames=8, height=64, width=64).denoising
    assert estimated == pytest.approx(real, rel=0.1)
