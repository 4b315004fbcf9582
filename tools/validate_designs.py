"""Do the designs of a bias study keep their promises? A/A studies on disjoint images and confounded nulls, arrays only.

    $ python -m tools.validate_designs docs/bias-designs.csv

In an A/A study all images are drawn from one population, and the groups are disjoint images of it: whatever is found is
false. Values: images differ by 1, identities by as much as their poses, clips of two seeds by 0.5 more. In a confounded null
the groups differ in a covariate that explains the values, and in nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.measure.files import write_whole
from svdlab.stats import intervals
from svdlab.study.groups import OTHERS, Contrast, estimate, overall

STUDIES = 2000
AB = Contrast("x", "a", "b")
Draw = Callable[[np.random.Generator], tuple[np.ndarray, pd.DataFrame]]


def manifest(groups: Any, pairs: Any = "", subjects: Any = "") -> pd.DataFrame:
    """A manifest of images that are not there."""
    given = dict(group=list(groups), group_scheme="x", pair_id=pairs, subject_id=subjects)
    table = pd.DataFrame(given)
    return table.assign(file=[f"{i}.png" for i in table.index])


def clips(rng: np.random.Generator, images: np.ndarray, seeds: int = 2) -> np.ndarray:
    """Values of each image's clips, "images seeds"."""
    return images[:, None] + 0.5 * rng.normal(size=(len(images), seeds))


def unpaired(a: int, b: int, *, skewed: bool = False) -> Draw:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        images = rng.lognormal(0, 0.8, a + b) if skewed else rng.normal(size=a + b)
        return clips(rng, images).mean(1, keepdims=True), manifest("a" * a + "b" * b)

    return draw


def clustered(identities: int, poses: int) -> Draw:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        n = identities * poses
        images = np.repeat(rng.normal(size=identities), poses) + rng.normal(size=n)
        names = [str(i // poses) for i in range(n)]
        return clips(rng, images).mean(1, keepdims=True), manifest(["ab"[int(i) % 2] for i in names], subjects=names)

    return draw


def matched(pairs: int, controls: int) -> Draw:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        size = controls + 1
        images = np.repeat(rng.normal(size=pairs), size) + rng.normal(size=pairs * size)
        names = [str(i // size) for i in range(pairs * size)]
        return clips(rng, images).mean(1, keepdims=True), manifest(("a" + "b" * controls) * pairs, pairs=names)

    return draw


def levels(groups: int, each: int) -> Draw:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        return clips(rng, rng.normal(size=groups * each)).mean(1, keepdims=True), manifest("abcdefgh"[:groups] * each)

    return draw


def shared_seeds(each: int, seeds: int) -> Draw:
    """All images have the same seeds, and a seed moves the groups apart."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        apart = np.outer(np.repeat([0.5, -0.5], each), rng.normal(size=seeds))
        return clips(rng, rng.normal(size=2 * each), seeds) + apart, manifest("a" * each + "b" * each)

    return draw


def confounded(each: int, *, in_pairs: bool = False) -> Draw:
    """Group a is older by one standard deviation; age explains the values, half of their variance."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        age = rng.normal(size=2 * each) + np.repeat([1, 0], each)
        names = [str(i % each) for i in range(2 * each)] if in_pairs else ""
        table = manifest("a" * each + "b" * each, pairs=names).assign(age=age)
        return clips(rng, age + rng.normal(size=2 * each)).mean(1, keepdims=True), table

    return draw


def p_of(draw: Draw, contrast: Contrast = AB, *, covariates: tuple[str, ...] = ()) -> Callable[[np.random.Generator], float]:
    def p(rng: np.random.Generator) -> float:
        values, table = draw(rng)
        return estimate("k", "k", pd.DataFrame(values), table, contrast, unit="", covariates=covariates).p

    return p


def p_overall(draw: Draw) -> Callable[[np.random.Generator], float]:
    return lambda rng: (lambda values, table: overall(pd.DataFrame(values), table, "x")[3])(*draw(rng))


def p_flag(draw: Draw) -> Callable[[np.random.Generator], float]:
    """0 where the confound itself is reported (its interval excludes 0), else 1."""

    def flag(rng: np.random.Generator) -> float:
        _, table = draw(rng)
        e = estimate("age", "age", table[["age"]], table, AB, unit="")
        return 0.0 if e.low > 0 or e.high < 0 else 1.0

    return flag


NULLS: dict[str, tuple[Callable[[np.random.Generator], float], float]] = {  # what -> p of a study, the largest share allowed
    "A/A, unpaired, 12 and 12 images": (p_of(unpaired(12, 12)), 0.06),
    "A/A, unpaired, 8 and 24 images": (p_of(unpaired(8, 24)), 0.06),
    "A/A, unpaired, 12 and 36 images, lognormal": (p_of(unpaired(12, 36, skewed=True)), 0.07),
    "A/A, 16 identities in 4 poses": (p_of(clustered(16, 4)), 0.06),
    "A/A, 12 pairs": (p_of(matched(12, 1)), 0.06),
    "A/A, 12 images with 3 controls each": (p_of(matched(12, 3)), 0.06),
    "A/A, 4 groups of 12, one against the others": (p_of(levels(4, 12), Contrast("x", "a", OTHERS)), 0.06),
    "A/A, 4 groups of 12, overall test": (p_overall(levels(4, 12)), 0.06),
    "null, 12 and 12 images, 4 shared seeds that move the groups": (p_of(shared_seeds(12, 4)), 0.06),
    "confounded null, 24 and 24 images, adjusted": (p_of(confounded(24), covariates=("age",)), 0.06),
    "confounded null, 24 pairs, adjusted": (p_of(confounded(24, in_pairs=True), covariates=("age",)), 0.06),
}
SEEN: dict[str, tuple[Callable[[np.random.Generator], float], float]] = {  # -> the smallest share allowed
    "confounded null, 24 and 24 images, not adjusted: the confound is reported": (p_flag(confounded(24)), 0.90),
    "confounded null, 24 and 24 images, not adjusted: p < 0.05": (p_of(confounded(24)), 0.50),
}


def validate(studies: int = STUDIES, seed: int = 0) -> pd.DataFrame:
    """A row per design: the share of studies with p < 0.05, its 95 % interval, what is allowed, passed."""
    rows = []
    for kind, designs in (("at most", NULLS), ("at least", SEEN)):
        for number, (what, (p, limit)) in enumerate(designs.items()):
            rng = np.random.default_rng([seed, number])
            share = intervals.proportion(sum(p(rng) < 0.05 for _ in range(studies)), studies)
            passed = share.value <= limit if kind == "at most" else share.value >= limit
            row = dict(what=what, measured=share.value, low=share.low, high=share.high, studies=studies)
            rows.append(row | dict(threshold=f"{kind} {limit:g}", passed=passed))
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Error rates of the designs of a bias study.")
    parser.add_argument("out", nargs="?", default="docs/bias-designs.csv")
    parser.add_argument("--studies", type=int, default=STUDIES)
    given = parser.parse_args()
    found = validate(given.studies)
    with write_whole(Path(given.out)) as part:
        found.to_csv(part, index=False, float_format="%.4g")
    print(found.to_string(index=False))
    raise SystemExit(int(not found["passed"].all()))
