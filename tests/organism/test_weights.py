"""The shipped weights are the ones that were verified, and they still make the clips that they made then.

Whether they obey the world's laws is measured by `make validate`; where neither weights nor clips changed, it need not be
measured again.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import svdlab
from svdlab.measure.files import hash_file

WEIGHTS = Path(svdlab.__file__).parent / "organism" / "weights"
UNET, VAE, CLIP = (
    f"{part}.safetensors" for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "image_encoder/model")
)
VERIFIED = {  # SHA-256 of the files behind the tables in card.md
    ("organism", UNET): "8c378fa3f1f967f27f2fb2593f29b826e6e6292ba67b033b60d878e481438d12",
    ("organism", VAE): "7ef94f636540a892c8b763edd369b82ce843cb1245c3fd86d31cc4786775c585",
    ("organism", CLIP): "5cf4d9b83712247eee6828980d313bd01fbfc958474319211cde7f40bf4f2bdf",
    ("organism-fixed", UNET): "e33a5e46b9977ee60f61e9dff76f84646e8dd1016dc0fa82ce9d7fd505d85b59",
    ("organism-fixed", VAE): "7ef94f636540a892c8b763edd369b82ce843cb1245c3fd86d31cc4786775c585",
    ("organism-fixed", CLIP): "54da24f5074965e5e22c25aa4e9faafb7716385b0ae6dee0853463adda9c79f1",
}
GOLDEN = {  # latents of these calls when the weights were verified, float16
    "scene-27": dict(image="scene-27", fps=7, motion_bucket_id=127),
    "scene-40": dict(image="scene-40", fps=7, motion_bucket_id=127),
    "unguided": dict(image="scene-27", fps=12, motion_bucket_id=60, min_guidance_scale=1.0, max_guidance_scale=1.0),
}


@pytest.mark.parametrize(("checkpoint", "name"), VERIFIED)
def test_the_weights_are_the_verified_ones(checkpoint, name):
    assert hash_file(WEIGHTS / checkpoint / name) == VERIFIED[checkpoint, name]


@pytest.mark.parametrize("name", GOLDEN)
def test_clips_are_those_of_the_verified_weights(pipe, name):
    call = dict(GOLDEN[name])
    golden = load_file(Path(__file__).parents[1] / "data" / "golden-latents.safetensors")[name].float()
    clip = svdlab.generate(pipe, svdlab.sample_image(call.pop("image")), seed=3, num_inference_steps=10, **call)
    torch.testing.assert_close(clip.latents.float(), golden, atol=0.01, rtol=2e-3)  # float16 and other machines' rounding
