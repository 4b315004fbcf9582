"""Two groups of images compared in many measures at once, pair by pair: an effect each, all tests one family.

    table = compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": 0.3})
    print(table.sentence[0])

The unit is the pair: seeds are averaged first. Statistics are `svdlab.stats.effects`; the measures are in MEASURES.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.stats import intervals
from svdlab.stats.effects import INCONCLUSIVE, as_table, corrected, numbers, paired, quantity
from svdlab.study.pairs import Contrast, contrasts, pairs_of

MEASURES = {  # measure -> its name in words, its unit
    "flow_px": ("mean flow", "px/frame"),
    "object_px": ("subject speed", "px/frame"),
    "camera_px": ("camera speed", "px/frame"),
    "pan_px": ("camera to the right", "px/frame"),
    "object_dx": ("subject to the right", "px/frame"),
    "still": ("share of still clips", "share"),
    "abstained": ("share of clips whose motion cannot be measured", "share"),
    "drift_mse_first": ("first frame against the input", "squared error"),
    "drift_colour_last": ("colour drift by the last frame", "RGB distance"),
    "blur_slope": ("sharpness lost", "blur/frame"),
    "flicker_brightness": ("brightness flicker", ""),
    "warp_error": ("change beyond motion", "rms"),
    "face_persistence": ("share of frames with the face", "share"),
    "reconstruction_mse": ("lost by the autoencoder alone", "squared error"),
}
# Measures whose sign turns with the image. For a flipped image it is turned back, so that without a preferred direction both
# halves of a pair agree.
ODD = {
    "left_right": ("pan_px", "object_dx", "roll_deg"),
    "up_down": ("tilt_px", "object_dy", "roll_deg"),
    "half_turn": ("pan_px", "object_dx", "tilt_px", "object_dy"),
}


def measure_of(name: str) -> tuple[str, str]:
    """A measure's name in words and its unit; of a column of one's own, its name.

    >>> measure_of("object_px"), measure_of("my_measure")
    (('subject speed', 'px/frame'), ('my measure', ''))
    """
    return MEASURES.get(name, (name.replace("_", " "), ""))


def compare(
    clips: pd.DataFrame,
    manifest: pd.DataFrame,
    measures: Iterable[str],
    *,
    margins: Mapping[str, float] | None = None,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Every contrast in every measure: a row each, group a minus group b over the pairs.

    clips: results of `svdlab.sweep` with the column `label_row`: the manifest's row of each clip. manifest: of
    `study.pairs.read_manifest`. measures: columns. margins: by measure, in its unit.

    Columns: scheme, a, b, contrast, measure, label; those of an Effect (value, low, high, n pairs, p, q, margin, verdict ...);
    left_out, pairs without a number in one of the two; mean_a, mean_b; sd_images and sd_seeds, how much ordinary images of one
    group, and seeds of one image, differ; detectable, the smallest effect found with 80 % power at alpha over the number of
    tests. Raises InputError for a column that is not there, or clips that lack an image of the manifest.
    """
    named = list(measures)
    values, images = per_row(clips, manifest, named)
    facts, effects = [], []
    for contrast in contrasts(manifest):
        pairs = pairs_of(manifest, contrast)
        for name in named:
            a, b = (images[name].loc[pairs[side]].to_numpy() for side in "ab")
            there = np.isfinite(a - b)
            words, unit = measure_of(name)
            key = f"{contrast.scheme}/{contrast.a}/{contrast.b}/{name}"
            what = f"{words}, {contrast.a} minus {contrast.b} ({contrast.scheme})"
            how: dict[str, Any] = dict(alpha=alpha, margin=(margins or {}).get(name), seeds=clips["seed"].nunique())
            effects.append(paired(key, what, a - b, unit=unit, **how))
            means = {
                f"mean_{side}": v[there].mean() if there.any() else math.nan for side, v in zip("ab", (a, b), strict=True)
            }
            where = {**vars(contrast), "contrast": str(contrast), "measure": name, "label": words}
            facts.append({**where, **means, **_ordinary(values[name].dropna(), pairs), "left_out": int((~there).sum())})
    table = pd.concat([pd.DataFrame(facts), as_table(corrected(effects)).drop(columns="label")], axis=1)
    tests = max(1, int(table["p"].notna().sum()))
    smallest = [intervals.detectable(n, alpha=alpha / tests) if n > 2 else math.nan for n in table["n"]]
    table["detectable"] = smallest * table["sd"]
    table["sentence"] += [_besides(row) for row in table.to_dict("records")]
    return table


def per_row(clips: pd.DataFrame, manifest: pd.DataFrame, measures: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clips' numbers, indexed by the manifest's row, and their means over seeds, flipped directions turned back."""
    intervals.require(clips, "label_row", "seed", *measures)
    values = pd.DataFrame({name: numbers(clips[name]).to_numpy() for name in measures}, index=clips["label_row"])
    values = values.where(np.isfinite(values))
    absent = manifest.index.difference(values.index)
    if len(absent):
        raise InputError(f"the results have no clip of row {absent[0]} of the manifest ({manifest.path[absent[0]]}).")
    images = values.groupby(level=0).mean().reindex(manifest.index)
    for flip, odd in ODD.items():
        images.loc[manifest["flip_noise"] == flip, [name for name in measures if name in odd]] *= -1
    return values, images


def pair_values(clips: pd.DataFrame, manifest: pd.DataFrame, contrast: Contrast, measure: str) -> pd.DataFrame:
    """One measure of both images of each pair, as `compare` takes them: columns `a` and `b`, indexed by `pair_id`."""
    images = per_row(clips, manifest, [measure])[1][measure]
    return pairs_of(manifest, contrast).apply(lambda rows: images.loc[rows].to_numpy())


def _ordinary(values: pd.Series, pairs: pd.DataFrame) -> dict[str, float]:
    """How much images of one group, and seeds of one image, vary in a measure, over both groups of a contrast."""
    groups = [values[values.index.isin(pairs[side])] for side in "ab"]
    found = [intervals.variation(own.to_numpy(), own.index.to_numpy()) for own in groups if len(own) > 1]
    between, within = np.sqrt(np.mean(np.square(found), axis=0)) if found else (math.nan, math.nan)
    return {"sd_images": float(between), "sd_seeds": float(within)}


def _besides(row: Mapping[Any, Any]) -> str:
    """What else a reader needs to judge a row, after its effect's own sentence."""
    text = f" {row['left_out']} pairs have no number." if row["left_out"] else ""
    if row["verdict"] == INCONCLUSIVE and row["detectable"] > 0:
        text += f" An effect below {quantity(row['detectable'], row['unit'])} would mostly be missed."
    for what, sd in (("Images of one group", row["sd_images"]), ("Seeds of one image", row["sd_seeds"])):
        text += f" {what} differ by {quantity(sd, row['unit'])} (standard deviation)." if np.isfinite(sd) else ""
    return text
