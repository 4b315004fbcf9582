"""Whatever a user has becomes an RGB image, visibly cropped; what cannot is refused with its cause."""

from __future__ import annotations

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
    open_image,
    prepare_image,
    sample_image,
)

GREY = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))  # 48 high, 64 wide, from black to white
SIXTEEN = GREY.astype(np.uint16) * 257


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    deep = mode in ("I;16", "I", "F")
    image = Image.fromarray(SIXTEEN if deep else GREY)
    opened = open_image(image if mode == "I;16" else image.convert("I").convert(mode) if deep else image.convert(mode))
    assert (opened.mode, opened.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(opened).astype(int)[..., 0] - GREY).max() <= (255 if mode == "1" else 1)


@pytest.mark.parametrize(
    "array",
    [
        GREY,
        np.stack([GREY] * 3, -1),
        np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)]),
        GREY / 255,
        (GREY / 255).astype(np.float32),
    ],
)
def test_arrays(array: np.ndarray) -> None:
    assert np.abs(np.asarray(open_image(array)).astype(int)[..., 1] - GREY).max() <= 1


def test_transparency_is_laid_on_white_and_exif_orientation_is_applied(tmp_path: Path) -> None:
    assert open_image(Image.new("RGBA", (32, 32), (255, 0, 0, 0))).getpixel((16, 16)) == (255, 255, 255)
    Image.new("P", (32, 32), 0).save(tmp_path / "palette.png", transparency=0)
    assert open_image(tmp_path / "palette.png").getpixel((16, 16)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: rotate by 90 degrees to see it upright
    Image.fromarray(GREY).save(tmp_path / "turned.jpg", exif=exif)
    opened = open_image(str(tmp_path / "turned.jpg"))
    assert opened.size == (48, 64) and opened.getpixel((24, 2))[0] < 30 < 220 < opened.getpixel((24, 61))[0]


def test_samples() -> None:
    assert {sample_image(name).mode for name in PHOTOGRAPHS} == {"RGB"}
    assert open_image("scene-3").tobytes() == sample_image("scene-3").tobytes()
    with pytest.raises(InputError, match="astronaut"):
        sample_image("astronuat")


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:4000])
    for name in ("missing.png", "", "text.png", "cut.png"):
        with pytest.raises(ImageFileError, match=r"cannot be read as an image") as caught:
            open_image(tmp_path / name)
        assert isinstance(caught.value, OSError) and str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((8, 64, 3), np.uint8), "64x8 px: at least 16"),
        (np.zeros((64, 64, 2), np.uint8), "h w 3"),
        (np.full((32, 32), 1.5), r"\[0, 1\]"),
        (np.full((32, 32), np.nan), r"\[0, 1\]"),
        (np.zeros((32, 32), np.int64), "int64"),
        (["a.png", "b.png"], "list"),
        (Image.fromarray(np.full((32, 32), 1e6, np.float32)), "0 to 65535"),
    ],
)
def test_unusable_images(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(source)


def test_the_centre_is_cropped_and_the_loss_is_announced() -> None:
    dark, grey = np.zeros((64, 32), np.uint8), np.full((64, 64), 128, np.uint8)
    with pytest.warns(CropWarning, match="128x64.*centre 64x64.*50 %"):
        cropped = prepare_image(Image.fromarray(np.hstack([dark, grey, dark])), height=64, width=64)
    assert cropped.info["crop"] == (32, 0, 96, 64)
    assert np.asarray(cropped).min() == 128  # nothing of the dark sides, and no blending with them
