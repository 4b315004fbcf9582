"""Pairs compared in many measures at once: effects with intervals, one family of tests, verdicts that may be "cannot tell".

    >>> table = compare(results, manifest, ["object_px", "blur_slope"], margins={"object_px": "15 %"})
    >>> print(sentence(table.iloc[0]))

The unit is the pair: seeds are averaged first. What the measures are is in MEASURES.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.stats import intervals as stats
from svdlab.study.manifests import Contrast, contrasts, pairs_of

DIFFERENCE, EQUIVALENT, WITHIN = "difference", "equivalent", "difference within the margin"
CANNOT_TELL, TOO_FEW = "cannot tell", "too few pairs for a verdict"


@dataclass(frozen=True)
class Measure:
    """A number that is compared. says: in words, unit included. worse: "higher" or "lower" where one is worse service."""

    says: str
    unit: str = ""
    worse: str = ""
    part: str = "denoiser"  # or "autoencoder", whose loss no denoiser can make good


MEASURES = {
    "flow_px": Measure("motion in all", "px per frame"),
    "object_px": Measure("subject speed", "px per frame"),
    "camera_px": Measure("camera speed", "px per frame"),
    "pan_px": Measure("camera to the right", "px per frame"),
    "object_dx": Measure("subject to the right", "px per frame"),
    "still": Measure("share of clips that go nowhere", "", "higher"),
    "abstained": Measure("share of clips whose motion cannot be told", ""),
    "drift_mse_first": Measure("first frame against the input", "squared error", "higher"),
    "drift_colour_last": Measure("colour drift by the last frame", "RGB distance", "higher"),
    "blur_slope": Measure("sharpness lost", "blur per frame", "higher"),
    "flicker_brightness": Measure("brightness flicker", "", "higher"),
    "warp_error": Measure("change beyond motion", "rms", "higher"),
    "face_persistence": Measure("share of frames with the face", "", "lower"),
    "reconstruction_mse": Measure("lost by the autoencoder alone", "squared error", "higher", part="autoencoder"),
}
SHARES = ("still", "abstained")  # of clips, each of which is or is not: often the same in all pairs
# What turns its sign with the picture. Of a flipped picture's clip it is turned back, so that without a preferred
# direction both halves of a pair agree.
ODD = {
    "left_right": ("pan_px", "object_dx", "roll_deg"),
    "up_down": ("tilt_px", "object_dy", "roll_deg"),
    "half_turn": ("pan_px", "object_dx", "tilt_px", "object_dy"),
}
COLUMNS = [
    "scheme", "a", "b", "measure", "n", "left_out", "mean_a", "mean_b", "effect", "low", "high", "d", "p", "q",
    "sd_pairs", "sd_pictures", "sd_seeds", "detectable", "margin", "p_equivalent", "q_equivalent", "verdict",
]  # fmt: skip


def compare(
    results: pd.DataFrame,
    manifest: pd.DataFrame,
    measures: Iterable[str] | str | None = None,
    *,
    margins: Mapping[str, float | str] | None = None,
    chosen: Iterable[Contrast] | None = None,
    alpha: float = 0.05,
    interval: str = "t",
    resamples: int = 9999,
) -> pd.DataFrame:
    """Every contrast in every measure: a row each, group a less group b over the pairs.

    >>> compare(results, manifest, ["object_px", "blur_slope"], margins={"object_px": "15 %"}).query("q < 0.05")

    Args:
        results: of `svdlab.sweep`, with the column `label_row`: the manifest's row of each clip (`bias.as_plan`).
        manifest: of `svdlab.study.manifests.read_manifest`.
        measures: columns of numbers or truth values; default those of MEASURES that are there.
        margins: by measure, what counts as no difference: in its unit, or as "15 %" of the mean over both groups.
        chosen: contrasts; default every two groups of each scheme.
        interval: "t", or "permutation": the shifts that the test would not reject.

    Columns: `n` pairs, `left_out` pairs without a number in one of the two; means over pairs; `effect` with its
    interval (`low`, `high`, confidence 1 - alpha); `d`, effect over `sd_pairs`, the standard deviation of the pair
    differences; `p` of the paired permutation test and `q` after Benjamini and Hochberg over the whole table;
    `sd_pictures` and `sd_seeds`, how much ordinary pictures of one group, and seeds of one picture, differ;
    `detectable`, the smallest effect found with 80 % power at alpha over the number of rows; `margin` and TOST's
    `p_equivalent`, with its own q; and `verdict`: "difference", "difference within the margin", "equivalent", "cannot
    tell", or "too few pairs for a verdict" where 2 / 2 ** n exceeds alpha over the number of rows.

    Raises InputError for a column that is not there, or results that lack a picture of the manifest.
    """
    named = _measures(results, measures)
    values, index = _clips(results, manifest, named)
    pictures = _pictures(values, index, manifest, named)
    rows = []
    for contrast in list(contrasts(manifest) if chosen is None else chosen):
        pairs = pairs_of(manifest, contrast)
        places = {side: manifest.index.get_indexer(pd.Index(pairs[side])) for side in ("a", "b")}
        sides = {side: pictures[place] for side, place in places.items()}  # "pair measure"
        p = _p_values(sides["a"] - sides["b"], resamples)
        for i, name in enumerate(named):
            known = {**vars(contrast), "measure": name, "p": p[i], **_ordinary(values[:, i], index, places)}
            margin = (margins or {}).get(name)
            rows.append(known | _row(sides["a"][:, i], sides["b"][:, i], margin, alpha, interval, resamples, name in SHARES))
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    tests = int(table.p.notna().sum())
    table["q"] = stats.fdr(table.p)
    table["q_equivalent"] = stats.fdr(table.p_equivalent)
    table["detectable"] = [_detectable(n, alpha / max(tests, 1)) for n in table.n] * table.sd_pairs
    table["verdict"] = [verdict_of(row, tests, alpha) for row in table.to_dict("records")]
    return table


def _measures(results: pd.DataFrame, measures: Iterable[str] | str | None) -> list[str]:
    if measures is None:
        return [name for name in MEASURES if name in results and numbers(results[name]).notna().any()]
    named = [measures] if isinstance(measures, str) else list(measures)
    absent = [name for name in named if name not in results]
    if absent or not named:
        raise InputError(f"no column {', '.join(absent) or 'given'}: the results have {', '.join(map(str, results.columns))}.")
    return named


def numbers(column: pd.Series) -> pd.Series:
    """A column of numbers, truth values or None as floats; NaN for what is no number."""
    if column.dtype == float:
        return column
    return pd.to_numeric(column.astype(object).where(column.notna(), np.nan), errors="coerce").astype(float)


def pair_values(results: pd.DataFrame, manifest: pd.DataFrame, contrast: Contrast, measure: str) -> pd.DataFrame:
    """One measure of both pictures of each pair, as `compare` takes them: columns `a` and `b`, indexed by `pair_id`.

    >>> pair_values(results, manifest, Contrast("hue", "warm", "cool"), "object_px").eval("a - b").hist()

    Seeds are averaged, directions of flipped pictures turned back; NaN where a picture has no number.
    """
    named = _measures(results, measure)
    values, index = _clips(results, manifest, named)
    pictures = _pictures(values, index, manifest, named)[:, 0]
    pairs = pairs_of(manifest, contrast)
    return pd.DataFrame(
        {side: pictures[manifest.index.get_indexer(pd.Index(pairs[side]))] for side in ("a", "b")}, index=pairs.index
    )


def _clips(results: pd.DataFrame, manifest: pd.DataFrame, named: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers "clip measure" of the manifest's clips, and the place of each one's picture in the manifest."""
    if "label_row" not in results:
        raise InputError("the results have no column label_row: sweep the plan of svdlab.probes.bias.as_plan.")
    index = manifest.index.get_indexer(pd.Index(results.label_row))
    absent = np.setdiff1d(np.arange(len(manifest)), index)
    if len(absent):
        row = manifest.index[absent[0]]
        raise InputError(f"the results have no clip of row {row} of the manifest ({manifest.path[row]}).")
    values = np.stack([numbers(results[name]).to_numpy() for name in named], 1)
    return values[index >= 0], index[index >= 0]


def _pictures(values: np.ndarray, index: np.ndarray, manifest: pd.DataFrame, named: list[str]) -> np.ndarray:
    """Measures of each row of the manifest, seeds averaged, signs turned back for flipped pictures: "picture measure"."""
    there = np.isfinite(values)
    sums, counts = (np.zeros((len(manifest), len(named))) for _ in range(2))
    np.add.at(sums, index, np.where(there, values, 0.0))
    np.add.at(counts, index, there)
    means = np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)
    if "flip_noise" in manifest:
        for flip, odd in ODD.items():
            flipped, turned = (manifest.flip_noise == flip).to_numpy(), np.isin(named, odd)
            means[flipped[:, None] & turned] *= -1
    return means


def _p_values(differences: np.ndarray, resamples: int) -> np.ndarray:
    """Permutation p of each column "pair measure", over the pairs that have a number; NaN below two of them."""
    p = np.full(differences.shape[1], math.nan)
    there = np.isfinite(differences)
    for pattern in np.unique(there.T, axis=0):  # measures that lack the same pairs share their sign flips
        if pattern.sum() >= 2:
            columns = (pattern == there.T).all(1)
            p[columns] = stats.sign_flip_p(differences[pattern][:, columns].T, resamples=resamples)
    return p


def _row(
    a: np.ndarray, b: np.ndarray, margin: float | str | None, alpha: float, interval: str, resamples: int, share: bool = False
) -> dict[str, Any]:
    """The numbers of one contrast in one measure, but for those that the whole family shares."""
    both = np.isfinite(a) & np.isfinite(b)
    row: dict[str, Any] = {"n": int(both.sum()), "left_out": int((~both).sum())}
    a, b = a[both], b[both]
    if not len(a):
        return row
    row |= {"mean_a": float(a.mean()), "mean_b": float(b.mean()), "effect": float((a - b).mean())}
    if len(a) < 2:
        return row
    limits = stats.mean_limits(a - b, alpha=alpha, interval=interval, resamples=resamples)
    spread = float((a - b).std(ddof=1))
    row |= {"low": limits[0], "high": limits[1], "d": stats.standardised(row["effect"], spread), "sd_pairs": spread}
    if margin is not None:
        wide = row["margin"] = margin_of(margin, np.concatenate([a, b]))
        if share and not spread and not row["effect"]:
            # A mean difference as large as the margin, of shares, takes as large a share of pairs that differ: none was drawn.
            row["p_equivalent"] = (1 - min(wide, 1.0)) ** len(a)
        elif not spread:  # the mean is what it is
            row["p_equivalent"] = 0.0 if abs(row["effect"]) < wide else 1.0
        elif wide:  # a share of a mean of 0 is no margin
            row["p_equivalent"] = stats.equivalent_mean(a - b, -wide, wide, alpha=alpha).p
    return row


def margin_of(margin: float | str, values: np.ndarray) -> float:
    """A margin in the measure's unit, from a number or from a share of the mean such as "15 %"."""
    if isinstance(margin, str):
        share = margin.strip().removesuffix("%").strip()
        if share == margin.strip() or not share.replace(".", "", 1).isdigit():
            raise InputError(f'margin={margin!r}: a number in the measure\'s unit, or a share of its mean such as "15 %".')
        return float(share) / 100 * abs(float(values.mean()))
    if not margin > 0:
        raise InputError(f"margin={margin!r}: above 0.")
    return float(margin)


def _ordinary(values: np.ndarray, index: np.ndarray, places: dict[str, np.ndarray]) -> dict[str, float]:
    """How much pictures of one group and seeds of one picture vary in a measure, over both groups of the contrast."""
    there = np.isfinite(values)
    groups = [there & np.isin(index, place) for place in places.values()]
    found = [stats.variation(values[own], index[own]) for own in groups if own.sum() > 1]
    both = {"sd_pictures": [f.between for f in found], "sd_seeds": [f.within for f in found]}
    return {name: float(np.sqrt(np.mean(np.square(v)))) if v else math.nan for name, v in both.items()}


@cache
def _detectable(n: int, alpha: float) -> float:
    return stats.detectable(n, alpha=alpha) if n > 2 else math.nan


def verdict_of(row: Mapping[Any, Any], tests: int, alpha: float) -> str:
    """One of the five verdicts, from a row's n, q and q_equivalent (NaN where there was no such test)."""
    if row["n"] < 2 or not stats.decidable(row["n"], tests=tests, alpha=alpha):
        return TOO_FEW
    same, apart = row["q_equivalent"] < alpha, row["q"] < alpha
    return WITHIN if same and apart else DIFFERENCE if apart else EQUIVALENT if same else CANNOT_TELL


def said(measure: str) -> str:
    """A measure in words.

    >>> said("object_px")
    'subject speed'
    """
    return MEASURES[measure].says if measure in MEASURES else measure.replace("_", " ")


def sentence(row: Any) -> str:
    """A row of `compare` in words, with everything that is needed to judge it.

    >>> print(sentence(result.table.iloc[0]))
    hue, warm less cool: subject speed -1.24 px per frame (-1.38 to -1.1), d -3.1, q 0.0004, 24 pairs: difference. ...
    """
    unit = f" {MEASURES[row['measure']].unit}" if row["measure"] in MEASURES and MEASURES[row["measure"]].unit else ""
    head = f"{row['scheme']}, {row['a']} less {row['b']}: {said(row['measure'])}"
    if not np.isfinite(row["effect"]):
        return f"{head}: no pair with a number in both; {row['left_out']} left out."
    text = f"{head} {row['effect']:.3g}{unit}"
    if np.isfinite(row["low"]):
        text += f" ({row['low']:.3g} to {row['high']:.3g}), d {row['d']:.2g}, p {row['p']:.2g}, q {row['q']:.2g}"
    text += f", {row['n']} pairs" + (f" ({row['left_out']} left out)" if row["left_out"] else "") + f": {row['verdict']}"
    text += "." if row.get("planned", True) else " (exploratory: it was not planned)."
    if row["verdict"] == EQUIVALENT:
        text += f" It is within {row['margin']:.2g}, as set beforehand."
    if row["verdict"] == CANNOT_TELL and np.isfinite(row["detectable"]):
        missed = f"A difference below {row['detectable']:.2g} would mostly be missed"
        text += f" {missed if row['detectable'] else 'No pair differed at all, so what would be missed is not known'}."
    if np.isfinite(row["sd_pictures"]):
        seeds = f", seeds of one picture by {row['sd_seeds']:.2g}" if np.isfinite(row["sd_seeds"]) else ""
        text += f" Ordinary pictures of one group differ by {row['sd_pictures']:.2g}{seeds} (standard deviations)."
    return text
