"""Pairs of images that differ in one respect, made by svdlab, and their manifest (see `svdlab.study.manifest`, `groups`).

    >>> how = dict(licence="CC0", consent="nobody is shown")
    >>> made = make_pairs(["cat", "coffee"], "results/pairs", kinds=("mirror", "exposure"), **how)
    >>> manifest = read_manifest("results/pairs/manifest.csv")       # checked; every fault is named with its row
    >>> contrasts(manifest)[1]
    Contrast(scheme='exposure', a='original', b='one_stop_less')
    >>> flagged = confounds(manifest).query("flagged")               # do the groups differ in size or sharpness as well?

What a made pair measures is how the model responds to that change of the image, and nothing else: a dimmed portrait is a
dimmed portrait. Where a lamp or a lens acts on light (exposure, white balance, blur), the change acts on linear light.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from skimage.filters import gaussian

from svdlab.errors import InputError, number, one_of, several, shown, text
from svdlab.errors import path as as_path
from svdlab.measure.files import write_whole
from svdlab.pipeline.images import FLIPS, image_hash, open_image
from svdlab.study.groups import CONFOUNDS, OTHERS, Contrast, confounds, contrasts, pairs_of  # noqa: F401
from svdlab.study.manifest import COLUMNS, HOW, NEEDED, NOTHING, read_manifest  # noqa: F401
from svdlab.study.plans import read_csv

LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear sRGB


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
    images: Iterable[Any] | Mapping[str, Any],
    out: str | Path,
    *,
    licence: str,
    consent: str,
    kinds: Iterable[str] = ("mirror", "exposure"),
) -> pd.DataFrame:
    """Write both images of each pair to `out` and a manifest of them to `out/manifest.csv`; returns the manifest's rows.

    >>> make_pairs(["cat"], "results/pairs", kinds=["blur"], licence="CC0", consent="nobody is shown").group.tolist()
    ['original', 'blurred']

    images: paths, sample names or a mapping from your names to images. licence: of the originals. consent: of who is shown
    ("nobody is shown"). kinds: of CHANGES and FLIPPED. Raises InputError for an unknown kind, a name that recurs, or a change
    that leaves the image as it was.
    """
    for name, value in (("licence", licence), ("consent", consent)):
        if text(name, value).strip().lower() in NOTHING:
            raise InputError(f"{name}={shown(value)}: {HOW[name]}.")
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
        group, notes = (how.group, f"changed by {how.amount}: {how.means}") if how else (flip, "its noise flipped too")
        for name, given in named.items():
            image = open_image(given)
            other = change(image, scheme, how.amount) if how else mirror(image, flip)
            if image_hash(image) == image_hash(other):
                raise InputError(f"{scheme} leaves {name!r} as it was (a flat or symmetrical image?): leave it out.")
            if (changed := f"{name}-{scheme}-{group}") in named:
                raise InputError(f"images: {shown(changed)} is the name of what {shown(name)} becomes: give it another one.")
            files |= {f"{name}.png": image, f"{changed}.png": other}
            shared = dict(pair_id=name, group_scheme=scheme, label_source=f"svdlab.study.pairs.{scheme}", licence=licence)
            shared |= dict(consent=consent, subject_id=name, notes=notes)
            rows += [dict(path=f"{name}.png", group="original", flip_noise="") | shared]
            rows += [dict(path=f"{changed}.png", group=group, flip_noise=flip) | shared]
    return write_pairs(rows, files, out)


def write_pairs(rows: list[dict[str, Any]], files: Mapping[str, Image.Image], out: str | Path) -> pd.DataFrame:
    """Write images by file name, and `manifest.csv` of them, into a folder; returns the manifest's rows. InputError where
    a file would be replaced that an earlier call did not write."""
    table, manifest = pd.DataFrame(rows), Path(out, "manifest.csv")
    own = set()
    with suppress(InputError, KeyError):
        earlier = read_csv(manifest)
        own = {"manifest.csv", *earlier["path"]} if earlier["label_source"].str.startswith("svdlab.").all() else set()
    if lost := [file for file in ("manifest.csv", *files) if file not in own and os.path.lexists(Path(out, file))]:
        raise InputError(f"{out} holds {shown(lost[0])}, which would be replaced: give the pairs a folder of their own.")
    with write_whole(manifest) as part:  # first: it says whose the images are
        table.to_csv(part, index=False)
    for file, image in files.items():
        with write_whole(Path(out, file)) as part:
            image.save(part)
    return table
