"""Is the bias study valid? Tested against the organism's planted effects and nulls, and against simulated null studies.

    $ python tools/validate_bias.py results/bias-validity [--quick]

Clips are made once and resampled. A null study is an A/A study: both images of a pair are different ones of the same group, so
that nothing is there to be found, and no image is on both sides (swapping labels within pairs would be exact for any data, and
prove nothing). Coverage is of intervals from small samples against all pairs that were not drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint
from tqdm.auto import tqdm

from svdlab import load_pipeline
from svdlab.measure.files import write_whole
from svdlab.pipeline.generate import ProbePipeline
from svdlab.probes import bias
from svdlab.probes.bias import compare, pair_values, planted
from svdlab.stats import intervals as stats
from svdlab.stats.effects import EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW
from svdlab.study.pairs import Contrast, contrasts, pairs_of

REPORT = ["what", "planted", "measured", "low", "high", "n", "threshold", "passed"]
FULL = {"hue": 160, "mirror": 120, "background": 60, "shape": 60, "position": 60}  # pairs
QUICK = {"hue": 16, "mirror": 16, "shape": 16}
MEASURES = (
    "object_px",
    "pan_px",
    "flow_px",
    "camera_px",
    "still",
    "drift_mse_first",
    "drift_colour_last",
    "blur_slope",
    "flicker_brightness",
    "warp_error",
    "reconstruction_mse",
)
STUDIES = 500
SMALL, TINY = 20, 4  # pairs of a study whose intervals are compared with the rest; of one that is too small
ALPHA = 0.05


def validate(
    pipe: ProbePipeline,
    out: str | Path,
    *,
    quick: bool = False,
    counts: dict[str, int] | None = None,
    steps: int | None = None,
    studies: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The table of validity: what, planted, measured, its interval, n, threshold, passed, and of which weights (their hash).

    >>> table = validate(pipe, "results/bias-validity", quick=True)
    >>> table[table.passed == False]

    quick: fewer pairs, steps and studies, a few minutes. counts: pairs of each scheme; steps: denoising steps (default 25,
    8 with quick); studies: simulated null studies (default 500, 200 with quick). The table is also written to
    `out/bias-validity.csv`. Started again, it makes what is missing.
    """
    counts = counts or (QUICK if quick else FULL)
    studies = studies or (200 if quick else STUDIES)
    conditions = planted.CONDITIONS.replace(num_inference_steps=steps or (8 if quick else 25))
    planted.world_pairs(Path(out, "images"), **counts)
    manifest = Path(out, "images", "manifest.csv")
    design = bias.Design(manifest, measures=MEASURES, margins=planted.MARGINS, seeds=(0,), conditions=conditions)
    study = bias.run(pipe, design, out, progress=progress)
    clips, manifest = study.clips, study.manifest
    drawn = min(SMALL, min(counts.values()))
    null = null_studies(clips, manifest, MEASURES, pairs=drawn, studies=studies, progress=progress)
    rows = [
        *planted_rows(study),
        *null_rows(null),
        *coverage_rows(clips, manifest, resamples=studies),
        *small_rows(clips, manifest),
    ]
    table = pd.DataFrame(rows).reindex(columns=REPORT).assign(weights=study.plan["weights"][:12])
    with write_whole(Path(out, "bias-validity.csv")) as part:
        table.to_csv(part, index=False)
    return table


def _row(
    what: str, measured: float, low: float, high: float, n: int, threshold: str, passed: bool, planted: float = np.nan
) -> dict[str, Any]:
    return dict(what=what, planted=planted, measured=measured, low=low, high=high, n=n, threshold=threshold, passed=passed)


# --- what was planted -------------------------------------------------------------------------------------------------


def planted_rows(study: bias.BiasResult) -> list[dict[str, Any]]:
    """Planted effects are found with the right sign, planted nulls called equivalent."""
    rows = []
    for law in planted.PLANTED:
        hit = study.table[(study.table.scheme == law.scheme) & (study.table.measure == law.measure)]
        if hit.empty:
            continue
        row = hit.iloc[0]
        if law.effect:
            passed = row.verdict == EFFECT and np.sign(row.value) == np.sign(law.effect)
            threshold = "found: right sign, q < 0.05"
        else:
            passed, threshold = row.verdict == EQUIVALENT, f"equivalent within {planted.MARGINS[law.measure]:g}"
        what = str(row.what)
        rows.append(_row(what, row.value, row.low, row.high, int(row.n), threshold, bool(passed), law.effect))
    return rows


# --- simulated null studies -------------------------------------------------------------------------------------------


def null_studies(
    clips: pd.DataFrame,
    manifest: pd.DataFrame,
    measures: Iterable[str],
    *,
    pairs: int,
    studies: int = STUDIES,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Studies in which nothing is to be found: pairs of disjoint images of one group, for each scheme (`disjoint`).

    >>> null_studies(clips, manifest, ["object_px"], pairs=20, studies=500)

    A row per study, contrast and measure: `p`, `q`, and where an effect was planted `p_real`, the p of as many real pairs.
    """
    rng, named, parts = np.random.default_rng(seed), list(measures), []
    wanted = contrasts(manifest)
    effects = {law.scheme: law.measure for law in planted.PLANTED if law.effect and law.measure in named}
    for number in tqdm(range(studies), desc="null studies", unit="study", disable=not progress):
        table = compare(clips, pd.concat([disjoint(manifest, c, pairs, rng) for c in wanted]), named)
        part = table[["scheme", "measure", "p", "q"]].assign(study=number, p_real=np.nan)
        for contrast in (c for c in wanted if c.scheme in effects):
            real = compare(clips, _draw(manifest, contrast, pairs, rng)[0], [effects[contrast.scheme]]).p[0]
            part.loc[(part.scheme == contrast.scheme) & (part.measure == effects[contrast.scheme]), "p_real"] = real
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _draw(manifest: pd.DataFrame, contrast: Contrast, count: int, rng: np.random.Generator) -> tuple[pd.DataFrame, list[str]]:
    """The rows of so many random pairs of a contrast, and the ids of those that were not drawn."""
    ids = pairs_of(manifest, contrast).index.to_numpy()
    order = rng.permutation(len(ids))
    chosen, rest = ids[order[:count]], ids[order[count:]]
    return manifest[(manifest.group_scheme == contrast.scheme) & manifest.pair_id.isin(chosen)], list(rest)


def disjoint(manifest: pd.DataFrame, contrast: Contrast, pairs: int, rng: np.random.Generator) -> pd.DataFrame:
    """So many pairs (as many as there are images for) of two images of the same group, under the labels of both groups.

    >>> disjoint(manifest, Contrast("hue", "warm", "cool"), 20, np.random.default_rng(0))

    Half of the pairs come from one group and half from the other: a confounder with the planted effect, matched in each pair.
    """
    rows, made = pairs_of(manifest, contrast), []
    order = rng.permutation(len(rows))
    for i in range(min(pairs, len(rows) // 2)):
        own = rows[("a", "b")[i % 2]]
        for group, place in zip((contrast.a, contrast.b), order[2 * i : 2 * i + 2], strict=True):
            made.append(manifest.loc[[own.iloc[place]]].assign(group=group, pair_id=f"{contrast.scheme}-{i}"))
    return pd.concat(made)


def null_rows(null: pd.DataFrame) -> list[dict[str, Any]]:
    """False-positive rate before correction, and false discovery rate after: alone, and beside effects that are there.

    The unit is the study, since tests of one study share their clips. A rate fails where even its lower 95 % bound
    (one-sided) is above 0.05.
    """
    studies = null.study.nunique()
    false = (null.p < ALPHA).groupby(null.study).mean()
    rows = [_rate_row("null studies: share of tests with p < 0.05", false)]
    some = (null.q < ALPHA).groupby(null.study).any()
    bound = float(proportion_confint(int(some.sum()), studies, alpha=2 * ALPHA, method="beta")[0])  # Clopper and Pearson
    whole = stats.proportion(int(some.sum()), studies)
    what = "null studies: false discovery rate after correction"
    rows.append(_row(what, whole.value, bound, whole.high, studies, "lower bound not above 0.05", bound <= ALPHA))
    real = null.p_real.notna()
    if real.any() and not real.all():
        shares = [_false_share(part.p_real.fillna(part.p), part.p_real.isna()) for _, part in null.groupby("study")]
        rows.append(_rate_row("null tests beside planted effects: false discovery rate after correction", pd.Series(shares)))
    return rows


def _false_share(p: pd.Series, null: pd.Series) -> float:
    """Of what one study calls found, the share that is not there; 0 where it finds nothing."""
    found = stats.fdr(p) < ALPHA
    return float((found & null).sum() / max(1, found.sum()))


def _rate_row(what: str, per_study: pd.Series) -> dict[str, Any]:
    values = per_study.to_numpy(float)
    if np.ptp(values) == 0:
        low = high = float(values[0])
    else:
        limits = stats.t_interval(values, confidence=0.90)  # its lower end is the one-sided 95 % bound
        low, high = limits.low, limits.high
    return _row(what, float(values.mean()), low, high, len(values), "lower bound not above 0.05", low <= ALPHA)


# --- intervals --------------------------------------------------------------------------------------------------------


def coverage(
    clips: pd.DataFrame,
    manifest: pd.DataFrame,
    contrast: Contrast,
    measure: str,
    *,
    pairs: int = SMALL,
    resamples: int = STUDIES,
    seed: int = 0,
) -> stats.Estimate:
    """How often the interval of so many random pairs holds the mean effect of all the pairs that were not drawn.

    >>> coverage(clips, manifest, Contrast("hue", "warm", "cool"), "object_px", pairs=20).value
    """
    rng = np.random.default_rng(seed)
    values = pair_values(clips, manifest, contrast, measure)
    everything = (values.a - values.b).dropna()
    held = 0
    for _ in range(resamples):
        drawn, rest = _draw(manifest, contrast, pairs, rng)
        row = compare(clips, drawn, [measure]).iloc[0]
        held += row.low <= everything.reindex(rest).mean() <= row.high
    return stats.proportion(int(held), resamples)


def coverage_rows(clips: pd.DataFrame, manifest: pd.DataFrame, *, resamples: int = STUDIES) -> list[dict[str, Any]]:
    """Coverage of the planted effects, where enough pairs are left over that their mean stands for the model's own."""
    rows = []
    for contrast in contrasts(manifest):
        law = next((p for p in planted.PLANTED if p.scheme == contrast.scheme and p.effect), None)
        if law is None or len(pairs_of(manifest, contrast)) < 6 * SMALL:
            continue
        found = coverage(clips, manifest, contrast, law.measure, resamples=resamples)
        left = len(pairs_of(manifest, contrast)) - SMALL
        what = f"{contrast.scheme}: intervals of {SMALL} pairs hold the effect of the other {left}"
        passed = 0.90 <= found.value <= 0.98
        rows.append(_row(what, found.value, found.low, found.high, found.n, "0.90 to 0.98", passed, 0.95))
    return rows


# --- small studies ----------------------------------------------------------------------------------------------------


def small_rows(clips: pd.DataFrame, manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """A study that is too small says so, whatever its numbers are; one that finds nothing says what it would miss."""
    rng = np.random.default_rng(0)
    wanted = contrasts(manifest)
    tiny = pd.concat([_draw(manifest, c, TINY, rng)[0] for c in wanted])
    verdicts = compare(clips, tiny, MEASURES).verdict
    said = int((verdicts == TOO_FEW).sum())
    rows = [_row(f"studies of {TINY} pairs that give no verdict", said / len(verdicts), np.nan, np.nan, len(verdicts), "1",
                 said == len(verdicts))]  # fmt: skip
    table = pd.concat([compare(clips, _draw(manifest, c, 8, rng)[0], ["blur_slope"]) for c in wanted])
    open_ones = [row for _, row in table.iterrows() if row.verdict == INCONCLUSIVE]
    told = sum("would mostly be missed" in row.sentence for row in open_ones)
    rows.append(_row("studies of 8 pairs that find nothing: say what they would miss", told / max(1, len(open_ones)), np.nan,
                     np.nan, len(open_ones), "1", told == len(open_ones)))  # fmt: skip
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The table of validity of the bias study.")
    parser.add_argument("out", nargs="?", default="results/bias-validity")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    found = validate(load_pipeline(), given.out, quick=given.quick)
    print(found.to_string(index=False))
    raise SystemExit(int(not found["passed"].all()))
