"""Pairs of images: faults of a manifest are named by row, confounds are measured, each change is what it says, in numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.color import rgb2hsv

from svdlab import sample_image
from svdlab.errors import InputError
from svdlab.study import pairs as ps
from svdlab.study.pairs import Contrast, change, confounds, contrasts, pairs_of, read_manifest


def noise(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def rows(n: int = 3, **changes: Any) -> list[dict[str, Any]]:
    return [
        dict(
            path=f"{group}-{pair}.png",
            pair_id=f"pair {pair}",
            group=group,
            group_scheme="lighting",
            label_source="the photographer",
            licence="CC0",
            consent="on file",
            subject_id=f"person {pair}",
            notes="",
        )
        | changes
        for pair in range(n)
        for group in ("bright", "dim")
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, row in enumerate(rows()):
        noise(i).save(tmp_path / row["path"])
    return tmp_path


def faults(table: list[dict[str, Any]], folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_manifest(pd.DataFrame(table), folder=folder)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_good_manifest_is_read_whole(folder: Path, ending: str) -> None:
    path = folder / f"manifest{ending}"
    table = pd.DataFrame(rows())
    table.to_csv(path, index=False) if ending == ".csv" else table.to_parquet(path)
    manifest = read_manifest(path)
    assert len(manifest) == 6 and manifest.image_hash.nunique() == 6
    assert set(manifest.width) == {48} and set(manifest.height) == {32}
    assert all(Path(file).is_file() for file in manifest.file)
    assert contrasts(manifest) == [Contrast("lighting", "bright", "dim")]
    assert pairs_of(manifest, contrasts(manifest)[0]).to_numpy().tolist() == [[0, 1], [2, 3], [4, 5]]


def test_text_that_looks_like_a_number_or_a_gap_stays_text(folder: Path) -> None:
    table = rows()
    for row in table:
        row.update(pair_id="0" + row["pair_id"][-1], notes="NA", group={"bright": "1", "dim": "2"}[row["group"]])
    pd.DataFrame(table).to_csv(folder / "m.csv", index=False)
    manifest = read_manifest(folder / "m.csv")
    assert set(manifest.pair_id) == {"00", "01", "02"} and set(manifest.notes) == {"NA"} and set(manifest.group) == {"1", "2"}


def test_three_groups_make_three_contrasts(folder: Path) -> None:
    table = rows()
    for pair in range(3):
        noise(10 + pair).save(folder / f"dark-{pair}.png")
        table.append(table[2 * pair] | {"group": "dark", "path": f"dark-{pair}.png"})
    found = contrasts(read_manifest(pd.DataFrame(table), folder=folder))
    assert [(c.a, c.b) for c in found] == [("bright", "dim"), ("bright", "dark"), ("dim", "dark")]


def test_unpaired_rows_are_named(folder: Path) -> None:
    assert faults(rows()[:-1], folder) == [
        "row 4 (bright-2.png): unpaired: pair 'pair 2' of scheme 'lighting' has no image of dim"
    ]


def test_a_subject_in_two_pairs_is_named(folder: Path) -> None:
    table = rows()
    table[2]["subject_id"] = "person 0"
    assert faults(table, folder) == [
        "row 2 (bright-1.png): subject 'person 0' is in pair 'pair 0' too: each belongs to one pair"
    ]


def test_one_group_only_is_said(folder: Path) -> None:
    found = faults([row for row in rows() if row["group"] == "dim"], folder)
    assert len(found) == 1 and "has only the group 'dim'" in found[0]


def test_duplicate_images_are_named_also_under_two_names(folder: Path) -> None:
    (folder / "dim-2.png").write_bytes((folder / "bright-0.png").read_bytes())
    assert faults(rows(), folder) == ["row 5 (dim-2.png): the same image as row 0"]


@pytest.mark.parametrize("column", ["licence", "label_source", "subject_id", "group", "pair_id", "group_scheme", "path"])
@pytest.mark.parametrize("nothing", ["", "  ", None, float("nan")])
def test_an_empty_cell_is_named(folder: Path, column: str, nothing: Any) -> None:
    table = rows()
    table[3][column] = nothing
    assert any(fault.startswith("row 3 ") and f"{column} is empty" in fault for fault in faults(table, folder))


def test_consent_and_notes_may_be_empty(folder: Path) -> None:
    assert len(read_manifest(pd.DataFrame(rows(consent="", notes="")), folder=folder)) == 6


def test_an_unreadable_image_is_named(folder: Path) -> None:
    (folder / "dim-1.png").write_text("no picture")
    (folder / "bright-2.png").unlink()
    found = faults(rows(), folder)
    assert len(found) == 2
    assert found[0].startswith("row 3 (dim-1.png): unreadable image") and "cannot identify" in found[0]
    assert found[1].startswith("row 4 (bright-2.png): unreadable image") and "No such file" in found[1]


def test_several_faults_are_all_named_at_once(folder: Path) -> None:
    table = rows()
    table[0]["licence"] = ""
    table[5]["label_source"] = ""
    (folder / "dim-0.png").unlink()
    assert len(faults(table, folder)) == 3


def test_a_missing_column_an_empty_table_and_an_unknown_flip_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"lacks the column\(s\) licence"):
        read_manifest(pd.DataFrame(rows()).drop(columns="licence"), folder=folder)
    with pytest.raises(InputError, match="no rows"):
        read_manifest(pd.DataFrame(rows())[:0], folder=folder)
    with pytest.raises(InputError, match="there is no manifest"):
        read_manifest(folder / "none.csv")
    assert "flip_noise is 'mirror'" in faults(rows(flip_noise="mirror"), folder)[0]


def test_images_of_one_size_and_sharpness_raise_no_flag(folder: Path) -> None:
    found = confounds(read_manifest(pd.DataFrame(rows()), folder=folder)).set_index("key")
    assert not found.flagged[["width", "height", "blur"]].any() and found.value["width"] == 0


def test_other_sizes_and_other_sharpness_are_confounds_with_their_size(folder: Path) -> None:
    for pair in range(3):
        small = change(folder / f"dim-{pair}.png", "blur", 0.05).resize((40, 32))
        small.save(folder / f"dim-{pair}.png")
    found = confounds(read_manifest(pd.DataFrame(rows()), folder=folder)).set_index("key")
    assert found.flagged["width"] and found.value["width"] == 8 and not found.flagged["height"]
    assert found.flagged["blur"] and found.high["blur"] < 0
    assert found.value["blur"] == pytest.approx(found.mean_a["blur"] - found.mean_b["blur"])


def test_no_label_is_ever_inferred() -> None:
    """No name of the module, and no kind of pair, is about who somebody is."""
    text = " ".join([*dir(ps), *ps.KINDS, *(kind.says for kind in ps.KINDS.values())])
    words = set(re.findall("[a-z]+", text.replace("_", " ").lower()))
    assert not words & {"skin", "race", "racial", "ethnicity", "gender", "sex", "age", "infer", "classify", "person", "people"}


# --- changes ----------------------------------------------------------------------------------------------------------


def grey(level: int, size: int = 32) -> Image.Image:
    return Image.fromarray(np.full((size, size, 3), level, np.uint8))


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64) / 255


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return sample_image("cat").resize((96, 64))


@pytest.mark.parametrize(("flip", "turned"), [("left_right", np.fliplr), ("up_down", np.flipud), ("half_turn", None)])
def test_a_mirror_image_is_numpys_and_undoes_itself(cat: Image.Image, flip: str, turned: Any) -> None:
    expected = turned(np.asarray(cat)) if turned else np.rot90(np.asarray(cat), 2)
    assert np.array_equal(np.asarray(ps.mirror(cat, flip)), expected)
    assert np.array_equal(np.asarray(ps.mirror(ps.mirror(cat, flip), flip)), np.asarray(cat))


def test_crops_hold_the_same_pixels_a_known_shift_apart(cat: Image.Image) -> None:
    one, other = (np.asarray(c) for c in ps.crops(cat, 0.125))
    assert one.shape == other.shape == (64, 84, 3)
    assert np.array_equal(one[:, 12:], other[:, :-12])


def test_scale_enlarges_about_the_centre() -> None:
    y, x = np.mgrid[:64, :64]
    disc = Image.fromarray((np.hypot(x - 31.5, y - 31.5) < 16).astype(np.uint8) * 255).convert("RGB")
    area = [(values(p) > 0.5).mean() for p in (disc, change(disc, "scale", 1.5))]
    assert area[1] / area[0] == pytest.approx(1.5**2, rel=0.02)


def test_a_stop_is_a_factor_two_of_light() -> None:
    """sRGB 188 is half the light of white (IEC 61966-2-1), and 137 a quarter."""
    assert (
        np.asarray(change(grey(255), "exposure", -1)).max() == 188
        and np.asarray(change(grey(255), "exposure", -2)).max() == 137
    )
    assert np.asarray(change(grey(188), "exposure", 1)).min() >= 254
    assert np.array_equal(np.asarray(change(grey(77), "exposure", 0)), np.asarray(grey(77)))


def test_gamma_keeps_black_and_white_and_moves_the_middle() -> None:
    for level in (0, 255):
        assert np.asarray(change(grey(level), "gamma", 2)).max() == level
    assert np.asarray(change(grey(128), "gamma", 2)).max() == round((128 / 255) ** 2 * 255)


def test_white_balance_changes_colour_and_keeps_the_luminance_of_grey() -> None:
    warm = np.asarray(change(grey(128), "white_balance", 0.15))[0, 0]
    assert warm[0] > warm[1] > warm[2]
    light = np.where((v := warm / 255) <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    assert light @ np.array(ps.LUMINANCE) == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4, rel=0.01)


def test_contrast_shrinks_distances_from_the_mean(cat: Image.Image) -> None:
    less = values(change(cat, "contrast", 0.5))
    assert less.std() == pytest.approx(values(cat).std() / 2, rel=0.01) and less.mean() == pytest.approx(
        values(cat).mean(), abs=0.002
    )


def test_blur_keeps_the_light_and_loses_detail(cat: Image.Image) -> None:
    soft = values(change(cat, "blur", 0.03))
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.5 * np.abs(np.diff(values(cat), axis=1)).mean()
    assert soft.mean() == pytest.approx(values(cat).mean(), abs=0.02)


def test_recolouring_turns_the_hue_inside_the_mask_alone() -> None:
    red = Image.fromarray(np.full((32, 32, 3), (200, 40, 40), np.uint8))
    mask = np.zeros((32, 32))
    mask[:, :16] = 1
    after = rgb2hsv(values(ps.recolour(red, mask, 1 / 3)))
    before = rgb2hsv(values(red))
    assert after[:, :16, 0].mean() == pytest.approx(1 / 3, abs=0.01) and np.abs(after[:, 16:, 0] % 1).max() < 0.01
    assert np.abs(after - before)[..., 1:].max() < 0.02


def test_a_swapped_background_keeps_what_the_mask_holds(cat: Image.Image) -> None:
    mask = np.zeros((64, 96))
    mask[16:48, 24:72] = 1
    swapped = np.asarray(ps.swap_background(cat, mask, grey(7)))
    assert np.array_equal(swapped[mask > 0], np.asarray(cat)[mask > 0]) and set(swapped[mask == 0].flat) == {7}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: ps.mirror(p, "sideways"), "left_right"),
        (lambda p: ps.crops(p, 0), "share of the longer side"),
        (lambda p: change(p, "scale", 0.5), "above 1"),
        (lambda p: change(p, "gamma", 0), "above 0"),
        (lambda p: change(p, "white_balance", 1), "between -1 .* and 1"),
        (lambda p: change(p, "contrast", -1), "0 or more"),
        (lambda p: change(p, "blur", float("nan")), "0 or more"),
        (lambda p: ps.recolour(p, np.ones((3, 3))), "96x64"),
        (lambda p: ps.recolour(p, np.zeros((64, 96))), "not all 0"),
    ],
)
def test_a_change_that_is_none_is_refused(cat: Image.Image, change: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        change(cat)


def test_every_kind_makes_a_manifest_that_passes(tmp_path: Path, cat: Image.Image) -> None:
    images = {"cat": cat, "coffee": sample_image("coffee").resize((96, 64))}
    mask = {name: np.pad(np.ones((32, 48)), ((16, 16), (24, 24))) for name in images}
    behind = {"cat": images["coffee"], "coffee": images["cat"]}
    made = ps.make_pairs(images, tmp_path, kinds=ps.KINDS, licence="CC0", masks=mask, backgrounds=behind)
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert len(manifest) == len(made) == 2 * 2 * len(ps.KINDS)
    assert set(manifest.notes) == {kind.says for kind in ps.KINDS.values()}
    mirrored = manifest[manifest.flip_noise != ""]
    assert set(zip(mirrored.group_scheme, mirrored.flip_noise, strict=True)) == {
        ("mirror", "left_right"),
        ("upside_down", "up_down"),
        ("half_turn", "half_turn"),
    }
    blurred = confounds(manifest).query("scheme == 'blur' and key == 'blur'").iloc[0]
    assert blurred.value < 0  # the change itself is measured for what it is


def test_the_licence_comes_with_each_image(tmp_path: Path) -> None:
    made = ps.make_pairs(["cat"], tmp_path, kinds=["mirror"], licence={"cat": "CC0, Stefan van der Walt"})
    assert set(made.licence) == {"CC0, Stefan van der Walt"}
    with pytest.raises(InputError, match="no licence for 'coffee'"):
        ps.make_pairs(["coffee"], tmp_path, licence={"cat": "CC0"})


@pytest.mark.parametrize(
    ("images", "kinds", "said"),
    [
        (["cat"], ["skin"], "a list of mirror"),
        (["cat"], "mirror", "a list of mirror"),
        ([], ["mirror"], "no images"),
        ("cat", ["mirror"], "a list of images"),
        (["a/one.png", "b/one.png"], ["mirror"], "one file name"),
        ([grey(5)], ["mirror"], "need names"),
        ({"flat": grey(5)}, ["mirror"], "leaves 'flat' as it was"),
        (["cat"], ["recolour"], "needs a mask for 'cat'"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused(tmp_path: Path, images: Any, kinds: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ps.make_pairs(images, tmp_path, kinds=kinds, licence="CC0")
    assert not (tmp_path / "manifest.csv").exists()


def test_a_manifest_of_pairs_is_a_table_that_others_can_read(tmp_path: Path) -> None:
    ps.make_pairs(["cat"], tmp_path, kinds=["exposure"], licence="CC0")
    assert pd.read_csv(tmp_path / "manifest.csv").group.tolist() == ["original", "one_stop_less"]
