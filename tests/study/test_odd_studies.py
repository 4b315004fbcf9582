"""Studies that are renamed, read-only, empty, claimed by others or spoilt (cases D1 to D5, D7), and what a row may hold."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pytest
from packaging.version import Version

import svdlab
from svdlab import widgets
from svdlab.errors import InputError, OutputError
from svdlab.measure.reading import read_frames
from svdlab.study import ledger, notebooks, sweep, workers

ONE = {"num_inference_steps": 1, "num_frames": 2}


def make(pipe: Any, out: Path, *rows: dict[str, Any], **more: Any) -> pd.DataFrame:
    plan = [ONE | row for row in rows or ({},)]
    return svdlab.sweep(pipe, plan, out, image="scene-27", progress=False, **{"measure": (), "threads": 1, **more})


def moved_away(clip: Any, out: str) -> float:
    """A measure that renames the study, once."""
    if os.path.exists(out):
        os.rename(out, out + "-moved")
    return 0.0


def test_a_study_that_is_renamed_while_it_runs_is_an_error(pipe: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"
    with pytest.raises(OutputError, match="study"):
        make(pipe, out, {"seed": 0}, {"seed": 1}, measure=partial(moved_away, out=str(out)))


def deleted(clip: Any, out: str, part: str) -> float:
    """A measure that deletes the study, or a part of it, once."""
    shutil.rmtree(os.path.join(out, part), ignore_errors=True)
    return 0.0


@pytest.mark.parametrize("part", ["", "runs"])
def test_a_study_that_is_deleted_while_it_runs_is_said_to_be_gone(part: str, pipe: Any, tmp_path: Path) -> None:
    """Neighbours of case D2: no message about room on the disk."""
    out = tmp_path / "study"
    with pytest.raises(OutputError, match="was deleted or moved meanwhile") as raised:
        make(pipe, out, {"seed": 0}, {"seed": 1}, measure=partial(deleted, out=str(out), part=part))
    assert "make room" not in str(raised.value) and not (out / "runs").exists()


READS = """
import resource, signal, sys, warnings, svdlab
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # as on a read-only mount: nothing can be written
out, pipe = sys.argv[1], svdlab.load_pipeline()
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    plan = [{"num_inference_steps": 1, "num_frames": 2, "seed": 0}]
    table = svdlab.sweep(pipe, plan, out, image="scene-27", progress=False, measure=(), threads=1)
said = [str(w.message) for w in seen if "only read" in str(w.message)]
sys.stderr.write(f"{len(svdlab.load_results(out))} {table.status.tolist()} {len(said)}")
"""


MOUNTED = """
import sys, warnings, svdlab
from svdlab.errors import InputError, OutputError
from svdlab.study import ledger, notebooks
out, said = sys.argv[1], []
plan = [{"num_inference_steps": 1, "num_frames": 2, "seed": 0}]
how = dict(image="scene-27", progress=False, threads=1)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    pipe = svdlab.load_pipeline()
    assert svdlab.sweep(pipe, plan, out, measure=(), **how).status.tolist() == ["done"]
    assert len(svdlab.load_results(out)) == 1 and len(ledger.check(out)) == 1  # the damaged run
    assert sum("only read" in str(w.message) for w in seen) == 1
    assert sum("stays where it is" in str(w.message) for w in seen) == 1
for act in (
    lambda: svdlab.sweep(pipe, plan, out, measure="motion", **how),
    lambda: svdlab.sweep(pipe, [plan[0] | {"seed": 9}], out, measure=(), **how),
    lambda: svdlab.sweep(pipe, plan, out + "/new", measure=(), **how),
    lambda: ledger.export(out, out + "/export"),
    lambda: notebooks.report(out),
    lambda: notebooks.run("00-tour", out + "/notebook", progress=False),
):
    try:
        act()
    except OutputError as error:
        said.append("ritten" in str(error))
pipe.unet.register_forward_hook(lambda module, args, out: (0 * out[0],))
try:  # what is there is not the changed model's
    svdlab.sweep(pipe, plan, out, measure=(), **how)
except InputError as error:
    said.append("computes something else" in str(error))
sys.stderr.write(f"{sum(said)} refused")
"""
MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def test_a_study_on_a_read_only_mount_is_read_and_nothing_else_is_tried(pipe: Any, tmp_path: Path) -> None:
    """Case D4 and its neighbours, on a mount: measures, more rows, damaged runs, exports, reports and notebooks."""
    make(pipe, study := tmp_path / "study", {"seed": 0})
    (study / "runs" / ("0" * 24)).mkdir()
    command: list[Any] = ["unshare", "-m", "sh", "-c", MOUNT, "sh", study, sys.executable, "-c", MOUNTED, study]
    if subprocess.run(["unshare", "-m", "sh", "-c", MOUNT, "sh", study, "true"], capture_output=True).returncode:
        shutil.rmtree(study / "runs" / ("0" * 24))
        command = [sys.executable, "-c", READS, study]  # where this user may not mount
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.endswith(("7 refused", "1 ['done'] 1")), done.stderr[-2000:]


def test_a_lock_of_another_process_is_named_while_it_lasts(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make(pipe, tmp_path / "study")
    (tmp_path / "study" / "runs" / table.run_id[0]).rename(tmp_path / "aside")
    lock = ledger.claim(tmp_path / "study", table.run_id[0])
    assert lock is not None
    monkeypatch.setattr(workers, "PATIENCE", 0.4)
    real, asked = ledger.claim, []

    def claim(*args: Any) -> Any:
        asked.append(args)
        if len(asked) == 2:  # the first looks for remains; however slow this machine is
            threading.Timer(2, ledger.release, (lock,)).start()
        return real(*args)

    monkeypatch.setattr(ledger, "claim", claim)
    with pytest.warns(UserWarning, match=r"waiting for 1 run\(s\) that other processes have claimed .*\.lock"):
        assert make(pipe, tmp_path / "study").status.tolist() == ["done"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_at_once(number: int, pipe: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=r"\.lock cannot be locked.*on another disk"):
        make(pipe, tmp_path / "study")


@pytest.mark.parametrize("kind", ["file", "read-only file", "pipe", "folder", "link"])
def test_a_lock_that_nobody_holds_stops_nobody_and_one_that_is_none_is_named(kind: str, pipe: Any, tmp_path: Path) -> None:
    """Neighbours of case D5: what another node's dead process, or an attacker, left at a lock's place."""
    run = tmp_path / "study" / "runs" / make(pipe, tmp_path / "study").run_id[0]
    shutil.rmtree(run)
    lock = run.with_name(f".{run.name}.lock")
    if kind == "folder":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text("4711\nanother-node")
        lock.chmod(0o400 if kind == "read-only file" else 0o600)
    # filelock before 4.2.1 empties what it locks, which a pipe refuses.
    emptied = kind == "pipe" and Version(filelock.__version__) < Version("4.2.1")
    if kind in ("folder", "link") or emptied:
        with pytest.raises(OutputError, match="It is no lock: delete it"):
            make(pipe, tmp_path / "study")
    else:
        assert make(pipe, tmp_path / "study").status.tolist() == ["done"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["12:30", "study:1/a", "http:x", "-y %03d", "~/study"])
def test_no_name_of_a_study_is_a_protocol_an_option_or_another_folder(
    name: str, pipe: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Cases C6 and C7: relative, as it is typed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    table = make(pipe, name)  # type: ignore[arg-type]
    folder = tmp_path / ("home/study" if name[0] == "~" else f"here/{name}")
    assert len(read_frames(table.preview[0])) == 2 and Path(table.preview[0]).is_relative_to(folder)
    assert ledger.check(name).empty and svdlab.load_results(name).run_id.tolist() == table.run_id.tolist()
    assert not (tmp_path / "here" / "~").exists()


def test_a_study_without_runs_has_all_columns(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "study" / "runs").mkdir(parents=True)
    empty = svdlab.load_results(tmp_path / "study")
    assert sweep.missing(pipe, [ONE], tmp_path / "study", image="scene-27") == 1  # neighbours of case D7
    assert ledger.check(tmp_path / "study").empty
    assert pd.read_csv(ledger.export(tmp_path / "study", tmp_path / "out") / "results.csv").empty
    for act in (widgets.explore, notebooks.report):
        with pytest.raises(InputError, match=r"0 row\(s\)|nothing to report"):
            act(tmp_path / "study")
    full = make(pipe, tmp_path / "study")
    assert len(empty) == 0 and {c for c in full if not c.startswith("seconds_")} <= {*empty}


def test_a_seed_keeps_every_digit(pipe: Any, tmp_path: Path) -> None:
    seed = 2**53 + 1
    table = make(pipe, tmp_path / "study", {"seed": seed}, {"seed": 2**63 - 1})
    assert table.seed.tolist() == svdlab.load_results(tmp_path / "study").set_index("run_id").seed[table.run_id].tolist()
    assert table.seed.tolist() == [seed, 2**63 - 1]
    ledger.export(tmp_path / "study", tmp_path / "out")
    for read, name in ((pd.read_csv, "results.csv"), (pd.read_parquet, "results.parquet")):
        assert sorted(read(tmp_path / "out" / name).seed) == [seed, 2**63 - 1]


def test_a_run_that_is_a_link_is_made_again_and_what_it_points_to_stays(pipe: Any, tmp_path: Path) -> None:
    run = tmp_path / "study" / "runs" / make(pipe, tmp_path / "study").run_id[0]
    run.rename(tmp_path / "elsewhere")
    run.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(ledger.DamagedRunWarning):
        assert make(pipe, tmp_path / "study").status.tolist() == ["done"]
    assert not run.is_symlink() and (tmp_path / "elsewhere" / "run.json").exists()
    assert os.listdir(run.parent) == [run.name]


KINDS = {"a": 1, "text": "b", "list": [1, 2], "nested": [[1], 2], "surrogate": "\ud800", "huge": 2**62}
LEFT = list(KINDS)


def another(clip: Any) -> Any:
    """A measure whose values are of another kind for each clip."""
    return KINDS[LEFT.pop(0)]


def test_values_of_several_kinds_are_read_shown_and_exported(pipe: Any, tmp_path: Path) -> None:
    """Neighbours of cases D1 and E6: no ArrowTypeError, no UnicodeEncodeError, in whatever a measure filed."""
    LEFT[:] = list(KINDS)
    make(pipe, tmp_path / "study", *({"seed": seed} for seed in range(len(KINDS))), measure=another)
    found = svdlab.load_results(tmp_path / "study").sort_values("seed")["another"].tolist()
    assert found == [*list(KINDS.values())[:4], "\ufffd", 2**62]
    ledger.export(tmp_path / "study", tmp_path / "out")
    assert {'"b"', "b"} & {*pd.read_parquet(tmp_path / "out" / "results.parquet")["another"]}
    assert notebooks.report(tmp_path / "study").is_file()


def test_names_that_are_no_utf8(pipe: Any, tmp_path: Path) -> None:
    image = Path(os.fsdecode(bytes(tmp_path / "a") + b"\xff.png"))
    svdlab.sample_image("scene-27").save(image)
    svdlab.sweep(pipe, [ONE], tmp_path / "study", image=image, measure=(), progress=False)
    assert Path(svdlab.load_results(tmp_path / "study").image[0]).name == "a\ufffd.png"
    with pytest.raises(InputError, match="no UTF-8"):
        make(pipe, Path(os.fsdecode(bytes(tmp_path / "b") + b"\xff")))


def test_what_is_exported_names_no_folder_and_holds_no_formula(pipe: Any, tmp_path: Path) -> None:
    image = tmp_path / "=cmd.png"
    svdlab.sample_image("scene-27").save(image)
    svdlab.sweep(pipe, [ONE | {"label_note": "=1+1"}], tmp_path / "study", image=image, measure=(), progress=False)
    ledger.export(tmp_path / "study", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    assert ",=cmd" not in (tmp_path / "out" / "results.csv").read_text()
