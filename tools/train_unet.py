"""Train the organism's UNet and image encoder on its world, on CPU cores or on a GPU; stop and start again as you like.

    $ python tools/train_unet.py --fresh build/start                                    # untrained, with the organism's VAE
    $ python tools/encode_scenes.py --start build/start --clips build/clips --files 80  # in another process, if you like
    $ python tools/encode_scenes.py --start build/start --clips build/shifts --files 14 --shifts
    $ python tools/train_unet.py --start build/start --clips build/shifts --out build/unet --steps 4600 --cooldown 0 --short 1
    $ python tools/train_unet.py --start build/start --clips build/clips --out build/unet --steps 30000
    $ python tools/train_unet.py --start build/start --out build/unet --export build/exported    # diffusers' layout, float16
    $ ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 -- tools/train_unet.py ...       # a process for each core

SVD's training: EDM preconditioning with sigma_data = 1 and v-prediction (Karras et al. 2022, table 1), noise augmentation of
the input image and conditioning dropout (Blattmann et al. 2023, appendix D). The VAE stays as it is.
Short clips of pans and tilts come before the whole world. Over 1,700 steps of everything the UNet learned to copy frame 0 and
to move a sprite, but no ground; over 2,600 of short shifts the error of frame 1 of a tilt at sigma 20 fell from 0.29 to 0.07.
The learning rate falls by steps, not by the clock: a process that was stopped for an hour has lost nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from training import averaged, load_state, optimizers, save_state, set_rate
from transformers import CLIPVisionModelWithProjection

from svdlab.organism import world

ORGANISM = Path(__file__).parents[1] / "svdlab" / "organism" / "weights" / "organism"
SHORT = 4  # frames
RANGES = (0, 0.3, 1, 5, 30, 1e9)  # of sigma, in the log
FIXED = dict(fps=7, motion_bucket_id=127)  # fps_id 6, as SVD 1.1
CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@dataclass(frozen=True)
class Recipe:
    """The numbers of the training."""

    batch: int = 8  # clips
    lr: float = 2e-3
    warmup: int = 200  # steps
    short: float = 0.5  # share of batches that show SHORT frames only: cheaper, and small moves are learned there
    sigma_mean: float = 0.2  # of log sigma
    sigma_std: float = 1.4
    high_sigma: float = 0.30  # share of clips with log-uniform sigma in [5, 700], where a clip's motion is decided
    drop_both: float = 0.08  # unconditional: image embedding and image latents set to zero
    drop_latents: float = 0.15  # the embedding alone must suffice; with 0.07 it hardly changed a clip
    strong_noise: float = 0.20  # share of clips whose image carries noise up to 1: again the embedding must suffice


def fresh(folder: Path) -> None:
    """The organism's checkpoint with an untrained UNet and image encoder.

    It has 64 channels at least: diffusers' norms have 32 groups, and over 32 channels they are instance norms, which take away
    each channel's mean, and with it an image's colours.
    """
    torch.manual_seed(0)
    pipe = load(ORGANISM)
    pipe.unet = UNetSpatioTemporalConditionModel.from_config(pipe.unet.config)
    pipe.image_encoder = CLIPVisionModelWithProjection(pipe.image_encoder.config)
    pipe.save_pretrained(folder, safe_serialization=True)


def batches(recipe: Recipe, seed: int, folder: Path) -> Iterator[tuple[torch.Tensor, ...]]:
    """What `losses_of` takes, endlessly, from the files that are there."""
    rng = np.random.default_rng([seed, 7])
    clips: dict[str, dict[str, torch.Tensor]] = {}
    for i in count():
        if i % 100 == 0:
            read_clips(folder, clips)
            files = list(clips.values())
        frames = SHORT if rng.random() < recipe.short else None
        chosen = [(files[k], j) for k, j in rng.integers((len(files), len(files[0]["images"])), size=(recipe.batch, 2))]
        images, latents, conditions, weights = (
            torch.stack([file[part][j] for file, j in chosen]) for part in ("images", "latents", "conditions", "weights")
        )
        images = images.float() / 127.5 - 1
        yield images, resize_for_clip(images), latents[:, :frames].float(), conditions, weights[:, :frames].float()


def read_clips(folder: Path, have: dict[str, dict[str, torch.Tensor]]) -> None:
    """Add the files that are new in `folder` to those that were read already."""
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in have:
            have[path.name] = load_file(path)


def sample_sigma(recipe: Recipe, n: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Noise levels for n clips: log-normal, and a share of log-uniform ones at the top."""
    normal = torch.randn(n, device=device) * recipe.sigma_std + recipe.sigma_mean
    low, high = math.log(5.0), math.log(700.0)
    uniform = low + (high - low) * torch.rand(n, device=device)
    return torch.where(torch.rand(n, device=device) < recipe.high_sigma, uniform, normal).exp()


def target_of(x0: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """What the UNet must give for noisy latents x, so that the denoised estimate is x0."""
    return (x0 - x / (sigma**2 + 1)) / (-sigma / (sigma**2 + 1).sqrt())


def resize_for_clip(images: torch.Tensor) -> torch.Tensor:
    """Images "n c h w" in [-1, 1] as the pipeline gives them to the image encoder."""
    small = _resize_with_antialiasing(images, (224, 224))
    return ((small + 1) / 2 - CLIP_MEAN.to(small)) / CLIP_STD.to(small)


def losses_of(pipe: Any, parts: Any, recipe: Recipe, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each clip's squared error of the UNet's output, which is |D - x0|**2 / c_out**2 of the denoiser D, and its sigma.

    A batch has images "b c h w", the same as the image encoder takes them, latents "b f c h w", (fps, bucket) "b 2" and,
    where the error is weighted, weights "b f 1 h w".
    Everything is drawn on the device: nothing waits for the CPU, and a CUDA graph may record it.
    """
    images, for_clip, x0, conditions, *weights = batch
    b, f = x0.shape[:2]
    device = x0.device
    rand = partial(torch.rand, b, device=device)
    strength = torch.where(rand() < recipe.strong_noise, rand(), (torch.randn(b, device=device) * 0.7 - 3.5).exp())
    with torch.no_grad():
        noisy = images + strength[:, None, None, None] * torch.randn_like(images)
        image_latents = pipe.vae.encode(noisy).latent_dist.mode()
    embedding = parts["image_encoder"](for_clip).image_embeds[:, None]
    lot = rand()
    both, alone = lot < recipe.drop_both, lot > 1 - recipe.drop_latents
    embedding = embedding * (~both)[:, None, None]
    image_latents = image_latents * (~(both | alone))[:, None, None, None]

    sigma = sample_sigma(recipe, b, device)
    s = sigma[:, None, None, None, None]
    x = x0 + s * torch.randn_like(x0)
    inputs = torch.cat([x / (s**2 + 1).sqrt(), image_latents[:, None].expand(-1, f, -1, -1, -1)], dim=2)
    ids = torch.stack([conditions[:, 0] - 1, conditions[:, 1], strength], dim=1)
    v = parts["unet"](inputs, sigma.log() / 4, encoder_hidden_states=embedding, added_time_ids=ids).sample
    error = (v.float() - target_of(x0, x, s)).square()
    return (error * weights[0] if weights else error).mean((1, 2, 3, 4)), sigma


class Trained(torch.nn.ModuleDict):
    """The UNet and the image encoder. Several processes share gradients of what `forward` computes, and of nothing else."""

    def forward(self, pipe: Any, recipe: Recipe, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        return losses_of(pipe, self, recipe, batch)


def load(folder: Path) -> Any:
    """A checkpoint folder in single precision, its VAE not to be trained."""
    pipe = StableVideoDiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    pipe.to(dtype=torch.float32)
    pipe.vae.requires_grad_(False)
    return pipe


def train(start: Path, clips: Path, out: Path, steps: int, cooldown: float, recipe: Recipe) -> None:
    """Go on from what `out` holds until the steps are done; over their last share (cooldown) the learning rate falls to zero.

    `log.csv` in `out` has a row for each 50 steps: losses, also by the range of sigma, and seconds of processor time.
    """
    accelerator = Accelerator(mixed_precision="bf16")
    pipe = load(start)
    pipe.vae.to(accelerator.device)
    pipe.unet.set_attn_processor(AttnProcessor())  # sequences of 8 to 64: a sixth faster here than torch's fused attention
    parts = Trained({"unet": pipe.unet, "image_encoder": pipe.image_encoder}).train()
    optims = optimizers(parts, recipe.lr)
    parts, *optims = accelerator.prepare(parts, *optims)
    model = accelerator.unwrap_model(parts)
    ema = EMAModel(model.parameters(), decay=0.999)
    done = load_state(out / "state.safetensors", model, ema, optims)
    torch.manual_seed(done + accelerator.process_index)
    saved = time.time()
    recent: list[np.ndarray] = []
    for step, batch in enumerate(batches(recipe, done + 7919 * accelerator.process_index, clips), start=done + 1):
        falling = min(1.0, (steps - step + 1) / (cooldown * steps)) if cooldown else 1.0
        with accelerator.autocast():
            losses, sigma = parts(pipe, recipe, tuple(t.to(accelerator.device) for t in batch))
        accelerator.backward(losses.mean())
        accelerator.clip_grad_norm_(parts.parameters(), 1.0)
        set_rate(optims, recipe.lr * falling * min(1.0, step / recipe.warmup))
        for optim in optims:
            optim.step()
            optim.zero_grad()
        ema.step(model.parameters())
        recent.append(torch.stack([losses.detach(), sigma]).cpu().numpy())
        over = step >= steps
        if accelerator.is_main_process and (step % 50 == 0 or over):
            _log(out / "log.csv", step, step * recipe.batch * accelerator.num_processes, np.concatenate(recent, axis=1))
            recent = []
            if over or time.time() - saved > 180:
                save_state(out / "state.safetensors", step, model, ema, optims)
                saved = time.time()
        if over:
            return


def _log(path: Path, step: int, clips: int, found: np.ndarray) -> None:
    """A row of `log.csv`: the mean loss of this process, and that of each range of sigma."""
    loss, sigma = found
    row = {"step": step, "clips": clips, "seconds": round(time.process_time()), "loss": loss.mean()}
    row |= {f"loss_sigma_{a:g}_{b:g}": loss[(sigma >= a) & (sigma < b)].mean() for a, b in pairwise(RANGES)}
    if not path.exists():
        path.write_text(",".join(row) + "\n")
    with path.open("a") as file:
        file.write(",".join(f"{v:.5g}" if isinstance(v, np.floating) else str(v) for v in row.values()) + "\n")


def export(start: Path, out: Path, folder: Path, towards: Path | None = None, share: float = 0.0) -> None:
    """The averaged weights as a checkpoint folder in diffusers' layout, half precision, safetensors.

    `out` holds the state of this script, or the two files of tools/train_by_clock.py; `towards` two such files, of whose
    difference from `out` a share is added.
    """
    pipe = load(start)
    weights = averaged(state) if (state := out / "state.safetensors").exists() else {}
    for name in ("unet", "image_encoder"):
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        own = own or load_file(out / f"{name}.safetensors")
        if towards:
            other = load_file(towards / f"{name}.safetensors")
            own = {k: (1 - share) * v.float() + share * other[k].float() for k, v in own.items()}
        getattr(pipe, name).load_state_dict(own, strict=False)
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    about = dict(height=world.SIZE, width=world.SIZE, label="model organism, not SVD", licence="Apache-2.0 (svdlab)")
    (folder / "svdlab.json").write_text(json.dumps(about | {"stimuli": "world"}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the training state")
    parser.add_argument("--start", type=Path, default=ORGANISM, help="checkpoint folder whose weights training begins with")
    parser.add_argument("--clips", type=Path, help="folder that tools/encode_scenes.py fills")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--cooldown", type=float, default=0.25)
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--short", type=float, default=Recipe.short, help="share of batches with 4 frames only")
    parser.add_argument("--fresh", type=Path, help="write an untrained checkpoint, and train nothing")
    parser.add_argument("--export", type=Path, help="write the averaged weights as a checkpoint, and train nothing")
    parser.add_argument("--towards", type=Path, help="with --export: folder of other averaged weights")
    parser.add_argument("--share", type=float, default=0.0, help="of the way to them")
    args = parser.parse_args()
    if args.fresh:
        fresh(args.fresh)
    elif args.export:
        export(args.start, args.out, args.export, args.towards, args.share)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        train(args.start, args.clips, args.out, args.steps, args.cooldown, Recipe(lr=args.lr, short=args.short))
