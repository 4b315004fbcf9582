"""Pairs of pictures that differ in one known respect, made from one picture: each described for exactly what it is.

    >>> dimmer = exposure(picture, stops=-1)
    >>> manifest = make_pairs(["cat", "coffee"], "results/pairs", kinds=("mirror", "exposure"), licence="CC0")
    >>> print(KINDS["exposure"].says)
    sensitivity to exposure: the picture as it is against one stop less light

What such a pair measures is how the model answers to that change of the picture, and nothing else: a dimmed portrait is a
dimmed portrait. Functions take whatever `svdlab.pipeline.images.open_image` takes and give PIL
RGB of the same size (crops: smaller).
Light is linear (sRGB's curve undone) where a lamp or a lens would act on light: exposure, white balance, blur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian

from svdlab.errors import InputError, OutputError
from svdlab.pipeline.images import FLIPS, image_hash, open_image

SHIFT = 0.10  # of the longer side by which the two crops of a translated pair lie apart
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear sRGB (IEC 61966-2-1)


def mirror(picture: Any, flip: str = "left_right") -> Image.Image:
    """The picture turned round: "left_right", "up_down" or "half_turn".

    >>> mirror("cat")
    """
    if flip not in FLIPS:
        raise InputError(f"flip={flip!r}: one of {', '.join(FLIPS)}.")
    array = np.asarray(open_image(picture))
    return Image.fromarray(np.ascontiguousarray(np.flip(array, tuple(axis - 1 for axis in FLIPS[flip]))))  # channels come last


def crops(picture: Any, shift: float = SHIFT) -> tuple[Image.Image, Image.Image]:
    """Two crops of one size, `shift` of the longer side apart along it, so that no pixel is invented.

    >>> one, other = crops("coffee", shift=0.1)
    """
    image = open_image(picture)
    long = max(image.size)
    step = round(shift * long)
    if not 1 <= step <= long // 2:
        raise InputError(f"shift={shift}: give a share of the longer side, above 0 and up to 0.5.")
    w, h = image.size
    dx, dy = (step, 0) if w >= h else (0, step)
    return image.crop((0, 0, w - dx, h - dy)), image.crop((dx, dy, w, h))


def scale(picture: Any, factor: float = 1.25) -> Image.Image:
    """The centre enlarged by a factor above 1, cut to the picture's own size; it is softer by the enlargement.

    >>> scale("cat", 1.5).size == svdlab.sample_image("cat").size
    True
    """
    if not factor > 1:
        raise InputError(f"factor={factor}: above 1, since what lies outside the picture is not known.")
    image = open_image(picture)
    w, h = image.width / factor, image.height / factor
    box = ((image.width - w) / 2, (image.height - h) / 2, (image.width + w) / 2, (image.height + h) / 2)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def exposure(picture: Any, stops: float = -1.0) -> Image.Image:
    """2 ** stops times the light, as a longer or shorter exposure would give; what exceeds white is clipped.

    >>> exposure("cat", stops=-1)                        # half the light
    """
    return _picture(_encoded(_linear(picture) * 2.0**stops))


def gamma(picture: Any, exponent: float = 1.5) -> Image.Image:
    """Values in [0, 1] raised to a power: above 1 darkens the middle and leaves black and white.

    >>> gamma("cat", 0.7)
    """
    if not exponent > 0:
        raise InputError(f"exponent={exponent}: above 0.")
    return _picture(_unit(picture) ** exponent)


def white_balance(picture: Any, warmth: float = 0.15) -> Image.Image:
    """Red light times 1 + warmth and blue times 1 - warmth, at the same luminance on grey; negative is cooler.

    >>> white_balance("cat", -0.15)
    """
    if not -1 < warmth < 1:
        raise InputError(f"warmth={warmth}: between -1 and 1.")
    gains = np.array([1 + warmth, 1.0, 1 - warmth])
    return _picture(_encoded(_linear(picture) * gains / (gains @ np.array(LUMINANCE))))


def contrast(picture: Any, factor: float = 0.6) -> Image.Image:
    """Distances from the picture's mean grey times a factor; what leaves [0, 1] is clipped.

    >>> contrast("cat", 0.6)
    """
    if not factor >= 0:
        raise InputError(f"factor={factor}: 0 or more.")
    values = _unit(picture)
    return _picture(values.mean() + factor * (values - values.mean()))


def blur(picture: Any, sigma: float = 0.004) -> Image.Image:
    """Gaussian blur of the light, sigma as a share of the longer side.

    >>> blur("cat", 0.004)                               # about 2 px of 512
    """
    if not sigma >= 0:
        raise InputError(f"sigma={sigma}: 0 or more.")
    light = _linear(picture)
    return _picture(_encoded(gaussian(light, sigma * max(light.shape[:2]), channel_axis=-1, mode="nearest")))


def recolour(picture: Any, mask: Any, turns: float = 0.5) -> Image.Image:
    """The hue inside a mask turned by a part of the colour circle; saturation and value (HSV) stay.

    >>> recolour("cat", mask, turns=0.33)                # mask: "h w", true or 1 inside
    """
    values, inside = _unit(picture), _mask(mask, picture)
    hsv = rgb2hsv(values)
    hsv[..., 0] = (hsv[..., 0] + turns) % 1.0
    return _picture(values + inside * (hsv2rgb(hsv) - values))


def swap_background(picture: Any, mask: Any, background: Any) -> Image.Image:
    """What the mask holds laid on another picture, which is resized to this one's size; light does not follow.

    >>> swap_background("astronaut", mask, "coffee")
    """
    image = open_image(picture)
    behind = open_image(background).resize(image.size, Image.Resampling.LANCZOS)
    inside = _mask(mask, image)
    return _picture(inside * _unit(image) + (1 - inside) * _unit(behind))


# --- pairs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A way to make two pictures of one. says: what a difference between the groups is, in words for the report.
    make: picture (and what it needs besides) to pictures a and b. flip_noise: how b's noise must be turned round."""

    says: str
    a: str
    b: str
    make: Callable[..., tuple[Any, Any]]
    flip_noise: str = ""
    needs: tuple[str, ...] = ()


def _flip_kind(flip: str, says: str) -> Kind:
    return Kind(says, "original", flip, lambda picture: (picture, mirror(picture, flip)), flip_noise=flip)


KINDS = {
    "mirror": _flip_kind("left_right", "response to mirroring left to right, both noises mirrored too"),
    "upside_down": _flip_kind("up_down", "sensitivity to turning the picture upside down (a mirror image), noises too"),
    "half_turn": _flip_kind("half_turn", "sensitivity to rotation by 180 degrees, both noises rotated too"),
    "translation": Kind("sensitivity to where the frame lies: two crops apart by a tenth", "first_crop", "second_crop", crops),
    "scale": Kind("sensitivity to scale: the centre enlarged 1.25 times (and softer by it)", "original", "enlarged",
                  lambda picture: (picture, scale(picture))),
    "exposure": Kind("sensitivity to exposure: the picture as it is against one stop less light", "original", "one_stop_less",
                     lambda picture: (picture, exposure(picture))),
    "gamma": Kind("sensitivity to the tone curve: the picture as it is against gamma 1.5", "original", "gamma_1.5",
                  lambda picture: (picture, gamma(picture))),
    "white_balance": Kind("sensitivity to white balance: 15 % warmer against 15 % cooler light", "warmer", "cooler",
                          lambda picture: (white_balance(picture, 0.15), white_balance(picture, -0.15))),
    "contrast": Kind("sensitivity to contrast: the picture as it is against 0.6 of its contrast", "original", "contrast_0.6",
                     lambda picture: (picture, contrast(picture))),
    "blur": Kind("sensitivity to sharpness: the picture as it is against a Gaussian blur of 0.4 % of its side", "original",
                 "blurred", lambda picture: (picture, blur(picture))),
    "recolour": Kind("response to the hue of a masked region, turned by half the colour circle", "original", "recoloured",
                     lambda picture, mask: (picture, recolour(picture, mask)), needs=("mask",)),
    "background": Kind("response to the background behind a masked region", "original", "other_background",
                       lambda picture, mask, background: (picture, swap_background(picture, mask, background)),
                       needs=("mask", "background")),
}  # fmt: skip


def make_pairs(
    images: Iterable[Any],
    out: str | Path,
    *,
    licence: str | Mapping[str, str],
    kinds: Iterable[str] = ("mirror", "exposure"),
    masks: Mapping[str, Any] | None = None,
    backgrounds: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Write both pictures of each pair to `out` and a manifest of them to `out/manifest.csv`; returns the manifest's rows.

    >>> make_pairs(["cat", "coffee"], "results/pairs", kinds=("mirror", "blur"), licence="CC0")

    images: paths, sample names or a mapping from your names to pictures. licence: of the originals, one for all or by
    name. kinds: of KINDS. masks ("h w"), backgrounds: by name, for the kinds that need them. Raises InputError for an
    unknown kind, a name that recurs, a missing mask, or a change that leaves the picture as it was.
    """
    chosen, named = list(kinds), _named(images)
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown or isinstance(kinds, str) or not chosen:
        raise InputError(f"kinds={kinds!r}: a list of {', '.join(KINDS)}.")
    besides = {"mask": dict(masks or {}), "background": dict(backgrounds or {})}
    rows, files = [], {}
    for scheme in chosen:
        kind = KINDS[scheme]
        for name, image in named.items():
            extra = {need: _besides(besides[need], need, name, scheme) for need in kind.needs}
            made = [open_image(one) for one in kind.make(open_image(image), **extra)]
            if image_hash(made[0]) == image_hash(made[1]):
                raise InputError(f"{scheme} leaves {name!r} as it was (a flat or symmetrical picture?): leave it out.")
            for group, picture in zip((kind.a, kind.b), made, strict=True):
                file = f"{name}.png" if group == "original" else f"{name}-{scheme}-{group}.png"
                files[file] = picture
                rows.append(
                    dict(
                        path=file,
                        pair_id=name,
                        group=group,
                        group_scheme=scheme,
                        label_source=f"svdlab.counterfactuals.{scheme}",
                        licence=_licence(licence, name),
                        consent="",
                        subject_id=name,
                        notes=kind.says,
                        flip_noise=kind.flip_noise if group == kind.b else "",
                    )
                )
    table = pd.DataFrame(rows)
    try:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        for file, picture in files.items():
            picture.save(folder / file)
        table.to_csv(folder / "manifest.csv", index=False)
    except OSError as error:
        raise OutputError(f"{out} could not be written: {error}") from error
    return table


def _named(images: Iterable[Any]) -> dict[str, Any]:
    if isinstance(images, Mapping):
        named = {str(name): image for name, image in images.items()}
    elif isinstance(images, (str, Path)):
        raise InputError(f"images={images!r}: give a list of pictures.")
    else:
        listed = list(images)
        if any(not isinstance(i, (str, Path)) for i in listed):
            raise InputError("pictures that are no paths need names: give a mapping from name to picture.")
        named = {Path(i).stem: i for i in listed}
        if len(named) < len(listed):
            raise InputError("two pictures have one file name: give a mapping from names of your own.")
    if not named:
        raise InputError("no images: give at least one picture.")
    return named


def _besides(given: Mapping[str, Any], need: str, name: str, scheme: str) -> Any:
    if name not in given:
        raise InputError(f"{scheme} needs a {need} for {name!r}: give {need}s={{{name!r}: ...}}.")
    return given[name]


def _licence(licence: str | Mapping[str, str], name: str) -> str:
    found = licence if isinstance(licence, str) else licence.get(name, "")
    if not str(found).strip():
        raise InputError(f"no licence for {name!r}: say by what right its picture is used.")
    return str(found)


def _unit(picture: Any) -> np.ndarray:
    return np.asarray(open_image(picture), np.float64) / 255


def _linear(picture: Any) -> np.ndarray:
    v = _unit(picture)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    v = np.clip(light, 0, 1)
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


def _picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))


def _mask(mask: Any, picture: Any) -> np.ndarray:
    """A mask as weights "h w 1" in [0, 1] of the picture's size."""
    image = open_image(picture)
    array = np.asarray(mask, np.float64)
    if array.shape != (image.height, image.width) or not math.isfinite(array.sum()) or array.min() < 0 or array.max() > 1:
        raise InputError(
            f"mask of shape {array.shape}: give one value in [0, 1] for each px of the {image.width}x{image.height} picture."
        )
    if not array.any():
        raise InputError("the mask is empty: nothing would change.")
    return array[..., None]
