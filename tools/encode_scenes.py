"""Draw scenes and encode them ahead of training, into files of 256 clips; stop it whenever you like, and start it again.

    $ python tools/encode_scenes.py --start CHECKPOINT --clips build/clips --files 80           # 20,480 clips
    $ python tools/encode_scenes.py --start CHECKPOINT --clips build/shifts --files 14 --shifts # pans to the right and tilts
    $ python tools/encode_scenes.py --start CHECKPOINT --clips build/fixed --files 20 --fixed   # at fps 7, bucket 127

The VAE is frozen, so that a clip is encoded once and used often, each time with its own noise. `tools/train_unet.py` reads
what is there, and looks for more from time to time: both may run at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from train_unet import FIXED, load

from svdlab.measure.files import write_whole
from svdlab.organism import world

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


@torch.no_grad()
def encode_scenes(start: Path, folder: Path, files: int, clips: int, edition: int, kind: str) -> None:
    """Write the files that `folder` lacks: images, latents and conditions of `clips` scenes each."""
    accelerator = Accelerator()
    vae = load(start).vae.to(accelerator.device)
    for i in range(files):
        path = folder / f"{i:04d}.safetensors"
        if path.exists():
            continue
        seed = FIRST_SEED + i + {"shifts": 500_000, "moves": 700_000}.get(kind, 0)
        factors: dict[str, Any] = {"all": {}, "fixed": FIXED, "shifts": shifts(clips, seed), "moves": moves(clips, seed)}[kind]
        scenes = world.scenes(clips, seed=seed, edition=edition, **factors)
        images = torch.from_numpy(np.rint(scenes.video[:, 0] * 255).astype(np.uint8)).permute(0, 3, 1, 2)
        latents = []
        for video in torch.from_numpy(scenes.video).permute(0, 1, 4, 2, 3):
            with torch.autocast(accelerator.device.type, torch.bfloat16):
                z = vae.encode(video.to(accelerator.device) * 2 - 1).latent_dist.mode()
            latents.append((z.float() * vae.config.scaling_factor).half().cpu())
        conditions = torch.tensor(scenes.factors[["fps", "motion_bucket_id"]].to_numpy(), dtype=torch.float32)
        with write_whole(path) as part:
            tensors = dict(images=images, latents=torch.stack(latents), conditions=conditions)
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
    kinds.add_argument("--fixed", dest="kind", action="store_const", const="fixed", help="only scenes at fps 7, bucket 127")
    kinds.add_argument("--shifts", dest="kind", action="store_const", const="shifts", help="only pans to the right and tilts")
    kinds.add_argument(
        "--moves", dest="kind", action="store_const", const="moves", help="grounds that zoom, tilt, roll or pan"
    )
    parser.set_defaults(kind="all")
    args = parser.parse_args()
    args.clips.mkdir(parents=True, exist_ok=True)
    encode_scenes(args.start, args.clips, args.files, args.scenes, args.edition, args.kind)
