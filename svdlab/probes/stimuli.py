"""Images that a probe shows to the model, each with its source and licence, and clips with a known answer made from them.

    >>> Stimuli.of("photographs").table                  # free photographs that come with dependencies
    >>> Stimuli.of("world", n=24)                        # first frames of the organism's world
    >>> Stimuli.of("my-images/")                         # doctest: +SKIP
    >>> Stimuli.of(["cat", "coffee", np.zeros((64, 64, 3))]).names
    ['cat', 'coffee', 'image-2']

An image that cannot be read is left out and named in `.skipped`; where none is left, InputError.

    >>> photo = np.asarray(scene, np.float32) / 255
    >>> clip = through_autoencoder(pipe, still(photo, 8))       # nothing moves, at the checkpoint's size and codec
    >>> clip = panned(photo, 8, px=1.0)                         # the camera moves right by 1 px/frame
    >>> clip = fading(clip, blur=0.3, shift=0.01)               # blur and colour drift of known size per frame

Audits and recovery tests measure such clips first. Their frames are float32 "f h w 3" in [0, 1].
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage
from skimage import data

from svdlab.errors import COUNT, InputError, columns, flag, number, one_of, several, shown, takes, text, whole
from svdlab.errors import path as a_path
from svdlab.measure.faces import detect
from svdlab.measure.video import FRAMES as CLIP
from svdlab.measure.video import IMAGE
from svdlab.organism import world
from svdlab.pipeline import images as vae
from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.images import SUFFIXES, CropWarning, image_hash, is_sample, open_image, prepare_image

SKIMAGE = "scikit-image"
UNKNOWN = ("yours", "not stated")  # source and licence of an image that came without them
PHOTOGRAPHS = {  # name (a sample's, or a function of skimage.data) -> source, licence
    "astronaut": (SKIMAGE, "NASA; public domain"),
    "cat": (SKIMAGE, "Stefan van der Walt; CC0"),
    "coffee": (SKIMAGE, "Rachel Michetti; CC0"),
    "rocket": (SKIMAGE, "SpaceX; public domain"),
    "camera": (SKIMAGE, "Lav Varshney; CC0"),
    "grace_hopper": ("matplotlib", "James S. Davis, US Navy; public domain"),
    "moon": (SKIMAGE, "NASA; public domain"),
    "coins": (SKIMAGE, "Brooklyn Museum; no known copyright restrictions"),
    "hubble_deep_field": (SKIMAGE, "NASA; public domain"),
    "brick": (SKIMAGE, "CC0Textures; CC0"),
    "gravel": (SKIMAGE, "CC0Textures; CC0"),
    "grass": (SKIMAGE, "linolafett; CC0"),
}
WORLD = ("svdlab.organism.world", "Apache-2.0")
TAKEN = ("item", "stimulus", "hash", "kept")  # columns of svdlab's own, which a manifest cannot have
LARGEST = 2**26  # bytes of a manifest
SIDE = partial(whole, least=1, most=16_384)  # px
FRAMES = 4  # of a control clip: enough for every measure, a sixth of the cost of decoding SVD's 25
DAMAGES = ("eyes painted over", "mouth upside down", "melted")
MELT, WAVE = 0.035, 0.3  # of a face's height: 8 px of a face that takes 40 % of 576, in waves of 70 px
FIRST_SCENE = 500  # seed of the first scene of "world"; training draws its own from 1,000,000 up


@dataclass(frozen=True)
class Stimuli:
    """Images with what is known of each.

    table: a row per image: `name` (unique), `source`, `licence`, and whatever else is known (a manifest's columns, the text
    of a sign, a scene's factors). images: PIL RGB, in the table's order. skipped: what could not be read, and why.
    """

    table: pd.DataFrame
    images: tuple[Image.Image, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __add__(self, other: Stimuli) -> Stimuli:
        table = pd.concat([self.table, other.table], ignore_index=True)
        return Stimuli(table, self.images + other.images, self.skipped + other.skipped)

    @property
    def names(self) -> list[str]:
        return list(self.table["name"])

    def array(self, name: str) -> np.ndarray:
        """The image as float32 "h w 3" in [0, 1]."""
        if text("name", name) not in self.names:
            raise InputError(f"{shown(name)} is none of the images: {', '.join(self.names[:9])}.")
        return np.asarray(self.images[self.names.index(name)], np.float32) / 255

    def where(self, chosen: Iterable[Any]) -> Stimuli:
        """Those for which a boolean Series or list over the table is true."""
        keep = list(several("chosen", chosen, flag, least=0))
        if len(keep) != len(self):
            raise InputError(f"got {len(keep)} truth values for {len(self)} images: give one for each.")
        images = tuple(i for i, k in zip(self.images, keep, strict=True) if k)
        return replace(self, table=self.table[keep].reset_index(drop=True), images=images)

    @takes(height=SIDE, width=SIDE)
    def prepared(self, height: int, width: int) -> Stimuli:
        """The same, cropped to the frame's aspect and resized to it, as the model is given them.

        The table gains `kept`, the share of the area that the crop left, and `hash`, of the prepared image.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CropWarning)  # the column `kept` states it for each image
            ready = tuple(prepare_image(i, height=height, width=width) for i in self.images)
        boxes = [np.array(i.info["crop"]) for i in ready]
        kept = [float(np.prod(b[2:] - b[:2]) / (i.width * i.height)) for b, i in zip(boxes, self.images, strict=True)]
        return replace(self, table=self.table.assign(kept=kept, hash=[image_hash(i) for i in ready]), images=ready)

    @staticmethod
    @takes(n=COUNT)
    def of(source: Any, n: int | None = None) -> Stimuli:
        """Images from a set's name ("photographs", "world"), a folder, a manifest (.csv or .parquet with a column `path`,
        and `name`, `source`, `licence` where it has them), one image, or a list of paths, sample names and images.

        >>> Stimuli.of("world", n=6).table.background

        n: at most so many; "world" makes exactly so many (24 by default). Raises InputError where nothing can be read.
        """
        if isinstance(source, str) and source == "world":
            return _world(n or 24)
        found = source if isinstance(source, Stimuli) else _read(_listed(source))
        return found if n is None else found.where(i < n for i in range(len(found)))


@takes(names=partial(several, check=text), images=partial(several, check=lambda _, image: image), source=text)
def from_arrays(names: Sequence[str], images: Iterable[Any], *, source: str, licence: Any, **known: Any) -> Stimuli:
    """Images that a probe draws itself: arrays "h w 3" in [0, 1], uint8 or PIL, with columns of what they show.

    >>> from_arrays(["grey"], [np.full((64, 64, 3), 0.5)], source="drawn by svdlab", licence="Apache-2.0", level=[0.5]).table
    """
    known, drawn = {"name": names, "source": source, "licence": licence, **known}, list(images)
    try:
        table = pd.DataFrame(known, index=range(len(drawn)))
    except ValueError as error:
        raise InputError(f"{len(drawn)} images with {shown(known)}: give one value of each for each.") from error
    return Stimuli(table, tuple(open_image(i) for i in drawn))


def _world(n: int) -> Stimuli:
    """n scenes, on light and dark background in turn, two that announce a moving sprite and two that announce a pan in turn,
    with room for the track of fps 7 and bucket 125. Their factors are columns. Scenes of edition 1."""
    background = ["dark" if i % 2 else "light" for i in range(n)]
    announced = ["pan" if i // 2 % 2 else "object" for i in range(n)]
    scenes = world.scenes(n, seed=FIRST_SCENE, background=background, announced=announced, fps=7, motion_bucket_id=125)
    known = scenes.factors[["announced", "direction", "hue", "shape", "background", "warm", "x", "y", "radius"]]
    names = [f"{shade}-{i}" for i, shade in enumerate(background)]
    return from_arrays(names, scenes.video[:, 0], source=WORLD[0], licence=WORLD[1], **known)


def _listed(source: Any) -> pd.DataFrame:
    """What to open, `item`, with its `name` and what a manifest states of it."""
    if isinstance(source, str) and source == "photographs":
        source = list(PHOTOGRAPHS)
    elif isinstance(source, (Image.Image, np.ndarray)) or (isinstance(source, str) and is_sample(source)):
        source = [source]
    if not isinstance(source, (str, os.PathLike)):
        if isinstance(source, (bytes, Mapping, io.IOBase, pd.DataFrame)) or not isinstance(source, Iterable):
            raise InputError(f"images={shown(source)}: give a folder, a manifest, a set's name, an image or a list of them.")
        source = list(source)
        names = [Path(item).stem if isinstance(item, (str, os.PathLike)) else f"image-{i}" for i, item in enumerate(source)]
        return pd.DataFrame({"item": pd.Series(source, dtype=object), "name": names})
    path = a_path("images", source)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != ".")
        return pd.DataFrame({"item": files, "name": [str(p.relative_to(path).with_suffix("")) for p in files]})
    if path.suffix.lower() not in (".csv", ".parquet") or not path.exists():
        return pd.DataFrame({"item": [path], "name": [path.stem]})
    table = _manifest(path)
    files = [path.parent / str(p) for p in table["path"]]
    known = pd.DataFrame({"item": files, "name": [p.stem for p in files]}).assign(**table.drop(columns="path"))
    return known.assign(name=known["name"].where(known["name"].notna(), [p.stem for p in files]))


def _manifest(path: Path) -> pd.DataFrame:
    """A manifest's rows, of a CSV file (of commas, semicolons or tabs) or a Parquet file; InputError for anything else.

    Its images lie beside it: a manifest that somebody else wrote cannot make svdlab read other files.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise ValueError(f"it is no file, or has more than {LARGEST} bytes")
        if path.suffix.lower() == ".csv":
            with open(path, encoding="utf-8-sig") as file:
                head = file.readline()
            table = pd.read_csv(path, sep=max(",;\t", key=head.count), encoding="utf-8-sig", dtype={"path": str, "name": str})
        else:
            table = pd.read_parquet(path).reset_index(drop=True)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is no manifest that can be read: {shown(str(error))}.") from error
    columns(str(path), table, "path")
    if taken := [name for name in TAKEN if name in table.columns]:
        raise InputError(f"{path} has a column {taken[0]!r}, which svdlab uses itself: rename it.")
    home = path.parent.resolve()
    for row, file in enumerate(table["path"]):
        if not isinstance(file, str) or "\0" in file or not (home / file).resolve().is_relative_to(home):
            raise InputError(f"{path}, row {row}: path {shown(file)} is not below its folder: put the images there.")
    return table


def _read(table: pd.DataFrame) -> Stimuli:
    """The images that can be read, with their rows of the table; the others are named in `skipped`."""
    names = table["name"].astype(str)
    again = names.groupby(names).cumcount() + 1  # a name that came before gets a number
    items, table = (
        table["item"],
        table.drop(columns="item").assign(name=names.where(again == 1, names + "-" + again.astype(str))),
    )
    opened, skipped = {}, []
    for column in ("source", "licence"):  # of an empty column pandas has floats
        table[column] = table[column].astype(object) if column in table else None
    for i, item in enumerate(items):
        known = PHOTOGRAPHS.get(item, WORLD if is_sample(item) else UNKNOWN) if isinstance(item, str) else UNKNOWN
        for column, value in zip(("source", "licence"), known, strict=True):
            if table[column].isna()[i]:
                table.loc[i, column] = value
        try:
            drawn = isinstance(item, str) and item in PHOTOGRAPHS and not is_sample(item)
            opened[i] = open_image(getattr(data, item)() if drawn else item)
        except InputError as error:
            skipped.append(str(error))
    if not opened:
        raise InputError(f"none of {len(items)} images can be read{': ' + skipped[0] if skipped else ''}")
    return Stimuli(table.loc[list(opened)].reset_index(drop=True), tuple(opened.values()), tuple(skipped))


# --- clips with a known answer ----------------------------------------------------------------------------------------


LENGTH = partial(whole, least=1, most=1000)  # frames
SIGMA = partial(number, least=0, most=1000)  # px


@takes(image=IMAGE, frames=LENGTH)
def still(image: np.ndarray, frames: int = FRAMES) -> np.ndarray:
    """One image "h w 3", repeated."""
    return np.repeat(image[None], frames, axis=0).astype(np.float32)


@takes(image=IMAGE, frames=LENGTH, px=partial(number, least=-1000, most=1000))
def panned(image: np.ndarray, frames: int = FRAMES, *, px: float) -> np.ndarray:
    """The image under a camera that moves right by px/frame; beyond its border the image is mirrored."""
    # Spline coefficients are computed once per colour: the same frames in a sixth of the time.
    planes = [ndimage.spline_filter(image[..., c], order=3, mode="mirror") for c in range(image.shape[-1])]
    view = lambda t: [ndimage.shift(p, (0, -px * t), order=3, mode="mirror", prefilter=False) for p in planes]
    return np.clip(np.stack([np.stack(view(t), -1) for t in range(frames)]), 0, 1).astype(np.float32)


@takes(frames=CLIP, sigma=SIGMA)
def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Every frame blurred by a Gaussian of sigma px."""
    return ndimage.gaussian_filter(frames, (0, sigma, sigma, 0)).astype(np.float32)


@takes(frames=CLIP, blur=SIGMA, shift=partial(number, least=-1, most=1), start=partial(whole, least=0, most=1000))
def fading(frames: np.ndarray, *, blur: float = 0.0, shift: float = 0.0, start: int = 0) -> np.ndarray:
    """Frame t blurred by sigma blur * (start + t) px, its red raised and its blue lowered by shift * (start + t)."""
    tint = np.array([shift, 0, -shift], np.float32)
    faded = [ndimage.gaussian_filter(f, (blur * t, blur * t, 0)) + t * tint for t, f in enumerate(frames, start)]
    return np.clip(np.stack(faded), 0, 1).astype(np.float32)


@takes(image=IMAGE, what=partial(one_of, options=DAMAGES), melt=partial(number, least=0, most=1))
def damaged(image: np.ndarray, what: str, *, melt: float = MELT) -> np.ndarray:
    """The image "h w 3" with its largest face spoilt in one of the ways of DAMAGES; for "melted" by waves of `melt` of the
    face's height. Raises InputError for an image without a face."""
    faces, (h, w, _) = detect(image), image.shape
    if not faces:
        raise InputError("no face in the image: there is nothing to damage.")
    points, tall, (y, x) = faces[0].landmarks, faces[0].box[3], np.mgrid[:h, :w].astype(np.float32)
    if what == "melted":
        dx, dy = ((melt * tall * np.sin(2 * np.pi * at / (WAVE * tall))).astype(np.float32) for at in (y, x))
        return cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    mouth, cheek = points[3:].mean(0), np.rint([(points[1, 0] + points[2, 0]) / 2, points[2, 1]]).astype(int)
    if what == "mouth upside down":
        over = cv2.warpAffine(image, cv2.getRotationMatrix2D(mouth.tolist(), 180, 1), (w, h), borderMode=cv2.BORDER_REFLECT)
        spots = [(mouth, 0.19, 0.12)]
    else:
        over = image[min(max(cheek[1], 0), h - 1), min(max(cheek[0], 0), w - 1)]
        spots = [(points[0], 0.15, 0.1), (points[1], 0.15, 0.1)]
    out = image
    for (left, top), wide, high in spots:
        inside = np.clip(3 - 2 * np.hypot((x - left) / (wide * tall), (y - top) / (high * tall)), 0, 1)[..., None]
        out = out * (1 - inside) + over * inside
    return np.ascontiguousarray(out, np.float32)


def through_autoencoder(pipe: ProbePipeline, frames: np.ndarray, chunk: int | None = None) -> np.ndarray:
    """The frames encoded and decoded, `chunk` at a time (default all together): what is left when nothing is denoised."""
    return decode(pipe, encode(pipe, frames), chunk)


def encode(pipe: ProbePipeline, frames: np.ndarray) -> torch.Tensor:
    """Latents "f c h w" as `svdlab.pipeline.images.encode` gives them; a frame that repeats is not encoded again."""
    new = [t == 0 or not np.array_equal(frames[t], frames[t - 1]) for t in range(len(frames))]
    return vae.encode(pipe, frames[new])[np.cumsum(new) - 1]


def decode(pipe: ProbePipeline, latents: torch.Tensor, chunk: int | None = None) -> np.ndarray:
    """Frames of latents "f c h w", `chunk` at a time."""
    return vae.decode_latents(pipe, latents, chunk or len(latents))
