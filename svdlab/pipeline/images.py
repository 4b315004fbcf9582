"""Input images: whatever a user has, made into what the pipeline takes, visibly and without guessing.

>>> photo = open_image("astronaut")                  # a path, PIL image, array or sample's name, as PIL RGB
>>> prepare_image(photo, height=288, width=512).info["crop"]
(0, 112, 512, 400)
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from svdlab.errors import InputError

LEAST_SIDE = 16  # px
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "camera", "grace_hopper")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FLIPS = {"left_right": (-1,), "up_down": (-2,), "half_turn": (-2, -1)}  # axes of "... h w" that turn, of image or noise


class CropWarning(UserWarning):
    """An image lost part of its area because the frame has another aspect."""


class ImageFileError(InputError, OSError):
    """An image file that is missing or cannot be read; also an OSError."""


def sample_image(name: str = "astronaut") -> Image.Image:
    """A free image that comes with a dependency, or a first frame of the organism's world, as PIL RGB.

    >>> sample_image("astronaut").size, sample_image("scene-3").size
    ((512, 512), (64, 64))

    Names: astronaut, cat, coffee, rocket, camera (scikit-image; NASA, Stefan van der Walt, Rachel Michetti, SpaceX
    and Lav Varshney: public domain or CC0), grace_hopper (matplotlib, public domain), and scene-N: the organism's world,
    seed N.
    """
    if not is_sample(name):
        raise InputError(f"no sample image {name!r}: there are {', '.join(PHOTOGRAPHS)} and scene-N (scene-0, scene-1 ...).")
    if name.startswith("scene-"):
        from svdlab.organism import world

        return Image.fromarray((world.scenes(1, seed=int(name[6:])).video[0, 0] * 255).round().astype(np.uint8))
    if name == "grace_hopper":
        from matplotlib import cbook

        return Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB")
    from skimage import data

    return Image.fromarray(getattr(data, name)()).convert("RGB")


def is_sample(name: str) -> bool:
    return name in PHOTOGRAPHS or (name.startswith("scene-") and name[6:].isdigit())


def images_in(folder: str | Path) -> list[str]:
    """The paths of all images directly in a folder, sorted; raises ImageFileError where there are none."""
    found = sorted(str(p) for p in Path(folder).expanduser().iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageFileError(f"{folder} holds no image: the suffixes are {', '.join(SUFFIXES)}.")
    return found


def open_image(source: Any) -> Image.Image:
    """PIL RGB from a path, a sample's name, a PIL image, or an array.

    >>> open_image(np.zeros((64, 64), dtype="uint8")).mode
    'RGB'

    Arrays: "h w", "h w 1", "h w 3" or "h w 4"; uint8, uint16, or floats in [0, 1]. EXIF orientation is applied,
    transparency is laid on white, 16-bit is scaled to 8. Raises InputError (ImageFileError, also an OSError, for files).
    """
    if isinstance(source, str) and is_sample(source):
        return sample_image(source)
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, (str, Path)):
        try:
            image = Image.open(Path(source).expanduser())
            image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ImageFileError(f"{source} cannot be read as an image, and is no sample's name: {error}") from error
    elif isinstance(source, np.ndarray):
        image = _from_array(source)
    else:
        raise InputError(f"image is a {type(source).__name__}: give a path, a PIL image, an array or a sample's name.")
    if min(image.size) < LEAST_SIDE:
        raise InputError(f"the image is {image.width}x{image.height} px: at least {LEAST_SIDE} px a side are needed.")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if values.max() > 65535 or values.min() < 0:
            raise InputError(f"the image has values from {values.min():g} to {values.max():g}: 16-bit is 0 to 65535.")
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise InputError(f'image array has shape {array.shape}: give "h w", "h w 1", "h w 3" or "h w 4".')
    floats = np.issubdtype(array.dtype, np.floating)
    if array.dtype not in (np.uint8, np.uint16) and not (floats and array.min() >= 0 and array.max() <= 1):  # nor NaN
        raise InputError(
            f"image array is {array.dtype} from {array.min():g} to {array.max():g}: give uint8, uint16 or floats in [0, 1]."
        )
    if array.dtype != np.uint8:
        array = (array * 255 if floats else array / 257).round().astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def prepare_image(source: Any, *, height: int, width: int) -> Image.Image:
    """The centre of the image at the frame's aspect, resized to height x width px; `.info["crop"]` is the box that was kept.

    A loss of more than 1 % of the area is warned of (CropWarning): crop the image yourself to choose what stays.
    """
    image = open_image(source)
    w, h = image.size
    scale = min(w / width, h / height)
    kept_w, kept_h = min(w, round(width * scale)), min(h, round(height * scale))
    left, top = (w - kept_w) // 2, (h - kept_h) // 2
    box = (left, top, left + kept_w, top + kept_h)
    if (lost := 1 - kept_w * kept_h / (w * h)) > 0.01:
        text = f"the image is {w}x{h}, the frame {width}x{height}: the centre {kept_w}x{kept_h} is used, "
        warnings.warn(text + f"{100 * lost:.0f} % of the area is cut off.", CropWarning, stacklevel=2)
    if (kept_w, kept_h) != (width, height) or lost:
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    image.info = {"crop": box}
    return image


def image_hash(image: Image.Image) -> str:
    """sha256 over size and RGB bytes of a prepared image."""
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()
