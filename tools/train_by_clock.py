"""Train the organism's UNet and image encoder on one GPU for so many minutes.

    $ python tools/train_by_clock.py --start CHECKPOINT --out build/gpu --minutes 6.8 --fixed 0.8   # how the weights were made
    $ python tools/train_unet.py --start CHECKPOINT --out build/gpu --export build/exported         # in diffusers' layout

The losses are those of tools/train_unet.py. Worker processes draw scenes while it trains; the GPU encodes them and keeps them.
A step is captured once as a CUDA graph and replayed, since thousands of small kernels cost more to launch than to run. `--out`
gets unet.safetensors and image_encoder.safetensors, averaged, in half precision; the same in fixed/, after the minutes that
follow on scenes at fps 7 and bucket 127 (--fixed); and log.csv. Without a GPU the same steps run one kernel at a time.

The weights were made by a first version of this script, on the world and with the recipe of then (card.md, part 3); this
one, which was put in order and given scenes of two layers afterwards, has run on a CPU only.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import queue
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from train_unet import FIXED, ORGANISM, RANGES, Recipe, load, losses_of, resize_for_clip
from training import optimizers, orthogonalised

FIRST_SEED = 3_000_000
ODDS = (0.38, 0.30, 0.12, 0.10, 0.10)  # of what is announced in every other chunk: more objects than by the world's own odds


def draw_scenes(worker: int, workers: int, scenes: int, fixed_share: float, found: Any) -> None:
    """Endlessly put (fixed or not, frames "n f h w c" uint8, conditions "n 2", weights "n f 1 h w") into the queue."""
    import cv2
    from encode_scenes import depth, error_weights

    from svdlab.organism import world

    cv2.setNumThreads(1)
    i = worker
    while True:
        rng = np.random.default_rng([FIRST_SEED, i])
        fixed = bool(rng.random() < fixed_share)
        factors: dict[str, Any] = dict(FIXED) if fixed else {}
        lot = rng.random()
        if lot < 0.4:
            factors["announced"] = [str(kind) for kind in rng.choice(world.ANNOUNCED, scenes, p=ODDS)]
        elif lot < 0.6 and not fixed:
            factors = depth(scenes, FIRST_SEED + i)
        s = world.scenes(scenes, seed=FIRST_SEED + i, edition=2, **factors)
        frames = np.rint(s.video * 255).astype(np.uint8)
        found.put((fixed, frames, s.factors[["fps", "motion_bucket_id"]].to_numpy(np.float32), error_weights(s)))
        i += workers


class Pool:
    """Encoded clips on the device; the oldest are replaced when it is full."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.images = torch.empty(size, 3, 64, 64, dtype=torch.uint8, device=device)
        self.latents = torch.empty(size, 8, 4, 16, 16, dtype=torch.half, device=device)
        self.conditions = torch.empty(size, 2, device=device)
        self.weights = torch.empty(size, 8, 1, 16, 16, dtype=torch.half, device=device)
        self.drawn = 0

    def add(self, images: torch.Tensor, latents: torch.Tensor, conditions: torch.Tensor, weights: torch.Tensor) -> None:
        at = torch.arange(self.drawn, self.drawn + len(images), device=images.device) % len(self.images)
        self.images[at], self.latents[at], self.conditions[at], self.weights[at] = images, latents.half(), conditions, weights
        self.drawn += len(images)

    def take(self, n: int) -> tuple[torch.Tensor, ...]:
        """What `losses_of` takes. Images are resized here: the kernel comes from the CPU, which no CUDA graph can record."""
        at = torch.randint(min(self.drawn, len(self.images)), (n,), device=self.images.device)
        images = self.images[at].float() / 127.5 - 1
        return images, resize_for_clip(images), self.latents[at].float(), self.conditions[at], self.weights[at].float()


@torch.no_grad()
def encode_into(pools: dict[bool, Pool], vae: Any, found: Any, most: int) -> None:
    """Take at most so many chunks from the queue."""
    for _ in range(most):
        try:
            fixed, frames, conditions, weights = found.get_nowait()
        except queue.Empty:
            return
        device = pools[fixed].images.device
        video = torch.from_numpy(frames).to(device).permute(0, 1, 4, 2, 3)
        with torch.autocast(device.type, torch.bfloat16):
            z = vae.encode(video.flatten(0, 1).float() / 127.5 - 1).latent_dist.mode()
        latents = z.float().unflatten(0, video.shape[:2]) * vae.config.scaling_factor
        pools[fixed].add(video[:, 0], latents, *(torch.from_numpy(part).to(device) for part in (conditions, weights)))


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
        self.lr = torch.zeros((), device=device)
        hidden, rest = (optim.param_groups[0]["params"] for optim in optimizers(self.parts, 1.0))
        self.muon = StackedMuon(hidden)
        how: dict[str, Any] = dict(betas=(0.9, 0.98), weight_decay=0.01, capturable=device.type == "cuda")
        self.adam = torch.optim.AdamW(rest, lr=self.lr, **how)
        self.batch: tuple[torch.Tensor, ...] = ()
        self.found = torch.zeros(2, batch, device=device)  # losses and sigmas
        self.graph: Any = None

    def step(self, batch: tuple[torch.Tensor, ...], lr: float) -> None:
        self.lr.fill_(lr)
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
            losses, sigma = losses_of(self.pipe, self.parts, Recipe(), self.batch)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.muon.step(self.lr)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.params, 0.001)
        self.found.copy_(torch.stack([losses.detach(), sigma]))

    def save(self, folder: Path) -> None:
        """The averaged weights in half precision, a file for each part."""
        folder.mkdir(parents=True, exist_ok=True)
        held = dict(zip((name for name, _ in self.parts.named_parameters()), self.average, strict=True))
        for part in ("unet", "image_encoder"):
            own = {n.removeprefix(f"{part}."): a.half().cpu() for n, a in held.items() if n.startswith(f"{part}.")}
            save_file(own, folder / f"{part}.safetensors")


def train(
    trainer: Trainer, pool: Pool, ingest: Callable[[], None], seconds: float, how: argparse.Namespace, out: Path
) -> None:
    """Steps for so many seconds; over the last share of them (--cooldown) the learning rate falls to zero."""
    start, step, recent = time.time(), 0, []
    with (out / "log.csv").open("a") as file:
        while step == 0 or (at := (time.time() - start) / seconds) < 1:
            at = (time.time() - start) / seconds
            trainer.step(pool.take(how.batch), how.lr * min(1.0, (step + 1) / 100, (1 - at) / how.cooldown))
            step += 1
            if step % 10 == 0:
                recent.append(trainer.found.cpu().numpy())  # waits for the GPU, so that the clock is right
                ingest()
            if step % 200 == 0:
                loss, sigma = np.concatenate(recent, axis=1)
                row = [step, pool.drawn, time.time() - start, loss.mean()]
                row += [loss[(sigma >= a) & (sigma < b)].mean() for a, b in pairwise(RANGES)]
                csv.writer(file).writerow([f"{v:.5g}" for v in row])
                print(*(f"{v:.5g}" for v in row), flush=True)
                recent = []
            if step % 2000 == 0:
                trainer.save(out)
    trainer.save(out)
    print(f"{step} steps in {time.time() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, default=ORGANISM, help="checkpoint folder whose weights training begins with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.8)
    parser.add_argument("--fixed", type=float, default=0.0, help="minutes that follow for organism-fixed")
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--cooldown", type=float, default=0.6)
    parser.add_argument("--batch", type=int, default=128, help="clips")
    parser.add_argument("--workers", type=int, default=14, help="processes that draw scenes")
    parser.add_argument("--scenes", type=int, default=64, help="that a worker draws at once")
    parser.add_argument("--pool", type=int, default=150_000, help="clips that are kept")
    how = parser.parse_args()
    (how.out / "fixed").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    found = context.Queue(maxsize=64)
    share = 0.12 if how.fixed else 0.0
    workers = [
        context.Process(target=draw_scenes, args=(i, how.workers, how.scenes, share, found), daemon=True)
        for i in range(how.workers)
    ]
    for worker in workers:
        worker.start()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pools = {False: Pool(how.pool, device), True: Pool(how.pool // 5, device)}
    trainer = Trainer(how.start, device, how.batch)
    ingest = lambda: encode_into(pools, trainer.pipe.vae, found, 4)
    while pools[False].drawn < 10 * how.batch or (how.fixed and pools[True].drawn < how.batch):
        ingest()
        time.sleep(0.05)
    train(trainer, pools[False], ingest, 60 * how.minutes, how, how.out)
    if how.fixed:
        how.lr, how.cooldown = how.lr / 2, 0.8
        train(trainer, pools[True], ingest, 60 * how.fixed, how, how.out / "fixed")
    for worker in workers:
        worker.kill()


if __name__ == "__main__":
    main()
