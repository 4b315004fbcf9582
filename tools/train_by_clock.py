"""Train the organism's UNet and image encoder on one GPU for so many minutes.

    $ python tools/train_by_clock.py --start CHECKPOINT --out build/gpu --minutes 8 --after 0.4
    $ python tools/train_unet.py --start CHECKPOINT --out build/gpu/main --towards build/gpu/pans --share 0.4 --export made

The losses are those of tools/train_unet.py. Worker processes draw scenes while it trains; the GPU encodes them and keeps them.
A step is captured once as a CUDA graph and replayed, since thousands of small kernels cost more to launch than to run. Without
a GPU the same steps run one kernel at a time.

What the image leaves to chance is drawn more evenly than in the world (PHASES), since the UNet exaggerates the likelier
outcome (card.md). After the main phase come three short ones, each from its weights: with fewer pans to the right, with more
frozen dark scenes (the share of either change that is added to the weights sets the odds), and with scenes at fps 7 and bucket
127 alone. `--out` gets log.csv, and for each phase unet.safetensors and image_encoder.safetensors, averaged, in half
precision.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import queue
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from train_unet import FIXED, ORGANISM, RANGES, Recipe, load, losses_of, resize_for_clip
from training import optimizers, orthogonalised

from svdlab.organism import world

FIRST_SEED = 3_000_000
RECIPE = Recipe(drop_latents=0.12, strong_noise=0.13)
ODDS = (0.38, 0.30, 0.12, 0.10, 0.10)  # of what is announced in a third of the chunks: more objects than in the world
PHOTOGRAPH_LIKE = dict(announced="pan", ground="leaves", layers=1, sprites=0, pattern="none")


@dataclass(frozen=True)
class Phase:
    """What is drawn from the pool, and how fast the weights change."""

    name: str
    right: float = 0.69  # share of the pans
    frozen: float = 0.38  # share of the dark scenes
    fixed: bool = False  # scenes at fps 7 and bucket 127 alone
    slower: float = 4.0  # than the main phase

    def odds(self, marks: torch.Tensor) -> torch.Tensor:
        """How often each clip is taken, from its marks "n 3": pans and dark scenes keep their share of the pool."""
        pan, dark, fixed = marks.unbind(1)
        odds = torch.where(pan > 0, self.right / world.PAN_RIGHT, 1.0)
        odds *= torch.where(pan < 0, (1 - self.right) / (1 - world.PAN_RIGHT), 1.0)
        odds *= torch.where(dark > 0, (1 - self.frozen) / (1 - world.FROZEN_ON_DARK), 1.0)
        odds *= torch.where(dark < 0, self.frozen / world.FROZEN_ON_DARK, 1.0)
        return odds * (fixed > 0) if self.fixed else odds


PHASES = (Phase("main", slower=1), Phase("pans", right=0.5), Phase("dark", frozen=0.6), Phase("fixed", fixed=True, slower=2))


def marks_of(factors: pd.DataFrame, fixed: bool, chosen: bool) -> np.ndarray:
    """int8 "n 3": a pan to the right 1, to the left -1; a dark scene that moves 1, that does not -1; fixed 1.

    Where the direction was chosen instead of drawn, a pan has no mark.
    """
    moves = factors["motion"] != "frozen"
    pan = np.where(factors["motion"] == "pan", np.where(factors["direction"] == "right", 1, -1), 0) * (not chosen)
    dark = np.where(factors["background"] == "dark", np.where(moves, 1, -1), 0)
    return np.stack([pan, dark, np.full(len(factors), fixed)], axis=1).astype(np.int8)


def draw_scenes(worker: int, workers: int, scenes: int, found: Any) -> None:
    """Endlessly put (frames "n f h w c" uint8, conditions "n 2", weights "n f 1 h w", marks "n 3") into the queue."""
    import cv2
    from encode_scenes import depth, error_weights

    cv2.setNumThreads(1)
    i = worker
    while True:
        rng = np.random.default_rng([FIRST_SEED, i])
        fixed = bool(rng.random() < 0.12)
        factors: dict[str, Any] = dict(FIXED) if fixed else {}
        lot = rng.random()
        layered = 0.33 <= lot < 0.53 and not fixed
        if lot < 0.33:
            factors["announced"] = [str(kind) for kind in rng.choice(world.ANNOUNCED, scenes, p=ODDS)]
        elif layered:
            factors = depth(scenes, FIRST_SEED + i)
        elif lot > 0.9:
            factors |= PHOTOGRAPH_LIKE
        s = world.scenes(scenes, seed=FIRST_SEED + i, edition=2, **factors)
        frames = np.rint(s.video * 255).astype(np.uint8)
        conditions = s.factors[["fps", "motion_bucket_id"]].to_numpy(np.float32)
        found.put((frames, conditions, error_weights(s), marks_of(s.factors, fixed, layered)))
        i += workers


class Pool:
    """Encoded clips on the device; the oldest are replaced when it is full."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.images = torch.empty(size, 3, 64, 64, dtype=torch.uint8, device=device)
        self.latents = torch.empty(size, 8, 4, 16, 16, dtype=torch.half, device=device)
        self.conditions = torch.empty(size, 2, device=device)
        self.weights = torch.empty(size, 8, 1, 16, 16, dtype=torch.half, device=device)
        self.marks = torch.zeros(size, 3, dtype=torch.int8, device=device)
        self.drawn = 0

    @torch.no_grad()
    def ingest(self, vae: Any, found: Any, most: int) -> None:
        """Encode and keep the scenes of at most so many chunks of the queue."""
        for _ in range(most):
            try:
                frames, *rest = found.get_nowait()
            except queue.Empty:
                return
            device = self.images.device
            video = torch.from_numpy(frames).to(device).permute(0, 1, 4, 2, 3)
            with torch.autocast(device.type, torch.bfloat16):
                z = vae.encode(video.flatten(0, 1).float() / 127.5 - 1).latent_dist.mode()
            at = torch.arange(self.drawn, self.drawn + len(video), device=device) % len(self.images)
            self.images[at] = video[:, 0]
            self.latents[at] = (z.float().unflatten(0, video.shape[:2]) * vae.config.scaling_factor).half()
            for part, new in zip((self.conditions, self.weights, self.marks), rest, strict=True):
                part[at] = torch.from_numpy(new).to(device)
            self.drawn += len(video)

    def take(self, n: int, phase: Phase) -> tuple[torch.Tensor, ...]:
        """What `losses_of` takes. Images are resized here: the kernel comes from the CPU, which no CUDA graph can record."""
        odds = phase.odds(self.marks[: self.drawn].float())
        at = torch.multinomial(odds, n, replacement=True)
        images = self.images[at].float() / 127.5 - 1
        return images, resize_for_clip(images), self.latents[at].float(), self.conditions[at], self.weights[at].float()


class StackedMuon:
    """Muon as in tools/training.py, for all matrices of one shape at once."""

    def __init__(self, params: list[torch.Tensor], momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        shapes: dict[tuple[int, int], list[torch.Tensor]] = {}
        for p in params:
            shapes.setdefault((len(p), p[0].numel()), []).append(p)
        self.groups = [(same, torch.zeros(len(same), *shape, device=same[0].device)) for shape, same in shapes.items()]
        self.momentum, self.weight_decay = momentum, weight_decay

    @torch.no_grad()
    def step(self, lr: torch.Tensor) -> None:
        for params, m in self.groups:
            g = torch.stack([p.grad.flatten(1) for p in params if p.grad is not None])
            m.lerp_(g, 1 - self.momentum)
            x = g.lerp(m, self.momentum)
            u = orthogonalised(x.bfloat16() if x.is_cuda else x).float() * (0.2 * max(m.shape[1:]) ** 0.5) * lr
            for p, part in zip(params, u.unbind(), strict=True):
                p.mul_(1 - lr * self.weight_decay).sub_(part.view_as(p))


class Trainer:
    """Weights, their average, and a step on a batch in fixed places, so that it can be captured."""

    def __init__(self, start: Path, device: torch.device, batch: int) -> None:
        self.pipe, self.device = load(start), device
        self.pipe.vae.to(device)
        self.pipe.unet.set_attn_processor(AttnProcessor())
        self.parts = torch.nn.ModuleDict({"unet": self.pipe.unet, "image_encoder": self.pipe.image_encoder}).to(device).train()
        self.params = list(self.parts.parameters())
        self.average = [p.detach().clone() for p in self.params]
        self.lr, self.rate = torch.zeros((), device=device), torch.zeros((), device=device)
        hidden, rest = (optim.param_groups[0]["params"] for optim in optimizers(self.parts, 1.0))
        self.muon = StackedMuon(hidden)
        how: dict[str, Any] = dict(betas=(0.9, 0.98), weight_decay=0.01, capturable=device.type == "cuda")
        self.adam = torch.optim.AdamW(rest, lr=self.lr, **how)
        self.batch: tuple[torch.Tensor, ...] = ()
        self.found = torch.zeros(2, batch, device=device)  # losses and sigmas
        self.graph: Any = None

    @torch.no_grad()
    def begin_with(self, weights: list[torch.Tensor]) -> None:
        for p, w in zip(self.params, weights, strict=True):
            p.copy_(w)

    def step(self, batch: tuple[torch.Tensor, ...], lr: float, rate: float) -> None:
        """One step at a learning rate; the average moves towards the weights by `rate`."""
        self.lr.fill_(lr)
        self.rate.fill_(rate)
        if not self.batch:
            self.batch = tuple(part.clone() for part in batch)
            if self.device.type == "cuda":
                self.capture()
        for place, value in zip(self.batch, batch, strict=True):
            place.copy_(value)
        if self.graph is None:
            self.compute()
        else:
            self.graph.replay()

    def capture(self) -> None:
        """Three steps aside, as torch asks, then one that is recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        self.graph = graph

    def compute(self) -> None:
        for p in self.params:
            p.grad = None
        with torch.autocast(self.device.type, torch.bfloat16):
            losses, sigma = losses_of(self.pipe, self.parts, RECIPE, self.batch)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.muon.step(self.lr)
        self.adam.step()
        with torch.no_grad():
            for a, p in zip(self.average, self.params, strict=True):
                a.lerp_(p, self.rate)
        self.found.copy_(torch.stack([losses.detach(), sigma]))

    def save(self, folder: Path) -> None:
        """The averaged weights in half precision, a file for each part."""
        folder.mkdir(parents=True, exist_ok=True)
        held = dict(zip((name for name, _ in self.parts.named_parameters()), self.average, strict=True))
        for part in ("unet", "image_encoder"):
            own = {n.removeprefix(f"{part}."): a.half().cpu() for n, a in held.items() if n.startswith(f"{part}.")}
            save_file(own, folder / f"{part}.safetensors")


def train(trainer: Trainer, pool: Pool, found: Any, phase: Phase, seconds: float, how: argparse.Namespace) -> None:
    """Steps for so many seconds; over the last share of them (--cooldown) the learning rate falls to zero."""
    while not phase.odds(pool.marks[: pool.drawn].float()).any():
        pool.ingest(trainer.pipe.vae, found, 4)
        time.sleep(0.05)
    start, step, at, recent = time.time(), 0, 0.0, []
    with (how.out / "log.csv").open("a") as file:
        while step == 0 or at < 1:
            lr = how.lr / phase.slower * min(1.0, (step + 1) / 100, (1 - at) / how.cooldown)
            trainer.step(pool.take(how.batch, phase), lr, max(0.001, 10 / (10 + step)))  # the last tenth of the steps
            step += 1
            if step % 10 == 0:
                recent.append(trainer.found.cpu().numpy())  # waits for the GPU, so that the clock is right
                pool.ingest(trainer.pipe.vae, found, 4)
            at = (time.time() - start) / seconds
            if recent and (step % 200 == 0 or at >= 1):
                loss, sigma = np.concatenate(recent, axis=1)
                row = [step, pool.drawn, time.time() - start, loss.mean()]
                row += [loss[(sigma >= a) & (sigma < b)].mean() for a, b in pairwise(RANGES)]
                csv.writer(file).writerow([phase.name, *(f"{v:.5g}" for v in row)])
                file.flush()
                print(phase.name, *(f"{v:.5g}" for v in row), flush=True)
                recent = []
            if step % 2000 == 0:
                trainer.save(how.out / phase.name)
    trainer.save(how.out / phase.name)
    print(f"{phase.name}: {step} steps of {how.batch} clips in {time.time() - start:.0f} s, {pool.drawn} scenes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, default=ORGANISM, help="checkpoint folder whose weights training begins with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="of the main phase")
    parser.add_argument("--after", type=float, default=0.4, help="of each of the others; 0 for none")
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--cooldown", type=float, default=0.6)
    parser.add_argument("--batch", type=int, default=128, help="clips")
    parser.add_argument("--workers", type=int, default=14, help="processes that draw scenes")
    parser.add_argument("--scenes", type=int, default=64, help="that a worker draws at once")
    parser.add_argument("--pool", type=int, default=150_000, help="clips that are kept")
    how = parser.parse_args()
    how.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    found = context.Queue(maxsize=64)
    workers = [
        context.Process(target=draw_scenes, args=(i, how.workers, how.scenes, found), daemon=True) for i in range(how.workers)
    ]
    for worker in workers:
        worker.start()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pool = Pool(how.pool, device)
    trainer = Trainer(how.start, device, how.batch)
    while pool.drawn < 10 * how.batch:
        pool.ingest(trainer.pipe.vae, found, 4)
        time.sleep(0.05)
    for phase in PHASES if how.after else PHASES[:1]:
        train(trainer, pool, found, phase, 60 * (how.minutes if phase.name == "main" else how.after), how)
        if phase.name == "main":
            made = [a.clone() for a in trainer.average]
        trainer.begin_with(made)
    for worker in workers:
        worker.kill()


if __name__ == "__main__":
    main()
