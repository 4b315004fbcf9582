"""Train the organism's VAE on procedurally drawn images; stop it whenever you like, and start it again.

    $ python tools/train_vae.py --out build/vae2 --steps 8000            # constant rate, then falling over the last 40 %
    $ python tools/train_vae.py --out build/vae2 --report                # PSNR on photographs that it was never trained on

The same code runs on CPU cores and on a GPU (accelerate picks the device). Batches are twelve 32 px crops of dead leaves
(`scenery`) and of the world's scenes: single frames, or three clips of four frames that move by up to 3 px.
Unrelated crops as frames of one clip, and grey crops, did not work; AdamW alone reached 10 dB where Muon reached 20.

The organism's VAE is the average after 9,000 steps: 25.2, 29.9, 28.3, 32.9 and 31.5 dB on
astronaut, cat, coffee, rocket and camera at 64 px.
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
from training import averaged, load_state, optimizers, save_state, set_rate

from svdlab.organism import scenery, world

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
    return scenery.dead_leaves(rng, 160, smallest=float(rng.choice([1.5, 1.5, 2.0, 3.0, 5.0, 9.0])))


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
    done = load_state(out / "state.safetensors", vae, ema, optims)
    start = saved = time.time()
    recent: list[float] = []
    for step, (x, frames) in enumerate(batches(seed=done), start=done + 1):
        falling = min(1.0, (steps - step + 1) / (0.4 * steps)) * min(1.0, step / warmup)
        loss = loss_of(vae, x.to(accelerator.device), frames)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(vae.parameters(), 1.0)
        set_rate(optims, lr * falling)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        ema.step(vae.parameters())
        recent.append(loss.item())
        over = step >= steps or time.time() - start > 60 * minutes
        if step % 100 == 0 or over:
            print(f"step {step}  loss {np.mean(recent):.5f}  {time.time() - start:.0f} s", flush=True)
            recent = []
        if over or time.time() - saved > 180:
            save_state(out / "state.safetensors", step, vae, ema, optims)
            saved = time.time()
        if over:
            return


@torch.no_grad()
def report(out: Path) -> None:
    """PSNR of photographs, through the averaged weights, at two sizes."""
    from skimage import data
    from skimage.transform import resize

    vae = build_vae()
    vae.load_state_dict(averaged(out / "state.safetensors"))
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
