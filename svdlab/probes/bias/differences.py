"""Differences between the groups of a contrast, paired or not: the arithmetic of a bias study, on tables alone.

table = compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": 0.3})
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import LEVEL, POSITIVE, InputError, columns, kind, one_of, several, takes, text
from svdlab.stats.effects import INCONCLUSIVE, LEAST_IMAGES, as_table, corrected, numbers, quantity
from svdlab.stats.intervals import detectable, fdr
from svdlab.stats.linear import LEAST_DF
from svdlab.study.groups import Contrast, check_covariates, contrasts, estimate, overall, side_means
from svdlab.study.manifest import paired, units

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
ROUND_TRIP = "_round_trip"  # ends the column of a measure of the image's round trip through the autoencoder
# Measures whose sign turns with the image. For a flipped image it is turned back, so that without a preferred direction both
# halves of a pair agree.
ODD = {
    "left_right": ("pan_px", "object_dx", "roll_deg"),
    "up_down": ("tilt_px", "object_dy", "roll_deg"),
    "half_turn": ("pan_px", "object_dx", "tilt_px", "object_dy"),
}


def manifest_rows(name: str, value: Any) -> pd.DataFrame:
    """A manifest as `svdlab.study.manifest.read_manifest` returns it."""
    table = columns(name, value, "path", "pair_id", "group", "group_scheme", "flip_noise")
    return pd.DataFrame({"subject_id": "", "file": table["path"]}, index=table.index).assign(**table)


def margins_of(value: Any, measures: Sequence[str]) -> dict[str, float]:
    """Margins by measure, each of a measure that is known."""
    given = kind(Mapping)("margins", value)
    return {one_of("margins", name, measures): POSITIVE("margin", margin) for name, margin in given.items()}


def can_show(n: int, m: int, in_pairs: bool, alpha: float) -> str:
    """What n pairs, or n and m images, can show in a test at alpha, in words.

    >>> can_show(12, 12, True, 0.05)
    '12 pairs can show effects from 0.89 standard deviations of pairs (by a t test of 80 % power; these tests have less)'

    These tests allow for skewed values too: `stats.detectable` has their power at some sizes.
    """
    what, of, df, error = f"{n} pairs", "pairs", n - 1, math.sqrt(1 / n)  # error: of the difference, in standard deviations
    if in_pairs and (least := 2.0 ** (1 - n)) > alpha:
        return f"{what} can show no p below {least:.2g}, and a verdict needs {alpha:.2g}: numbers only"
    if not in_pairs:  # as `stats.linear` compares them, without covariates
        what, of, error = f"{n} and {m} unpaired images or identities", "images", math.sqrt(1 / n + 1 / m)
        df = int(error**4 / (1 / (n * n * (n - 1)) + 1 / (m * m * (m - 1)))) if min(n, m) > 1 else 0
        if n + m < LEAST_IMAGES or df < LEAST_DF:
            return f"{what} can show numbers only"
    smallest = detectable(df + 1, alpha=alpha) * math.sqrt(df + 1) * error
    power = "by a t test of 80 % power; these tests have less"
    return f"{what} can show effects from {smallest:.2g} standard deviations of {of} ({power})"


NAMES = partial(several, check=text, distinct=True)


COVARIATES = partial(several, check=text, least=0, distinct=True)


@takes(clips=kind(pd.DataFrame), manifest=manifest_rows, measures=NAMES, alpha=LEVEL, covariates=COVARIATES)
def compare(
    clips: pd.DataFrame,
    manifest: pd.DataFrame,
    measures: Sequence[str],
    *,
    margins: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    reference: Mapping[str, str] | None = None,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Every contrast in every measure: a row each, group a minus group b (over pairs where there are some).

    compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": 0.3}).sentence

    clips: results of `svdlab.sweep` with the column `label_row`: the manifest's row of each clip. manifest: of
    `study.manifest.read_manifest`. measures: columns. margins: by measure, in its unit. reference, covariates: see `Design`.
    Where clips have a column `<measure>_round_trip` (of the image through the autoencoder alone), the value is the difference
    of clip minus round trip; `clip_value` and `round_trip_value` are both of its parts. `adjusted`: how other differences
    between the groups were taken off. `left_out`: pairs, or images, without a number. detectable: the smallest effect that
    `stats.detectable` gives at alpha over the number of tests. Raises InputError for a column that is not there, clips that
    lack an image, or covariates that cannot be separated from the groups.
    """
    margins = margins_of({} if margins is None else margins, measures)
    check_covariates(manifest, covariates, reference)
    facts, effects = [], []
    seeds = (
        int(clips.groupby("label_row")["seed"].nunique().median()) if {"label_row", "seed"} <= {*clips} and len(clips) else 1
    )
    for contrast in contrasts(manifest, reference):
        part = manifest[manifest.group_scheme == contrast.scheme]
        how_adjusted = ["pairs"] * paired(part) + [f"regression on {name}" for name in covariates]
        for measure in measures:
            whole = per_seed(clips, manifest, measure)
            words, unit = MEASURES.get(measure, (measure.replace("_", " "), ""))  # of a column of one's own, its name
            what = f"{words}, {contrast.a} minus {contrast.b} ({contrast.scheme})"
            how: dict[str, Any] = dict(alpha=alpha, seeds=seeds, covariates=covariates, unit=unit)
            key = f"{contrast.scheme}/{contrast.a}/{contrast.b}/{measure}"
            clip = trip = math.nan
            if f"{measure}{ROUND_TRIP}" in clips:
                raw = per_seed(clips, manifest, measure, net=False).where(whole.notna())  # of the same clips
                clip, trip = (estimate(key, what, v, manifest, contrast, **how).value for v in (raw, raw - whole))
            effects.append(estimate(key, what, whole, manifest, contrast, margin=margins.get(measure), **how))
            sides = side_means(whole, manifest, contrast)
            lost = whole.loc[part.index].isna().all(axis=1) if not paired(part) else sides.isna().any(axis=1)
            full = sides.dropna() if paired(part) else sides
            facts.append(
                {**vars(contrast), "contrast": str(contrast), "measure": measure, "label": words}
                | {"mean_a": full.a.mean(), "mean_b": full.b.mean(), "left_out": int(lost.sum())}
                | {"clip_value": clip, "round_trip_value": trip}
                | {"adjusted": ", ".join(how_adjusted)}
            )
    table = pd.concat([pd.DataFrame(facts), as_table(corrected(effects)).drop(columns="label")], axis=1)
    smallest = partial(detectable, alpha=alpha / max(1, int(table["p"].notna().sum())))
    table["detectable"] = [smallest(n) * sd if n > 2 else math.nan for n, sd in zip(table["n"], table["sd"], strict=True)]
    table["sentence"] += [_besides(row) for row in table.to_dict("records")]
    return table


@takes(clips=kind(pd.DataFrame), manifest=manifest_rows, measures=NAMES, covariates=COVARIATES)
def any_difference(
    clips: pd.DataFrame, manifest: pd.DataFrame, measures: Sequence[str], *, covariates: Sequence[str] = ()
) -> pd.DataFrame:
    """Does any group differ? One test for each scheme of more than two groups and each measure, corrected together.

    A row each: `scheme`, `measure`, `groups`, `f`, `df`, `df_within`, `p`, `q` and `sentence`.
    """
    rows = []
    for scheme, part in manifest.groupby("group_scheme", sort=False):
        if (groups := part.group.nunique()) < 3:
            continue
        for measure in measures:
            f, one, two, p = overall(per_seed(clips, manifest, measure), manifest, str(scheme), covariates)
            rows.append(dict(scheme=scheme, measure=measure, groups=groups, f=f, df=one, df_within=two, p=p))
    table = pd.DataFrame(rows, columns=["scheme", "measure", "groups", "f", "df", "df_within", "p", "q", "sentence"])
    table["q"] = fdr(table["p"].astype(float)) if len(table) else table["p"]
    table["sentence"] = [_any_sentence(row) for row in table.to_dict("records")]
    return table


@takes(clips=kind(pd.DataFrame), manifest=manifest_rows, contrast=kind(Contrast), measure=text)
def pair_values(clips: pd.DataFrame, manifest: pd.DataFrame, contrast: Contrast, measure: str) -> pd.DataFrame:
    """One measure on both sides of each pair: columns `a` and `b`, indexed by `pair_id`, as `compare` takes them; of unpaired
    groups a row per unit, which has its own side alone.

    Means over seeds; directions of flipped images are turned back; where a round trip was measured, it is taken off.
    """
    return side_means(per_seed(clips, manifest, measure), manifest, contrast)


def per_seed(clips: pd.DataFrame, manifest: pd.DataFrame, measure: str, *, net: bool = True) -> pd.DataFrame:
    """A measure by row of the manifest and seed, directions turned back. A seed that only one unit has, counts as that unit's
    own: its values are averaged."""
    columns("clips", clips, "label_row", "seed", measure)
    values = numbers(clips[measure])
    if net and f"{measure}{ROUND_TRIP}" in clips:
        values = values - numbers(clips[f"{measure}{ROUND_TRIP}"])
    absent = manifest.index.difference(pd.Index(clips["label_row"]))
    if len(absent):
        raise InputError(f"the results have no clip of row {absent[0]} of the manifest ({manifest.path[absent[0]]}).")
    sign = pd.Series([-1 if measure in ODD.get(flip, ()) else 1 for flip in manifest["flip_noise"]], manifest.index)
    by = [clips["label_row"], clips["seed"]]
    table = values.where(np.isfinite(values)).groupby(by).mean().unstack().reindex(manifest.index).mul(sign, axis=0)
    held = clips["label_row"].map(units(manifest)).groupby(clips["seed"]).nunique()
    if (held <= 1).all():
        return table.mean(axis=1).to_frame()
    return table


def _any_sentence(row: Mapping[Any, Any]) -> str:
    words = MEASURES.get(row["measure"], (row["measure"].replace("_", " "), ""))[0]
    found = f"F({row['df']:.0f}, {row['df_within']:.3g}) = {row['f']:.3g}, p {row['p']:.2g}, q {row['q']:.2g}"
    none = "no test: too few images, or all alike"
    return f"{words}, any of the {row['groups']} groups of {row['scheme']}: {found if row['p'] == row['p'] else none}."


def _besides(row: Mapping[Any, Any]) -> str:
    """What else a reader needs to judge a row, after its effect's own sentence."""
    text = (
        f" {row['left_out']} {'pairs' if 'pairs' in row['adjusted'] else 'images'} have no number." if row["left_out"] else ""
    )
    if row["round_trip_value"] == row["round_trip_value"]:
        clip, trip = (quantity(row[f"{name}_value"], row["unit"]) for name in ("clip", "round_trip"))
        text = f" That is {clip} in the clips, minus {trip} in the images' round trips through the autoencoder." + text
    if "regression" in row["adjusted"]:
        text += f" Adjusted by {row['adjusted']}."
    if row["verdict"] == INCONCLUSIVE and row["detectable"] > 0:
        text += f" An effect below {quantity(row['detectable'], row['unit'])} would mostly be missed."
    return text
