"""Pictures that a probe shows to the model, each with its source and licence.

    >>> Stimuli.of("photographs").table                  # free photographs that come with dependencies
    >>> Stimuli.of("world", n=24)                        # first frames of the organism's world
    >>> Stimuli.of("my-pictures/")                       # a folder; or "manifest.csv", with a column `path`
    >>> Stimuli.of(["cat", "photo.jpg", array])

A picture that cannot be read is left out, named in `.skipped` and counted; where none is left, InputError.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError
from svdlab.pipeline.images import CropWarning, image_hash, is_sample, open_image, prepare_image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SETS = ("photographs", "world")
USERS = "yours"  # source of pictures that came without one
UNSTATED = "not stated"
SKIMAGE, MATPLOTLIB, WORLD = "scikit-image", "matplotlib", "svdlab.organism.world"
PHOTOGRAPHS = {  # name -> source, licence; a sample's name, or a function of skimage.data
    "astronaut": (SKIMAGE, "NASA; public domain"),
    "cat": (SKIMAGE, "Stefan van der Walt; CC0"),
    "coffee": (SKIMAGE, "Rachel Michetti; CC0"),
    "rocket": (SKIMAGE, "SpaceX; public domain"),
    "camera": (SKIMAGE, "Lav Varshney; CC0"),
    "grace_hopper": (MATPLOTLIB, "James S. Davis, US Navy; public domain"),
    "moon": (SKIMAGE, "NASA; public domain"),
    "coins": (SKIMAGE, "Brooklyn Museum; no known copyright restrictions"),
    "hubble_deep_field": (SKIMAGE, "NASA; public domain"),
    "retina": (SKIMAGE, "Mikael Haggstrom; CC0"),
    "brick": (SKIMAGE, "CC0Textures; CC0"),
    "grass": (SKIMAGE, "linolafett; CC0"),
}
FIRST_SCENE = 500  # seed of the first scene of "world"; training draws its own from 1,000,000 up


@dataclass(frozen=True)
class Stimuli:
    """Pictures with what is known of each.

    table: a row per picture: `name` (unique), `source`, `licence`, and whatever else is known (a manifest's columns, a
    plate's text, a scene's factors). pictures: PIL RGB, in the table's order. skipped: what could not be read, and why.
    """

    table: pd.DataFrame
    pictures: tuple[Image.Image, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.table["name"]
        if len(names) != len(self.pictures) or names.duplicated().any():
            twice = sorted(set(names[names.duplicated()]))
            raise InputError(
                f"{len(names)} names for {len(self.pictures)} pictures, {twice} twice: each needs one of its own."
            )

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def names(self) -> list[str]:
        return list(self.table["name"])

    def picture(self, name: str) -> Image.Image:
        return self.pictures[self.names.index(name)]

    def array(self, name: str) -> np.ndarray:
        """The picture as float32 "h w 3" in [0, 1]."""
        return np.asarray(self.picture(name), np.float32) / 255

    def take(self, n: int) -> Stimuli:
        """The first n."""
        return replace(self, table=self.table.iloc[:n], pictures=self.pictures[:n])

    def where(self, chosen: Any) -> Stimuli:
        """Those for which a boolean Series or list over the table is true."""
        keep = [bool(c) for c in chosen]
        pictures = tuple(p for p, k in zip(self.pictures, keep, strict=True) if k)
        return replace(self, table=self.table[keep].reset_index(drop=True), pictures=pictures)

    def prepared(self, height: int, width: int) -> Stimuli:
        """The same, cropped to the frame's aspect and at its size, as the model is given them; `kept` is the share of
        the area that the crop left, `hash` the prepared picture's."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CropWarning)  # the table says it of each
            ready = [prepare_image(p, height=height, width=width) for p in self.pictures]
        kept = []
        for before, after in zip(self.pictures, ready, strict=True):
            left, top, right, bottom = after.info["crop"]
            kept.append((right - left) * (bottom - top) / (before.width * before.height))
        table = self.table.assign(kept=kept, hash=[image_hash(p) for p in ready])
        return replace(self, table=table, pictures=tuple(ready))

    @staticmethod
    def of(source: Any, n: int | None = None) -> Stimuli:
        """Pictures from a set's name ("photographs", "world"), a folder, a manifest (.csv or .parquet with a column
        `path`, and `name`, `source`, `licence` where it has them), one picture, or a list of paths, names and pictures.

        >>> Stimuli.of("world", n=6).table.background

        n: at most so many; "world" makes exactly so many (24 by default). Raises InputError where nothing can be read.
        """
        if isinstance(source, Stimuli):
            found = source
        elif source == "world":
            return _world(n or 24)
        elif source == "photographs":
            found = _photographs()
        elif isinstance(source, (str, Path)) and not (isinstance(source, str) and is_sample(source)):
            found = _from_path(Path(source))
        else:
            single = isinstance(source, (str, Image.Image, np.ndarray))
            items = [source] if single else list(source)
            names = [_name(item, i) for i, item in enumerate(items)]
            found = _read(items, pd.DataFrame({"name": names}))
        return found if n is None else found.take(n)


def from_arrays(names: Sequence[str], pictures: Iterable[Any], *, source: str, licence: str, **columns: Any) -> Stimuli:
    """Pictures that a probe draws itself: arrays "h w 3" in [0, 1], uint8 or PIL, with columns of what they show.

    >>> from_arrays(["plate-0"], [plate], source="drawn by svdlab", licence="Apache-2.0", text=["HELLO"], size_px=[32])
    """
    table = pd.DataFrame({"name": list(names), "source": source, "licence": licence, **columns})
    return Stimuli(table, tuple(open_image(p) for p in pictures))


def _photographs() -> Stimuli:
    from skimage import data

    own = [open_image(n) if is_sample(n) else open_image(getattr(data, n)()) for n in PHOTOGRAPHS]
    sources, licences = zip(*PHOTOGRAPHS.values(), strict=True)
    return Stimuli(pd.DataFrame({"name": list(PHOTOGRAPHS), "source": sources, "licence": licences}), tuple(own))


def _world(n: int) -> Stimuli:
    """n scenes, on light and on dark ground in turn, two that announce a moving sprite and two that announce a pan in turn,
    with room for the track of fps 7 and bucket 125; their factors are columns. No zooms: the organism has not learned them."""
    from svdlab.organism import world

    background = ["dark" if i % 2 else "light" for i in range(n)]
    announced = ["pan" if i // 2 % 2 else "object" for i in range(n)]
    scenes = world.scenes(n, seed=FIRST_SCENE, background=background, announced=announced, fps=7, motion_bucket_id=125)
    names = [f"{ground}-{i}" for i, ground in enumerate(background)]
    known = ["announced", "direction", "hue", "shape", "background", "warm", "x", "y", "radius"]
    pictures = tuple(open_image(frame) for frame in scenes.video[:, 0])
    table = pd.DataFrame({"name": names, "source": WORLD, "licence": "Apache-2.0"})
    return Stimuli(pd.concat([table, scenes.factors[known].reset_index(drop=True)], axis=1), pictures)


def _from_path(path: Path) -> Stimuli:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not files:
            raise InputError(f"{path} holds no pictures: {', '.join(ENDINGS)} are looked for, in its folders too.")
        return _read(files, pd.DataFrame({"name": [str(p.relative_to(path).with_suffix("")) for p in files]}))
    if not path.exists():
        raise InputError(f"there is no {path}: give {', '.join(SETS)}, a folder, a manifest, a picture or a list of them.")
    if path.suffix in (".csv", ".parquet"):
        table = (pd.read_csv if path.suffix == ".csv" else pd.read_parquet)(path)
        if "path" not in table or not len(table):
            raise InputError(f"{path} is no manifest: it needs a column `path` and at least one row.")
        files = [path.parent / str(p) for p in table["path"]]
        if "name" not in table:
            table.insert(0, "name", [p.stem for p in files])
        return _read(files, table.drop(columns="path"))
    return _read([path], pd.DataFrame({"name": [path.stem]}))


def _name(item: Any, i: int) -> str:
    return (Path(item).stem if not is_sample(str(item)) else str(item)) if isinstance(item, (str, Path)) else f"picture-{i}"


def _read(items: Sequence[Any], table: pd.DataFrame) -> Stimuli:
    """What can be read, with the table's rows of it; the rest by name."""
    table = table.assign(name=_unique(table["name"].astype(str).tolist()))
    for column, default in (("source", USERS), ("licence", UNSTATED)):
        if column not in table:
            table[column] = [_known(item, column, default) for item in items]
        table[column] = table[column].fillna(default)
    pictures, good, skipped = [], [], []
    for item in items:
        try:
            pictures.append(open_image(item))
            good.append(True)
        except InputError as error:
            skipped.append(str(error))
            good.append(False)
    if not pictures:
        raise InputError(f"none of {len(items)} pictures can be read: {skipped[0]}")
    return Stimuli(table[good].reset_index(drop=True), tuple(pictures), tuple(skipped))


def _known(item: Any, column: str, default: str) -> str:
    if not (isinstance(item, str) and is_sample(item)):
        return default
    source, licence = PHOTOGRAPHS.get(item, (WORLD, "Apache-2.0"))
    return source if column == "source" else licence


def _unique(names: list[str]) -> list[str]:
    """The names, with a number behind those that came before."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return result
