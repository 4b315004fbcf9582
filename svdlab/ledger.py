"""The folder that holds runs: the truth on disk, whatever happens to the process that writes it.

    results/<study>/runs/<run id>/   run.json                what made the clip, and what was measured on it
                                     frames.mkv              8-bit frames, lossless (FFV1)
                                     preview.mp4             the same for a browser
                                     latents.safetensors     the final latents, "f c h w"
                                     trace.safetensors       where it was asked for
    results/<study>/index.parquet    a copy of all run.json as one table, rebuilt whenever it is missing or behind

A run is written to a temporary sibling, fsynced and renamed: it exists whole or not at all. `run.json` records the size
and the sha256 of every file, and its own. Sizes are checked whenever a sweep looks for what is missing; hashes on
reading and by `check`. Any number of processes may share a ledger: who makes a run holds its lock, which the
operating system takes back when the process dies.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from svdlab.errors import InputError, OutputError

FORMAT = 1
RECORD = "run.json"
INDEX = "index.parquet"
FRAMES, PREVIEW, LATENTS, TRACE = "frames.mkv", "preview.mp4", "latents.safetensors", "trace.safetensors"
FILES = {"frames": FRAMES, "preview": PREVIEW, "latents": LATENTS, "trace": TRACE}  # column of the table -> file
ID = re.compile(r"[0-9a-f]{24}")


class DamagedRunWarning(UserWarning):
    """A run whose files are not what its record says; it counts as missing, and the next sweep makes it again."""


# --- names and places -------------------------------------------------------------------------------------------------


def identify(facts: Mapping[str, Any]) -> str:
    """24 hex digits of the sha256 over plain values: equal facts, equal id, on every machine.

    >>> identify({"seed": 0, "fps": 7}) == identify({"fps": 7, "seed": 0})
    True
    """
    return hashlib.sha256(_canonical(facts).encode()).hexdigest()[:24]


def _canonical(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def safe_name(name: str) -> str:
    """The name, where it can name a folder and nothing else; InputError otherwise.

    >>> safe_name("../elsewhere")
    Traceback (most recent call last):
    svdlab.errors.InputError: '../elsewhere' is no name for a folder: letters, digits, '-', '_' and '.', ...
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", name) or ".." in name:
        raise InputError(
            f"{name!r} is no name for a folder: letters, digits, '-', '_' and '.', beginning with a letter or digit, "
            f"at most 120; no '..' and no path."
        )
    return name


def inside(folder: str | Path, *names: str) -> Path:
    """A path below a folder, symlinks followed; InputError where it would lead out of it."""
    path = Path(folder, *(safe_name(name) for name in names))
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(f"{path} leads out of {folder}, to {path.resolve()}: refused.")
    return path


def run_folder(out: str | Path, run_id: str) -> Path:
    """Where a run lives; InputError where the id is none."""
    if not isinstance(run_id, str) or not ID.fullmatch(run_id):
        raise InputError(f"{run_id!r} is no run id: they are 24 hex digits, as in the column run_id.")
    return Path(out) / "runs" / run_id


def prepare(out: str | Path) -> Path:
    """Make the ledger's folders, see that they can be written to, and clear what killed processes left behind."""
    runs = Path(out) / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        probe = runs / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"svdlab")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{out} cannot be written to: {error}. Give a folder that can, as out=.") from error
    if not runs.resolve().is_relative_to(Path(out).resolve()):
        raise InputError(f"{runs} leads out of {out}, to {runs.resolve()}: refused.")
    _clear_remains(out)
    return Path(out)


def _clear_remains(out: str | Path) -> None:
    """Temporary folders whose maker is gone: its lock can be had."""
    for remains in [*Path(out, "runs").glob(".*.tmp"), *Path(out, "runs").glob(".*.old")]:
        lock = claim(out, remains.name.split(".")[1])
        if lock:
            shutil.rmtree(remains, ignore_errors=True)
            release(lock)


# --- one maker for each run -------------------------------------------------------------------------------------------


def claim(out: str | Path, latents_id: str) -> FileLock | None:
    """The right to make the runs that share these latents, or None where another process (or thread) has it.

    The operating system frees it when the process ends, however it ends.
    """
    lock = FileLock(Path(out) / "runs" / f".{latents_id}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise OutputError(f"{lock.lock_file} cannot be locked: {error}") from error
    return lock


def release(lock: FileLock) -> None:
    """Give the right back. The file goes first, while it is held: whoever waits for it looks again at what is there."""
    with suppress(OSError):
        os.unlink(lock.lock_file)
    lock.release()


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def new_run(out: str | Path, latents_id: str, run_id: str, record: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder to fill with files and a record to fill in, published when the block ends without an error.

    >>> with new_run(out, latents_id, run_id, record) as folder:
    ...     write_frames(folder / FRAMES, frames)

    An earlier folder of the same id, damaged or poorer, is replaced. On an error nothing stays behind; what the disk
    refused is raised as OutputError.
    """
    target = run_folder(out, run_id)
    unique = uuid.uuid4().hex[:8]
    folder = target.with_name(f".{latents_id}.{run_id}.{unique}.tmp")
    old = target.with_name(f".{latents_id}.{run_id}.{unique}.old")
    try:
        folder.mkdir(parents=True)
        yield folder
        record["files"] = {p.name: {"bytes": p.stat().st_size, "sha256": hash_file(p)} for p in sorted(folder.iterdir())}
        for path in folder.iterdir():
            path.chmod(folder.stat().st_mode & 0o666)  # safetensors makes files that only their owner can read
            _fsync(path)
        _write_record(folder, {**record, "format": FORMAT, "run_id": run_id, "latents_id": latents_id})
        _fsync(folder)
        if target.exists():
            target.rename(old)
        folder.rename(target)
        _fsync(target.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(_disk_says(target, error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def amend(folder: Path, record: dict[str, Any]) -> None:
    """Write a run's record anew, whole or not at all: new measures on a clip that is there."""
    try:
        _write_record(folder, record)
        _fsync(folder)
    except OSError as error:
        raise OutputError(_disk_says(folder, error)) from error


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    content = {k: v for k, v in record.items() if k != "sha256"}
    content["sha256"] = hashlib.sha256(_canonical(content).encode()).hexdigest()
    temporary = folder / f".{RECORD}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")
        _fsync(temporary)
        os.replace(temporary, folder / RECORD)
    finally:
        temporary.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_says(target: Path, error: OSError) -> str:
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(target.parent).free / 1e6:.0f} MB free)"
    return (
        f"{target} could not be written: {error}{free}. Every run already in the ledger is whole; make room and start the "
        f"same sweep again, which goes on from here."
    )


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_record(folder: Path) -> dict[str, Any]:
    """A run's record, checked against its own hash. Raises OutputError where it is missing, cut off or altered."""
    try:
        record = json.loads((folder / RECORD).read_text())
        claimed = record.pop("sha256")
        own = hashlib.sha256(_canonical(record).encode()).hexdigest()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise OutputError(f"{folder / RECORD} cannot be read: {error}") from error
    if claimed != own or record.get("run_id") != folder.name:
        raise OutputError(f"{folder / RECORD} was altered: it does not match the hash in it.")
    return record


def damage(folder: Path, *, hashes: bool = True) -> dict[str, str]:
    """What is wrong with a run, file by file: {} for a whole one. hashes=False looks at presence and size only."""
    if folder.is_symlink():
        return {folder.name: f"is a link to {os.readlink(folder)}, which is not followed"}
    try:
        record = read_record(folder)
    except OutputError as error:
        return {RECORD: str(error)}
    wrong = {}
    for name, facts in record["files"].items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            wrong[name] = "is missing"
        elif path.stat().st_size != facts["bytes"]:
            wrong[name] = f"has {path.stat().st_size} bytes instead of {facts['bytes']}"
        elif hashes and hash_file(path) != facts["sha256"]:
            wrong[name] = "does not match its recorded sha256"
    return wrong


def read_file(out: str | Path, run_id: str, name: str) -> Path:
    """The path of one of a run's files, once its hash was checked. Raises OutputError where it is missing or altered."""
    folder = run_folder(out, run_id)
    record = read_record(folder)
    if name not in record["files"]:
        raise OutputError(f"run {run_id} has no {name}: it holds {', '.join(record['files']) or 'no files'}.")
    wrong = damage(folder)
    if name in wrong:
        raise OutputError(
            f"{folder / name} {wrong[name]}: `svdlab ledger check {out}` sets it aside, and the sweep makes it again."
        )
    return folder / name


def run_ids(out: str | Path) -> list[str]:
    """The ids of all run folders, whole or not."""
    try:
        return sorted(name for name in os.listdir(Path(out) / "runs") if ID.fullmatch(name))
    except OSError:
        return []


def survey(out: str | Path, ids: Iterable[str] | None = None) -> pd.DataFrame:
    """The whole runs, one row each, indexed by run_id: from the index where it is up to date, from run.json elsewhere.

    ids: look at these only (those that do not exist are left out). Presence and size of every file are checked, which
    takes a directory listing per run and no reading; what is damaged is named in a warning and left out.
    """
    table = _read_index(out)
    known = dict(zip(table.index, zip(table["_stat"], table["_files"], strict=True), strict=True)) if len(table) else {}
    parsed: dict[str, dict[str, int]] = {}
    current, fresh, broken = [], [], []
    for run_id in run_ids(out) if ids is None else dict.fromkeys(ids):
        found = _listing(run_folder(out, run_id))
        if found is None:
            continue
        stamp, sizes = found
        if run_id in known and known[run_id][0] == stamp:
            text = known[run_id][1]
            if text not in parsed:
                parsed[text] = json.loads(text)
            expected = parsed[text]
            if all(sizes.get(name) == size for name, size in expected.items()):
                current.append(run_id)
                continue
            broken.append(run_id)
            continue
        wrong = damage(run_folder(out, run_id), hashes=False)
        if wrong:
            broken.append(run_id)
        else:
            fresh.append({**_row(read_record(run_folder(out, run_id))), "_stat": stamp})
    if broken:
        warnings.warn(
            f"{len(broken)} damaged run(s) in {out}, to be made again: {', '.join(broken[:5])}",
            DamagedRunWarning,
            stacklevel=2,
        )
    rows = table if len(current) == len(table) else table.loc[current]
    if fresh:
        added = _table(fresh)
        rows = pd.concat([rows, added]) if len(rows) else added
        keep = table.loc[~table.index.isin(added.index)]
        _write_index(out, rows if ids is None else pd.concat([keep, added]) if len(keep) else added)
    elif ids is None and len(rows) != len(table):
        _write_index(out, rows)
    return rows


def state(record: dict[str, Any]) -> dict[str, Any]:
    """What must be known of a run to tell whether a sweep needs more of it: frames (has it any), kept (arguments of
    its trace), measures (name -> version), failed (names of measures that raised)."""
    measures = record["measures"]
    return {
        "frames": FRAMES in record["files"],
        "kept": record["kept"],
        "measures": {name: entry["version"] for name, entry in measures.items()},
        "failed": [name for name, entry in measures.items() if "error" in entry],
    }


def states(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`state` of each run in a survey, by id."""
    parsed = {text: json.loads(text) for text in table["_state"].unique()} if len(table) else {}
    return {run_id: parsed[text] for run_id, text in zip(table.index, table["_state"], strict=True)} if len(table) else {}


def donors(table: pd.DataFrame) -> dict[str, str]:
    """For each latents id of a survey, a run that has the latents."""
    if not len(table):
        return {}
    return {
        z: run for z, run, files in zip(table["latents_id"], table.index, table["_files"], strict=True) if LATENTS in files
    }


def _listing(folder: Path) -> tuple[str, dict[str, int]] | None:
    """What is in a run's folder: the record's size and time of change, and the size of every file; None for no folder."""
    sizes, stamp = {}, ""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                sizes[entry.name] = facts.st_size
                if entry.name == RECORD:
                    stamp = f"{facts.st_size}:{facts.st_mtime_ns}"
    except OSError:
        return None
    return stamp, sizes


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record as one flat row of plain values."""
    call, source = record["call"], record["source"]
    row = {
        "run_id": record["run_id"],
        "latents_id": record["latents_id"],
        "status": record["status"],
        "reason": record["reason"],
    }
    row |= {k: json.dumps(v) if isinstance(v, list) else v for k, v in call["conditions"].items()}
    row |= {"fps_id": call["fps_id"], "seed": call["seed"], "image": call["image_name"], "image_hash": call["image"]}
    row |= {"checkpoint": source["checkpoint"], "label": source["label"], "intervention": call["intervention"] or ""}
    row |= {f"seconds_{k}": v for k, v in record["seconds"].items()}
    for measured in record["measures"].values():
        row |= measured["values"]
    row["_files"] = json.dumps({k: v["bytes"] for k, v in record["files"].items()})
    row["_state"] = json.dumps(state(record))
    return row


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index("run_id")


def _read_index(out: str | Path) -> pd.DataFrame:
    """The index as it was last written; an empty table where it is missing, damaged or of another format."""
    try:
        table = pd.read_parquet(Path(out) / INDEX)
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors
        return pd.DataFrame()
    usable = table.index.name == "run_id" and {"_stat", "_files", "_state"} <= set(table.columns)
    return table if usable and table.index.is_unique else pd.DataFrame()


def _write_index(out: str | Path, table: pd.DataFrame) -> None:
    """Replace the index in one move. It is only a copy: where the disk refuses it, the runs are there all the same."""
    temporary = Path(out) / f".{INDEX}.{uuid.uuid4().hex[:8]}"
    try:
        table.to_parquet(temporary)
        os.replace(temporary, Path(out) / INDEX)
    except OSError as error:
        warnings.warn(f"{Path(out) / INDEX} could not be written ({error}); the runs themselves are whole.", stacklevel=3)
    finally:
        temporary.unlink(missing_ok=True)


# --- svdlab ledger check | rebuild | export ---------------------------------------------------------------------------


def check(out: str | Path, *, set_aside: bool = True) -> pd.DataFrame:
    """Every file of every run against its recorded hash: a row for each that is damaged, none where all is well.

    >>> check("results/study")
    Empty DataFrame
    Columns: [run_id, file, problem]

    set_aside: move damaged runs to `<out>/damaged/`, so that the next sweep makes them again; nothing is deleted.
    """
    existing(out)
    found = []
    for run_id in run_ids(out):
        folder = run_folder(out, run_id)
        wrong = damage(folder)
        found += [{"run_id": run_id, "file": name, "problem": problem} for name, problem in wrong.items()]
        if wrong and set_aside:
            place = Path(out) / "damaged"
            place.mkdir(exist_ok=True)
            os.rename(folder, place / f"{run_id}-{uuid.uuid4().hex[:8]}")
    return pd.DataFrame(found, columns=["run_id", "file", "problem"])


def rebuild(out: str | Path) -> pd.DataFrame:
    """Throw the index away and make it again from the folders."""
    existing(out)
    (Path(out) / INDEX).unlink(missing_ok=True)
    return survey(out)


def export(out: str | Path, to: str | Path) -> Path:
    """A folder for a colleague without svdlab: results.csv and .parquet, previews with telling names, and a README.

    Raises InputError where `to` already holds something else.
    """
    existing(out)
    table, to = public_table(out, survey(out)), Path(to)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} is there already and not empty: give a new folder.")
    try:
        (to / "previews").mkdir(parents=True)
        names = []
        for n, (run_id, row) in enumerate(table.iterrows()):
            name = f"previews/{n:05d}-{str(run_id)[:8]}.mp4"
            if row["preview"]:
                shutil.copyfile(row["preview"], to / name)
            names.append(name if row["preview"] else "")
        table = table.drop(columns=[c for c in FILES if c in table]).assign(preview=names)
        table.to_csv(to / "results.csv")
        table.to_parquet(to / "results.parquet")
        (to / "README.txt").write_text(_readme(out, table))
    except OSError as error:
        raise OutputError(f"{to} could not be written: {error}") from error
    return to


def _readme(out: str | Path, table: pd.DataFrame) -> str:
    labels = ", ".join(sorted(set(table["label"]) - {""})) if len(table) else ""
    return "\n".join(
        [
            f"{len(table)} clips from the study {Path(out).name}, made with svdlab. {labels}",
            "results.csv, results.parquet: one row for each clip, with its conditions, its seed and what was measured.",
            "previews/: the clips (H.264); the column `preview` names each row's file.",
            "fps is diffusers' argument; fps_id = fps - 1 is what the model saw; playback_fps is the player's.",
            f"Columns: {', '.join(table.columns)}",
            "",
        ]
    )


def public_table(out: str | Path, table: pd.DataFrame) -> pd.DataFrame:
    """The survey as users see it: the paths of each run's files instead of the columns that svdlab keeps for itself."""
    held = list(zip(table.index, table["_files"], strict=True)) if len(table) else []
    runs = os.path.join(str(out), "runs", "")
    paths = {
        column: [f"{runs}{run_id}{os.sep}{name}" if f'"{name}"' in files else "" for run_id, files in held]
        for column, name in FILES.items()
    }
    return table.drop(columns=[c for c in table if str(c).startswith("_")]).assign(**paths)


def plain(value: Any) -> Any:
    """A measured value as JSON holds it: numpy's numbers as Python's, NaN and infinities as null."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    raise InputError(f"a measure gave {type(value).__name__} {value!r}: give numbers, strings, truth values or None.")


def existing(out: str | Path) -> Path:
    """The ledger's path; InputError where there is none."""
    if not (Path(out) / "runs").is_dir():
        raise InputError(f"{out} is no ledger: it has no folder runs/. A sweep makes one.")
    return Path(out)
