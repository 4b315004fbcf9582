"""Differences between the two groups of a contrast, pair by pair: the arithmetic of a bias study, on tables alone.

table = compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": 0.3})
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import LEVEL, POSITIVE, InputError, columns, kind, one_of, several, takes, text
from svdlab.stats.effects import INCONCLUSIVE, as_table, corrected, numbers, paired, quantity
from svdlab.stats.intervals import detectable
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


def manifest_rows(name: str, value: Any) -> pd.DataFrame:
    """A manifest as `svdlab.study.pairs.read_manifest` returns it."""
    return columns(name, value, "path", "pair_id", "group", "group_scheme", "flip_noise")


def margins_of(value: Any, measures: Sequence[str]) -> dict[str, float]:
    """Margins by measure, each of a measure that is known."""
    given = kind(Mapping)("margins", value)
    return {one_of("margins", name, measures): POSITIVE("margin", margin) for name, margin in given.items()}


NAMES = partial(several, check=text, distinct=True)


@takes(clips=kind(pd.DataFrame), manifest=manifest_rows, measures=NAMES, alpha=LEVEL)
def compare(
    clips: pd.DataFrame,
    manifest: pd.DataFrame,
    measures: Sequence[str],
    *,
    margins: Mapping[str, float] | None = None,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Every contrast in every measure: a row each, group a minus group b over the pairs.

    compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": 0.3}).sentence

    clips: results of `svdlab.sweep` with the column `label_row`: the manifest's row of each clip. manifest: of
    `study.pairs.read_manifest`. measures: columns. margins: by measure, in its unit.

    Columns: scheme, a, b, contrast, measure, label; those of an Effect (value, low, high, n pairs, p, q, margin, verdict ...);
    mean_a, mean_b; left_out, pairs without a number in one of the two; detectable, the smallest effect found with 80 % power
    at alpha over the number of tests. Raises InputError for a column that is not there, or clips that lack an image.
    """
    margins = margins_of({} if margins is None else margins, measures)
    facts, effects = [], []
    for contrast in contrasts(manifest):
        for measure in measures:
            values = pair_values(clips, manifest, contrast, measure)
            words, unit = MEASURES.get(measure, (measure.replace("_", " "), ""))  # of a column of one's own, its name
            what = f"{words}, {contrast.a} minus {contrast.b} ({contrast.scheme})"
            how: dict[str, Any] = dict(alpha=alpha, margin=margins.get(measure), seeds=clips["seed"].nunique())
            key = f"{contrast.scheme}/{contrast.a}/{contrast.b}/{measure}"
            effects.append(paired(key, what, values.a - values.b, unit=unit, **how))
            where = {**vars(contrast), "contrast": str(contrast), "measure": measure, "label": words}
            whole = values.dropna()
            facts.append({**where, "mean_a": whole.a.mean(), "mean_b": whole.b.mean(), "left_out": len(values) - len(whole)})
    table = pd.concat([pd.DataFrame(facts), as_table(corrected(effects)).drop(columns="label")], axis=1)
    smallest = partial(detectable, alpha=alpha / max(1, int(table["p"].notna().sum())))
    table["detectable"] = [smallest(n) * sd if n > 2 else math.nan for n, sd in zip(table["n"], table["sd"], strict=True)]
    table["sentence"] += [_besides(row) for row in table.to_dict("records")]
    return table


@takes(clips=kind(pd.DataFrame), manifest=manifest_rows, contrast=kind(Contrast), measure=text)
def pair_values(clips: pd.DataFrame, manifest: pd.DataFrame, contrast: Contrast, measure: str) -> pd.DataFrame:
    """One measure of both images of each pair: columns `a` and `b`, indexed by `pair_id`, as `compare` takes them.

    Means over seeds; directions of flipped images are turned back.
    """
    columns("clips", clips, "label_row", "seed", measure)
    values = numbers(clips[measure]).set_axis(clips["label_row"])
    absent = manifest.index.difference(values.index)
    if len(absent):
        raise InputError(f"the results have no clip of row {absent[0]} of the manifest ({manifest.path[absent[0]]}).")
    sign = [-1 if measure in ODD.get(flip, ()) else 1 for flip in manifest["flip_noise"]]
    means = values.where(np.isfinite(values)).groupby(level=0).mean().reindex(manifest.index) * sign
    return pairs_of(manifest, contrast).apply(lambda rows: means.loc[rows].to_numpy())


def _besides(row: Mapping[Any, Any]) -> str:
    """What else a reader needs to judge a row, after its effect's own sentence."""
    text = f" {row['left_out']} pairs have no number." if row["left_out"] else ""
    if row["verdict"] == INCONCLUSIVE and row["detectable"] > 0:
        text += f" An effect below {quantity(row['detectable'], row['unit'])} would mostly be missed."
    return text
