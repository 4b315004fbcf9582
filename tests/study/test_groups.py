"""Designs of a manifest: unpaired groups, several levels, clusters, covariates, 1:k matching, boxes; on tables of numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdlab.errors import InputError
from svdlab.stats.effects import EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW, corrected
from svdlab.study.groups import (
    OTHERS,
    Contrast,
    check_covariates,
    confounds,
    contrasts,
    estimate,
    overall,
    pairs_of,
    side_means,
)
from svdlab.study.manifest import image_of, read_manifest, units


def rows(groups: str, **columns: Any) -> pd.DataFrame:
    """A manifest as `read_manifest` returns it, of images that are not there."""
    n = len(groups)
    given = dict(pair_id="", subject_id="", group_scheme="x", flip_noise="", path=[f"{i}.png" for i in range(n)])
    table = pd.DataFrame(given | dict(group=list(groups)) | columns)
    return table.assign(file=table.path)


AB = Contrast("x", "a", "b")


def of(values: Any, table: pd.DataFrame, contrast: Contrast = AB, **how: Any) -> Any:
    frame = pd.DataFrame(np.asarray(values, float).reshape(len(table), -1), index=table.index)
    return estimate("k", "k", frame, table, contrast, unit="", **how)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_contrasts_by_default_and_against_a_reference() -> None:
    table = rows("aabbcc")
    assert contrasts(table) == [Contrast("x", g, OTHERS) for g in "abc"]
    assert contrasts(table, {"x": "b"}) == [Contrast("x", "a", "b"), Contrast("x", "c", "b")]
    assert contrasts(rows("ab")) == [Contrast("x", "a", "b")] and contrasts(rows("ab"), {"x": "a"}) == [
        Contrast("x", "b", "a")
    ]
    for wrong in ({"x": "d"}, {"y": "a"}, 3):
        with pytest.raises(InputError, match="reference"):
            contrasts(table, wrong)  # type: ignore[arg-type]


def test_unpaired_groups_differ_by_their_means(rng: np.random.Generator) -> None:
    y = rng.normal(size=40) + np.repeat([1.5, 0], [15, 25])
    e = of(y, rows("a" * 15 + "b" * 25))
    assert (e.value, e.n, e.of) == (pytest.approx(y[:15].mean() - y[15:].mean()), 40, "image")
    assert e.verdict == corrected([e])[0].verdict == EFFECT


def test_a_group_without_a_number_leaves_its_contrasts_without_one_and_no_other(rng: np.random.Generator) -> None:
    """All clips of group c failed, or the instrument abstained on them."""
    y, table = rng.normal(size=60), rows("abc" * 20)
    y[2::3] = np.nan
    assert (of(y, table).n, of(y, table).verdict) == (40, INCONCLUSIVE)
    lost = [of(y, table, Contrast("x", *sides)) for sides in (("c", "a"), ("a", OTHERS))]
    lost += [of(np.full(60, np.nan), table, Contrast("x", "a", "b"))]
    assert all(np.isnan(e.value) and e.verdict == TOO_FEW for e in lost)
    for pairs in (table, table.assign(pair_id=[str(i // 3) for i in range(60)])):
        assert np.isnan(overall(pd.DataFrame(y), pairs, "x")[3])


def test_groups_in_which_all_agree_are_not_too_few_and_not_certain() -> None:
    """No clip of 20 and 20 images is still: shares below 14 % of one group may well show none."""
    for table in (rows("ab" * 20), rows("ab" * 20, pair_id=[str(i // 2) for i in range(40)])):
        frame = pd.DataFrame(np.zeros((40, 2)))
        none = [estimate("k", "k", frame, table, AB, unit="share", margin=m) for m in (0.1, 0.2)]
        assert [e.verdict for e in none] == [INCONCLUSIVE, EQUIVALENT]
        assert none[0].high == -none[0].low == pytest.approx(1 - 0.05 ** (1 / 20))
        assert of(np.full(40, 0.3), table, margin=0.1).verdict == EQUIVALENT
        assert of(np.tile([0.3, 0.4], 20), table).verdict == EFFECT


def test_each_of_several_levels_against_the_mean_of_the_others_and_one_test_of_all(rng: np.random.Generator) -> None:
    table, level = rows("abcd" * 12), np.tile([0.0, 0.0, 0.0, 2.0], 12)
    y = level + 0.5 * rng.normal(size=48)
    means = [y[table.group == g].mean() for g in "abcd"]
    assert of(y, table, Contrast("x", "d", OTHERS)).value == pytest.approx(means[3] - np.mean(means[:3]))
    frame = pd.DataFrame(y, index=table.index)
    assert overall(frame, table, "x")[3] < 1e-6 and overall(frame - level[:, None], table, "x")[3] > 0.05
    pairs = table.assign(pair_id=[str(i // 4) for i in range(48)])
    assert of(y, pairs, Contrast("x", "d", OTHERS)).value == pytest.approx(means[3] - np.mean(means[:3]))
    assert overall(frame, pairs, "x")[3] < 1e-5 and overall(frame - level[:, None], pairs, "x")[3] > 0.05


def test_poses_of_an_identity_are_one_unit_paired_or_not(rng: np.random.Generator) -> None:
    own = np.repeat(rng.normal(size=16), 5)
    table = rows("a" * 40 + "b" * 40, subject_id=[f"s{i // 5}" for i in range(80)])
    e = of(own + 0.01 * rng.normal(size=80), table)
    assert (e.n, e.of) == (16, "subject")
    alone = of(own[::5], rows("a" * 8 + "b" * 8))
    assert e.high - e.low == pytest.approx(alone.high - alone.low, rel=0.05)
    pairs = rows("ab" * 40, pair_id=[str(i // 2) for i in range(80)], subject_id=[f"s{i // 10}" for i in range(80)])
    e = of(own, pairs)
    assert (e.n, e.of) == (8, "subject")


def test_a_difference_that_a_covariate_explains_is_adjusted_away(rng: np.random.Generator) -> None:
    age = np.concatenate([rng.normal(50, 10, 40), rng.normal(30, 10, 40)])
    y = 0.1 * age + 0.3 * rng.normal(size=80)
    table = rows("a" * 40 + "b" * 40, age=age.round(1).astype(str))
    assert of(y, table).low > 1 and abs(of(y, table, covariates=["age"]).value) < 0.3
    light = np.where(rng.random(80) < np.repeat([0.8, 0.3], 40), "day", "night")
    y = (light == "day") * 2.0 + 0.3 * rng.normal(size=80)
    e = of(y, table.assign(light=light), covariates=["light"])
    assert of(y, table).low > 0.3 and abs(e.value) < 0.3
    pairs = table.assign(pair_id=[str(i % 40) for i in range(80)])
    assert abs(of(0.1 * age + 0.3 * rng.normal(size=80), pairs, covariates=["age"]).value) < 0.4
    seen = side_means(pd.DataFrame(y, index=table.index), table, Contrast("x", "a", "b"))
    assert len(seen) == 80 and seen.a.notna().sum() == seen.b.notna().sum() == 40


@pytest.mark.parametrize(("column", "said"), [("light", "cannot be separated from the groups"), ("sun", "no such column")])
def test_a_covariate_that_is_the_group_or_no_column_is_refused(column: str, said: str) -> None:
    table = rows("aaabbb", light=["day"] * 3 + ["night"] * 3, gap=["1", "2", "", "1", "2", "3"])
    with pytest.raises(InputError, match=said):
        check_covariates(table, [column])
    with pytest.raises(InputError, match="covariate gap is empty in row 2"):
        check_covariates(table, ["gap"])


def test_a_covariate_that_differs_alike_in_every_pair_is_refused() -> None:
    """a is ten years older than b in each pair: before any clip is made, not after all of them."""
    pairs = rows("ab" * 8, pair_id=[str(i // 2) for i in range(16)], age=[30 + i // 2 + 10 * (i % 2) for i in range(16)])
    with pytest.raises(InputError, match="cannot be separated from the groups"):
        check_covariates(pairs, ["age"])
    check_covariates(pairs.assign(age=pairs.age + (pairs.index == 3)), ["age"])
    check_covariates(pairs.assign(age=pairs.pair_id), ["age"])


def test_one_treated_image_is_compared_with_the_mean_of_its_controls(rng: np.random.Generator) -> None:
    """Eight pairs with 1, 2 or 3 controls; shared controls make a larger unit."""
    sizes = [1, 2, 3, 1, 2, 3, 1, 2]
    names = [f"{i}" for i, k in enumerate(sizes) for _ in range(k + 1)]
    table = rows("".join("a" + "b" * k for k in sizes), pair_id=names)
    y = rng.normal(size=len(table))
    d = [y[[n == str(i) for n in names]][0] - y[[n == str(i) for n in names]][1:].mean() for i in range(8)]
    e = of(y, table)
    assert (e.value, e.n, e.of) == (pytest.approx(np.mean(d)), 8, "pair")
    assert len(pairs_of(table, Contrast("x", "a", "b"))) == sum(sizes)
    assert units(table.assign(subject_id=[f"s{n}" if n < 5 else f"t{n}" for n in range(len(table))])).nunique() == 8


def test_of_two_groups_with_few_images_nothing_is_claimed(rng: np.random.Generator) -> None:
    assert of(rng.normal(size=9), rows("a" * 7 + "b" * 2)).verdict == TOO_FEW


# --- manifests of images ----------------------------------------------------------------------------------------------


@pytest.fixture
def faces(tmp_path: Path) -> pd.DataFrame:
    """A table like FairFace's: image, group, no pair."""
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 200 + 4 * (i % 3), (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(12)], "group": list("abc" * 4), "licence": "CC BY 4.0"})
    return table.assign(consent="terms of the data set", age=[str(20 + i) for i in range(12)], file=None).drop(columns="file")


def read(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    table.to_csv(folder / "m.csv", index=False)
    return read_manifest(folder / "m.csv")


def test_a_table_of_unpaired_people_is_read(faces: pd.DataFrame, tmp_path: Path) -> None:
    manifest = read(faces, tmp_path)
    assert manifest.label_source.eq("not stated").all() and manifest.group_scheme.eq("group").all()
    assert units(manifest).is_unique and len(contrasts(manifest)) == 3
    found = confounds(manifest)
    assert {"age", "brightness"} <= set(found.key) and len(found) == 3 * 6
    pd.testing.assert_frame_equal(read_manifest(manifest), manifest)


def test_boxes_are_cropped_and_refused_outside_the_image(faces: pd.DataFrame, tmp_path: Path) -> None:
    table = faces.assign(image=["0.png", "0.png", *faces.image[2:]], box_x="", box_y="", box_w="", box_h="")
    table.loc[0, ["box_x", "box_y", "box_w", "box_h"]] = ["0", "0", "16", "20"]
    table.loc[1, ["box_x", "box_y", "box_w", "box_h"]] = ["28", "4", "20", "28"]
    manifest = read(table, tmp_path)
    assert image_of(manifest.loc[1]).size == (20, 28) == (manifest.width[1], manifest.height[1])
    whole = np.asarray(Image.open(tmp_path / "0.png"))
    assert np.array_equal(np.asarray(image_of(manifest.loc[1])), whole[4:32, 28:48])
    assert units(manifest)[0] == units(manifest)[1]  # two subjects of one image are no independent units
    pd.testing.assert_frame_equal(read_manifest(manifest), manifest)
    for name, value, said in [
        ("box_w", "21", r"row 1 .*its box \(28, 4, 21, 28\) leaves the image of 48 x 32 px"),
        ("box_x", "-1", "row 1 .*box_x '-1': whole px"),
        ("box_h", "0", "row 1 .*box_h '0'"),
        ("box_y", "4.5", "row 1 .*box_y '4.5'"),
        ("box_y", "", "row 1 .*box_y ''"),
        ("box_x", "left", "row 1 .*box_x 'left'"),
        ("box_x", "inf", "row 1 .*box_x 'inf'"),
    ]:
        wrong = table.copy()
        wrong.loc[1, name] = value
        with pytest.raises(InputError, match=said):
            read(wrong, tmp_path)
    with pytest.raises(InputError, match="lacks box_h"):
        read(table.drop(columns="box_h"), tmp_path)
