"""Train the organism from scratch, in stages that can each be interrupted and resumed.

    $ svdlab organism train --out build/organism --minutes 60 --processes 2
    $ svdlab organism train --out build/organism --resume

`vae` learns the pictures, `decoder` goes on with its decoding half (which may happen at any time, since the latents
stay as they are), `unet` learns the film (together with the image encoder), `fixed` fine-tunes the
result at one condition. Denoising is learned as SVD does it: EDM preconditioning with sigma_data = 1,
v-prediction, noise augmentation of the input picture, and conditioning dropout (Karras et al. 2022, table 1;
Blattmann et al. 2023, appendix D). Two processes of one thread each use two cores better than two threads:
gradients are averaged over gloo.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from svdlab.errors import InputError
from svdlab.organism import model, world
from svdlab.organism.losses import denoising_loss, vae_loss
from svdlab.organism.optimise import Recipe, Trainer
from svdlab.pipeline.temporal import quick_convolutions
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

STAGES = ("vae", "decoder", "unet", "fixed")
STARTS_FROM = {"decoder": "vae", "unet": "vae", "fixed": "unet"}
FIXED = dict(fps=7, motion_bucket_id=127)  # fps_id 6, as SVD 1.1


class Films:
    """An endless, seeded stream of clips "b f c h w" in [-1, 1] with their conditions; each clip comes `reuse` times."""

    def __init__(
        self,
        recipe: Recipe,
        rank: int,
        start: int,
        encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        choices: bool = False,
        **factors: Any,
    ) -> None:
        self.recipe, self.encode, self.factors, self.choices = recipe, encode, factors, choices
        self.rng = np.random.default_rng([recipe.seed, 7, rank, start])
        self.next_seed = 1_000_000 + 10_000_000 * rank + start  # scenes from other seeds are never trained on
        self.pool: list[list[Any]] = []

    def _fresh(self) -> None:
        n = self.recipe.batch
        # Which pictures are shown may be chosen; what becomes of each is left to the odds, or they would be unlearned.
        ground = [self.rng.choice(["light", "dark"]) for _ in range(n)]
        moves = [self.rng.choice(["pan", "object"]) if g == "dark" else "pan" for g in ground]
        only: dict[str, Any] = dict(background=ground, announced=moves) if self.choices else {}
        odds = world.Odds(self.recipe.pan_right, self.recipe.frozen_on_dark)
        s = world.scenes(n, seed=self.next_seed, odds=odds, **only, **self.factors)
        self.next_seed += 1
        video = torch.from_numpy(s.video).permute(0, 1, 4, 2, 3) * 2 - 1
        conditions = torch.tensor(s.factors[["fps", "motion_bucket_id"]].to_numpy(), dtype=torch.float32)
        latents = self.encode(video) if self.encode else video
        self.pool += [[v[0], z, c, 0] for v, z, c in zip(video, latents, conditions, strict=True)]

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures, films (latents where an encoder was given) and (fps, bucket)."""
        b = self.recipe.batch
        if len(self.pool) < self.recipe.pool or self.rng.random() < 1 / self.recipe.reuse:
            self._fresh()
        order = self.rng.permutation(len(self.pool))[:b]
        chosen = [self.pool[i] for i in order]
        for item in chosen:
            item[3] += 1
        full = len(self.pool) >= self.recipe.pool
        self.pool = [p for p in self.pool if not (full and p[3] >= self.recipe.reuse)]
        images, films, conditions = (torch.stack([c[i] for c in chosen]) for i in range(3))
        return images, films, conditions


def train(
    out: str | Path,
    *,
    stage: str = "unet",
    minutes: float = 60.0,
    processes: int = 1,
    resume: bool = False,
    cooldown: float = 0.0,
    steps: int | None = None,
    recipe: Recipe | None = None,
) -> Path:
    """Train one stage for some minutes and leave a checkpoint that `resume` continues, on this machine or another.

    >>> train("build/organism", stage="vae", minutes=15, processes=2)
    >>> train("build/organism", stage="unet", minutes=60, processes=2)
    >>> export("build/organism", "svdlab/organism/weights/organism")

    out: folder for `{stage}.safetensors` (weights, moving average, optimiser) and `{stage}.csv` (losses).
    cooldown: the last share of the minutes, over which the learning rate falls to zero. steps: stop after so many,
    whatever the minutes.
    Raises InputError where a stage's predecessor is missing, or a checkpoint is there and `resume` is not given.
    """
    out = Path(out)
    if stage not in STAGES:
        raise InputError(f"stage={stage!r}: the stages are {', '.join(STAGES)}.")
    before = out / f"{STARTS_FROM.get(stage, stage)}.safetensors"
    if stage in STARTS_FROM and not before.exists():
        raise InputError(f"{stage} starts from {before}, which is not there: train the earlier stage first.")
    if (out / f"{stage}.safetensors").exists() and not resume:
        raise InputError(f"{out}/{stage}.safetensors exists: pass resume to go on, or name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    recipe = recipe or Recipe()
    args = (processes, out, stage, minutes, cooldown, steps, recipe)
    if processes == 1:
        _work(0, *args)
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # or two processes on two cores spin each other to a stop
        torch.multiprocessing.spawn(_work, args, nprocs=processes, join=True)
    return out / f"{stage}.safetensors"


def load_stages(out: Path, last: str) -> StableVideoDiffusionPipeline:
    """A pipeline with the averaged weights of all stages up to `last` that were trained."""
    pipe = model.build()
    for stage in STAGES[: STAGES.index(last) + 1]:
        path = out / f"{stage}.safetensors"
        if path.exists():
            tensors = load_file(path)
            for name in ("vae", "unet", "image_encoder"):
                prefix = f"ema/{name}."
                weights = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                if weights:
                    getattr(pipe, name).load_state_dict(weights, strict=False)
    scale = out / "scaling_factor.json"
    if scale.exists():
        pipe.vae.register_to_config(**json.loads(scale.read_text()))
    return pipe


def _work(
    rank: int,
    ranks: int,
    out: Path,
    stage: str,
    minutes: float,
    cooldown: float,
    steps: int | None,
    recipe: Recipe,
) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29561")
        dist.init_process_group("gloo", rank=rank, world_size=ranks)
    pipe = load_stages(out, STARTS_FROM.get(stage, stage))
    film = {"unet": pipe.unet, "image_encoder": pipe.image_encoder}
    picture = {"vae": {"vae": pipe.vae}, "decoder": {"vae.decoder": pipe.vae.decoder}}
    parts = picture.get(stage, film)
    for part in (pipe.vae, pipe.unet, pipe.image_encoder):
        part.requires_grad_(False)
    for part in parts.values():
        part.requires_grad_(True).train()
    trainer = Trainer(parts, recipe, out / f"{stage}.safetensors", rank, ranks)
    if trainer.out.exists():
        trainer.load()
    generator = torch.Generator().manual_seed(recipe.seed + 1000 * rank + 7919 * trainer.step)

    if stage in picture:
        stream = Films(recipe, rank, trainer.step)
    else:
        scale = pipe.vae.config.scaling_factor

        @torch.no_grad()
        def encode(video: torch.Tensor) -> torch.Tensor:
            b, f = video.shape[:2]
            return pipe.vae.encode(video.flatten(0, 1)).latent_dist.mode().unflatten(0, (b, f)) * scale

        fixed: dict[str, Any] = dict(FIXED) if stage == "fixed" else {}
        stream = Films(recipe, rank, trainer.step, encode, **fixed)
        open_choices = Films(recipe, rank, trainer.step + 5_000_000, encode, choices=True, **fixed)

    start = saved = time.time()
    before, first_step = trainer.seconds, trainer.step
    recent: list[tuple[float, float]] = []
    stop = False
    with quick_convolutions(pipe):
        while not stop:
            share = (time.time() - start) / (60 * minutes)
            falling = max(0.0, (1 - share) / cooldown) if cooldown and share > 1 - cooldown else 1.0
            choices = stage not in picture and stream.rng.random() < recipe.chance
            batch = open_choices.batch() if choices else stream.batch()
            if stage in picture:  # few frames of few clips: the temporal decoder is the costly part
                first = int(stream.rng.integers(0, world.FRAMES - 3))
                loss = vae_loss(pipe.vae, batch[1][:2, first : first + 4], generator)
                recent += [(loss.item(), 1.0)]
            else:
                loss, per_clip, sigma = denoising_loss(pipe, recipe, batch, generator, choices=choices)
                recent += list(zip(per_clip.tolist(), sigma.tolist(), strict=True))
            trainer.update(loss, falling)
            trainer.clips += ranks * (2 if stage in picture else recipe.batch)
            enough = steps is not None and trainer.step - first_step >= steps
            finished = torch.tensor(float(enough or time.time() - start > 60 * minutes))
            if ranks > 1:
                dist.broadcast(finished, 0)
            stop = bool(finished)
            if rank == 0 and (trainer.step % 50 == 0 or stop):
                trainer.seconds = before + time.time() - start
                losses, sigmas = np.array(recent).T
                row = dict(step=trainer.step, clips=trainer.clips, seconds=round(trainer.seconds), loss=losses.mean())
                for low, high in ((0, 0.3), (0.3, 1), (1, 5), (5, 1e9)):
                    band = losses[(sigmas >= low) & (sigmas < high)]
                    row[f"loss_sigma_{low}_{high:g}"] = band.mean() if len(band) else float("nan")
                trainer.rows.append({k: round(float(v), 5) for k, v in row.items()})
                recent = []
                print("  ".join(f"{k} {v}" for k, v in trainer.rows[-1].items()), flush=True)
                if time.time() - saved > 120 or stop:
                    trainer.save()
                    saved = time.time()
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    if stage == "vae" and rank == 0:
        _store_scaling_factor(out)


@torch.no_grad()
def _store_scaling_factor(out: Path) -> None:
    """One over the latents' spread, so that sigma_data = 1 holds."""
    pipe = load_stages(out, "vae")
    video = torch.from_numpy(world.scenes(64, seed=99).video[:, ::4]).permute(0, 1, 4, 2, 3).flatten(0, 1)
    z = pipe.vae.encode(video * 2 - 1).latent_dist.mode()
    (out / "scaling_factor.json").write_text(json.dumps({"scaling_factor": round(1 / float(z.std()), 5)}))


def adopt(checkpoint: str | Path, out: str | Path) -> Path:
    """Make an exported checkpoint the training state in `out`, with a fresh optimiser: `resume` goes on from there.

    >>> adopt("svdlab/organism/weights/organism", "build/organism")
    >>> train("build/organism", stage="unet", minutes=120, processes=2, resume=True)

    Raises InputError where `out` holds a state already.
    """
    out = Path(out)
    if list(out.glob("*.safetensors")):
        raise InputError(f"{out} holds a training state already: resume it, or name another folder.")
    pipe = StableVideoDiffusionPipeline.from_pretrained(str(checkpoint), use_safetensors=True, local_files_only=True)
    out.mkdir(parents=True, exist_ok=True)
    stages = {"vae": {"vae": pipe.vae}, "unet": {"unet": pipe.unet, "image_encoder": pipe.image_encoder}}
    for stage, parts in stages.items():
        Trainer(parts, Recipe(), out / f"{stage}.safetensors", 0, 1).save()
    (out / "scaling_factor.json").write_text(json.dumps({"scaling_factor": pipe.vae.config.scaling_factor}))
    return out


def loss_figure(out: str | Path) -> Path:
    """Draw `{stage}.csv` of every trained stage into losses.png: loss against clips, by band of sigma."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    logs = {s: Path(out) / f"{s}.csv" for s in STAGES}
    logs = {s: path for s, path in logs.items() if path.exists()}
    if not logs:
        raise InputError(f"{out} holds no training log ({', '.join(s + '.csv' for s in STAGES)}).")
    figure = Figure(figsize=(4 * len(logs), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(logs)))
    for ax, (stage, path) in zip(axes, logs.items(), strict=True):
        table = pd.read_csv(path)
        for column in table.columns[table.columns.str.startswith("loss")]:
            if table[column].notna().any() and not (stage in ("vae", "decoder") and column != "loss"):
                smooth = table[column].rolling(5, min_periods=1).median()
                name = column.removeprefix("loss_").replace("sigma_", "sigma ").replace("_", " to ")
                ax.plot(table.clips, smooth, lw=2 if column == "loss" else 1, label=name.replace("to 1e+09", "up"))
        ax.legend(fontsize=7)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set(title=f"stage {stage}", xlabel="clips", ylabel="loss (mean square)", yscale="log")
    figure.savefig(Path(out) / "losses.png", dpi=120)
    return Path(out) / "losses.png"


def export(out: str | Path, folder: str | Path, *, stage: str = "unet") -> Path:
    """Write the averaged weights as a checkpoint folder in diffusers' own layout, half precision, safetensors."""
    folder = Path(folder)
    pipe = load_stages(Path(out), stage)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "model_index.json").exists():
            raise InputError(f"{folder} holds something that is no checkpoint: name another folder, or a new one.")
        shutil.rmtree(folder)
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    about = dict(height=world.SIZE, width=world.SIZE, label="model organism, not SVD", licence="Apache-2.0 (svdlab)")
    about |= dict(stimuli="world")  # what it was trained on; photographs are outside its world
    (folder / "svdlab.json").write_text(json.dumps(about, indent=2) + "\n")
    return folder
