"""Pairs of pictures that differ in one known respect: each change is what it says, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.color import rgb2hsv

from svdlab import sample_image
from svdlab.errors import InputError
from svdlab.study import counterfactuals as cf
from svdlab.study.manifests import confounds, read_manifest


def grey(level: int, size: int = 32) -> Image.Image:
    return Image.fromarray(np.full((size, size, 3), level, np.uint8))


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float64) / 255


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return sample_image("cat").resize((96, 64))


@pytest.mark.parametrize(("flip", "turned"), [("left_right", np.fliplr), ("up_down", np.flipud), ("half_turn", None)])
def test_a_mirror_image_is_numpys_and_undoes_itself(cat: Image.Image, flip: str, turned: Any) -> None:
    expected = turned(np.asarray(cat)) if turned else np.rot90(np.asarray(cat), 2)
    assert np.array_equal(np.asarray(cf.mirror(cat, flip)), expected)
    assert np.array_equal(np.asarray(cf.mirror(cf.mirror(cat, flip), flip)), np.asarray(cat))


def test_crops_hold_the_same_pixels_a_known_shift_apart(cat: Image.Image) -> None:
    one, other = (np.asarray(c) for c in cf.crops(cat, 0.125))
    assert one.shape == other.shape == (64, 84, 3)
    assert np.array_equal(one[:, 12:], other[:, :-12])


def test_scale_enlarges_about_the_centre() -> None:
    y, x = np.mgrid[:64, :64]
    disc = Image.fromarray((np.hypot(x - 31.5, y - 31.5) < 16).astype(np.uint8) * 255).convert("RGB")
    area = [(values(p) > 0.5).mean() for p in (disc, cf.scale(disc, 1.5))]
    assert area[1] / area[0] == pytest.approx(1.5**2, rel=0.02)


def test_a_stop_is_a_factor_two_of_light() -> None:
    """sRGB 188 is half the light of white (IEC 61966-2-1), and 137 a quarter."""
    assert np.asarray(cf.exposure(grey(255), -1)).max() == 188 and np.asarray(cf.exposure(grey(255), -2)).max() == 137
    assert np.asarray(cf.exposure(grey(188), 1)).min() >= 254
    assert np.array_equal(np.asarray(cf.exposure(grey(77), 0)), np.asarray(grey(77)))


def test_gamma_keeps_black_and_white_and_moves_the_middle() -> None:
    for level in (0, 255):
        assert np.asarray(cf.gamma(grey(level), 2)).max() == level
    assert np.asarray(cf.gamma(grey(128), 2)).max() == round((128 / 255) ** 2 * 255)


def test_white_balance_changes_colour_and_keeps_the_luminance_of_grey() -> None:
    warm = np.asarray(cf.white_balance(grey(128), 0.15))[0, 0]
    assert warm[0] > warm[1] > warm[2]
    light = np.where((v := warm / 255) <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    assert light @ np.array(cf.LUMINANCE) == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4, rel=0.01)


def test_contrast_shrinks_distances_from_the_mean(cat: Image.Image) -> None:
    less = values(cf.contrast(cat, 0.5))
    assert less.std() == pytest.approx(values(cat).std() / 2, rel=0.01) and less.mean() == pytest.approx(
        values(cat).mean(), abs=0.002
    )


def test_blur_keeps_the_light_and_loses_detail(cat: Image.Image) -> None:
    soft = values(cf.blur(cat, 0.03))
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.5 * np.abs(np.diff(values(cat), axis=1)).mean()
    assert soft.mean() == pytest.approx(values(cat).mean(), abs=0.02)


def test_recolouring_turns_the_hue_inside_the_mask_alone() -> None:
    red = Image.fromarray(np.full((32, 32, 3), (200, 40, 40), np.uint8))
    mask = np.zeros((32, 32))
    mask[:, :16] = 1
    after = rgb2hsv(values(cf.recolour(red, mask, 1 / 3)))
    before = rgb2hsv(values(red))
    assert after[:, :16, 0].mean() == pytest.approx(1 / 3, abs=0.01) and np.abs(after[:, 16:, 0] % 1).max() < 0.01
    assert np.abs(after - before)[..., 1:].max() < 0.02


def test_a_swapped_background_keeps_what_the_mask_holds(cat: Image.Image) -> None:
    mask = np.zeros((64, 96))
    mask[16:48, 24:72] = 1
    swapped = np.asarray(cf.swap_background(cat, mask, grey(7)))
    assert np.array_equal(swapped[mask > 0], np.asarray(cat)[mask > 0]) and set(swapped[mask == 0].flat) == {7}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: cf.mirror(p, "sideways"), "left_right"),
        (lambda p: cf.crops(p, 0), "share of the longer side"),
        (lambda p: cf.scale(p, 0.5), "above 1"),
        (lambda p: cf.gamma(p, 0), "above 0"),
        (lambda p: cf.white_balance(p, 1), "between -1 and 1"),
        (lambda p: cf.contrast(p, -1), "0 or more"),
        (lambda p: cf.blur(p, float("nan")), "0 or more"),
        (lambda p: cf.recolour(p, np.ones((3, 3))), "96x64"),
        (lambda p: cf.recolour(p, np.zeros((64, 96))), "empty"),
    ],
)
def test_a_change_that_is_none_is_refused(cat: Image.Image, change: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        change(cat)


def test_every_kind_makes_a_manifest_that_passes(tmp_path: Path, cat: Image.Image) -> None:
    pictures = {"cat": cat, "coffee": sample_image("coffee").resize((96, 64))}
    mask = {name: np.pad(np.ones((32, 48)), ((16, 16), (24, 24))) for name in pictures}
    behind = {"cat": pictures["coffee"], "coffee": pictures["cat"]}
    made = cf.make_pairs(pictures, tmp_path, kinds=cf.KINDS, licence="CC0", masks=mask, backgrounds=behind)
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert len(manifest) == len(made) == 2 * 2 * len(cf.KINDS)
    assert set(manifest.notes) == {kind.says for kind in cf.KINDS.values()}
    mirrored = manifest[manifest.flip_noise != ""]
    assert set(zip(mirrored.group_scheme, mirrored.flip_noise, strict=True)) == {
        ("mirror", "left_right"),
        ("upside_down", "up_down"),
        ("half_turn", "half_turn"),
    }
    blurred = confounds(manifest).query("scheme == 'blur' and property == 'blur'").iloc[0]
    assert blurred.effect < 0  # the change itself is measured for what it is


def test_the_licence_comes_with_each_picture(tmp_path: Path) -> None:
    made = cf.make_pairs(["cat"], tmp_path, kinds=["mirror"], licence={"cat": "CC0, Stefan van der Walt"})
    assert set(made.licence) == {"CC0, Stefan van der Walt"}
    with pytest.raises(InputError, match="no licence for 'coffee'"):
        cf.make_pairs(["coffee"], tmp_path, licence={"cat": "CC0"})


@pytest.mark.parametrize(
    ("images", "kinds", "said"),
    [
        (["cat"], ["skin"], "a list of mirror"),
        (["cat"], "mirror", "a list of mirror"),
        ([], ["mirror"], "no images"),
        ("cat", ["mirror"], "a list of pictures"),
        (["a/one.png", "b/one.png"], ["mirror"], "one file name"),
        ([grey(5)], ["mirror"], "need names"),
        ({"flat": grey(5)}, ["mirror"], "leaves 'flat' as it was"),
        (["cat"], ["recolour"], "needs a mask for 'cat'"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused(tmp_path: Path, images: Any, kinds: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        cf.make_pairs(images, tmp_path, kinds=kinds, licence="CC0")
    assert not (tmp_path / "manifest.csv").exists()


def test_a_manifest_of_pairs_is_a_table_that_others_can_read(tmp_path: Path) -> None:
    cf.make_pairs(["cat"], tmp_path, kinds=["exposure"], licence="CC0")
    assert pd.read_csv(tmp_path / "manifest.csv").group.tolist() == ["original", "one_stop_less"]
