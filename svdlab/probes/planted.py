"""Pairs of the organism's world, whose planted effects and nulls are known: what a bias study is tried on first.

    >>> result = study(pipe, "results/bias-planted", counts=dict(hue=24, mirror=24, shape=24))
    >>> PLANTED[0].says, PLANTED[0].effect

Both pictures of a pair are one scene (ground, size, place, heading) but for one factor. Scenes come from seeds that training
never used. See svdlab/organism/card.md for the laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError, OutputError
from svdlab.organism import world
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline
from svdlab.probes import bias
from svdlab.study.counterfactuals import mirror as mirrored

FIRST_SEED = 600_000  # training draws scenes from 1,000,000 up, verification from 500,000 up
# By the law 2 px a frame: fast enough that half of it is clearly less, slow enough to stay sharp. The law is without guidance.
CONDITIONS = Conditions(fps=7, motion_bucket_id=100, max_guidance_scale=1.0)
SPEED = float(world.law(CONDITIONS.fps, CONDITIONS.motion_bucket_id))  # px per frame
MARGINS: dict[str, float | str] = {"object_px": "15 %"}  # within which the planted nulls are to be called equivalent
SCHEMES = ("hue", "mirror", "background", "shape", "position")


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


def world_pairs(out: str | Path, *, seed: int = FIRST_SEED, **counts: int) -> pd.DataFrame:
    """Write so many pairs of each scheme (hue, mirror, background, shape, position) and their manifest; returns its rows.

    >>> world_pairs("results/planted/pictures", hue=24, shape=24)

    hue: warm less cool; mirror: pans, the picture less its mirror image; background: dark less light; shape: square less
    disc; position: the left third less the right. Raises InputError for an unknown scheme or fewer than one pair.
    """
    unknown = sorted(set(counts) - set(SCHEMES))
    if unknown or not counts or min(counts.values()) < 1:
        raise InputError(f"world_pairs({counts}): so many pairs, at least 1, of {', '.join(SCHEMES)}.")
    rows = []
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        for number, scheme in enumerate(SCHEMES):
            if scheme not in counts:
                continue
            groups = _DRAW[scheme](counts[scheme], seed + 10_000 * number)
            for group, pictures in groups.items():
                for i, picture in enumerate(pictures):
                    name = f"{scheme}-{i:04d}-{group}.png"
                    picture.save(Path(out, name))
                    rows.append(_entry(scheme, group, i, name, len(groups)))
        table = pd.DataFrame(rows).sort_values(["group_scheme", "pair_id"], kind="stable", ignore_index=True)
        table.to_csv(Path(out, "manifest.csv"), index=False)
    except OSError as error:
        raise OutputError(f"{out} could not be written: {error}") from error
    return table


def study(
    pipe: ProbePipeline,
    out: str | Path,
    *,
    counts: dict[str, int] | None = None,
    quick: bool = False,
    seeds: Iterable[int] = (0,),
    conditions: Conditions | None = None,
    **options: Any,
) -> bias.BiasResult:
    """The bias study of planted pairs, pictures and all: what to look at before a study of one's own pictures.

    >>> print(study(pipe, "results/bias-planted", quick=True).verdict)

    counts: pairs of each scheme; default 24 of all, or 12 of hue, mirror and shape with `quick`, which also takes 8 steps.
    conditions: default CONDITIONS. options: of `svdlab.probes.bias.run`; subject speed's margin is 15 % by default.
    """
    counts = counts or (dict.fromkeys(("hue", "mirror", "shape"), 12) if quick else dict.fromkeys(SCHEMES, 24))
    given = conditions or CONDITIONS.replace(num_inference_steps=8 if quick else CONDITIONS.num_inference_steps)
    world_pairs(Path(out, "pictures"), **counts)
    manifest = Path(out, "pictures", "manifest.csv")
    return bias.run(pipe, manifest, out, seeds=seeds, conditions=given, **{"margins": MARGINS, **options})


def _entry(scheme: str, group: str, i: int, name: str, groups: int) -> dict[str, Any]:
    return dict(
        path=name,
        pair_id=f"{scheme}-{i:04d}",
        group=group,
        group_scheme=scheme,
        label_source="svdlab.organism.world",
        licence="Apache-2.0 (drawn by svdlab)",
        consent="none needed: nobody is shown",
        subject_id=f"{scheme}-{i:04d}",
        notes=next(p.says for p in PLANTED if p.scheme == scheme),
        flip_noise="left_right" if group == "mirrored" else "",
    )


def _first_frames(n: int, seed: int, **factors: Any) -> list[Image.Image]:
    given = dict(fps=CONDITIONS.fps, motion_bucket_id=CONDITIONS.motion_bucket_id) | factors
    video = world.scenes(n, seed=seed, frames=world.FRAMES, **given).video
    return [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in video[:, 0]]


def _hue(n: int, seed: int) -> dict[str, list[Image.Image]]:
    rng = np.random.default_rng(seed)
    drawn = {"warm": rng.uniform(*world.WARM, n), "cool": rng.uniform(*world.COOL, n)}
    return {g: _first_frames(n, seed, motion="object", background="light", hue=list(h % 1.0)) for g, h in drawn.items()}


def _mirror(n: int, seed: int) -> dict[str, list[Image.Image]]:
    originals = _first_frames(n, seed, motion="pan", background="light")
    return {"original": originals, "mirrored": [mirrored(picture) for picture in originals]}


def _background(n: int, seed: int) -> dict[str, list[Image.Image]]:
    """Sprites that go by themselves and cameras that pan, in turn; the freezing is drawn by the model, not here."""
    announced = ["object" if i % 2 else "pan" for i in range(n)]
    hue = list(np.random.default_rng(seed).uniform(*world.COOL, n))
    return {g: _first_frames(n, seed, announced=announced, background=g, hue=hue) for g in ("dark", "light")}


def _shape(n: int, seed: int) -> dict[str, list[Image.Image]]:
    hue = list(np.random.default_rng(seed).uniform(*world.COOL, n))
    return {g: _first_frames(n, seed, motion="object", background="light", hue=hue, shape=g) for g in ("square", "disc")}


def _position(n: int, seed: int) -> dict[str, list[Image.Image]]:
    """Sprites that go up or down, so that both places leave them room."""
    hue = list(np.random.default_rng(seed).uniform(*world.COOL, n))
    fixed = dict(motion="object", background="light", hue=hue, direction=["up" if i % 2 else "down" for i in range(n)])
    places = {"left": world.SIZE / 3, "right": 2 * world.SIZE / 3}
    return {g: _first_frames(n, seed, **fixed, x=x) for g, x in places.items()}


_DRAW: dict[str, Callable[[int, int], dict[str, list[Image.Image]]]] = {
    "hue": _hue,
    "mirror": _mirror,
    "background": _background,
    "shape": _shape,
    "position": _position,
}
