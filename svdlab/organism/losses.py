"""What the organism's stages minimise: the codec's error, and SVD's own denoising loss.

EDM preconditioning with sigma_data = 1 and v-prediction (Karras et al. 2022, table 1); noise on the input picture and
conditioning dropout as in Blattmann et al. 2023, appendix D.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)

from svdlab.organism.optimise import Recipe
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def resize_for_clip(images: torch.Tensor) -> torch.Tensor:
    """Pictures "n c h w" in [-1, 1] to what the image encoder takes, as the pipeline does it."""
    small = _resize_with_antialiasing(images, (224, 224))
    return ((small + 1) / 2 - CLIP_MEAN.to(small)) / CLIP_STD.to(small)


def vae_loss(vae: Any, films: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Squared error with a little absolute error and a little KL; the decoder sees slightly noisy latents."""
    f = films.shape[1]
    x = films.flatten(0, 1)
    posterior = vae.encode(x).latent_dist
    z = posterior.mean
    noise = torch.randn(z.shape, generator=generator)
    z = z + torch.maximum(posterior.std, 0.02 * z.std().detach()) * noise
    y = vae.decode(z, num_frames=f).sample
    kl = posterior.kl().mean() / z[0].numel()
    return F.mse_loss(y, x) + 0.05 * F.l1_loss(y, x) + 1e-5 * kl


def sample_sigma(recipe: Recipe, n: int, generator: torch.Generator, *, choices: bool = False) -> torch.Tensor:
    """Levels for n clips; `choices` draws more of them where a film's open choices are made."""
    normal = torch.randn(n, generator=generator) * recipe.sigma_std + recipe.sigma_mean
    low, high = map(math.log, recipe.choice_sigmas if choices else (5.0, 700.0))
    uniform = low + (high - low) * torch.rand(n, generator=generator)
    pick = torch.rand(n, generator=generator) < (recipe.choice_share if choices else recipe.high_sigma)
    return torch.where(pick, uniform, normal).exp()


def denoising_loss(
    pipe: StableVideoDiffusionPipeline, recipe: Recipe, batch: tuple, generator: torch.Generator, *, choices: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """SVD's training loss; returns it per clip with sigma and the mean to differentiate.

    x = x0 + sigma*n; D = c_skip*x + c_out*F(c_in*x; c_noise); the loss |D - x0|^2 / c_out^2 is that of F itself.
    """
    images, x0, conditions = batch
    b, f = x0.shape[:2]

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    strength = (randn(b) * 0.7 - 3.5).exp()
    strength = torch.where(rand(b) < recipe.strong_noise, rand(b), strength)
    with torch.no_grad():
        noisy = images + strength[:, None, None, None] * randn(*images.shape)
        image_latents = pipe.vae.encode(noisy).latent_dist.mode()
    embedding = pipe.image_encoder(resize_for_clip(images)).image_embeds[:, None]
    lot = rand(b)
    both, alone = lot < recipe.drop_both, lot > 1 - recipe.drop_latents
    embedding = embedding * (~both)[:, None, None]
    image_latents = image_latents * (~(both | alone))[:, None, None, None]

    sigma = sample_sigma(recipe, b, generator, choices=choices)
    s = sigma[:, None, None, None, None]
    x = x0 + s * randn(*x0.shape)
    c_in, c_skip, c_out = 1 / (s**2 + 1).sqrt(), 1 / (s**2 + 1), -s / (s**2 + 1).sqrt()
    target = (x0 - c_skip * x) / c_out
    inputs = torch.cat([c_in * x, image_latents[:, None].expand(-1, f, -1, -1, -1)], dim=2)
    ids = torch.stack([conditions[:, 0] - 1, conditions[:, 1], strength], dim=1)
    out = pipe.unet(inputs, sigma.log() / 4, encoder_hidden_states=embedding, added_time_ids=ids).sample
    per_clip = (out - target).square().mean(dim=(1, 2, 3, 4))
    return per_clip.mean(), per_clip.detach(), sigma
