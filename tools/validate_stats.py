"""Do the statistics keep their promises? Coverage, error rates and A/A studies on simulated tables: arrays only, no clip.

    $ python -m tools.validate_stats docs/statistics.csv [--quick]

Every row is a rate over simulated studies, analysed by svdlab.stats as a probe's are, with its binomial 95 % interval
(Clopper and Pearson). A row fails where even that interval lies outside what is promised. The constants of svdlab.stats were
chosen on the first distributions of `DIFFERENCES`; nothing was chosen on those "held out". What no test of so few values can
keep to, the distributions `BEYOND`, stays in the table as failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from math import gamma
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp
from statsmodels.stats.proportion import proportion_confint
from tqdm.auto import tqdm

from svdlab.measure.files import write_whole
from svdlab.stats.effects import EFFECT, corrected, paired
from svdlab.stats.intervals import mean_interval, p_equivalent

SHARES, IMAGES, SEEDS, PAIRS = (0.0, 0.05, 0.1, 0.2), (12, 24), (2, 3, 4), (8, 12, 16, 20, 24)
IMAGE_SHARE = 0.5  # of variance; the rest but the seeds' is of the single clip
FULL, QUICK = 2500, 200
BOUNDARY = 10  # times as often at the margin: a standard error of 0.0014
STUDIES = 1000
MEASURES = 11  # of an A/A study
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
Count = Callable[[np.random.Generator, int], int]
DIFFERENCES: dict[str, Draw] = {  # each of mean 0
    "normal": lambda rng, n: rng.normal(size=n),
    "Student's t with 3 degrees of freedom": lambda rng, n: rng.standard_t(3, n),
    "exponential": lambda rng, n: rng.exponential(1.0, n) - 1.0,
    "lognormal, sigma 0.5": lambda rng, n: rng.lognormal(0.0, 0.5, n) - np.exp(0.125),
    "lognormal, sigma 1": lambda rng, n: rng.lognormal(0.0, 1.0, n) - np.exp(0.5),
    "minus lognormal, sigma 1": lambda rng, n: np.exp(0.5) - rng.lognormal(0.0, 1.0, n),
    "held out: lognormal, sigma 0.75": lambda rng, n: rng.lognormal(0.0, 0.75, n) - np.exp(0.75**2 / 2),
    "held out: lognormal, sigma 1.25": lambda rng, n: rng.lognormal(0.0, 1.25, n) - np.exp(1.25**2 / 2),
    "held out: gamma, shape 2": lambda rng, n: rng.gamma(2.0, 1.0, n) - 2.0,
    "held out: gamma, shape 0.5": lambda rng, n: rng.gamma(0.5, 1.0, n) - 0.5,
    "held out: gamma, shape 0.25": lambda rng, n: rng.gamma(0.25, 1.0, n) - 0.25,
    "held out: Weibull, shape 0.7": lambda rng, n: rng.weibull(0.7, n) - gamma(1 + 1 / 0.7),
    "held out: Weibull, shape 0.5": lambda rng, n: rng.weibull(0.5, n) - 2.0,
    "held out: beta, shapes 0.5 and 5": lambda rng, n: rng.beta(0.5, 5.0, n) - 0.5 / 5.5,
    "held out: Pareto, shape 3": lambda rng, n: rng.pareto(3.0, n) - 0.5,
    "held out: normal, a tenth of the values 5 sd higher": lambda rng, n: rng.normal(size=n) + 5 * (rng.random(n) < 0.1) - 0.5,
}
BEYOND = (
    "lognormal, sigma 1.25",
    "gamma, shape 0.25",
    "Weibull, shape 0.5",
    "Pareto, shape 3",
    "a tenth of the values 5 sd higher",
)


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


def effects(rng: np.random.Generator, times: int, draw: Draw, n: int) -> int:
    """How often pairs without an effect are called one. The engine's p is never below that of the t test, which is quick."""
    x = draw(rng, (times, n))
    near = x[ttest_1samp(x, 0.0, axis=1).pvalue < 0.05]
    return sum(paired("x", "x", one, unit="").verdict == EFFECT for one in near)


def equivalents(rng: np.random.Generator, times: int, draw: Draw, n: int) -> int:
    """How often pairs whose mean lies at the margin, two standard deviations from 0, are called equivalent: by the p on which
    the verdict of `paired` rests."""
    x = draw(rng, (times, n))
    margin = 2 * x.std()
    near = x[(ttest_1samp(x, 0.0, axis=1).pvalue < 0.05) & (x.mean(axis=1) < 0)] + margin
    return sum(p_equivalent(mean_interval(one), one, -margin, margin) < 0.05 for one in near)


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


def often(one: Callable[[np.random.Generator], bool]) -> Count:
    """How often one study answers yes."""
    return lambda rng, times: sum(one(rng) for _ in range(times))


def cases(repeats: int, studies: int) -> Iterator[tuple[str, int, float, float, Count]]:
    """What is simulated: in words, how often, the least and the most that is promised, and the count of so many studies."""
    for part, seeds, images, share in product((IMAGE_SHARE, 0.3, 0.7), SEEDS, IMAGES, SHARES):
        what = f"coverage: {images} images x {seeds} shared seeds, seed share {share:g}"
        what += f", image share {part}" * (part != IMAGE_SHARE)
        yield what, repeats, 0.93, 0.97, often(partial(coverage, images=images, seeds=seeds, share=share, image_share=part))
    for seeds, share in product((2, 4), (0.0, 0.2)):
        what = f"coverage: 16 images x {seeds} shared seeds, seed share {share:g}, 15 % of the cells missing"
        yield what, repeats, 0.93, 0.97, often(partial(coverage, images=16, seeds=seeds, share=share, missing=0.15))
    for images, share in product(IMAGES, SHARES):
        what = f"coverage: {images} images x 2 seeds of their own, seed share {share:g}"
        yield what, repeats, 0.93, 0.97, often(partial(coverage, images=images, seeds=2, share=share, own=True))
    for (name, draw), n in product(DIFFERENCES.items(), PAIRS):
        limit = 0.07 if "lognormal" in name else 0.06
        yield f"type I error: {n} pairs, {name}", repeats, 0.0, limit, partial(effects, draw=draw, n=n)
    for (name, draw), n in product(DIFFERENCES.items(), PAIRS):
        what = f"called equivalent at the margin: {n} pairs, {name}"
        yield what, BOUNDARY * repeats, 0.0, 0.055, partial(equivalents, draw=draw, n=n)
    for confound, n in product(("", "matched"), (12, 24)):
        what = f"A/A studies that find any effect: {n} pairs of disjoint images{', strata matched' * bool(confound)}"
        yield what, studies, 0.0, 0.06, often(partial(study, n=n, confound=confound))
    what = "control: 24 pairs of images from unmatched strata: studies that find the difference"
    yield what, studies, 0.5, 1.0, often(partial(study, n=24, confound="unmatched"))


def validate(repeats: int = FULL, studies: int = STUDIES, only: str = "", *, progress: bool = False) -> pd.DataFrame:
    """A row per case: what, rate, its binomial interval, repeats, the promise, passed. only: cases whose name begins so.

    >>> validate(repeats=100, only="coverage: 12 images x 2 shared seeds, seed share 0.1").passed.tolist()
    [True]
    """
    rows, chosen = [], [(i, *case) for i, case in enumerate(cases(repeats, studies)) if case[0].startswith(only)]
    for number, what, n, least, most, count_of in tqdm(chosen, disable=not progress):
        count = count_of(np.random.default_rng([number, 20]), n)
        low, high = proportion_confint(count, n, method="beta")
        promise = f"{least:g} to {most:g}" if least else f"at most {most:g}"
        kept = high >= least and low <= most
        rows.append(dict(what=what, rate=count / n, low=round(low, 4), high=round(high, 4), n=n, promise=promise, passed=kept))
    return pd.DataFrame(rows)


def unexpected(table: pd.DataFrame) -> list[str]:
    """The rows that failed, without those of distributions that are beyond the tests."""
    return [what for what in table.what[~table.passed] if not what.endswith(BEYOND)]


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
    raise SystemExit(int(bool(unexpected(found))))
