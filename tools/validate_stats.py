"""Do the statistics keep their promises? Coverage, error rates and A/A studies on simulated tables: arrays only, no clip.

    $ python -m tools.validate_stats docs/statistics.csv [--quick]

Every row is a rate over simulated studies, analysed by svdlab.stats as a probe's are, with its binomial 95 % interval
(Clopper and Pearson). A row fails where even that interval lies outside what is promised.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint
from tqdm.auto import tqdm

from svdlab.measure.files import write_whole
from svdlab.stats.effects import EFFECT, EQUIVALENT, corrected, paired
from svdlab.stats.intervals import mean_interval

SHARES, IMAGES, SEEDS, PAIRS = (0.0, 0.05, 0.1, 0.2), (12, 24), (2, 3, 4), (8, 12, 16, 20, 24)
IMAGE_SHARE = 0.5  # of variance; the rest but the seeds' is of the single clip
FULL, QUICK = 2000, 200
STUDIES = 1000
MEASURES = 11  # of an A/A study
Draw = Callable[[np.random.Generator, int], np.ndarray]
DIFFERENCES: dict[str, Draw] = {  # each of mean 0
    "normal": lambda rng, n: rng.normal(size=n),
    "Student's t with 3 degrees of freedom": lambda rng, n: rng.standard_t(3, n),
    "exponential": lambda rng, n: rng.exponential(1.0, n) - 1.0,
    "lognormal, sigma 0.5": lambda rng, n: rng.lognormal(0.0, 0.5, n) - np.exp(0.125),
    "lognormal, sigma 1": lambda rng, n: rng.lognormal(0.0, 1.0, n) - np.exp(0.5),
    "minus lognormal, sigma 1": lambda rng, n: np.exp(0.5) - rng.lognormal(0.0, 1.0, n),
}


def crossed(
    rng: np.random.Generator, images: int, seeds: int, share: float, *, image_share: float = IMAGE_SHARE, own: bool = False
) -> pd.DataFrame:
    """A measure of true mean 0 and variance 1: images by seeds, the seeds' part `share`. own: each image has its own seeds.

    >>> crossed(np.random.default_rng(0), 12, 2, 0.1).shape
    (12, 2)
    """
    by_image = rng.normal(0, image_share**0.5, (images, 1))
    by_seed = rng.normal(0, share**0.5, (images if own else 1, seeds))
    grid = by_image + by_seed + rng.normal(0, (1 - share - image_share) ** 0.5, (images, seeds))
    if not own:
        return pd.DataFrame(grid)
    apart = np.full((images, images * seeds), np.nan)
    for i in range(images):
        apart[i, i * seeds : (i + 1) * seeds] = grid[i]
    return pd.DataFrame(apart)


def coverage(rng: np.random.Generator, images: int, seeds: int, share: float, missing: float = 0.0, **how: Any) -> bool:
    """Whether the interval of one table holds the true mean. missing: a share of cells without a number."""
    table = crossed(rng, images, seeds, share, **how)
    if missing:
        table = table.mask(rng.random(table.shape) < missing)
    found = mean_interval(table.dropna(how="all"))
    return bool(found.low <= 0 <= found.high)


def effect(rng: np.random.Generator, draw: Draw, n: int) -> bool:
    """Whether pairs without an effect are called one."""
    return paired("x", "x", draw(rng, n), unit="").verdict == EFFECT


def equivalent(rng: np.random.Generator, draw: Draw, n: int) -> bool:
    """Whether pairs whose mean lies at the margin are called equivalent."""
    return paired("x", "x", 1.0 + draw(rng, n), unit="", margin=1.0).verdict == EQUIVALENT


def study(rng: np.random.Generator, n: int, *, seeds: int = 2, share: float = 0.1, confound: str = "") -> bool:
    """Whether a study in which nothing is to be found calls any of its measures an effect, after the correction.

    Both sides of each of n pairs are images of their own, drawn from one population (A/A): none is compared with itself, no
    label is swapped. Measures are correlated, half of them lognormal, and all clips share their seeds, whose effect is on
    the logarithm of these. confound: both sides come from two strata that differ by three standard deviations, "matched"
    within each pair, or "unmatched", 85 % of the first side and 15 % of the second from the one, which must be found.
    """
    shape = (2, n, seeds, MEASURES)
    common, image = rng.normal(size=(2, n, 1, 1)), rng.normal(size=(2, n, 1, MEASURES))
    by_seed = rng.normal(0, share**0.5, (1, 1, seeds, MEASURES))
    values = 0.5 * common + 0.5 * image + by_seed + 0.4 * rng.normal(size=shape)
    values[..., ::2] = np.exp(values[..., ::2])
    if confound:
        strata = rng.random((1 if confound == "matched" else 2, n)) < (0.5 if confound == "matched" else [[0.85], [0.15]])
        values += 3.0 * strata[:, :, None, None]
    change = values[0] - values[1]
    effects = [paired(str(m), str(m), pd.DataFrame(change[:, :, m]), unit="", seeds=seeds) for m in range(MEASURES)]
    return any(e.verdict == EFFECT for e in corrected(effects))


def cases(studies: int) -> Iterator[tuple[str, int, float, float, Callable[[np.random.Generator], bool]]]:
    """What is simulated: in words, how often, the least and the most that is promised, and one study.

    With two seeds a small variance of theirs looks like none: an interval that covers 0.93 where they have a fifth of the
    variance covers up to 0.98 where they have none.
    """
    most = lambda seeds, share: 0.98 if seeds == 2 and not share else 0.97
    for part, seeds, images, share in product((IMAGE_SHARE, 0.3, 0.7), SEEDS, IMAGES, SHARES):
        what = f"coverage: {images} images x {seeds} shared seeds, seed share {share:g}"
        what, how = what + f", image share {part}" * (part != IMAGE_SHARE), dict(image_share=part)
        yield what, 1, 0.93, most(seeds, share), lambda rng, a=(images, seeds, share), how=how: coverage(rng, *a, **how)  # type: ignore[misc]
    for seeds, share in product((2, 4), (0.0, 0.2)):
        what = f"coverage: 16 images x {seeds} shared seeds, seed share {share:g}, 15 % of the cells missing"
        yield what, 1, 0.93, most(seeds, share), lambda rng, a=(16, seeds, share): coverage(rng, *a, missing=0.15)  # type: ignore[misc]
    for images, share in product(IMAGES, SHARES):
        what = f"coverage: {images} images x 2 seeds of their own, seed share {share:g}"
        yield what, 1, 0.93, 0.97, lambda rng, a=(images, 2, share): coverage(rng, *a, own=True)  # type: ignore[misc]
    for (name, draw), n in product(DIFFERENCES.items(), PAIRS):
        limit = 0.07 if "lognormal" in name else 0.06
        yield f"type I error: {n} pairs, {name}", 1, 0.0, limit, lambda rng, d=draw, n=n: effect(rng, d, n)  # type: ignore[misc]
    for (name, draw), n in product(DIFFERENCES.items(), PAIRS):
        what = f"called equivalent at the margin: {n} pairs, {name}"
        yield what, 1, 0.0, 0.055, lambda rng, d=draw, n=n: equivalent(rng, d, n)  # type: ignore[misc]
    for confound, n in product(("", "matched"), (12, 24)):
        what = f"A/A studies that find any effect: {n} pairs of disjoint images{', strata matched' * bool(confound)}"
        yield what, studies, 0.0, 0.06, lambda rng, n=n, c=confound: study(rng, n, confound=c)  # type: ignore[misc]
    what = "control: 24 pairs of images from unmatched strata: studies that find the difference"
    yield what, studies, 0.5, 1.0, lambda rng: study(rng, 24, confound="unmatched")


def validate(repeats: int = FULL, studies: int = STUDIES, only: str = "", *, progress: bool = False) -> pd.DataFrame:
    """A row per case: what, rate, its binomial interval, repeats, the promise, passed. only: cases whose name begins so.

    >>> validate(repeats=100, only="coverage: 12 images x 2 shared seeds, seed share 0.1").passed.tolist()
    [True]
    """
    rows, chosen = [], [case for case in cases(studies) if case[0].startswith(only)]
    for number, (what, times, least, most, one) in enumerate(tqdm(chosen, disable=not progress)):
        rng, n = np.random.default_rng([number, 20]), repeats if times == 1 else times
        count = sum(one(rng) for _ in range(n))
        low, high = proportion_confint(count, n, method="beta")
        promise = f"{least:g} to {most:g}" if least else f"at most {most:g}"
        kept = high >= least and low <= most
        rows.append(dict(what=what, rate=count / n, low=round(low, 4), high=round(high, 4), n=n, promise=promise, passed=kept))
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The table of what the statistics promise.")
    parser.add_argument("out", nargs="?", default="docs/statistics.csv", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    size = dict(repeats=QUICK, studies=QUICK) if given.quick else {}
    found = validate(**size, only=given.only, progress=True)
    with write_whole(given.out) as part:
        found.to_csv(part, index=False)
    print(found.to_string(index=False))
    raise SystemExit(int(not found["passed"].all()))
