"""A plan is a table: grids, random samples, rows and files, checked before anything runs."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from svdlab.errors import InputError
from svdlab.pipeline.conditions import Conditions
from svdlab.study.plans import CONDITIONS, across_images, as_plan, condition_rows, grid, parse_yaml, read_plan


def test_a_grid_is_the_product_with_the_last_axis_fastest(tmp_path: Path) -> None:
    plan = grid(fps=[6, 12], image="cat", seed=range(3))
    assert list(zip(plan.fps, plan.seed, strict=True)) == list(itertools.product([6, 12], range(3)))
    assert set(plan.image) == {"cat"}
    (tmp_path / "grid.yaml").write_text("fps: [6, 12]\nimage: cat\nseed: [0, 1, 2]\n")
    pd.testing.assert_frame_equal(read_plan(tmp_path / "grid.yaml"), plan)


def test_a_tuple_is_one_value_where_a_condition_is_one() -> None:
    plan = grid(guidance_interval=(0.5, 5.0), guidance_curve=["linear", (1.0, 2.0, 3.0)], num_frames=3)
    assert plan.guidance_interval.tolist() == [(0.5, 5.0)] * 2 and plan.guidance_curve.tolist() == ["linear", (1.0, 2.0, 3.0)]


@pytest.mark.parametrize("one", [np.array(6), np.int64(6), torch.tensor(6)])
def test_an_array_without_dimensions_is_one_value(one: Any) -> None:
    assert grid(fps=one, seed=one).to_dict("records") == [{"fps": 6, "seed": 6}]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({}, "the grid is empty"),
        ({"fps": []}, "values for fps"),
        ({"motion_bucket": [1]}, "unknown column 'motion_bucket'"),
    ],
)
def test_a_grid_that_cannot_be_made_is_refused(axes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        grid(**axes)


def test_one_value_is_one_value_however_a_table_holds_it() -> None:
    whole = condition_rows(pd.DataFrame({"fps": [7], "noise_aug_strength": [0], "num_frames": [8]}))
    for plan in (
        pd.DataFrame({"fps": [7.0], "noise_aug_strength": [0.0], "num_frames": [8.0]}),
        pd.DataFrame({"fps": np.array([7], "int16"), "noise_aug_strength": np.array([0], "float32"), "num_frames": [8]}),
        as_plan([{"fps": 7, "noise_aug_strength": 0.0, "num_frames": 8, "height": None, "guidance_curve": None}]),
    ):
        rows = condition_rows(plan)
        assert rows == whole and [type(v) for v in rows[0]] == [type(v) for v in whole[0]]


def test_what_a_plan_leaves_out_is_the_default() -> None:
    values = dict(zip(CONDITIONS, condition_rows(pd.DataFrame({"seed": [0]}))[0], strict=True))
    assert Conditions(**values) == Conditions()


def test_a_gap_in_a_nullable_column_is_the_default() -> None:
    plan = as_plan(pd.DataFrame({"seed": pd.array([3, None], "Int64"), "fps": pd.array([None, 12], "Int64")}))
    assert plan.seed.isna().tolist() == [False, True] and [row[0] for row in condition_rows(plan)] == [7, 12]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "yaml", "json"])
def test_a_plan_reads_back_from_a_file(tmp_path: Path, suffix: str) -> None:
    plan = pd.DataFrame(
        {"fps": [6, 12], "guidance_curve": ["linear", "[1.0, 2.0]"], "num_frames": [None, 2], "label_arm": ["a", "b"]}
    )
    path = tmp_path / f"plan.{suffix}"
    if suffix == "csv":
        plan.to_csv(path, index=False)
    elif suffix == "parquet":
        plan.to_parquet(path)
    else:
        path.write_text(plan.astype(object).where(plan.notna(), None).to_json(orient="records"))  # JSON is YAML too
    read = read_plan(path)
    assert condition_rows(read) == condition_rows(plan) and read.label_arm.tolist() == ["a", "b"]
    assert condition_rows(read)[1][CONDITIONS.index("guidance_curve")] == (1.0, 2.0)


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16")])
def test_plans_of_other_tools_and_large_seeds_are_read(tmp_path: Path, separator: str, encoding: str) -> None:
    lines = [["fps", "seed", "guidance_interval"], ["6", str(2**60 + 1), '"(0.1, 10)"'], ["12", "", ""]]
    (tmp_path / "plan.CSV").write_text("\r\n".join(map(separator.join, lines)), encoding=encoding)
    plan = read_plan(tmp_path / "plan.CSV")
    assert plan.seed.tolist() == [2**60 + 1, None] and plan.fps.tolist() == [6, 12]
    assert [row[CONDITIONS.index("guidance_interval")] for row in condition_rows(plan)] == [(0.1, 10.0), None]


def test_whole_numbers_beside_gaps_stay_whole_in_parquet(tmp_path: Path) -> None:
    pd.DataFrame({"seed": pd.array([2**60 + 1, None], "Int64"), "fps": [6, 12]}).to_parquet(tmp_path / "p.parquet")
    assert read_plan(tmp_path / "p.parquet").seed.tolist() == [2**60 + 1, None]


@pytest.mark.parametrize("text", ["guidance_interval: [0.1, 10]\n", "- {guidance_interval: [1e-1, 1e1]}\n"])
def test_a_list_in_yaml_is_an_interval(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    assert condition_rows(read_plan(tmp_path / "plan.yaml"))[0][CONDITIONS.index("guidance_interval")] == (0.1, 10.0)


def test_json_is_read_as_json(tmp_path: Path) -> None:
    """What YAML reads otherwise: escaped pairs, tabs, U+007F."""
    rows = [{"fps": 6, "image": "\U0001f600.png", "label_a": "a\x7fb", "guidance_interval": [0.1, 10]}]
    (tmp_path / "plan.json").write_text(json.dumps(rows, indent="\t"))
    assert read_plan(tmp_path / "plan.json").to_dict("records") == rows
    (tmp_path / "plan.json").write_text('{"fps": [6], "fps": [7]}')
    with pytest.raises(InputError, match="stands twice"):
        read_plan(tmp_path / "plan.json")


ODD_YAML = ("<<: {fps: [6]}\n", "fps: !!python/object/apply:os.system [true]\n", "? [a]\n: 1\n", "fps: !x 1\n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.yaml", None, "no plan"),
        ("plan.txt", "fps", "csv, .parquet"),
        ("grid.yaml", "fps: [6", "cannot be read"),
        ("grid.yaml", "just words", "no rows"),
        ("grid.yaml", "out: ../../etc\nfps: [6]", "unknown column 'out'"),
        ("plan.csv", "fps\n", "no rows"),
        ("plan.csv", "", "cannot be read"),
        ("plan.parquet", "not parquet", "cannot be read"),
        *(("odd.yaml", text, "cannot be read") for text in ODD_YAML),
        ("bomb.yaml", "a: &a [1, 1]\nfps: [*a, *a]\n", "aliases"),
        ("deep.yaml", "[" * 20_000, "deep"),
        ("twice.yaml", "fps: [6]\nfps: [7]\n", "stands twice"),
        ("large.yaml", "fps: [6]\n" + "#" * 2**20, "larger than"),
        ("short.csv", "fps,seed\n6\n", "row 2 has 1 cells"),
        ("twice.csv", "fps,fps\n6,7\n", "stands twice"),
        ("unnamed.csv", "fps,\n6,7\n", "unknown column ''"),
        ("index.csv", '""\n0\n1\n', "no column"),
        ("blank.csv", "fps;seed\n6;1\n;\n;\n", "row 3 has no value"),
        ("nul.csv", "fps\n6\0\n", "NUL"),
        ("value.csv", "fps\n0\n", "fps=0"),
        ("seed.csv", "seed\n-1\n", "seed=-1"),
        ("dict.yaml", "- {fps: {a: 1}}\n", "fps="),
        ("images.yaml", "- {image: [a.png, b.png]}\n", "a row has one image"),
        ("images.yaml", "image: {a: b.png}\n", "a row has one image"),
    ],
)
def test_hostile_and_broken_plans_are_refused_in_one_line(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said) as raised:
        read_plan(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_grid_has_an_end() -> None:
    for axes in (
        {"seed": itertools.count()},
        {"seed": range(10**30)},
        {"seed": range(10**4), "motion_bucket_id": range(10**4)},
    ):
        with pytest.raises(InputError, match="at most"):
            grid(**axes)


def test_words_are_numbers_only_where_they_look_like_them() -> None:
    assert parse_yaml("[1e-3, 12:30, 010, 1_000, -5, .5, 2024-01-31]") == [
        0.001,
        "12:30",
        "010",
        "1_000",
        -5,
        0.5,
        "2024-01-31",
    ]


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("p.TSV", "fps\tlabel_a\n6\tx\n", "utf-8"),
        ("p.tsv", "fps\tlabel_a\r\n6\tx\r\n", "utf-16"),
        ("p.csv", 'fps;label_a\n"6";"x"\n\n', "utf-8-sig"),
        ("p.csv", "fps,label_a,seed\n6,x,\n", "utf-8"),
        ("p.csv", 'fps, label_a, seed\n6, "x", 1\n', "utf-8"),
        ("p.csv", ",fps,label_a\n0,6,x\n", "utf-8"),
        ("p.csv", "fps;label_a;;\n6;x;;\n", "utf-8"),
    ],
)
def test_neighbours_of_other_tools_plans(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding=encoding, newline="")
    plan = read_plan(tmp_path / name)
    assert plan.fps.tolist() == [6] and plan.label_a.tolist() == ["x"]


def test_a_text_that_no_table_holds_is_named() -> None:
    for act in (lambda: grid(image=["a\udcff.png"]), lambda: as_plan([{"label_a": "\ud800"}])):
        with pytest.raises(InputError, match="no UTF-8"):
            act()


def test_a_condition_in_the_index_is_not_left_out(tmp_path: Path) -> None:
    plan = grid(fps=[6, 12], seed=[0, 1])
    plan.set_index("seed").to_parquet(tmp_path / "p.parquet")
    for odd in (plan.set_index("seed"), plan.set_index(["fps", "seed"]), tmp_path / "p.parquet"):
        with pytest.raises(InputError, match="seed is the plan's index"):
            as_plan(odd)
    assert as_plan(plan.set_index("fps", drop=False)).fps.tolist() == [6, 6, 12, 12]  # it is there as well


def test_every_column_of_a_csv_of_images_is_carried_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, plan = ["a.png", "~$a.png", "~nobody-here/a.png", "x" * 300], grid(fps=[6, 12], label_arm="b")
    rows = pd.DataFrame({"image": images, "年齢": list("1234"), "性別": list("abcd"), "in cm": "5"})
    rows.to_csv("images.csv")  # with its index
    (tmp_path / "~$a.png").touch()
    made, rest = across_images(plan, "images.csv")
    assert rest is None and made[made.fps == 6].image.tolist() == images and set(made["label_in_cm"]) == {"5"}
    assert (made["label_年齢"] + made["label_性別"]).tolist() == ["1a", "2b", "3c", "4d"] * 2
    for twice in (rows.assign(in_cm="6"), rows.assign(arm="6")):
        twice.to_csv("images.csv", index=False)
        with pytest.raises(InputError, match="stands twice"):
            across_images(plan, "images.csv")
    (tmp_path / "p.csv").write_text(f"image\n{'x' * 300}\n")
    assert read_plan("p.csv").image.tolist() == ["x" * 300]  # for whoever opens it to refuse


def test_a_newline_in_quotes_is_part_of_its_cell(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('fps,label_a\n6,"two\nlines, ""x"""\n12,b\n', newline="")
    plan = read_plan(tmp_path / "p.csv")
    assert plan.fps.tolist() == [6, 12] and plan.label_a.tolist() == ['two\nlines, "x"', "b"]
