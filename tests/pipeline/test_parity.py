"""The svdlab column of docs/parity.md, line by line, against diffusers itself and the numbers in Stability's configs."""

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline

import svdlab
from svdlab.errors import InputError
from svdlab.pipeline import checkpoints
from svdlab.pipeline.conditions import PRESETS, Conditions, UnusualConditionWarning
from svdlab.pipeline.generate import ProbePipeline, resolve
from tests import full_size as architecture

TABLE = (Path(__file__).parents[2] / "docs/parity.md").read_text()
FEW = dict(num_inference_steps=2, num_frames=2)


@pytest.fixture(scope="module")
def tiny(checkpoint):
    return checkpoints.load_pipeline(checkpoint)


def row(name: str) -> list[str]:
    """One line of the table: Stability, diffusers, ComfyUI, svdlab."""
    line = next(line for line in TABLE.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def seen(pipe, call) -> dict[str, torch.Tensor]:
    """What the first UNet call is given: ids "half 3", the picture's latents "half f c h w", the embedding."""
    caught: dict[str, torch.Tensor] = {}

    def look(module, args, kwargs):
        caught.setdefault("ids", kwargs["added_time_ids"])
        caught.setdefault("embedding", kwargs["encoder_hidden_states"])
        caught.setdefault("picture", args[0][:, :, 4:])

    handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        call()
    finally:
        handle.remove()
    return caught


def test_fps_is_one_more_than_what_the_unet_sees(tiny):
    assert row("fps: you give")[3] == "7, 6: `fps = fps_id + 1`"
    ids = seen(tiny, lambda: svdlab.generate(tiny, "scene-3", fps=7, motion_bucket_id=127, noise_aug_strength=0.02, **FEW))[
        "ids"
    ]
    np.testing.assert_allclose(ids[-1], [6, 127, 0.02], rtol=1e-6)


def test_presets_are_stabilitys_configs():
    """svd.yaml, svd_xt.yaml, svd_xt_1_1.yaml; fps_id, bucket and cond_aug by simple_video_sample.py."""
    for name, frames, steps, low, high in (
        ("SVD", 14, 25, 1.0, 2.5),
        ("SVD_XT", 25, 30, 1.5, 3.0),
        ("SVD_1_1", 25, 30, 1.5, 3.0),
    ):
        c = PRESETS[name]
        assert (c.num_frames, c.num_inference_steps, c.min_guidance_scale, c.max_guidance_scale) == (frames, steps, low, high)
        assert (c.fps_id, c.motion_bucket_id, c.noise_aug_strength) == (6, 127, 0.02)
        np.testing.assert_allclose(c.guidance(frames), np.linspace(low, high, frames))
    said = row("guidance per frame")
    assert "1.0 to 2.5" in said[0] and "1.5 to 3.0" in said[0] and "1.0 to 3.0" in said[1]


def test_noise_goes_onto_the_picture_between_minus_one_and_one(tiny):
    """In [0, 1], as ComfyUI adds it, half the strength makes the same latents: the factor of two in the table."""
    strength = 0.4
    noisy = seen(tiny, lambda: svdlab.generate(tiny, "scene-3", seed=0, noise_aug_strength=strength, **FEW))["picture"][-1, 0]
    picture = tiny.video_processor.preprocess(svdlab.sample_image("scene-3"), height=64, width=64)
    eps = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    as_comfy = ((picture + 1) / 2 + strength / 2 * eps) * 2 - 1
    with torch.no_grad():
        expected = tiny.vae.encode(as_comfy).latent_dist.mode()[0]
    torch.testing.assert_close(noisy, expected, rtol=1e-4, atol=1e-4)
    assert "twice as strong" in row("noise augmentation")[2] and "times 2" in row("noise augmentation")[3]


def test_the_image_encoder_sees_the_whole_frame_without_noise(tiny):
    quiet, loud = (
        seen(tiny, lambda s=s: svdlab.generate(tiny, "scene-3", noise_aug_strength=s, **FEW))["embedding"] for s in (0.0, 1.0)
    )
    assert torch.equal(quiet, loud) and not quiet[0].any()  # and the unconditional half sees nothing


def test_bounds(tiny):
    assert Conditions(motion_bucket_id=1023, fps=200).unusual((576, 1024)) != []
    with pytest.warns(UnusualConditionWarning, match="above 255"):
        svdlab.generate(tiny, "scene-3", motion_bucket_id=300, **FEW)
    full = architecture.build("SVD_XT")
    with pytest.raises(InputError, match="multiples of 64"):
        resolve(full, Conditions(height=568, width=1024))
    own_size = dict(num_frames=25, height=576, width=1024, decode_chunk_size=25)
    assert resolve(full, Conditions()) == Conditions(**own_size) and "64 for SVD" in row("sizes")[3]


# --- the stock call, bit for bit ---------------------------------------------------------------------------------------


def halve(pipe, i, t, tensors):
    assert set(tensors) == {"latents"} and tensors["latents"].isfinite().all()
    return {"latents": tensors["latents"] * (0.9 if i == 0 else 1.0)}


def peek(pipe, i, t, tensors):
    assert i < pipe.num_timesteps == 2 and {"latents", "image_embeddings"} == set(tensors)
    return {}


IMAGES = {
    "tensor": lambda: torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)),
    "list": lambda: [svdlab.sample_image("scene-1"), svdlab.sample_image("scene-2")],
    "PIL": lambda: svdlab.sample_image("scene-1"),
}
CALLS = {
    "defaults": {},
    "conditions": dict(fps=3, motion_bucket_id=5, noise_aug_strength=0.1, min_guidance_scale=1.5, max_guidance_scale=2.0),
    "unguided": dict(max_guidance_scale=1.0),
    "no image noise": dict(noise_aug_strength=0),
    "two videos": dict(num_videos_per_prompt=2),
    "two videos, two generators": dict(num_videos_per_prompt=2, generator=2),
    "list": dict(image="list", generator=2),
    "list, one generator": dict(image="list"),
    "tensor": dict(image="tensor"),
    "latents": dict(latents=torch.ones(1, 8, 4, 16, 16)),
    "sigmas": dict(sigmas=[80.0, 5.0, 0.0], num_inference_steps=None),
    "frames": dict(num_frames=3, height=48, width=80),
    "a callback that changes": dict(callback_on_step_end=halve),
    "a callback that reads": dict(
        callback_on_step_end=peek, callback_on_step_end_tensor_inputs=["latents", "image_embeddings"]
    ),
    "np in chunks": dict(output_type="np", decode_chunk_size=3),
    "pt": dict(output_type="pt"),
    "pil": dict(output_type="pil"),
    "a tuple": dict(return_dict=False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("what", CALLS)
def test_the_call_is_the_stock_call(tiny, what, dtype):
    own = ProbePipeline.from_pipe(StableVideoDiffusionPipeline(**copy.deepcopy(tiny.components)).to(dtype))
    stock = StableVideoDiffusionPipeline(**own.components)
    found = []
    for pipe in (stock, own):
        arguments = dict(height=64, width=64, num_inference_steps=2, output_type="latent") | CALLS[what]
        if "latents" in arguments:
            arguments["latents"] = arguments["latents"].to(dtype)
        count, image = arguments.pop("generator", 1), IMAGES[arguments.pop("image", "PIL")]()
        generators = [torch.Generator().manual_seed(i) for i in range(count)]
        pipe.set_progress_bar_config(disable=True)
        out = pipe(image, **arguments, generator=generators if count > 1 else generators[0])
        found.append(out if isinstance(out, (torch.Tensor, np.ndarray)) else getattr(out, "frames", out))
        assert type(pipe.scheduler) is type(tiny.scheduler) and pipe.unet.dtype == dtype
    one, two = (np.asarray(x.float() if isinstance(x, torch.Tensor) else x) for x in found)
    assert type(found[0]) is type(found[1]) and one.shape == two.shape and one.dtype == two.dtype
    assert np.array_equal(one, two)


def test_the_signature_is_the_stock_ones():
    ours, theirs = (inspect.signature(c.__call__).parameters for c in (ProbePipeline, StableVideoDiffusionPipeline))
    assert list(ours) == list(theirs)
    differing = [name for name in theirs if ours[name].default != theirs[name].default]
    assert differing == ["height", "width"]  # the checkpoint's own, where diffusers has 576 and 1024
