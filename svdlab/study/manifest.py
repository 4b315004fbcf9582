"""The manifest of a bias study: a row per image, with its group, and what makes the groups comparable.

    manifest = read_manifest("people.csv")                    # checked; every fault is named with its row

Needed are `path` (relative to the manifest, or a sample's name; `image` is taken, too), `group`, `licence` and `consent`.
Further columns say what the design is, and may be left out:

- `pair_id` (or `pair`): images that are compared with each other. Each pair has every group; of one group several images
  (1:k matching). Without it, groups are compared as independent samples.
- `subject_id` (or `identity`): who is shown. Images of one identity are one unit, however many poses or pairs there are.
- `group_scheme`: one way of grouping ("lighting"), where a manifest has several. Groups may be more than two.
- `box_x`, `box_y`, `box_w`, `box_h` (px of the file): one subject among several. The image is cropped to it before anything
  else; what exceeds the ratio of the clips is cut, so choose boxes of that ratio.
- `label_source` (who assigned the label), `notes`, `flip_noise` for mirrored images, and columns of your own (`age`,
  `lighting`): those that the design names as covariates are adjusted for, the others are listed as confounds.

Labels are people's: svdlab infers no race, gender, age or skin tone, and offers no function that does.
"""

import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from svdlab.errors import InputError, columns, shown
from svdlab.errors import path as as_path
from svdlab.pipeline.images import FLIPS, image_hash, is_sample, open_image
from svdlab.study.plans import empty, read_csv, read_parquet

NEEDED = ("path", "pair_id", "group", "group_scheme", "label_source", "licence", "consent", "subject_id")
COLUMNS = (*NEEDED, "notes")
ALIASES = {"image": "path", "pair": "pair_id", "identity": "subject_id"}
ABSENT = {
    "pair_id": "",
    "subject_id": "",
    "group_scheme": "group",
    "label_source": "not stated",
    "notes": "",
    "flip_noise": "",
}
BOX = ("box_x", "box_y", "box_w", "box_h")
ADDED = ("file", "image_hash", "width", "height", "flip_noise")
HOW = {  # what to write, where a study of images must not start without it
    "licence": "write what allows the use of the image, such as 'CC BY 4.0' or 'own photograph'",
    "consent": "write how who is shown agreed, such as 'signed release', 'terms of data set X', or 'nobody is shown'",
}
NOTHING = {"", "-", "?", "0", "false", "missing", "n/a", "na", "nan", "no", "none", "null", "pending", "refused", "denied"}
NOTHING |= {"withdrawn", "tbd", "todo", "unknown", "unclear", "not stated", "not given", "not asked", "not obtained"}


def read_manifest(source: Any) -> pd.DataFrame:
    """A manifest from a CSV or Parquet file or a DataFrame, whole and checked.

    manifest = read_manifest("pairs/manifest.csv")

    A manifest that was read before, or a part of it, may be given again. Adds the columns `file` (the path as it is opened),
    `image_hash`, `width` and `height` (px, of the box where there is one). Raises InputError with every fault, by row; no row
    is dropped.
    """
    table, base = source, Path()
    if not isinstance(source, pd.DataFrame):
        try:
            source = as_path("manifest", source)
            base = source.parent
            table = (read_parquet if source.suffix.lower() == ".parquet" else read_csv)(source).drop(
                columns="file", errors="ignore"
            )
        except InputError as error:
            raise InputError(f"there is no manifest {source}: {error}.") from error
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    table = table.rename(columns={given: name for given, name in ALIASES.items() if name not in table})
    columns("manifest", table, *table.columns, least=0)  # each once
    missing = [name for name in NEEDED if name not in table and name not in ABSENT]
    if missing or not len(table):
        ways = "".join(f" {name}: {HOW[name]}." for name in missing if name in HOW)
        least = ", ".join(name for name in NEEDED if name not in ABSENT)
        raise InputError(f"the manifest lacks {', '.join(missing) or 'rows'}: it needs {least}, a row per image.{ways}")
    stated = {name for name in NEEDED if name in table}
    table = pd.DataFrame(ABSENT, index=table.index).assign(**table).reset_index(drop=True)
    for name in (*COLUMNS, "flip_noise"):
        table[name] = ["" if empty(value) else str(value).strip() for value in table[name]]
    if "file" not in table:  # else it was read before
        table["file"] = [path if is_sample(path) else str(base / path) for path in table.path]
    if not isinstance(source, pd.DataFrame) and (
        out := [p for p, f in zip(table.path, table.file, strict=True) if _leads_out(base, f)]
    ):
        raise InputError(f"the manifest names {shown(out[0])}, which is not in its own folder: lay it beside its images.")
    faults = [*_boxes(table)]
    facts = [_facts(row) for _, row in table.iterrows()]
    for name in ("image_hash", "width", "height"):
        table[name] = [f.get(name) for f in facts]
    faults += [*_faults(table, stated)]
    faults += [(row, f["error"]) for row, f in enumerate(facts) if "error" in f and table.path[row]]
    if faults:
        lines = [f"  row {row} ({table.path[row] or 'no path'}): {what}" for row, what in faults]
        raise InputError(f"the manifest has {len(faults)} fault(s); mend them, or leave the images out:\n" + "\n".join(lines))
    return table


def paired(part: pd.DataFrame) -> bool:
    """Whether the rows of one scheme are pairs."""
    return bool((part["pair_id"] != "").any())


def image_of(row: Any) -> Image.Image:
    """The image of a row of a manifest, cropped to its box where it has one."""
    image = open_image(row["file"])
    box = _box(row)
    return image if box is None else image.crop((box[0], box[1], box[0] + box[2], box[1] + box[3]))


def units(part: pd.DataFrame) -> pd.Series:
    """The independent unit of each row: rows that share a pair, an identity or a file belong together.

    >>> table = pd.DataFrame({"pair_id": "", "subject_id": list("aab"), "file": list("xyz"), "group_scheme": "g"})
    >>> units(table).tolist()
    [0, 0, 2]
    """
    return linked(
        part.index,
        [part["file"], part["subject_id"], (part["group_scheme"] + "\0" + part["pair_id"]).where(part["pair_id"] != "", "")],
    )


def linked(index: Any, keys: Iterable[pd.Series]) -> pd.Series:
    """For each label of the index, the least one with which equal keys connect it; an empty key connects nothing."""
    codes = [pd.factorize(key.where(key != ""))[0] for key in keys]  # -1 where it is empty
    count, rows, values = len(index), [], []
    for column in codes:
        (held,) = np.nonzero(column >= 0)
        rows.append(held)
        values.append(column[held] + count)
        count += len(index)
    edges = (np.concatenate(rows), np.concatenate(values))
    _, part = connected_components(coo_array((np.ones(len(edges[0])), edges), shape=(count, count)), directed=False)
    return pd.Series(index, index=index).groupby(part[: len(index)]).transform("min")


def _leads_out(base: Path, file: str) -> bool:
    """Whether a manifest's file lies outside its folder, also through a link."""
    return not is_sample(file) and "\0" not in file and not Path(file).resolve().is_relative_to(base.resolve())


def _box(row: Any) -> tuple[int, int, int, int] | None:
    values = [row.get(name) for name in BOX]
    if all(v is None or v == "" or v != v for v in values):
        return None
    x, y, w, h = (int(v) for v in values)
    return x, y, w, h


def _boxes(table: pd.DataFrame) -> Iterator[tuple[Any, str]]:
    """Makes the columns of the boxes whole numbers, NaN where a row has none; yields the rows in which they are no box."""
    if not (given := [name for name in BOX if name in table]):
        return
    if lacking := [name for name in BOX if name not in table]:
        raise InputError(f"the manifest has {given[0]} and lacks {lacking[0]}: a box has {', '.join(BOX)}, in px of the file.")
    blank = table[list(BOX)].isna() | (table[list(BOX)] == "")
    values = table[list(BOX)].where(~blank).apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    whole = values.notna() & (values % 1 == 0) & (values >= [0, 0, 1, 1])
    for row in table.index[~blank.all(axis=1) & ~whole.all(axis=1)]:
        was = ", ".join(f"{name} {shown(table.loc[row, name])}" for name in BOX if not whole.loc[row, name])
        yield row, f"its box has {was}: whole px, box_x and box_y from 0, box_w and box_h from 1, or all empty"
        values.loc[row] = math.nan
    table[list(BOX)] = values


def _facts(row: Any) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL thinks of a file is no fault of the row
            image = open_image(row["file"])
    except InputError as error:
        return {"error": f"unreadable image: {error}"}
    if (box := _box(row)) is not None:
        if box[0] + box[2] > image.width or box[1] + box[3] > image.height:
            return {"error": f"its box ({', '.join(map(str, box))}) leaves the image of {image.width} x {image.height} px"}
        image = image.crop((box[0], box[1], box[0] + box[2], box[1] + box[3]))
    return {"image_hash": image_hash(image), "width": image.width, "height": image.height}


def _faults(table: pd.DataFrame, stated: set[str]) -> Iterator[tuple[Any, str]]:
    """Row label and what is wrong. The same original may well be in a pair of another scheme."""
    for name in ("path", "group", "group_scheme", "label_source"):
        yield from ((row, f"{name} is empty") for row in table.index[table[name] == ""])
    for name, how in HOW.items():
        for row in table.index[table[name].str.lower().isin(NOTHING)]:
            yield row, f"{name} is {'empty' if not table[name][row] else shown(table[name][row])}: {how}"
    for row in table.index[~table.flip_noise.isin(["", *FLIPS])]:
        yield row, f"flip_noise is {table.flip_noise[row]!r}: leave it empty, or give one of {', '.join(FLIPS)}"
    for name in ("pair_id", "subject_id"):
        for _, part in table.groupby("group_scheme", sort=False):
            if (part[name] != "").any():
                yield from (
                    (row, f"{name} is empty: give it for every image of the scheme, or for none")
                    for row in part.index[part[name] == ""]
                )
    whole = (table[["path", "group", "group_scheme"]] != "").all(axis=1)
    for scheme, part in table[whole].groupby("group_scheme", sort=False):
        groups = part.group.unique().tolist()
        if len(groups) == 1:
            yield part.index[0], f"scheme {scheme!r} has only the group {groups[0]!r}: there is nothing to compare it with"
        for pair, members in part[part.pair_id != ""].groupby("pair_id", sort=False):
            if absent := [g for g in groups if g not in set(members.group)]:
                yield members.index[0], f"unpaired: pair {pair!r} of scheme {scheme!r} has no image of {', '.join(absent)}"
        for _, same in part.groupby("image_hash", sort=False):  # without those that cannot be read
            yield from ((row, f"the same image as row {same.index[0]}") for row in same.index[1:])
