"""Pairs of images: faults of a manifest are named by row, confounds are measured, each change is what it says, in numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdlab import sample_image
from svdlab.errors import InputError
from svdlab.study import pairs as ps
from svdlab.study.pairs import Contrast, change, confounds, contrasts, pairs_of, read_manifest


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8))


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Three pairs, bright and dim, of six images on disk."""
    rows = [
        (f"{group}-{pair}.png", f"pair {pair}", group, f"person {pair}") for pair in range(3) for group in ("bright", "dim")
    ]
    for i, row in enumerate(rows):
        noise(i).save(tmp_path / row[0])
    table = pd.DataFrame(rows, columns=["path", "pair_id", "group", "subject_id"])
    return table.assign(group_scheme="lighting", label_source="the photographer", licence="CC0", consent="on file", notes="")


def written(table: pd.DataFrame, folder: Path, name: str = "m.csv") -> Path:
    table.to_parquet(folder / name) if name.endswith("parquet") else table.to_csv(folder / name, index=False)
    return folder / name


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_a_good_manifest_is_read_whole(table: pd.DataFrame, tmp_path: Path, name: str) -> None:
    manifest = read_manifest(written(table, tmp_path, name))
    assert len(manifest) == manifest.image_hash.nunique() == 6
    assert (set(manifest.width), set(manifest.height), set(manifest.flip_noise)) == ({48}, {32}, {""})
    assert all(Path(file).is_file() for file in manifest.file)
    assert contrasts(manifest) == [Contrast("lighting", "bright", "dim")]
    assert pairs_of(manifest, contrasts(manifest)[0]).to_numpy().tolist() == [[0, 1], [2, 3], [4, 5]]
    pd.testing.assert_frame_equal(read_manifest(manifest), manifest)


def test_text_that_looks_like_a_number_or_a_gap_stays_text(table: pd.DataFrame, tmp_path: Path) -> None:
    table = table.assign(pair_id="0" + table.pair_id.str[-1], notes="NA", group=table.group.map({"bright": "1", "dim": "2"}))
    manifest = read_manifest(written(table, tmp_path))
    assert manifest[["pair_id", "notes", "group"]].agg(set).tolist() == [{"00", "01", "02"}, {"NA"}, {"1", "2"}]


def put(row: int, column: str, value: Any) -> Callable[[pd.DataFrame, Path], pd.DataFrame]:
    return lambda table, folder: table.assign(**{column: table[column].where(table.index != row, value)})


def same_file(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    (folder / "dim-2.png").write_bytes((folder / "bright-0.png").read_bytes())
    return table


def unreadable(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    (folder / "dim-1.png").write_text("no image")
    (folder / "bright-2.png").unlink()
    return table


EMPTY = [(put(3, column, nothing), [rf"row 3 .*{column} is empty"]) for column in ps.NEEDED for nothing in ("  ", None)]


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        *EMPTY,
        (lambda t, _: t[:-1], [r"row 4 \(bright-2.png\): unpaired: pair 'pair 2' of scheme 'lighting' has no image of dim"]),
        (put(1, "group", "bright"), ["row 0 .*no image of dim"]),
        *[
            (put(1, "consent", word), [r"row 1 .*consent is .*: write how who is shown agreed"])
            for word in ("no", "Unknown ", "N/A")
        ],
        (put(1, "licence", "none"), [r"row 1 .*licence is 'none': write what allows the use"]),
        (lambda t, _: t[t.group == "dim"], ["has only the group 'dim'"]),
        (put(0, "flip_noise", "mirror"), ["row 0 .*flip_noise is 'mirror': leave it empty, or give one of left_right"]),
        (same_file, [r"row 5 \(dim-2.png\): the same image as row 0"]),
        (unreadable, [r"row 3 \(dim-1.png\): unreadable image.*cannot identify", "row 4 .*unreadable image.*No such file"]),
    ],
)
def test_every_fault_is_named_by_its_row(spoil: Any, faults: list[str], table: pd.DataFrame, tmp_path: Path) -> None:
    path = written(spoil(table.assign(flip_noise=""), tmp_path), tmp_path)
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    for fault in faults:
        assert any(re.search(fault, line) for line in lines), lines


def test_what_is_no_manifest_is_refused_with_what_to_write_and_notes_may_be_empty(table: pd.DataFrame, tmp_path: Path) -> None:
    assert len(read_manifest(written(table.assign(notes=""), tmp_path))) == 6
    none = {"lacks licence.*write what allows the use": table.drop(columns="licence"), "lacks rows": table[:0]}
    none |= {"lacks consent.*'nobody is shown'": table.drop(columns="consent")}
    none |= {"'group' more than once": pd.concat([table, table[["group"]]], axis=1)}
    none |= {"unreadable image": table.assign(age=3).rename(columns={"age": 0})}  # a column whose name is a number
    for message, source in (none | {"no manifest .*x.csv": tmp_path / "x.csv", "no manifest 3": 3}).items():
        with pytest.raises(InputError, match=message):
            read_manifest(source)


def test_a_manifest_of_any_dataframe_is_read_or_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    table = table.assign(path=[str(tmp_path / path) for path in table.path])
    more = table.assign(more=1).rename(columns={"more": 0}).assign(notes=[["a", "b"]] * 6)  # a column without a name, lists
    assert read_manifest(more)[["0", "notes"]].iloc[0].tolist() == [1, "['a', 'b']"]
    with pytest.raises(InputError, match="column 'path' more than once"):
        read_manifest(pd.concat([table, table[["path"]]], axis=1))


def test_other_sizes_and_other_sharpness_are_confounds_with_their_size(table: pd.DataFrame, tmp_path: Path) -> None:
    alike = confounds(read_manifest(written(table, tmp_path))).set_index("key")
    assert not alike.flagged[["width", "height", "blur"]].any()
    for pair in range(3):
        change(tmp_path / f"dim-{pair}.png", "blur", 0.05).resize((40, 32)).save(tmp_path / f"dim-{pair}.png")
    found = confounds(read_manifest(written(table, tmp_path))).set_index("key")
    assert found.flagged[["width", "blur"]].all()
    assert not found.flagged["height"]
    assert (found.value["width"], found.high["blur"] < 0) == (8, True)
    assert found.value["blur"] == pytest.approx(found.mean_a["blur"] - found.mean_b["blur"])


def test_the_index_that_pandas_writes_is_no_property_of_an_image(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "m.csv")
    assert set(confounds(read_manifest(tmp_path / "m.csv")).key) == {"width", "height", "blur", "brightness", "contrast"}


def test_no_label_is_ever_inferred() -> None:
    """No name of the module, and no kind of pair, is about who somebody is."""
    text = " ".join([*dir(ps), *ps.CHANGES, *(change.means for change in ps.CHANGES.values())])
    words = set(re.findall("[a-z]+", text.replace("_", " ").lower()))
    assert not words & {"skin", "race", "racial", "ethnicity", "gender", "sex", "age", "infer", "classify", "person", "people"}


# --- changes ----------------------------------------------------------------------------------------------------------


def flat(*colour: int) -> Image.Image:
    return Image.fromarray(np.full((32, 32, 3), colour, np.uint8))


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64) / 255


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return sample_image("cat").resize((96, 64))


@pytest.mark.parametrize(
    ("flip", "turned"), [("left_right", np.fliplr), ("up_down", np.flipud), ("half_turn", lambda x: np.rot90(x, 2))]
)
def test_a_mirror_image_is_numpys(cat: Image.Image, flip: str, turned: Any) -> None:
    assert np.array_equal(np.asarray(ps.mirror(cat, flip)), turned(np.asarray(cat)))


def test_scale_enlarges_about_the_centre() -> None:
    y, x = np.mgrid[:64, :64]
    disc = Image.fromarray((np.hypot(x - 31.5, y - 31.5) < 16).astype(np.uint8) * 255).convert("RGB")
    area = [(values(p) > 0.5).mean() for p in (disc, change(disc, "scale", 1.5))]
    assert area[1] / area[0] == pytest.approx(1.5**2, rel=0.02)


@pytest.mark.parametrize(
    ("level", "kind", "amount", "result"),
    [
        (255, "exposure", -1, 188),  # half the light of white in sRGB (IEC 61966-2-1)
        (255, "exposure", -2, 137),
        (128, "gamma", 2, 64),
        (90, "blur", 0.1, 90),
    ],
)
def test_grey_becomes_the_grey_of_the_formula(level: int, kind: str, amount: float, result: int) -> None:
    assert set(np.asarray(change(flat(level, level, level), kind, amount)).flat) == {result}


def test_white_balance_changes_colour_and_keeps_the_luminance_of_grey() -> None:
    warm = np.asarray(change(flat(128, 128, 128), "white_balance", 0.15))[0, 0]
    assert warm[0] > warm[1] > warm[2]
    light = np.where((v := warm / 255) <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    assert light @ np.array([0.2126, 0.7152, 0.0722]) == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4, rel=0.01)


def test_contrast_shrinks_distances_from_the_mean_and_blur_loses_detail(cat: Image.Image) -> None:
    less, soft, whole = values(change(cat, "contrast", 0.5)), values(change(cat, "blur", 0.03)), values(cat)
    assert (less.std(), less.mean()) == pytest.approx((whole.std() / 2, whole.mean()), rel=0.01)
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.5 * np.abs(np.diff(whole, axis=1)).mean()
    assert soft.mean() == pytest.approx(whole.mean(), abs=0.02)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda p: ps.mirror(p, "sideways"), "left_right"),
        (lambda p: change(p, "hue", 0.5), "one of scale"),
        (lambda p: change(p, "scale", 0.5), "scale by 0.5: a factor above 1"),
        (lambda p: change(p, "blur", -1), "from 0"),
    ],
)
def test_a_change_that_is_none_is_refused(cat: Image.Image, wrong: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        wrong(cat)


def test_every_kind_makes_a_manifest_that_passes(tmp_path: Path, cat: Image.Image) -> None:
    images, kinds = {"cat": cat, "coffee": sample_image("coffee").resize((96, 64))}, [*ps.CHANGES, *ps.FLIPPED]
    made = ps.make_pairs(images, tmp_path, kinds=kinds, licence="CC0", consent="nobody is shown")
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert len(manifest) == len(made) == 2 * 2 * len(kinds)
    mirrored = manifest[manifest.flip_noise != ""].groupby("group_scheme").flip_noise.agg(set).to_dict()
    assert mirrored == {"mirror": {"left_right"}, "upside_down": {"up_down"}, "half_turn": {"half_turn"}}
    blurred = confounds(manifest).query("scheme == 'blur' and key == 'blur'").iloc[0]
    assert blurred.value < 0  # the change itself is measured for what it is


@pytest.mark.parametrize(
    ("images", "how", "said"),
    [
        (["cat"], dict(kinds=["skin"]), "kinds"),
        (["cat"], dict(kinds="mirror"), "kinds"),
        ([], {}, "give paths"),
        (["a/one.png", "b/one.png"], {}, "each of another name"),
        ({"flat": flat(5, 5, 5)}, {}, "leaves 'flat' as it was"),
        ({"a": "cat", "a-mirror-left_right": "coffee"}, {}, "is the name of what 'a' becomes"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused(tmp_path: Path, images: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ps.make_pairs(images, tmp_path, **{"kinds": ["mirror"], "licence": "CC0", "consent": "nobody is shown"} | how)
    assert not (tmp_path / "manifest.csv").exists()


@pytest.mark.parametrize("file", ["cat.png", "manifest.csv"])
def test_pairs_replace_nothing_but_pairs(tmp_path: Path, file: str) -> None:
    how: dict[str, Any] = dict(kinds=["mirror"], licence="CC0", consent="nobody is shown")
    (tmp_path / file).write_text("path,label_source\ncat.png,the photographer\n")
    with pytest.raises(InputError, match=f"holds '{file}', which would be replaced"):
        ps.make_pairs(["cat"], tmp_path, **how)
    assert [p.name for p in tmp_path.iterdir()] == [file]
    ps.make_pairs(["cat"], tmp_path / "own", **how)
    assert len(ps.make_pairs(["cat"], tmp_path / "own", **how)) == 2  # the same again


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".."])
def test_names_of_pairs_are_names_of_files_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name of a file"):
        ps.make_pairs({name: "cat"}, tmp_path / "pairs", licence="CC0", consent="nobody is shown", kinds=["exposure"])
    assert not list(tmp_path.iterdir())


def test_a_manifest_reads_only_its_own_folder(table: pd.DataFrame, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for row, path in enumerate(table.path):
        noise(row).save(inner / path)
    noise(9).save(tmp_path / "outside.png")
    (inner / "link.png").symlink_to(tmp_path / "outside.png")
    for path in ("../outside.png", str(tmp_path / "outside.png"), "link.png"):
        with pytest.raises(InputError, match="not in its own folder"):
            read_manifest(written(put(0, "path", path)(table, inner), inner))
    assert len(read_manifest(written(table.assign(file="/etc/passwd"), inner))) == 6
