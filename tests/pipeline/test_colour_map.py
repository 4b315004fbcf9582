"""Latents as colours: one linear map for each checkpoint, fitted on what its own VAE makes of known images."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from PIL import Image

from svdlab.organism import world
from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.trace import colour, colour_map


def test_the_map_shows_a_checkpoints_own_images(pipe: Any) -> None:
    scenes = world.scenes(4, seed=11).video[:, 0]
    x = torch.from_numpy(scenes).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        z = pipe.vae.encode(x).latent_dist.mode() * pipe.vae.config.scaling_factor
    small = [Image.fromarray((s * 255).astype(np.uint8)).resize((16, 16), Image.Resampling.BOX) for s in scenes]
    shown = colour(z, colour_map(pipe))
    assert np.corrcoef(shown.ravel(), np.stack([np.asarray(image) / 255 for image in small]).ravel())[0, 1] > 0.8


def test_in_half_precision_the_map_is_the_same_and_the_weights_stay_as_they_are(pipe: Any) -> None:
    own = ProbePipeline(**copy.deepcopy(pipe.components)).to(torch.bfloat16)
    own.source = pipe.source
    before = {name: value.clone() for name, value in own.vae.state_dict().items()}
    found = colour_map(own)
    assert own.vae.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in own.vae.state_dict().items())
    np.testing.assert_allclose(found, colour_map(pipe), atol=0.02)
