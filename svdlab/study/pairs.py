"""Pairs of images that differ in one respect: the manifest that names them, what else differs, and pairs that svdlab makes.

    >>> made = make_pairs(["cat", "coffee"], "results/pairs", kinds=("mirror", "exposure"), licence="CC0")
    >>> manifest = read_manifest("results/pairs/manifest.csv")       # checked; every fault is named with its row
    >>> contrasts(manifest)[1]
    Contrast(scheme='exposure', a='original', b='one_stop_less')
    >>> flagged = confounds(manifest).query("flagged")               # do the groups differ in size or sharpness as well?

A manifest has a row per image with the columns `path` (relative to the manifest, or a sample's name), `pair_id`, `group`,
`group_scheme`, `label_source` (who assigned the label), `licence`, `consent`, `subject_id`, `notes`; also `flip_noise` for
mirrored images, and columns of your own. A scheme is one way of grouping ("lighting"); each of its pairs has one image of
each of its groups. Labels are people's: svdlab infers no race, gender, age or skin tone, and offers no function that does.

What a made pair measures is how the model responds to that change of the image, and nothing else: a dimmed portrait is a
dimmed portrait. Where a lamp or a lens acts on light (exposure, white balance, blur), the change acts on linear light.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from skimage.filters import gaussian

from svdlab.errors import InputError, number, one_of, several, shown, text
from svdlab.errors import path as as_path
from svdlab.measure.fidelity import per_frame
from svdlab.measure.files import write_whole
from svdlab.pipeline.images import FLIPS, image_hash, is_sample, open_image
from svdlab.stats.effects import as_table, paired
from svdlab.study.plans import read_csv, read_parquet

NEEDED = ("path", "pair_id", "group", "group_scheme", "label_source", "licence", "subject_id")
COLUMNS = (*NEEDED[:6], "consent", "subject_id", "notes")  # of which consent and notes may be empty
LONGEST = 1024  # px to which larger images are shrunk before their sharpness is measured
CONFOUNDS = {"width": "px", "height": "px", "blur": "(0 to 1)", "brightness": "(0 to 1)", "contrast": "(0 to 1)"}
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear sRGB


@dataclass(frozen=True)
class Contrast:
    """Group a minus group b, over the pairs of a scheme."""

    scheme: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.scheme}, {self.a} minus {self.b}"


# --- manifests --------------------------------------------------------------------------------------------------------


def read_manifest(source: Any) -> pd.DataFrame:
    """A manifest from a CSV or Parquet file or a DataFrame, whole and checked.

    manifest = read_manifest("pairs/manifest.csv")

    A manifest that was read before, or a part of it, may be given again. Adds the columns `file` (the path as it is opened),
    `image_hash`, `width` and `height` (px). Raises InputError with every fault, by row; no row is dropped.
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
    if (missing := [name for name in COLUMNS if name not in table]) or not len(table):
        raise InputError(f"the manifest lacks {', '.join(missing) or 'rows'}: it needs {', '.join(COLUMNS)}, a row per image.")
    table = pd.DataFrame({"flip_noise": ""}, index=table.index).assign(**table).reset_index(drop=True)
    for name in (*COLUMNS, "flip_noise"):
        table[name] = ["" if pd.isna(value) else str(value).strip() for value in table[name]]
    if "file" not in table:  # else it was read before
        table["file"] = [path if is_sample(path) else str(base / path) for path in table.path]
    if not isinstance(source, pd.DataFrame) and (
        out := [p for p, f in zip(table.path, table.file, strict=True) if _leads_out(base, f)]
    ):
        raise InputError(f"the manifest names {shown(out[0])}, which is not in its own folder: lay it beside its images.")
    facts = [_facts(file) for file in table.file]
    for name in ("image_hash", "width", "height"):
        table[name] = [f.get(name) for f in facts]
    unreadable = [(row, f["error"]) for row, f in enumerate(facts) if "error" in f and table.path[row]]
    faults = [f"  row {row} ({table.path[row] or 'no path'}): {what}" for row, what in [*_faults(table), *unreadable]]
    if faults:
        raise InputError(f"the manifest has {len(faults)} fault(s); mend them, or leave the pairs out:\n" + "\n".join(faults))
    return table


def contrasts(manifest: pd.DataFrame) -> list[Contrast]:
    """Every two groups of each scheme, in the order in which the manifest names them."""
    schemes = manifest.groupby("group_scheme", sort=False).group
    return [Contrast(str(scheme), a, b) for scheme, groups in schemes for a, b in combinations(groups.unique(), 2)]


def pairs_of(manifest: pd.DataFrame, contrast: Contrast) -> pd.DataFrame:
    """The manifest's row labels of a contrast: a row per pair, indexed by `pair_id`, columns `a` and `b`."""
    part = manifest[manifest.group_scheme == contrast.scheme]
    sides = {side: part[part.group == group] for side, group in (("a", contrast.a), ("b", contrast.b))}
    return pd.DataFrame({side: pd.Series(rows.index, index=rows.pair_id) for side, rows in sides.items()}).sort_index()


def confounds(manifest: pd.DataFrame) -> pd.DataFrame:
    """In what else the groups' images differ: size, sharpness, brightness and contrast of the files as they are.

    A row per contrast and property: `mean_a`, `mean_b`, and the paired difference as an Effect's columns. `flagged`: a size
    that differs in any pair, or a difference whose interval excludes zero: what a study finds may be due to that property.
    """
    known = {file: _properties(file) for file in manifest.file.unique()}
    seen = pd.DataFrame([known[file] for file in manifest.file], index=manifest.index)
    facts, effects = [], []
    for contrast in contrasts(manifest):
        pairs = pairs_of(manifest, contrast)
        for what, unit in CONFOUNDS.items():
            a, b = (seen[what].loc[pairs[side]].to_numpy(float) for side in "ab")
            e = paired(what, f"{what} of the images, {contrast.a} minus {contrast.b} ({contrast.scheme})", a - b, unit=unit)
            outside = e.low > 0 or e.high < 0 or e.n < 2
            apart = (outside and abs(e.value) > 1e-9) or (unit == "px" and bool((a != b).any()))
            facts.append({**vars(contrast), "mean_a": a.mean(), "mean_b": b.mean(), "flagged": apart})
            effects.append(e)
    return pd.concat([pd.DataFrame(facts), as_table(effects)], axis=1)


def _leads_out(base: Path, file: str) -> bool:
    """Whether a manifest's file lies outside its folder, also through a link."""
    return not is_sample(file) and "\0" not in file and not Path(file).resolve().is_relative_to(base.resolve())


def _facts(file: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL thinks of a file is no fault of the row
            image = open_image(file)
    except InputError as error:
        return {"error": f"unreadable image: {error}"}
    return {"image_hash": image_hash(image), "width": image.width, "height": image.height}


def _properties(file: str) -> dict[Any, Any]:
    image = open_image(file)
    size = {"width": float(image.width), "height": float(image.height)}
    image.thumbnail((LONGEST, LONGEST))
    return size | per_frame(np.asarray(image)[None])[["blur", "brightness", "contrast"]].iloc[0].to_dict()


def _faults(table: pd.DataFrame) -> Iterator[tuple[Any, str]]:
    """Row label and what is wrong. The same original may well be in a pair of another scheme."""
    for name in NEEDED:
        yield from ((row, f"{name} is empty") for row in table.index[table[name] == ""])
    for row in table.index[~table.flip_noise.isin(["", *FLIPS])]:
        yield row, f"flip_noise is {table.flip_noise[row]!r}: leave it empty, or give one of {', '.join(FLIPS)}"
    for scheme, part in table[(table[[*NEEDED]] != "").all(axis=1)].groupby("group_scheme", sort=False):
        groups = part.group.unique().tolist()
        if len(groups) == 1:
            yield part.index[0], f"scheme {scheme!r} has only the group {groups[0]!r}: there is nothing to compare it with"
        for pair, members in part.groupby("pair_id", sort=False):
            if absent := [g for g in groups if g not in set(members.group)]:
                yield members.index[0], f"unpaired: pair {pair!r} of scheme {scheme!r} has no image of {', '.join(absent)}"
            for row in members.index[members.group.duplicated()]:
                yield row, f"pair {pair!r} has {members.group[row]!r} twice: one image of each group"
        for _, same in part.groupby("image_hash", sort=False):  # without those that cannot be read
            yield from ((row, f"the same image as row {same.index[0]}") for row in same.index[1:])
        for subject, own in part.groupby("subject_id", sort=False):  # else it would be counted as two independent ones
            for row in own.index[own.pair_id != own.pair_id.iloc[0]]:
                yield row, f"subject {subject!r} is in pair {own.pair_id.iloc[0]!r} too: each belongs to one pair"


# --- pairs that svdlab makes ------------------------------------------------------------------------------------------


def mirror(image: Any, flip: str = "left_right") -> Image.Image:
    """The image flipped: "left_right", "up_down" or "half_turn".

    >>> mirror("cat").size == svdlab.sample_image("cat").size
    True
    """
    one_of("flip", flip, FLIPS)
    axes = tuple(axis - 1 for axis in FLIPS[flip])  # channels come last
    return Image.fromarray(np.ascontiguousarray(np.flip(np.asarray(open_image(image)), axes)))


def change(image: Any, kind: str, amount: float) -> Image.Image:
    """The image changed in one respect (of CHANGES), by an amount: see there what it is.

    >>> half = change("cat", "exposure", -1)                         # one stop less: half the light
    """
    one_of("kind", kind, CHANGES)
    amount = number("amount", amount, -100, 100)
    if not CHANGES[kind].allowed(amount):
        raise InputError(f"{kind} by {amount}: {CHANGES[kind].means}.")
    return _image(CHANGES[kind].make(np.asarray(open_image(image), np.float64) / 255, amount))


def _enlarged(values: np.ndarray, factor: float) -> np.ndarray:
    (h, w), half = values.shape[:2], 0.5 / factor
    box = (w * (0.5 - half), h * (0.5 - half), w * (0.5 + half), h * (0.5 + half))
    return np.asarray(_image(values).resize((w, h), Image.Resampling.BICUBIC, box=box)) / 255


def _balanced(values: np.ndarray, warmth: float) -> np.ndarray:
    gains = np.array([1 + warmth, 1.0, 1 - warmth])
    return _encoded(_linear(values) * gains / (gains @ np.array(LUMINANCE)))


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    return _encoded(gaussian(_linear(values), sigma * max(values.shape[:2]), channel_axis=-1, mode="nearest"))


def _linear(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    v = np.clip(light, 0, 1)
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))


class Change(NamedTuple):
    """How values "h w 3" in [0, 1] are changed by an amount; what an amount may be, and means. A pair holds the original and
    a changed image, in the group `group`, by `amount`."""

    group: str
    amount: float
    make: Callable[[np.ndarray, float], np.ndarray]
    allowed: Callable[[float], bool]
    means: str


CHANGES = {
    "scale": Change("enlarged", 1.25, _enlarged, lambda v: v > 1, "a factor above 1; what lies outside the image is unknown"),
    "exposure": Change("one_stop_less", -1, lambda x, v: _encoded(_linear(x) * 2.0**v), math.isfinite, "a number of stops"),
    "gamma": Change("gamma_1.5", 1.5, lambda x, v: x**v, lambda v: v > 0, "an exponent above 0; above 1 darkens the middle"),
    "white_balance": Change("cooler", -0.15, _balanced, lambda v: -1 < v < 1, "from -1 (cooler) to 1, at grey's luminance"),
    "contrast": Change("contrast_0.6", 0.6, lambda x, v: x.mean() + v * (x - x.mean()), lambda v: v >= 0, "a factor from 0"),
    "blur": Change("blurred", 0.004, _blurred, lambda v: v >= 0, "a Gaussian's sigma as a share of the longer side, from 0"),
}
FLIPPED = {"mirror": "left_right", "upside_down": "up_down", "half_turn": "half_turn"}  # of the image and its noise


def make_pairs(
    images: Iterable[Any] | Mapping[str, Any], out: str | Path, *, licence: str, kinds: Iterable[str] = ("mirror", "exposure")
) -> pd.DataFrame:
    """Write both images of each pair to `out` and a manifest of them to `out/manifest.csv`; returns the manifest's rows.

    >>> make_pairs(["cat"], "results/pairs", kinds=["blur"], licence="CC0").group.tolist()
    ['original', 'blurred']

    images: paths, sample names or a mapping from your names to images. licence: of the originals. kinds: of CHANGES and
    FLIPPED. Raises InputError for an unknown kind, a name that recurs, or a change that leaves the image as it was.
    """
    text("licence", licence)
    out, kinds = as_path("out", out), several("kinds", kinds, partial(one_of, options=[*FLIPPED, *CHANGES]), distinct=True)
    if isinstance(images, (str, bytes)) or not isinstance(images, Iterable) or hasattr(images, "read"):
        raise InputError(f"images={shown(images)}: give a list of paths or samples, or a mapping from names to images.")
    pairs = list(images.items()) if isinstance(images, Mapping) else [(Path(str(i)).stem, i) for i in images]
    if odd := [
        name
        for name, _ in pairs
        if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or len(name) > 200 or "\0" in name
    ]:
        raise InputError(f"images: {shown(odd[0])} cannot be the name of a file: give plain names.")
    named, chosen = dict(pairs), list(kinds)
    if not named or len(named) < len(pairs):
        raise InputError("images: give paths or samples, each of another name, or a mapping from names to images.")
    rows: list[dict[str, Any]] = []
    files: dict[str, Image.Image] = {}
    for scheme in chosen:
        flip, how = FLIPPED.get(scheme, ""), CHANGES.get(scheme)
        group, notes = (how.group, f"changed by {how.amount}: {how.means}") if how else (flip, "both noises flipped too")
        for name, given in named.items():
            image = open_image(given)
            other = change(image, scheme, how.amount) if how else mirror(image, flip)
            if image_hash(image) == image_hash(other):
                raise InputError(f"{scheme} leaves {name!r} as it was (a flat or symmetrical image?): leave it out.")
            files |= {f"{name}.png": image, f"{name}-{scheme}-{group}.png": other}
            shared = dict(pair_id=name, group_scheme=scheme, label_source=f"svdlab.study.pairs.{scheme}", licence=licence)
            shared |= dict(consent="", subject_id=name, notes=notes)
            rows += [dict(path=f"{name}.png", group="original", flip_noise="") | shared]
            rows += [dict(path=f"{name}-{scheme}-{group}.png", group=group, flip_noise=flip) | shared]
    return write_pairs(rows, files, out)


def write_pairs(rows: list[dict[str, Any]], files: Mapping[str, Image.Image], out: str | Path) -> pd.DataFrame:
    """Write images by file name, and `manifest.csv` of them, into a folder; returns the manifest's rows."""
    table = pd.DataFrame(rows)
    for file, image in files.items():
        with write_whole(Path(out, file)) as part:
            image.save(part)
    with write_whole(Path(out, "manifest.csv")) as part:
        table.to_csv(part, index=False)
    return table
