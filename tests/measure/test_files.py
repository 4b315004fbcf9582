"""Files are written whole or not at all; hashes and plain values do not depend on what holds them."""

import csv
import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from svdlab.errors import InputError, OutputError
from svdlab.measure.files import csv_text, hash_facts, hash_file, plain, write_whole


def test_a_file_is_written_whole_under_its_own_suffix_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with write_whole(target) as part:
        assert part.name == "table.csv" and not target.exists()
        part.write_text("a,b")
    assert target.read_text() == "a,b" and os.listdir(target.parent) == ["table.csv"]


def test_what_fails_leaves_the_old_file_and_no_part(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), write_whole(target) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_the_part_is_private_and_follows_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link").symlink_to(victim)
    with write_whole(tmp_path / "link") as part:
        assert part.parent.stat().st_mode & 0o777 == 0o700
        part.write_text("new")
    assert victim.read_text() == "mine" and (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), write_whole(tmp_path / "file" / "x"):
        pass
    with pytest.raises(OutputError, match=r"x\.bin"), write_whole(tmp_path / "x.bin"):
        pass  # nothing was written


def test_hashes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert hash_file(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert hash_facts({"fps": 7, "seed": 0}) == hash_facts({"seed": np.int64(0), "fps": 7}) != hash_facts({"fps": 7})
    assert len(hash_facts({})) == 24 and int(hash_facts({}), 16)


def test_plain_values_survive_json():
    numbers = (
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
        np.array([1.0, np.nan]),
        pd.Series([1, 2]).iloc[0],
        np.float64("inf"),
    )
    cells = {"numbers": numbers, "torch": torch.tensor([1, 2]), "path": Path("a/b"), 1: None, "function": plain}
    assert plain(cells) == {
        "numbers": [0.5, 3, True, [1.0, None], 1, None],
        "torch": [1, 2],
        "path": "a/b",
        "1": None,
        "function": "plain",
    }
    assert json.loads(json.dumps(plain(cells))) == plain(cells)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 300, None, 7, Path("x") / ("y" * 256)])
def test_what_is_no_path_is_refused_before_anything_is_made(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: write_whole(path).__enter__(), lambda: hash_file(path)):
        with pytest.raises(InputError, match="path"):
            call()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "＝"])
@pytest.mark.parametrize("kind", [str, np.str_, Path, "category", "string"])
def test_no_text_of_a_csv_is_a_formula(start, kind):
    text = f"{start}cmd|' /C calc'!A0"
    values = [kind(text), kind("fine\r=x")] if callable(kind) else pd.Series([text, "fine\r=x"]).astype(kind)
    table = pd.DataFrame({"label": values, text: ["-1.5", None], "x": [-1.0, 2.0], "values": [[-1], [2]]})
    rows = list(csv.reader(io.StringIO(csv_text(table), newline="")))
    inert = f"'{text}".replace("\r", "\n")
    assert rows == [["label", inert, "x", "values"], [inert, "-1.5", "-1.0", "[-1]"], ["fine\n=x", "", "2.0", "[2]"]]
    assert text in table and str(table.label[0]) == text  # the table is as it was


@pytest.mark.parametrize("kind", ["link", "hard link", "link to nothing", "link to itself"])
def test_what_was_planted_at_a_files_name_is_replaced(kind: str, tmp_path: Path) -> None:
    """Case E4 and its neighbours: what it led to stays as it is."""
    secret, out = tmp_path / "secret", tmp_path / "out.html"
    secret.write_text("mine")
    if kind == "hard link":
        os.link(secret, out)
    else:
        out.symlink_to({"link": secret, "link to nothing": tmp_path / "no" / "x", "link to itself": out}[kind])
    with write_whole(out) as part:
        part.write_text("new")
    assert out.read_text() == "new" and not out.is_symlink() and secret.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "secret"]
