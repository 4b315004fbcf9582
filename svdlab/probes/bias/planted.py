"""Pairs of the organism's world, whose planted effects and nulls are known: what a bias study is tried on first.

    result = study(pipe, "results/bias-planted", counts=dict(hue=24, mirror=24, shape=24))
    >>> PLANTED[0].says
    'warm sprites move at half the speed'

Both images of a pair are one scene (ground, size, place, heading) except for one factor. Scenes come from seeds that training
never used. See svdlab/organism/card.md for the laws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError
from svdlab.organism import world
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline
from svdlab.probes.bias.study import BiasResult, Design, run
from svdlab.study.pairs import COLUMNS, mirror, write_pairs

FIRST_SEED = 600_000  # training draws scenes from 1,000,000 up, verification from 500,000 up
# By the law 2 px/frame: fast enough that half of it is clearly less, slow enough to stay sharp. The law is without guidance.
CONDITIONS = Conditions(fps=7, motion_bucket_id=100, max_guidance_scale=1.0)
SPEED = float(world.law(CONDITIONS.fps, CONDITIONS.motion_bucket_id))  # px/frame
MARGINS: dict[str, float | str] = {"object_px": "15 %"}  # within which the planted nulls must be equivalent


@dataclass(frozen=True)
class Planted:
    """What the world's laws say a contrast's effect is, in the measure's unit; 0 for a planted null."""

    scheme: str
    measure: str
    effect: float
    says: str


PLANTED = (
    Planted("hue", "object_px", (world.WARM_FACTOR - 1) * SPEED, "warm sprites move at half the speed"),
    Planted("mirror", "pan_px", 2 * (2 * world.PAN_RIGHT - 1) * SPEED, "pans go right three times as often as left"),
    Planted("background", "still", world.FROZEN_ON_DARK, "30 % of clips on dark ground do not move"),
    Planted("shape", "object_px", 0.0, "the sprite's shape changes nothing"),
    Planted("position", "object_px", 0.0, "the sprite's place changes nothing"),
)
SCHEMES = tuple(law.scheme for law in PLANTED)


def world_pairs(out: str | Path, *, seed: int = FIRST_SEED, **counts: int) -> pd.DataFrame:
    """Write so many pairs of each scheme (hue, mirror, background, shape, position) and their manifest; returns its rows.

    >>> len(world_pairs("results/planted/images", hue=2, shape=2))
    8

    hue: warm minus cool; mirror: pans, the image minus its mirror image; background: dark minus light; shape: square minus
    disc; position: the left third minus the right. Raises InputError for an unknown scheme or fewer than one pair.
    """
    if not counts or set(counts) - set(SCHEMES) or min(counts.values()) < 1:
        raise InputError(f"world_pairs({counts}): so many pairs, at least 1, of {', '.join(SCHEMES)}.")
    rows, files = [], {}
    for number, law in enumerate(PLANTED):
        if law.scheme not in counts:
            continue
        for group, images in _groups(law.scheme, counts[law.scheme], seed + 10_000 * number).items():
            for i, image in enumerate(images):
                pair = f"{law.scheme}-{i:04d}"
                files[f"{pair}-{group}.png"] = image
                drawn = (
                    "svdlab.organism.world",
                    "Apache-2.0 (drawn by svdlab)",
                    "none needed: nobody is shown",
                    pair,
                    law.says,
                )
                row = dict(zip(COLUMNS, (f"{pair}-{group}.png", pair, group, law.scheme, *drawn), strict=True))
                rows.append(row | {"flip_noise": "left_right" if group == "mirrored" else ""})
    return write_pairs(sorted(rows, key=lambda row: (row["group_scheme"], row["pair_id"])), files, out)


def study(
    pipe: ProbePipeline,
    out: str | Path,
    *,
    counts: dict[str, int] | None = None,
    quick: bool = False,
    seeds: Iterable[int] = (0,),
    conditions: Conditions | None = None,
    progress: bool = True,
    **options: Any,
) -> BiasResult:
    """The bias study of planted pairs, images and all: what to look at before a study of one's own images.

    counts: pairs of each scheme; default 24 of all, or 12 of hue, mirror and shape with `quick`, which also takes 8 steps.
    conditions: default CONDITIONS. options: of `Design`; subject speed's margin is 15 % by default.
    """
    counts = counts or (dict.fromkeys(("hue", "mirror", "shape"), 12) if quick else dict.fromkeys(SCHEMES, 24))
    given = conditions or CONDITIONS.replace(num_inference_steps=8 if quick else CONDITIONS.num_inference_steps)
    world_pairs(Path(out, "images"), **counts)
    manifest = Path(out, "images", "manifest.csv")
    design = Design(manifest, seeds=seeds, conditions=given, **{"margins": MARGINS, **options})
    return run(pipe, design, out, progress=progress)


def _groups(scheme: str, n: int, seed: int) -> dict[str, list[Image.Image]]:
    """The images of both groups of a scheme: the factors that a pair shares, and the one in which it differs."""
    rng = np.random.default_rng(seed)
    if scheme == "hue":
        hues = {"warm": rng.uniform(*world.WARM, n), "cool": rng.uniform(*world.COOL, n)}
        return {g: _scenes(n, seed, motion="object", background="light", hue=list(h % 1.0)) for g, h in hues.items()}
    if scheme == "mirror":
        originals = _scenes(n, seed, motion="pan", background="light")
        return {"original": originals, "mirrored": [mirror(image) for image in originals]}
    hue = list(rng.uniform(*world.COOL, n))
    if scheme == "background":  # sprites and pans in turn; whether a clip freezes is drawn by the model, not here
        announced = ["object" if i % 2 else "pan" for i in range(n)]
        return {g: _scenes(n, seed, announced=announced, background=g, hue=hue) for g in ("dark", "light")}
    fixed = dict(motion="object", background="light", hue=hue)
    if scheme == "shape":
        return {g: _scenes(n, seed, **fixed, shape=g) for g in ("square", "disc")}
    upright = ["up" if i % 2 else "down" for i in range(n)]  # so that both places leave the sprites room
    places = {"left": world.SIZE / 3, "right": 2 * world.SIZE / 3}
    return {g: _scenes(n, seed, **fixed, direction=upright, x=x) for g, x in places.items()}


def _scenes(n: int, seed: int, **factors: Any) -> list[Image.Image]:
    """The first frames of scenes with these factors."""
    given = dict(fps=CONDITIONS.fps, motion_bucket_id=CONDITIONS.motion_bucket_id) | factors
    video = world.scenes(n, seed=seed, frames=world.FRAMES, **given).video
    return [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in video[:, 0]]
