"""A ledger holds whole runs or none, names what is damaged, and can always be read again from its folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError, OutputError
from svdlab.study import folders, ledger

LATENTS_ID = "1" * 24


def record(n: int = 0, **more: Any) -> dict[str, Any]:
    """The record of a run, as plain as it gets."""
    call = {"conditions": {"fps": 7 + n, "guidance_curve": "linear"}, "fps_id": 6 + n, "seed": n, "image": "0" * 64}
    return {
        "status": "done",
        "reason": "",
        "call": {**call, "weights": "f" * 64, "image_name": "cat", "intervention": None},
        "source": {"checkpoint": "organism", "label": "model organism, not SVD"},
        "seconds": {"denoising": 1.5},
        "measures": {"motion": {"version": "1", "values": {"flow_px": n + 0.5, "camera": "static", "pan_px": None}}},
        "kept": None,
        **more,
    }


def write_run(out: Path, n: int = 0, **more: Any) -> Path:
    """Run n, with files whose content tells them apart."""
    run_id = f"{n:024x}"
    with folders.new_run(out, f"{n + 1:024x}", run_id, record(n, **more)) as folder:
        (folder / folders.FRAMES).write_bytes(b"frames %d" % n * 100)
        (folder / folders.LATENTS).write_bytes(b"latents %d" % n * 100)
    return folders.run_folder(out, run_id)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return folders.prepare(tmp_path / "study")


def test_an_id_is_the_facts_and_nothing_else() -> None:
    facts = {"seed": 0, "conditions": {"fps": 7, "curve": [1.0, 2.5]}}
    same = {"conditions": {"curve": [1.0, 2.5], "fps": 7}, "seed": 0}
    assert folders.identify(facts) == folders.identify(same) and folders.ID.fullmatch(folders.identify(facts))
    others = [{**facts, "seed": 1}, {**facts, "conditions": {"fps": 7, "curve": [1.0, 2.5000001]}}, {**facts, "more": None}]
    assert len({folders.identify(f) for f in (facts, *others)}) == 4
    # sha256 of the text below, so that ids do not change under a user's feet from one version to the next
    assert folders.identify({"a": 1}) == "015abd7f5cc57a2dd94b7590"


@pytest.mark.parametrize("name", ["..", "../up", "/etc", "a/b", "a\\b", "", ".hidden", "a..b", "x" * 121, "nul\0", "~", None])
def test_a_name_that_is_a_path_is_refused(name: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name for a folder"):
        folders.safe_name(name)
    with pytest.raises(InputError):
        folders.inside(tmp_path, name)


def test_a_link_that_leads_out_is_refused(tmp_path: Path, out: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out"):
        folders.inside(out, "link", "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out"):
        folders.prepare(tmp_path / "other")


@pytest.mark.parametrize("run_id", ["../../etc", "A" * 24, "1" * 23, "", None])
def test_what_is_no_run_id_reaches_no_folder(run_id: Any, out: Path) -> None:
    with pytest.raises(InputError, match="no run id"):
        folders.run_folder(out, run_id)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written to"):
        folders.prepare(tmp_path / "file")
    with pytest.raises(OSError):
        folders.prepare(tmp_path / "file" / "study")


def test_a_run_is_there_whole_with_its_sizes_and_hashes(out: Path) -> None:
    folder = write_run(out, 3)
    said = folders.read_record(folder)
    assert said["run_id"] == folder.name and said["files"][folders.FRAMES]["bytes"] == 800
    assert folders.damage(folder) == {}
    assert sorted(p.name for p in (out / "runs").iterdir()) == [folder.name]  # no temporary folder, no lock


def test_an_error_in_the_middle_leaves_nothing(out: Path) -> None:
    with pytest.raises(ZeroDivisionError), folders.new_run(out, LATENTS_ID, "2" * 24, record()) as folder:
        (folder / folders.FRAMES).write_bytes(b"half")
        _ = 1 / 0
    assert list((out / "runs").iterdir()) == []


def test_making_a_run_again_replaces_it_whole(out: Path) -> None:
    folder = write_run(out, 0)
    (folder / "left-over").write_text("of the old one")
    with folders.new_run(out, LATENTS_ID, folder.name, record(0)) as new:
        (new / folders.FRAMES).write_bytes(b"new")
    assert sorted(p.name for p in folder.iterdir()) == [folders.FRAMES, folders.RECORD]
    assert folders.damage(folder) == {} and sorted(p.name for p in (out / "runs").iterdir()) == [folder.name]


def flip(path: Path) -> None:
    """One bit in the middle: the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [folders.FRAMES, folders.LATENTS, folders.RECORD])
@pytest.mark.parametrize("harm", [flip, lambda p: p.write_bytes(p.read_bytes()[:-7]), Path.unlink], ids=["bit", "cut", "gone"])
def test_damage_is_found_named_and_set_aside(out: Path, name: str, harm: Any) -> None:
    good, bad = write_run(out, 1), write_run(out, 2)
    harm(bad / name)
    found = ledger.check(out, set_aside=False)
    assert found[["run_id", "file"]].to_numpy().tolist() == [[bad.name, name]] and found.problem[0]
    with pytest.raises(OutputError):
        folders.read_file(out, bad.name, folders.FRAMES if name == folders.RECORD else name)
    assert folders.read_file(out, good.name, folders.FRAMES).read_bytes() == b"frames 1" * 100

    assert len(ledger.check(out)) == 1
    assert folders.run_ids(out) == [good.name] and len(list((out / "damaged").iterdir())) == 1
    assert ledger.check(out).empty


def test_a_survey_leaves_out_what_is_cut_off_and_says_so(out: Path) -> None:
    good, bad = write_run(out, 1), write_run(out, 2)
    assert len(ledger.survey(out)) == 2
    (bad / folders.FRAMES).write_bytes(b"cut")
    with pytest.warns(ledger.DamagedRunWarning, match=bad.name):
        assert list(ledger.survey(out).index) == [good.name]
    with pytest.warns(ledger.DamagedRunWarning):
        assert ledger.survey(out, [bad.name, "f" * 24]).empty


def test_a_run_that_is_a_link_is_not_followed(out: Path, tmp_path: Path) -> None:
    folder = write_run(out, 1)
    outside = tmp_path / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    assert "link" in ledger.check(out, set_aside=False).problem[0]


def test_the_index_says_what_the_folders_say(out: Path) -> None:
    for n in range(5):
        write_run(out, n)
    first = ledger.survey(out)
    assert first.flow_px.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5] and first.fps_id.tolist() == [6, 7, 8, 9, 10]
    pd.testing.assert_frame_equal(ledger.survey(out), first)  # from the index
    pd.testing.assert_frame_equal(ledger.rebuild(out), first)  # from the folders
    (out / ledger.INDEX).write_bytes(b"PAR1 is not enough")
    pd.testing.assert_frame_equal(ledger.survey(out), first)
    assert set(first.weights) == {"f" * 12}
    first.drop(columns="weights").to_parquet(out / ledger.INDEX)  # as svdlab wrote it before it knew of versions
    pd.testing.assert_frame_equal(ledger.survey(out), first)


def test_the_index_follows_a_record_that_was_amended(out: Path) -> None:
    folder = write_run(out, 1)
    ledger.survey(out)
    said = folders.read_record(folder)
    said["measures"]["mine"] = {"version": "a", "values": {"mine": 42}}
    folders.amend(folder, said)
    assert ledger.survey(out).mine.tolist() == [42] and folders.damage(folder) == {}


def test_only_the_runs_asked_for_are_given_and_the_index_keeps_the_others(out: Path) -> None:
    ids = [write_run(out, n).name for n in range(4)]
    assert list(ledger.survey(out, ids[:2]).index) == ids[:2]
    assert list(ledger.survey(out, ids[2:]).index) == ids[2:]
    assert sorted(pd.read_parquet(out / ledger.INDEX).index) == ids


HOLD = """
import sys, time
from svdlab.study import folders
lock = folders.claim(*sys.argv[1:])
print(lock is not None, flush=True)
time.sleep(60)
"""


def test_a_claim_is_one_processs_until_it_dies(out: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out), LATENTS_ID], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        (out / "runs" / f".{LATENTS_ID}.{'2' * 24}.aa.tmp").mkdir()
        folders.prepare(out)
        taken = folders.claim(out, LATENTS_ID) is not None
        cleared = not list((out / "runs").glob(".*.tmp"))
        other.kill()
        assert not taken and not cleared
    folders.prepare(out)
    assert list((out / "runs").glob(".*.tmp")) == []
    lock = folders.claim(out, LATENTS_ID)
    assert lock is not None and folders.claim(out, LATENTS_ID) is None
    folders.release(lock)
    assert list((out / "runs").iterdir()) == []


def test_a_colleague_can_read_an_export(out: Path, tmp_path: Path) -> None:
    for n in range(3):
        write_run(out, n)
    to = ledger.export(out, tmp_path / "for-you")
    table = pd.read_csv(to / "results.csv")
    assert table.flow_px.tolist() == [0.5, 1.5, 2.5] and set(table.label) == {"model organism, not SVD"}
    assert "model organism" in (to / "README.txt").read_text() and len(pd.read_parquet(to / "results.parquet")) == 3
    with pytest.raises(InputError, match="not empty"):
        ledger.export(out, to)


def test_what_is_no_ledger_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    for act in (ledger.check, ledger.rebuild, lambda p: ledger.export(p, tmp_path / "x")):
        with pytest.raises(InputError, match="no ledger"):
            act(tmp_path)


def test_a_record_is_json_that_anything_reads(out: Path) -> None:
    values = {"a": float("nan"), "b": float("inf"), "c": np.float32(0.5), "d": True, "e": "pan left"}
    plain = {k: ledger.plain(v) for k, v in values.items()}
    assert plain == {"a": None, "b": None, "c": 0.5, "d": True, "e": "pan left"} and type(plain["c"]) is float
    with pytest.raises(InputError, match="a measure gave"):
        ledger.plain([1, 2])
    folder = write_run(out, 0)

    def strict(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    json.loads((folder / folders.RECORD).read_text(), parse_constant=strict)


def test_runs_that_did_not_change_are_surveyed_without_reading_them_again(out: Path) -> None:
    ids = [write_run(out, n).name for n in range(40)]
    ledger.survey(out)
    for run_id in ids:  # a read of any record would now raise its warning: the stamp is what it was, the text is not
        path = folders.run_folder(out, run_id) / folders.RECORD
        before = path.stat()
        flip(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(ledger.survey(out)) == 40
    assert len(ledger.check(out, set_aside=False)) == 40
