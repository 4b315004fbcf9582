"""Train the organism's UNet and image encoder on its world, on CPU cores or on a GPU; stop and start again as you like.

    $ python tools/train_unet.py --start CHECKPOINT --out build/unet --minutes 60             # weights of a checkpoint folder
    $ python tools/train_unet.py --out build/unet --minutes 600                               # goes on from build/unet
    $ python tools/train_unet.py --start build/exported --out build/fixed --fixed --minutes 20    # fine-tunes at one condition
    $ python tools/train_unet.py --out build/unet --export build/exported                     # diffusers' layout, float16
    $ accelerate launch --num_processes 2 --cpu tools/train_unet.py ...                       # a process for each core

SVD's training: EDM preconditioning with sigma_data = 1 and v-prediction (Karras et al. 2022, table 1), noise augmentation of
the input image and conditioning dropout (Blattmann et al. 2023, appendix D). The VAE stays as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from diffusers.training_utils import EMAModel
from training import averaged, load_state, optimizers, save_state, set_rate

from svdlab.organism import world

FIXED = dict(fps=7, motion_bucket_id=127)  # fps_id 6, as SVD 1.1
CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@dataclass(frozen=True)
class Recipe:
    """The numbers of the first edition's training; those that steered its last minutes are in the organism's card."""

    batch: int = 8  # clips
    lr: float = 2e-3
    warmup: int = 200  # steps
    reuse: int = 6  # times a rendered clip is used, each with its own noise
    pool: int = 512  # clips that wait to be used again
    sigma_mean: float = 0.0  # of log sigma
    sigma_std: float = 1.4
    high_sigma: float = 0.15  # share of clips with log-uniform sigma in [5, 700], where a clip's motion is decided
    drop_both: float = 0.08  # unconditional: image embedding and image latents set to zero
    drop_latents: float = 0.07  # the embedding alone must suffice
    strong_noise: float = 0.10  # share of clips whose image carries noise up to 1: again the embedding must suffice


def batches(recipe: Recipe, seed: int, encode: Any, factors: dict[str, Any]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Images "b c h w" in [-1, 1], latents "b f c h w" and (fps, bucket) "b 2", endlessly."""
    rng = np.random.default_rng([seed, 7])
    scene_seed = 1_000_000 + 10_000_000 * seed  # scenes from seeds below a million are never trained on
    pool: list[list[Any]] = []
    while True:
        if len(pool) < recipe.pool or rng.random() < 1 / recipe.reuse:
            scenes = world.scenes(recipe.batch, seed=scene_seed, **factors)
            scene_seed += 1
            video = torch.from_numpy(scenes.video).permute(0, 1, 4, 2, 3) * 2 - 1
            conditions = torch.tensor(scenes.factors[["fps", "motion_bucket_id"]].to_numpy(), dtype=torch.float32)
            pool += [[v[0], z, c, 0] for v, z, c in zip(video, encode(video), conditions, strict=True)]
        chosen = [pool[i] for i in rng.permutation(len(pool))[: recipe.batch]]
        for item in chosen:
            item[3] += 1
        pool = [p for p in pool if len(pool) < recipe.pool or p[3] < recipe.reuse]
        yield tuple(torch.stack([c[i] for c in chosen]) for i in range(3))


def sample_sigma(recipe: Recipe, n: int) -> torch.Tensor:
    """Noise levels for n clips: log-normal, and a share of log-uniform ones at the top."""
    normal = torch.randn(n) * recipe.sigma_std + recipe.sigma_mean
    low, high = math.log(5.0), math.log(700.0)
    uniform = low + (high - low) * torch.rand(n)
    return torch.where(torch.rand(n) < recipe.high_sigma, uniform, normal).exp()


def target_of(x0: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """What the UNet must give for noisy latents x, so that the denoised estimate is x0."""
    return (x0 - x / (sigma**2 + 1)) / (-sigma / (sigma**2 + 1).sqrt())


def resize_for_clip(images: torch.Tensor) -> torch.Tensor:
    """Images "n c h w" in [-1, 1] as the pipeline gives them to the image encoder."""
    small = _resize_with_antialiasing(images, (224, 224))
    return ((small + 1) / 2 - CLIP_MEAN.to(small)) / CLIP_STD.to(small)


def loss_of(pipe: Any, parts: torch.nn.ModuleDict, recipe: Recipe, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The squared error of the UNet's output, which is |D - x0|**2 / c_out**2 of the denoiser D."""
    images, x0, conditions = batch
    b, f = x0.shape[:2]
    device = x0.device
    strength = torch.where(torch.rand(b) < recipe.strong_noise, torch.rand(b), (torch.randn(b) * 0.7 - 3.5).exp()).to(device)
    with torch.no_grad():
        noisy = images + strength[:, None, None, None] * torch.randn_like(images)
        image_latents = pipe.vae.encode(noisy).latent_dist.mode()
    embedding = parts["image_encoder"](resize_for_clip(images)).image_embeds[:, None]
    lot = torch.rand(b, device=device)
    both, alone = lot < recipe.drop_both, lot > 1 - recipe.drop_latents
    embedding = embedding * (~both)[:, None, None]
    image_latents = image_latents * (~(both | alone))[:, None, None, None]

    sigma = sample_sigma(recipe, b).to(device)
    s = sigma[:, None, None, None, None]
    x = x0 + s * torch.randn_like(x0)
    inputs = torch.cat([x / (s**2 + 1).sqrt(), image_latents[:, None].expand(-1, f, -1, -1, -1)], dim=2)
    ids = torch.stack([conditions[:, 0] - 1, conditions[:, 1], strength], dim=1)
    v = parts["unet"](inputs, sigma.log() / 4, encoder_hidden_states=embedding, added_time_ids=ids).sample
    return (v - target_of(x0, x, s)).square().mean()


def load(folder: Path) -> Any:
    """A checkpoint folder in single precision, its VAE not to be trained."""
    pipe = StableVideoDiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    pipe.to(dtype=torch.float32)
    pipe.vae.requires_grad_(False)
    return pipe


def train(start: Path, out: Path, minutes: float, cooldown: float, factors: dict[str, Any], recipe: Recipe) -> None:
    """Go on from what `out` holds; over the last share of the minutes (cooldown) the learning rate falls to zero."""
    accelerator = Accelerator()
    pipe = load(start)
    pipe.vae.to(accelerator.device)
    parts = torch.nn.ModuleDict({"unet": pipe.unet, "image_encoder": pipe.image_encoder}).train()
    optims = optimizers(parts, recipe.lr)
    parts, *optims = accelerator.prepare(parts, *optims)
    model = accelerator.unwrap_model(parts)
    ema = EMAModel(model.parameters(), decay=0.999)
    done = load_state(out / "state.safetensors", model, ema, optims)
    scale = pipe.vae.config.scaling_factor

    @torch.no_grad()
    def encode(video: torch.Tensor) -> torch.Tensor:
        flat = video.flatten(0, 1).to(accelerator.device)
        return (pipe.vae.encode(flat).latent_dist.mode() * scale).unflatten(0, video.shape[:2]).cpu()

    torch.manual_seed(done + accelerator.process_index)
    begin = saved = time.time()
    recent: list[float] = []
    stream = batches(recipe, done + 7919 * accelerator.process_index, encode, factors)
    for step, batch in enumerate(stream, start=done + 1):
        share = (time.time() - begin) / (60 * minutes)
        falling = min(1.0, max(0.0, (1 - share) / cooldown)) if cooldown else 1.0
        loss = loss_of(pipe, parts, recipe, tuple(t.to(accelerator.device) for t in batch))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parts.parameters(), 1.0)
        set_rate(optims, recipe.lr * falling * min(1.0, step / recipe.warmup))
        for optim in optims:
            optim.step()
            optim.zero_grad()
        ema.step(model.parameters())
        recent.append(loss.item())
        over = bool(accelerator.gather(torch.tensor(float(share >= 1), device=accelerator.device)).max())
        if accelerator.is_main_process and (step % 50 == 0 or over):
            print(f"step {step}  loss {np.mean(recent):.4f}  {time.time() - begin:.0f} s", flush=True)
            recent = []
            if over or time.time() - saved > 180:
                save_state(out / "state.safetensors", step, model, ema, optims)
                saved = time.time()
        if over:
            return


def export(start: Path, out: Path, folder: Path) -> None:
    """The averaged weights as a checkpoint folder in diffusers' layout, half precision, safetensors."""
    pipe = load(start)
    weights = averaged(out / "state.safetensors")
    for name in ("unet", "image_encoder"):
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        getattr(pipe, name).load_state_dict(own, strict=False)
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    about = dict(height=world.SIZE, width=world.SIZE, label="model organism, not SVD", licence="Apache-2.0 (svdlab)")
    (folder / "svdlab.json").write_text(json.dumps(about | {"stimuli": "world"}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the training state")
    parser.add_argument("--start", type=Path, help="checkpoint folder whose weights training begins with")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--cooldown", type=float, default=0.0)
    parser.add_argument("--fixed", action="store_true", help="only scenes at fps 7, bucket 127")
    parser.add_argument("--export", type=Path, help="write the averaged weights as a checkpoint, and train nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = args.start or Path(str(Path(__file__).parents[1] / "svdlab" / "organism" / "weights" / "organism"))
    if args.export:
        export(start, args.out, args.export)
    else:
        train(start, args.out, args.minutes, args.cooldown, FIXED if args.fixed else {}, Recipe())
