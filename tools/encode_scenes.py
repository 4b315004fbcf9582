"""Draw scenes and encode them ahead of training, into files of 256 clips; stop it whenever you like, and start it again.

    $ python tools/encode_scenes.py --start CHECKPOINT --clips build/clips --files 80           # 20,480 clips
    $ python tools/encode_scenes.py --start CHECKPOINT --clips build/shifts --files 14 --shifts # pans to the right and tilts
    $ python tools/encode_scenes.py --start CHECKPOINT --clips build/fixed --files 20 --fixed   # at fps 7, bucket 127
    $ python tools/encode_scenes.py --start CHECKPOINT --clips build/depth --files 8 --depth    # pans and tilts of two layers

The VAE is frozen, so that a clip is encoded once and used often, each time with its own noise. `tools/train_unet.py` reads
what is there, and looks for more from time to time: both may run at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from train_unet import FIXED, load

from svdlab.measure.files import write_whole
from svdlab.organism import world

FAR_WEIGHT = 4.0  # of the squared error on a far layer: its contrast is about half of the near one's
FIRST_SEED = 1_000_000  # scenes from seeds below a million are never trained on


def shifts(clips: int, seed: int) -> dict[str, Any]:
    """Factors of scenes whose whole ground shifts, most of them to one side: what the UNet has to learn first."""
    rng = np.random.default_rng([seed, 9])
    motion = ["pan" if rng.random() < 0.6 else "tilt" for _ in range(clips)]
    direction = ["right" if m == "pan" else str(rng.choice(world.DIRECTIONS["tilt"])) for m in motion]
    return dict(motion=motion, direction=direction, layers=1, pattern="none")


def moves(clips: int, seed: int) -> dict[str, Any]:
    """Factors of scenes whose ground tilts, zooms, rolls or pans, without a pattern over it: what is learned second."""
    rng = np.random.default_rng([seed, 11])
    motion = [str(m) for m in rng.choice(["zoom", "tilt", "roll", "pan", "object"], clips, p=[0.34, 0.24, 0.22, 0.12, 0.08])]
    return dict(motion=motion, layers=1, pattern="none")


def depth(clips: int, seed: int) -> dict[str, Any]:
    """Factors of scenes of two layers that announce a pan or a tilt, most so fast that the layers part visibly.

    65 % of the pans go right instead of 75 %: the UNet exaggerates the likelier outcome (card.md).
    """
    rng = np.random.default_rng([seed, 13])
    announced = ["pan" if rng.random() < 0.7 else "tilt" for _ in range(clips)]
    ways = {"pan": ["right", "left"], "tilt": ["up", "down"]}
    direction = [str(rng.choice(ways[a], p=[0.65, 0.35] if a == "pan" else None)) for a in announced]
    fps = rng.integers(world.FPS[0], 15, clips)
    bucket = np.minimum(rng.uniform(0.5, world.MAX_DISPLACEMENT, clips) * fps // world.K, world.BUCKETS[1]).astype(int)
    return dict(
        announced=announced, direction=direction, ground="leaves", layers=2, fps=fps.tolist(), motion_bucket_id=bucket.tolist()
    )


def error_weights(scenes: world.Scenes) -> np.ndarray:
    """float16 "n f 1 h w" for each latent pixel: FAR_WEIGHT on a far layer, 1 elsewhere, their mean along an edge."""
    weights = np.where(scenes.depth > 1, np.float32(FAR_WEIGHT), 1)
    n, f, h, w = weights.shape
    return weights.reshape(n, f, 1, h // 4, 4, w // 4, 4).mean((4, 6)).astype(np.float16)


KINDS: dict[str, tuple[int, Callable[[int, int], dict[str, Any]]]] = {  # offset of the first seed, factors
    "all": (0, lambda clips, seed: {}),
    "fixed": (0, lambda clips, seed: FIXED),
    "shifts": (500_000, shifts),
    "moves": (700_000, moves),
    "depth": (900_000, depth),
}


@torch.no_grad()
def encode_scenes(start: Path, folder: Path, files: int, clips: int, edition: int, kind: str) -> None:
    """Write the files that `folder` lacks: images, latents and conditions of `clips` scenes each."""
    accelerator = Accelerator()
    vae = load(start).vae.to(accelerator.device)
    for i in range(files):
        path = folder / f"{i:04d}.safetensors"
        if path.exists():
            continue
        offset, factors_of = KINDS[kind]
        seed = FIRST_SEED + offset + i
        scenes = world.scenes(clips, seed=seed, edition=edition, **factors_of(clips, seed))
        images = torch.from_numpy(np.rint(scenes.video[:, 0] * 255).astype(np.uint8)).permute(0, 3, 1, 2)
        latents = []
        for video in torch.from_numpy(scenes.video).permute(0, 1, 4, 2, 3):
            with torch.autocast(accelerator.device.type, torch.bfloat16):
                z = vae.encode(video.to(accelerator.device) * 2 - 1).latent_dist.mode()
            latents.append((z.float() * vae.config.scaling_factor).half().cpu())
        conditions = torch.tensor(scenes.factors[["fps", "motion_bucket_id"]].to_numpy(), dtype=torch.float32)
        with write_whole(path) as part:
            tensors = dict(images=images, latents=torch.stack(latents), conditions=conditions)
            tensors["weights"] = torch.from_numpy(error_weights(scenes))
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
        print(path.name, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, required=True, help="checkpoint folder whose VAE encodes")
    parser.add_argument("--clips", type=Path, required=True, help="folder of the files")
    parser.add_argument("--files", type=int, default=80)
    parser.add_argument("--scenes", type=int, default=256, help="in each file")
    parser.add_argument("--edition", type=int, default=2)
    kinds = parser.add_mutually_exclusive_group()
    for kind, what in (
        ("fixed", "only scenes at fps 7, bucket 127"),
        ("shifts", "only pans to the right and tilts"),
        ("moves", "grounds that zoom, tilt, roll or pan"),
        ("depth", "pans and tilts of two layers"),
    ):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=what)
    parser.set_defaults(kind="all")
    args = parser.parse_args()
    args.clips.mkdir(parents=True, exist_ok=True)
    encode_scenes(args.start, args.clips, args.files, args.scenes, args.edition, args.kind)
