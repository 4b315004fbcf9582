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
    ("organism", UNET): "94e4d0640dace16e0d6b12309eb28ec4b3cb49a9e6c19a8c6c2f8f6bc11e7ee9",
    ("organism", VAE): "7ef94f636540a892c8b763edd369b82ce843cb1245c3fd86d31cc4786775c585",
    ("organism", CLIP): "90a313c5949f75ad05eed0338aa61b9c186069ef95b8e2ce081699ac2c84448c",
    ("organism-fixed", UNET): "7e4d9c6fbd41d78c8376d0c887edd180177598238fc536d3ffad44eb6a210962",
    ("organism-fixed", VAE): "7ef94f636540a892c8b763edd369b82ce843cb1245c3fd86d31cc4786775c585",
    ("organism-fixed", CLIP): "9b6ff6a8471f91681755f3e59d949cf3ab7568ea836881ef44a95f5a933ff280",
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
