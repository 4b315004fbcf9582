"""One run's folder: its name, who may make it, how it is written whole or not at all, and read with its hashes checked.

    >>> lock = claim(out, latents_id)
    >>> with new_run(out, latents_id, run_id, record) as folder:
    ...     write_frames(folder / FRAMES, frames)

`svdlab.ledger` looks at all of a study's folders together, and says what lies in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from svdlab.errors import InputError, OutputError

FORMAT = 1
RECORD = "run.json"
FRAMES, PREVIEW, LATENTS, TRACE = "frames.mkv", "preview.mp4", "latents.safetensors", "trace.safetensors"
ID = re.compile(r"[0-9a-f]{24}")


# --- names and places -------------------------------------------------------------------------------------------------


def identify(facts: Mapping[str, Any]) -> str:
    """24 hex digits of the sha256 over plain values: equal facts, equal id, on every machine.

    >>> identify({"seed": 0, "fps": 7}) == identify({"fps": 7, "seed": 0})
    True
    """
    return hashlib.sha256(_canonical(facts).encode()).hexdigest()[:24]


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


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
    return Path(out) / "runs" / check_id(run_id)


def check_id(run_id: str) -> str:
    """The id, where it is one; InputError otherwise, so that no path is made of anything else."""
    if not isinstance(run_id, str) or not ID.fullmatch(run_id):
        raise InputError(f"{run_id!r} is no run id: they are 24 hex digits, as in the column run_id.")
    return run_id


def changed(out: str | Path, run_id: str) -> float:
    """When a run was last written, in s since 1970; 0 for one that is not there."""
    try:
        return os.stat(os.path.join(out, "runs", run_id)).st_mtime
    except OSError:
        return 0.0


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
    clear_remains(out)
    return Path(out)


def clear_remains(out: str | Path) -> None:
    """Locks and temporary folders whose maker is gone: its lock can be had."""
    runs = Path(out, "runs")
    for latents_id in {p.name.split(".")[1] for kind in ("lock", "tmp", "old") for p in runs.glob(f".*.{kind}")}:
        lock = claim(out, latents_id)
        if lock:
            for remains in [*runs.glob(f".{latents_id}.*.tmp"), *runs.glob(f".{latents_id}.*.old")]:
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


def existing(out: str | Path) -> Path:
    """The ledger's path; InputError where there is none."""
    if not (Path(out) / "runs").is_dir():
        raise InputError(f"{out} is no ledger: it has no folder runs/. A sweep makes one.")
    return Path(out)
