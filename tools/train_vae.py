"""Train the organism's second VAE on procedurally drawn images; stop it whenever you like, and start it again.

    $ python tools/train_vae.py --out build/vae2 --steps 8000            # constant rate, then falling over the last 40 %
    $ python tools/train_vae.py --out build/vae2 --report                # PSNR on photographs that it was never trained on

The same code runs on CPU cores and on a GPU (accelerate picks the device). Batches are twelve 32 px crops of dead leaves
(`svdlab.organism.nature`) and of the world's scenes: single frames, or three clips of four frames that move by up to 3 px.
Unrelated crops as frames of one clip, and grey crops, did not work; AdamW alone reached 10 dB where Muon reached 20.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from svdlab.measure.files import write_whole
from svdlab.organism import nature, world

CROP, BATCH, SPEED = 32, 12, 3.0  # px, frames, px/frame


def build_vae() -> AutoencoderKLTemporalDecoder:
    """64 channels on all levels: two channels to each of the 32 norm groups, where 32 channels had instance norms."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 3,
        block_out_channels=(64, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        sample_size=world.SIZE,
    )


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024) for weights seen as matrices "out rest"; steps as large as Adam's."""

    def __init__(self, params: list, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(m, group["momentum"]).flatten(1)
                u = orthogonalised(g) * 0.2 * max(g.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u.view_as(p), alpha=-group["lr"])


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values near 1, by five quintic Newton-Schulz steps."""
    x = g / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        y = x @ x.T
        x = 3.4445 * x + (-4.7750 * y + 2.0315 * y @ y) @ x
    return x.T if tall else x


def optimizers(model: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for the rest (ends, norms, biases)."""
    hidden, rest = [], []
    for name, p in model.named_parameters():
        inside = p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and not any(e in name for e in ("conv_in", "conv_out"))
        (hidden if inside else rest).append(p)
    return [Muon(hidden, lr), torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]


def batches(seed: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Frames "n c h w" in [-1, 1], and how many consecutive ones are one clip."""
    rng = np.random.default_rng(seed)
    pool = [_drawn(rng) for _ in range(24)]
    while True:
        pool[rng.integers(len(pool))] = _drawn(rng)
        frames = 4 if rng.random() < 0.5 else 1
        clips = [_moved(rng, pool[rng.integers(len(pool))], frames) for _ in range(BATCH // frames)]
        yield torch.from_numpy(np.concatenate(clips)).permute(0, 3, 1, 2).contiguous() * 2 - 1, frames


def _drawn(rng: np.random.Generator) -> np.ndarray:
    """A large image to take crops from: leaves of some coarseness, or one of the world's first frames, enlarged."""
    if rng.random() < 0.15:
        scene = world.scenes(1, seed=int(rng.integers(1_000_000, 2**31)), frames=1, size=2 * world.SIZE)
        return scene.video[0, 0]
    return nature.dead_leaves(rng, 160, smallest=float(rng.choice([1.5, 1.5, 2.0, 3.0, 5.0, 9.0])))


def _moved(rng: np.random.Generator, image: np.ndarray, frames: int) -> np.ndarray:
    """Crops "f h w c" along a line, of the image at full or at half resolution; half pixels are exact in the latter."""
    scale = int(rng.integers(1, 3))
    side = CROP * scale
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, SPEED)
    path = np.rint(np.arange(frames)[:, None] * speed * scale * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    path -= path.min(0)
    y, x = (rng.integers(0, len(image) - side - path[:, i].max() + 1) for i in (1, 0))
    clip = np.stack([image[y + dy : y + dy + side, x + dx : x + dx + side] for dx, dy in path])
    if scale == 2:
        clip = clip.reshape(frames, CROP, 2, CROP, 2, 3).mean((2, 4))
    return clip[:, :, ::-1].copy() if rng.random() < 0.5 else clip


def loss_of(vae: AutoencoderKLTemporalDecoder, x: torch.Tensor, frames: int) -> torch.Tensor:
    """Squared error, the same of the chroma (image minus its channel mean), a little absolute error, a little KL."""
    posterior = vae.encode(x).latent_dist
    z = posterior.mean
    z = z + torch.maximum(posterior.std, 0.02 * z.std().detach()) * torch.randn_like(z)
    y = vae.decode(z, num_frames=frames).sample
    error = y - x
    chroma = error - error.mean(1, keepdim=True)
    kl = posterior.kl().mean() / z[0].numel()
    return error.square().mean() + chroma.square().mean() + 0.05 * error.abs().mean() + 1e-5 * kl


def train(out: Path, steps: int, minutes: float, lr: float = 2e-3, warmup: int = 100) -> None:
    """Go on from what `out` holds, until the steps or the minutes are over."""
    accelerator = Accelerator()
    vae = build_vae()
    optims = optimizers(vae, lr)
    vae, *optims = accelerator.prepare(vae, *optims)
    ema = EMAModel(vae.parameters(), decay=0.998)
    done = load_state(out, vae, ema, optims)
    start = saved = time.time()
    recent: list[float] = []
    for step, (x, frames) in enumerate(batches(seed=done), start=done + 1):
        falling = min(1.0, (steps - step + 1) / (0.4 * steps)) * min(1.0, step / warmup)
        loss = loss_of(vae, x.to(accelerator.device), frames)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(vae.parameters(), 1.0)
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = lr * falling
            optim.step()
            optim.zero_grad()
        ema.step(vae.parameters())
        recent.append(loss.item())
        over = step >= steps or time.time() - start > 60 * minutes
        if step % 100 == 0 or over:
            print(f"step {step}  loss {np.mean(recent):.5f}  {time.time() - start:.0f} s", flush=True)
            recent = []
        if over or time.time() - saved > 180:
            save_state(out, step, vae, ema, optims)
            saved = time.time()
        if over:
            return


def save_state(out: Path, step: int, vae: torch.nn.Module, ema: EMAModel, optims: list) -> None:
    """One safetensors file (nothing is ever unpickled): weights, moving average, the optimizers' own tensors."""
    names = {id(p): name for name, p in vae.named_parameters()}
    tensors = {f"param/{name}": p.detach() for name, p in vae.named_parameters()}
    tensors |= {f"ema/{name}": p for name, p in zip(names.values(), ema.shadow_params, strict=True)}
    for optim in optims:
        for p, state in optim.state.items():
            tensors |= {f"{key}/{names[id(p)]}": torch.as_tensor(value) for key, value in state.items()}
    with write_whole(out / "state.safetensors") as part:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, part, metadata={"step": str(step)})


@torch.no_grad()
def load_state(out: Path, vae: torch.nn.Module, ema: EMAModel, optims: list) -> int:
    """Put back what `save_state` wrote; returns the step, 0 where there is nothing."""
    path = out / "state.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    for (name, p), average in zip(vae.named_parameters(), ema.shadow_params, strict=True):
        p.copy_(tensors[f"param/{name}"])
        average.copy_(tensors[f"ema/{name}"])
        for optim in optims:
            if any(p is q for group in optim.param_groups for q in group["params"]):
                keys = ("momentum", "step", "exp_avg", "exp_avg_sq")
                optim.state[p] = {k: tensors[f"{k}/{name}"].to(p.device) for k in keys if f"{k}/{name}" in tensors}
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


@torch.no_grad()
def report(out: Path) -> None:
    """PSNR of photographs, through the averaged weights, at two sizes."""
    from skimage import data
    from skimage.transform import resize

    vae = build_vae()
    state = load_file(out / "state.safetensors")
    vae.load_state_dict({k.removeprefix("ema/"): v for k, v in state.items() if k.startswith("ema/")})
    vae.eval()
    for side in (64, 128):
        row = []
        for name in ("astronaut", "cat", "coffee", "rocket", "camera"):
            image = np.asarray(getattr(data, name)())
            image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]
            short = min(image.shape[:2])
            top, left = (image.shape[0] - short) // 2, (image.shape[1] - short) // 2
            small = resize(image[top : top + short, left : left + short], (side, side), anti_aliasing=True)
            x = torch.from_numpy(small).float().permute(2, 0, 1)[None]
            y = vae.decode(vae.encode(x * 2 - 1).latent_dist.mode(), num_frames=1).sample / 2 + 0.5
            row.append(f"{name} {-10 * torch.log10(F.mse_loss(y.clamp(0, 1), x)):.1f}")
        print(f"{side} px, dB: " + ", ".join(row))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report(args.out) if args.report else train(args.out, args.steps, args.minutes)
