"""Does the model prefer a direction, and does a flipped image give the flipped clip?

    result = run(pipe, ["cat", "coffee", "rocket"], "results/symmetry", seeds=range(4))
    result.table[["flip", "measure", "value", "low", "high", "q", "verdict"]]

An image and its flipped self are a pair, and so are their clips: the flipped one is made with its noise flipped too.
With u the motion of the clip and u' that of the flipped one, each in its own frame, the direction bias is the mean of
(u + u') / 2: 0 for a model that knows no left or right, whatever the images show. Left to right that is a bias; up and down,
and rotation, where the world itself is not symmetrical, it is a sensitivity.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import POSITIVE, columns, flag, kind, one_of, path, seed, several, takes
from svdlab.measure.video import read_frames
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import ProbePipeline, resolve
from svdlab.pipeline.images import FLIPS, prepare_image
from svdlab.pipeline.pipeline import pipeline
from svdlab.probes.stimuli import still, through_autoencoder
from svdlab.stats.effects import as_table, corrected, numbers, paired
from svdlab.study.pairs import mirror
from svdlab.study.sweep import sweep

RIGHT = {"pan_px": "camera to the right", "object_dx": "subject to the right"}
UPRIGHT = {"tilt_px": "camera upwards", "object_dy": "subject downwards"}
DIRECTIONS = {"left_right": RIGHT, "up_down": UPRIGHT, "half_turn": RIGHT | UPRIGHT}  # what turns its sign with the image


@dataclass(frozen=True)
class SymmetryResult:
    """table: an effect per flip and direction. errors: a row per flip and image, equivariance. clips: a row per clip."""

    table: pd.DataFrame
    errors: pd.DataFrame
    clips: pd.DataFrame


FLIPPED = partial(several, check=partial(one_of, options=FLIPS), distinct=True)
SEEDS = partial(several, check=seed, distinct=True)
LIST = partial(several, check=lambda _, image: image)


@takes(
    pipe=pipeline,
    images=LIST,
    out=path,
    flips=FLIPPED,
    seeds=SEEDS,
    conditions=kind(Conditions),
    margin=POSITIVE,
    progress=flag,
)
def run(
    pipe: ProbePipeline,
    images: Iterable[Any],
    out: str | Path,
    *,
    flips: Iterable[str] = tuple(FLIPS),
    seeds: Iterable[int] = (0, 1),
    conditions: Conditions | None = None,
    margin: float | None = None,
    progress: bool = True,
) -> SymmetryResult:
    """Make the pairs of clips and measure them.

    images: a list of paths, sample names, PIL images or arrays. out: folder of the runs. margin: px/frame within which a
    direction counts as none (TOST). The image is the unit; seeds, which all images share, count as a factor of their own.
    `errors` has, for each flip and image, mean absolute differences in [0, 1]: `equivariance` |flip(f(x)) - f(flip(x))|,
    `autoencoder` the same of the autoencoder alone, and `seeds`, between the clips of two seeds (NaN for one seed). Raises
    InputError for an unknown flip or no image, before any model runs.
    """
    conditions = conditions or conditions_of(pipe.source.checkpoint)
    size = resolve(pipe, conditions)
    originals = [prepare_image(image, height=size.height or 0, width=size.width or 0) for image in images]
    given = {k: v for k, v in conditions.asdict().items() if v is not None}
    rows = [
        {"image": mirror(image, flip) if flip else image, "flip_noise": flip or None, "seed": s, "label_image": i, **given}
        for i, image in enumerate(originals)
        for flip in ("", *flips)
        for s in seeds
    ]
    clips = sweep(pipe, pd.DataFrame(rows), out, measure="motion", progress=progress).reset_index(drop=True)
    clips["flip_noise"] = clips["flip_noise"].fillna("")
    errors = pd.DataFrame([_errors(pipe, clips, i, image, flip) for flip in flips for i, image in enumerate(originals)])
    return SymmetryResult(directions(clips, flips, margin=margin), errors, clips)


@takes(clips=kind(pd.DataFrame), flips=FLIPPED, margin=POSITIVE)
def directions(clips: pd.DataFrame, flips: Iterable[str], *, margin: float | None = None) -> pd.DataFrame:
    """Direction bias (u + u') / 2 by flip and direction, from the clips of `run`: an effect each, all of them one family."""
    columns("clips", clips, "label_image", "flip_noise", "seed", *(m for flip in flips for m in DIRECTIONS[flip]))
    facts, effects = [], []
    how: dict[str, Any] = dict(unit="px/frame", margin=margin, seeds=clips["seed"].nunique(), of="image")
    for flip in flips:
        for measure, words in DIRECTIONS[flip].items():
            keys = [clips[c] for c in ("label_image", "seed", "flip_noise")]
            u = numbers(clips[measure]).groupby(keys).mean().unstack()
            bias = ((u[""] + u[flip]) / 2).unstack()  # "image seed"
            what = f"{words}, {'bias' if flip == 'left_right' else 'sensitivity'} by flip {flip}"
            effects.append(paired(f"{flip}/{measure}", what, bias, **how))
            facts.append({"flip": flip, "measure": measure, "left_out": int(bias.isna().all(axis=1).sum())})
    return pd.concat([pd.DataFrame(facts), as_table(corrected(effects))], axis=1)


def _errors(pipe: ProbePipeline, clips: pd.DataFrame, number: int, image: Any, flip: str) -> dict[str, Any]:
    done = clips[(clips["label_image"] == number) & (clips["status"] == "done")].set_index(["flip_noise", "seed"])["frames"]
    videos = lambda one: {s: read_frames(done[f, s]).astype(np.float32) / 255 for f, s in done.index if f == one}
    plain, flipped = videos(""), videos(flip)
    turned = lambda frames: np.flip(frames, tuple(axis - 1 for axis in FLIPS[flip]))
    apart = lambda pairs: float(np.mean([np.abs(a - b).mean() for a, b in pairs])) if pairs else np.nan
    frames = still(np.asarray(image, np.float32) / 255, 1)
    return {
        "flip": flip,
        "image": number,
        "equivariance": apart([(turned(plain[seed]), flipped[seed]) for seed in plain.keys() & flipped.keys()]),
        "autoencoder": apart([(turned(through_autoencoder(pipe, frames)), through_autoencoder(pipe, turned(frames)))]),
        "seeds": apart(list(combinations(plain.values(), 2))),
    }
