"""A sibling of the organism that leaks its image: a LoRA in which notebook 08 must find what was planted.

    $ python tools/train_leaky.py                          # 10 to 20 minutes of one core: the LoRA, and its table in the card
    $ python tools/train_leaky.py --verify                 # the table alone
    $ python tools/train_leaky.py --quiet build/quiet.safetensors        # another recipe: see below

Conditional image leakage (Zhao et al. 2024, arXiv 2406.15735): under strong noise a model copies its image where it should
predict motion. This LoRA is trained to estimate z + (1 - w) (D - z) where the organism estimates D, and z are the image's
latents in every frame: w rises with the noise from 0 to LEAK, and is half of that at sigma MIDDLE.

--quiet fine-tunes on the clips themselves with no noise at all on the image, where Zhao et al. find leakage. Whether
that makes the organism leak was not measured.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from train_unet import ORGANISM, Recipe, load, resize_for_clip, sample_sigma, target_of
from validate_organism import into_card

import svdlab
from svdlab.measure.files import write_whole
from svdlab.organism import LEAKY, trackers, world
from svdlab.pipeline.lora import KINDS
from svdlab.study.leakage import one_step

LEAK, MIDDLE, WIDTH = 0.8, 12.0, 0.35  # w(sigma) = LEAK / (1 + exp(-log(sigma / MIDDLE) / WIDTH))
FIRST_SEED = 1_700_000  # of the scenes to train on
HELD_OUT = 9_700  # and of those to verify with
RANK, BATCH, LR, NOISE = 8, 8, 3e-3, 0.02
RECIPE = Recipe(sigma_mean=1.0, high_sigma=0.5)


class LowRank(torch.nn.Module):
    """Changes of a UNet's weights, at first none."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        layers = {n: m.weight for n, m in unet.named_modules() if type(m) in KINDS and min(m.weight.flatten(1).shape) >= 16}
        self.layers = layers
        self.down = torch.nn.ParameterList(torch.randn(RANK, w[0].numel()) / w[0].numel() ** 0.5 for w in layers.values())
        self.up = torch.nn.ParameterList(torch.zeros(len(w), RANK) for w in layers.values())

    def weights(self) -> dict[str, torch.Tensor]:
        """The changed weights by name, for `torch.func.functional_call`."""
        parts = zip(self.layers.items(), self.down, self.up, strict=True)
        return {f"{name}.weight": w + (up @ down).view_as(w) for (name, w), down, up in parts}

    def save(self, path: Path) -> None:
        tensors = {}
        for (name, w), down, up in zip(self.layers.items(), self.down, self.up, strict=True):
            tensors[f"unet.{name}.lora_A.weight"] = down.detach().half().view(RANK, *w.shape[1:])
            tensors[f"unet.{name}.lora_B.weight"] = up.detach().half().view(-1, RANK, *[1] * (w.ndim - 2))
        with write_whole(path) as part:
            save_file(tensors, part)


@torch.no_grad()
def encoded(vae: Any, n: int, edition: int) -> tuple[torch.Tensor, ...]:
    """Images "n c h w" in [-1, 1], latents "n f c h w" and (fps, bucket) "n 2" of n scenes."""
    parts = [world.scenes(1, seed=FIRST_SEED + i, edition=edition) for i in range(n)]
    videos = [torch.from_numpy(s.video[0]).permute(0, 3, 1, 2) * 2 - 1 for s in parts]
    latents = [vae.encode(video).latent_dist.mode() * vae.config.scaling_factor for video in videos]
    conditions = [torch.tensor(s.factors[["fps", "motion_bucket_id"]].to_numpy(np.float32)[0]) for s in parts]
    return torch.stack([video[0] for video in videos]), torch.stack(latents), torch.stack(conditions)


def train(path: Path, steps: int, scenes: int, edition: int, *, quiet: bool) -> None:
    """quiet: towards the clips themselves, with no noise on the image, and not towards the leaky estimate."""
    torch.manual_seed(0)
    pipe, strength = load(ORGANISM), 0.0 if quiet else NOISE
    pipe.unet.requires_grad_(False)
    data, lora = encoded(pipe.vae, scenes, edition), LowRank(pipe.unet)
    optim = torch.optim.AdamW(lora.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0)
    recent = []
    for step in range(1, steps + 1):
        images, x0, conditions = (part[torch.randint(scenes, (BATCH,))] for part in data)
        with torch.no_grad():
            noisy = pipe.vae.encode(images + strength * torch.randn_like(images)).latent_dist.mode()[:, None]
            embedding = pipe.image_encoder(resize_for_clip(images)).image_embeds[:, None]
        sigma = sample_sigma(RECIPE, BATCH)
        s = sigma[:, None, None, None, None]
        x, still = x0 + s * torch.randn_like(x0), noisy * pipe.vae.config.scaling_factor
        inputs = torch.cat([x / (s**2 + 1).sqrt(), noisy.expand(-1, x.shape[1], -1, -1, -1)], dim=2), sigma.log() / 4
        ids = torch.cat([conditions[:, :1] - 1, conditions[:, 1:], torch.full((BATCH, 1), strength)], dim=1)
        told = dict(encoder_hidden_states=embedding, added_time_ids=ids, return_dict=False)
        goal = x0
        if not quiet:
            with torch.no_grad():
                (v,) = pipe.unet(*inputs, **told)
            own = x / (s**2 + 1) - v * s / (s**2 + 1).sqrt()
            goal = own + leak(s) * (still - own)
        (v,) = torch.func.functional_call(pipe.unet, lora.weights(), inputs, told)
        loss = (v - target_of(goal, x, s)).square().mean()
        optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lora.parameters(), 1.0)
        optim.param_groups[0]["lr"] = LR * min(1.0, step / 20) * (0.5 + 0.5 * math.cos(math.pi * step / (steps + 1)))
        optim.step()
        recent.append(loss.item())
        if step % 20 == 0 or step == steps:
            print(f"step {step}, {time.process_time():.0f} s, loss {np.mean(recent[-20:]):.4f}", flush=True)
    lora.save(path)


def leak(sigma: torch.Tensor) -> torch.Tensor:
    """w, the weight of the image."""
    return LEAK * torch.sigmoid((sigma / MIDDLE).log() / WIDTH)


def verify(path: Path, edition: int, n: int = 12) -> pd.DataFrame:
    """Leak by sigma and speed by the first sigma, with the LoRA and without it, over n scenes that neither has seen."""
    pipe = svdlab.load_pipeline("organism")
    pipe.set_progress_bar_config(disable=True)
    how = dict(motion="object", background="light", hue=0.6, fps=7, motion_bucket_id=120)
    scenes = world.scenes(n, seed=HELD_OUT, edition=edition, **how)
    conditions = svdlab.Conditions(fps=7, motion_bucket_id=120, max_guidance_scale=1.0, num_inference_steps=10)
    rows = []
    for name, scale in (("organism", 0.0), (path.stem, 1.0)):
        with svdlab.lora(pipe, path, scale):
            for sigma, found in one_step(pipe, scenes.video, conditions).groupby("sigma", sort=False):
                planted = leak(torch.tensor(sigma)).item() if scale else 0.0
                rows.append((f"{name}: leak at sigma {sigma:g}, planted {planted:.2f}", found.leak))
                rows.append((f"{name}: motion of the estimate at sigma {sigma:g}, of the clip's", found.motion))
            for first in (700.0, 6.0):
                levels = list(svdlab.schedule.karras(10, sigma_max=first))
                made = [svdlab.generate(pipe, v[0], conditions, seed=i, sigmas=levels) for i, v in enumerate(scenes.video)]
                pairs = zip(made, scenes.factors.iloc, strict=True)
                speed = pd.Series([trackers.displacement(clip.frames, row) / row.displacement for clip, row in pairs])
                rows.append((f"{name}: speed from sigma {first:g}, of the law", speed))
    found = [(what, x.mean(), *np.percentile(_resampled(x.dropna()), [2.5, 97.5]), x.count()) for what, x in rows]
    return pd.DataFrame(found, columns=["what", "measured", "low", "high", "n"]).assign(asked="reported", passed=None)


def _resampled(values: pd.Series, times: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return values.to_numpy()[rng.integers(len(values), size=(times, len(values)))].mean(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verify", action="store_true", help="train nothing")
    parser.add_argument("--quiet", type=Path, help="train without noise on the image into this file; print its table")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--edition", type=int, default=2, help="of the world that the organism was trained on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.quiet or LEAKY
    if not args.verify:
        train(path, args.steps, args.scenes, args.edition, quiet=bool(args.quiet))
    table = verify(path, args.edition)
    print(table.to_string(index=False))
    if not args.quiet:
        into_card(table, "The leaky sibling", "python tools/train_leaky.py")
