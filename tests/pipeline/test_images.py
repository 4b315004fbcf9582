"""Whatever a user has becomes an RGB image, visibly cropped; what cannot is refused with its cause."""

import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from svdlab.errors import InputError
from svdlab.pipeline.images import (
    PHOTOGRAPHS,
    CropWarning,
    FirstFrameWarning,
    ImageFileError,
    images_in,
    open_image,
    prepare_image,
    sample_image,
)

GREY = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))  # 48 high, 64 wide, from black to white
SIXTEEN = GREY.astype(np.uint16) * 257


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    deep = mode in ("I;16", "I", "F")
    image = Image.fromarray(np.float32(GREY / 255) if mode == "F" else SIXTEEN if deep else GREY)
    opened = open_image(image if mode in ("I;16", "F") else image.convert(mode))
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


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    """A profile whose red is sRGB's green, and the reverse: what a browser shows of it is green."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = (
        srgb.replace(b"rXYZ", b"----")
        .replace(b"gXYZ", b"rXYZ")
        .replace(b"----", b"gXYZ")
        .replace(b"s\0R\0G\0B", b"o\0w\0n\0 ")
    )
    for colour, profile, shown in (
        ((230, 20), swapped, (20, 230)),
        ((230, 20), srgb, (230, 20)),
        ((230, 20), b"damaged", (230, 20)),
    ):
        for mode in ("RGB", "RGBA"):
            Image.new(mode, (32, 32), (*colour, 20, 255)[: len(mode)]).save(tmp_path / "x.png", icc_profile=profile)
            assert open_image(tmp_path / "x.png").getpixel((5, 5)) == pytest.approx((*shown, 20), abs=2)


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
        (np.eye(64, dtype=np.uint8), "if 1 is white"),
        (np.full((64, 64), 1e-3, np.float32), "0.001 to 0.001 of 1, which is black"),
        (Image.fromarray(np.full((64, 64), 1e-3, np.float32)), "0.001 to 0.001 of 1, which is black"),
    ],
)
def test_unusable_images(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(source)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (GREY.astype(np.float32), "floats are 0 to 1"),  # case C1: 0 to 255 may be either
        (np.float32(GREY) / 127 - 1, "from -1 to"),
        (np.full((32, 32), np.nan, np.float32), "nan"),
        (GREY.astype(np.int32), "from 0 to 255"),  # case C1
        (GREY.astype(np.int32) - 9, "from -9"),
        (SIXTEEN.astype(np.int32) * 9, "0 to 65535"),
        (GREY.astype(np.uint16), "more than 12 bits"),  # 8, 10 or 12 bits in files of 16 would be dark
        (GREY.astype(np.uint16) * 16, "more than 12 bits"),
    ],
)
def test_a_file_of_an_ambiguous_range_is_refused(values: np.ndarray, told: str, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    for source in (tmp_path / "deep.tiff", Image.fromarray(values)):
        with pytest.raises(InputError, match=f"(?s){told}.*convert it to 8-bit RGB"):
            open_image(source)


@pytest.mark.parametrize("values", [np.float32(GREY / 255), SIXTEEN, SIXTEEN.astype(np.int32)])
def test_deep_files_that_use_their_range_are_scaled(values: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    assert np.abs(np.asarray(open_image(tmp_path / "deep.tiff")).astype(int)[..., 1] - GREY).max() <= 1


def test_the_preview_in_a_raw_file_is_not_taken_for_the_photograph(tmp_path: Path) -> None:
    """DNG and NEF are TIFFs whose first image is a small one, by the tag NewSubfileType."""
    Image.fromarray(GREY).save(tmp_path / "photo.dng", format="TIFF", tiffinfo={254: 1})
    with pytest.raises(InputError, match="raw file, and 64x48 px its preview: develop it"):
        open_image(tmp_path / "photo.dng")


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_colours_of_16_bits_that_use_few_are_refused_and_not_black(suffix: str, channels: int, tmp_path: Path) -> None:
    """Case C1 in colour: Pillow keeps the upper 8 bits of each."""
    pixels, name = np.dstack([GREY] * 3 + [np.full_like(GREY, 255)])[..., :channels], str(tmp_path / f"deep{suffix}")
    for times in (1, 4, 16):  # 8, 10 and 12 bits in files of 16
        cv2.imwrite(name, pixels.astype(np.uint16) * times)
        with pytest.raises(InputError, match=r"12 or fewer are used.*convert it to 8-bit RGB"):
            open_image(name)
    cv2.imwrite(name, pixels.astype(np.uint16) * 257)
    assert np.abs(np.asarray(open_image(name)).astype(int)[..., 1] - GREY).max() <= 1
    cv2.imwrite(name, pixels[..., :3] // 20)  # of 8 bits it is a dark image
    assert open_image(name).getextrema()[0] == (0, 12)


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png", ".tiff"])
def test_a_file_of_several_frames_is_announced(suffix: str, tmp_path: Path) -> None:
    """Case C2: with their number, and the reader of videos, which can read them."""
    frames, name = [Image.new("RGB", (64, 48), (60 * i, 0, 0)) for i in range(4)], tmp_path / f"clip{suffix}"
    frames[0].save(name, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {}))
    with pytest.warns(FirstFrameWarning, match=rf"4 frames, of which only frame 0 .*read_frames\('{name}'\)") as seen:
        open_image(name)
    assert not [w for w in seen if w.category is ResourceWarning]  # the file is closed
    standing = Image.open(name)
    standing.seek(2)
    with pytest.warns(FirstFrameWarning, match="only frame 2"):
        assert abs(open_image(standing).getpixel((5, 5))[0] - 120) < 3
    frames[0].save(name)
    open_image(name)  # a single frame warns of nothing, as warnings are errors here


def header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_is_too_large_or_no_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # to open it would wait for ever
    (tmp_path / "sparse.png").touch()
    os.truncate(tmp_path / "sparse.png", 2**31)
    for name, size in {"bomb": (60_000, 60_000), "wide": (12_000, 10_000), "line": (8, 2**31 - 1)}.items():
        (tmp_path / f"{name}.png").write_bytes(header(*size))
    (tmp_path / "photo.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    told = {"pipe": "device", "sparse": "bytes", "bomb": "pixels", "wide": "89 megapixels", "line": "pixels"}
    for name, words in {**told, "photo": "a program, which is not run"}.items():
        tracemalloc.start()
        with pytest.raises(ImageFileError, match=words):
            open_image(tmp_path / f"{name}.png")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
    with pytest.raises(ImageFileError, match="it is a folder"):
        open_image(tmp_path)


def test_damaged_files_of_every_kind_are_named(tmp_path: Path) -> None:
    rng, noise = np.random.default_rng(0), np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    for suffix in ("png", "jpg", "webp", "gif", "tiff", "bmp"):
        Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for _ in range(20):
            spoilt = np.frombuffer(whole, np.uint8).copy()
            spoilt[rng.integers(0, min(len(whole), 400), 6)] = rng.integers(0, 255, 6)
            (tmp_path / f"spoilt\x1b.{suffix}").write_bytes(spoilt.tobytes()[: rng.integers(10, len(whole))])
            with warnings.catch_warnings(action="ignore"):
                try:
                    assert open_image(tmp_path / f"spoilt\x1b.{suffix}").mode == "RGB"
                except ImageFileError as error:
                    assert "spoilt\\x1b" in str(error) and len(str(error).splitlines()) == 1


def test_paths_may_be_under_home_and_folders_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(GREY).save(tmp_path / "a.PNG")
    (tmp_path / "._a.PNG").write_bytes(b"\0\5\x16\7")  # beside it, from a Mac
    assert images_in("~") == [str(tmp_path / "a.PNG")] and open_image("~/a.PNG").size == (64, 48)
    for odd in ("~nobody-here/a.png", "a\0b.png", "x" * 300, "scene-\u00b2", "scene-" + "9" * 30):
        with pytest.raises(InputError):
            open_image(odd)
    for odd in (tmp_path / "none", tmp_path / "a.PNG", 3):
        with pytest.raises(InputError):
            images_in(odd)  # type: ignore[arg-type]


def test_the_centre_is_cropped_and_the_loss_is_announced() -> None:
    dark, grey = np.zeros((64, 32), np.uint8), np.full((64, 64), 128, np.uint8)
    with pytest.warns(CropWarning, match="128x64.*centre 64x64.*50 %"):
        cropped = prepare_image(Image.fromarray(np.hstack([dark, grey, dark])), height=64, width=64)
    assert cropped.info["crop"] == (32, 0, 96, 64)
    assert np.asarray(cropped).min() == 128  # nothing of the dark sides, and no blending with them
