"""Two groups of images compared in many measures at once, pair by pair: an effect each, all tests one family.

    table = compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": "15 %"})
    print(table.sentence[0])

The unit is the pair: seeds are averaged first. Statistics are `svdlab.stats.effects`; the measures are in MEASURES.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.stats import intervals
from svdlab.stats.effects import INCONCLUSIVE, as_table, corrected, numbers, paired, quantity
from svdlab.study.pairs import Contrast, contrasts, pairs_of


@dataclass(frozen=True)
class Measure:
    """A number that is compared: its name in words, its unit, and whether it is a share of clips (true or false for each)."""

    says: str
    unit: str = ""
    of_clips: bool = False


MEASURES = {
    "flow_px": Measure("mean flow", "px/frame"),
    "object_px": Measure("subject speed", "px/frame"),
    "camera_px": Measure("camera speed", "px/frame"),
    "pan_px": Measure("camera to the right", "px/frame"),
    "object_dx": Measure("subject to the right", "px/frame"),
    "still": Measure("share of still clips", "share", of_clips=True),
    "abstained": Measure("share of clips whose motion cannot be measured", "share", of_clips=True),
    "drift_mse_first": Measure("first frame against the input", "squared error"),
    "drift_colour_last": Measure("colour drift by the last frame", "RGB distance"),
    "blur_slope": Measure("sharpness lost", "blur/frame"),
    "flicker_brightness": Measure("brightness flicker"),
    "warp_error": Measure("change beyond motion", "rms"),
    "face_persistence": Measure("share of frames with the face", "share"),
    "reconstruction_mse": Measure("lost by the autoencoder alone", "squared error"),
}
# Measures with odd parity: their sign turns with the image. For a flipped image it is turned back, so that without a preferred
# direction both halves of a pair agree.
ODD = {
    "left_right": ("pan_px", "object_dx", "roll_deg"),
    "up_down": ("tilt_px", "object_dy", "roll_deg"),
    "half_turn": ("pan_px", "object_dx", "tilt_px", "object_dy"),
}


def measure_of(name: str) -> Measure:
    """What is known of a measure; of a column of one's own, its name.

    >>> measure_of("object_px").says, measure_of("my_measure").says
    ('subject speed', 'my measure')
    """
    return MEASURES.get(name, Measure(name.replace("_", " ")))


def compare(
    clips: pd.DataFrame,
    manifest: pd.DataFrame,
    measures: Iterable[str] | None = None,
    *,
    margins: Mapping[str, float | str] | None = None,
    chosen: Iterable[Contrast] | None = None,
    alpha: float = 0.05,
    interval: str = "t",
    resamples: int = 9999,
) -> pd.DataFrame:
    """Every contrast in every measure: a row each, group a minus group b over the pairs.

    clips: results of `svdlab.sweep` with the column `label_row`: the manifest's row of each clip. manifest: of
    `study.pairs.read_manifest`. measures: columns; default those of MEASURES that have numbers. margins: by measure, in its
    unit or as "15 %" of the mean over both groups. chosen: contrasts; default every two groups of each scheme.

    Columns: scheme, a, b, contrast, measure, label; those of an Effect (value, low, high, n pairs, p, q, margin, verdict ...);
    left_out, pairs without a number in one of the two; mean_a, mean_b; sd_images and sd_seeds, how much ordinary images of one
    group, and seeds of one image, differ; detectable, the smallest effect found with 80 % power at alpha over the number of
    tests. Raises InputError for a column that is not there, or clips that lack an image of the manifest.
    """
    named = _columns(clips, measures)
    values, images = per_row(clips, manifest, named)
    facts, effects = [], []
    for contrast in list(contrasts(manifest) if chosen is None else chosen):
        pairs = pairs_of(manifest, contrast)
        for name in named:
            a, b = (images[name].loc[pairs[side]].to_numpy() for side in "ab")
            there = np.isfinite(a - b)
            known, margin = measure_of(name), (margins or {}).get(name)
            wide = None if margin is None else margin_of(margin, np.concatenate([a[there], b[there]]))
            how: dict[str, Any] = dict(alpha=alpha, interval=interval, resamples=resamples, shares=known.of_clips)
            what = f"{known.says}, {contrast.a} minus {contrast.b} ({contrast.scheme})"
            key = f"{contrast.scheme}/{contrast.a}/{contrast.b}/{name}"
            seeds = clips["seed"].nunique() if "seed" in clips else 1
            effects.append(paired(key, what, a - b, unit=known.unit, margin=wide, seeds=seeds, **how))
            means = dict(
                zip(("mean_a", "mean_b"), (v[there].mean() if there.any() else math.nan for v in (a, b)), strict=True)
            )
            spread = _ordinary(values[name].dropna(), pairs)
            where = {**vars(contrast), "contrast": str(contrast), "measure": name, "label": known.says}
            facts.append({**where, **means, **spread, "left_out": int((~there).sum())})
    table = pd.concat([pd.DataFrame(facts), as_table(corrected(effects)).drop(columns="label")], axis=1)
    tests = max(1, int(table["p"].notna().sum()))
    smallest = [intervals.detectable(n, alpha=alpha / tests) if n > 2 else math.nan for n in table["n"]]
    table["detectable"] = smallest * table["sd"]
    table["sentence"] += [_besides(row) for row in table.to_dict("records")]
    return table


def per_row(clips: pd.DataFrame, manifest: pd.DataFrame, measures: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clips' numbers, indexed by the manifest's row, and their means over seeds, directions of flipped images turned
    back."""
    if "label_row" not in clips:
        raise InputError("the results have no column label_row: sweep the plan of svdlab.probes.bias.as_plan.")
    values = pd.DataFrame({name: numbers(clips[name]).to_numpy() for name in measures}, index=clips["label_row"])
    values = values.where(np.isfinite(values))
    absent = manifest.index.difference(values.index)
    if len(absent):
        raise InputError(f"the results have no clip of row {absent[0]} of the manifest ({manifest.path[absent[0]]}).")
    images = values.groupby(level=0).mean().reindex(manifest.index)
    for flip, odd in ODD.items():
        turned = [name for name in measures if name in odd]
        if "flip_noise" in manifest and turned:
            images.loc[manifest.flip_noise == flip, turned] *= -1
    return values, images


def pair_values(clips: pd.DataFrame, manifest: pd.DataFrame, contrast: Contrast, measure: str) -> pd.DataFrame:
    """One measure of both images of each pair, as `compare` takes them: columns `a` and `b`, indexed by `pair_id`."""
    images = per_row(clips, manifest, _columns(clips, [measure]))[1][measure]
    return pairs_of(manifest, contrast).apply(lambda rows: images.loc[rows].to_numpy())


def margin_of(margin: float | str, values: np.ndarray) -> float:
    """A margin in the measure's unit, from a number or from a share of the mean such as "15 %"."""
    if isinstance(margin, str):
        share = margin.strip().removesuffix("%").strip()
        if share == margin.strip() or not share.replace(".", "", 1).isdigit():
            raise InputError(f'margin={margin!r}: a number in the measure\'s unit, or a share of its mean such as "15 %".')
        return float(share) / 100 * abs(float(values.mean())) if len(values) else math.nan
    if not margin > 0:
        raise InputError(f"margin={margin!r}: above 0.")
    return float(margin)


def _columns(clips: pd.DataFrame, measures: Iterable[str] | None) -> list[str]:
    if measures is None:
        return [name for name in MEASURES if name in clips and numbers(clips[name]).notna().any()]
    named = list(measures)
    absent = [name for name in named if name not in clips]
    if absent or not named or isinstance(measures, str):
        raise InputError(f"measures={measures!r}: a list of the results' columns {', '.join(map(str, clips.columns))}.")
    return named


def _ordinary(values: pd.Series, pairs: pd.DataFrame) -> dict[str, float]:
    """How much images of one group, and seeds of one image, vary in a measure, over both groups of a contrast."""
    groups = [values[values.index.isin(pairs[side])] for side in "ab"]
    found = [intervals.variation(own.to_numpy(), own.index.to_numpy()) for own in groups if len(own) > 1]
    both = {"sd_images": [f.between for f in found], "sd_seeds": [f.within for f in found]}
    return {name: float(np.sqrt(np.mean(np.square(sds)))) if sds else math.nan for name, sds in both.items()}


def _besides(row: Mapping[Any, Any]) -> str:
    """What else a reader needs to judge a row, after its effect's own sentence."""
    unit = row["unit"]
    parts = [f" {row['left_out']} pairs have no number."] if row["left_out"] else []
    if row["verdict"] == INCONCLUSIVE and np.isfinite(row["detectable"]):
        missed = f"An effect below {quantity(row['detectable'], unit)} would mostly be missed."
        parts.append(f" {missed if row['detectable'] else 'No pair differs at all, so what would be missed is unknown.'}")
    if np.isfinite(row["sd_images"]):
        seeds = f", seeds of one image by {quantity(row['sd_seeds'], unit)}" if np.isfinite(row["sd_seeds"]) else ""
        parts.append(f" Images of one group differ by {quantity(row['sd_images'], unit)}{seeds} (standard deviations).")
    return "".join(parts)
