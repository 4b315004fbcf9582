"""Pairs of the organism's world, whose planted effects and nulls are known: what a bias study is tried on first.

    world_pairs("results/planted/images", hue=12, mirror=12, shape=12)
    design = bias.Design("results/planted/images/manifest.csv", margins=MARGINS, conditions=CONDITIONS)
    result = bias.run(pipe, design, "results/planted")
    >>> PLANTED[0].says
    'warm sprites move at half the speed'

Both images of a pair are one scene (ground, size, place, heading) except for one factor. Scenes come from seeds that training
never used. See svdlab/organism/card.md for the laws.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError, path, takes, whole
from svdlab.organism import world
from svdlab.pipeline.conditions import Conditions
from svdlab.probes import bias
from svdlab.study.pairs import mirror, write_pairs

FIRST_SEED = 600_000  # training draws scenes from 1,000,000 up, verification from 500,000 up
# By the law 2 px/frame: fast enough that half of it is clearly less, slow enough to stay sharp. The law is without guidance.
CONDITIONS = Conditions(fps=7, motion_bucket_id=100, max_guidance_scale=1.0)
SPEED = float(world.law(CONDITIONS.fps, CONDITIONS.motion_bucket_id))  # px/frame
MARGINS = {"object_px": 0.15 * SPEED}  # within which the planted nulls must be equivalent


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


@takes(out=path)
def world_pairs(out: str | Path, **counts: int) -> pd.DataFrame:
    """Write so many pairs of each scheme (hue, mirror, background, shape, position) and their manifest; returns its rows.

    >>> len(world_pairs("results/planted/images", hue=2, shape=2))
    8

    hue: warm minus cool; mirror: pans, the image minus its mirror image; background: dark minus light; shape: square minus
    disc; position: the left third minus the right. Raises InputError for an unknown scheme or fewer than one pair.
    """
    if not counts or set(counts) - set(SCHEMES):
        raise InputError(f"world_pairs({', '.join(counts)}): give numbers of pairs, of {', '.join(SCHEMES)}.")
    for scheme, count in counts.items():
        whole(scheme, count, least=1, most=10_000)
    whose = dict(label_source="svdlab.organism.world", licence="Apache-2.0 (drawn by svdlab)", consent="nobody is shown")
    rows, files = [], {}
    for place, law in enumerate(PLANTED):
        for group, images in _groups(law.scheme, counts.get(law.scheme, 0), FIRST_SEED + 10_000 * place).items():
            flip = "left_right" if group == "mirrored" else ""
            for i, image in enumerate(images):
                pair = f"{law.scheme}-{i:04d}"
                files[path := f"{pair}-{group}.png"] = image
                row = dict(path=path, pair_id=pair, group=group, group_scheme=law.scheme, subject_id=pair, flip_noise=flip)
                rows.append(row | whose | dict(notes=law.says))
    return write_pairs(sorted(rows, key=lambda row: (row["group_scheme"], row["pair_id"])), files, out)


def design(out: Path, quick: bool, changes: dict[str, Any], **options: Any) -> bias.Design:
    """What `svdlab probe bias` runs without a manifest: 24 pairs of each scheme, drawn into out/images; with quick, less.
    Faults of the options are named before the images are drawn."""
    own = CONDITIONS.replace(num_inference_steps=8) if quick else CONDITIONS
    given: dict[str, Any] = {"margins": MARGINS, **options, "conditions": own.replace(**changes)}
    with TemporaryDirectory() as aside:
        world_pairs(aside, hue=1)
        bias.Design(Path(aside, "manifest.csv"), **given)
    world_pairs(out / "images", **dict(hue=12, mirror=12, shape=12) if quick else dict.fromkeys(SCHEMES, 24))
    return bias.Design(out / "images" / "manifest.csv", **given)


def _groups(scheme: str, n: int, seed: int) -> dict[str, list[Image.Image]]:
    """The images of both groups of a scheme: the factors that a pair shares, and the one in which it differs."""
    if not n:
        return {}
    if scheme == "mirror":
        originals = _scenes(n, seed, motion="pan", background="light")
        return {"original": originals, "mirrored": [mirror(image) for image in originals]}
    rng = np.random.default_rng(seed)
    warm = rng.uniform(*world.WARM, n) % 1.0 if scheme == "hue" else None
    cool = rng.uniform(*world.COOL, n) % 1.0
    shared: dict[str, Any] = dict(motion="object", background="light", hue=list(cool))
    if scheme == "background":  # whether a clip freezes is drawn by the model, not here
        shared = dict(announced=[("pan", "object")[i % 2] for i in range(n)], hue=list(cool))
    if scheme == "position":  # so that both places leave the sprites room
        shared["direction"] = [("down", "up")[i % 2] for i in range(n)]
    differing: dict[str, dict[str, dict[str, Any]]] = {
        "hue": {"warm": dict(hue=warm), "cool": {}},
        "background": {"dark": dict(background="dark"), "light": dict(background="light")},
        "shape": {"square": dict(shape="square"), "disc": dict(shape="disc")},
        "position": {"left": dict(x=world.SIZE / 3), "right": dict(x=2 * world.SIZE / 3)},
    }
    return {group: _scenes(n, seed, **shared | own) for group, own in differing[scheme].items()}


def _scenes(n: int, seed: int, **factors: Any) -> list[Image.Image]:
    """The first frames of scenes with these factors."""
    given = dict(fps=CONDITIONS.fps, motion_bucket_id=CONDITIONS.motion_bucket_id) | factors
    video = world.scenes(n, seed=seed, frames=world.FRAMES, **given).video
    return [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in video[:, 0]]
