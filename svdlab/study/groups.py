"""Groups of a manifest compared in one number per image: which contrasts, the one estimator, and what else differs.

    for contrast in contrasts(manifest):
        effect = estimate("speed", f"speed, {contrast}", values, manifest, contrast, unit="px/frame")

Where a scheme has pairs, the pairs' differences are averaged in each unit and tested (`stats.paired`), or with covariates
regressed on the covariates' differences. Without pairs, the units' means in each group are compared by regression on the
groups and covariates, with cluster-robust errors (`svdlab.stats.linear`). The unit is what `manifest.units` finds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, columns, kind, shown, takes
from svdlab.measure.fidelity import per_frame
from svdlab.stats import linear
from svdlab.stats.effects import Effect, as_table
from svdlab.stats.effects import paired as paired_effect
from svdlab.study.manifest import ADDED, BOX, COLUMNS, image_of, paired, units

LONGEST = 1024  # px to which larger images are shrunk before their sharpness is measured
CONFOUNDS = {"width": "px", "height": "px", "blur": "(0 to 1)", "brightness": "(0 to 1)", "contrast": "(0 to 1)"}
ROWS = lambda name, value: columns(name, value, "group", "group_scheme", "pair_id")
READ = lambda name, value: columns(name, value, "group", "group_scheme", "pair_id", "file", "image_hash")
OTHERS = "the others"  # the second side of a contrast: the mean of all other groups, each with the same weight


@dataclass(frozen=True)
class Contrast:
    """Group a minus group b, or minus the mean of the other groups (b = OTHERS), in one scheme."""

    scheme: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.scheme}, {self.a} minus {self.b}"


@takes(manifest=ROWS)
def contrasts(manifest: pd.DataFrame, reference: Mapping[str, str] | None = None) -> list[Contrast]:
    """The contrasts of each scheme, in the order in which the manifest names the groups.

    Of two groups the first minus the second; of more, each minus the mean of the others. reference: scheme -> group; every
    other group of the scheme minus that one.
    """
    named = dict(kind(Mapping)("reference", {} if reference is None else reference))
    found = []
    for scheme, groups in manifest.groupby("group_scheme", sort=False).group:
        names = groups.unique().tolist()
        if (centre := named.pop(str(scheme), None)) is not None:
            if centre not in names:
                raise InputError(f"reference={shown(centre)}: scheme {scheme!r} has the groups {', '.join(names)}.")
            found += [Contrast(str(scheme), g, centre) for g in names if g != centre]
        elif len(names) == 2:
            found += [Contrast(str(scheme), a, b) for a, b in combinations(names, 2)]
        else:
            found += [Contrast(str(scheme), g, OTHERS) for g in names]
    if named:
        raise InputError(f"reference={shown(next(iter(named)))}: the manifest has no such scheme.")
    return found


def weights_of(part: pd.DataFrame, contrast: Contrast) -> dict[str, float]:
    """What each group's mean counts in a contrast."""
    rest = [g for g in part.group.unique() if g != contrast.a] if contrast.b == OTHERS else [contrast.b]
    return {contrast.a: 1.0} | {g: -1.0 / len(rest) for g in rest}


def pairs_of(manifest: pd.DataFrame, contrast: Contrast) -> pd.DataFrame:
    """The manifest's row labels of a contrast: columns `a` and `b`, indexed by `pair_id`; a row for each image of b that is
    matched with one of a. Of unpaired groups it is empty."""
    part = manifest[(manifest.group_scheme == contrast.scheme) & (manifest.pair_id != "")]
    in_b = part.group != contrast.a if contrast.b == OTHERS else part.group == contrast.b
    sides = (("a", part[part.group == contrast.a]), ("b", part[in_b]))
    a, b = (pd.DataFrame({side: rows.index, "pair_id": rows.pair_id.to_numpy()}) for side, rows in sides)
    return a.merge(b, on="pair_id").set_index("pair_id").sort_index(kind="stable")


def covariates_of(part: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Covariates as numbers: numeric columns minus their mean, of categories one column for each but the first.

    >>> covariates_of(pd.DataFrame({"age": ["20", "40"], "light": ["day", "night"]}), ["age", "light"]).to_numpy().tolist()
    [[-10.0, 0.0], [10.0, 1.0]]
    """
    columns: list[Any] = [pd.DataFrame(index=part.index)]
    for name in names:
        if name not in part:
            raise InputError(f"covariates={shown(name)}: the manifest has no such column.")
        blank = part[name].isna() | part[name].astype(str).str.strip().eq("")
        if blank.any():
            raise InputError(f"covariate {name} is empty in row {blank.idxmax()}: give it for every image, or leave it out.")
        values = pd.to_numeric(part[name], errors="coerce").astype(float)
        if values.notna().all() and np.isfinite(values).all():
            columns.append((values - values.mean()).rename(name))
        else:
            made = pd.get_dummies(part[name].astype(str), drop_first=True, dtype=float)
            columns.append(made.add_prefix(f"{name} "))
    return pd.concat(columns, axis=1)


def check_covariates(manifest: pd.DataFrame, names: Sequence[str], reference: Mapping[str, str] | None = None) -> None:
    """InputError where a covariate is no column, is empty, or cannot be separated from the group."""
    for scheme, part in manifest.groupby("group_scheme", sort=False):
        covariates = covariates_of(part, names)
        x = np.column_stack([pd.get_dummies(part.group), covariates]).astype(float)
        groups = part.group.nunique()
        sides = np.eye(groups, x.shape[1])[1:] - np.eye(1, x.shape[1])
        designs = [(x, sides)]
        if paired(part):  # no image of a pair need be like the other's, but their difference must not be that of every pair
            covs = covariates.groupby([part.pair_id, part.group]).mean()
            own = [c for c in contrasts(manifest, reference) if c.scheme == scheme]
            each = [_by_pair(_differences(covs, weights_of(part, c))) for c in own]
            designs = [(x, np.eye(1, x.shape[1])) for x in each if len(x) > np.linalg.matrix_rank(x)]
        if not all(linear.estimable(*design) for design in designs):
            raise InputError(
                f"{', '.join(names)} cannot be separated from the groups of scheme {scheme!r}: every image or pair differs in "
                f"it as the groups do. Leave the covariate out (the difference is then confounded with it), or add images."
            )


def estimate(
    key: str,
    what: str,
    values: pd.DataFrame,
    manifest: pd.DataFrame,
    contrast: Contrast,
    *,
    unit: str,
    covariates: Sequence[str] = (),
    margin: float | None = None,
    alpha: float = 0.05,
    seeds: int = 1,
) -> Effect:
    """One contrast in one measure. values: a row per row of the manifest (same index), a column per seed."""
    part, sides, covs, own = _parts(values, manifest, contrast.scheme, covariates)
    weights = weights_of(part, contrast)
    how: dict[str, Any] = dict(unit=unit, margin=margin, alpha=alpha, seeds=seeds)
    if not paired(part):
        groups = list(part.group.unique())
        c = [weights.get(g, 0.0) for g in groups] + [0.0] * covs.shape[1]
        x = np.column_stack([np.equal.outer(sides.index.get_level_values(1), groups), covs]).astype(float)
        of = "image" if part.index.isin(own).all() else "subject"
        return linear.contrast(key, what, sides, x, list(sides.index.get_level_values(0)), c, of=of, **how)
    d, dx = _differences(sides, weights), _differences(covs, weights)
    own = own[d.index]
    how["of"] = "pair" if own.is_unique else "subject"
    if (x := _by_pair(dx)).shape[1] > 1:
        return linear.contrast(key, what, d, x, list(own), list(np.eye(1, x.shape[1])[0]), **how)
    return paired_effect(key, what, d.groupby(own.to_numpy()).mean(), **how)


def overall(
    values: pd.DataFrame, manifest: pd.DataFrame, scheme: str, covariates: Sequence[str] = ()
) -> tuple[float, float, float, float]:
    """F, its degrees of freedom and p: does any group of a scheme differ?"""
    part, sides, covs, own = _parts(values, manifest, scheme, covariates)
    groups = list(part.group.unique())
    k = len(groups) - 1
    if not paired(part):
        x = np.column_stack([np.equal.outer(sides.index.get_level_values(1), groups), covs]).astype(float)
        c = np.column_stack([np.eye(k), -np.ones(k), np.zeros((k, covs.shape[1]))])
        return linear.joint(sides, x, list(sides.index.get_level_values(0)), c)
    each = [{g: 1.0, groups[-1]: -1.0} for g in groups[:-1]]
    d = pd.concat([_differences(sides, w).mean(axis=1) for w in each], axis=1).dropna()
    dx = np.concatenate([_differences(covs, w).reindex(d.index) for w in each])
    dx = dx[:, (np.abs(dx) > 1e-12).any(axis=0)]
    x = np.column_stack([np.repeat(np.eye(k), len(d), axis=0), dx])
    return linear.joint(d.to_numpy().T.ravel(), x, list(own[d.index]) * k, np.eye(k, x.shape[1]))


def _parts(
    values: pd.DataFrame, manifest: pd.DataFrame, scheme: str, covariates: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.Series]:
    """The scheme's rows; the values and covariates of each pair (or unit) and group; the unit of each pair (or row)."""
    part = manifest[manifest.group_scheme == scheme]
    own, seen = units(part), values.loc[part.index]
    seen = seen.where(np.isfinite(seen))
    by = [part.pair_id if paired(part) else own, part.group]
    there = seen.notna().any(axis=1)  # an image without a number does not count in its group's covariates
    sides = seen[there].groupby([key[there] for key in by]).mean()
    covs = covariates_of(part, covariates)[there].groupby([key[there] for key in by]).mean()
    return part, sides, covs, own.groupby(part.pair_id).first() if paired(part) else own


def _differences(sides: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """The weighted sum of the groups in each pair that has all of them, in the seeds that all have; where a pair has
    none such, of the means over seeds, as one column."""
    each = [sides.xs(g, level=1) if g in sides.index.get_level_values(1) else sides[:0].droplevel(1) for g in weights]
    both = each[0].index
    for one in each[1:]:
        both = both.intersection(one.index)
    sizes = list(weights.values())
    cells: Any = sum(w * one.loc[both] for one, w in zip(each, sizes, strict=True))
    if sides.shape[1] and not cells.notna().any(axis=1).all():
        means: list[Any] = [pd.DataFrame(one.loc[both]).mean(axis=1) for one in each]
        cells = sum(w * one for one, w in zip(means, sizes, strict=True))
    return pd.DataFrame(cells.sort_index())


def _by_pair(dx: pd.DataFrame) -> np.ndarray:
    """The design of pairs' differences: 1, and those of the covariates, without covariates that are alike in every pair."""
    return np.column_stack([np.ones(len(dx)), dx.loc[:, (dx.abs() > 1e-12).any()]])


def side_means(values: pd.DataFrame, manifest: pd.DataFrame, contrast: Contrast) -> pd.DataFrame:
    """Both sides of a contrast, columns `a` and `b`, for each pair, or each unit where there are none (its own side alone)."""
    part, sides, _, _ = _parts(values, manifest, contrast.scheme, ())
    means, weights = sides.mean(axis=1).unstack().reindex(columns=part.group.unique()), weights_of(part, contrast)
    whole = pd.Series(part.pair_id.unique() if paired(part) else units(part).unique()).sort_values()
    means = means.reindex(whole)
    rest = [g for g in weights if g != contrast.a]
    b = means[rest].mean(axis=1, skipna=not paired(part))
    return pd.DataFrame({"a": means[contrast.a], "b": b}).rename_axis("pair_id" if paired(part) else "unit")


@takes(manifest=READ)
def confounds(manifest: pd.DataFrame, reference: Mapping[str, str] | None = None) -> pd.DataFrame:
    """In what else the groups' images differ: size, sharpness, brightness, contrast, and the manifest's own columns.

    A row per contrast and property (of a category, per value): `mean_a`, `mean_b`, and the difference as an Effect's columns.
    `flagged`: a size that differs in any pair, or a difference whose interval excludes zero: what a study finds may be due to
    that property, unless it is adjusted for it.
    """
    known: dict[Any, Any] = {}
    for row, key in zip(manifest.index, zip(manifest.file, manifest.image_hash, strict=True), strict=True):
        known.setdefault(key, None)
        known[key] = known[key] or _properties(image_of(manifest.loc[row]))
    seen = pd.DataFrame([known[key] for key in zip(manifest.file, manifest.image_hash, strict=True)], index=manifest.index)
    own = own_columns(manifest)
    seen = pd.concat([seen, covariates_of(manifest, own)], axis=1)
    facts, effects = [], []
    for contrast in contrasts(manifest, reference):
        for what in seen:
            e, unit = None, CONFOUNDS.get(str(what), "")
            words = f"{what} of the images, {contrast.a} minus {contrast.b} ({contrast.scheme})"
            e = estimate(str(what), words, seen[[what]], manifest, contrast, unit=unit)
            sides = side_means(seen[[what]], manifest, contrast)
            outside = e.low > 0 or e.high < 0 or e.n < 2
            apart = (outside and abs(e.value) > 1e-9) or (unit == "px" and bool(((sides.a - sides.b).abs() > 0).any()))
            facts.append({**vars(contrast), "mean_a": sides.a.mean(), "mean_b": sides.b.mean(), "flagged": apart})
            effects.append(e)
    return pd.concat([pd.DataFrame(facts), as_table(effects)], axis=1)


def own_columns(manifest: pd.DataFrame) -> list[str]:
    """The manifest's columns that are not svdlab's and have a value in every row: possible covariates."""
    names = [str(name) for name in manifest if name not in (*COLUMNS, *BOX, *ADDED)]
    numeric = lambda name: covariates_of(manifest, [name]).columns.tolist() == [name]
    few = lambda name: 1 < manifest[name].astype(str).nunique() <= 12
    return [
        n for n in names if manifest[n].notna().all() and (manifest[n].astype(str) != "").all() and any((few(n), numeric(n)))
    ]


def _properties(image: Any) -> dict[Any, Any]:
    size = {"width": float(image.width), "height": float(image.height)}
    image.thumbnail((LONGEST, LONGEST))
    return size | per_frame(np.asarray(image)[None])[["blur", "brightness", "contrast"]].iloc[0].to_dict()
