"""Manifests of bias studies: what is at fault is named by row, nothing is dropped, confounds are measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdlab.errors import InputError, ManifestError
from svdlab.study import counterfactuals, manifests
from svdlab.study.manifests import Contrast, confounds, contrasts, pairs_of, read_manifest


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
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
        picture(i).save(tmp_path / row["path"])
    return tmp_path


def faults(table: list[dict[str, Any]], folder: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(pd.DataFrame(table), folder=folder)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_good_manifest_is_read_whole(folder: Path, ending: str) -> None:
    path = folder / f"manifest{ending}"
    table = pd.DataFrame(rows())
    table.to_csv(path, index=False) if ending == ".csv" else table.to_parquet(path)
    manifest = read_manifest(path)
    assert len(manifest) == 6 and manifest.picture_hash.nunique() == 6
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
        picture(10 + pair).save(folder / f"dark-{pair}.png")
        table.append(table[2 * pair] | {"group": "dark", "path": f"dark-{pair}.png"})
    found = contrasts(read_manifest(pd.DataFrame(table), folder=folder))
    assert [(c.a, c.b) for c in found] == [("bright", "dim"), ("bright", "dark"), ("dim", "dark")]


def test_unpaired_rows_are_named(folder: Path) -> None:
    assert faults(rows()[:-1], folder) == [
        "row 4 (bright-2.png): unpaired: pair 'pair 2' of scheme 'lighting' has no picture of dim"
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
    assert faults(rows(), folder) == ["row 5 (dim-2.png): the same picture as row 0"]


@pytest.mark.parametrize("column", ["licence", "label_source", "subject_id", "group", "pair_id", "group_scheme", "path"])
@pytest.mark.parametrize("nothing", ["", "  ", None, float("nan")])
def test_an_empty_cell_is_named(folder: Path, column: str, nothing: Any) -> None:
    table = rows()
    table[3][column] = nothing
    assert any(fault.startswith("row 3 ") and f"{column} is empty" in fault for fault in faults(table, folder))


def test_consent_and_notes_may_be_empty(folder: Path) -> None:
    assert len(read_manifest(pd.DataFrame(rows(consent="", notes="")), folder=folder)) == 6


def test_an_unreadable_picture_is_named(folder: Path) -> None:
    (folder / "dim-1.png").write_text("no picture")
    (folder / "bright-2.png").unlink()
    found = faults(rows(), folder)
    assert len(found) == 2
    assert found[0].startswith("row 3 (dim-1.png): unreadable picture") and "not a picture" in found[0]
    assert found[1].startswith("row 4 (bright-2.png): unreadable picture") and "does not exist" in found[1]


def test_several_faults_are_all_named_at_once(folder: Path) -> None:
    table = rows()
    table[0]["licence"] = ""
    table[5]["label_source"] = ""
    (folder / "dim-0.png").unlink()
    assert len(faults(table, folder)) == 3


def test_a_missing_column_an_empty_table_and_an_unknown_flip_are_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"lacks the column\(s\) licence"):
        read_manifest(pd.DataFrame(rows()).drop(columns="licence"), folder=folder)
    with pytest.raises(ManifestError, match="no rows"):
        read_manifest(pd.DataFrame(rows())[:0], folder=folder)
    with pytest.raises(InputError, match="there is no manifest"):
        read_manifest(folder / "none.csv")
    assert "flip_noise is 'mirror'" in faults(rows(flip_noise="mirror"), folder)[0]


def test_pictures_of_one_size_and_sharpness_raise_no_flag(folder: Path) -> None:
    found = confounds(read_manifest(pd.DataFrame(rows()), folder=folder)).set_index("property")
    assert not found.flagged[["width", "height", "blur"]].any() and found.effect["width"] == 0


def test_other_sizes_and_other_sharpness_are_confounds_with_their_size(folder: Path) -> None:
    for pair in range(3):
        small = counterfactuals.blur(folder / f"dim-{pair}.png", 0.05).resize((40, 32))
        small.save(folder / f"dim-{pair}.png")
    found = confounds(read_manifest(pd.DataFrame(rows()), folder=folder)).set_index("property")
    assert found.flagged["width"] and found.effect["width"] == 8 and not found.flagged["height"]
    assert found.flagged["blur"] and found.high["blur"] < 0
    assert found.effect["blur"] == pytest.approx(found.mean_a["blur"] - found.mean_b["blur"])


def test_no_label_is_ever_inferred() -> None:
    """No name of either room, and no kind of pair, speaks of who somebody is."""
    names = " ".join([*dir(manifests), *dir(counterfactuals), *counterfactuals.KINDS])
    said = " ".join(kind.says for kind in counterfactuals.KINDS.values())
    words = set(re.findall("[a-z]+", f"{names} {said}".replace("_", " ").lower()))
    assert not words & {"skin", "race", "racial", "ethnicity", "gender", "sex", "age", "infer", "classify", "person", "people"}
