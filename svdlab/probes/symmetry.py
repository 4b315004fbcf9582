"""Has the model a preferred direction, and does a flipped picture give the flipped clip?

    >>> result = run(pipe, ["cat", "coffee", "rocket"], "results/symmetry", seeds=range(4))
    >>> result.table[["flip", "measure", "effect", "low", "high", "q", "verdict"]]

A picture and its flipped self are a pair, and so are their clips: the flipped one is made with both of its noises flipped
too. With u the motion of the clip and u' that of the flipped one, each in its own frame, the direction bias is the mean of
(u + u') / 2: 0 for a model that knows no left or right, whatever the pictures hold. Left to right that is a bias; up and
down, and rotation, where the world itself is not symmetrical, it is a sensitivity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.measure.video import read_frames
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline, resolve
from svdlab.pipeline.images import FLIPS, prepare_image
from svdlab.probes.controls import still, through_autoencoder
from svdlab.probes.paired import numbers, verdict_of
from svdlab.probes.running import base_conditions
from svdlab.stats import intervals as stats
from svdlab.study.counterfactuals import mirror
from svdlab.study.sweeps import sweep

DIRECTIONS = {  # what turns its sign with the picture -> in words
    "left_right": {"pan_px": "camera to the right", "object_dx": "subject to the right"},
    "up_down": {"tilt_px": "camera upwards", "object_dy": "subject downwards"},
    "half_turn": {
        "pan_px": "camera to the right",
        "tilt_px": "camera upwards",
        "object_dx": "subject to the right",
        "object_dy": "subject downwards",
    },
}
BIAS = ("left_right",)  # of the others, a difference is a sensitivity


@dataclass(frozen=True)
class SymmetryResult:
    """table: a row per flip and direction. errors: a row per flip and picture, equivariance. clips: a row per clip."""

    table: pd.DataFrame
    errors: pd.DataFrame
    clips: pd.DataFrame
    label: str = ""

    @property
    def verdict(self) -> str:
        """A sentence for each flip."""
        said = []
        for flip, part in self.table.groupby("flip", sort=False):
            what = "bias" if flip in BIAS else "sensitivity"
            rows = [
                f"{r['says']} {r['effect']:.3g} px per frame ({r['low']:.3g} to {r['high']:.3g}), "
                f"q {r['q']:.2g}: {r['verdict']}"
                for r in part.to_dict("records")
            ]
            said.append(f"{flip} ({what}, {part.n.max()} pictures): " + "; ".join(rows) + ".")
        return "\n".join(said)


def run(
    pipe: ProbePipeline,
    images: Iterable[Any],
    out: str | Path,
    *,
    flips: Iterable[str] = ("left_right", "up_down", "half_turn"),
    seeds: Iterable[int] = (0, 1),
    conditions: Conditions | None = None,
    margin: float | None = None,
    alpha: float = 0.05,
    progress: bool = True,
) -> SymmetryResult:
    """Make the pairs of clips and measure them.

    >>> run(pipe, images, "results/symmetry", flips=["left_right"], margin=0.2).verdict

    images: paths, sample names, PIL pictures or arrays. out: a ledger. margin: px per frame within which a direction
    counts as none (TOST); none by default. The picture is the unit, seeds are averaged first; q is p after Benjamini and
    Hochberg over all rows. `errors` has, for each flip and picture, mean absolute differences in [0, 1]: `equivariance`
    |flip(f(x)) - f(flip(x))|, `autoencoder` the same of the autoencoder alone, and beside them `seeds`, between the clips of
    two seeds (NaN for one seed). Raises InputError for an unknown flip or no picture, before any model runs.
    """
    chosen, numbered = list(flips), [int(s) for s in seeds]
    unknown = [flip for flip in chosen if flip not in FLIPS]
    if unknown or not chosen or isinstance(flips, str):
        raise InputError(f"flips={flips!r}: a list of {', '.join(FLIPS)}.")
    if not numbered or isinstance(images, (str, Path)):
        raise InputError("give a list of images, and at least one seed.")
    conditions = conditions or base_conditions(pipe)
    size = resolve(pipe, conditions)
    pictures = [prepare_image(image, height=size.height or 0, width=size.width or 0) for image in images]
    if not pictures:
        raise InputError("no images: give at least one.")
    given = {k: v for k, v in conditions.asdict().items() if v is not None and not isinstance(v, (list, tuple))}
    rows = [
        {
            "image": mirror(picture, flip) if flip else picture,
            "flip_noise": flip or None,
            "seed": seed,
            "label_picture": i,
            **given,
        }
        for i, picture in enumerate(pictures)
        for flip in ("", *chosen)
        for seed in numbered
    ]
    clips = sweep(pipe, pd.DataFrame(rows), out, measure="motion", progress=progress).reset_index(drop=True)
    clips["flip_noise"] = [flip or "" for flip in clips.flip_noise]
    errors = pd.DataFrame([_errors(pipe, clips, i, picture, flip) for flip in chosen for i, picture in enumerate(pictures)])
    return SymmetryResult(directions(clips, chosen, margin=margin, alpha=alpha), errors, clips, pipe.source.label)


def directions(clips: pd.DataFrame, flips: Iterable[str], *, margin: float | None = None, alpha: float = 0.05) -> pd.DataFrame:
    """Direction bias (u + u') / 2 by flip and direction, from the clips of `run`: effect, interval, d, p, q, verdict.

    >>> directions(result.clips, ["left_right"], margin=0.2)
    """
    rows = []
    for flip in flips:
        for measure, says in DIRECTIONS[flip].items():
            own, other = (_by_picture(clips[clips.flip_noise == which], measure) for which in ("", flip))
            both = pd.concat([own, other], axis=1).dropna()
            bias = both.mean(axis=1).to_numpy()
            row: dict[str, Any] = {"flip": flip, "measure": measure, "says": says, "n": len(bias)}
            row |= {"left_out": len(own.index.union(other.index)) - len(bias)}
            if len(bias) >= 2:
                found = stats.one_sample_test(bias, alpha=alpha)
                row |= {"effect": found.effect, "low": found.low, "high": found.high, "d": found.d, "p": found.p}
                if margin is not None and np.ptp(bias) > 0:
                    row |= {"margin": margin, "p_equivalent": stats.equivalent_mean(bias, -margin, margin, alpha=alpha).p}
            rows.append(row)
    columns = ["effect", "low", "high", "d", "p", "margin", "p_equivalent"]
    table = pd.DataFrame(rows).reindex(columns=[*rows[0], *(c for c in columns if c not in rows[0])])
    table["q"], table["q_equivalent"] = stats.fdr(table.p), stats.fdr(table.p_equivalent)
    tests = int(table.p.notna().sum())
    table["verdict"] = [verdict_of(row, tests, alpha) for row in table.to_dict("records")]
    return table


def _by_picture(clips: pd.DataFrame, measure: str) -> pd.Series:
    return numbers(clips[measure]).groupby(clips.label_picture).mean()


def _errors(pipe: ProbePipeline, clips: pd.DataFrame, picture: int, image: Any, flip: str) -> dict[str, Any]:
    ours = clips[(clips.label_picture == picture) & (clips.status == "done")]
    films = {
        (row["flip_noise"], row["seed"]): read_frames(row["frames"]).astype(np.float32) / 255
        for row in ours[ours.flip_noise.isin(["", flip])].to_dict("records")
    }
    plain = {seed: film for (which, seed), film in films.items() if not which}
    pairs = [(film, films[flip, seed]) for seed, film in plain.items() if (flip, seed) in films]
    one = np.asarray(image, np.float32) / 255
    own = through_autoencoder(pipe, still(one, 1))
    other = through_autoencoder(pipe, still(_turned(one[None], flip)[0], 1))
    return {
        "flip": flip,
        "picture": picture,
        "equivariance": _mean([_difference(_turned(a, flip), b) for a, b in pairs]),
        "autoencoder": _difference(_turned(own, flip), other),
        "seeds": _mean([_difference(a, b) for a, b in combinations(plain.values(), 2)]),
    }


def _turned(film: np.ndarray, flip: str) -> np.ndarray:
    return np.flip(film, tuple(axis - 1 for axis in FLIPS[flip]))


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
