"""A study holds whole runs or none, names what is damaged, and can always be read from its folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from svdlab.errors import InputError, OutputError
from svdlab.study import ledger

RUN_ID = "1" * 24
MODEL = {"weights": "f" * 64, "dtype": "float32", "versions": {"torch": "2"}, "intervention": None}
SOURCE = {"checkpoint": "organism", "label": "model organism, not SVD", "licence": "Apache-2.0"}


def record(n: int = 0, **more: Any) -> dict[str, Any]:
    """The record of a run, as plain as it gets."""
    conditions = {"fps": 7 + n, "guidance_curve": "linear"}
    return {
        "status": "done",
        "reason": "",
        "made": "2026-01-01",
        "svdlab": "1",
        "device": "cpu",
        "call": {"conditions": conditions, "seed": n, "image": "0" * 64, "source": SOURCE, "start": {}, "edits": []},
        "image_name": "cat",
        "model": MODEL,
        "seconds": {"denoising": 1.5},
        "measures": {"motion": {"identity": "1", "values": {"flow_px": n + 0.5, "camera": "static", "pan_px": None}}},
        "kept": None,
        **more,
    }


def write_run(out: Path, n: int = 0, **more: Any) -> Path:
    """Run n, with files whose content tells them apart."""
    with ledger.new_run(out, f"{n:024x}", record(n, **more)) as folder:
        (folder / ledger.FRAMES).write_bytes(b"frames %d" % n * 100)
        (folder / ledger.LATENTS).write_bytes(b"latents %d" % n * 100)
    return ledger.run_folder(out, f"{n:024x}")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return ledger.prepare(tmp_path / "study")


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case C6."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ledger.prepare("~/study") == ledger.existing("~/study") == tmp_path / "study"


def survey(out: Path, ids: Any = None) -> list[str]:
    return [run["run_id"] for run in ledger.survey(out, ids)]


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["../../etc", "A" * 24, "1" * 23, "", None])
def test_what_is_no_run_id_reaches_no_folder(run_id: Any, out: Path) -> None:
    with pytest.raises(InputError, match="no run id"):
        ledger.run_folder(out, run_id)


def test_a_folder_that_cannot_be_a_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written to"):
        ledger.prepare(tmp_path / "file")
    for act in (ledger.check, lambda p: ledger.export(p, tmp_path / "x")):
        with pytest.raises(InputError, match="no study"):
            act(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/runs").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out"):
        ledger.prepare(tmp_path / "other")


# --- writing ----------------------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_leaves_nothing(out: Path) -> None:
    with pytest.raises(ZeroDivisionError), ledger.new_run(out, RUN_ID, record()) as folder:
        (folder / ledger.FRAMES).write_bytes(b"half")
        _ = 1 / 0
    assert list((out / "runs").iterdir()) == []


def test_a_run_is_there_whole_and_making_it_again_replaces_it_whole(out: Path) -> None:
    folder = write_run(out, 0)
    found, wrong = ledger.inspect(folder)
    assert found["run_id"] == folder.name and found["files"][ledger.FRAMES]["bytes"] == 800 and wrong == {}
    (folder / "left-over").write_text("of the old one")
    with ledger.new_run(out, folder.name, record(0)) as new:
        (new / ledger.FRAMES).write_bytes(b"new")
    assert sorted(p.name for p in folder.iterdir()) == [ledger.FRAMES, ledger.RECORD]
    assert ledger.inspect(folder)[1] == {} and [p.name for p in (out / "runs").iterdir()] == [folder.name]


HOLD = """
import sys, time
from svdlab.study import ledger
lock = ledger.claim(*sys.argv[1:])
print(lock is not None, flush=True)
time.sleep(60)
"""


def test_a_claim_is_one_processs_until_it_dies(out: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out), RUN_ID], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        (out / "runs" / f".{RUN_ID}.aa.tmp").mkdir()
        ledger.prepare(out)
        taken = ledger.claim(out, RUN_ID) is not None
        cleared = not list((out / "runs").glob(".*.tmp"))
        other.kill()
        assert not taken and not cleared
    ledger.prepare(out)
    assert list((out / "runs").glob(".*.tmp")) == []
    lock = ledger.claim(out, RUN_ID)
    assert lock is not None and ledger.claim(out, RUN_ID) is None
    ledger.release(lock)
    assert list((out / "runs").iterdir()) == []


# --- reading ----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit in the middle: the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [ledger.FRAMES, ledger.LATENTS, ledger.RECORD])
@pytest.mark.parametrize("harm", [flip, lambda p: p.write_bytes(p.read_bytes()[:-7]), Path.unlink], ids=["bit", "cut", "gone"])
def test_damage_is_found_named_and_set_aside(out: Path, name: str, harm: Any) -> None:
    good, bad = write_run(out, 1), write_run(out, 2)
    harm(bad / name)
    found = ledger.check(out)
    assert found[["run_id", "file"]].to_numpy().tolist() == [[bad.name, name]] and found.problem[0]
    assert ledger.run_ids(out) == [good.name] and len(list((out / "damaged").iterdir())) == 1
    assert ledger.check(out).empty


def rewritten(**changes: Any) -> Any:
    """A record with other entries and the right hash: what another version, or another program, might have written."""

    def harm(folder: Path) -> None:
        found = {**ledger.read_record(folder), **changes}
        (folder / ledger.RECORD).write_text(ledger.record_text({k: v for k, v in found.items() if v is not ...}))

    return harm


def instead(make: Any) -> Any:
    """Something else in a run's place."""
    return lambda folder: (folder.rename(folder.parents[2] / "aside"), make(folder))


def text(content: str) -> Any:
    return lambda folder: (folder / ledger.RECORD).write_text(content)


ODD: list[dict[str, Any]] = [{"source": {}}, {"source": {**SOURCE, "label": 3}}, {"conditions": {"fps": "7"}}]
ODD += [{"sampler": ["euler"]}, {"seed": 2**64}, {"seed": -1}]


@pytest.mark.parametrize(
    "harm",
    [
        instead(lambda folder: folder.symlink_to(folder.parents[2] / "aside")),
        instead(lambda folder: folder.write_text("x")),
        instead(os.mkfifo),
        instead(lambda folder: (folder / ledger.RECORD).mkdir(parents=True)),
        instead(lambda folder: shutil.copytree(folder.with_name(f"{1:024x}"), folder)),  # another run's copy
        *map(text, ("{}", "[" * 100_000, "\0", '{"run_id": 7}', "[" + "0," * 2**24)),
        lambda folder: [p.unlink() for p in folder.iterdir()],  # an empty folder: an interrupted copy
        lambda folder: (folder / ledger.FRAMES).write_bytes(b"cut"),
        lambda folder: (folder / ledger.RECORD).write_text(ledger.record_text([])),
        lambda folder: (folder / ledger.RECORD).write_bytes(b"\xff\xfe"),
        rewritten(call=...),
        rewritten(call={"seed": 1}),
        rewritten(model={**MODEL, "weights": 3}),
        rewritten(model={**MODEL, "intervention": 3}),
        rewritten(made=...),
        rewritten(device=3),
        *(rewritten(call={**record()["call"], **odd}) for odd in ODD),
        rewritten(measures=[]),
        rewritten(measures={"motion": 1}),
        rewritten(files={"../../../etc/passwd": {"bytes": 1, "sha256": ""}}),
        rewritten(files={ledger.FRAMES: 1}),
        rewritten(run_id="3" * 24),
    ],
)
def test_whatever_cannot_be_read_is_a_damaged_run_that_is_named(out: Path, harm: Any) -> None:
    """Case D1 and its neighbours; files that are no runs by their names say nothing."""
    good, bad = write_run(out, 1), write_run(out, 2)
    for name in ("Thumbs.db", ".DS_Store", "A" * 24, f"{good.name} (copy)"):
        (out / "runs" / name).write_text("x")
    harm(bad)
    with pytest.warns(ledger.DamagedRunWarning, match=bad.name):
        assert survey(out) == [good.name]
    with pytest.warns(ledger.DamagedRunWarning):
        assert survey(out, [bad.name, "f" * 24]) == []
    assert ledger.check(out).run_id.tolist() == [bad.name]


def test_a_table_has_a_row_for_each_run_and_a_column_for_all_that_any_has(out: Path) -> None:
    ids = [write_run(out, n).name for n in range(4)]
    write_run(out, 4, measures={"mine": {"identity": "1", "values": {"mine": "x"}}}, seconds={})
    table = ledger.table(out, ledger.survey(out))
    assert table.flow_px.tolist()[:4] == [0.5, 1.5, 2.5, 3.5] and pd.isna(table.flow_px.iloc[4])
    assert table.mine.isna().tolist() == [True] * 4 + [False] and table.fps_id.tolist() == [6, 7, 8, 9, 10]
    assert set(table.weights) == {"f" * 12} and set(table.licence) == {"Apache-2.0"}
    assert table.frames[ids[0]] == str(out / "runs" / ids[0] / ledger.FRAMES) and set(table.trace) == {""}
    assert survey(out, ids[1:3]) == ids[1:3]


def test_a_colleague_can_read_an_export(out: Path, tmp_path: Path) -> None:
    for n in range(3):
        write_run(out, n)
    to = ledger.export(out, tmp_path / "for-you")
    table = pd.read_csv(to / "results.csv")
    assert table.flow_px.tolist() == [0.5, 1.5, 2.5] and set(table.label) == {"model organism, not SVD"}
    assert "model organism" in (to / "README.txt").read_text() and len(pd.read_parquet(to / "results.parquet")) == 3
    with pytest.raises(InputError, match="not empty"):
        ledger.export(out, to)


EXPORTS = "import sys; from svdlab.study import ledger; ledger.export(*sys.argv[1:])"


def test_an_export_is_utf8_and_plain_text_whatever_the_locale(out: Path, tmp_path: Path) -> None:
    call = record()["call"]
    write_run(out, call={**call, "source": {**SOURCE, "label": "\x1b[31m日本\x1b[0m"}})
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", EXPORTS, str(out), str(tmp_path / "to")], env=ascii_only, check=True)
    assert "日本" in (tmp_path / "to/results.csv").read_text(encoding="utf-8")
    readme = (tmp_path / "to/README.txt").read_text(encoding="utf-8")
    assert "generative model. 日本\n" in readme and "\x1b" not in readme
