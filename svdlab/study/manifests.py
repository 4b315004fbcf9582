"""Manifests: the pictures of a bias study, in pairs that differ in one respect, with who labelled them and by what right.

    >>> manifest = read_manifest("people.csv")           # checked; every fault is named with its row
    >>> contrasts(manifest)
    [Contrast(scheme='lighting', a='bright', b='dim')]
    >>> confounds(manifest)                              # do the groups differ in size or sharpness as well?

A row per picture, columns `path` (relative to the manifest, or a sample's name), `pair_id`, `group`, `group_scheme`,
`label_source` (who said so), `licence`, `consent`, `subject_id`, `notes`; also `flip_noise` for mirrored pictures, and
columns of your own. A scheme is one way of grouping ("lighting"), and each of its pairs has one picture of each of its
groups. Labels are people's: svdlab infers no race, gender, age or skin tone, and offers no function that does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, ManifestError
from svdlab.measure.fidelity import per_frame
from svdlab.pipeline.images import FLIPS, image_hash, is_sample, open_image
from svdlab.stats import intervals as stats

COLUMNS = ("path", "pair_id", "group", "group_scheme", "label_source", "licence", "consent", "subject_id", "notes")
FILLED = ("path", "pair_id", "group", "group_scheme", "label_source", "licence", "subject_id")
LONGEST = 1024  # px to which larger pictures are shrunk before their sharpness is looked at
CONFOUNDS = {"width": "px", "height": "px", "blur": "(0 to 1)", "brightness": "(0 to 1)", "contrast": "(0 to 1)"}


@dataclass(frozen=True, order=True)
class Contrast:
    """Group a less group b, over the pairs of a scheme."""

    scheme: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.scheme}: {self.a} - {self.b}"


def read_manifest(source: Any, *, folder: str | Path | None = None) -> pd.DataFrame:
    """A manifest from a CSV or Parquet file or a DataFrame, whole and checked.

    >>> read_manifest("pairs/manifest.csv")

    folder: what paths are relative to; by default the file's own folder. A manifest that was read before, or a part of it,
    may be given again. Adds the columns `file` (the path as it is
    opened), `picture_hash`, `width` and `height` (px). Raises ManifestError with every fault, by row; no row is dropped.
    """
    table, base = _table(source)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ManifestError(f"the manifest lacks the column(s) {', '.join(missing)}: it needs {', '.join(COLUMNS)}.")
    if not len(table):
        raise ManifestError("the manifest has no rows: give at least one pair of pictures.")
    table = table.reset_index(drop=True)
    for name in (*COLUMNS, *(["flip_noise"] if "flip_noise" in table else [])):
        table[name] = ["" if _empty(value) else str(value).strip() for value in table[name]]
    base = Path(folder) if folder is not None else base
    if "file" not in table:  # else it was read before
        table["file"] = [_resolve(path, base) for path in table.path]
    problems = list(_empty_cells(table))
    facts = [_look(file) if file else {} for file in table.file]
    problems += [(i, f["error"]) for i, f in zip(table.index, facts, strict=True) if "error" in f]
    for name in ("picture_hash", "width", "height"):
        table[name] = [f.get(name) for f in facts]
    problems += [*_flips(table), *_duplicates(table), *_unpaired(table), *_shared_subjects(table)]
    if problems:
        raise ManifestError(_report(table, problems))
    return table


def contrasts(manifest: pd.DataFrame) -> list[Contrast]:
    """Every two groups of each scheme, in the order in which the manifest names them.

    >>> contrasts(manifest)
    [Contrast(scheme='lighting', a='bright', b='dim')]
    """
    return [
        Contrast(str(scheme), a, b)
        for scheme, part in manifest.groupby("group_scheme", sort=False)
        for a, b in combinations(part.group.unique().tolist(), 2)
    ]


def pairs_of(manifest: pd.DataFrame, contrast: Contrast) -> pd.DataFrame:
    """The manifest's row labels of a contrast: a row per pair, indexed by `pair_id`, columns `a` and `b`.

    >>> pairs_of(manifest, Contrast("lighting", "bright", "dim"))
    """
    part = manifest[manifest.group_scheme == contrast.scheme]
    sides = {}
    for side, group in (("a", contrast.a), ("b", contrast.b)):
        rows = part[part.group == group]
        if rows.empty:
            raise InputError(f"scheme {contrast.scheme!r} has no group {group!r}: it has {', '.join(part.group.unique())}.")
        sides[side] = pd.Series(rows.index, index=rows.pair_id)
    return pd.DataFrame(sides).sort_index()


def confounds(manifest: pd.DataFrame, *, longest: int = LONGEST) -> pd.DataFrame:
    """In what else the groups' pictures differ: size, sharpness, brightness and contrast of the files as they are.

    >>> confounds(manifest).query("flagged")

    A row per contrast and property: means `mean_a`, `mean_b`, the paired difference `effect` with its 95 % t interval
    (`low`, `high`), `d` (over its standard deviation) and `n`. `flagged`: a size that differs in any pair, or a
    difference whose interval excludes zero. Then what is found may be due to that property, and the report says so.
    """
    looks = {file: _properties(file, longest) for file in manifest.file.unique()}
    seen = pd.DataFrame([looks[file] for file in manifest.file], index=manifest.index)
    rows = []
    for contrast in contrasts(manifest):
        pairs = pairs_of(manifest, contrast)
        for what, unit in CONFOUNDS.items():
            a, b = seen[what].loc[pairs.a].to_numpy(float), seen[what].loc[pairs.b].to_numpy(float)
            rows.append({**vars(contrast), "property": what, "unit": unit, **_difference(what, a, b)})
    return pd.DataFrame(rows)


def _difference(what: str, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"mean_a": float(a.mean()), "mean_b": float(b.mean()), "effect": float((a - b).mean())}
    if len(a) < 2:
        found |= {"low": np.nan, "high": np.nan, "d": np.nan}
        apart = bool((a != b).any())
    else:
        limits = stats.t_interval(a - b)
        spread = float((a - b).std(ddof=1))
        found |= {"low": limits.low, "high": limits.high, "d": found["effect"] / spread if spread > 1e-12 else np.nan}
        apart = bool((limits.low > 0 or limits.high < 0) and abs(found["effect"]) > 1e-9)
    in_size = what in ("width", "height") and bool((a != b).any())
    return found | {"n": len(a), "flagged": apart or in_size}


def _table(source: Any) -> tuple[pd.DataFrame, Path]:
    if isinstance(source, pd.DataFrame):
        return source, Path()
    if not isinstance(source, (str, Path)):
        raise InputError(f"manifest is a {type(source).__name__}: give a DataFrame, or a .csv or .parquet file.")
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no manifest {path}: give a .csv or .parquet file with the columns {', '.join(COLUMNS)}.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path), path.parent
        return pd.read_csv(path, dtype=str, keep_default_na=False), path.parent
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as a manifest: {error}") from error


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)) or not str(value).strip()


def _resolve(path: str, base: Path) -> str:
    if not path or is_sample(path) or Path(path).is_absolute():
        return path
    return str(base / path)


def _look(file: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a picture library thinks of a file is no fault of the row
            picture = open_image(file)
    except InputError as error:
        return {"error": f"unreadable picture: {error}"}
    return {"picture_hash": image_hash(picture), "width": picture.width, "height": picture.height}


def _properties(file: str, longest: int) -> dict[str, float]:
    picture = open_image(file)
    size = {"width": float(picture.width), "height": float(picture.height)}
    picture.thumbnail((longest, longest))
    seen = per_frame(np.asarray(picture)[None])
    return size | {name: float(seen[name].iloc[0]) for name in ("blur", "brightness", "contrast")}


# --- faults: (row label, what is wrong) -------------------------------------------------------------------------------

Problem = tuple[Any, str]


def _empty_cells(table: pd.DataFrame) -> Iterator[Problem]:
    for name in FILLED:
        for row in table.index[table[name] == ""]:
            yield row, f"{name} is empty"


def _flips(table: pd.DataFrame) -> Iterator[Problem]:
    if "flip_noise" in table:
        for row in table.index[~table.flip_noise.isin(["", *FLIPS])]:
            yield row, f"flip_noise is {table.flip_noise[row]!r}: leave it empty, or give one of {', '.join(FLIPS)}"


def _duplicates(table: pd.DataFrame) -> Iterator[Problem]:
    """Within a scheme; the same original may well be in a pair of another one."""
    there = table[table.picture_hash.notna()]
    for (_, _), same in there.groupby(["group_scheme", "picture_hash"], sort=False):
        for row in same.index[1:]:
            yield row, f"the same picture as row {same.index[0]}"


def _unpaired(table: pd.DataFrame) -> Iterator[Problem]:
    named = table[(table.group_scheme != "") & (table.group != "") & (table.pair_id != "")]
    for scheme, part in named.groupby("group_scheme", sort=False):
        groups = part.group.unique().tolist()
        if len(groups) == 1:
            yield part.index[0], f"scheme {scheme!r} has only the group {groups[0]!r}: there is nothing to compare it with"
            continue
        for pair, members in part.groupby("pair_id", sort=False):
            absent = [g for g in groups if g not in set(members.group)]
            if absent:
                yield members.index[0], f"unpaired: pair {pair!r} of scheme {scheme!r} has no picture of {', '.join(absent)}"
            for row in members.index[members.group.duplicated()]:
                yield row, f"pair {pair!r} has {members.group[row]!r} twice: one picture of each group"


def _shared_subjects(table: pd.DataFrame) -> Iterator[Problem]:
    """A subject in two pairs of one scheme would be counted as two independent ones."""
    named = table[(table.subject_id != "") & (table.group_scheme != "")]
    for (_, subject), part in named.groupby(["group_scheme", "subject_id"], sort=False):
        if part.pair_id.nunique() > 1:
            first = part.pair_id.iloc[0]
            for row in part.index[part.pair_id != first]:
                yield row, f"subject {subject!r} is in pair {first!r} too: each belongs to one pair"


def _report(table: pd.DataFrame, problems: list[Problem]) -> str:
    lines = [f"  row {row} ({table.path[row] or 'no path'}): {what}" for row, what in problems]
    return f"the manifest has {len(lines)} fault(s); mend them, or take the pairs out yourself:\n" + "\n".join(lines)
