"""Whatever a user has becomes an RGB image, visibly cropped; what cannot is refused with its cause."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svdlab.errors import InputError
from svdlab.pipeline.images import (
    PHOTOGRAPHS,
    CropWarning,
    ImageFileError,
    image_hash,
    open_image,
    prepare_image,
    sample_image,
)

RAMP = np.linspace(0, 255, 64).astype(np.uint8)
GREY = np.tile(RAMP, (48, 1))  # 48 high, 64 wide, from black to white


def centre(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((image.width // 2, image.height // 2))


def write(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode in ("I;16", "I", "F"):
        sixteen = GREY.astype(np.uint16) * 257
        image = Image.fromarray(sixteen) if mode == "I;16" else Image.fromarray(sixteen).convert("I").convert(mode)
    else:
        image = Image.fromarray(GREY).convert(mode)
    opened = open_image(image)
    assert (opened.mode, opened.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(opened).astype(int)[..., 0] - GREY).max() <= (255 if mode == "1" else 1)


@pytest.mark.parametrize(
    "array",
    [
        GREY,
        GREY[..., None],
        np.stack([GREY] * 3, -1),
        np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)]),
        GREY.astype(np.uint16) * 257,
        GREY / 255,
        (GREY / 255).astype(np.float32),
    ],
)
def test_arrays(array: np.ndarray) -> None:
    assert np.abs(np.asarray(open_image(array)).astype(int)[..., 1] - GREY).max() <= 1


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert centre(open_image(clear)) == (255, 255, 255)
    palette = Image.new("P", (32, 32), 0)
    assert centre(open_image(write(tmp_path, palette, transparency=0))) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: rotate by 90 degrees to see it upright
    opened = open_image(write(tmp_path, Image.fromarray(GREY), "turned.jpg", exif=exif))
    assert opened.size == (48, 64)
    assert opened.getpixel((24, 2))[0] < 30 < 220 < opened.getpixel((24, 61))[0]


def test_paths_and_names(tmp_path: Path) -> None:
    path = write(tmp_path, Image.fromarray(GREY))
    assert np.array_equal(np.asarray(open_image(path)), np.asarray(open_image(str(path))))
    for name in PHOTOGRAPHS:
        assert sample_image(name).mode == "RGB"
    assert open_image("scene-3").tobytes() == sample_image("scene-3").tobytes()
    with pytest.raises(InputError, match="astronaut"):
        sample_image("astronuat")


def test_unreadable_files(tmp_path: Path) -> None:
    (text := tmp_path / "text.png").write_text("not an image")
    (empty := tmp_path / "empty.png").touch()
    whole = write(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))).read_bytes()
    (cut := tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for path, message in [
        (tmp_path / "missing.png", "does not exist"),
        (tmp_path, "is a folder"),
        (text, "is not an image"),
        (empty, "is not an image"),
        (cut, "cannot be read"),
    ]:
        with pytest.raises(ImageFileError, match=message) as caught:
            open_image(path)
        assert isinstance(caught.value, InputError)
        assert isinstance(caught.value, OSError)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.new("RGB", (1, 1)), "1x1 px: at least 16"),
        (np.zeros((8, 64, 3), np.uint8), "64x8 px"),
        (np.zeros((64, 64, 2), np.uint8), "shape"),
        (np.zeros((2, 64, 64, 3), np.uint8), "shape"),
        (np.full((32, 32), 1.5), r"\[0, 1\]"),
        (np.full((32, 32), np.nan), r"\[0, 1\]"),
        (np.zeros((32, 32), np.int64), "int64"),
        (None, "NoneType"),
        (["a.png", "b.png"], "list"),
        (Image.fromarray(np.full((32, 32), 1e6, np.float32)), "0 to 65535"),
    ],
)
def test_unusable_images(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(source)


def test_the_centre_is_cropped_and_said() -> None:
    wide = Image.fromarray(
        np.hstack([np.full((64, 32), 0, np.uint8), np.full((64, 64), 128, np.uint8), np.zeros((64, 32), np.uint8)])
    )
    with pytest.warns(CropWarning, match="128x64.*centre 64x64.*50 %"):
        cropped = prepare_image(wide, height=64, width=64)
    assert cropped.info["crop"] == (32, 0, 96, 64)
    assert np.asarray(cropped).min() == 128  # nothing of the dark sides, and no blending with them


def test_a_image_of_the_right_size_is_left_alone() -> None:
    image = sample_image("scene-1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared = prepare_image(image, height=64, width=64)
    assert np.array_equal(np.asarray(prepared), np.asarray(image))
    assert image_hash(prepared) == image_hash(image)
    assert image_hash(prepared) != image_hash(sample_image("scene-2"))
